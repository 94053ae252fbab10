"""What a person sees of long work: items, and bytes with their rate."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from uniconv_bench.progress import Bars


def shown(terminal: bool, total: int, unit: str, steps: list[int]) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    bars = Bars(console, quiet_seconds=0)
    with bars.track("work", total, "B" if unit else "") as advance:
        for step in steps:
            advance(step)
    return out.getvalue()


@pytest.mark.parametrize(
    ("total", "unit", "told"),
    [
        (3, "", [r"work: 1/3, about \d+ s left", r"work: 3 in \d"]),
        (
            5_000_000,
            "B",
            [r"work: 2\.0 MB/5\.0 MB, [\d.]+ .?B/s, about \d+ s left", r"work: 5\.0 MB in \d"],
        ),
        (0, "B", [r"work: 2\.0 MB so far", r"work: 5\.0 MB so far", r"work: 5\.0 MB in \d"]),
    ],
)
def test_lines(total: int, unit: str, told: list[str]) -> None:
    steps = [2_000_000, 3_000_000] if unit else [1, 2]
    lines = shown(False, total, unit, steps).splitlines()
    assert len(lines) == len(told)
    for line, pattern in zip(lines, told, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("total", "unit", "told"), [(3, "", "3/3"), (5_000_000, "B", "5.0/5.0 MB")]
)
def test_bars(total: int, unit: str, told: str) -> None:
    assert told in shown(True, total, unit, [total])
