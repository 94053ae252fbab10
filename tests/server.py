"""A real HTTP server on loopback whose answers a test scripts: drops, lies, redirects, errors."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Serves `files` with ranges and ETags, unless the script of a path has another answer left."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self.server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        script = self.server.scripts.get(self.path, [])
        body = self.server.files.get(self.path)
        if script:
            script.pop(0)(self, body or b"")
        elif body is None:
            self.send_error(404)
        else:
            serve(self, body)

    def start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    """The server, what it serves, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.scripts: dict[str, list[Fault]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.posted: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, address: object) -> None:
        pass  # a client that hangs up is part of a test

    def asked(self, header: str) -> list[str | None]:
        """A header of every request so far."""
        return [headers.get(header) for _, headers in self.seen]


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def wanted(handler: Handler, body: bytes) -> int | None:
    """First byte that the client asks for; None: it asks for all, or for another version."""
    asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    if asked is None or (condition is not None and condition != etag(body)):
        return None
    return int(asked.removeprefix("bytes=").rstrip("-"))


def serve(handler: Handler, body: bytes, *, stop: int | None = None, **headers: object) -> None:
    """As a good server does; with `stop` it hangs up after so many bytes of its answer."""
    first = wanted(handler, body)
    if first is not None and first >= len(body):
        handler.start(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        return
    status, rest = (200, body) if first is None else (206, body[first:])
    if first is not None:
        headers["Content_Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    handler.start(status, ETag=etag(body), Content_Length=len(rest), **headers)
    handler.wfile.write(rest[:stop])
    handler.close_connection = handler.close_connection or stop is not None


def drop(after: int) -> Fault:
    """Hangs up after so many bytes."""
    return lambda handler, body: serve(handler, body, stop=after)


def no_ranges(stop: int | None = None) -> Fault:
    """Always begins at the first byte."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.start(200, ETag=etag(body), Content_Length=len(body))
        handler.wfile.write(body[:stop])
        handler.close_connection = handler.close_connection or stop is not None

    return fault


def status(code: int, **headers: object) -> Fault:
    """An error without a body."""
    return lambda handler, body: handler.start(code, Content_Length=0, **headers)


def instead(other: bytes, **headers: object) -> Fault:
    """Other bytes, with everything else right."""
    return lambda handler, body: serve(handler, other, **headers)


def redirect(to: str) -> Fault:
    return status(302, Location=to)


def chunked(stop: int | None = None) -> Fault:
    """Without saying how long it is; with `stop` it hangs up before the end."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.start(200, ETag=etag(body), Transfer_Encoding="chunked")
        for start in range(0, len(body[:stop]), 1000):
            piece = body[:stop][start : start + 1000]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if stop is None:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return fault


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
