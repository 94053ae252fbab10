"""One page on all records of a profile: claims, tables, figures, cost, provenance.

As HTML that needs nothing beside it, and as Markdown. Knows records and what is made of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench import claim_cards, claims, footnotes, tables, verdicts
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.footnotes import distinct
from uniconv_bench.plots import can_plot, intervals
from uniconv_bench.records import ResultRecord, read_records
from uniconv_bench.rendering import (
    Grid,
    escape_markdown,
    html_cells,
    markdown,
    markdown_rows,
    metric_label,
)
from uniconv_bench.spread import numerical_spread
from uniconv_bench.turnscores import scores_at_hand

if TYPE_CHECKING:
    from uniconv_bench.cards import Reported

FIGURES = {"NDCG@3 of all systems": "ndcg@3", "F1 of all systems": "f1"}


@dataclass(frozen=True)
class Report:
    """What the page says, before it takes a format.

    Attributes:
        title: with the profile.
        opening: what its figures may be compared with.
        answers: every claim and its verdict.
        claim_notes: what to mind about them.
        grids: name -> table.
        figures: caption -> PNG; none without matplotlib.
        lists: heading -> equal rows.
    """

    title: str
    opening: tuple[str, ...]
    answers: tuple[claims.Answer, ...]
    claim_notes: tuple[str, ...]
    grids: Mapping[str, Grid]
    figures: Mapping[str, Path]
    lists: Mapping[str, Sequence[Mapping[str, Any]]]


def write(
    profile: str, results: Path, reported: Mapping[str, Sequence[Reported]], folder: Path
) -> list[Path]:
    """Writes `report.html`, `report.md` and, if there is matplotlib, `figures/`.

    Args:
        profile: of the records.
        results: folder of results.
        reported: task -> figures printed elsewhere, for tables at profile `full`.
        folder: where to.

    Raises:
        UserError: as of `tables.grid` and `claims.judge`.
    """
    records = read_records(results / profile)
    if not records:
        raise UserError(
            "no record to report on", where=results / profile, mend="run a system first"
        )
    report = _report(profile, records, results, reported, folder)
    pages = {"report.html": _html(report), "report.md": _markdown(report)}
    for name, text in pages.items():
        with atomic_write(folder / name) as stream:
            stream.write(text)
    return [folder / name for name in pages]


def _report(
    profile: str,
    records: Sequence[ResultRecord],
    results: Path,
    reported: Mapping[str, Sequence[Reported]],
    folder: Path,
) -> Report:
    answers = claims.judge(claim_cards.read_claims(), profile, [results])
    at_hand = scores_at_hand(records, results)
    spread = numerical_spread([results], profile)
    grids = {}
    for name, chosen in tables.PAPER.items():
        if own := tables.of_paper(name, records):
            grids[name] = tables.grid(own, reported, chosen.metrics, at_hand, spread)
    measured = {score.metric for record in records for score in record.scores}
    figures = {
        caption: intervals(records, metric, folder / "figures" / metric.replace("@", "_at_"))
        for caption, metric in FIGURES.items()
        if metric in measured and can_plot()
    }
    systems = distinct(record.system.name for record in records)
    return Report(
        f"uniconv-bench, profile {profile}",
        tuple(footnotes.of_profile(records)),
        tuple(answers),
        tuple(verdicts.notes(answers)),
        grids,
        figures,
        {
            "Cost": [_cost([r for r in records if r.system.name == name]) for name in systems],
            "Provenance": [_provenance(record) for record in records],
        },
    )


def _cost(records: Sequence[ResultRecord]) -> dict[str, str]:
    """A system's: its trainings once, the rest by turn over all of its tasks."""
    training: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.provenance.seconds.items():
            if stage.startswith("train "):
                training[stage] = max(training.get(stage, 0.0), seconds)
    turns = sum(record.counts.turns for record in records)
    energies = [record.provenance.energy_joules for record in records]
    known = [energy for energy in energies if energy is not None]
    peak = max(record.provenance.peak_memory_bytes for record in records)
    return {
        "system": records[0].system.title,
        "turns": f"{turns:,}",
        "training, s": f"{sum(training.values()):,.0f}" if training else "-",
        **{f"{stage}, ms a turn": _by_turn(records, stage) for stage in ("retrieval", "answers")},
        "peak memory, GiB": f"{peak / 2**30:.1f}",
        "energy, kJ": f"{sum(known) / 1000:,.1f}" if len(known) == len(energies) else "-",
        "hardware": "; ".join(distinct(record.provenance.hardware for record in records)),
    }


def _by_turn(records: Sequence[ResultRecord], stage: str) -> str:
    """Milliseconds, over the records that know what the stage took."""
    known = [record for record in records if stage in record.provenance.seconds]
    if not known:
        return "-"
    seconds = sum(record.provenance.seconds[stage] for record in known)
    return f"{1000 * seconds / sum(record.counts.turns for record in known):,.0f}"


def _provenance(record: ResultRecord) -> dict[str, str]:
    made = record.provenance
    return {
        "system": record.system.name,
        "task": record.task.name,
        "record": record.digest[:12],
        "data": record.task.data_digest[:12],
        "backbone": record.system.backbone or "-",
        "adapters": ", ".join(f"{n} {d[:12]}" for n, d in record.system.adapters.items()) or "-",
        "commit": f"{(made.commit or '-')[:12]}{' with changes' if made.dirty else ''}",
        "torch": made.packages.get("torch", "-"),
        "made": made.created,
    }


def _html(report: Report) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("uniconv_bench"), autoescape=True, undefined=StrictUndefined
    )
    images = {
        caption: base64.b64encode(path.read_bytes()).decode()
        for caption, path in report.figures.items()
    }
    return environment.get_template("report.html").render(
        report=report,
        images=images,
        html_cells=html_cells,
        metric_label=metric_label,
        line_of=verdicts.line_of,
    )


def _markdown(report: Report) -> str:
    parts = [f"# {escape_markdown(report.title)}", *map(escape_markdown, report.opening)]
    parts.append("## Claims of the paper")
    parts.append(verdicts.markdown(report.answers, level=3).rstrip())
    for name, grid in report.grids.items():
        parts += [f"## {name.capitalize()}", markdown(grid).rstrip()]
    for caption, path in report.figures.items():
        parts += [f"## {caption}", f"![{caption}](figures/{path.name})"]
    for heading, rows in report.lists.items():
        parts += [f"## {heading}", markdown_rows(rows)]
    return "\n\n".join(parts) + "\n"
