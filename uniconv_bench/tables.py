"""Result records as one table: what stands in it, and the notes below it.

Knows records only: no task, no system, no computing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from uniconv_bench.cards import CUT
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.records import ResultRecord, Score
from uniconv_bench.rendering import Column, Grid, Row, latex, markdown, metric_label

if TYPE_CHECKING:
    from uniconv_bench.cards import Reported

METRICS = ("ndcg@3", "recall@10", "f1")
PART = "part of the dataset"


def table(
    records: Sequence[ResultRecord],
    reported: Mapping[str, Sequence[Reported]] | None = None,
    *,
    format: str = "markdown",
    metrics: Sequence[str] = METRICS,
) -> str:
    """Systems as rows, task x metric as columns; means x 100 with their 95 % intervals.

    In a column the best mean is bold, and so is every mean whose interval overlaps the best's.

    Args:
        records: of one profile, each task and system once; rows in order of appearance.
        reported: task -> figures printed elsewhere; shown at profile `full` only, and not beside a
            part of the dataset, or what may be one.
        format: `markdown`, `latex` (needs the booktabs package) or `csv` (fractions, unrounded).
        metrics: columns of each task, where measured.

    Raises:
        UserError: nothing to show, mixed profiles or data, limited or repeated records.
    """
    renderers: dict[str, Callable[[Grid], str]] = {"markdown": markdown, "latex": latex}
    if format not in (*renderers, "csv"):
        raise unknown_name("table format", format, [*renderers, "csv"])
    _refuse_unfair(records)
    if format == "csv":
        return _csv(records, metrics)
    return renderers[format](_grid(records, reported or {}, metrics))


def interval_overlap(one: Score, other: Score) -> bool:
    """Whether two 95 % intervals have a value in common."""
    return one.ci95[0] <= other.ci95[1] and other.ci95[0] <= one.ci95[1]


def _refuse_unfair(records: Sequence[ResultRecord]) -> None:
    if not records:
        raise UserError("no record to show", mend="run a system on a task first")
    profiles = _distinct(r.task.profile for r in records)
    if len(profiles) > 1:
        raise UserError(f"records of profiles {', '.join(profiles)}: no table mixes profiles")
    seen: dict[tuple[str, str], str] = {}
    data: dict[str, ResultRecord] = {}
    for record in records:
        task, system = record.task.name, record.system.name
        if record.limit is not None:
            raise UserError(
                f"{system} on {task} was run on the first {record.limit} turns only",
                mend="run it again without --limit",
            )
        if (task, system) in seen:
            raise UserError(f"two records of {system} on {task}")
        seen[task, system] = record.digest
        first = data.setdefault(task, record)
        same = ("version", "split", "data_digest")
        if any(getattr(record.task, name) != getattr(first.task, name) for name in same):
            raise UserError(
                f"{system} and {first.system.name} were measured on different data of {task}",
                mend="run both again with the same version",
            )


def _grid(
    records: Sequence[ResultRecord],
    reported: Mapping[str, Sequence[Reported]],
    metrics: Sequence[str],
) -> Grid:
    tasks = _distinct(r.task.name for r in records)
    measured = {(r.task.name, s.metric) for r in records for s in r.scores}
    columns = tuple((t, m) for t in tasks for m in metrics if (t, m) in measured)
    if not columns:
        raise UserError(f"no record has any of the metrics {', '.join(metrics)}")
    rows = []
    titles = _titles(records)
    for name in titles:
        own = [r for r in records if r.system.name == name]
        scores = {(r.task.name, s.metric): s for r in own for s in r.scores}
        rows.append(Row(titles[name], scores, _is_bound(own[0]), {}))
    partly = {r.task.name for r in records if r.task.part or r.task.unchecked}
    whole = {r.task.name for r in records if r.task.profile == "full"} - partly
    reported = {task: figures for task, figures in reported.items() if task in whole}
    published = _published(columns, reported, titles)
    rows += [Row(label, {}, False, figures) for label, figures in published[0].items()]
    notes = [*_reading(records, rows), *_per_task(records, columns), *_setting(records)]
    return Grid(columns, tuple(rows), _best(columns, rows), (*notes, *published[1]))


def _titles(records: Sequence[ResultRecord]) -> dict[str, str]:
    """System name -> row label: the title, with the name where two systems share one."""
    titles = {r.system.name: r.system.title for r in records}
    shared = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {name: f"{t} ({name})" if t in shared else t for name, t in titles.items()}


def _is_bound(record: ResultRecord) -> bool:
    retriever = record.system.settings.get("retriever")
    return isinstance(retriever, dict) and retriever.get("kind") == "gold"


def _best(columns: Sequence[Column], rows: Sequence[Row]) -> frozenset[tuple[str, Column]]:
    best = set()
    for column in columns:
        rivals = {r.label: r.scores[column] for r in rows if column in r.scores and not r.bound}
        if len(rivals) < 2:
            continue
        top = max(rivals.values(), key=lambda score: score.mean)
        best |= {(n, column) for n, score in rivals.items() if interval_overlap(score, top)}
    return frozenset(best)


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


def _reading(records: Sequence[ResultRecord], rows: Sequence[Row]) -> list[str]:
    notes = [
        "Mean x 100 and 95 % interval (bootstrap over conversations). "
        "Bold: the best of a column and all whose interval overlaps the best's."
    ]
    bounds = [row.label for row in rows if row.bound]
    if bounds:
        notes.append(f"{', '.join(bounds)}: is given the gold passages, never bold.")
    if _profile(records) == "sample":
        notes.append(
            "Profile sample: the data is small and was written by this project, so no figure here "
            "is comparable with a published one."
        )
    elif _profile(records) == "mini":
        notes.append(
            "Profile mini: real turns over a reduced corpus, so no figure here is comparable with "
            "a published one."
        )
    else:
        parts = _distinct(r.task.name for r in records if r.task.part)
        but = f", but {PART} of {', '.join(parts)}" if parts else ""
        unknown = _distinct(
            f"{what} of {r.task.name}" for r in records for what in r.task.unchecked
        )
        if unknown:
            but += f"; not held against a published count: {', '.join(unknown)}"
        notes.append(f"Profile full: the whole dataset and corpus{but}.")
    return notes


def _per_task(records: Sequence[ResultRecord], columns: Sequence[Column]) -> list[str]:
    notes = []
    for task in _distinct(task for task, _ in columns):
        own = [r for r in records if r.task.name == task]
        alike: dict[tuple[int, int], list[str]] = {}
        for metric in (m for t, m in columns if t == task):
            scores = [s for r in own for s in r.scores if s.metric == metric]
            sizes = {(s.n, s.conversations) for s in scores}
            if len(sizes) > 1:
                raise UserError(f"systems were averaged over different turns of {task}, {metric}")
            (size,) = sizes
            alike.setdefault(size, []).append(metric_label(metric))
        parts = [
            f"{', '.join(labels)} n = {n} turns of {conversations} conversations"
            for (n, conversations), labels in alike.items()
        ]
        where = f"{own[0].task.split} split, version {own[0].task.version}"
        notes.append(f"{task} ({where}): {'; '.join(parts)}.")
        if own[0].task.part:
            notes.append(
                f"{task}: {PART}, {'; '.join(own[0].task.part)}, so no figure of it is comparable "
                "with a published one."
            )
        official = own[0].task.split.removesuffix(CUT)
        if official != own[0].task.split:
            notes.append(
                f"{task}: conversations of {official} were cut into a training and a test part, "
                "for engineering; it is not the paper's split."
            )
        for record in own:
            lost = _lost(record)
            if lost:
                notes.append(f"{record.system.title} on {task}: {lost}.")
    return notes


def _lost(record: ResultRecord) -> str:
    counts, parts = record.counts, []
    stages = {score.stage for score in record.scores}
    if counts.missing_run and "retrieval" in stages:
        parts.append(f"{counts.missing_run} of {counts.judged_retrieval} judged turns not ranked")
    if counts.missing_answers and "generation" in stages:
        parts.append(
            f"{counts.missing_answers} of {counts.judged_generation} judged turns not answered"
        )
    return " and ".join(parts) + " (each counted as 0)" if parts else ""


def _setting(records: Sequence[ResultRecord]) -> list[str]:
    """Backbones, code and machines."""
    backbones: dict[str, list[str]] = {}
    for record in records:
        system, revision = record.system, record.system.backbone_revision
        name = system.backbone or "none"
        users = backbones.setdefault(f"{name} ({revision})" if revision else name, [])
        if system.title not in users:
            users.append(system.title)
    if len(backbones) == 1:
        notes = [f"Backbone: {next(iter(backbones))}."]
    else:
        listed = [f"{name}: {', '.join(users)}" for name, users in backbones.items()]
        notes = [f"Backbones: {'; '.join(listed)}."]
    code = []
    for record in records:
        made = record.provenance
        commit = f", commit {made.commit[:12]}" if made.commit else ""
        code.append(f"{made.package}{commit}{' with changes' if made.dirty else ''}")
    hardware = _distinct(r.provenance.hardware for r in records)
    notes.append(f"uniconv-bench {'; '.join(_distinct(code))}. Hardware: {'; '.join(hardware)}.")
    return notes


def _csv(records: Sequence[ResultRecord], metrics: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["profile", "system", "task", "metric", "mean", "lo", "hi", "n"])
    for record in records:
        for metric in metrics:
            score = record.score(metric)
            if score is not None:
                task = record.task
                profile = f"{task.profile}, {PART}" if task.part else task.profile
                row = [profile, record.system.name, task.name, metric]
                writer.writerow([*row, score.mean, *score.ci95, score.n])
    return stream.getvalue()


def _profile(records: Sequence[ResultRecord]) -> str:
    return records[0].task.profile


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
