"""The leaderboard's pages: our own records beside submissions that are rescored on the spot.

Knows no task by name; a loader hands them in. `bundles` holds what is done with one bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench.bundles import examine
from uniconv_bench.cards import Profile, SubmissionCard
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.metrics import metric_score
from uniconv_bench.records import ResultRecord, Score, read_records
from uniconv_bench.rescoring import Loader
from uniconv_bench.tables import GAP, escape_markdown, interval, metric_label, percent


@dataclass(frozen=True)
class Entry:
    """A row of a page.

    Attributes:
        label: escaped Markdown.
        source: `ours` or `submission`.
        bound: it is given the gold passages, so it has no rank.
        scores: task -> scores.
        data: task -> data digest.
    """

    label: str
    source: str
    bound: bool
    scores: Mapping[str, Sequence[Score]]
    data: Mapping[str, str]


def build(root: Path, load: Loader) -> list[Path]:
    """Rescores every submission and writes `leaderboards/<profile>.md`; the pages written.

    Args:
        root: folder with `leaderboards/submissions/` and `results/`.
        load: the tasks of the submissions.

    Raises:
        UserError: a bundle that `check` refuses, by name with its first problem.
    """
    entries: dict[Profile, list[Entry]] = {}
    about: dict[Profile, list[str]] = {}
    results = root / "results"
    records = read_records(results) if results.is_dir() else []
    for record in records:
        if record.limit is not None:
            raise UserError(f"{record.system.name} on {record.task.name} is a limited record")
    for profile in sorted({r.task.profile for r in records}):
        of_profile = [r for r in records if r.task.profile == profile]
        for system in sorted({r.system.name for r in of_profile}):
            own = [r for r in of_profile if r.system.name == system]
            entries.setdefault(profile, []).append(_own_entry(own))
    submissions = root / "leaderboards" / "submissions"
    for folder in sorted(p for p in submissions.glob("*") if not p.name.startswith(".")):
        found = examine(folder, load)
        if found.problems or found.card is None:
            more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
            raise UserError(f"submission {folder.name} is refused: {found.problems[0]}{more}")
        entry = Entry(
            escape_markdown(found.card.title),
            "submission",
            False,
            {t: [metric_score(m, v) for m, v in s.items()] for t, s in found.scores.items()},
            found.data,
        )
        entries.setdefault(found.card.profile, []).append(entry)
        about.setdefault(found.card.profile, []).append(_about(found.card))
    pages = []
    for profile, rows in entries.items():
        page = root / "leaderboards" / f"{profile}.md"
        text = _page(profile, rows, about.get(profile, []))
        with atomic_write(page) as stream:
            stream.write(text)
        pages.append(page)
    return pages


def _own_entry(records: Sequence[ResultRecord]) -> Entry:
    system = records[0].system
    retriever = system.settings.get("retriever")
    bound = isinstance(retriever, dict) and retriever.get("kind") == "gold"
    scores = {r.task.name: r.scores for r in records}
    data = {r.task.name: r.task.data_digest for r in records}
    return Entry(escape_markdown(system.title), "ours", bound, scores, data)


def _about(card: SubmissionCard) -> str:
    facts = [escape_markdown(", ".join(card.authors)), card.date]
    if card.backbone:
        size = f", {card.parameters:,} parameters" if card.parameters else ""
        facts.append(f"backbone {escape_markdown(card.backbone)}{size}")
    facts.append(f"trained on {escape_markdown(', '.join(card.trained_on)) or 'none of the tasks'}")
    if card.code:
        facts.append(f"[code]({card.code})")
    about = escape_markdown(card.description)
    return f"- **{escape_markdown(card.title)}** ({'; '.join(facts)}): {about}"


def _page(profile: Profile, entries: Sequence[Entry], about: Sequence[str]) -> str:
    lines = [
        f"# Leaderboard, profile {profile}",
        "",
        "Written by `uniconv-bench leaderboard build`; the rules are in [README.md](README.md). "
        "Every score of a submission is computed here from its run and answer files. Means x 100 "
        "with 95 % intervals (bootstrap over conversations). A rank is one more than the number "
        "of systems whose whole interval lies higher, so systems that the intervals do not tell "
        f"apart share it; it goes by the first metric of a table. `{GAP}`: not submitted or not "
        "measured.",
    ]
    if profile == "sample":
        lines += [
            "",
            "The sample data was written by this project: no figure here is comparable with a "
            "published one.",
        ]
    for task in sorted({task for entry in entries for task in entry.data}):
        lines += ["", f"## {escape_markdown(task)}"]
        digests = {entry.data[task] for entry in entries if task in entry.data}
        if len(digests) > 1:
            raise UserError(
                f"rows of {task} ({profile}) were measured on different data",
                mend="run our own systems again with this version",
            )
        for stage in ("retrieval", "generation"):
            lines += _ranking(entries, task, stage)
    if about:
        lines += ["", "## Submissions", "", *about]
    return "\n".join(lines) + "\n"


def _ranking(entries: Sequence[Entry], task: str, stage: str) -> list[str]:
    rows = []
    for entry in entries:
        if task in entry.data:
            scores = {s.metric: s for s in entry.scores.get(task, ()) if s.stage == stage}
            rows.append((entry, scores))
    metrics = list(dict.fromkeys(metric for _, scores in rows for metric in scores))
    if not metrics:
        return []
    first = metrics[0]
    rows.sort(key=lambda row: -row[1][first].mean if first in row[1] else 1.0)
    rivals = [s[first] for entry, s in rows if first in s and not entry.bound]
    lines = [
        "",
        f"### {stage.capitalize()}",
        "",
        f"| Rank | System | Source | {' | '.join(map(metric_label, metrics))} | n |",
        f"| --: | :-- | :-- | {'--: | ' * len(metrics)}--: |",
    ]
    for entry, scores in rows:
        own = scores.get(first)
        rank = GAP if own is None or entry.bound else str(_rank(own, rivals))
        cells = [_cell(scores.get(metric)) for metric in metrics]
        source = f"{entry.source}, upper bound" if entry.bound else entry.source
        size = str(own.n) if own is not None else GAP
        lines.append(f"| {' | '.join([rank, entry.label, source, *cells, size])} |")
    return lines


def _rank(own: Score, rivals: Sequence[Score]) -> int:
    return 1 + sum(other.ci95[0] > own.ci95[1] for other in rivals)


def _cell(score: Score | None) -> str:
    return GAP if score is None else f"{percent(score.mean)} {interval(score)}"
