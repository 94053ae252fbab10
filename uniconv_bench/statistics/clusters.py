"""Turns grouped by conversation, which is what is drawn, flipped and counted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SEED = 13
"""Of all that is drawn at random."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Sums and numbers of turns by conversation, in the order of their names."""

    totals: Floats
    sizes: Floats

    @staticmethod
    def of(per_turn: Mapping[str, float]) -> Clusters:
        """Of values by turn."""
        clusters: dict[str, list[float]] = defaultdict(list)
        for turn_id in sorted(per_turn):
            clusters[conversation_of(turn_id)].append(per_turn[turn_id])
        return Clusters(
            np.array([math.fsum(values) for values in clusters.values()]),
            np.array([len(values) for values in clusters.values()], dtype=float),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def mean(self) -> float:
        """Over turns."""
        return math.fsum(self.totals) / float(self.sizes.sum())

    @property
    def error(self) -> float:
        """Standard error of the mean, a ratio of two sums over conversations."""
        rest = self.totals - self.mean * self.sizes
        count = len(self)
        return math.sqrt(count / (count - 1) * float(rest @ rest)) / float(self.sizes.sum())

    def resampled(self, draws: Floats) -> Floats:
        """Means over conversations drawn with replacement: a value a draw."""
        means: Floats = (draws @ self.totals) / (draws @ self.sizes)
        return means


def conversation_of(turn_id: str) -> str:
    """The conversation of `<conversation>_<turn>`; an id of another shape stands alone."""
    return turn_id.rpartition("_")[0] or turn_id
