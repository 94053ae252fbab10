"""Progress for people: rich bars with time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
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
    def track(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows the work of one stage while the context is open."""
        start = time.perf_counter()
        show = self._bar if self.console.is_terminal else self._lines
        with show(label, total) as advance:
            yield advance
        self.note(f"  {label}: {total:,} in {time.perf_counter() - start:.1f} s")

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
        )
        start, done = time.perf_counter(), 0
        with RichProgress(*columns, console=self.console, transient=True) as bars:
            bar = bars.add_task(label, total=total, rate="")

            def advance(count: int) -> None:
                nonlocal done
                done += count
                rate = done / max(time.perf_counter() - start, 1e-9)
                bars.update(bar, advance=count, rate=f"{rate:,.1f}/s")

            yield advance

    @contextmanager
    def _lines(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        start = last = time.perf_counter()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.perf_counter()
            if now - last >= self.quiet_seconds and done < total:
                last = now
                left = (now - start) / done * (total - done)
                self.note(f"  {label}: {done:,}/{total:,}, about {left:.0f} s left")

        yield advance
