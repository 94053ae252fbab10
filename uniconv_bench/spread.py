"""How far scores move by rounding alone, as the study `numerics` found. Knows outcomes only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench.outcomes import outcome_path, read_outcome
from uniconv_bench.rendering import metric_label, percent

STUDY = "numerics"


@dataclass(frozen=True)
class Spread:
    """What no difference counts within.

    Attributes:
        by_metric: the farthest that a mean moved at another batch size or precision.
        where: the turns that it was measured on.
    """

    by_metric: Mapping[str, float]
    where: str

    def of(self, metric: str) -> float:
        """Of a metric; 0 where that was not measured."""
        return self.by_metric.get(metric, 0.0)

    def sentences(self, metrics: Iterable[str]) -> list[str]:
        """On the metrics that were measured; none without any."""
        own = [metric for metric in metrics if metric in self.by_metric]
        if not own:
            return []
        moved = ", ".join(f"{metric_label(m)} by {percent(self.of(m))}" for m in own)
        return [
            f"Batch size and precision alone moved {moved} points at most (study {STUDY}, "
            f"{self.where}): a difference within that counts for nothing."
        ]


def numerical_spread(results: Sequence[Path], profile: str) -> Spread | None:
    """What the first folder says that has the study at this profile; None: none has."""
    if (path := outcome_path(results, profile, STUDY)) is None:
        return None
    outcome = read_outcome(path)
    moved: dict[str, float] = {}
    for gap in outcome.gaps:
        moved[gap.measure] = max(moved.get(gap.measure, 0.0), abs(gap.mean))
    turns = max((gap.n for gap in outcome.gaps), default=0)
    return Spread(moved, f"{turns} turns of {', '.join(outcome.data)}")
