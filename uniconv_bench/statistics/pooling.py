"""Several runs of one system, with other seeds, as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from uniconv_bench.definitions import PerTurn
from uniconv_bench.statistics.clusters import Clusters
from uniconv_bench.statistics.intervals import LEVEL, MetricSummary, summarise


def pooled(runs: Sequence[Mapping[str, float]]) -> PerTurn:
    """Several runs of one system, with other seeds, as one: by turn the mean over the runs.

    More seeds are not more conversations, so they never narrow what conversations leave open.

    Raises:
        ValueError: no run, or not the same turns.
    """
    if not runs or any(run.keys() != runs[0].keys() for run in runs):
        raise ValueError("runs are pooled over the same turns, one at least")
    return {turn_id: fmean(run[turn_id] for run in runs) for turn_id in runs[0]}


def summarise_runs(runs: Sequence[Mapping[str, float]]) -> MetricSummary:
    """Mean over runs with other seeds, with a 95 % interval over conversations and seeds.

    Student's, with the sum of both variances and its degrees of freedom (Satterthwaite 1946), and
    nowhere inside the interval over conversations. Simulated, it holds the truth in 93 to 97 of 100
    cases; where seeds are most of what varies, of three runs in 91 and of two in 87.

    Raises:
        ValueError: as of `pooled` and `summarise`.
    """
    from scipy.special import stdtrit

    values = pooled(runs)
    whole = summarise(values)
    count, free = len(runs), whole.conversations - 1
    if count == 1 or free == 0:
        return whole
    within = Clusters.of(values).error ** 2
    between = float(np.var(_means(runs), ddof=1)) / count
    if not between:
        return whole
    of_t = (within + between) ** 2 / (within**2 / free + between**2 / (count - 1))
    half = float(stdtrit(of_t, 1 - LEVEL / 2)) * math.sqrt(within + between)
    low, high = min(whole.ci95[0], whole.mean - half), max(whole.ci95[1], whole.mean + half)
    return replace(whole, ci95=(max(low, 0.0), min(high, 1.0)))


def spread_of_runs(runs: Sequence[Mapping[str, float]]) -> float | None:
    """Standard deviation of runs' means, which is what seeds do; None of a single run."""
    return float(np.std(_means(runs), ddof=1)) if len(runs) > 1 else None


def _means(runs: Sequence[Mapping[str, float]]) -> list[float]:
    return [fmean(run.values()) for run in runs]
