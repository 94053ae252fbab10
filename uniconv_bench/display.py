"""Cards, scores and checks as rich tables on stdout, for people. Computes nothing."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from uniconv_bench.cards import Size, TaskCard
    from uniconv_bench.claims import Answer
    from uniconv_bench.commands.example import Example
    from uniconv_bench.comparison import Comparison
    from uniconv_bench.conventions import Shifted
    from uniconv_bench.doctor import Check
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.reproduce import Reproduced
    from uniconv_bench.system_cards import SystemCard
    from uniconv_bench.training_cards import ByProfile

WIDEST, UTTERANCES = 100, 4
"""Columns of a task card, whose lines are read one by one; utterances of history that it shows."""
VERDICTS = {
    "supported": "bold green",
    "contradicted": "bold red",
    "inconclusive": "bold yellow",
    "not measured": "bold dim",
}
OUTCOMES = {"same": "green", "close": "yellow", "different": "red"}
STATES = {"ok": "green", "note": "yellow", "missing": "red"}


def _console(most: int | None = None) -> Console:
    # Texts come from cards and data: brackets in them are no markup. Without a terminal, 110
    # columns keep most tables whole; COLUMNS says otherwise.
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = 110
    console.width = min(console.width, most or console.width)
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
    if record.task.part:
        title += ", part of the dataset"
    if record.limit is not None:
        title += f", only the first {record.limit} turns"
    show_scores({score.metric: score.model_dump() for score in record.scores}, title)


def show_comparison(found: Comparison, said: Mapping[str, Mapping[str, str]]) -> None:
    """Two systems on one task: a table, plain sentences, the turns that moved most.

    Args:
        found: what to show.
        said: turn -> whose text -> text, to be shown below; may be empty.
    """
    from uniconv_bench import comparison
    from uniconv_bench.rendering import p_text, percent

    one, other = found.one, found.other
    right = ("1st", "2nd", "p", "effect", "+", "=", "-")
    table = _table("metric", "1st", "2nd", "difference", *right[2:], right=right)
    for row in found.metrics:
        of = row.difference
        table.add_row(
            Text(row.metric, style="bold"),
            *map(percent, row.means),
            Text(
                f"{100 * of.mean:+.1f} [{', '.join(map(percent, of.ci95))}]",
                style="bold" if row.told_apart else "",
            ),
            p_text(row.p).removeprefix("p = ").removeprefix("p "),
            "-" if of.effect is None else f"{of.effect:+.2f}",
            *(f"{count:,}" for count in (of.wins, of.ties, of.losses)),
        )
    task = one.record.task
    clusters = max(row.difference.conversations for row in found.metrics)
    caption = (
        f"x 100; 1st: {one.title}, 2nd: {other.title}; {clusters} conversations; difference "
        "with its 95 % interval; p by flipping conversations, Holm over the metrics; effect: mean "
        "over deviation of conversations; + = -: turns won, tied and lost, all that both have"
    )
    _show(f"{one.title} and {other.title} on {task.name} ({task.profile})", table, caption)
    for side in (one, other):
        if len(side.records) > 1:
            spread = [f"{m} {percent(sd)}" for m, sd in side.seeds.items() if sd is not None]
            line = f"{side.title}: {len(side.records)} runs pooled; their means vary by "
            _console().print(line + ", ".join(spread))
    for line in comparison.sentences(found):
        _console().print(line)
    if not found.moved:
        _console().print("No turn differs.")
        return
    first = found.metrics[0].metric
    moved = _table("turn", *(row.metric for row in found.metrics))
    for turn in found.moved:
        values = (turn.scores.get(row.metric) for row in found.metrics)
        cells = ("-" if v is None else f"{v[0]:.2f} | {v[1]:.2f}" for v in values)
        moved.add_row(Text(turn.turn_id, style="bold"), *cells)
    _show(f"Turns that moved most, by {first}", moved, f"{one.title} | {other.title}")
    for turn_id, texts in said.items():
        _console().print(Text(turn_id, style="bold"))
        for whose, text in texts.items():
            line = " ".join(text.split()) or "-"
            _console().print(Padding(f"{whose}: {line}", (0, 0, 0, 4), expand=False))


def show_claims(answers: Sequence[Answer], profile: str) -> None:
    """Every claim with its verdict, what it rests on, and what would settle it."""
    from uniconv_bench.verdicts import line_of, notes

    console = _console()
    console.print(Text(f"Claims of the paper at profile {profile}", style="bold"))
    for answer in answers:
        console.print()
        console.print(Text(answer.verdict, style=VERDICTS[answer.verdict]), answer.claim.sentence)
        lines = [f"{judged.verdict}: {line_of(judged)}" for judged in answer.parts]
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 4)))
        for line in answer.settle:  # unfolded, since commands are to be pasted
            console.print(f"    {answer.to_settle}: {line}", soft_wrap=True)
    console.print()
    for note in notes(answers):
        console.print(Text(note, style="dim"))


def show_reproduced(
    record: ResultRecord, rows: Sequence[Reproduced], told: Mapping[str, Any], caption: str
) -> None:
    """What became of every figure, on which rungs of the ladder, and what the two do not share."""
    from uniconv_bench.rendering import percent

    right = ("mean", "against", "moved", "RMSE", "p", "ER", "dRI")
    table = _table("metric", "", *right, right=right)
    marks = {
        source: chr(ord("a") + i) for i, source in enumerate(dict.fromkeys(r.source for r in rows))
    }
    for row in rows:
        rungs = (row.rmse, row.p, row.effect_ratio, row.delta_ri)
        table.add_row(
            Text(row.metric, style="bold"),
            Text(row.outcome, style=OUTCOMES[row.outcome]),
            percent(row.mean),
            f"{percent(row.against)}{'' if row.inside else '!'} {marks[row.source]}",
            f"{100 * (row.mean - row.against):+.2f}",
            *("-" if value is None else f"{value:.3f}" for value in rungs),
        )
    meant = "RMSE: by turn; ER: effect ratio; dRI: delta of relative improvement"
    outside = "" if all(row.inside for row in rows) else "; !: outside the interval"
    caption = f"x 100; {caption}{outside}; {meant}"
    _show(f"{record.system.title} on {record.task.name} ({record.task.profile})", table, caption)
    for source, mark in marks.items():
        _console().print(f"  {mark}: {source}")
    if order := told["order"]:
        alike = f"tau {order['tau']:.3f}, RBO {order['rbo']:.3f}"
        _console().print(f"Order of passages: {alike} over {order['turns']:,} turns")
    for name, (ours, theirs) in told["switches"].items():
        _console().print(f"differs: {name}: {ours} here, {theirs} there")


def show_conventions(record: ResultRecord, rows: Sequence[Shifted]) -> None:
    """A record's figures under other conventions, and how far each moves them."""
    from uniconv_bench.rendering import percent

    right = ("recorded", "then", "moved", "n")
    table = _table("metric", "convention", *right, right=right)
    for row in rows:
        moved = f"{100 * (row.mean - row.recorded):+.1f}"
        figures = (percent(row.recorded), percent(row.mean), moved, f"{row.n:,}")
        table.add_row(Text(row.metric, style="bold"), row.convention, *figures)
    title = f"{record.system.title} on {record.task.name} ({record.task.profile})"
    _show(f"{title} under other conventions", table, "x 100")


def show_checks(checks: Iterable[Check]) -> None:
    """What `doctor` found, each with its mend."""
    table = _table("", "check", "found")
    for check in checks:
        found = check.detail + (f"\n{check.mend}" if check.mend else "")
        table.add_row(Text(check.state, style=STATES[check.state]), check.name, found)
    _show("This machine", table)


def show_task(
    card: TaskCard, counts: Mapping[str, Mapping[str, Any]], example: Example | None
) -> None:
    """A task card for people: what it is, where it is hard, how large, whose, and what to mind.

    Args:
        card: the task.
        counts: profile -> what was counted when it was prepared.
        example: a turn that shows what makes it hard; None: no data is prepared.
    """
    console = _console(WIDEST)
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
    table = _table(profile, *columns, right=columns)
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
    table = _table("full", *columns, right=columns)
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
    table = _table("system", "metric", "value", "note", right=("value",))
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


def show_counts(title: str, counts: Mapping[str, Any]) -> None:
    """What was counted when a task was prepared."""
    columns = ("conversations", "turns", "judged_retrieval", "judged_generation")
    labels = [column.replace("_", ", ") for column in columns]
    table = _table("split", *labels, right=labels)
    for split, numbers in counts["splits"].items():
        table.add_row(split, *(f"{numbers[column]:,}" for column in columns))
    _show(title, table, f"{counts['passages']:,} passages")
    for differing in counts.get("part", ()):
        _console().print(Text(f"  part of the dataset: {differing}", style="yellow"))
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
    adapters = {f"Adapter {name}": training for name, training in card.adapters.items()}
    for title, table in {"Inference": card.inference, **adapters}.items():
        _show_choices(title, table)
        for profile, changed in table.profiles.items():
            only = set(changed) - {"sources"}
            _show_choices(f"{title}: what differs at profile {profile}", table.on(profile), only)


def _show_choices(title: str, settings: ByProfile, only: set[str] | None = None) -> None:
    """Settings, each with the source that the card gives, itself, or the schema's default."""
    table = _table("setting", "value", "source")
    shown = settings.model_dump(include=only, exclude={"sources", "profiles"})
    for field, value in shown.items():
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
