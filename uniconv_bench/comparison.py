"""Two systems on the same turns of a task: what differs, how surely, and which turns moved most.

Knows records and their scores by turn, no task and no system.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError
from uniconv_bench.footnotes import PART
from uniconv_bench.records import ResultRecord, read_record
from uniconv_bench.rendering import metric_label, p_text, percent
from uniconv_bench.seeds import refuse_other_runs
from uniconv_bench.spread import Spread
from uniconv_bench.statistics.differences import Difference, PairedDifference, paired
from uniconv_bench.statistics.intervals import FEW, LEVEL
from uniconv_bench.statistics.multiplicity import holm
from uniconv_bench.statistics.pooling import pooled, spread_of_runs
from uniconv_bench.turnscores import read_scores

MOVED = 10
"""Turns shown of those that moved most."""
WORDS = {
    "retrieval": "ranks the right passages higher than",
    "generation": "answers more like the references than",
}
"""What a higher score of a stage means."""


@dataclass(frozen=True)
class Measured:
    """One system on one task: a run, or several that differ in their seeds alone.

    Attributes:
        records: one a run.
        by_turn: metric -> turn -> value, the mean over the runs.
        seeds: metric -> standard deviation of the runs' means; None of a single run.
    """

    records: tuple[ResultRecord, ...]
    by_turn: Mapping[str, PerTurn]
    seeds: Mapping[str, float | None]

    @property
    def record(self) -> ResultRecord:
        """The first, which speaks for all but their scores."""
        return self.records[0]

    @property
    def trainings(self) -> int:
        """Those with other seeds; 0 of a system that is not trained."""
        trained = [record.provenance.training for record in self.records]
        return len({tuple(sorted((n, t.seed) for n, t in own.items())) for own in trained if own})

    @property
    def title(self) -> str:
        """As people call it."""
        return self.record.system.title


@dataclass(frozen=True)
class Compared:
    """One metric of two systems.

    Attributes:
        metric: its name.
        stage: what it judges.
        means: of the one and of the other.
        difference: the one minus the other.
        p: of it, after Holm over the metrics shown.
        spread: how far rounding alone moves the metric.
    """

    metric: str
    stage: str
    means: tuple[float, float]
    difference: PairedDifference
    p: float
    spread: float

    @property
    def told_apart(self) -> bool:
        """Whether the two differ beyond chance and rounding."""
        return self.p < LEVEL and abs(self.difference.mean) > self.spread


@dataclass(frozen=True)
class Moved:
    """A turn, and metric -> (value of the one, value of the other)."""

    turn_id: str
    scores: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """All there is to say of two systems on one task."""

    one: Measured
    other: Measured
    metrics: tuple[Compared, ...]
    moved: tuple[Moved, ...]
    spread: Spread | None


def measured(system: str, task: str, profile: str, results: Sequence[Path]) -> Measured:
    """A system's record on a task, with its scores by turn.

    Args:
        system: its name.
        task: its name.
        profile: `sample`, `mini` or `full`.
        results: folders of results; several hold runs with other seeds, which are pooled.

    Raises:
        UserError: a folder has no such record, it is broken, or its runs are not of the same data.
    """
    paths = [_found(system, task, profile, folder) for folder in results]
    return measured_at(paths)


def measured_at(paths: Sequence[Path]) -> Measured:
    """As `measured`, of record files wherever they are; one that is there twice counts once."""
    found = {record.digest: (record, path) for path in paths for record in [read_record(path)]}
    records = [record for record, _ in found.values()]
    for record in records[1:]:
        refuse_unlike(records[0], record)
    refuse_other_runs(records)
    scores = [read_scores(record, path) for record, path in found.values()]
    names = [name for name in scores[0] if all(name in of_run for of_run in scores)]
    runs = {name: [of_run[name] for of_run in scores] for name in names}
    for name in names:
        _refuse_other_turns(name, records[0], runs[name][0], records[-1], *runs[name][1:])
    return Measured(
        tuple(records),
        {name: pooled(of_metric) for name, of_metric in runs.items()},
        {name: spread_of_runs(of_metric) for name, of_metric in runs.items()},
    )


def _found(system: str, task: str, profile: str, results: Path) -> Path:
    path = results / profile / system / f"{task}.json"
    if not path.is_file():
        known = {there.parent.name for there in results.glob(f"{profile}/*/{task}.json")}
        near = difflib.get_close_matches(system, known, n=1)
        run = f"uniconv-bench run --task {task} --system {system} --profile {profile}"
        meant = (
            f"did you mean {near[0]!r}? If not" if near else f"known: {', '.join(sorted(known))}"
        )
        mend = f"{meant}: {run}" if near else f"{meant}; or {run}" if known else run
        raise UserError(f"no record of {system} on {task} ({profile})", where=path, mend=mend)
    return path


def compare(
    one: Measured, other: Measured, metrics: Sequence[str] = (), spread: Spread | None = None
) -> Comparison:
    """Every metric that both were scored by, or those named.

    Args:
        one: a system.
        other: a system on the same task.
        metrics: names, the first of which orders the turns that moved; none: all in common.
        spread: how far rounding alone moves scores; None: that was not measured.

    Raises:
        UserError: they were measured on different turns or data, or not by the same metrics.
    """
    names = list(metrics) or [name for name in one.by_turn if name in other.by_turn]
    if not names:
        what = f"{one.title} and {other.title} were scored by no metric in common"
        raise UserError(what, mend="compare systems that do the same")
    pairs = {name: same_turns(one, other, name) for name in names}
    differences = {name: paired(pair) for name, pair in pairs.items()}
    p_values = holm({name: difference.p for name, difference in differences.items()})
    stages = {score.metric: score.stage for score in one.record.scores}
    compared = [
        Compared(
            name,
            stages[name],
            (fmean(pairs[name][0].values()), fmean(pairs[name][1].values())),
            differences[name],
            p_values[name],
            spread.of(name) if spread else 0.0,
        )
        for name in names
    ]
    return Comparison(one, other, tuple(compared), _moved(pairs), spread)


def same_turns(one: Measured, other: Measured, metric: str) -> tuple[PerTurn, PerTurn]:
    """Their values by turn.

    Raises:
        UserError: they were measured on different turns or data, or one has no such metric.
    """
    refuse_unlike(one.record, other.record)
    for side in (one, other):
        if metric not in side.by_turn:
            what = f"{side.record.system.name} has no {metric} on {side.record.task.name}"
            mend = f"it was scored by {', '.join(side.by_turn)}; choose among what both have"
            raise UserError(what, mend=mend)
    pair = one.by_turn[metric], other.by_turn[metric]
    _refuse_other_turns(metric, one.record, pair[0], other.record, pair[1])
    return pair


def _moved(pairs: Mapping[str, tuple[PerTurn, PerTurn]]) -> tuple[Moved, ...]:
    """By the first metric; turns that moved alike by the next one, and so on."""
    turns = sorted({turn_id for ours, _ in pairs.values() for turn_id in ours})

    def distances(turn_id: str) -> list[float]:
        return [-abs(a.get(turn_id, 0.0) - b.get(turn_id, 0.0)) for a, b in pairs.values()]

    return tuple(
        Moved(turn, {name: (a[turn], b[turn]) for name, (a, b) in pairs.items() if turn in a})
        for turn in sorted(turns, key=distances)[:MOVED]
        if any(distances(turn))
    )


def refuse_unlike(one: ResultRecord, other: ResultRecord) -> None:
    """Two records that were not measured on the same turns of the same data."""
    names = f"{one.system.name} and {other.system.name}"
    for what, ours, theirs in (
        ("profiles", one.task.profile, other.task.profile),
        ("tasks", one.task.name, other.task.name),
        ("versions of the task", one.task.version, other.task.version),
        ("splits", one.task.split, other.task.split),
        ("limits", one.limit or "none", other.limit or "none"),
        ("data", one.task.data_digest[:12], other.task.data_digest[:12]),
    ):
        if ours != theirs:
            mend = "compare records of the same one; run the older again"
            raise UserError(f"{names} are of different {what}: {ours} and {theirs}", mend=mend)


def _refuse_other_turns(
    metric: str, one: ResultRecord, ours: PerTurn, other: ResultRecord, *theirs: PerTurn
) -> None:
    for values in theirs:
        apart = ours.keys() ^ values.keys()
        if apart:
            names = f"{one.system.name} and {other.system.name}"
            what = f"{names} were averaged over different turns by {metric}: {len(apart)} are"
            raise UserError(f"{what} one's alone, as {min(apart)!r}", mend="run both again")


def sentences(comparison: Comparison) -> list[str]:
    """What was found, a sentence a metric, and what to mind."""
    one, other = comparison.one.title, comparison.other.title
    task = comparison.one.record.task
    found = [
        _sentence(row, one, other, f"{task.name} ({task.profile})") for row in comparison.metrics
    ]
    if comparison.spread:
        found += comparison.spread.sentences(row.metric for row in comparison.metrics)
    if (limit := comparison.one.record.limit) is not None:
        found.append(f"Only the first {limit} turns were run.")
    if task.part:
        found.append(f"{task.name} is {PART}: {'; '.join(task.part)}.")
    return found + cautions([row.difference for row in comparison.metrics])


def _sentence(row: Compared, one: str, other: str, where: str) -> str:
    difference, label = row.difference, metric_label(row.metric)
    first, second = map(percent, row.means)
    low, high = map(percent, difference.ci95)
    figures = f"{percent(difference.mean)} points, 95 % interval {low} to {high}; {p_text(row.p)}"
    if row.told_apart:
        if difference.mean < 0:
            one, other = other, one
        return (
            f"{one} {WORDS[row.stage]} {other} on {where}: "
            f"{label} {first} against {second} ({figures})."
        )
    needed = difference.turns_to_settle
    would = (
        f"; a difference as large as this one would take about {needed:,} turns" if needed else ""
    )
    shows = f", and {percent(difference.detectable)} is what" if difference.detectable else ""
    shows = f"{shows} {difference.conversations} such conversations show" if shows else ""
    return (
        f"{label} does not tell {one} and {other} apart on {where}: "
        f"{first} against {second} ({figures}){shows}{would}."
    )


def cautions(differences: Sequence[Difference]) -> list[str]:
    """What every interval of few conversations has to say."""
    fewest = min((d.conversations for d in differences), default=FEW)
    if fewest >= FEW:
        return []
    return [f"Only {fewest} conversations: with fewer than {FEW} the interval itself is uncertain."]
