"""Worlds of conversations whose turns resemble each other, where the truth is known.

`python tests/clustered.py results/statistics.png` (minutes) draws how often intervals hold the
truth and how often tests cry wolf, by conversation and, for contrast, as if turns were independent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import erf, sqrt

import numpy as np

from uniconv_bench.definitions import PerTurn
from uniconv_bench.statistics.differences import p_value, paired
from uniconv_bench.statistics.intervals import LEVEL, summarise

ALIKE = 0.4
"""Correlation of two turns of one conversation, before the values are squeezed into [0, 1]."""
TRUTH = 0.5
"""The mean of all values there could be."""


def world(conversations: int, random: np.random.Generator) -> PerTurn:
    """A system's scores: 3 to 8 turns a conversation, uniform in [0, 1] over all of them."""
    values = {}
    for conversation in range(conversations):
        common = random.normal()
        for turn in range(random.integers(3, 9)):
            latent = sqrt(ALIKE) * common + sqrt(1 - ALIKE) * random.normal()
            values[f"{conversation}_{turn}"] = (1 + erf(latent / sqrt(2))) / 2
    return values


def rival(scores: PerTurn, random: np.random.Generator) -> PerTurn:
    """A system as good as the first, better in some conversations and worse in others."""
    other = world(len({turn.partition("_")[0] for turn in scores}), random)
    by_conversation: dict[str, list[float]] = {}
    for turn, value in other.items():
        by_conversation.setdefault(turn.partition("_")[0], []).append(value)
    drawn = {}
    for turn in scores:
        conversation, _, number = turn.partition("_")
        values = by_conversation[conversation]
        drawn[turn] = values[int(number) % len(values)]
    return drawn


def as_if_independent(scores: PerTurn) -> PerTurn:
    """The same turns, each a conversation of its own."""
    return {turn.replace("_", "t"): value for turn, value in scores.items()}


def measured(conversations: int, worlds: int, seed: int, naive: bool) -> tuple[float, float, float]:
    """Shares of worlds: mean's interval holds the truth, difference's does, a test cries wolf."""
    random = np.random.default_rng(seed)
    held = told = wolf = 0
    for _ in range(worlds):
        one = world(conversations, random)
        other = rival(one, random)
        if naive:
            one, other = as_if_independent(one), as_if_independent(other)
        low, high = summarise(one).ci95
        held += low <= TRUTH <= high
        difference = paired((one, other))
        told += difference.ci95[0] <= 0 <= difference.ci95[1]
        wolf += difference.p < LEVEL
    return held / worlds, told / worlds, wolf / worlds


def level(conversations: int, worlds: int, seed: int, naive: bool) -> float:
    """The last of `measured` alone, which is quick."""
    random = np.random.default_rng(seed)
    wolf = 0
    for _ in range(worlds):
        one = world(conversations, random)
        other = rival(one, random)
        if naive:
            one, other = as_if_independent(one), as_if_independent(other)
        wolf += p_value(one, other) < LEVEL
    return wolf / worlds


def draw(path: str, sizes: Sequence[int] = (10, 20, 40, 80), worlds: int = 1000) -> None:
    """The figure, and its numbers on stdout."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(9, 3), sharex=True)
    titles = ("Interval of a mean", "Interval of a difference", "Test of no difference")
    for naive, name, style in (
        (False, "by conversation", {"color": "#0072B2", "marker": "o", "linestyle": "-"}),
        (True, "by turn", {"color": "#D55E00", "marker": "s", "linestyle": "--"}),
    ):
        found = [measured(size, worlds, size, naive) for size in sizes]
        for size, shares in zip(sizes, found, strict=True):
            print(name, size, *(f"{share:.3f}" for share in shares), flush=True)  # noqa: T201
        for axis, shares in zip(axes, zip(*found, strict=True), strict=True):
            axis.plot(sizes, [100 * share for share in shares], label=name, **style)
    for axis, title, wanted in zip(axes, titles, (95, 95, 5), strict=True):
        axis.set_title(title, fontsize=10)
        axis.axhline(wanted, color="black", linewidth=0.8, linestyle=":")
        axis.axhspan(wanted - 2, wanted + 2, color="black", alpha=0.08)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_xlabel("conversations")
        axis.set_ylim((60, 100) if wanted == 95 else (0, 40))
    axes[0].set_ylabel(f"% of {worlds:,} simulated worlds")
    axes[0].legend(title="drawn or flipped", fontsize=8, title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    draw(*sys.argv[1:2])
