"""All benchmarks of this program, or those named, each in a process of its own.

Prints their JSON lines and keeps them, with the machine, in `benchmarks.json`, beside those of
other benchmarks that were measured on the same machine and packages; draws beside it how time and
memory grow (needs matplotlib). `--quick` takes minutes; its sizes say nothing of goals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import growth

from uniconv_bench.files import read_json, write_json
from uniconv_bench.machine import provenance
from uniconv_bench.records import BENCHMARKS

HERE = Path(__file__).parent
QUICK = {
    "decode": "--task qrecc --prompts 8 --tokens 16 --batch 1 2 4 8",
    "encode": "--texts 64 --repeat 1",
    "score": "--turns 2000 --repeat 1",
    "search": "--passages 65536 --growth 16384 32768 131072 --repeat 1",
    "start": "--repeat 2",
    "turn": "--sessions 64 128 256 512 --passages 100 --tokens 8 --repeat 2",
}
"""Benchmark -> its options in the quick form, which has these alone."""
MACHINE = {"python", "packages", "hardware", "platform"}
"""What is the same for all lines that stand in one file."""
VERSION = {"package", "commit", "dirty", "created"}
"""What each line was measured with, and when."""


def lines_of(name: str, options: Sequence[str]) -> list[dict[str, Any]]:
    """What a benchmark prints.

    Raises:
        CalledProcessError: it failed.
    """
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def kept_lines(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a file that was made in the same way on this machine; else none."""
    if not path.exists():
        return []
    kept = read_json(path)
    lines: list[dict[str, Any]] = kept.pop("benchmarks")
    return lines if kept == about else []


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    every = sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("__main__", "growth"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(every))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent.parent / "results")
    given = parser.parse_args()
    if unknown := set(given.names) - set(every):
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(every)}")
    here = provenance({}, {}).model_dump(mode="json", include=MACHINE | VERSION)
    about = {"quick": given.quick, "provenance": {name: here[name] for name in sorted(MACHINE)}}
    version = {name: here[name] for name in sorted(VERSION)}
    path, failed = given.out / BENCHMARKS, []
    found = kept_lines(path, about)
    for name in given.names or (sorted(QUICK) if given.quick else every):
        options = QUICK.get(name, "").split() if given.quick else []
        try:
            lines = lines_of(name, options)
        except subprocess.CalledProcessError:
            failed.append(name)  # it has said why
            continue
        for line in lines:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        found = [line for line in found if line["benchmark"] != name]
        found += [{**line, "measured": version} for line in lines]
        write_json(path, {**about, "benchmarks": sorted(found, key=lambda one: one["benchmark"])})
    if figure := growth.drawn(found, given.out / "benchmarks"):
        sys.stderr.write(f"{figure}\n")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
