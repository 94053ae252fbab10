"""Figures of studies, readable in grey and without telling red from green. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uniconv_bench.experiments.reading import label_of
from uniconv_bench.outcomes import Mean, Outcome

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, of unlike lightness; markers and line styles differ as well."""
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")


def drawn(outcome: Outcome, folder: Path) -> list[Path]:
    """The study's figure as PNG and PDF; nothing where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds: dict[str, Callable[[Outcome, Any], Any]] = {
        "dots": _dots,
        "line": _line,
        "pareto": _pareto,
        "grid": _grid,
        "bars": _bars,
    }
    style: dict[Any, Any] = {
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with pyplot.rc_context({**style, "svg.hashsalt": outcome.study, "pdf.fonttype": 42}):
        figure = kinds[outcome.figure](outcome, pyplot)
        figure.suptitle(f"{outcome.title} ({outcome.profile}; n: turns)", fontsize=10)
        paths = [folder / f"figure.{kind}" for kind in ("png", "pdf")]
        for path in paths:
            # Without a date the same outcome is the same file.
            dated = {"CreationDate": None} if path.suffix == ".pdf" else {}
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata=dated)
        pyplot.close(figure)
    return paths


def _columns(outcome: Outcome) -> list[tuple[str, str]]:
    return list(dict.fromkeys((m.task, m.measure) for m in outcome.means))


def _sized(outcome: Outcome, task: str, measure: str) -> str:
    """`n = 68`, or from the fewest to the most turns of its conditions."""
    sizes = sorted(
        m.n for m in outcome.means if (m.task, m.measure, m.part) == (task, measure, None)
    )
    return f"n = {sizes[0]}" if sizes[0] == sizes[-1] else f"n = {sizes[0]} to {sizes[-1]}"


def _whiskers(means: Sequence[Mean]) -> list[list[float]]:
    return [
        [100 * (m.mean - m.ci95[0]) for m in means],
        [100 * (m.ci95[1] - m.mean) for m in means],
    ]


def _dots(outcome: Outcome, pyplot: Any) -> Any:
    """A panel a task and measure: a row a condition, and below it its parts."""
    columns = _columns(outcome)
    parts = list(dict.fromkeys((m.condition, m.part) for m in outcome.means))
    order = {name: place for place, name in enumerate(outcome.conditions())}
    parts.sort(key=lambda row: order[row[0]])
    size = (1.8 + 2.6 * len(columns), 1.2 + 0.3 * len(parts))
    figure, panels = pyplot.subplots(1, len(columns), figsize=size, sharey=True, squeeze=False)
    for axes, (task, measure) in zip(panels[0], columns, strict=True):
        for row, (condition, part) in enumerate(parts):
            mean = outcome.of(condition, task, measure, part)
            if mean is None:
                continue
            colour = COLOURS[order[condition] % len(COLOURS)]
            axes.errorbar(
                100 * mean.mean,
                row,
                xerr=_whiskers([mean]),
                fmt=MARKERS[order[condition] % len(MARKERS)],
                color=colour,
                markerfacecolor=colour if part is None else "white",
                markersize=5,
                capsize=2,
                linewidth=1,
            )
        axes.set_xlabel(f"{label_of(measure)} x 100")
        axes.set_title(f"{task}, {_sized(outcome, task, measure)}", fontsize=9)
        axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    panels[0][0].set_yticks(range(len(parts)), [c if p is None else f"   {p}" for c, p in parts])
    panels[0][0].invert_yaxis()
    return figure


def _line(outcome: Outcome, pyplot: Any) -> Any:
    """A panel a measure, a line a task, over the axis of the study."""
    measures = list(dict.fromkeys(m.measure for m in outcome.means))
    tasks = list(dict.fromkeys(m.task for m in outcome.means))
    figure, panels = pyplot.subplots(1, len(measures), figsize=(3.4 * len(measures), 3.0))
    conditions = sorted(outcome.x, key=lambda name: outcome.x[name])
    for axes, measure in zip(_listed(panels), measures, strict=True):
        for number, task in enumerate(tasks):
            found = [(c, outcome.of(c, task, measure)) for c in conditions]
            means = [m for _, m in found if m is not None]
            axes.errorbar(
                [outcome.x[c] for c, m in found if m is not None],
                [100 * m.mean for m in means],
                yerr=_whiskers(means),
                label=f"{task}, {_sized(outcome, task, measure)}",
                **_look(number),
            )
        axes.set_xlabel(outcome.axis)
        axes.set_ylabel(f"{label_of(measure)} x 100")
        axes.grid(linewidth=0.4, alpha=0.6)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _pareto(outcome: Outcome, pyplot: Any) -> Any:
    """A panel a task: the first measure against the second, a point a condition with its name.

    Hollow points are those that another beats in both.
    """
    tasks = list(dict.fromkeys(m.task for m in outcome.means))
    across, up = list(dict.fromkeys(m.measure for m in outcome.means))[:2]
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 3.4))
    for axes, task in zip(_listed(panels), tasks, strict=True):
        points = []
        for condition in outcome.conditions():
            one, other = (outcome.of(condition, task, m) for m in (across, up))
            if one is not None and other is not None:
                points.append((condition, one, other))
        for number, (condition, one, other) in enumerate(points):
            beaten = any(
                a.mean >= one.mean
                and b.mean >= other.mean
                and (a.mean, b.mean) != (one.mean, other.mean)
                for _, a, b in points
            )
            colour, mark = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.errorbar(
                100 * one.mean,
                100 * other.mean,
                xerr=_whiskers([one]),
                yerr=_whiskers([other]),
                fmt=mark,
                color=colour,
                markerfacecolor="white" if beaten else colour,
                linewidth=0.7,
            )
            axes.plot([], [], mark, color=colour, label=condition)
        axes.set_xlabel(f"{label_of(across)} x 100, {_sized(outcome, task, across)}")
        axes.set_ylabel(f"{label_of(up)} x 100, {_sized(outcome, task, up)}")
        axes.set_title(task, fontsize=9)
        axes.grid(linewidth=0.4, alpha=0.6)
    _listed(panels)[-1].legend(
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        title="hollow: another is\nbetter in both",
    )
    return figure


def _grid(outcome: Outcome, pyplot: Any) -> Any:
    """A panel a measure: conditions down, tasks across, the mean in each field."""
    measures = list(dict.fromkeys(m.measure for m in outcome.means))
    tasks = list(dict.fromkeys(m.task for m in outcome.means))
    conditions = outcome.conditions()
    size = (1.8 + (0.9 * len(tasks) + 0.6) * len(measures), 1.2 + 0.4 * len(conditions))
    figure, panels = pyplot.subplots(1, len(measures), figsize=size, sharey=True)
    for axes, measure in zip(_listed(panels), measures, strict=True):
        found = [[outcome.of(c, t, measure) for t in tasks] for c in conditions]
        values = [[float("nan") if m is None else 100 * m.mean for m in row] for row in found]
        axes.imshow(values, cmap="Greys", vmin=0, vmax=100, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value == value:
                    ink = "white" if value > 60 else "black"
                    axes.text(j, i, f"{value:.1f}", ha="center", va="center", color=ink)
        sizes = [f"{task}\n{_sized(outcome, task, measure)}" for task in tasks]
        axes.set_xticks(range(len(tasks)), sizes, rotation=30, ha="right")
        axes.set_yticks(range(len(conditions)), conditions)
        axes.set_title(f"{label_of(measure)} x 100", fontsize=9)
    return figure


def _bars(outcome: Outcome, pyplot: Any) -> Any:
    """Costs: a panel each for training, for a turn, and for memory."""
    conditions = outcome.conditions()
    task = outcome.costs[0].task
    own = {c.condition: c for c in outcome.costs if c.task == task}
    panels_of = {
        "training, minutes": [own[c].training_seconds / 60 for c in conditions],
        f"seconds a turn, {task}, n = {max(own[c].turns for c in conditions)}": [
            ((own[c].retrieval_seconds or 0.0) + (own[c].answer_seconds or 0.0))
            / max(own[c].turns, 1)
            for c in conditions
        ],
        "weights, GB": [own[c].weights_bytes / 1e9 for c in conditions],
    }
    size = (2.0 + 2.6 * len(panels_of), 1.2 + 0.35 * len(conditions))
    figure, panels = pyplot.subplots(1, len(panels_of), figsize=size, sharey=True)
    for axes, (label, values) in zip(panels, panels_of.items(), strict=True):
        axes.barh(conditions, values, color=COLOURS[0])
        for row, value in enumerate(values):
            axes.text(value, row, f" {value:.2f}", va="center", fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.25)
    panels[0].invert_yaxis()
    return figure


def _look(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
        "markersize": 5,
        "capsize": 2,
        "linewidth": 1.2,
    }


def _listed(panels: Any) -> list[Any]:
    return list(panels) if hasattr(panels, "__len__") else [panels]
