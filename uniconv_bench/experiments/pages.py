"""A study's folder: its outcome as a page, as CSV and as a figure. Computes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from uniconv_bench.errors import UserError
from uniconv_bench.experiments.reading import difference, label_of
from uniconv_bench.files import atomic_write
from uniconv_bench.footnotes import PROFILES
from uniconv_bench.outcomes import (
    OUTCOME,
    Mean,
    Outcome,
    read_outcome,
    write_outcome,
)
from uniconv_bench.rendering import GAP, escape_markdown
from uniconv_bench.statistics.intervals import FEW

PAGE, CSV = "study.md", "means.csv"


def kept(outcome: Outcome, folder: Path) -> tuple[Outcome, bool]:
    """Writes a study into a folder: its page, CSV, outcome and, with matplotlib, its figure.

    If the folder holds an outcome that says the same, only page, CSV and figure are made anew: when
    and at what cost it was found is no reason to replace it.

    Returns:
        The outcome that the folder holds now, and whether it was written.
    """
    from uniconv_bench.experiments.figures import drawn

    folder.mkdir(parents=True, exist_ok=True)
    there = _readable(folder / OUTCOME)
    new = there is None or _said(there) != _said(outcome)
    found = outcome if there is None or new else there
    figures = drawn(found, folder)
    pictures = [path.name for path in figures if path.suffix == ".png"]
    for name, text in {PAGE: page(found, pictures), CSV: as_csv(found)}.items():
        with atomic_write(folder / name) as stream:
            stream.write(text)
    if new:  # last: an outcome that is there has its page beside it
        write_outcome(found, folder)
    return found, new


def _readable(path: Path) -> Outcome | None:
    try:
        return read_outcome(path)
    except UserError:  # none, or a broken one: written anew
        return None


def _said(outcome: Outcome) -> dict[str, Any]:
    return outcome.model_dump(mode="json", exclude={"provenance", "costs", "digest"})


def page(outcome: Outcome, figures: Sequence[str] = ()) -> str:
    """The outcome in Markdown."""
    lines = [f"# {escape_markdown(outcome.title)}", "", escape_markdown(outcome.question), ""]
    lines += [f"{escape_markdown(sentence)}\n" for sentence in outcome.reading]
    lines += [f"![{escape_markdown(outcome.title)}]({figure})\n" for figure in figures]
    lines += _table(_rows_of_means(outcome))
    if outcome.gaps:
        lines += ["", "## Differences", ""]
        lines += _table(_rows_of_gaps(outcome))
    lines += ["", "## Costs", "", *_table(_rows_of_costs(outcome))]
    if outcome.watched:
        lines += ["", "## Watched in training", "", *_table(_rows_of_watched(outcome))]
    return "\n".join([*lines, "", *(f"- {escape_markdown(n)}" for n in _notes(outcome))]) + "\n"


def as_csv(outcome: Outcome) -> str:
    """The means, unrounded, a line each."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    header = ["condition", "x", "task", "turns", "measure", "mean", "lo", "hi", "n"]
    writer.writerow([*header, "conversations"])
    for m in outcome.means:
        place = outcome.x.get(m.condition, "")
        row = [m.condition, place, m.task, m.part or "all", m.measure, m.mean, *m.ci95]
        writer.writerow([*row, m.n, m.conversations])
    return stream.getvalue()


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    header, *body = rows
    lines = [header, [":--", *["--:"] * (len(header) - 1)]]
    return [f"| {' | '.join(line)} |" for line in (*lines, *body)]


def _rows_of_means(outcome: Outcome) -> Iterator[list[str]]:
    columns = list(dict.fromkeys((m.task, m.measure) for m in outcome.means))
    yield ["Condition", *(f"{task} {label_of(measure)}" for task, measure in columns)]
    parts = list(dict.fromkeys(m.part for m in outcome.means))
    for condition in outcome.conditions():
        for part in parts:
            found = [outcome.of(condition, task, measure, part) for task, measure in columns]
            if any(found):
                label = escape_markdown(condition)
                name = f"{label}: {escape_markdown(part)}" if part else label
                yield [name, *(_cell(mean) for mean in found)]


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return GAP
    low, high = (100 * end for end in mean.ci95)
    return f"{100 * mean.mean:.1f} [{low:.1f}, {high:.1f}] n={mean.n}"


def _rows_of_gaps(outcome: Outcome) -> Iterator[list[str]]:
    columns = list(dict.fromkeys((g.task, g.measure) for g in outcome.gaps))
    yield ["Difference", *(f"{task} {label_of(measure)}" for task, measure in columns)]
    for label in dict.fromkeys(gap.label for gap in outcome.gaps):
        own = {(g.task, g.measure): g for g in outcome.gaps if g.label == label}
        cells = [f"{difference(own[c])}, n={own[c].n}" if c in own else GAP for c in columns]
        yield [escape_markdown(label), *cells]


def _rows_of_costs(outcome: Outcome) -> Iterator[list[str]]:
    yield [
        *("Condition", "task", "turns", "training, s", "training, tokens", "retrieval, s"),
        *("answers, s", "peak memory, GB", "weights, GB"),
    ]
    for cost in outcome.costs:
        yield [
            *(escape_markdown(cost.condition), cost.task, str(cost.turns)),
            *(f"{cost.training_seconds:,.0f}", f"{cost.training_tokens:,}"),
            *(_seconds(cost.retrieval_seconds), _seconds(cost.answer_seconds)),
            *(f"{cost.peak_memory_bytes / 1e9:.1f}", f"{cost.weights_bytes / 1e9:.2f}"),
        ]


def _seconds(value: float | None) -> str:
    return GAP if value is None else f"{value:,.1f}"


def _rows_of_watched(outcome: Outcome) -> Iterator[list[str]]:
    yield ["Condition", "adapter", "number", "before training", "at its end", "warning"]
    for w in outcome.watched:
        numbers = [f"{w.before:.3f}", f"{w.after:.3f}"]
        yield [escape_markdown(w.condition), w.adapter, w.number, *numbers, w.warned or GAP]


def _notes(outcome: Outcome) -> list[str]:
    notes = [
        "Means x 100 with 95 % intervals (bootstrap over conversations); n: turns.",
        "Differences: paired by turn, with 95 % interval and the p of a randomisation test over "
        "conversations, corrected by Holm for all differences of this study.",
        PROFILES[outcome.profile],
    ]
    notes += outcome.limits()
    if outcome.left_out:
        left = ", ".join(outcome.left_out)
        notes.append(f"Not run at profile {outcome.profile}, to save time: {left}.")
    few = sorted({m.condition for m in outcome.means if m.conversations < FEW and m.part is None})
    if few:
        least = min(m.conversations for m in outcome.means)
        notes.append(f"Fewer than {FEW} conversations ({least} at the least): intervals are rough.")
    named = sorted({name for name in outcome.backbones.values() if name})
    if named:
        notes.append(f"Backbone: {', '.join(named)}.")
    made = outcome.provenance
    commit = f", commit {made.commit[:12]}" if made.commit else ""
    changed = " with changes" if made.dirty else ""
    notes.append(f"uniconv-bench {made.package}{commit}{changed}. Hardware: {made.hardware}.")
    notes.append("Costs of cached stages are those of when they were done.")
    return notes
