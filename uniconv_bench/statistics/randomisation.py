"""The randomisation test of no difference: whole conversations' signs flipped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from uniconv_bench.statistics.clusters import SEED, Clusters, Floats

FLIPS = 9_999
"""Sign flips drawn where there are more than can all be tried."""


def p_of(clusters: Sequence[Clusters], null: float) -> float:
    """Share of sign flips of whole conversations that give a sum as far from 0 as the one seen.

    All of them where they are no more than would be drawn, else (b + 1) / (m + 1) of m drawn.
    """
    values = np.concatenate([(c.totals - null * c.sizes) / c.sizes.sum() for c in clusters])
    signs, _ = flips(len(values))
    return share_as_far(values, signs @ values)


def share_as_far(values: Floats, flipped: Floats) -> float:
    """Of the sums of `values` under `flips`, in that order, those as far from 0 as unflipped."""
    signs, drawn = flips(len(values))
    # Equal sums, added up in another order, differ in their last digits.
    far = abs(math.fsum(values)) - 1e-12 * float(np.abs(values).sum())
    reached = int(np.count_nonzero(np.abs(flipped) >= far))
    return (reached + 1) / (len(signs) + 1) if drawn else reached / len(signs)


@cache
def flips(count: int) -> tuple[Floats, bool]:
    """Rows of 1 and -1 for so many conversations, and whether they were drawn."""
    if 2**count <= FLIPS + 1:
        return np.array(list(itertools.product((1.0, -1.0), repeat=count))), False
    drawn = np.random.default_rng(SEED).integers(0, 2, (FLIPS, count), dtype=np.int8)
    return np.where(drawn, 1.0, -1.0), True
