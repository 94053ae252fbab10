"""A folder served on this machine alone. Knows nothing of what is in it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from uniconv_bench.errors import UserError

LOOPBACK = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Not a line a request."""


def serve(folder: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serves a folder until it is interrupted.

    Args:
        folder: with an `index.html`.
        port: on the loopback address; 0: any that is free.
        ready: told the address once it answers.

    Raises:
        UserError: there is no page in the folder, or the port is taken.
    """
    if not (folder / "index.html").is_file():
        mend = f"uniconv-bench leaderboard build --site {shlex.quote(str(folder))}"
        raise UserError("no site in this folder", where=folder, mend=mend)
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        mend = "name another --port, or leave it out"
        raise UserError(f"port {port}: {error.strerror}", mend=mend) from error
    with server, suppress(KeyboardInterrupt):
        ready(f"http://{LOOPBACK}:{server.server_port}/")
        server.serve_forever()
