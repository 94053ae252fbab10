"""What a person sees of long work: items, and bytes with their rate."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from uniconv_bench.progress import Bars, Pace, _speed, duration


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(
    terminal: bool, total: int, unit: str, steps: list[tuple[float, int]], quiet: float = 0
) -> list[str]:
    """The lines of work whose steps are (seconds before it, items)."""
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    bars = Bars(console, quiet_seconds=quiet, clock=clock)
    with bars.track("work", total, "B" if unit else "") as advance:
        for seconds, step in steps:
            clock.now += seconds
            advance(step)
    return [line.strip() for line in out.getvalue().splitlines()]


def test_lines_of_items() -> None:
    assert shown(False, 4, "", [(10, 1)] * 4) == [
        "work: 1/4",
        "work: 2/4, 6.0/min, about 20 s left",
        "work: 3/4, 6.0/min, about 10 s left",
        "work: 4 in 40.0 s",
    ]


def test_lines_of_bytes() -> None:
    assert shown(False, 5_000_000, "B", [(2, 2_000_000), (2, 2_000_000), (1, 1_000_000)]) == [
        "work: 2.0 MB/5.0 MB",
        "work: 4.0 MB/5.0 MB, 1.0 MB/s, about 1 s left",
        "work: 5.0 MB in 5.0 s",
    ]
    assert shown(False, 0, "B", [(2, 2_000_000), (2, 3_000_000)]) == [
        "work: 2.0 MB so far",
        "work: 5.0 MB so far, 1.0 MB/s",
        "work: 5.0 MB in 4.0 s",
    ]


def test_the_first_item_of_a_batch_is_not_taken_for_the_whole_batch() -> None:
    """Batches of 16 answers at 98 s each, told one by one: once 7977 s were said to be left."""
    batch = [(98.0, 1), *[(0.0, 1)] * 15]
    lines = shown(False, 81, "", [*batch, *batch, *batch], quiet=10)
    assert lines[:3] == [
        "work: 1/81",
        "work: 17/81, 9.8/min, about 5 min left",  # 81 / 16 * 98 - 196 s
        "work: 33/81, 9.8/min, about 3 min left",
    ]


def test_what_was_done_before_is_not_taken_for_speed() -> None:
    """A resumed training counts its former steps at once."""
    clock = Clock()
    pace = Pace(90, clock)
    pace.count(40)
    clock.now += 20
    assert pace.left() is None and pace.rate() is None and pace.told("") == []
    pace.count(1)
    assert pace.rate() == pytest.approx(1 / 20)
    assert pace.left() == pytest.approx(49 * 20)
    clock.now += 15
    assert pace.left() == pytest.approx(49 * 20 - 15)


@pytest.mark.parametrize(
    ("total", "unit", "told"), [(3, "", "3/3"), (5_000_000, "B", "5.0/5.0 MB")]
)
def test_bars(total: int, unit: str, told: str) -> None:
    text = " ".join(shown(True, total, unit, [(5, total - 1), (0, 1)]))
    assert told in text
    assert ("/min" if total == 3 else "MB/s") in text
    assert re.search(r"about 1 s left|work: .* in 5.0 s", text)


def test_durations() -> None:
    assert [duration(s) for s in (0.2, 61, 600, 9000)] == ["1 s", "61 s", "10 min", "2.5 h"]


def test_speeds_are_numbers_that_can_be_read() -> None:
    told = [_speed(rate, "") for rate in (1234.5, 1.0, 0.5, 0.01)]
    assert told == ["1,234.5/s", "1.0/s", "30.0/min", "36.0/h"]
    assert _speed(0.5, "B") == "0 bytes/s"
