"""The benchmarks still fit the program that they measure; what they measure is not asked here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert path.stem == "growth" or callable(module.main)


@pytest.mark.parametrize(
    "line", ["prepare_corpus --passages 2000 --repeat 1", "score --turns 60 --repeat 1"]
)
def test_a_benchmark_of_small_size_prints_its_line(line: str) -> None:
    name, *options = line.split()
    command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (printed,) = map(json.loads, done.stdout.splitlines())
    assert printed["benchmark"] == name and printed["ratio"] > 0 and printed["goal"] > 0
