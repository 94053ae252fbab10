"""Who is ranked where: entries of a leaderboard -> a ranking per task and kind.

Knows scores and what is told of a system; no file, no format, no task code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from uniconv_bench.cards import SubmissionCard
from uniconv_bench.definitions import PerTurn, Stage, of_stage
from uniconv_bench.records import Score
from uniconv_bench.rendering import metric_label
from uniconv_bench.statistics.intervals import MetricSummary, summarise
from uniconv_bench.statistics.multiplicity import Ranks, ranks

Source = Literal["ours", "submission", "published"]
Kind = Literal["retrieval", "generation", "both"]
KINDS: tuple[Kind, ...] = ("retrieval", "generation", "both")
BOTH = "both"
"""In place of a metric: by turn the mean of the first one of either stage."""
Shown = Score | MetricSummary


@dataclass(frozen=True)
class Entry:
    """A system on a leaderboard. Its texts are as given: whoever shows them escapes them.

    Attributes:
        name: no two of one source share it, and it can name a file.
        source: `published` figures were printed elsewhere, and are neither checked nor ranked.
        scores: task -> scores.
        bound: it is handed gold passages or human rewrites (an oracle), so it has no rank.
        recorded: task -> metrics as recorded, since what they are computed from is not here.
        by_turn: task -> metric -> scores by turn, where they are at hand.
        files: task -> `run` and `answers` -> file, where they are at hand.
        reported: task -> metric -> fraction, of `published` figures.
        backbone: its name, if it has one.
        parameters: of the backbone, where it is known.
        trained_on: tasks whose training set was used.
        open_weights: whether anybody can get them; None: nothing is said of it.
        card: of a submission.
        flags: what a reader should know of a submission that breaks no rule.
    """

    name: str
    title: str
    source: Source
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    bound: bool = False
    recorded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    by_turn: Mapping[str, Mapping[str, PerTurn]] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    reported: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    backbone: str | None = None
    parameters: int | None = None
    trained_on: Sequence[str] = ()
    open_weights: bool | None = None
    card: SubmissionCard | None = None
    flags: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Names it among the entries of all sources."""
        return f"{self.source}-{self.name}"


@dataclass(frozen=True)
class Row:
    """An entry's place in one ranking.

    Attributes:
        entry: whose.
        ranks: that tests leave open; None: it has none, being a bound, published, or without a
            score here.
        scores: metric -> mean and interval.
        recorded: metrics that are as recorded, not computed again.
        printed: metric -> fraction, if it is published.
    """

    entry: Entry
    ranks: Ranks | None
    scores: Mapping[str, Shown]
    recorded: frozenset[str] = frozenset()
    printed: Mapping[str, float] = field(default_factory=dict)

    @property
    def all_recorded(self) -> bool:
        """Whether nothing in it was computed again."""
        return bool(self.scores) and self.recorded >= self.scores.keys()

    @property
    def marked(self) -> frozenset[str]:
        """The metrics that are as recorded while others in the row were computed again."""
        return frozenset() if self.all_recorded else self.recorded


@dataclass(frozen=True)
class Ranking:
    """Best first, by the first metric; published figures last.

    Attributes:
        task: its name.
        kind: what is ranked.
        labels: metric -> what it is called, the one that ranks go by first.
        rows: of every entry that has the task.
        by_test: paired tests told systems apart; otherwise only their intervals.
    """

    task: str
    kind: Kind
    labels: Mapping[str, str]
    rows: tuple[Row, ...]
    by_test: bool


def rankings(entries: Sequence[Entry]) -> list[Ranking]:
    """Every ranking in which there is a score, by task, each in the order of `KINDS`."""
    found = []
    for task in sorted({task for entry in entries for task in (*entry.scores, *entry.reported)}):
        stages = {
            kind: _ranking(task, kind, _of_stage(entries, task, kind), entries)
            for kind in ("retrieval", "generation")
        }
        both = _both(entries, task, [next(iter(r.labels), None) for r in stages.values()])
        found += [*stages.values(), both]
    return [ranking for ranking in found if ranking.labels]


def told_of_twins(entries: Sequence[Entry]) -> list[Entry]:
    """Flags each submission that scores on every turn just what an entry before it does: a copy?"""
    return [
        replace(entry, flags=[*entry.flags, *(f for o in entries[:i] for f in _shared(entry, o))])
        if entry.source == "submission"
        else entry
        for i, entry in enumerate(entries)
    ]


def _shared(entry: Entry, other: Entry) -> Iterator[str]:
    for task in sorted(entry.by_turn.keys() & other.by_turn.keys()):
        mine, theirs = entry.by_turn[task], other.by_turn[task]
        for stage in get_args(Stage):
            both = of_stage((metric for metric in mine if metric in theirs), stage)
            # A stage that scores the same on all turns, as with no hit at all, tells nobody apart.
            told = {value for metric in both for value in mine[metric].values()}
            if len(told) > 1 and all(mine[metric] == theirs[metric] for metric in both):
                yield f"{task}: {stage} scores on every turn what {other.title!r} does"


def _of_stage(
    entries: Sequence[Entry], task: str, stage: str
) -> list[tuple[Entry, dict[str, Shown]]]:
    return [
        (entry, {score.metric: score for score in entry.scores[task] if score.stage == stage})
        for entry in entries
        if task in entry.scores
    ]


def _both(entries: Sequence[Entry], task: str, firsts: Sequence[str | None]) -> Ranking:
    """By turn the mean of two metrics, over the turns that are judged for both."""
    joint = {entry.key: dict(_means(entry, task, firsts)) for entry in entries}
    turns = {key: values for key, values in joint.items() if values}
    label = f"mean of {' and '.join(metric_label(name) for name in firsts if name)}"
    rows = [(e, {BOTH: summarise(turns[e.key])}) for e in entries if e.key in turns]
    order = sorted(rows, key=lambda row: -row[1][BOTH].mean)
    places, by_test = _places({e.key: s[BOTH] for e, s in order if not e.bound}, turns)
    return Ranking(
        task,
        "both",
        {BOTH: label} if rows else {},
        tuple(
            Row(e, places.get(e.key), scores, frozenset({BOTH} if _of(e, task) & {*firsts} else ()))
            for e, scores in order
        ),
        by_test,
    )


def _of(entry: Entry, task: str) -> frozenset[str]:
    return entry.recorded.get(task, frozenset())


def _means(entry: Entry, task: str, firsts: Sequence[str | None]) -> Iterator[tuple[str, float]]:
    by_metric = entry.by_turn.get(task, {})
    if all(name in by_metric for name in firsts):
        one, other = (by_metric[str(name)] for name in firsts)
        yield from ((turn, (one[turn] + other[turn]) / 2) for turn in one if turn in other)


def _ranking(
    task: str,
    kind: Literal["retrieval", "generation"],
    rows: Sequence[tuple[Entry, dict[str, Shown]]],
    entries: Sequence[Entry],
) -> Ranking:
    metrics = list(dict.fromkeys(metric for _, scores in rows for metric in scores))
    first = metrics[0] if metrics else ""
    order = sorted(rows, key=lambda row: -row[1][first].mean if first in row[1] else 1.0)
    rivals = {e.key: s[first] for e, s in order if first in s and not e.bound}
    turns = {e.key: e.by_turn.get(task, {}) for e, _ in order}
    at_hand = {key: metrics[first] for key, metrics in turns.items() if first in metrics}
    places, by_test = _places(rivals, at_hand)
    placed = [
        Row(e, places.get(e.key), scores, _of(e, task) & scores.keys()) for e, scores in order
    ]
    published = [
        Row(entry, None, {}, printed=entry.reported[task])
        for entry in entries
        if set(metrics) & set(entry.reported.get(task, {}))
    ]
    labels = {metric: metric_label(metric) for metric in metrics}
    return Ranking(task, kind, labels, (*placed, *published), by_test)


def _places(
    rivals: Mapping[str, Shown], by_turn: Mapping[str, PerTurn]
) -> tuple[dict[str, Ranks], bool]:
    """Entry -> ranks, and whether tests told the systems apart, not only their intervals.

    Tests ask for every rival's scores on the same turns.
    """
    turns = {key: by_turn[key] for key in rivals if key in by_turn}
    if len(turns) == len(rivals) and len({frozenset(values) for values in turns.values()}) <= 1:
        return ranks(turns), True
    ends = [score.ci95 for score in rivals.values()]
    return {
        key: Ranks.of(
            sum(low > own.ci95[1] for low, _ in ends),
            sum(high < own.ci95[0] for _, high in ends),
            len(ends),
        )
        for key, own in rivals.items()
    }, False
