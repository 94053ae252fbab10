"""Cards of tasks and systems on stdout, for people. Computes nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import ROUNDED
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from uniconv_bench.display import console_of, show, table_of, value_of

if TYPE_CHECKING:
    from uniconv_bench.cards import Size, TaskCard
    from uniconv_bench.commands.example import Example
    from uniconv_bench.system_cards import SystemCard
    from uniconv_bench.training_cards import ByProfile

WIDEST, UTTERANCES = 100, 4
"""Columns of a task card, whose lines are read one by one; utterances of history that it shows."""


def show_task(
    card: TaskCard, counts: Mapping[str, Mapping[str, Any]], example: Example | None
) -> None:
    """A task card for people: what it is, where it is hard, how large, whose, and what to mind.

    Args:
        card: the task.
        counts: profile -> what was counted when it was prepared.
        example: a turn that shows what makes it hard; None: no data is prepared.
    """
    console = console_of(WIDEST)
    console.print(Text(f"{card.title}  ({card.name}, version {card.version})", style="bold cyan"))
    console.print(card.description)
    console.print()
    if example:
        console.print(_example(example))
    else:
        told = "A turn of it is shown here once its official files are prepared."
        console.print(Text(told, style="dim"))
        console.print()
    for profile, found in counts.items():
        _show_sizes(console, profile, found, given=card.evidence == "given")
    if card.size and "full" not in counts:
        _show_published(console, card.size)
    facts = _facts()
    facts.add_row("evidence", card.retrieval_setting)
    facts.add_row("metrics", f"{', '.join(card.metrics)}, on split {card.test_split}")
    facts.add_row("answers", f"at most {card.answer_tokens} tokens")
    facts.add_row("licence", card.licence)
    console.print(facts)
    # Addresses and citations are never folded, so that they can be copied.
    console.print(Text.assemble(("homepage  ", "bold"), card.homepage), soft_wrap=True)
    _heading(console, "Mind that")
    traps = _facts()
    for trap in card.traps:
        traps.add_row("-", trap)
    console.print(Padding(traps, (0, 0, 0, 2)))
    if card.reported:
        _show_reported(console, card)
    _heading(console, "Cite")
    console.print(card.citation.strip(), soft_wrap=True)


def _example(example: Example) -> Panel:
    """A turn with its history, the passage that it is about, and what is left of it for BM25."""
    turn, passage = example.turn, example.passage
    lines = _facts()
    shown = turn.history[-UTTERANCES:]
    if len(shown) < len(turn.history):
        lines.add_row("", Text(f"({len(turn.history) - len(shown)} utterances before)", "dim"))
    for utterance in shown:
        lines.add_row(utterance.role, Text(_short(utterance.text), style="dim"))
    lines.add_row("user", Text(turn.query, style="bold"))
    if turn.references:
        lines.add_row("assistant", Text(_short(turn.references[0]), style="green"))
    lines.add_row()
    if not turn.given and turn.history:
        lines.add_row("BM25 sees", _terms(example))
    if turn.rewrite and turn.rewrite != turn.query:
        lines.add_row("rewritten", turn.rewrite)
    if passage:
        label = f"given 1/{len(turn.given)}" if turn.given else "relevant"
        lines.add_row(label, Text(_short(passage.contents.replace("\n", ": ", 1), 320)))
        lines.add_row("", Text(passage.passage_id, style="dim"))
    title = f"turn {turn.number} of a test conversation ({example.profile})"
    return Panel(lines, title=Text(title, style="bold"), title_align="left", box=ROUNDED)


def _terms(example: Example) -> Text:
    """The words of the last question that BM25 searches for; those in the passage stand out."""
    found = Text(", ").join(
        Text(term, style="bold" if term in example.shared else "dim") for term in example.terms
    )
    if not example.terms:
        found.append("nothing but stop words", style="dim")
    if example.passage and example.terms:
        some = ", ".join(t for t in example.terms if t in example.shared) or "none"
        found.append(f" in the last question; of these the passage has {some}", style="dim")
    return found


def _short(text: str, length: int = 200) -> str:
    return textwrap.shorten(text, length, placeholder=" ...")


def _show_sizes(console: Console, profile: str, counts: Mapping[str, Any], *, given: bool) -> None:
    """A profile's splits: narrow, as the card has to fit any terminal."""
    columns = {
        "conver-\nsations": "conversations",
        "turns": "turns",
        "with\npassage": "judged_retrieval",
        "with\nanswer": "judged_generation",
        "unans-\nwerable": "unanswerable",
    }
    if given:
        del columns["with\npassage"]
    table = table_of(profile, *columns, right=columns)
    for split, numbers in counts["splits"].items():
        table.add_row(split, *(f"{numbers[name]:,}" for name in columns.values()))
    console.print(table)
    told = f"  {counts['passages']:,} passages"
    told += "; written by this project about invented places" if profile == "sample" else ""
    console.print(Text(told, style="dim"))
    for differing in counts.get("part", ()):
        console.print(Text(f"  part of the dataset: {differing}", style="yellow"))
    console.print()


def _show_published(console: Console, size: Size) -> None:
    """How large the whole dataset is, as far as that is known for sure."""
    columns = {
        "conver-\nsations": "conversations",
        "turns": "turns",
        "with\npassage": "judged_retrieval",
    }
    table = table_of("full", *columns, right=columns)
    for split, of in size.splits.items():
        numbers = of.model_dump(exclude_none=True)
        cells = (f"{numbers[name]:,}" if name in numbers else "?" for name in columns.values())
        table.add_row(split, *cells)
    if size.splits:
        console.print(table)
    count = f"{size.passages:,} passages in full; " if size.passages else ""
    told = Text(f"{count}{size.source}", style="dim")
    console.print(Padding(told, (0, 0, 1, 2)))


def _show_reported(console: Console, card: TaskCard) -> None:
    """Figures printed elsewhere, their sources as notes below."""
    _heading(console, "Printed elsewhere, never mixed with our figures")
    sources: dict[str, int] = {}
    table = table_of("system", "metric", "value", "note", right=("value",))
    for r in card.reported:
        note = sources.setdefault(f"{r.kind}: {r.source}", len(sources) + 1)
        unit = " %" if r.scale == "percent" else ""
        table.add_row(r.system, r.metric, f"{r.value:g}{unit}", str(note))
    console.print(table)
    notes = _facts()
    for source, number in sources.items():
        notes.add_row(str(number), source)
    console.print(Padding(notes, (0, 0, 0, 2)))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def show_system(card: SystemCard) -> None:
    """A resolved system card; each adapter's settings with their sources."""
    console = console_of()
    console.print(Text(f"{card.title} ({card.name})", style="bold"))
    console.print(card.description)
    facts = _facts()
    backbones = ", ".join(f"{profile}: {name}" for profile, name in card.backbone.items())
    facts.add_row("backbone", backbones or "none")
    facts.add_row("retriever", _settings(card.retriever.model_dump()))
    facts.add_row("generator", _settings(card.generator.model_dump()))
    console.print(facts)
    adapters = {f"Adapter {name}": training for name, training in card.adapters.items()}
    for title, table in {"Inference": card.inference, **adapters}.items():
        _show_choices(title, table)
        for profile, changed in table.profiles.items():
            only = set(changed) - {"sources"}
            _show_choices(f"{title}: what differs at profile {profile}", table.on(profile), only)


def _show_choices(title: str, settings: ByProfile, only: set[str] | None = None) -> None:
    """Settings, each with the source that the card gives, itself, or the schema's default."""
    table = table_of("setting", "value", "source")
    shown = settings.model_dump(include=only, exclude={"sources", "profiles"})
    for field, value in shown.items():
        text = _settings(value) if isinstance(value, dict) else value_of(value)
        ours = "this card" if field in settings.model_fields_set else "default"
        table.add_row(field, text, settings.sources.get(field, ours))
    show(title, table)


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {value_of(v)}" for k, v in settings.items() if v is not None)
