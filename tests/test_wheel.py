"""The wheel, installed elsewhere, has all it needs and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("uniconv_bench", "tasks", "baselines", "pyproject.toml", "README.md", "LICENSE")
NO_BUILD = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.partial")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build folder left in the checkout would leak into later wheels."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=NO_BUILD)
        else:
            shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run(
        [sys.executable, *command, "--target", str(target), str(wheel)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def shipped(folder: str) -> Iterator[str]:
    """Every file below a mounted folder that git tracks or would track, as named in the wheel."""
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"uniconv_bench/{path.relative_to(ROOT).as_posix()}"


def test_cards_code_sample_data_and_adapters_are_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {*shipped("tasks"), *shipped("baselines")}
    assert {"uniconv_bench/tasks/qrecc.toml", "uniconv_bench/baselines/uniconv.toml"} <= wanted
    assert any(name.startswith("uniconv_bench/tasks/sample/qrecc/") for name in wanted)
    assert sorted(wanted - names) == []
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "uniconv_bench").rglob("*")
        if path.suffix in (".py", ".toml", ".typed")
    }
    assert sorted(package - names) == []


def test_nothing_else_is_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [n for n in names if not n.startswith(("uniconv_bench/", "uniconv_bench-"))] == []
    strange = ("test", "conftest", "__pycache__", "results", "leaderboards", ".partial")
    assert [n for n in names if any(s in Path(n).parts for s in strange)] == []
    assert [n for n in names if Path(n).name.startswith("test_")] == []
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 30_000_000


def outside(installed: Path, folder: Path, *arguments: str) -> str:
    """Runs Python from another folder, with the installed copy ahead of an editable install."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(installed),
            "UNICONV_BENCH_CACHE": str(folder / "cache"),
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_lists_and_prepares_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    where = "import uniconv_bench.tasks as t; print(t.__file__)"
    assert Path(outside(installed, tmp_path, "-c", where)).is_relative_to(installed)
    command = ("-m", "uniconv_bench")
    known = {}
    for kind, suffix in (("tasks", "tasks"), ("systems", "baselines")):
        rows = json.loads(outside(installed, tmp_path, *command, "list", kind, "--json"))
        cards = sorted(path.stem for path in (ROOT / suffix).glob("*.toml"))
        assert [row["name"] for row in rows] == cards
        known[kind] = cards
    prepare = ("prepare", "--task", "all", "--json")
    rows = json.loads(outside(installed, tmp_path, *command, *prepare))
    samples = ROOT / "tasks" / "sample"
    shipped = {path.name for path in samples.iterdir() if path.is_dir()} | {"faithdial-given"}
    assert [row["name"] for row in rows] == [name for name in known["tasks"] if name in shipped]
    assert len(rows) >= 6
    assert all(row["passages"] >= 400 for row in rows)
