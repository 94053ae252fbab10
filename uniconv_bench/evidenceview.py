"""Comparisons, claims and reproductions as rich tables on stdout, for people. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from uniconv_bench.display import console_of, show, table_of

if TYPE_CHECKING:
    from uniconv_bench.claims import Answer
    from uniconv_bench.comparison import Comparison
    from uniconv_bench.conventions import Shifted
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.reproduce import Reproduced

VERDICTS = {
    "supported": "bold green",
    "contradicted": "bold red",
    "inconclusive": "bold yellow",
    "not measured": "bold dim",
}
OUTCOMES = {"same": "green", "close": "yellow", "different": "red"}


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
    table = table_of("metric", "1st", "2nd", "difference", *right[2:], right=right)
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
    show(f"{one.title} and {other.title} on {task.name} ({task.profile})", table, caption)
    for side in (one, other):
        if len(side.records) > 1:
            spread = [f"{m} {percent(sd)}" for m, sd in side.seeds.items() if sd is not None]
            line = f"{side.title}: {len(side.records)} runs pooled; their means vary by "
            console_of().print(line + ", ".join(spread))
    for line in comparison.sentences(found):
        console_of().print(line)
    if not found.moved:
        console_of().print("No turn differs.")
        return
    first = found.metrics[0].metric
    moved = table_of("turn", *(row.metric for row in found.metrics))
    for turn in found.moved:
        values = (turn.scores.get(row.metric) for row in found.metrics)
        cells = ("-" if v is None else f"{v[0]:.2f} | {v[1]:.2f}" for v in values)
        moved.add_row(Text(turn.turn_id, style="bold"), *cells)
    show(f"Turns that moved most, by {first}", moved, f"{one.title} | {other.title}")
    for turn_id, texts in said.items():
        console_of().print(Text(turn_id, style="bold"))
        for whose, text in texts.items():
            line = " ".join(text.split()) or "-"
            console_of().print(Padding(f"{whose}: {line}", (0, 0, 0, 4), expand=False))


def show_claims(answers: Sequence[Answer], profile: str) -> None:
    """Every claim with its verdict, what it rests on, and what would settle it."""
    from uniconv_bench.verdicts import line_of, notes

    console = console_of()
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
    table = table_of("metric", "", *right, right=right)
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
    show(f"{record.system.title} on {record.task.name} ({record.task.profile})", table, caption)
    for source, mark in marks.items():
        console_of().print(f"  {mark}: {source}")
    if order := told["order"]:
        alike = f"tau {order['tau']:.3f}, RBO {order['rbo']:.3f}"
        console_of().print(f"Order of passages: {alike} over {order['turns']:,} turns")
    for line in told["explained"]:
        console_of().print(f"explains a gap: {line}")
    for name, (ours, theirs) in told["switches"].items():
        console_of().print(f"differs: {name}: {ours} here, {theirs} there")


def show_conventions(record: ResultRecord, rows: Sequence[Shifted]) -> None:
    """A record's figures under other conventions, and how far each moves them."""
    from uniconv_bench.rendering import percent

    right = ("recorded", "then", "moved", "n")
    table = table_of("metric", "convention or choice", *right, right=right)
    for row in rows:
        moved = f"{100 * (row.mean - row.recorded):+.1f}"
        figures = (percent(row.recorded), percent(row.mean), moved, f"{row.n:,}")
        table.add_row(Text(row.metric, style="bold"), row.convention, *figures)
    title = f"{record.system.title} on {record.task.name} ({record.task.profile})"
    show(f"{title} under other conventions", table, "x 100")
