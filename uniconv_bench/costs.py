"""What a stage costs: seconds over all processes that worked on it, and peak memory.

Seconds are told by a clock that nobody sets, each process's by itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic as _now
from typing import Any

from uniconv_bench.appended import read_texts, write_texts
from uniconv_bench.files import TEMPORARY, canonical_json, write_json
from uniconv_bench.machine import forget_peak, peak_memory
from uniconv_bench.seals import PARTIAL

COST = "cost.json"
"""Of a finished stage; its seconds are null where it is not known what a stopped process took."""
SO_FAR = f"cost{PARTIAL}"
EVERY = 10.0
"""Seconds that a process which is killed has worked for at most without having noted it."""


@contextmanager
def counted(working: Path) -> Iterator[bool]:
    """Keeps in a stage's working folder what it cost; yields whether it began with this block."""
    fresh = all(TEMPORARY.fullmatch(path.name) for path in working.iterdir())
    before = {"seconds": 0.0, "peak_memory_bytes": 0} if fresh else _so_far(working)
    start = _now()
    forget_peak()

    def cost() -> dict[str, Any]:
        known = before["seconds"]
        return {
            "seconds": None if known is None else round(known + _now() - start, 3),
            "peak_memory_bytes": max(before["peak_memory_bytes"], peak_memory()),
        }

    def note() -> None:
        write_texts(working / SO_FAR, [canonical_json(cost())])

    note()
    try:
        with _now_and_then(note):
            yield fresh
    finally:
        note()
    write_json(working / COST, cost())


@contextmanager
def _now_and_then(note: Callable[[], None]) -> Iterator[None]:
    """Calls something every so often, beside what the block does."""
    done = threading.Event()

    def keep_on() -> None:
        while not done.wait(EVERY):
            with suppress(OSError):  # the work itself will meet it
                note()

    beside = threading.Thread(target=keep_on, daemon=True)
    beside.start()
    try:
        yield
    finally:
        done.set()
        beside.join()


def _so_far(working: Path) -> dict[str, Any]:
    """What earlier processes have noted; unknown where it is not, or no longer, to be read."""
    for text in read_texts(working / SO_FAR):
        noted: dict[str, Any] = json.loads(text)
        return noted
    return {"seconds": None, "peak_memory_bytes": 0}
