"""Targets: what servers answer, and the archives that come from them."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import requests
import urllib3
from fuzz.mutations import any_bytes, columns, json_file, json_lines
from fuzz.target import Target, of_file

from uniconv_bench.chatserver import Server
from uniconv_bench.download import Patience, download, memo_of
from uniconv_bench.progress import Silent
from uniconv_bench.system_cards import EndpointGenerator
from uniconv_bench.unpack import unpack

STATUSES = ("200", "206", "301", "401", "404", "416", "429", "500", "503")


def servers() -> Iterator[Target]:
    """Answers of an endpoint and of a source of raw files: status, headers, body."""
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    whole = {"model": "m", "choices": [{"message": {"content": " A lamp. "}}], "usage": usage}
    piece = {"model": "m", "choices": [{"delta": {"content": "A lamp."}}]}
    kinds: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "answer": (whole, lambda server: server.answer({}, Silent())),
        "models": ({"data": [{"id": "m", "root": "org/m"}]}, lambda server: server.model),
        "stream": (piece, lambda server: list(server.pieces({}, Silent()))),
    }
    for name, (value, ask) in kinds.items():
        body = json.dumps(value)
        body = f"data: {body}\n\ndata: [DONE]\n\n" if name == "stream" else body
        sound = f"200\n\n{body}".encode()
        refused = f"400\n\n{json.dumps({'error': {'message': 'too long'}})}".encode()
        yield of_file(
            f"server/endpoint-{name}", partial(_asked, ask), _body, sound, refused, share=2
        )
    headers = 'Content-Length: 5\nETag: "x"\nRetry-After: 1\nContent-Range: bytes 0-4/5'
    date = "429\nRetry-After: Mon, 23 Nov 2026 10:00:00 GMT\n\n"
    seeds = [f"200\n{headers}\n\nhello".encode(), f"206\n{headers}\n\nhello".encode()]
    yield of_file("server/download", _downloaded, columns, *seeds, date.encode())


def _body(content: bytes, random: Random) -> bytes:
    """A reply with another body, now and then with other headers."""
    head, gap, body = content.partition(b"\n\n")
    if random.random() < 0.1:
        return columns(head, random) + gap + body
    return head + gap + (json_lines if body.startswith(b"data: ") else json_file)(body, random)


def _reply(content: bytes) -> requests.Response:
    head, _, body = content.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    reply = requests.Response()
    reply.status_code = int(status) if status in STATUSES else 400
    for line in lines:
        name, _, value = line.partition(": ")
        reply.headers[name] = value
    reply.raw = urllib3.HTTPResponse(io.BytesIO(body), preload_content=False)
    return reply


def _asked(ask: Callable[[Any], object], path: Path) -> None:
    card = EndpointGenerator(kind="endpoint", url="http://localhost/v1", model="m", tries=1)
    with mock.patch("requests.request", lambda *_, **__: _reply(path.read_bytes())):
        ask(Server(card))


def _downloaded(path: Path) -> None:
    part = path.with_name("part")
    for left in (part, memo_of(part)):
        left.unlink(missing_ok=True)
    with mock.patch("requests.Session.get", lambda *_, **__: _reply(path.read_bytes())):
        download(
            "http://localhost/x",
            part,
            size=None,
            checksum=None,
            by_hand="get it by hand",
            progress=Silent(),
            patience=Patience(tries=2, pause=lambda _: None),
        )


def archives() -> Iterator[Target]:
    """Archives as they are downloaded; a tar file's own bytes, too."""
    plain = b"one\ntwo\n" * 20
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("a/b.txt", plain)
        box.writestr("c.txt", plain)
    with tarfile.open(fileobj=tarred, mode="w") as pack:
        for name in ("a/b.txt", "c.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(plain)
            pack.addfile(info, io.BytesIO(plain))
    packed = gzip.compress(tarred.getvalue())
    kinds = {"gzip": gzip.compress(plain), "zip": zipped.getvalue(), "tar.gz": packed}
    for kind, content in kinds.items():
        yield of_file(f"archive/{kind}", partial(_unpacked, kind), any_bytes, content, share=0.3)
    yield of_file("archive/tar", _tarred, any_bytes, tarred.getvalue(), share=0.3)


def _unpacked(kind: Any, path: Path) -> None:
    folder = path.with_name("unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    unpack(path, kind, folder, "label", Silent())


def _tarred(path: Path) -> None:
    packed = path.with_name("packed")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    _unpacked("tar.gz", packed)
