"""A leaderboard, and what was found of one bundle, as Markdown. Escapes what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from uniconv_bench.cards import Profile, SubmissionCard
from uniconv_bench.examination import Examination
from uniconv_bench.metrics import metric_score
from uniconv_bench.ranking import Entry, Ranking, Row
from uniconv_bench.rendering import (
    GAP,
    escape_markdown,
    interval,
    markdown_rows,
    metric_label,
    percent,
)

MADE_UP = (
    "The sample data was written by this project: no figure here is comparable with a published "
    "one."
)
MARK = "†"
RECORDED = f"{MARK}: as recorded; what computes it was not installed here."
HOW_RANKED = (
    "Rows stand in the order of their first metric. A rank goes from one more than the number of "
    "systems that are better to the number of those that are not worse, by paired tests on the "
    "same turns (conversations' signs flipped, p < 0.05 after Holm over one system's comparisons): "
    "3-5 is what they leave open, and a system that was measured less surely has a wider one."
)
BY_INTERVALS = "For lack of some row's scores by turn, ranks here go by intervals alone."


def page(
    profile: Profile, entries: Sequence[Entry], rankings: Sequence[Ranking], *, rules: bool
) -> str:
    """A table per task and kind, then who submitted what.

    Args:
        profile: of all of them.
        entries: all of them.
        rankings: of these entries.
        rules: link the rules, which are beside the page.
    """
    where = "; the rules are in [README.md](README.md)" if rules else ""
    lines = [
        f"# Leaderboard, profile {profile}",
        "",
        f"Written by `uniconv-bench leaderboard build`{where}. Every score is computed here from "
        "run and answer files, except in rows marked *as recorded*: those files of ours were not "
        f"at hand. Means x 100 with 95 % intervals (bootstrap over conversations). {HOW_RANKED} "
        "Under *Both* it goes by the mean of two metrics by turn, over the turns that are judged "
        "for both. An *oracle* is handed gold passages or human rewrites, so it has no rank. "
        f"`{GAP}`: not submitted or not measured.",
    ]
    if profile == "sample":
        lines += ["", MADE_UP]
    for task in dict.fromkeys(ranking.task for ranking in rankings):
        lines += ["", f"## {escape_markdown(task)}"]
        for ranking in rankings:
            if ranking.task == task:
                lines += _table(ranking)
    about = [_about(entry, entry.card) for entry in entries if entry.card is not None]
    if about:
        lines += ["", "## Submissions", "", *about]
    return "\n".join(lines) + "\n"


def report(found: Examination) -> str:
    """What came out of looking at one bundle: its problems, or else its scores; and its flags."""
    if found.problems:
        return "".join(f"- {escape_markdown(problem)}\n" for problem in found.problems)
    rows = [
        {"task": task, "metric": metric_label(name), "mean": percent(score.mean)}
        | {"95 % interval": interval(score), "turns": str(score.n)}
        for task, by_metric in found.scores.items()
        for name, score in ((name, metric_score(name, v)) for name, v in by_metric.items())
    ]
    lines = [f"Flagged: {flag}" for flag in found.flags]
    lines += [f"Not looked at: {reason}" for reason in found.lacking]
    told = "".join(f"- {escape_markdown(line)}\n" for line in lines)
    return f"{markdown_rows(rows)}\n\n{told}" if rows else told


def source_of(row: Row) -> str:
    """Where a row comes from, in words."""
    said: list[str] = [row.entry.source]
    if row.entry.bound:
        said.append("oracle")
    if row.all_recorded:
        said.append("as recorded")
    if row.entry.flags:
        said.append("flagged")
    return ", ".join(said)


def _table(ranking: Ranking) -> Iterator[str]:
    labels = [escape_markdown(label) for label in ranking.labels.values()]
    yield from ("", f"### {ranking.kind.capitalize()}", "")
    yield f"| Rank | System | Source | {' | '.join(labels)} | n |"
    yield f"| --: | :-- | :-- | {'--: | ' * len(labels)}--: |"
    first = next(iter(ranking.labels))
    for row in ranking.rows:
        rank = GAP if row.ranks is None else str(row.ranks)
        size = str(row.scores[first].n) if first in row.scores else GAP
        title = escape_markdown(row.entry.title)
        cells = [_cell(row, metric) for metric in ranking.labels]
        yield f"| {' | '.join([rank, title, source_of(row), *cells, size])} |"
    if any(row.marked for row in ranking.rows):
        yield from ("", RECORDED)
    if not ranking.by_test:
        yield from ("", BY_INTERVALS)


def _cell(row: Row, metric: str) -> str:
    if (score := row.scores.get(metric)) is not None:
        mark = MARK if metric in row.marked else ""
        return f"{percent(score.mean)}{mark} {interval(score)}"
    printed = row.printed.get(metric)
    return GAP if printed is None else f"*{percent(printed)}*"


def _about(entry: Entry, card: SubmissionCard) -> str:
    files = f"[files](submissions/{card.name})"  # by it a page tells who was on it first
    facts = [files, escape_markdown(", ".join(card.authors)), card.date]
    if card.backbone:
        size = f", {card.parameters:,} parameters" if card.parameters else ""
        facts.append(f"backbone {escape_markdown(card.backbone)}{size}")
    facts.append(f"trained on {escape_markdown(', '.join(card.trained_on)) or 'none of the tasks'}")
    for name, address in (("code", card.code), ("paper", card.paper), ("weights", card.weights)):
        if address:
            facts.append(f"[{name}]({address})")
    about = escape_markdown(card.description)
    flags = "".join(f" *Flagged: {escape_markdown(flag)}.*" for flag in entry.flags)
    return f"- **{escape_markdown(card.title)}** ({'; '.join(facts)}): {about}{flags}"
