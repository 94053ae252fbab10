"""Artefacts made by several processes at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import artefacts
from uniconv_bench.appended import go_on, line_of, read_texts
from uniconv_bench.artefacts import (
    check_unfinished,
    make_together,
    missing_artefact,
    open_artefact,
)
from uniconv_bench.errors import UserError
from uniconv_bench.seals import seal

MAKER = """
import sys, time
from pathlib import Path
from uniconv_bench.artefacts import missing_artefact, open_artefact

way, folder = sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()

def make(working):
    with (working / "work.txt").open("a") as stream:
        for _ in range(20):
            stream.write("x")
            stream.flush()
            time.sleep(0.02)
    print("made", flush=True)

with missing_artefact(folder, {"a": 1}, anew=way == "anew") as working:
    if working is not None:
        make(working)
"""


def started(way: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, way, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def until(condition: Path) -> None:
    for _ in range(3000):
        if condition.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{condition} never came")


@pytest.mark.parametrize("way", ["missing", "anew"])
def test_two_processes_make_one_artefact(way: str, tmp_path: Path) -> None:
    """The second waits and takes what the first has made meanwhile, even if it wants a new one."""
    folder = tmp_path / "stage" / "artefact"
    both = [started(way, folder) for _ in range(2)]
    go(both[0])
    until(folder.with_name("artefact.partial") / "work.txt")
    go(both[1])
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum(out.count("made") for out, _ in told) == 1
    assert told[0][1] == ""
    assert told[1][1] == f"another process is making {folder}; waiting for it\n"
    assert open_artefact(folder) == {"a": 1}
    assert (folder / "work.txt").read_text() == "x" * 20
    assert [path.name for path in folder.parent.iterdir()] == ["artefact"]


def test_a_killed_process_holds_nothing_up(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    process = started("missing", folder)
    go(process)
    until(tmp_path / "artefact.partial" / "work.txt")
    process.kill()
    process.wait()
    assert (tmp_path / "artefact.lock").exists()
    assert open_artefact(folder) is None
    with missing_artefact(folder, {}) as working:
        assert working is not None and (working / "work.txt").exists()  # to go on with
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_making_anew_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    for text in ("old", "new"):
        with missing_artefact(folder, {"a": 1}, anew=True) as working:
            assert working is not None
            (working / "file").write_text(text)
    assert (folder / "file").read_text() == "new"
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is None
    with missing_artefact(folder, {"a": 2}, anew=True) as working:
        assert working is not None
        (working / "file").write_text("newer")
    assert open_artefact(folder) == {"a": 2}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_whole_batches_of_an_interrupted_file_are_gone_on_with(batch: int, tmp_path: Path) -> None:
    path = tmp_path / "answers.partial"
    assert go_on(path, batch) == [] and path.read_text() == ""
    texts = [f'{{"turn": {n}, "say": "\u00e9 {n}"}}' for n in range(5)]
    written = "".join(map(line_of, texts))
    whole = texts[: 4 - 4 % batch]
    for broken in (
        written[:-4],  # torn
        written.replace('"turn": 4', '"turn": 5'),  # rotten
        written.replace(line_of(texts[4]), "\0\0\0\n" + line_of(texts[4])),
    ):
        path.write_text(broken)
        assert go_on(path, batch) == whole
        assert path.read_text() == "".join(map(line_of, whole))
    assert read_texts(path) == whole


@pytest.mark.parametrize("reader", ["_manifest", "_rotten"])
def test_what_is_thrown_away_while_it_is_read_is_absent_and_not_rotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    folder = tmp_path / "a-1"
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is not None
        (working / "file").write_text("right")
    read = getattr(artefacts, reader)

    def meanwhile(*given: Any, **options: Any) -> Any:
        shutil.rmtree(folder)
        return read(*given, **options)

    monkeypatch.setattr(artefacts, reader, meanwhile)
    assert open_artefact(folder) is None


def killed_before_renaming(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a process that completed it and got no further."""

    def killed(working: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "_put", killed)
        with pytest.raises(KeyboardInterrupt), missing_artefact(folder, {"a": 1}) as working:
            assert working is not None
            for name in ("first", "second", "third"):
                (working / name).write_text("right")
            (working / "checkpoint.partial").mkdir()
            (working / "checkpoint.partial" / "state").write_text("scaffolding")
            (working / ".first.abc.tmp").write_text("of a killed process")
    return folder.with_name(f"{folder.name}.partial")


def test_completed_just_before_a_kill_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artefact"
    killed_before_renaming(folder, monkeypatch)
    assert open_artefact(folder) is None
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is None
    assert open_artefact(folder) == {"a": 1}
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["first", "manifest.json", "second", "third"]


def test_what_rotted_between_completion_and_renaming_is_made_anew_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "artefact"
    working = killed_before_renaming(folder, monkeypatch)
    for name in ("first", "second"):
        (working / name).write_text("wrong")
    with pytest.raises(UserError, match="first.*this file alone is made anew"):
        check_unfinished(working)
    with missing_artefact(folder, {"a": 1}) as again:
        assert again is not None
        kept = {path.name for path in again.iterdir() if path.is_file()}
        assert kept & {"first", "second", "third", "manifest.json"} == {"third"}
    told = capsys.readouterr().err
    assert [f"made anew: {working / name}\n" in told for name in ("first", "second", "third")] == [
        *(True, True, False)
    ]
    assert open_artefact(folder) == {"a": 1}


def test_a_rotten_manifest_leaves_nothing_to_vouch_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artefact"
    working = killed_before_renaming(folder, monkeypatch)
    manifest = working / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"a"', '"b"'))
    with missing_artefact(folder, {"a": 1}) as again:
        assert again is not None and not list(again.iterdir())


def test_a_left_over_of_a_process_of_the_same_number_is_not_in_the_way(tmp_path: Path) -> None:
    """As in containers, where every process is number 1."""
    folder = tmp_path / "artefact"
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is not None
    left = folder.with_name(f"artefact.{os.getpid()}.partial")
    left.mkdir()
    (left / "file").write_text("of a killed process")
    with missing_artefact(folder, {"a": 2}, anew=True) as working:
        assert working is not None
    assert open_artefact(folder) == {"a": 2}
    assert artefacts.throw_away(folder)
    assert list(tmp_path.iterdir()) == [left]


def test_all_that_a_manifest_names_is_on_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    settle, write = artefacts.settle, artefacts.write_json

    def settled(path: Path) -> None:
        told.append(path.name)
        settle(path)

    def written(path: Path, value: object) -> Path:
        told.append(path.name)
        return write(path, value)

    monkeypatch.setattr(artefacts, "settle", settled)
    monkeypatch.setattr(artefacts, "write_json", written)
    with missing_artefact(tmp_path / "artefact", {}) as working:
        assert working is not None
        for name in ("first", "second"):
            (working / name).write_text("by a library that settles nothing")
    assert told == ["first", "second", "manifest.json"]


def test_a_part_that_rotted_before_the_end_is_refused_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    with pytest.raises(UserError, match="corrupted file of unfinished work"):  # noqa: SIM117
        with missing_artefact(folder, {}) as working:
            assert working is not None
            (working / "part").write_text("right")
            seal(working / "part")
            (working / "part").write_text("wrong")
    assert not folder.exists() and not list(tmp_path.rglob("part"))


def test_every_part_that_rotted_while_work_stood_still_is_made_anew_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, written = tmp_path / "artefact", []

    def work(working: Path) -> None:
        for name in ("first", "second", "third"):
            if not (working / name).exists():
                (working / name).write_text("right")
                seal(working / name)
                written.append(name)

    def stopped(working: Path) -> None:
        work(working)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_together(folder, {"a": 1}, stopped)
    for name in ("first", "third"):
        (tmp_path / "artefact.partial" / name).write_text("wrong")
    written.clear()
    make_together(folder, {"a": 1}, work)
    assert written == ["first", "third"]
    assert open_artefact(folder) == {"a": 1}
    assert capsys.readouterr().err.count("made anew") == 2


def test_a_kill_while_a_part_is_sealed_leaves_no_half_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artefact"

    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "digest_of_file", killed)
        with pytest.raises(KeyboardInterrupt), missing_artefact(folder, {"a": 1}) as working:
            assert working is not None
            (working / "part").write_text("right")
            seal(working / "part")
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is not None and (working / "part").exists()
    assert open_artefact(folder) == {"a": 1}


@pytest.mark.parametrize("old", ['"a": 1', '"digest"', '"sha256"', '"bytes"', '"fingerprint"'])
def test_a_manifest_vouches_for_itself(old: str, tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    with missing_artefact(folder, {"a": 1}) as working:
        assert working is not None
        (working / "file").write_text("right")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(old, old[:-2] + "2" + old[-1:]))
    with pytest.raises(UserError, match="corrupted cache: .* manifest"):
        open_artefact(folder)
