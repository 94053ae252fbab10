"""Many comparisons read together: p values of a family, and ranks by all pairs of systems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from uniconv_bench.statistics.clusters import Clusters
from uniconv_bench.statistics.intervals import LEVEL
from uniconv_bench.statistics.randomisation import flips, share_as_far

Name = TypeVar("Name", bound=Hashable)


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
        clusters = Clusters.of(values)
        shares[name] = clusters.totals / clusters.sizes.sum()
        flipped[name] = flips(len(clusters))[0] @ shares[name]
    return {
        (one, other): share_as_far(shares[one] - shares[other], flipped[one] - flipped[other])
        for one, other in itertools.combinations(systems, 2)
    }
