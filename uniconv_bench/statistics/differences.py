"""How far one system is above another on the same turns, and how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uniconv_bench.definitions import PerTurn
from uniconv_bench.statistics.clusters import Clusters
from uniconv_bench.statistics.intervals import LEVEL, bootstrap_interval
from uniconv_bench.statistics.randomisation import p_of

POWER = 0.8


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
    clusters = [Clusters.of(values) for values in differences]
    every = [value for values in differences for value in values.values()]
    mean = math.fsum(c.mean for c in clusters) / len(clusters)
    interval, detectable = (-1.0, 1.0), None
    if all(len(c) > 1 for c in clusters):
        interval = bootstrap_interval(clusters)
        detectable = _detectable(clusters)
    return PairedDifference(
        mean=mean,
        ci95=interval,
        p=p_of(clusters, null),
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
    return p_of([Clusters.of(_minus(one, other))], 0.0)


def _minus(one: Mapping[str, float], other: Mapping[str, float]) -> PerTurn:
    if not one or one.keys() != other.keys():
        raise ValueError("differences are of the same turns, one at least")
    return {turn_id: value - other[turn_id] for turn_id, value in one.items()}


def _detectable(clusters: Sequence[Clusters]) -> float:
    from scipy.special import stdtrit

    free = sum(map(len, clusters)) - len(clusters)
    error = math.sqrt(math.fsum(c.error**2 for c in clusters)) / len(clusters)
    return float(stdtrit(free, 1 - LEVEL / 2) + stdtrit(free, POWER)) * error


def _effect(clusters: Sequence[Clusters]) -> float | None:
    means = np.concatenate([c.totals / c.sizes for c in clusters])
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return float(means.mean()) / spread if spread > 1e-12 else None
