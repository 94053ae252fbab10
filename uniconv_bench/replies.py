"""What a server's reply says beside its content: whether to ask again and when, and which bytes
these are.

Headers are taken for text of unknown origin. Knows nothing of what is asked, or of how patiently.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that may be another one soon."""


class AgainError(Exception):
    """A failure that another try may not meet.

    Args:
        reason: for a person.
        wait: seconds after which the server wants to be asked again; None: it says nothing.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number or a date; None: it says neither."""
    from email.utils import parsedate_to_datetime

    if value is None:
        return None
    if (seconds := _number(value.strip())) is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def extent(reply: requests.Response) -> tuple[int | None, int | None]:
    """(first byte of this reply, bytes of the whole file), as far as the server says so."""
    if reply.status_code == 206:
        found = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)",
            reply.headers.get("Content-Range", "").strip(),
        )
        if not found:
            return None, None
        return int(found[1]), _number(found[2])  # `*` is none
    return 0, _number(reply.headers.get("Content-Length", ""))


def _number(text: str) -> int | None:
    """What a header counts; None if that is no number, or none that anything here could reach."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
