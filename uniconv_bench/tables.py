"""Result records as one table: what stands in it, and the notes below it.

Knows records only: no task, no system, no computing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uniconv_bench import footnotes
from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.footnotes import PART, distinct
from uniconv_bench.records import ResultRecord, Score
from uniconv_bench.rendering import (
    Column,
    Grid,
    Row,
    csv_cell,
    latex,
    latex_document,
    markdown,
    metric_label,
)
from uniconv_bench.seeds import Entry, TurnScores, pooled_entries

if TYPE_CHECKING:
    from uniconv_bench.cards import Reported
    from uniconv_bench.spread import Spread

METRICS = ("ndcg@3", "recall@10", "f1")
PAPER_TASKS = ("topiocqa", "qrecc", "orquac", "inscit", "faithdial")


@dataclass(frozen=True)
class Selection:
    """One of the paper's tables.

    Attributes:
        metrics: its columns of each task.
        systems: its rows; none named: all that have any of the metrics.
    """

    metrics: tuple[str, ...]
    systems: tuple[str, ...] = ()


PAPER = {
    "retrieval": Selection(("ndcg@3", "recall@10")),
    "generation": Selection(("f1",)),
    "ablation": Selection(
        ("ndcg@3", "f1"),
        (
            "uniconv",
            *("uniconv-no-cii", "uniconv-no-ddm", "uniconv-no-retrieval", "uniconv-no-generation"),
        ),
    ),
}


def of_paper(name: str, records: Sequence[ResultRecord]) -> list[ResultRecord]:
    """The records that one of the paper's tables is made of, task by task in its order."""
    chosen = PAPER[name]
    systems = chosen.systems or distinct(record.system.name for record in records)
    return [
        record
        for task in PAPER_TASKS
        for system in systems
        for record in records
        if (record.task.name, record.system.name) == (task, system)
        and any(score.metric in chosen.metrics for score in record.scores)
    ]


def table(
    records: Sequence[ResultRecord],
    reported: Mapping[str, Sequence[Reported]] | None = None,
    *,
    format: str = "markdown",
    metrics: Sequence[str] = METRICS,
    turn_scores: TurnScores | None = None,
    spread: Spread | None = None,
) -> str:
    """Systems as rows, task x metric as columns; means x 100 with their 95 % intervals.

    In a column the best mean is bold, and so is every mean that a paired test does not tell apart
    from it, after Holm over the table, or that rounding alone could bring there. A column that
    lacks scores by turn goes by whether intervals overlap, and a note says so.

    Args:
        records: of one profile, rows in order of appearance; several of one task and system are
            runs with other seeds, whose scores are pooled.
        reported: task -> figures printed elsewhere; shown at profile `full` only, and not beside a
            part of the dataset, or what may be one.
        format: `markdown`, `latex` (needs the booktabs package), `latex-document` (the
            same, to be compiled alone) or `csv` (fractions, unrounded).
        metrics: columns of each task, where measured.
        turn_scores: those at hand; pooling needs them.
        spread: how far rounding alone moves scores; None: that was not measured.

    Raises:
        UserError: nothing to show, mixed profiles or data, limited records, runs of one system that
            differ in more than their seeds or lack scores by turn.
    """
    renderers: dict[str, Callable[[Grid], str]] = {
        "markdown": markdown,
        "latex": latex,
        "latex-document": latex_document,
    }
    if format not in (*renderers, "csv"):
        raise unknown_name("table format", format, [*renderers, "csv"])
    if format == "csv":
        _refuse_unfair(records)
        return _csv(pooled_entries(records, turn_scores or {}), metrics)
    return renderers[format](grid(records, reported or {}, metrics, turn_scores or {}, spread))


def interval_overlap(one: Score, other: Score) -> bool:
    """Whether two 95 % intervals have a value in common."""
    return one.ci95[0] <= other.ci95[1] and other.ci95[0] <= one.ci95[1]


def _refuse_unfair(records: Sequence[ResultRecord]) -> None:
    if not records:
        raise UserError("no record to show", mend="run a system on a task first")
    profiles = distinct(r.task.profile for r in records)
    if len(profiles) > 1:
        raise UserError(f"records of profiles {', '.join(profiles)}: no table mixes profiles")
    data: dict[str, ResultRecord] = {}
    for record in records:
        task, system = record.task.name, record.system.name
        if record.limit is not None:
            raise UserError(
                f"{system} on {task} was run on the first {record.limit} turns only",
                mend="run it again without --limit",
            )
        first = data.setdefault(task, record)
        same = ("version", "split", "data_digest")
        if any(getattr(record.task, name) != getattr(first.task, name) for name in same):
            raise UserError(
                f"{system} and {first.system.name} were measured on different data of {task}",
                mend="run both again with the same version",
            )


def grid(
    records: Sequence[ResultRecord],
    reported: Mapping[str, Sequence[Reported]],
    metrics: Sequence[str],
    turn_scores: TurnScores,
    spread: Spread | None = None,
) -> Grid:
    """As `table`, before it takes a format."""
    _refuse_unfair(records)
    entries = pooled_entries(records, turn_scores)
    tasks = distinct(r.task.name for r in records)
    measured = {(r.task.name, s.metric) for r in records for s in r.scores}
    columns = tuple((t, m) for t in tasks for m in metrics if (t, m) in measured)
    if not columns:
        raise UserError(f"no record has any of the metrics {', '.join(metrics)}")
    below = [*footnotes.of_tasks(records, columns), *footnotes.of_setting(records)]
    rows, by_turn = [], {}
    titles = _titles(records)
    for name in titles:
        own = [entry for entry in entries if entry.record.system.name == name]
        scores = {(e.record.task.name, s.metric): s for e in own for s in e.scores}
        rows.append(Row(titles[name], scores, own[0].record.system.is_bound, {}))
        for entry in own:
            for metric, values in entry.by_turn.items():
                by_turn[titles[name], (entry.record.task.name, metric)] = values
    partly = {r.task.name for r in records if r.task.part or r.task.unchecked}
    whole = {r.task.name for r in records if r.task.profile == "full"} - partly
    reported = {task: figures for task, figures in reported.items() if task in whole}
    published = _published(columns, reported, titles)
    rows += [Row(label, {}, False, figures) for label, figures in published[0].items()]
    best, rule = _best(columns, rows, by_turn, spread)
    bounds = [row.label for row in rows if row.bound]
    given = f"{', '.join(bounds)}: given what no system has when it is tested, never bold."
    notes = [
        f"Mean x 100 and 95 % interval (bootstrap over conversations). {rule}",
        *(spread.sentences(distinct(metric for _, metric in columns)) if spread else ()),
        *_pooling(entries, titles),
        *([given] if bounds else []),
        *footnotes.of_profile(records),
        *below,
        *published[1],
    ]
    return Grid(columns, tuple(rows), best, tuple(notes))


def _pooling(entries: Sequence[Entry], titles: Mapping[str, str]) -> list[str]:
    """Which rows are of several runs."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry.seeds is not None:
            label = titles[entry.record.system.name]
            tasks.setdefault((label, entry.seeds), []).append(entry.record.task.name)
    return [
        f"{label} on {', '.join(names)}: the mean over runs with seeds {seeds}, its interval over "
        "conversations and seeds."
        for (label, seeds), names in tasks.items()
    ]


def _titles(records: Sequence[ResultRecord]) -> dict[str, str]:
    """System name -> row label: the title, with the name where two systems share one."""
    titles = {r.system.name: r.system.title for r in records}
    shared = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {name: f"{t} ({name})" if t in shared else t for name, t in titles.items()}


def _best(
    columns: Sequence[Column],
    rows: Sequence[Row],
    by_turn: Mapping[tuple[str, Column], PerTurn],
    spread: Spread | None,
) -> tuple[frozenset[tuple[str, Column]], str]:
    """What is bold, and by which rule."""
    from uniconv_bench.statistics.intervals import LEVEL
    from uniconv_bench.statistics.multiplicity import holm

    best: set[tuple[str, Column]] = set()
    p_values: dict[tuple[str, Column], float] = {}
    plain = []
    for column in columns:
        rivals = {r.label: r.scores[column] for r in rows if column in r.scores and not r.bound}
        if len(rivals) < 2:
            continue
        top = max(rivals, key=lambda label: rivals[label].mean)
        if any((label, column) not in by_turn for label in rivals):
            plain.append(f"{column[0]} {metric_label(column[1])}")
            best |= {(n, column) for n, s in rivals.items() if interval_overlap(s, rivals[top])}
            continue
        best.add((top, column))
        turns = {label: by_turn[label, column] for label in rivals}
        near = rivals[top].mean - (spread.of(column[1]) if spread else 0.0)
        best |= {(n, column) for n, score in rivals.items() if score.mean >= near}
        p_values |= {(n, column): _p(top, n, column, turns) for n in rivals if n != top}
    if p_values:
        best |= {cell for cell, p in holm(p_values).items() if p >= LEVEL}
    return frozenset(best), _rule(len(p_values), plain)


def _p(one: str, other: str, column: Column, turns: Mapping[str, PerTurn]) -> float:
    from uniconv_bench.statistics.differences import p_value

    if turns[one].keys() != turns[other].keys():
        where = " ".join(column)
        raise UserError(f"{one} and {other} were averaged over different turns of {where}")
    return p_value(turns[one], turns[other])


def _rule(tested: int, plain: Sequence[str]) -> str:
    overlap = "the best of a column and all whose interval overlaps the best's"
    if not tested:
        return f"Bold: {overlap}."
    rule = (
        "Bold: the best of a column and all that a paired test does not tell apart from it "
        f"(conversations' signs flipped, p < 0.05 after Holm over the table's {tested} comparisons)"
    )
    if plain:
        rule += f"; for lack of scores by turn, in {', '.join(plain)} {overlap}"
    return f"{rule}."


def _published(
    columns: Sequence[Column], reported: Mapping[str, Sequence[Reported]], titles: dict[str, str]
) -> tuple[dict[str, dict[Column, float]], list[str]]:
    """Rows of figures printed elsewhere, one a system and source, and a note a source."""
    marks: dict[tuple[str, str], str] = {}
    rows: dict[str, dict[Column, float]] = {}
    for task, figures in reported.items():
        for figure in figures:
            if (task, figure.metric) not in columns:
                continue
            source = (figure.source, figure.kind)
            mark = marks.setdefault(source, chr(ord("a") + len(marks)))
            label = f"{titles.get(figure.system, figure.system)}, reported ({mark})"
            rows.setdefault(label, {})[task, figure.metric] = figure.fraction
    notes = [f"({mark}) {source} ({kind})." for (source, kind), mark in marks.items()]
    if rows:
        notes.insert(0, "Reported figures were printed elsewhere, not measured here.")
    return dict(sorted(rows.items())), notes


def _csv(entries: Sequence[Entry], metrics: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["profile", "system", "task", "metric", "mean", "lo", "hi", "n"])
    for entry in entries:
        task, scores = entry.record.task, {score.metric: score for score in entry.scores}
        profile = f"{task.profile}, {PART}" if task.part else task.profile
        row = [profile, *map(csv_cell, (entry.record.system.name, task.name))]
        for score in (scores[metric] for metric in metrics if metric in scores):
            writer.writerow([*row, score.metric, score.mean, *score.ci95, score.n])
    return stream.getvalue()
