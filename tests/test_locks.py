"""Locks of dead, of living and of former processes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from uniconv_bench import artefacts, locks
from uniconv_bench.artefacts import missing_artefact

CLAIMANT = """
import sys
from pathlib import Path
from uniconv_bench.locks import Claims
claims = Claims(Path(sys.argv[1]))
for part in (0, 1):
    with claims.of(part, wait=False) as mine:
        print(mine)
"""


def test_a_part_is_granted_to_one_process(tmp_path: Path) -> None:
    claims = locks.Claims(tmp_path / "claims")
    with claims.of(1, wait=False) as mine:
        command = [sys.executable, "-c", CLAIMANT, str(tmp_path / "claims")]
        other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert mine
    assert other.stdout.split() == ["True", "False"]


def test_a_lock_whose_file_its_holder_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waited for a file that is gone begins again with the one that others see."""
    folder, stale = tmp_path / "artefact", tmp_path / "artefact.lock"
    wait = locks._wait

    def ends_meanwhile(stream: IO[str], how: int, folder: Path) -> bool:
        monkeypatch.setattr(locks, "_wait", wait)
        stale.unlink()  # as the holder does that was waited for
        return wait(stream, how, folder)

    monkeypatch.setattr(locks, "_wait", ends_meanwhile)
    with locks.held(folder):
        assert stale.exists()
        assert locks.is_held(folder, folder / "mark")


def test_a_maker_that_begins_while_its_lock_is_asked_for_keeps_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artefact"
    taken = locks._taken
    with ExitStack() as second:
        first = ExitStack()
        first.enter_context(locks.held(folder))

        def passed_on(stream: IO[Any]) -> bool:
            monkeypatch.setattr(locks, "_taken", taken)
            first.close()
            working = second.enter_context(missing_artefact(folder, {"a": 1}))
            assert working is not None
            (working / "work").write_text("hours")
            return taken(stream)

        monkeypatch.setattr(locks, "_taken", passed_on)
        assert not artefacts.throw_away(tmp_path / "artefact.partial")
        assert (tmp_path / "artefact.lock").exists()
    assert (folder / "work").read_text() == "hours"
