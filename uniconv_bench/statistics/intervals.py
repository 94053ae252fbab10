"""The interval of a mean: conversations drawn with replacement (bootstrap)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from uniconv_bench.statistics.clusters import SEED, Clusters, Floats

LEVEL = 0.05
"""Below it a p tells two systems apart; intervals are of one minus it."""
FEW = 20
"""Fewer conversations than this, and every interval says so."""
RESAMPLES = 2_000


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
    clusters = Clusters.of(per_turn)
    count = len(clusters)
    mean = math.fsum(per_turn.values()) / len(per_turn)
    if count == 1:
        return MetricSummary(mean, (0.0, 1.0), len(per_turn), 1)
    low, high = bootstrap_interval([clusters])
    if low == high and mean in (0, 1):
        # Resampling shows no doubt, yet the next one might differ. What can be said is the exact
        # bound for none (or all) of so many independent conversations.
        doubt = 1 - 0.025 ** (1 / count)
        low, high = max(0.0, mean - doubt), min(1.0, mean + doubt)
    return MetricSummary(mean, (low, min(high, 1.0)), len(per_turn), count)


def bootstrap_interval(clusters: Sequence[Clusters]) -> tuple[float, float]:
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


def _tails(free: int, count: int) -> tuple[float, float]:
    """The percentiles that end a 95 % interval of so many conversations.

    Plain ones are too narrow for few conversations; these make the interval of a mean of normal
    values as wide as Student's (Hesterberg 2015, "expanded percentile").

    Args:
        free: degrees of freedom.
        count: of conversations.
    """
    from scipy.special import ndtr, stdtrit

    tail = 100 * float(ndtr(stdtrit(free, LEVEL / 2) * math.sqrt(count / free)))
    return tail, 100 - tail
