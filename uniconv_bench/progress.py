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
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> Iterator[Callable[[int], None]]:
        """A context whose value does nothing."""
        yield lambda n: None

    def note(self, message: str) -> None:
        """Drops the message."""


class Bars:
    """A bar a stage: label, done/total, rate, time left. Without a terminal: a line every 10 s."""

    def __init__(self, console: Console | None = None, quiet_seconds: float = 10.0):
        self.console = console or Console(stderr=True)
        self.quiet_seconds = quiet_seconds

    def note(self, message: str) -> None:
        """Prints a line."""
        # Paths and data may hold brackets, and a path broken over two lines cannot be copied.
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> Iterator[Callable[[int], None]]:
        """Shows the work of one stage while the context is open."""
        start, done = time.perf_counter(), 0
        show = self._bar if self.console.is_terminal else self._lines
        with show(label, total, unit) as advance:

            def counted(count: int) -> None:
                nonlocal done
                done += count
                advance(count)

            yield counted
        seconds = time.perf_counter() - start
        self.note(f"  {label}: {_amount(total or done, unit)} in {seconds:.1f} s")

    @contextmanager
    def _bar(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn() if unit else MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
        )
        start, done = time.perf_counter(), 0
        with RichProgress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(label, total=total or None, rate="")

            def advance(count: int) -> None:
                nonlocal done
                done += count
                rate = done / max(time.perf_counter() - start, 1e-9)
                bars.update(bar, advance=count, rate=f"{_amount(rate, unit)}/s")

            yield advance

    @contextmanager
    def _lines(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        start = last = time.perf_counter()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.perf_counter()
            if now - last < self.quiet_seconds or (total and done >= total):
                return
            last = now
            if not total:
                self.note(f"  {label}: {_amount(done, unit)} so far")
                return
            left = (now - start) / done * (total - done)
            far = f"{_amount(done, unit)}/{_amount(total, unit)}"
            rate = f", {_amount(done / (now - start), unit)}/s" if unit else ""
            self.note(f"  {label}: {far}{rate}, about {left:.0f} s left")

        yield advance


def _amount(number: float, unit: str) -> str:
    if unit:
        return decimal(int(number))
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
