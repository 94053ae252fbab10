"""What a stage costs, over several processes and whatever becomes of the clock and of the disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import costs


def cost(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / costs.COST).read_text())
    return content


def interrupted(folder: Path) -> None:
    """A process that worked for 50 s and was stopped."""
    with pytest.MonkeyPatch.context() as patch:
        now = iter((1000.0, 1050.0))
        patch.setattr(costs, "_now", lambda: next(now, 1050.0))
        with pytest.raises(KeyboardInterrupt), costs.counted(folder) as fresh:
            assert fresh
            raise KeyboardInterrupt


def test_seconds_add_up_over_the_processes_of_a_stage(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert not (tmp_path / costs.COST).exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "_now", lambda: 3.0)  # another boot: its clock began anew
        with costs.counted(tmp_path) as fresh:
            assert not fresh
    assert cost(tmp_path)["seconds"] == 50.0
    assert cost(tmp_path)["peak_memory_bytes"] > 0


@pytest.mark.parametrize("step", [-86_400, 86_400])
def test_a_clock_that_is_set_changes_nothing(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path)
    today = time.time
    monkeypatch.setattr(time, "time", lambda: today() + step)
    (tmp_path / "later").touch()
    with costs.counted(tmp_path):
        pass
    assert 50.0 <= cost(tmp_path)["seconds"] < 100.0


def test_no_bit_of_what_is_kept_becomes_seconds(tmp_path: Path) -> None:
    interrupted(tmp_path)
    kept = tmp_path / costs.SO_FAR
    content = kept.read_bytes()
    for place in range(len(content)):
        rotten = bytearray(content)
        rotten[place] ^= 1 << place % 7
        kept.write_bytes(rotten)
        (tmp_path / costs.COST).unlink(missing_ok=True)
        with costs.counted(tmp_path) as fresh:
            assert not fresh
        assert cost(tmp_path)["seconds"] is None, place
    with costs.counted(tmp_path):  # unknown once, it stays so
        pass
    assert cost(tmp_path)["seconds"] is None


def test_work_of_which_nothing_is_noted_took_unknown_time(tmp_path: Path) -> None:
    (tmp_path / "answers.partial").write_text("of a process that noted nothing")
    with costs.counted(tmp_path) as fresh:
        assert not fresh
    assert cost(tmp_path)["seconds"] is None


def test_a_killed_process_has_said_so_far_how_long_it_worked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "EVERY", 0.01)
    with costs.counted(tmp_path):
        first = (tmp_path / costs.SO_FAR).read_text()
        noted = threading.Event()
        while not noted.wait(0.01) and (tmp_path / costs.SO_FAR).read_text() == first:
            pass
        killed = (tmp_path / costs.SO_FAR).read_text()
    (tmp_path / costs.SO_FAR).write_text(killed)
    with costs.counted(tmp_path):
        pass
    assert cost(tmp_path)["seconds"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a process's peak")
def test_the_peak_of_a_stage_is_not_that_of_what_went_before(tmp_path: Path) -> None:
    """In a process of its own, so that nothing else of it counts."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom uniconv_bench.costs import counted\n"
        "for number, size in enumerate((400 << 20, 1)):\n"
        "    (folder := Path(sys.argv[1]) / str(number)).mkdir()\n"
        "    with counted(folder):\n"
        "        block = b'x' * size\n"
        "    del block\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    large, small = (cost(tmp_path / name)["peak_memory_bytes"] for name in "01")
    assert large - small > 300 << 20
