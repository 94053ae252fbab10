"""Several runs of one system, with other seeds, as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from uniconv_bench.definitions import PerTurn
from uniconv_bench.statistics.clusters import SEED, Clusters
from uniconv_bench.statistics.intervals import RESAMPLES, MetricSummary, summarise, tails


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
    clusters = [Clusters.of(run) for run in runs]
    totals, sizes = np.array([c.totals for c in clusters]), clusters[0].sizes
    centre, count = totals.mean(axis=0), len(runs)
    totals = centre + (totals - centre) * math.sqrt(count / (count - 1))
    random = np.random.default_rng(SEED)
    drawn = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    shares = random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    means = (shares * (drawn @ totals.T)).sum(axis=1) / (drawn @ sizes)
    within = Clusters(centre, sizes).error ** 2
    between = float(np.var([c.mean for c in clusters], ddof=1)) / count
    free = len(sizes) - 1
    spread = within**2 / free + between**2 / (count - 1)
    of_t = (within + between) ** 2 / spread if spread else None
    low, high = np.percentile(means, tails(free, len(sizes), of_t))
    ends = min(float(low), whole.ci95[0]), max(float(high), whole.ci95[1])
    return replace(whole, ci95=(max(ends[0], 0.0), min(ends[1], 1.0)))


def spread_of_runs(runs: Sequence[Mapping[str, float]]) -> float | None:
    """Standard deviation of runs' means, which is what seeds do; None of a single run."""
    means = [math.fsum(run.values()) / len(run) for run in runs]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None
