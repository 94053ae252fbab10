"""Rows, scores and checks as rich tables on stdout, for people. Computes nothing.

`cardview` shows cards, `evidenceview` what follows from records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from uniconv_bench.doctor import Check
    from uniconv_bench.records import ResultRecord

STATES = {"ok": "green", "note": "yellow", "missing": "red", "broken": "red"}


def console_of(most: int | None = None) -> Console:
    """Stdout for people, at most so many columns wide."""
    # Texts come from cards and data: brackets in them are no markup. Without a terminal, 110
    # columns keep most tables whole; COLUMNS says otherwise.
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = 110
    console.width = min(console.width, most or console.width)
    return console


def table_of(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table with these columns, some of them aligned to the right."""
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        end = column in set(right)
        table.add_column(column, justify="right" if end else "left", overflow="fold")
    return table


def show(title: str, table: Table, caption: str = "") -> None:
    """A table under its title: rich's own would be folded to the width of the table."""
    console = console_of()
    console.print(Text(title, style="bold"))
    console.print(table)
    if caption:
        console.print(Text(f"  {caption}", style="dim"))


def show_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Equal rows as one table; the keys of the first are the columns."""
    if not rows:
        console_of().print(f"{title}: none")
        return
    table = table_of(*rows[0])
    for row in rows:
        first, *rest = (
            f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()
        )
        table.add_row(Text(first, style="bold"), *rest)
    show(title, table)


def show_scores(scores: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Metric -> mean, ci95, n, conversations; as fractions."""
    sizes = ("turns", "conversations")
    table = table_of("metric", "mean", "95 % interval", *sizes, right=("mean", *sizes))
    for name, score in scores.items():
        low, high = score["ci95"]
        turns, clusters = score["n"], score["conversations"]
        # One conversation says nothing of others: there is no interval.
        interval = f"{low:.3f} to {high:.3f}" if clusters > 1 else "-"
        figures = (f"{score['mean']:.3f}", interval, f"{turns:,}", f"{clusters:,}")
        table.add_row(Text(name, style="bold"), *figures)
    caption = "means over turns; intervals by bootstrap over conversations"
    if all(1 < score["conversations"] == score["n"] for score in scores.values()):
        caption = (
            "means over turns; intervals by bootstrap over turns, each a conversation of its own "
            "(ids as <conversation>_<number> tell which belong together)"
        )
    show(title, table, caption)


def show_record(record: ResultRecord) -> None:
    """The scores of one system on one task."""
    title = f"{record.system.title} on {record.task.name} ({record.task.profile})"
    if record.task.part:
        title += ", part of the dataset"
    if record.limit is not None:
        title += f", only the first {record.limit} turns"
    show_scores({score.metric: score.model_dump() for score in record.scores}, title)


def show_checks(checks: Iterable[Check]) -> None:
    """What `doctor` found, each with its mend."""
    table = table_of("", "check", "found")
    for check in checks:
        found = check.detail + (f"\n{check.mend}" if check.mend else "")
        table.add_row(Text(check.state, style=STATES[check.state]), check.name, found)
    show("This machine", table)


def show_counts(title: str, counts: Mapping[str, Any]) -> None:
    """What was counted when a task was prepared."""
    columns = ("conversations", "turns", "judged_retrieval", "judged_generation")
    labels = [column.replace("_", ", ") for column in columns]
    table = table_of("split", *labels, right=labels)
    for split, numbers in counts["splits"].items():
        table.add_row(split, *(f"{numbers[column]:,}" for column in columns))
    show(title, table, f"{counts['passages']:,} passages")
    for differing in counts.get("part", ()):
        console_of().print(Text(f"  part of the dataset: {differing}", style="yellow"))
    for name, fact in counts.get("mini", {}).items():
        value = f"{fact:,}" if isinstance(fact, int) else value_of(fact)
        console_of().print(Text(f"  mini, {name.replace('_', ' ')}: {value}", style="dim"))


def value_of(value: Any) -> str:
    """A setting as one reads it."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
