"""Reading small files: whatever is in one, a fault is one line that says where."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import files
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write, read_json, read_jsonl, read_toml

ENDLESS = "7" * 5000


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, ENDLESS, "not valid JSON: a number of thousands of digits"),
        (read_json, "[" * 100_000, "not valid JSON: nested too deep"),
        (read_json, "{", "not valid JSON: .*line 1 column 2"),
        (read_jsonl, f"1\n{ENDLESS}", "a number of thousands of digits .*line 2"),
        (read_jsonl, "1\n" + "[" * 100_000, "nested too deep .*line 2"),
        (read_jsonl, "1\n{", "not valid JSON: Expecting [a-z ]* .*file, line 2"),
        (read_toml, f"a = {ENDLESS}", "not valid TOML: a number of thousands of digits"),
        (read_toml, "a = " + "[" * 5000, "not valid TOML: nested too deep"),
        (read_toml, "a = ?", "not valid TOML: Invalid value .*line 1"),
    ],
)
def test_a_broken_file_has_its_line(
    read: Callable[[Path], Any], content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read(tmp_path / "file"))


@pytest.mark.parametrize("read", [read_json, read_toml])
def test_bytes_that_are_no_text_are_said_to_be_none(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b'{"a": \xff}')
    with pytest.raises(UserError, match=r"no text in UTF-8, from byte 7 on \("):
        read(tmp_path / "file")


def test_bytes_are_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that goes down leaves an empty file under the final name."""
    path = tmp_path / "file"
    sizes: list[tuple[int, bool]] = []
    sync = os.fsync

    def synced(handle: int) -> None:
        sizes.append((os.fstat(handle).st_size, path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    with atomic_write(path) as stream:
        stream.write("whole")
    assert sizes == [(5, False)]
    assert path.read_text() == "whole"


def test_a_large_file_is_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 4)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    read: list[str] = []
    digest = files.digest_of_file
    monkeypatch.setattr(files, "digest_of_file", lambda p: read.append(p.name) or digest(p))
    path = tmp_path / "large"
    path.write_text("first")
    stamp = path.stat()
    time.sleep(0.02)  # past one tick of the file system's clock
    before = digest(path)
    assert [files.digest_once(path) for _ in range(3)] == [before] * 3
    assert read == ["large"]
    path.write_text("other")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # size and date as before
    assert files.digest_once(path) == digest(path) != before
    assert read == ["large", "large"]
    next((tmp_path / "cache" / "digests").iterdir()).write_text("[]")
    assert files.digest_once(path) == digest(path)
    path.write_text("abc")  # small: always read
    time.sleep(0.02)
    assert [files.digest_once(path), files.digest_once(path)] == [digest(path)] * 2
    assert len(read) == 5


def test_a_large_file_is_read_again_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nothing else shows that a disk went bad."""
    monkeypatch.setenv(files.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 1)
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    path = tmp_path / "large"
    path.write_text("right")
    files.digest_once(path)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    path.write_text("wrong")
    facts = path.stat()
    state = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    known = json.loads(kept.read_text()) | {"state": state}
    kept.write_text(json.dumps(known))
    assert files.digest_once(path) == known["sha256"]
    yesterday = kept.stat().st_mtime - files.DAY
    os.utime(kept, (yesterday, yesterday))
    assert files.digest_once(path) == files.digest_of_file(path) != known["sha256"]


def test_what_is_gone_from_the_cache_was_removed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.CACHE, str(tmp_path / "cache"))
    for place, mend in (("cache", "run it again"), ("elsewhere", None)):
        with pytest.raises(UserError, match="no such file") as caught:
            read_json(tmp_path / place / "turns.json")
        assert (caught.value.mend or "").endswith(mend or "")
        assert (caught.value.mend is None) == (mend is None)


def test_a_digest_taken_in_the_tick_of_a_write_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(files.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 4)
    path = tmp_path / "large"
    path.write_text("first")
    files.digest_once(path)
    assert not (tmp_path / "cache").exists()


def test_a_large_file_whose_path_is_no_text_is_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGE", 1)
    path = tmp_path / "k\udcff"
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    assert files.digest_once(path) == files.digest_of_file(path)
