"""Which choice that a paper leaves open explains a gap: what is known of each, and the best.

Knows records and outcomes, no task and no system.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from uniconv_bench.conventions import Shifted, by_averaging
from uniconv_bench.outcomes import ALL, OUTCOME, read_outcome
from uniconv_bench.records import STUDIES, ResultRecord, read_record, read_records, results_of
from uniconv_bench.rendering import metric_label
from uniconv_bench.reproduce import Reproduced
from uniconv_bench.seeds import SEED, settings_apart
from uniconv_bench.turnscores import read_scores, scores_path

SHOWN = 3
TRAINING = "adapters."
"""What the name of every setting of a training begins with."""


def moves(file: Path) -> list[Shifted]:
    """How far a record's figures move: under other conventions, and with other trainings.

    Conventions need its scores by turn beside it. What another training does is known from records
    of systems that differ from it in their training alone, and from studies of what the paper
    leaves open, at any profile.
    """
    record, results = read_record(file), results_of(file)
    rows = []
    if scores_path(file).exists():
        rows += by_averaging(record, read_scores(record, file))
    return [*rows, *_by_records(record, results), *_by_studies(record, results)]


def _by_records(record: ResultRecord, results: Path) -> Iterator[Shifted]:
    folder = results / record.task.profile
    for other in read_records(folder) if folder.is_dir() else ():
        apart = {n: v for n, v in settings_apart(record, other).items() if n != "name"}
        if _setting(other) != _setting(record) or not apart:
            continue
        if not all(n.startswith(TRAINING) for n in apart):
            continue
        if all(n.rpartition(".")[2] == SEED for n in apart):  # no choice of anybody's
            continue
        changes = ", ".join(
            f"{n.removeprefix(TRAINING)} {there} in place of {here}"
            for n, (here, there) in apart.items()
        )
        for score in record.scores:
            if (found := other.score(score.metric)) is not None:
                name = f"{changes} ({other.system.name})"
                yield Shifted(score.metric, name, found.mean, score.mean, found.n)


def _setting(record: ResultRecord) -> tuple[object, ...]:
    """What has to be alike for a training to be what made the difference."""
    task = record.task
    return task.name, task.data_digest, record.system.backbone_revision, record.limit


def _by_studies(record: ResultRecord, results: Path) -> Iterator[Shifted]:
    for path in sorted((results / STUDIES).glob(f"*/*/{OUTCOME}")):
        outcome = read_outcome(path)
        if not outcome.choices:
            continue
        for gap in outcome.gaps:
            score = record.score(gap.measure)
            if score is None or gap.task not in (record.task.name, ALL) or gap.condition is None:
                continue
            name = f"{gap.label} on {gap.task} (study {outcome.study}, {outcome.profile})"
            yield Shifted(gap.measure, name, score.mean + gap.mean, score.mean, gap.n)


def explained(gap: float, shifted: Iterable[Shifted]) -> list[tuple[Shifted, float]]:
    """The moves that bring a figure nearest to the other, each with the share of the gap it closes.

    Args:
        gap: the other figure minus the record's.
        shifted: of the same metric.
    """
    if not gap:
        return []
    shares = [(s, 1 - abs(gap - (s.mean - s.recorded)) / abs(gap)) for s in shifted]
    return sorted((s for s in shares if s[1] > 0), key=lambda s: -s[1])[:SHOWN]


def explanations(rows: Iterable[Reproduced], shifted: Sequence[Shifted]) -> list[str]:
    """What explains most of each gap, in words."""
    lines = []
    for row in rows:
        if row.outcome != "different":
            continue
        gap = row.against - row.mean
        points = f"{100 * gap:+.1f} points of {metric_label(row.metric)}"
        best = explained(gap, (s for s in shifted if s.metric == row.metric))
        if not best:
            lines.append(f"{points}: nothing that was measured moves it that way")
        for found, share in best:
            moved = f"{100 * (found.mean - found.recorded):+.1f}"
            lines.append(f"{points}: {100 * share:.0f} % by {found.convention} ({moved})")
    return lines
