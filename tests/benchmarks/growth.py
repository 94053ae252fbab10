"""How time and memory grow with corpus, batch and session: lines of benchmarks -> one figure.

Readable in greyscale: lines are told apart by their marks and dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uniconv_bench.plots import can_plot, save

LOOKS = (("o", "-", "black"), ("s", "--", "#0072B2"))
Curve = dict[float, float]
Panel = tuple[str, dict[str, Curve], dict[str, Curve]]
"""What grows; label -> its value -> seconds; label -> its value -> MiB."""


def drawn(lines: Sequence[Mapping[str, Any]], out: Path) -> Path | None:
    """The figure as PNG, with a PDF beside it; None where there is nothing to draw, or with what.

    Args:
        lines: of `search`, `decode` and `turn`, as many as there are.
        out: the file, without its ending.
    """
    of = {
        name: [line for line in lines if line["benchmark"] == name]
        for name in ("search", "decode", "turn")
    }
    panels = [
        *map(_of_search, of["search"][:1]),
        *([_of_decode(of["decode"])] if of["decode"] else []),
        *([_of_turn(of["turn"])] if of["turn"] else []),
    ]
    if not panels or not can_plot():
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(3 * len(panels), 4.6), sharex="col", squeeze=False
    )
    for column, (grows, seconds, memory) in enumerate(panels):
        for axis, curves in zip(axes[:, column], (seconds, memory), strict=True):
            _draw(axis, curves)
        axes[1][column].set_xlabel(grows, fontsize=8)
    axes[0][0].set_ylabel("seconds", fontsize=8)
    axes[1][0].set_ylabel("peak memory (MiB)", fontsize=8)
    figure.tight_layout()
    return save(figure, out)


def _of_search(line: Mapping[str, Any]) -> Panel:
    faiss = {line["passages"]: line["faiss"]}
    return (
        f"passages searched for {line['queries']:,} queries",
        {
            "streamed from disk": _curve(line["seconds_by_passages"]),
            "faiss, in memory": {at: found["seconds"] for at, found in faiss.items()},
        },
        {
            "streamed from disk": _curve(line["peak_mib_by_passages"]),
            "faiss, in memory": {at: found["peak_mib"] for at, found in faiss.items()},
        },
    )


def _of_decode(lines: Sequence[Mapping[str, Any]]) -> Panel:
    seconds = {
        label: {line["batch"]: line["seconds"][side] for line in lines}
        for label, side in (("batched", "batched"), ("one by one", "one_by_one"))
    }
    memory = {"both, so far": {line["batch"]: line["peak_mib"] for line in lines}}
    return f"prompts at once, of {lines[0]['prompts']} to answer", seconds, memory


def _of_turn(lines: Sequence[Mapping[str, Any]]) -> Panel:
    seconds = {
        f"{label}, first token": {
            line["session"]: line["first_token_seconds"][label] for line in lines
        }
        for label in ("unified", "separate")
    }
    memory = {"both, so far": {line["session"]: line["peak_mib"] for line in lines}}
    return "tokens of the session of a turn", seconds, memory


def _curve(values: Mapping[Any, float]) -> Curve:
    return {int(at): value for at, value in values.items()}


def _draw(axis: Any, curves: Mapping[str, Curve]) -> None:
    for (label, curve), (marker, dashes, colour) in zip(curves.items(), LOOKS, strict=False):
        axis.plot(
            *zip(*sorted(curve.items()), strict=True),
            marker=marker,
            linestyle=dashes,
            color=colour,
            markerfacecolor="white",
            markersize=5,
            linewidth=1,
            label=label,
        )
    axis.set_xlim(left=0)
    # Room for the legend.
    axis.set_ylim(0, 1.35 * max(value for curve in curves.values() for value in curve.values()))
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter(lambda count, place: _short(count))
    axis.tick_params(labelsize=7)
    axis.grid(linewidth=0.4)
    axis.legend(fontsize=7, loc="upper left")


def _short(count: float) -> str:
    """As 250 k or 1.5 M."""
    for size, sign in ((1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{sign}"
    return f"{count:,.0f}"
