"""How far a record's figures move under the conventions that papers and tools differ in.

Knows records, scores by turn, plain rankings and judgements, no task and no system.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from uniconv_bench.definitions import RETRIEVAL, PerTurn, parse_metric
from uniconv_bench.records import ResultRecord
from uniconv_bench.statistics.clusters import conversation_of

Ranking = Sequence[tuple[str, float]]
"""(passage, score) of a turn, as a run file has them."""
Place = Callable[[str, float, bool], tuple[float, str | bool]]
"""(passage, score, is it relevant) -> what to sort by, best first."""


@dataclass(frozen=True)
class Shifted:
    """A figure under another convention.

    Attributes:
        metric: as recorded.
        convention: in words.
        mean: under it.
        recorded: the record's own mean.
        n: what is averaged under it.
    """

    metric: str
    convention: str
    mean: float
    recorded: float
    n: int


def by_averaging(record: ResultRecord, by_turn: Mapping[str, PerTurn]) -> list[Shifted]:
    """What scores by turn alone can tell: other means over them, and other variants of F1."""
    found = []
    for score in record.scores:
        values = by_turn[score.metric]
        for convention, chosen in _averages(record, score.stage, values):
            if chosen:
                found.append(
                    Shifted(score.metric, convention, fmean(chosen), score.mean, len(chosen))
                )
        if score.metric == "f1":
            found += [
                Shifted(
                    "f1",
                    f"the dataset's own variant, {other.metric}",
                    other.mean,
                    score.mean,
                    other.n,
                )
                for other in record.scores
                if other.metric.startswith("f1_")
            ]
    return found


def _averages(
    record: ResultRecord, stage: str, values: PerTurn
) -> Iterator[tuple[str, list[float]]]:
    by_conversation: dict[str, list[str]] = defaultdict(list)
    for turn_id in values:
        by_conversation[conversation_of(turn_id)].append(turn_id)
    means = [fmean(values[turn] for turn in turns) for turns in by_conversation.values()]
    yield "each conversation weighs alike", means
    first = {min(turns, key=_number) for turns in by_conversation.values()}
    yield "without the first judged turn", [v for turn, v in values.items() if turn not in first]
    counts = record.counts
    lost = counts.missing_run if stage == "retrieval" else counts.missing_answers
    if lost:  # such turns scored 0, so dropping any as many zeros is dropping them
        zeros = sorted(values.values())
        name = "not ranked" if stage == "retrieval" else "not answered"
        yield f"turns {name} dropped, not zero", zeros[lost:]


def _number(turn_id: str) -> tuple[int, str]:
    tail = turn_id.rpartition("_")[2]
    return (int(tail) if tail.isdecimal() else 0, turn_id)


TIES: Mapping[str, Place] = {
    "by passage id, as trec_eval: highest first": lambda p, score, relevant: (score, p),
    "the relevant first, as luck could have it": lambda p, score, relevant: (score, relevant),
    "the relevant last, as bad luck could": lambda p, score, relevant: (score, not relevant),
}
"""Rules for passages of equal score; ours is by passage id, lowest first."""


def by_ties(
    record: ResultRecord,
    run: Mapping[str, Ranking],
    qrels: Mapping[str, Mapping[str, int]],
) -> list[Shifted]:
    """What a run file can tell: how passages of equal score are put in order."""
    found = []
    for score in record.scores:
        if score.stage != "retrieval":
            continue
        metric = parse_metric(score.metric)
        value = RETRIEVAL[metric.name.partition("@")[0]].value
        for convention, place in TIES.items():
            values = []
            for turn_id, grades in qrels.items():
                relevant = {p: g for p, g in grades.items() if g > 0}
                ranked = sorted(
                    run.get(turn_id, ()),
                    key=lambda row: place(row[0], row[1], row[0] in relevant),  # noqa: B023
                    reverse=True,
                )
                graded = [float(relevant.get(p, 0)) for p, _ in ranked]
                values.append(value(graded, [*map(float, relevant.values())], metric.cutoff))
            name = f"ties {convention}"
            found.append(Shifted(score.metric, name, fmean(values), score.mean, len(values)))
    return found
