"""What a stage costs: wall-clock seconds over all processes that worked on it, peak memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uniconv_bench.files import read_json, write_json

COST = "cost.json"


@contextmanager
def counted(working: Path) -> Iterator[bool]:
    """Keeps in a stage's working folder what it has cost; yields whether it began with this block.

    A process that is killed cannot say how long it worked: up to the last file that it wrote.
    """
    before = _so_far(working)
    start, since = time.perf_counter(), time.time()

    def keep(**more: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cost = {
            "seconds": round(before["seconds"] + time.perf_counter() - start, 3),
            "peak_memory_bytes": max(before["peak_memory_bytes"], peak),
        }
        write_json(working / COST, {**cost, **more})

    fresh = not (working / COST).exists()
    keep(since=since)
    try:
        yield fresh
    finally:
        keep()


def _so_far(working: Path) -> dict[str, Any]:
    if not (working / COST).exists():
        return {"seconds": 0.0, "peak_memory_bytes": 0}
    cost: dict[str, Any] = read_json(working / COST)
    if "since" in cost:
        last = max(path.stat().st_mtime for path in working.rglob("*"))
        cost["seconds"] += max(0.0, last - cost["since"])
    return cost
