"""From a card to a whole raw folder: licence, disk, downloads, rot, files got by hand, offline."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pydantic import ValidationError
from server import Server, drop, instead, serving, status
from test_unpack import tarred, zipped

from uniconv_bench import cli, fetch, locks, registry
from uniconv_bench.cards import Source, TaskCard, parse_card
from uniconv_bench.download import Patience
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir
from uniconv_bench.offline import OFFLINE
from uniconv_bench.progress import Silent
from uniconv_bench.rawfiles import RawFiles
from uniconv_bench.task import load_task

ROOT = Path(__file__).parent.parent
RAW = ROOT / "tests" / "data" / "raw" / "qrecc"
TURNS, TRAIN = "scai-qrecc21-test-turns.json", "scai-qrecc21-training-turns.json"
PASSAGES = {
    path.relative_to(RAW).as_posix(): path.read_bytes() for path in sorted(RAW.rglob("*.jsonl"))
}
BODIES = {
    "/train.json": (RAW / TRAIN).read_bytes(),
    "/test.json.gz": gzip.compress((RAW / TURNS).read_bytes()),
    "/passages.zip": zipped(PASSAGES),
    "/passages.tar.gz": tarred(PASSAGES),
}
WHOLE = {p.relative_to(RAW).as_posix(): p.read_bytes() for p in RAW.rglob("*") if p.is_file()}


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(autouse=True)
def _cache(private_cache: Path) -> None:
    pass


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        one.files |= BODIES
        yield one


def sources(server: Server) -> list[dict[str, Any]]:
    zip_digest = hashlib.sha256(BODIES["/passages.zip"]).hexdigest()
    return [
        {"file": TRAIN, "url": f"{server.url}/train.json"},
        {"file": TURNS, "url": f"{server.url}/test.json.gz", "unpack": "gzip"},
        {
            "file": ".",
            "url": f"{server.url}/passages.zip",
            "checksum": f"sha256:{zip_digest}",
            "bytes": len(BODIES["/passages.zip"]),
            "unpack": "zip",
        },
    ]


def card_of(sources: list[dict[str, Any]], **changes: Any) -> TaskCard:
    content = registry.task_card("qrecc")[0].model_dump(mode="json")
    content |= {"name": "mine", "title": "Mine", "licence_terms": "open", "sources": sources}
    return parse_card(TaskCard, content | changes, Path("mine.toml"))


@pytest.fixture
def card(server: Server) -> TaskCard:
    return card_of(sources(server))


def get(card: TaskCard, **options: Any) -> Path:
    patience = Patience(tries=3, pause=lambda seconds: None)
    return fetch.fetch(card, "full", **{"progress": Silent(), "patience": patience} | options)


def fails(told: str, call: Callable[..., Any], *given: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*given, **options)
    line = str(caught.value)
    assert "\n" not in line and re.search(told, line), line
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.json*")}


def facts(card: TaskCard, name: str) -> Path:
    return cache_dir() / "raw" / card.name / "facts" / name


@contextlib.contextmanager
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("a connection was made")

    with monkeypatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


# ---------------------------------------------------------------------------- downloading


def test_the_raw_folder_is_what_the_reader_expects(card: TaskCard, server: Server) -> None:
    heard = Heard()
    folder = get(card, progress=heard)
    assert contents(folder) == WHOLE
    kept = sorted(p.name for p in (folder.parent / "facts").iterdir())
    assert kept == sorted(["root.json", f"{TRAIN}.json", f"{TURNS}.json"])
    note = json.loads(facts(card, f"{TRAIN}.json").read_text())
    assert note["url"] == f"{server.url}/train.json"
    assert note["download"]["sha256"] == hashlib.sha256(BODIES["/train.json"]).hexdigest()
    assert note["download"]["bytes"] == len(BODIES["/train.json"]) and note["download"]["etag"]
    (trusted, _) = [n for n in heard.notes if "no checksum is published" in n]
    assert TRAIN in trusted and note["download"]["sha256"] in trusted


def test_a_second_time_asks_nobody(card: TaskCard, server: Server) -> None:
    folder = get(card)
    asked = len(server.seen)
    assert get(card) == folder and len(server.seen) == asked == 3
    shutil.rmtree(folder / "wayback")
    assert contents(get(card)) == WHOLE  # only the archive with the missing member comes again
    assert [path for path, _ in server.seen[asked:]] == ["/passages.zip"]


def test_tar_archives(server: Server) -> None:
    packed = {"file": ".", "url": f"{server.url}/passages.tar.gz", "unpack": "tar.gz"}
    assert contents(get(card_of([*sources(server)[:2], packed]))) == WHOLE


def test_an_archive_goes_into_its_folder(server: Server) -> None:
    packed = {"file": "in/here", "url": f"{server.url}/passages.zip", "unpack": "zip"}
    folder = get(card_of([packed]))
    assert contents(folder) == {f"in/here/{name}": body for name, body in PASSAGES.items()}


def test_an_interruption_is_continued(card: TaskCard, server: Server) -> None:
    half = len(BODIES["/passages.zip"]) // 2
    server.scripts["/passages.zip"] = [drop(half), *[drop(0)] * 2]
    fails("run the same command again later", get, card)
    line = fetch.plan(card, "full").lines[2]
    assert (line.state, line.done) == ("partial", half)
    assert line.to_row()["state"].startswith("partial, 4") or half * 2 == line.bytes
    assert contents(get(card)) == WHOLE
    assert server.asked("Range")[-1] == f"bytes={half}-"
    assert [path for path, _ in server.seen].count("/train.json") == 1


def test_unpacking_goes_on_without_the_network(
    card: TaskCard, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench import rawfiles

    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rawfiles, "unpack", stopped)
        with pytest.raises(KeyboardInterrupt):
            get(card)
    asked = len(server.seen)
    assert contents(get(card)) == WHOLE
    assert [path for path, _ in server.seen[asked:]] == ["/passages.zip"]


def test_a_damaged_archive_leaves_nothing(server: Server) -> None:
    packed = {"file": ".", "url": f"{server.url}/passages.zip", "unpack": "zip"}
    card = card_of([packed])
    server.scripts["/passages.zip"] = [instead(BODIES["/passages.zip"][:-30])]
    fails("truncated or damaged zip archive", get, card)
    assert fetch.plan(card, "full").lines[0].state == "to fetch"
    assert contents(get(card)) == PASSAGES


def test_wrong_bytes_never_reach_the_raw_folder(card: TaskCard, server: Server) -> None:
    right = BODIES["/passages.zip"]
    server.scripts["/passages.zip"] = [instead(right[:-1] + b"x")]
    fails("wrong checksum", get, card)
    assert "commoncrawl/part.jsonl" not in contents(cache_dir() / "raw" / "mine" / "files")
    assert contents(get(card)) == WHOLE


def test_the_second_of_two_processes_waits_and_finds_all_there(
    card: TaskCard, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    wait = locks._wait

    def waiting(stream: Any, how: int, folder: Path) -> bool:
        waits.set()
        return wait(stream, how, folder)

    with ThreadPoolExecutor(1) as second, locks.held(RawFiles(card).files):
        monkeypatch.setattr(locks, "_wait", waiting)
        got = second.submit(get, card)
        assert waits.wait(60) and not got.done() and not server.seen
    assert contents(got.result()) == WHOLE


# ------------------------------------------------------------------------ trust and rot


def test_without_a_checksum_the_first_download_binds(card: TaskCard, server: Server) -> None:
    folder = get(card)
    (folder / TRAIN).unlink()
    server.files["/train.json"] = b"[]\n"
    note = facts(card, f"{TRAIN}.json")
    fails(f"wrong checksum.*delete {re.escape(str(note))} to trust the new file", get, card)
    assert not (folder / TRAIN).exists()
    note.unlink()
    get(card)
    assert (folder / TRAIN).read_bytes() == b"[]\n"


def test_another_revision_is_fetched_anew(card: TaskCard, server: Server) -> None:
    get(card)
    server.files["/v2/train.json"] = b"[]\n"
    newer = card_of([sources(server)[0] | {"url": f"{server.url}/v2/train.json"}])
    assert (get(newer) / TRAIN).read_bytes() == b"[]\n"


def test_a_checksum_that_became_known_is_checked(card: TaskCard, server: Server) -> None:
    get(card)
    digest = hashlib.md5(BODIES["/train.json"]).hexdigest()
    for known, asked in ((digest, 4), ("0" * 32, 5)):
        newer = card_of([sources(server)[0] | {"checksum": f"md5:{known}"}])
        if known == digest:
            get(newer)
        else:
            fails("wrong checksum", get, newer)
        assert len(server.seen) == asked


@pytest.mark.parametrize("name", [TRAIN, TURNS, "wayback/part.jsonl"])
def test_rot_is_found_and_mended(name: str, card: TaskCard, server: Server) -> None:
    path = get(card) / name
    body = path.read_bytes()
    path.write_bytes(bytes([body[0] ^ 1]) + body[1:])
    assert str(path) in fails("corrupted raw file in the cache.*delete it", get, card)
    path.unlink()
    get(card)
    assert path.read_bytes() == body


# ------------------------------------------------------------------------------ by hand


def by_hand(server: Server) -> TaskCard:
    manual = [
        {"file": TURNS, "manual": "ask its owner"},
        {"file": "wayback", "manual": "unpack the owner's disk"},
    ]
    return card_of([sources(server)[0], *manual])


def test_what_has_no_download_is_asked_for_before_any_work(server: Server) -> None:
    card = by_hand(server)
    line = fails("Mine has no direct download for", get, card)
    place = cache_dir() / "raw" / "mine" / "files" / TURNS
    assert f"({place}); ask its owner, put it there; likewise wayback, and run again" in line
    assert server.seen == []
    place.parent.mkdir(parents=True)
    place.write_bytes(WHOLE[TURNS])
    line = fails("has no direct download for wayback", get, card)
    (place.parent / "wayback").mkdir()
    fails("has no direct download for wayback", get, card)
    (place.parent / "wayback" / "part.jsonl").write_bytes(PASSAGES["wayback/part.jsonl"])
    heard = Heard()
    get(card, progress=heard)
    assert sum("put there by hand, no checksum" in note for note in heard.notes) == 2
    place.write_bytes(b"[]")
    line = fails("corrupted raw file", get, card)
    assert "put the right one there, or delete" in line
    facts(card, f"{TURNS}.json").unlink()
    get(card)


def test_a_file_put_there_stands_in_for_its_download(card: TaskCard, server: Server) -> None:
    digest = hashlib.md5(BODIES["/train.json"]).hexdigest()
    card = card_of([sources(server)[0] | {"checksum": f"md5:{digest}"}])
    place = cache_dir() / "raw" / "mine" / "files" / TRAIN
    place.parent.mkdir(parents=True)
    place.write_bytes(b"[]")
    fails("wrong checksum.*delete it", get, card)
    place.write_bytes(BODIES["/train.json"])
    get(card)
    assert server.seen == []


def test_a_refusal_says_where_to_put_the_file(card: TaskCard, server: Server) -> None:
    server.scripts = {"/train.json": [status(404)]}
    place = cache_dir() / "raw" / "mine" / "files" / TRAIN
    fails(f"answers 404.*get it by hand and put it at {re.escape(str(place))}", get, card)


def test_a_card_without_sources_says_so(server: Server) -> None:
    fails("names no source; get its files from .* with --data-dir", get, card_of([]))


# ------------------------------------------------------------- licence, disk and network


@pytest.mark.parametrize("terms", ["non-commercial", "unstated"])
def test_a_licence_is_accepted_once(terms: str, server: Server) -> None:
    card = card_of(sources(server), licence="CC BY-NC 4.0", licence_terms=terms)
    line = fails(f"the licence of Mine is {terms}: CC BY-NC 4.0", get, card)
    assert card.homepage in line and "--accept-licence" in line
    assert "--accept-licence" in fetch.licence_line(card, download=True) and server.seen == []
    assert "--accept-licence" not in fetch.licence_line(card)
    assert "--accept-licence" not in fetch.licence_line(
        card.model_copy(update={"sources": ()}), download=True
    )
    get(card, accept_licence=True)
    note = json.loads(facts(card, "accepted-licence.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", note["accepted"])
    shutil.rmtree(cache_dir() / "raw" / "mine" / "files")
    get(card)
    assert "--accept-licence" not in fetch.licence_line(card, download=True)
    stricter = card_of(sources(server)[:1], licence="CC BY-NC-ND 4.0", licence_terms=terms)
    get(stricter)  # all there: nothing is downloaded
    shutil.rmtree(cache_dir() / "raw" / "mine" / "files")
    fails("CC BY-NC-ND", get, stricter)


def test_offline_makes_no_connection(
    card: TaskCard, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_sockets(monkeypatch):
        monkeypatch.setenv(OFFLINE, "1")
        line = fails("offline, and the cache lacks 3 raw files of Mine", get, card)
        assert TRAIN in line and "passages.zip (" in line and "pass --data-dir" in line
        monkeypatch.delenv(OFFLINE)
        with pytest.raises(AssertionError, match="a connection was made"):
            get(card)
    folder = get(card)
    monkeypatch.setenv(OFFLINE, "1")
    with no_sockets(monkeypatch):
        assert get(card) == folder
    (folder / TURNS).unlink()
    asked = len(server.seen)
    with no_sockets(monkeypatch):
        fails(f"lacks 1 raw files of Mine: {TURNS}", get, card)
    assert len(server.seen) == asked


def test_too_small_a_disk_is_told_before_work(
    card: TaskCard, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache_dir().parent)
    large = card_of([{**source, "about_bytes": 10**9} for source in sources(server)[:2]])
    # 1 GB plain and 1 GB packed, that is 4 GB of text; prepared, 5 GB more.
    needed = 11 * 10**9
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
        line = fails("about 11.0 GB of disk are needed and 11.0 GB are free", get, large)
        assert "UNICONV_BENCH_CACHE" in line and server.seen == []
        small = fetch.plan(large, "full")
        assert "NOT ENOUGH, 1 byte are lacking" in small.cost()
        assert small.to_json()["lacking_bytes"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed))
        get(large)


# --------------------------------------------------------------------------------- plans


def test_a_plan_says_what_it_costs(card: TaskCard, server: Server) -> None:
    sized = card_of([sources(server)[0] | {"bytes": 2 * 10**9}, *sources(server)[1:]])
    before = fetch.plan(sized, "full")
    assert [line.state for line in before.lines] == ["to fetch"] * 3
    zip_bytes = len(BODIES["/passages.zip"])
    assert before.download == 2 * 10**9 + zip_bytes and before.unknown == 1
    assert before.room == 2 * (2 * 10**9 + 4 * zip_bytes) + zip_bytes
    mini = fetch.plan(sized, "mini")
    assert mini.room == 2 * 10**9 + 5 * zip_bytes
    assert "; memory: about 1.0 GB; time" in mini.cost() and mini.seconds > before.seconds
    assert "memory" not in before.cost()
    rate = before.to_json()["assumed_rates"]
    assert before.seconds > 2 * 10**9 / rate["download"]
    rows = [line.to_row() for line in before.lines]
    assert [row["bytes"] for row in rows] == ["2.0 GB", "unknown", rows[2]["bytes"]]
    assert rows[2]["file"] == "passages.zip" and rows[0]["from"] == "127.0.0.1"
    assert "2.0 GB and 1 of unknown size" in before.cost() and "assuming 10.0 MB/s" in before.cost()
    unsized = card_of(sources(server)[:2])
    assert "2 files of unknown size; disk and time: unknown" in fetch.plan(unsized, "full").cost()
    told = "no direct download; get its files from https"
    assert told in fetch.plan(card_of([]), "full").cost()
    assert server.seen == [] and not (cache_dir() / "raw").exists()
    get(card)
    after = fetch.plan(card, "full")
    assert [line.state for line in after.lines] == ["there"] * 3
    assert (after.download, after.unknown) == (0, 0)
    assert after.room == sum(map(len, WHOLE.values()))  # the prepared corpus is still to come


# ------------------------------------------------------------------------- command line


@pytest.fixture
def mine(server: Server, tmp_path: Path) -> Path:
    """A third party's task: a card with sources, and qrecc's reader beside it."""
    known = card_of(sources(server), licence_terms="non-commercial").model_dump(mode="json")
    plain = ("name", "title", "version", "description", "homepage", "licence", "citation")
    plain += ("licence_terms", "metrics", "retrieval_setting", "test_split")
    lines = [f"{key} = {json.dumps(known[key])}" for key in plain]
    for source in sources(server):
        lines += ["[[sources]]", *(f"{key} = {json.dumps(v)}" for key, v in source.items())]
    shutil.copy(ROOT / "tasks" / "qrecc.py", tmp_path / "mine.py")
    (tmp_path / "mine.toml").write_text("\n".join(lines) + "\n")
    return tmp_path / "mine.toml"


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setattr(cli, "_quieten_libraries", lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with mock.patch.dict(os.environ):  # each a process of its own, as to `--offline`
            return cli.main([str(a) for a in arguments]), *capfd.readouterr()

    return call


def test_prepare_from_source_cache_and_folder(
    mine: Path, server: Server, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("prepare", "--task", mine, "--profile", "full", "--json")
    with no_sockets(monkeypatch):
        code, out, _ = command(*given[:-1], "--dry-run")
        assert code == 0 and "passages.zip" in out and "to fetch" in out
        code, out, _ = command(*given, "--dry-run")
        (plan,) = json.loads(out)
        assert plan["terms"] == "non-commercial" and not plan["accepted"] and not plan["prepared"]
        assert [file["state"] for file in plan["files"]] == ["to fetch"] * 3
        code, out, err = command(*given, "--offline")
        assert code == 2 and "error: offline, and the cache lacks 3 raw files" in err
        code, out, err = command("run", "--task", mine, "--system", "no-passages", *given[3:5])
        first = "first run uniconv-bench prepare --task mine --profile full"
        assert code == 2 and first in err.splitlines()[-1]
    code, _, err = command(*given, "--allow-absent")  # before anything is fetched
    assert (code, err) == (2, "error: --allow-absent is for --profile mini; leave it out\n")
    code, _, err = command(*given)
    assert code == 2 and "add --accept-licence if you keep to it" in err and server.seen == []
    server.scripts = {"/passages.zip": [status(503, Retry_After=0)]}
    code, out, err = command(*given, "--accept-licence")
    assert code == 0 and json.loads(out)[0]["passages"] == 3, err
    assert "licence of Mine (non-commercial)" in err and "--accept-licence" not in err
    assert "assuming 10.0 MB/s of download" in err
    asked = len(server.seen)
    with no_sockets(monkeypatch):
        for more in ((), ("--force", "--offline")):
            code, again, err = command(*given, *more)
            assert code == 0 and again == out, err
        (plan,) = json.loads(command(*given, "--dry-run")[1])
        assert plan["accepted"] and plan["prepared"]
        code, out, err = command(*given, "--data-dir", RAW)
        assert code == 0 and "licence of Mine (non-commercial)" in err
        (plan,) = json.loads(command(*given, "--dry-run", "--data-dir", RAW)[1])
        assert {f["file"]: f["bytes"] for f in plan["files"]} == {
            name: len(body) for name, body in WHOLE.items()
        }
        code, _, err = command(*given, "--dry-run", "--data-dir", RAW / "nowhere")
        assert code == 2 and "no such folder" in err
    assert len(server.seen) == asked
    assert len(load_task(str(mine), "full", progress=Silent()).turns()) == 4


def test_the_sample_needs_neither_network_nor_licence(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_sockets(monkeypatch):
        code, out, err = command("prepare", "--task", "topiocqa", "--dry-run")
        assert code == 0 and "topiocqa_valid.jsonl" in out and "there" in out
        assert "to fetch: 0 bytes;" in err
        code, _, err = command("prepare", "--task", "topiocqa")
        assert code == 0 and "licence" not in err


# --------------------------------------------------------------------------------- cards


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "needs either url or manual"),
        ({"url": "https://x.example/f", "manual": "ask"}, "needs either url or manual"),
        ({"manual": "ask", "unpack": "zip"}, "got by hand is unpacked by hand"),
        ({"url": "ftp://x.example/f"}, "url"),
        ({"url": "https://x.example/f", "checksum": "md5:12"}, "checksum"),
        ({"url": "https://x.example/f", "bytes": 0}, "bytes"),
        ({"url": "https://x.example/f", "unpack": "rar"}, "unpack"),
        ({"url": "https://x.example/f", "file": "../f"}, "no plain path"),
        ({"url": "https://x.example/f", "file": "/f"}, "no relative path"),
        ({"url": "https://x.example/f", "file": "a\\f"}, "no relative path"),
        ({"url": "https://x.example/f", "file": "."}, "for zip and tar.gz archives"),
    ],
)
def test_wrong_sources(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Source(**{"file": "f", **fields})


def test_two_sources_of_one_file(server: Server) -> None:
    fails("two sources of", card_of, sources(server)[:1] * 2)


@pytest.mark.parametrize("name", registry.task_names())
def test_shipped_cards_pin_what_they_name(name: str) -> None:
    """Every file the reader needs has a source; what the hub serves is pinned to a commit."""
    card, path = registry.task_card(name)
    for source in card.sources:
        assert source.url is None or source.url.startswith("https://")
        if source.url and "huggingface.co" in source.url:
            assert re.search(r"/resolve/[0-9a-f]{40}/", source.url)
    shipped = {
        p.relative_to(path.parent / "sample" / name).as_posix()
        for p in (path.parent / "sample" / name).rglob("*")
        if p.is_file()
    }
    given = [source.file for source in card.sources]
    covered = {f for f in shipped if "." in given or any(f == g or f.startswith(g) for g in given)}
    assert not card.sources or covered == shipped


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("topiocqa", "non-commercial"),
        ("inscit", "unstated"),
        ("qrecc", "open"),
        ("orquac", "open"),
        ("faithdial", "open"),
    ],
)
def test_terms_of_the_shipped_cards(name: str, terms: str) -> None:
    card, _ = registry.task_card(name)
    assert card.licence_terms == terms
    assert ("NC" in card.licence) == (terms == "non-commercial")
