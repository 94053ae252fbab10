"""Figures of records and of trainings, as PNG for pages and PDF for papers. Needs matplotlib
(extra `plots`).

Readable in greyscale: what tells things apart is place and shape, never colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.footnotes import distinct
from uniconv_bench.records import ResultRecord
from uniconv_bench.rendering import metric_label

BLUE = "#0072B2"
"""Of Okabe and Ito's colours, which colour-blind people can tell apart."""
WINDOW = 10
"""Steps that a training's curves are smoothed over."""


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Refuses to go on where figures were asked for and can't be drawn.

    Raises:
        UserError: it is not installed.
    """
    if not can_plot():
        raise UserError(
            "figures need matplotlib, which is not installed",
            mend="pip install 'uniconv-bench[plots]'",
        )


def intervals(records: Sequence[ResultRecord], metric: str, out: Path) -> Path:
    """Means and 95 % intervals: a panel a task, a line a system; the PNG, with a PDF beside it.

    Args:
        records: of one profile.
        metric: those that have none of it are left out; one at least has it.
        out: the file, without its ending.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = [record for record in records if record.score(metric) is not None]
    tasks = distinct(record.task.name for record in shown)
    titles = distinct(record.system.title for record in shown)[::-1]
    size = (2.2 + 1.8 * len(tasks), 0.8 + 0.28 * len(titles))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        sizes = set()
        for record in shown:
            score = record.score(metric)
            if score is None or record.task.name != task:
                continue
            mean, (low, high) = 100 * score.mean, (100 * end for end in score.ci95)
            ours = record.system.name == "uniconv"
            axis.errorbar(
                [mean],
                [titles.index(record.system.title)],
                xerr=[[mean - low], [high - mean]],
                fmt="s" if ours else "o",
                color=BLUE,
                markerfacecolor=BLUE if ours else "white",
                markersize=5,
                capsize=2,
                linewidth=1,
            )
            sizes.add(f"n = {score.n}, {score.conversations} conv.")
        axis.set_title(f"{task}\n{'; '.join(sorted(sizes))}", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", linewidth=0.4)
    axes[0][0].set_yticks(range(len(titles)), titles)
    figure.supxlabel(
        f"{metric_label(metric)} x 100, 95 % interval ({shown[0].task.profile})", fontsize=8
    )
    figure.tight_layout()
    return save(figure, out)


def training(report: Mapping[str, Any], terms: Sequence[str], out: Path) -> Path:
    """What was logged of a training, by optimiser step; the PNG, with a PDF beside it.

    A panel a loss term, with its mean over `WINDOW` steps and the validation points if there are
    any, then one of the gradient's norm before clipping.

    Args:
        report: `training.json` of an adapter.
        terms: names of loss terms; those that it lacks are left out.
        out: the file, without its ending.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    log = report["log"]
    points = report.get("validation", {}).get("points", [])
    names = [name for name in (*terms, "gradient_norm") if name in log[0]]
    size = (0.6 + 2.4 * len(names), 2.6)
    figure, axes = pyplot.subplots(1, len(names), figsize=size, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        values = [row[name] for row in log]
        steps = [row["step"] + 1 for row in log]
        ends = range(min(WINDOW, len(values)), len(values) + 1)
        means = [sum(values[max(0, end - WINDOW) : end]) / min(WINDOW, end) for end in ends]
        axis.plot(steps, values, color="0.7", linewidth=0.8, label="step")
        axis.plot(steps[-len(means) :], means, color=BLUE, label=f"mean of {WINDOW} steps")
        held = [(point["steps"], point[name]) for point in points if name in point]
        if held:
            axis.plot(*zip(*held, strict=True), "k^--", markersize=4, label="held out")
        axis.set_title(name.replace("_", " "), fontsize=8)
        axis.set_xlabel("optimiser step", fontsize=7)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
    lines = axes[0][0].get_legend_handles_labels()
    figure.legend(*lines, fontsize=7, loc="upper right", ncols=len(lines[0]))
    turns = sum(report["turns"].values())
    title = f"{report['adapter']} on {report['backbone']}, {turns:,} turns"
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    figure.tight_layout()
    return save(figure, out)


def save(figure: Any, out: Path) -> Path:
    """Writes and closes a figure: the PNG, with a PDF beside it; the same figure, the same bytes.

    Args:
        out: the file, without its ending.
    """
    from matplotlib import pyplot

    # Drawn in memory: on a full disk the library's own writers end in errors of their own.
    pdf, png = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    for ending, drawn in (("pdf", pdf), ("png", png)):
        with atomic_write(Path(f"{out}.{ending}"), "wb") as stream:
            stream.write(drawn.getvalue())
    return Path(f"{out}.png")
