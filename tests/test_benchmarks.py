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


def test_what_is_measured_of_a_gpu_can_be_measured() -> None:
    options = "--device cpu --hidden 128 --layers 1 --texts 4 --batch-tokens 512"
    command = [sys.executable, str(FOLDER / "accelerator.py"), *options.split()]
    done = subprocess.run(
        [*command, "--passages", "600", "--shard", "200"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    encoding, searching = map(json.loads, done.stdout.splitlines())
    # Four projections (two of them of a quarter of the width, but at least one head), the three
    # of the feed-forward part, three norms.
    assert encoding["weights"] == 4 * 128**2 + 3 * 128 * 448 + 3 * 128
    assert 0 < encoding["ratio"] == encoding["of_bare_products"]
    assert searching["passages"] == 600 and searching["bus_gigabytes_a_second"] > 0


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
