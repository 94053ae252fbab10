"""`doctor --deep`: what rotted is named, of every kind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import artefacts, files
from uniconv_bench.artefacts import folder_of, missing_artefact, open_artefact
from uniconv_bench.cli import main
from uniconv_bench.deep import read_all
from uniconv_bench.inventory import holdings
from uniconv_bench.seals import seal

ROOT = Path(__file__).parent.parent


def made(name: str) -> Path:
    folder = folder_of("stage", name, {"a": name})
    with missing_artefact(folder, {"a": name}) as working:
        assert working is not None
        (working / "file").write_text("right")
    return folder


def broken(folder: Path) -> list[str]:
    checks = read_all(folder / "results", folder / "submissions")
    return [c.detail for c in checks if c.state == "broken" and c.name.startswith("file")]


def test_every_kind_that_rotted_is_named(private_cache: Path, bundle: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "sample" / "oracle", results / "sample" / "oracle")
    shutil.copytree(ROOT / "results" / "studies", results / "studies")
    submission = Path(shutil.copytree(bundle, tmp_path / "submissions" / bundle.name))
    folders = [made(name) for name in ("file", "manifest", "none")]
    working = private_cache / "stage" / "more-0123456789abcdef.partial"
    working.mkdir()
    (working / "part").write_text("right")
    seal(working / "part")
    assert broken(tmp_path) == []
    (folders[0] / "file").write_text("wrong")
    manifest = folders[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"a"', '"b"'))
    (folders[2] / "manifest.json").unlink()
    (working / "part").write_text("wrong")
    scores = sorted(results.glob("sample/*/*.gz"))
    scores[0].write_bytes(scores[0].read_bytes()[:-1])
    changed = [sorted(results.glob("sample/*/*.json"))[-1], *results.glob("studies/*/*/*.json")]
    for path in changed:
        path.write_text(path.read_text().replace("0.", "1.", 1))
    run = next(submission.glob("*.gz"))
    run.write_bytes(b"")
    found = broken(tmp_path)
    rotten = [folders[0] / "file", manifest, folders[2] / "manifest.json", working / "part"]
    for path in (*rotten, scores[0], *changed, run):
        assert [line for line in found if str(path) in line], path
    assert len(found) == len(rotten) + len(changed) + 2


def test_a_file_that_no_program_wrote_to_is_read_all_the_same(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk goes bad: its bytes are others, its size and times are not."""
    monkeypatch.setattr(files, "LARGE", 1)
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))
    folder = made("large")
    path = folder / "file"
    open_artefact(folder)
    (stamp,) = (private_cache / "digests").iterdir()
    path.write_text("wrong")
    facts = path.stat()
    state = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"state": state}))
    assert open_artefact(folder) == {"a": "large"}
    assert broken(tmp_path) == [f"corrupted cache file ({path})"]
    path.write_text("right")
    facts = path.stat()
    state = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    stamp.write_text(json.dumps({"state": state, "sha256": "0" * 64}))
    assert open_artefact(folder) == {"a": "large"}  # what rotted is what was remembered of it


def test_a_file_that_the_disk_does_not_give_back_is_named_and_all_else_read(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, changed = (made(name) / "file" for name in ("bad", "changed"))
    changed.write_text("wrong")
    read = hashlib.file_digest

    def digest(stream: Any, name: str) -> Any:
        if stream.name == str(bad):
            raise OSError(5, "Input/output error")
        return read(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    expected = [f"Input/output error ({bad})", f"corrupted cache file ({changed})"]
    assert sorted(broken(tmp_path)) == sorted(expected)


def test_a_cache_that_is_only_read_is_listed(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("one")
    write = Path.open

    def refused(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system", str(path))
        return write(path, mode, *given, **named)

    monkeypatch.setattr(Path, "open", refused)
    assert [(one.folder, one.state) for one in holdings()] == [(folder, "whole")]
    assert artefacts.open_artefact(folder) == {"a": "one"}


def test_what_was_complete_and_not_renamed_is_read_too(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(working: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(artefacts, "_put", killed)
    with pytest.raises(KeyboardInterrupt):
        made("one")
    (path,) = private_cache.glob("stage/*.partial/file")
    assert broken(tmp_path) == []
    path.write_text("wrong")
    assert broken(tmp_path) == [f"corrupted file of unfinished work ({path})"]


def test_one_command_removes_all_that_rotted(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("uniconv_bench.doctor.examine", lambda progress: [])
    nowhere = str(private_cache / "nowhere")
    folders = [made(name) for name in ("whole", "file", "none")]
    (folders[1] / "file").write_text("wrong")
    (folders[2] / "manifest.json").unlink()
    working = private_cache / "stage" / "more-0123456789abcdef.partial"
    working.mkdir()
    (working / "part").write_text("right")
    seal(working / "part")
    (working / "part").write_text("wrong")
    assert main(["doctor", "--deep", "--json", "--results", nowhere, "--submissions", nowhere]) == 1
    said = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    told = said["digests, in the cache"]
    assert (told["state"], told["detail"]) == ("broken", "1 of 4 as they were written")
    assert told["mend"].startswith("uniconv-bench cache prune --broken")
    assert main(["cache", "prune", "--broken", "--yes"]) == 0
    assert [one.folder for one in holdings()] == [folders[0]]
    assert not any(folder.exists() for folder in (*folders[1:], working))


def test_doctor_fails_over_a_broken_file_if_it_reads_deep(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("uniconv_bench.doctor.examine", lambda progress: [])
    path = made("one") / "file"
    path.write_text("wrong")
    nowhere = str(private_cache / "nowhere")
    assert main(["doctor"]) == 0
    assert main(["doctor", "--deep", "--json", "--results", nowhere, "--submissions", nowhere]) == 1
    assert str(path) in capsys.readouterr().out
