"""Whether this process may connect to anything.

Every door of this program asks here first; those of libraries that fetch by themselves, as the
hub's, are closed by variables of their own, which the command line sets.
"""

from __future__ import annotations

import os

from uniconv_bench.errors import UserError

OFFLINE = "UNICONV_BENCH_OFFLINE"
LIBRARIES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What the libraries read, once, when they are imported."""


def is_offline() -> bool:
    """Whether `--offline` was given, or the environment variable is set to more than 0."""
    return os.environ.get(OFFLINE, "").strip() not in ("", "0")


def go_offline() -> None:
    """From now on, here and in processes that this one starts."""
    for name in (OFFLINE, *LIBRARIES):
        os.environ[name] = "1"


def require_network(what: str, where: str) -> None:
    """Refuses what needs a connection.

    Args:
        what: it is.
        where: the address.

    Raises:
        UserError: this process is offline.
    """
    if is_offline():
        mend = f"leave out --offline, or unset {OFFLINE}"
        raise UserError(f"offline: {what} would need a connection", where=where, mend=mend)
