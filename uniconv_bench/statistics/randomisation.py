"""The randomisation test of no difference: whole conversations' signs flipped, none drawn.

Of few conversations every flip is counted; of more, the sums' distribution is computed on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from uniconv_bench.statistics.clusters import Clusters, Floats

COUNTED = 30
"""Most conversations whose flips are counted, all 2**COUNTED of them."""
HALF = 1 << 15
"""Steps of the grid to either side of 0."""
REACH = 6
"""Standard deviations of the sums that these are."""
DOUBT = 6
"""Standard deviations by which rounding to the grid may have moved a sum."""
BEYOND = 1e-7
"""Share of flips, at most, that reach or are moved further (by Hoeffding's and Levy's bounds)."""


def p_of(clusters: Sequence[Clusters], null: float) -> float:
    """Share of sign flips of whole conversations that give a sum as far from 0 as the one seen.

    Exact where up to `COUNTED` conversations differ. Of more, it is never lower than the exact
    share, and higher by the share of flips whose sums come as near to the one seen as the grid can
    tell: to 1 % of their standard deviation for 200 conversations, to 4 % for 3,000.
    """
    return p_of_sum(np.concatenate([(c.totals - null * c.sizes) / c.sizes.sum() for c in clusters]))


def p_of_sum(values: Floats) -> float:
    """Share of the sums of `values`, with any signs, as far from 0 as with the signs they have."""
    # Equal sums, added up in another order, differ in their last digits.
    slack = 1e-12 * float(np.abs(values).sum())
    far = abs(math.fsum(values)) - slack
    varied = np.abs(values[np.abs(values) > slack])
    if far <= 0:
        return 1.0
    return _counted(varied, far) if len(varied) <= COUNTED else _on_a_grid(varied, far)


def _counted(values: Floats, far: float) -> float:
    """Every sum of one half with every sum of the other, which are in order."""
    half = len(values) // 2
    some, others = _sums(values[:half]), np.sort(_sums(values[half:]))
    reached = int((len(others) - np.searchsorted(others, np.sort(far - some))).sum())
    return float(2 * reached / 2 ** len(values))


def _sums(values: Floats) -> Floats:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _on_a_grid(values: Floats, far: float) -> float:
    deviation = math.sqrt(float(values @ values))
    if far > REACH * deviation:
        return 2 * math.exp(-((far / deviation) ** 2) / 2)
    exact = values * (HALF / REACH / deviation)
    rounded = np.rint(exact).astype(int)
    shares = np.zeros(2 * HALF + 1)
    shares[HALF] = 1.0
    flipped = np.empty_like(shares)
    for steps in rounded[rounded > 0]:
        np.add(shares[: -2 * steps], shares[2 * steps :], out=flipped[steps:-steps])
        flipped[:steps], flipped[-steps:] = shares[steps : 2 * steps], shares[-2 * steps : -steps]
        flipped /= 2
        shares, flipped = flipped, shares
    # What rounding took from the values is summed with the same random signs.
    doubt = DOUBT * math.sqrt(float(((exact - rounded) ** 2).sum()))
    first = HALF + math.ceil(far * HALF / REACH / deviation - doubt)
    return min(1.0, 2 * float(shares[max(first, HALF) :].sum()) + BEYOND)
