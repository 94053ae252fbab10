"""One file over HTTP, from a server that drops, lies, redirects and is not always there."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from server import (
    Handler,
    Server,
    chunked,
    drop,
    etag,
    instead,
    no_ranges,
    redirect,
    serving,
    status,
)

from uniconv_bench import download as module
from uniconv_bench.download import Patience, download, memo_of
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.replies import retry_after

BODY = random.Random(7).randbytes(50_000)
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
NAME = "/data/file.json"


class Heard(Silent):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        one.files[NAME] = BODY
        yield one


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def get(server: Server, tmp_path: Path, pauses: list[float]) -> Callable[..., dict[str, Any]]:
    def get(**options: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "size": None,
            "checksum": None,
            "by_hand": "get it by hand",
            "progress": Silent(),
        }
        limits = {"tries": 4, "read": 5.0, **options.pop("patience", {})}
        patience = Patience(pause=pauses.append, **limits)
        url = options.pop("url", server.url + NAME)
        return download(url, tmp_path / "part", patience=patience, **{**given, **options})

    return get


Get = Callable[..., dict[str, Any]]


def fails(get: Get, told: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        get(**options)
    line = str(caught.value)
    assert "\n" not in line and re.search(told, line), line
    return line


def test_a_good_server(get: Get, server: Server, tmp_path: Path, pauses: list[float]) -> None:
    facts = get(checksum=MD5, size=len(BODY))
    assert (tmp_path / "part").read_bytes() == BODY
    sha256 = hashlib.sha256(BODY).hexdigest()
    assert facts == {
        "bytes": len(BODY),
        "sha256": sha256,
        "etag": etag(BODY),
        "last_modified": None,
    }
    assert len(server.seen) == 1 and pauses == []
    assert get(checksum=f"sha256:{sha256}") == facts  # all there: the server is not asked
    assert len(server.seen) == 1


def test_dropped_connections_are_continued(
    get: Get, server: Server, tmp_path: Path, pauses: list[float]
) -> None:
    server.scripts[NAME] = [drop(20_000), drop(0), drop(5_000)]
    get(checksum=MD5)
    assert (tmp_path / "part").read_bytes() == BODY
    ranges = [None, "bytes=20000-", "bytes=20000-", "bytes=25000-"]
    assert server.asked("Range") == ranges
    assert server.asked("If-Range") == [None, *[etag(BODY)] * 3]
    assert pauses == [1, 2, 1]  # new bytes renew the patience


def test_a_later_process_goes_on(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [drop(30_000)]
    line = fails(get, "the connection broke", patience={"tries": 1})
    assert "go on from 30,000 of 50,000 bytes, or get it by hand" in line
    assert server.url + NAME in line
    get()
    assert server.asked("Range")[-1] == "bytes=30000-"
    assert (tmp_path / "part").read_bytes() == BODY


def test_new_bytes_renew_patience_without_end(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [drop(2_000) for _ in range(20)]
    get(patience={"tries": 2})
    assert (tmp_path / "part").read_bytes() == BODY


def test_the_same_bytes_again_do_not(get: Get, server: Server, pauses: list[float]) -> None:
    server.scripts[NAME] = [no_ranges(stop=20_000) for _ in range(20)]
    fails(get, "the connection broke")
    assert len(server.seen) == 4 and pauses == [1, 2, 4]


def test_a_server_without_ranges_starts_again(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [no_ranges(stop=20_000), no_ranges()]
    heard = Heard()
    get(progress=heard)
    assert (tmp_path / "part").read_bytes() == BODY
    assert any("starts from the first byte again" in note for note in heard.notes)


def test_a_file_that_changed_is_fetched_whole(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [drop(20_000)]
    fails(get, "broke", patience={"tries": 1})
    server.files[NAME] = new = BODY[::-1]
    get()
    assert (tmp_path / "part").read_bytes() == new


def part_of(other: bytes, first: int | None = None) -> Callable[[Handler, bytes], None]:
    """Answers a range without looking at If-Range, from another byte if told so."""

    def fault(handler: Handler, body: bytes) -> None:
        asked = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        start = asked if first is None else first
        said = f"bytes {start}-{len(other) - 1}/{len(other)}"
        rest = other[start:]
        handler.start(206, ETag=etag(other), Content_Length=len(rest), Content_Range=said)
        handler.wfile.write(rest)

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        part_of(BODY[::-1]),  # the same length, another ETag
        part_of(BODY[:-1]),
        part_of(BODY, first=10_000),
        status(206),
        status(416),
    ],
)
def test_a_range_of_something_else_is_not_appended(
    fault: Any, get: Get, server: Server, tmp_path: Path
) -> None:
    server.scripts[NAME] = [drop(20_000), fault]
    get()
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=20000-", None]


def test_without_a_validator_nothing_is_continued(get: Get, server: Server, tmp_path: Path) -> None:
    def nameless(handler: Handler, body: bytes) -> None:
        handler.start(200, Content_Length=len(body))
        handler.wfile.write(body[:20_000])
        handler.close_connection = True

    server.scripts[NAME] = [nameless]
    get()
    assert server.asked("Range") == [None, None]
    (tmp_path / "part").unlink()
    server.scripts[NAME] = [nameless]
    get(checksum=MD5)  # with a checksum a mixture would be found
    assert server.asked("Range")[2:] == [None, "bytes=20000-"]
    assert (tmp_path / "part").read_bytes() == BODY


def test_wrong_bytes_are_refused_and_dropped(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [instead(BODY[::-1])]
    wrong = hashlib.md5(BODY[::-1]).hexdigest()
    line = fails(get, "wrong checksum", checksum=MD5)
    assert f"md5:{wrong} instead of {MD5}" in line and line.endswith("or get it by hand")
    assert list(tmp_path.iterdir()) == []
    get(checksum=MD5)
    assert (tmp_path / "part").read_bytes() == BODY


def test_rotten_beginning_is_fetched_anew(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [drop(20_000)]
    fails(get, "broke", patience={"tries": 1})
    part = tmp_path / "part"
    part.write_bytes(bytes(10) + part.read_bytes()[10:])
    get(checksum=MD5)
    assert part.read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=20000-", None]


def test_busy_servers_are_waited_for(get: Get, server: Server, pauses: list[float]) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.scripts[NAME] = [
        status(503, Retry_After=7),
        status(429, Retry_After=soon),
        status(500),
    ]
    heard = Heard()
    get(checksum=MD5, progress=heard)
    assert pauses[0] == 7 and 20 < pauses[1] <= 30 and pauses[2] == 4
    assert heard.notes[0] == "  file.json: the server answers 503; again in 7 s"


def test_it_gives_up(get: Get, server: Server, pauses: list[float]) -> None:
    server.scripts[NAME] = [status(503) for _ in range(9)]
    fails(get, "download failed: the server answers 503 .*run the same command again later")
    assert pauses == [1, 2, 4] and len(server.seen) == 4


def test_it_does_not_wait_for_hours(get: Get, server: Server, pauses: list[float]) -> None:
    server.scripts[NAME] = [status(429, Retry_After=7200)]
    fails(get, "answers 429, and asks to wait 7200 s")
    assert pauses == []


def test_a_server_that_falls_silent(get: Get, server: Server, tmp_path: Path) -> None:
    end = threading.Event()

    def silent(handler: Handler, body: bytes) -> None:
        handler.start(200, ETag=etag(body), Content_Length=len(body))
        handler.wfile.write(body[:20_000])
        end.wait(5)
        handler.close_connection = True

    server.scripts[NAME] = [silent]
    heard = Heard()
    get(progress=heard, patience={"read": 0.2})
    end.set()
    assert (tmp_path / "part").read_bytes() == BODY
    assert "the server is silent" in heard.notes[0]


def test_no_server_at_all(get: Get, server: Server, pauses: list[float]) -> None:
    with serving() as gone:
        url = gone.url + NAME
    line = fails(get, "no connection", url=url)
    assert pauses == [1, 2, 4] and "Errno" not in line and "object at" not in line


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status(404), "the server answers 404"),
        (status(403), "the server answers 403"),
        (instead(b"<html>log in</html>", Content_Type="text/html; charset=utf-8"), "a web page"),
        (instead(BODY + b"more"), "it has 50,004 bytes, and the card says 50,000"),
    ],
)
def test_what_another_try_will_not_mend(
    fault: Any, told: str, get: Get, server: Server, tmp_path: Path, pauses: list[float]
) -> None:
    server.scripts[NAME] = [fault]
    line = fails(get, f"download refused: .*{told}", size=len(BODY))
    assert line.endswith("; get it by hand")
    assert len(server.seen) == 1 and pauses == [] and list(tmp_path.iterdir()) == []


def test_more_bytes_than_the_card_says(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [chunked()]
    fails(get, "sends more than 40,000 bytes", size=40_000)
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_end_is_left_when_it_is_too_long(
    get: Get, server: Server, tmp_path: Path
) -> None:
    hung_up = threading.Event()

    def endless(handler: Handler, body: bytes) -> None:
        handler.start(200, Transfer_Encoding="chunked")
        try:
            while True:
                handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        except OSError:
            hung_up.set()

    server.scripts[NAME] = [endless]
    fails(get, "sends more than 40,000 bytes", size=40_000)
    assert list(tmp_path.iterdir()) == []
    assert hung_up.wait(60)


def test_redirects(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts = {
        "/latest": [redirect("/one"), redirect("/one")],
        "/one": [redirect(server.url + NAME), redirect(server.url + NAME)],
        NAME: [drop(20_000)],
    }
    get(url=f"{server.url}/latest")
    assert (tmp_path / "part").read_bytes() == BODY
    assert [path for path, _ in server.seen] == ["/latest", "/one", NAME] * 2
    assert server.asked("Range")[-1] == "bytes=20000-"
    server.scripts["/circle"] = [redirect("/circle") for _ in range(40)]
    fails(get, "redirects in a circle", url=f"{server.url}/circle")


def test_a_body_of_unknown_length(get: Get, server: Server, tmp_path: Path) -> None:
    server.scripts[NAME] = [chunked(stop=20_000), chunked()]
    get()
    assert (tmp_path / "part").read_bytes() == BODY
    (tmp_path / "part").unlink()

    def unsaid(handler: Handler, body: bytes) -> None:
        handler.start(200)
        handler.wfile.write(body)
        handler.close_connection = True

    def cut(handler: Handler, body: bytes) -> None:
        handler.start(200, ETag=etag(body))
        handler.wfile.write(body[:20_000])
        handler.close_connection = True

    server.scripts[NAME] = [cut]
    get(size=len(BODY))  # only the card knows that this is not all
    assert (tmp_path / "part").read_bytes() == BODY
    (tmp_path / "part").unlink()
    server.scripts[NAME] = [unsaid]
    heard = Heard()
    get(progress=heard)
    assert (tmp_path / "part").read_bytes() == BODY
    assert heard.notes == ["  file.json: the server did not say how many bytes it has"]


def test_all_there_but_nobody_said_so(get: Get, server: Server, tmp_path: Path) -> None:
    """Killed after the last byte of a body of unknown length."""
    server.scripts[NAME] = [chunked()]
    get()
    get()
    assert server.asked("Range") == [None, "bytes=50000-"]
    assert (tmp_path / "part").read_bytes() == BODY


def test_a_packed_file_stays_packed(get: Get, server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(BODY)
    server.scripts[NAME] = [instead(packed, Content_Encoding="gzip")]
    get(size=len(packed))
    assert (tmp_path / "part").read_bytes() == packed
    assert server.asked("Accept-Encoding") == ["identity"]


def test_the_token_goes_to_the_hub_alone(
    get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get()
    assert server.asked("Authorization") == [None]
    (tmp_path / "part").unlink()
    monkeypatch.setattr(module, "HUB", (f"{server.url}/",))
    elsewhere = f"http://localhost:{server.server_port}{NAME}"
    server.scripts = {"/resolve": [redirect(elsewhere)], NAME: [drop(9), drop(0), drop(0), drop(0)]}
    heard = Heard()
    line = fails(get, "broke", url=f"{server.url}/resolve", progress=heard, patience={"tries": 1})
    assert server.asked("Authorization")[1:] == ["Bearer hf_secret", None]
    server.scripts = {"/resolve": [status(401)]}
    line += fails(get, "accept its terms on the hub and set HF_TOKEN", url=f"{server.url}/resolve")
    kept = memo_of(tmp_path / "part").read_text()
    assert "hf_secret" not in line + kept + "".join(heard.notes)


def test_credentials_of_a_netrc_are_sent_to_nobody(
    get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.scripts["/here"] = [redirect(NAME)]
    server.scripts["/away"] = [redirect(f"http://localhost:{server.server_port}{NAME}")]
    for path in (NAME, "/here", "/away"):
        get(url=server.url + path)
    assert server.asked("Authorization") == [None] * 5


def test_a_proxy_of_the_environment_is_used(
    get: Get, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    address = "http://files.example/data/file.json"
    server.files[address] = BODY
    get(url=address)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.seen[0][0] == address


def test_another_address_does_not_go_on_with_these_bytes(
    get: Get, server: Server, tmp_path: Path
) -> None:
    server.scripts[NAME] = [drop(20_000)]
    fails(get, "broke", patience={"tries": 1})
    server.files["/v2.json"] = new = BODY[::-1]
    get(url=f"{server.url}/v2.json")
    assert (tmp_path / "part").read_bytes() == new


def test_stopped_by_hand_keeps_what_came(get: Get, server: Server, tmp_path: Path) -> None:
    class Stop(Silent):
        def note(self, message: str) -> None:
            raise KeyboardInterrupt

    server.scripts[NAME] = [drop(20_000)]
    with pytest.raises(KeyboardInterrupt):
        get(progress=Stop())
    assert (tmp_path / "part").read_bytes() == BODY[:20_000]


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("12", 12.0), ("soon", None)])
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_the_server_of_these_tests_serves_ranges(server: Server) -> None:
    """Else the tests above would prove nothing."""
    import requests

    answer = requests.get(server.url + NAME, headers={"Range": "bytes=49990-"}, timeout=5)
    assert answer.status_code == 206 and answer.content == BODY[49_990:]
