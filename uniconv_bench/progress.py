"""Progress for people: rich bars with time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

SOON = 1.0
"""Seconds: what is done by then was mostly done before, as the steps of a resumed training."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> Iterator[Callable[..., None]]:
        """A context whose value does nothing."""
        yield lambda count, told="": None

    def note(self, message: str) -> None:
        """Drops the message."""


class Pace:
    """How long the rest of some work will take, from what is done.

    Items may come in bursts, as the answers of a batch do: the first of a burst says nothing of
    how many come with it. So time left is asked for before an item is counted, or well after.

    Args:
        total: items in all; 0 if unknown.
        clock: seconds.
    """

    def __init__(self, total: int, clock: Callable[[], float]):
        self.total, self.done = total, 0
        self._clock = clock
        self.start = self._last = clock()
        self._free = (0, self.start)

    def count(self, items: int) -> None:
        """That many more are done."""
        now = self._clock()
        if not self.done and now - self.start < SOON:
            self._free = (items, now)
        self.done += items
        self._last = now

    def rate(self) -> float | None:
        """Items a second, without those done before; None while nothing is known."""
        free, since = self._free
        seconds = self._last - since
        if self.done <= free or seconds < SOON:
            return None
        return (self.done - free) / seconds

    def left(self) -> float | None:
        """Seconds until all is done; None while nothing is known."""
        rate = self.rate()
        if not self.total or rate is None:
            return None
        return max(0.0, (self.total - self.done) / rate - (self._clock() - self._last))

    def told(self, unit: str) -> list[str]:
        """Rate and time left, as far as they are known."""
        rate, left = self.rate(), self.left()
        known = [] if rate is None else [_speed(rate, unit)]
        return known if left is None else [*known, f"about {duration(left)} left"]


class _Told(ProgressColumn):
    """What a pace tells, anew at every refresh."""

    def __init__(self, pace: Pace, unit: str):
        super().__init__()
        self._pace, self._unit = pace, unit

    def render(self, task: Task) -> Text:
        return Text(", ".join(self._pace.told(self._unit)))


class Bars:
    """A bar a stage: label, done/total, rate, time left. Without a terminal: a line every 10 s."""

    def __init__(
        self,
        console: Console | None = None,
        quiet_seconds: float = 10.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.console = console or Console(stderr=True)
        self.quiet_seconds = quiet_seconds
        self._clock = clock

    def note(self, message: str) -> None:
        """Prints a line."""
        # Paths and data may hold brackets, and a path broken over two lines cannot be copied.
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> Iterator[Callable[..., None]]:
        """Shows the work of one stage while the context is open."""
        pace = Pace(total, self._clock)
        show = self._bar if self.console.is_terminal else self._lines
        with show(label, pace, unit) as advance:
            yield advance
        seconds = self._clock() - pace.start
        if seconds >= SOON:
            self.note(f"  {label}: {_amount(total or pace.done, unit)} in {seconds:.1f} s")

    @contextmanager
    def _bar(self, label: str, pace: Pace, unit: str) -> Iterator[Callable[..., None]]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn() if unit else MofNCompleteColumn(),
            _Told(pace, unit),
            TextColumn("{task.fields[told]}"),
        )
        with RichProgress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(label, total=pace.total or None, told="")

            def advance(count: int, told: str = "") -> None:
                pace.count(count)
                bars.update(bar, advance=count, told=told)

            yield advance

    @contextmanager
    def _lines(self, label: str, pace: Pace, unit: str) -> Iterator[Callable[..., None]]:
        last = pace.start

        def advance(count: int, told: str = "") -> None:
            nonlocal last
            known = pace.told(unit)  # of whole bursts, as this item may be the first of one
            pace.count(count)
            now = self._clock()
            if now - last < self.quiet_seconds or (pace.total and pace.done >= pace.total):
                return
            last = now
            if not pace.total:
                self.note(f"  {label}: {', '.join((f'{_amount(pace.done, unit)} so far', *known))}")
                return
            far = f"{_amount(pace.done, unit)}/{_amount(pace.total, unit)}"
            self.note(f"  {label}: {', '.join((far, *known))}{told and f'; {told}'}")

        yield advance


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _speed(rate: float, unit: str) -> str:
    """Items or bytes a second, or as few items as there are in a minute or an hour."""
    for seconds, name in ((1, "s"), (60, "min")):
        if unit or rate * seconds >= 1:
            return f"{_amount(rate * seconds, unit)}/{name}"
    return f"{_amount(rate * 3600, unit)}/h"


def _amount(number: float, unit: str) -> str:
    if unit:
        return decimal(int(number))
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
