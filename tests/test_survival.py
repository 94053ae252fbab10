"""Short forms of the harnesses in `survival`: killed, rotten, broken disks, two at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HARNESSES = {
    "kill": ("--kills", "5"),
    "rot": ("--flips", "15"),
    "faults": ("--times", "6"),
    "together": (),
}


@pytest.mark.parametrize("name", HARNESSES)
def test_it_survives(name: str, tmp_path: Path) -> None:
    """Each in a process of its own: it forks, which one that has run a model must not."""
    done = subprocess.run(
        [sys.executable, "-m", f"survival.{name}", "--folder", tmp_path, *HARNESSES[name]],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_kill_that_loses_work_is_found(tmp_path: Path) -> None:
    """The harness itself: a pipeline that keeps no checkpoint, shard or answer has to fail it."""
    forgetful = """
import shutil, sys
from uniconv_bench import artefacts
working = artefacts._working
def emptied(folder):
    shutil.rmtree(working(folder))
    return working(folder)
artefacts._working = emptied
from survival import kill
sys.argv = ["kill", "--folder", sys.argv[1], "--kills", "12", "--seed", "1"]
sys.exit(kill.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", forgetful, tmp_path],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "was begun again" in done.stderr, done.stderr
