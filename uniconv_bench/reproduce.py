"""A record against another of the same system, or against figures printed elsewhere.

The ladder is that of repro_eval (Breuer et al. 2020): the same order of passages, the same scores
by turn, the same effect over a baseline. Knows records and plain rankings, no task and no system.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from uniconv_bench.comparison import Measured, refuse_unlike, same_turns
from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json, read_jsonl
from uniconv_bench.footnotes import PART
from uniconv_bench.records import ResultRecord, results_of
from uniconv_bench.seeds import settings_apart
from uniconv_bench.spread import numerical_spread
from uniconv_bench.statistics.differences import paired

if TYPE_CHECKING:
    from uniconv_bench.cards import Reported

Outcome = Literal["same", "close", "different"]
Rankings = Mapping[str, Sequence[str]]
"""turn_id -> passages, best first."""
TOLERANCE = 0.005
REASON = "ours: half a point, five times the last digit that papers print"
EXACT = 1e-9
PRINTED = 0.0005
"""Half of the last digit of a printed percentage."""
PERSISTENCE = 0.9
"""Of rank-biased overlap: the chance that a reader goes on to the next passage."""


@dataclass(frozen=True)
class Reproduced:
    """One metric of a record, held against another figure for it.

    Attributes:
        metric: its name.
        outcome: `same` to the ninth decimal on every turn (of a printed figure: to its last digit),
            `close` if the means are within the tolerance, else `different`.
        mean: of the record.
        against: the other figure.
        source: where that is from.
        inside: whether the other figure lies in the record's 95 % interval.
        rmse: root mean square of the differences by turn; None where they are not at hand.
        p: of no difference by a paired test; likewise.
        effect_ratio: the gain over the baseline as a multiple of the other's; None: no baseline.
        delta_ri: the other's relative gain minus the record's; likewise.
    """

    metric: str
    outcome: Outcome
    mean: float
    against: float
    source: str
    inside: bool
    rmse: float | None = None
    p: float | None = None
    effect_ratio: float | None = None
    delta_ri: float | None = None


@dataclass(frozen=True)
class Order:
    """How alike two runs rank: means over turns.

    Attributes:
        tau: Kendall's tau-b over the passages of either; one that a run lacks is last.
        rbo: extrapolated rank-biased overlap (Webber et al. 2010).
        turns: in both.
    """

    tau: float
    rbo: float
    turns: int


def near(record: ResultRecord, file: Path) -> tuple[float, str]:
    """The tolerance, and its reason: what papers' digits ask for, or what rounding moves if more.

    Args:
        record: whose scores are held against others.
        file: its, in a folder of results that may have the study of numerics.
    """
    spread = numerical_spread([results_of(file)], record.task.profile)
    metrics = [score.metric for score in record.scores]
    if spread is None:
        return TOLERANCE, REASON
    most = max([TOLERANCE, *map(spread.of, metrics)])
    return most, ". ".join([REASON, *spread.sentences(metrics)])


def against_record(
    record: Measured,
    other: Measured,
    baselines: tuple[Measured, Measured] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Reproduced]:
    """Every metric that two records of one system have in common.

    Args:
        record: what was made again.
        other: what it was to reproduce.
        baselines: one baseline beside the one and beside the other; None: effects are left out.
        tolerance: within which figures are close.

    Raises:
        UserError: they are of different systems, turns or data.
    """
    ours, theirs = record.record, other.record
    if ours.system.name != theirs.system.name:
        what = f"records of different systems: {ours.system.name} and {theirs.system.name}"
        raise UserError(what, mend="uniconv-bench compare tells two systems apart")
    refuse_unlike(ours, theirs)
    found = []
    for score in ours.scores:
        if (theirs_too := theirs.score(score.metric)) is None:
            continue
        one, two = same_turns(record, other, score.metric)
        squares = [(value - two[turn]) ** 2 for turn, value in one.items()]
        gap = abs(score.mean - theirs_too.mean)
        rmse = math.sqrt(fmean(squares))
        found.append(
            Reproduced(
                score.metric,
                "same" if rmse <= EXACT else "close" if gap <= tolerance else "different",
                score.mean,
                theirs_too.mean,
                f"record {theirs.digest[:12]}",
                score.ci95[0] <= theirs_too.mean <= score.ci95[1],
                rmse,
                paired((one, two)).p,
                *_effects(score.metric, record, other, baselines),
            )
        )
    if not found:
        raise UserError("the two records have no metric in common", mend="run both again")
    return found


def against_published(
    record: ResultRecord, figures: Iterable[Reported], tolerance: float = TOLERANCE
) -> list[Reproduced]:
    """Every figure printed elsewhere for a record's system, task and metrics.

    Raises:
        UserError: there is none, or the record is not of the whole dataset and corpus.
    """
    task, system = record.task, record.system.name
    if task.profile != "full" or task.part or task.unchecked or record.limit is not None:
        what = f"of profile {task.profile}" if task.profile != "full" else f"of {PART}"
        raise UserError(
            f"a record {what} cannot reproduce a published figure",
            mend="run it at --profile full, on all files and all turns",
        )
    found = []
    for figure in figures:
        score = record.score(figure.metric)
        if figure.system != system or score is None:
            continue
        gap = abs(score.mean - figure.fraction)
        found.append(
            Reproduced(
                figure.metric,
                "same" if gap <= PRINTED else "close" if gap <= tolerance else "different",
                score.mean,
                figure.fraction,
                f"{figure.source} ({figure.kind})",
                score.ci95[0] <= figure.fraction <= score.ci95[1],
            )
        )
    if not found:
        what = f"no figure for {system} on {task.name} is known from elsewhere"
        raise UserError(what, mend=f"uniconv-bench show task {task.name} lists those there are")
    return found


def _effects(
    metric: str, record: Measured, other: Measured, baselines: tuple[Measured, Measured] | None
) -> tuple[float | None, float | None]:
    """(effect ratio, delta of relative improvements); None where nothing can be divided by."""
    if baselines is None or any(metric not in base.by_turn for base in baselines):
        return None, None
    ours, theirs = (
        [fmean(values.values()) for values in same_turns(system, base, metric)]
        for system, base in zip((record, other), baselines, strict=True)
    )
    gained, due = ours[0] - ours[1], theirs[0] - theirs[1]
    ratio = gained / due if due else None
    relative = due / theirs[1] - gained / ours[1] if ours[1] and theirs[1] else None
    return ratio, relative


def order(one: Rankings, other: Rankings) -> Order:
    """How alike two runs rank the turns that both rank.

    Raises:
        UserError: they have no turn in common.
    """
    from scipy.stats import kendalltau

    turns = [turn for turn in one if one[turn] and other.get(turn)]
    if not turns:
        raise UserError("the two runs rank no turn in common", mend="give runs of one task")
    taus, overlaps = [], []
    for turn in turns:
        places = [{p: i for i, p in enumerate(ranked)} for ranked in (one[turn], other[turn])]
        passages = list(dict.fromkeys([*one[turn], *other[turn]]))
        ranks = [[place.get(p, len(place)) for p in passages] for place in places]
        single = len(passages) == 1  # of which there is but one order
        taus.append(1.0 if single else float(kendalltau(*ranks).statistic))
        overlaps.append(rank_biased_overlap(one[turn], other[turn]))
    return Order(fmean(taus), fmean(overlaps), len(turns))


def rank_biased_overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Extrapolated from as deep as both go: agreement X_d / d, weighted by p ** d."""
    depth = min(len(one), len(other))
    seen: tuple[set[str], set[str]] = (set(), set())
    total = agreement = 0.0
    for d in range(1, depth + 1):
        seen[0].add(one[d - 1])
        seen[1].add(other[d - 1])
        agreement = len(seen[0] & seen[1]) / d
        total += agreement * PERSISTENCE**d
    return agreement * PERSISTENCE**depth + (1 - PERSISTENCE) / PERSISTENCE * total


def switches(one: ResultRecord, other: ResultRecord) -> dict[str, tuple[Any, Any]]:
    """What the two records do not share of all that their scores may depend on, by name."""
    sides = [
        {
            "backbone": record.system.backbone,
            "backbone revision": record.system.backbone_revision,
            **{f"weights of {name}": d for name, d in record.system.adapters.items()},
            **{f"package {name}": v for name, v in record.provenance.packages.items()},
            **{
                f"training of {name}: {what}": getattr(training, what)
                for name, training in record.provenance.training.items()
                for what in ("seed", "device", "code", "steps", "tokens")
            },
            "commit": record.provenance.commit,
            "hardware": record.provenance.hardware,
        }
        for record in (one, other)
    ]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return settings_apart(one, other) | {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}


def enter(
    ledger: Path, record: ResultRecord, rows: Sequence[Reproduced], tolerance: float, reason: str
) -> int:
    """Appends to a ledger, a JSON line a figure, what it does not hold yet; returns how many."""
    there = {canonical_json(row) for _, row in read_jsonl(ledger)} if ledger.exists() else set()
    entries = [
        {
            "task": record.task.name,
            "profile": record.task.profile,
            "system": record.system.name,
            "record": record.digest,
            "n": next(s.n for s in record.scores if s.metric == row.metric),
            **asdict(row),
            "tolerance": tolerance,
            "reason": reason,
        }
        for row in rows
    ]
    new = [entry for entry in entries if canonical_json(entry) not in there]
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in new)
    return len(new)
