"""Many comparisons read together: p values of a family, and the ranks they leave open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

from uniconv_bench.statistics.clusters import Clusters
from uniconv_bench.statistics.intervals import LEVEL
from uniconv_bench.statistics.randomisation import p_of_sum

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


class Ranks(NamedTuple):
    """The ranks that a system can have for all that tests tell."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"

    @staticmethod
    def of(above: int, below: int, systems: int) -> Ranks:
        """From how many of all systems are surely above and below."""
        return Ranks(1 + above, systems - below)


def ranks(systems: Mapping[Name, Mapping[str, float]]) -> dict[Name, Ranks]:
    """From one more than the systems surely above to as many as are not surely below.

    An interval holds its system's true rank among those given in about 95 of 100 cases or more, as
    far as differences are symmetric, which flipping signs assumes (Mogstad et al. 2024,
    "Inference for ranks"): it rests on the system's own comparisons with the others,
    by `p_value`, after Holm over these alone. Two are told apart only if the comparisons of both
    say so. So a family grows with the systems, not with their pairs, and one that is far off costs
    the others nothing. Noise widens an interval to both sides.

    Raises:
        ValueError: no turn, or not the same turns.
    """
    mean = {name: math.fsum(values.values()) for name, values in systems.items()}
    rivals: dict[Name, dict[Name, float]] = {name: {} for name in systems}
    for (one, other), p in _p_of_pairs(systems).items():
        rivals[one][other] = rivals[other][one] = p
    told = {
        (name, other)
        for name, p_values in rivals.items()
        for other, p in holm(p_values).items()
        if p < LEVEL
    }
    found = {}
    for name in systems:
        apart = [other for other in systems if {(name, other), (other, name)} <= told]
        above = sum(mean[other] > mean[name] for other in apart)
        found[name] = Ranks.of(above, len(apart) - above, len(systems))
    return found


def _p_of_pairs(
    systems: Mapping[Name, Mapping[str, float]],
) -> dict[tuple[Any, Any], float]:
    """`p_value` of every pair; conversations are summed once a system, not once a pair."""
    every = list(systems.values())
    if any(not values or values.keys() != every[0].keys() for values in every):
        raise ValueError("differences are of the same turns, one at least")
    clusters = {name: Clusters.of(values) for name, values in systems.items()}
    shares = {name: c.totals / c.sizes.sum() for name, c in clusters.items()}
    return {
        (one, other): p_of_sum(shares[one] - shares[other])
        for one, other in itertools.combinations(systems, 2)
    }
