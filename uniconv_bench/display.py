"""Cards, scores and checks as rich tables on stdout, for people. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from uniconv_bench.cards import Inference, SystemCard, TaskCard, Training
    from uniconv_bench.conversation import Turn
    from uniconv_bench.doctor import Check
    from uniconv_bench.records import ResultRecord

STATES = {"ok": "green", "note": "yellow", "missing": "red"}


def _console() -> Console:
    # Texts come from cards and data: brackets in them are no markup. Without a terminal, 110
    # columns keep most tables whole.
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 110
    return console


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        end = column in set(right)
        table.add_column(column, justify="right" if end else "left", overflow="fold")
    return table


def _show(title: str, table: Table, caption: str = "") -> None:
    """A table under its title: rich's own would be folded to the width of the table."""
    console = _console()
    console.print(Text(title, style="bold"))
    console.print(table)
    if caption:
        console.print(Text(f"  {caption}", style="dim"))


def show_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Equal rows as one table; the keys of the first are the columns."""
    if not rows:
        _console().print(f"{title}: none")
        return
    table = _table(*rows[0])
    for row in rows:
        first, *rest = (
            f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()
        )
        table.add_row(Text(first, style="bold"), *rest)
    _show(title, table)


def show_scores(scores: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Metric -> mean, ci95, n, conversations; as fractions."""
    sizes = ("turns", "conversations")
    table = _table("metric", "mean", "95 % interval", *sizes, right=("mean", *sizes))
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
    _show(title, table, caption)


def show_record(record: ResultRecord) -> None:
    """The scores of one system on one task."""
    title = f"{record.system.title} on {record.task.name} ({record.task.profile})"
    if record.limit is not None:
        title += f", only the first {record.limit} turns"
    show_scores({score.metric: score.model_dump() for score in record.scores}, title)


def show_checks(checks: Iterable[Check]) -> None:
    """What `doctor` found, each with its mend."""
    table = _table("", "check", "found")
    for check in checks:
        found = check.detail + (f"\n{check.mend}" if check.mend else "")
        table.add_row(Text(check.state, style=STATES[check.state]), check.name, found)
    _show("This machine", table)


def show_task(
    card: TaskCard, counts: Mapping[str, Mapping[str, Any]], conversation: Sequence[Turn]
) -> None:
    """A task card, what was counted in each prepared profile, and one conversation."""
    console = _console()
    console.print(Text(f"{card.title} ({card.name}, version {card.version})", style="bold"))
    console.print(card.description)
    facts = _facts()
    facts.add_row("homepage", card.homepage)
    facts.add_row("licence", card.licence)
    facts.add_row("retrieval", card.retrieval_setting)
    facts.add_row("test split", card.test_split)
    facts.add_row("metrics", ", ".join(card.metrics))
    facts.add_row("answers", f"at most {card.answer_tokens} tokens")
    console.print(facts)
    if card.traps:
        console.print(Text("Traps", style="bold"))
        for trap in card.traps:
            console.print(Padding(f"- {trap}", (0, 0, 0, 2)))
    if card.reported:
        table = _table("system", "metric", "value", "source", right=("value",))
        for r in card.reported:
            unit = " %" if r.scale == "percent" else ""
            table.add_row(r.system, r.metric, f"{r.value:g}{unit}", f"{r.kind}: {r.source}")
        _show("Printed elsewhere", table)
    for profile, found in counts.items():
        show_counts(f"Prepared data ({profile})", found)
    if conversation:
        console.print(Text(f"A test conversation ({next(iter(counts))})", style="bold"))
        lines = _facts()
        for turn in conversation:
            answer = turn.references[0] if turn.references else "(not judged)"
            lines.add_row("user", Text(turn.query, style="cyan"))
            lines.add_row("assistant", answer)
            if turn.gold:
                lines.add_row("", Text(f"from {', '.join(turn.gold)}", style="dim"))
        console.print(lines)


def show_counts(title: str, counts: Mapping[str, Any]) -> None:
    """What was counted when a task was prepared."""
    columns = ("conversations", "turns", "judged_retrieval", "judged_generation")
    labels = [column.replace("_", ", ") for column in columns]
    table = _table("split", *labels, right=labels)
    for split, numbers in counts["splits"].items():
        table.add_row(split, *(f"{numbers[column]:,}" for column in columns))
    _show(title, table, f"{counts['passages']:,} passages")
    for name, fact in counts.get("mini", {}).items():
        value = f"{fact:,}" if isinstance(fact, int) else _value(fact)
        _console().print(Text(f"  mini, {name.replace('_', ' ')}: {value}", style="dim"))


def show_system(card: SystemCard) -> None:
    """A resolved system card; each adapter's settings with their sources."""
    console = _console()
    console.print(Text(f"{card.title} ({card.name})", style="bold"))
    console.print(card.description)
    facts = _facts()
    backbones = ", ".join(f"{profile}: {name}" for profile, name in card.backbone.items())
    facts.add_row("backbone", backbones or "none")
    facts.add_row("retriever", _settings(card.retriever.model_dump()))
    facts.add_row("generator", _settings(card.generator.model_dump()))
    console.print(facts)
    _show_choices("Inference", card.inference)
    for name, training in card.adapters.items():
        _show_choices(f"Adapter {name}", training)


def _show_choices(title: str, settings: Inference | Training) -> None:
    """Settings, each with the source that the card gives, itself, or the schema's default."""
    table = _table("setting", "value", "source")
    for field, value in settings.model_dump(exclude={"sources"}).items():
        text = _settings(value) if isinstance(value, dict) else _value(value)
        ours = "this card" if field in settings.model_fields_set else "default"
        table.add_row(field, text, settings.sources.get(field, ours))
    _show(title, table)


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {_value(v)}" for k, v in settings.items() if v is not None)


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
