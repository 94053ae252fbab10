"""What scores by turn say of a system, and of the difference between two.

Turns of one conversation are not independent, so conversations are what is drawn, flipped and
counted everywhere. Knows numbers alone: no record, no task, no metric.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uniconv_bench.definitions import PerTurn

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=Hashable)

LEVEL = 0.05
"""Below it a p tells two systems apart; intervals are of one minus it."""
POWER = 0.8
FEW = 20
"""Fewer conversations than this, and every interval says so."""
FLIPS = 9_999
"""Sign flips drawn where there are more than can all be tried."""
RESAMPLES = 2_000
SEED = 13


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """Mean over the judged turns with its 95 % interval.

    Attributes:
        mean: a fraction.
        ci95: bootstrap over conversations, its percentiles widened for their number.
        n: turns averaged.
        conversations: clusters resampled.
    """

    mean: float
    ci95: tuple[float, float]
    n: int
    conversations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One mean minus another's on the same turns.

    Attributes:
        mean: of the differences by turn; of several tasks the mean of their means.
        ci95: bootstrap over conversations, its percentiles widened for their number.
        p: two-sided, by flipping the sign of whole conversations; of the difference being `null`.
        null: the difference that `p` is against.
        detectable: the smallest true difference from `null` that as many such conversations show
            in four of five cases; None of one conversation.
        n: turns.
        conversations: in all tasks together.
    """

    mean: float
    ci95: tuple[float, float]
    p: float
    null: float
    detectable: float | None
    n: int
    conversations: int

    def __neg__(self) -> Difference:
        """The other way round."""
        low, high = self.ci95
        return Difference(
            mean=-self.mean,
            ci95=(-high, -low),
            p=self.p,
            null=-self.null,
            detectable=self.detectable,
            n=self.n,
            conversations=self.conversations,
        )

    @property
    def turns_to_settle(self) -> int | None:
        """Turns that would show a true difference as large as the one seen; None: no number of."""
        distance = abs(self.mean - self.null)
        if not distance or self.detectable is None:
            return None
        return math.ceil(self.n * (self.detectable / distance) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference(Difference):
    """Likewise, and what is to be seen where both sides' values by turn are at hand.

    Attributes:
        effect: mean over the standard deviation, both of conversations' mean differences (Cohen's
            d_z); None where they do not differ, or there is but one.
        wins: turns on which the first is better.
        ties: turns with equal values.
        losses: turns on which the first is worse.
    """

    effect: float | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class _Clusters:
    """Sums and numbers of turns by conversation, in the order of their names."""

    totals: Floats
    sizes: Floats

    @staticmethod
    def of(per_turn: Mapping[str, float]) -> _Clusters:
        clusters: dict[str, list[float]] = defaultdict(list)
        for turn_id in sorted(per_turn):
            clusters[conversation_of(turn_id)].append(per_turn[turn_id])
        return _Clusters(
            np.array([math.fsum(values) for values in clusters.values()]),
            np.array([len(values) for values in clusters.values()], dtype=float),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def mean(self) -> float:
        return math.fsum(self.totals) / float(self.sizes.sum())

    @property
    def error(self) -> float:
        """Standard error of the mean, a ratio of two sums over conversations."""
        rest = self.totals - self.mean * self.sizes
        count = len(self)
        return math.sqrt(count / (count - 1) * float(rest @ rest)) / float(self.sizes.sum())

    def resampled(self, draws: Floats) -> Floats:
        """Means over conversations drawn with replacement: (RESAMPLES,)."""
        means: Floats = (draws @ self.totals) / (draws @ self.sizes)
        return means


def conversation_of(turn_id: str) -> str:
    """The conversation of `<conversation>_<turn>`; an id of another shape stands alone."""
    return turn_id.rpartition("_")[0] or turn_id


def summarise(per_turn: Mapping[str, float]) -> MetricSummary:
    """Mean over turns and its 95 % bootstrap interval over conversations.

    Whole conversations are drawn, and the mean of a draw is over its turns. One conversation alone
    says nothing of the others: (0, 1).

    Raises:
        ValueError: no turn, or a value that is not in [0, 1].
    """
    if not per_turn:
        raise ValueError("no turn to average")
    if not all(0 <= value <= 1 for value in per_turn.values()):
        raise ValueError("a value is not in [0, 1]")
    clusters = _Clusters.of(per_turn)
    count = len(clusters)
    mean = math.fsum(per_turn.values()) / len(per_turn)
    if count == 1:
        return MetricSummary(mean, (0.0, 1.0), len(per_turn), 1)
    low, high = _interval([clusters])
    if low == high and mean in (0, 1):
        # Resampling shows no doubt, yet the next one might differ. What can be said is the exact
        # bound for none (or all) of so many independent conversations.
        doubt = 1 - 0.025 ** (1 / count)
        low, high = max(0.0, mean - doubt), min(1.0, mean + doubt)
    return MetricSummary(mean, (low, min(high, 1.0)), len(per_turn), count)


def _interval(clusters: Sequence[_Clusters]) -> tuple[float, float]:
    """95 % interval of the mean over tasks."""
    draws = resamples(*map(len, clusters))
    means = np.mean([c.resampled(d) for c, d in zip(clusters, draws, strict=True)], axis=0)
    count = sum(map(len, clusters))
    low, high = np.percentile(means, _tails(count - len(clusters), count))
    return float(low), float(high)


@lru_cache(maxsize=1)
def resamples(*counts: int) -> list[Floats]:
    """How often each of so many conversations of a task is drawn: (RESAMPLES, count) a task.

    The same for all metrics of the same turns, which come one after another.
    """
    random = np.random.default_rng(SEED)
    return [
        random.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
        for count in counts
    ]


def _tails(free: int, count: int, of_t: float | None = None) -> tuple[float, float]:
    """The percentiles that end a 95 % interval of so many conversations.

    Plain ones are too narrow for few conversations; these make the interval of a mean of normal
    values as wide as Student's (Hesterberg 2015, "expanded percentile").

    Args:
        free: degrees of freedom of the conversations.
        count: of conversations.
        of_t: degrees of freedom of the mean, where conversations are not all it varies with.
    """
    from scipy.special import ndtr, stdtrit

    tail = 100 * float(ndtr(stdtrit(of_t or free, LEVEL / 2) * math.sqrt(count / free)))
    return tail, 100 - tail


def paired(
    *tasks: tuple[Mapping[str, float], Mapping[str, float]], null: float = 0.0
) -> PairedDifference:
    """How far one system is above another on the same turns.

    Args:
        tasks: (values of the one, values of the other) by turn. Several tasks weigh alike, however
            many turns each has; conversations are drawn within their task.
        null: what the difference is tested against; minus a margin asks for "not worse by more".

    Raises:
        ValueError: no turn, or not the same turns.
    """
    differences = [_minus(one, other) for one, other in tasks]
    clusters = [_Clusters.of(values) for values in differences]
    every = [value for values in differences for value in values.values()]
    mean = math.fsum(c.mean for c in clusters) / len(clusters)
    interval, detectable = (-1.0, 1.0), None
    if all(len(c) > 1 for c in clusters):
        interval = _interval(clusters)
        detectable = _detectable(clusters)
    return PairedDifference(
        mean=mean,
        ci95=interval,
        p=_p_of(clusters, null),
        null=null,
        effect=_effect(clusters),
        detectable=detectable,
        wins=sum(value > 0 for value in every),
        ties=sum(value == 0 for value in every),
        losses=sum(value < 0 for value in every),
        n=len(every),
        conversations=sum(map(len, clusters)),
    )


def p_value(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The p of `paired` alone."""
    return _p_of([_Clusters.of(_minus(one, other))], 0.0)


def _minus(one: Mapping[str, float], other: Mapping[str, float]) -> PerTurn:
    if not one or one.keys() != other.keys():
        raise ValueError("differences are of the same turns, one at least")
    return {turn_id: value - other[turn_id] for turn_id, value in one.items()}


def _detectable(clusters: Sequence[_Clusters]) -> float:
    from scipy.special import stdtrit

    free = sum(map(len, clusters)) - len(clusters)
    error = math.sqrt(math.fsum(c.error**2 for c in clusters)) / len(clusters)
    return float(stdtrit(free, 1 - LEVEL / 2) + stdtrit(free, POWER)) * error


def _effect(clusters: Sequence[_Clusters]) -> float | None:
    means = np.concatenate([c.totals / c.sizes for c in clusters])
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return float(means.mean()) / spread if spread > 1e-12 else None


def _p_of(clusters: Sequence[_Clusters], null: float) -> float:
    """Share of sign flips of whole conversations that give a sum as far from 0 as the one seen.

    All of them where they are no more than would be drawn, else (b + 1) / (m + 1) of m drawn.
    """
    values = np.concatenate([(c.totals - null * c.sizes) / c.sizes.sum() for c in clusters])
    signs, _ = _signs(len(values))
    return _share_as_far(values, signs @ values)


def _share_as_far(values: Floats, flipped: Floats) -> float:
    """Of the sums of `values` under `_signs`, in that order, those as far from 0 as unflipped."""
    signs, drawn = _signs(len(values))
    # Equal sums, added up in another order, differ in their last digits.
    far = abs(math.fsum(values)) - 1e-12 * float(np.abs(values).sum())
    reached = int(np.count_nonzero(np.abs(flipped) >= far))
    return (reached + 1) / (len(signs) + 1) if drawn else reached / len(signs)


@cache
def _signs(count: int) -> tuple[Floats, bool]:
    """Rows of 1 and -1 for so many conversations, and whether they were drawn."""
    if 2**count <= FLIPS + 1:
        return np.array(list(itertools.product((1.0, -1.0), repeat=count))), False
    drawn = np.random.default_rng(SEED).integers(0, 2, (FLIPS, count), dtype=np.int8)
    return np.where(drawn, 1.0, -1.0), True


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """P values of one family, each raised so that all can be read together (Holm 1979)."""
    adjusted: dict[Name, float] = {}
    highest, left = 0.0, len(p_values)
    for name in sorted(p_values, key=lambda name: p_values[name]):
        highest = max(highest, min(1.0, left * p_values[name]))
        adjusted[name] = highest
        left -= 1
    return {name: adjusted[name] for name in p_values}


def ranks(systems: Mapping[Name, Mapping[str, float]]) -> dict[Name, int]:
    """One more than the number of systems that are better, told apart by `p_value` after Holm.

    So systems that cannot be told apart share a rank.

    Raises:
        ValueError: no turn, or not the same turns.
    """
    mean = {name: math.fsum(values.values()) for name, values in systems.items()}
    better = {name: 0 for name in systems}
    for (one, other), p in holm(_p_of_pairs(systems)).items():
        if p < LEVEL:
            better[one if mean[one] < mean[other] else other] += 1
    return {name: 1 + count for name, count in better.items()}


def _p_of_pairs(
    systems: Mapping[Name, Mapping[str, float]],
) -> dict[tuple[Any, Any], float]:
    """`p_value` of every pair: a difference of flipped sums is the flipped sum of a difference."""
    every = list(systems.values())
    if any(not values or values.keys() != every[0].keys() for values in every):
        raise ValueError("differences are of the same turns, one at least")
    shares, flipped = {}, {}
    for name, values in systems.items():
        clusters = _Clusters.of(values)
        shares[name] = clusters.totals / clusters.sizes.sum()
        flipped[name] = _signs(len(clusters))[0] @ shares[name]
    return {
        (one, other): _share_as_far(shares[one] - shares[other], flipped[one] - flipped[other])
        for one, other in itertools.combinations(systems, 2)
    }


def pooled(runs: Sequence[Mapping[str, float]]) -> PerTurn:
    """Several runs of one system, with other seeds, as one: by turn the mean over the runs.

    More seeds are not more conversations, so they never narrow what conversations leave open.

    Raises:
        ValueError: no run, or not the same turns.
    """
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError("runs are pooled over the same turns, one at least")
    return {turn_id: math.fsum(run[turn_id] for run in runs) / len(runs) for turn_id in runs[0]}


def summarise_runs(runs: Sequence[Mapping[str, float]]) -> MetricSummary:
    """Mean over runs with other seeds, with a 95 % interval over conversations and seeds.

    Conversations and runs are both drawn, independently. Of few runs the draws vary too little, by
    (S - 1) / S, so each run's distance from their mean is stretched by the root of its inverse; and
    percentiles are Student's with the degrees of freedom of both variances (Satterthwaite 1946).

    Raises:
        ValueError: as of `pooled` and `summarise`.
    """
    whole = summarise(pooled(runs))
    if len(runs) == 1 or whole.conversations == 1:
        return whole
    clusters = [_Clusters.of(run) for run in runs]
    totals, sizes = np.array([c.totals for c in clusters]), clusters[0].sizes
    centre, count = totals.mean(axis=0), len(runs)
    totals = centre + (totals - centre) * math.sqrt(count / (count - 1))
    random = np.random.default_rng(SEED)
    drawn = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    shares = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    means = (shares * (drawn @ totals.T)).sum(axis=1) / (drawn @ sizes)
    within = _Clusters(centre, sizes).error ** 2
    between = float(np.var([c.mean for c in clusters], ddof=1)) / count
    free = len(sizes) - 1
    spread = within**2 / free + between**2 / (count - 1)
    of_t = (within + between) ** 2 / spread if spread else None
    low, high = np.percentile(means, _tails(free, len(sizes), of_t))
    ends = min(float(low), whole.ci95[0]), max(float(high), whole.ci95[1])
    return replace(whole, ci95=(max(ends[0], 0.0), min(ends[1], 1.0)))


def spread_of_runs(runs: Sequence[Mapping[str, float]]) -> float | None:
    """Standard deviation of runs' means, which is what seeds do; None of a single run."""
    means = [math.fsum(run.values()) / len(run) for run in runs]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None
