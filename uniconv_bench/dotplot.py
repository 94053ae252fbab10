"""A ranking as a dot plot: what is drawn and where, as plain data. Knows no HTML and no colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from uniconv_bench.ranking import Entry, Ranking, Row
from uniconv_bench.rendering import interval, percent

ENDS = (0.25, 0.5, 1.0)
"""Where a scale may end; it begins at 0."""
Shape = Literal["ours", "bound", "submission", "published"]


@dataclass(frozen=True)
class Dot:
    """A system's mean, its interval if it has one, as shares of the scale.

    Attributes:
        entry: whose.
        shape: what the mark stands for; it is told by form, not by colour.
        mean: in [0, 1].
        ci95: likewise; None of a printed figure.
        text: the same in figures.
    """

    entry: Entry
    shape: Shape
    mean: float
    ci95: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Plot:
    """The first metric of a ranking, in its order.

    Attributes:
        label: of the metric.
        end: of the scale, a fraction.
        dots: of every row with a figure.
    """

    label: str
    end: float
    dots: Sequence[Dot]


def plot_of(ranking: Ranking) -> Plot:
    """What to draw of a ranking with a metric."""
    metric, label = next(iter(ranking.labels.items()))
    highest = max((_high(row, metric) for row in ranking.rows), default=1.0)
    end = next(end for end in ENDS if highest <= end)
    dots = [_dot(row, metric, end) for row in ranking.rows]
    return Plot(label, end, [dot for dot in dots if dot is not None])


def _high(row: Row, metric: str) -> float:
    score = row.scores.get(metric)
    return row.printed.get(metric, 0.0) if score is None else score.ci95[1]


def _dot(row: Row, metric: str, end: float) -> Dot | None:
    entry, score = row.entry, row.scores.get(metric)
    if score is not None:
        low, high = score.ci95
        shape: Shape = "bound" if entry.bound else entry.source
        text = f"{percent(score.mean)} {interval(score)}"
        return Dot(entry, shape, score.mean / end, (low / end, high / end), text)
    printed = row.printed.get(metric)
    if printed is None:
        return None
    return Dot(entry, "published", printed / end, None, percent(printed))
