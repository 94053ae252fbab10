"""Figures of records, as PNG for pages and PDF for papers. Needs matplotlib (extra `plots`).

Readable in greyscale: what tells things apart is place and shape, never colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from uniconv_bench.footnotes import distinct
from uniconv_bench.records import ResultRecord
from uniconv_bench.rendering import metric_label

BLUE = "#0072B2"
"""Of Okabe and Ito's colours, which colour-blind people can tell apart."""


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


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


def save(figure: Any, out: Path) -> Path:
    """Writes and closes a figure: the PNG, with a PDF beside it; the same figure, the same bytes.

    Args:
        out: the file, without its ending.
    """
    from matplotlib import pyplot

    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    return out.with_suffix(".png")
