"""The leaderboard's pages: our own records beside submissions that are rescored on the spot.

Knows no task by name: `Tasks` hands them in. `bundles` holds what is done with one bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uniconv_bench.bundles import TOLERANCE, examine
from uniconv_bench.cards import Profile, SubmissionCard
from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.metrics import metric_score
from uniconv_bench.records import ResultRecord, Score, read_records
from uniconv_bench.rendering import GAP, escape_markdown, interval, metric_label, percent
from uniconv_bench.rescoring import Tasks, rescore
from uniconv_bench.turnscores import scores_at_hand

Outputs = Callable[[ResultRecord], Mapping[str, Path]]
"""A record -> the `run` and `answers` that it was made from; those that are still there."""


@dataclass(frozen=True)
class Entry:
    """A row of a page.

    Attributes:
        label: escaped Markdown.
        source: `ours` or `submission`.
        scores: task -> scores.
        bound: it is given the gold passages, so it has no rank.
        recorded: task -> stages whose scores are as recorded, since their file is not here.
        by_turn: task -> metric -> scores by turn, where they are at hand.
    """

    label: str
    source: str
    scores: Mapping[str, Sequence[Score]]
    bound: bool = False
    recorded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    by_turn: Mapping[str, Mapping[str, PerTurn]] = field(default_factory=dict)


@dataclass
class Built:
    """What came of building the pages.

    Attributes:
        pages: the files written.
        refused: name of a bundle -> what is wrong with it, a line each.
        skipped: plain files among the submissions, which are none.
        recorded: rows of ours, a stage of a task each, that were not computed again.
    """

    pages: list[Path] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)
    recorded: int = 0


def build(root: Path, tasks: Tasks, outputs: Outputs) -> Built:
    """Rescores what there are files of and writes `leaderboards/<profile>.md`.

    A bundle that `check` refuses stays off the page; the others do not wait for it.

    Args:
        root: folder with `leaderboards/submissions/` and `results/`.
        tasks: what records and submissions are of.
        outputs: finds the files that one of our records was made from.

    Raises:
        UserError: one of our records is limited, stale or not what its files give.
    """
    entries: dict[Profile, list[Entry]] = {}
    about: dict[Profile, list[str]] = {}
    built = Built()
    results = root / "results"
    records = read_records(results) if results.is_dir() else []
    recorded = {
        (record.task.profile, record.system.name, record.task.name): _verify(record, tasks, outputs)
        for record in records
    }
    built.recorded = sum(
        len(
            {score.stage for score in r.scores}
            & recorded[r.task.profile, r.system.name, r.task.name]
        )
        for r in records
    )
    for profile in sorted({r.task.profile for r in records}):
        of_profile = [r for r in records if r.task.profile == profile]
        for system in sorted({r.system.name for r in of_profile}):
            own = [r for r in of_profile if r.system.name == system]
            unseen = {r.task.name: recorded[profile, system, r.task.name] for r in own}
            entries.setdefault(profile, []).append(_own_entry(own, unseen, results))
    submissions = root / "leaderboards" / "submissions"
    for path in sorted(submissions.glob("*")):
        if path.is_file() and not path.is_symlink():
            built.skipped.append(path)
        if path.name.startswith(".") or path in built.skipped:
            continue
        found = examine(path, tasks)
        if found.problems or found.card is None:
            built.refused[path.name] = found.problems
            continue
        entry = Entry(
            escape_markdown(found.card.title),
            "submission",
            {t: [metric_score(m, v) for m, v in s.items()] for t, s in found.scores.items()},
            by_turn=found.scores,
        )
        entries.setdefault(found.card.profile, []).append(entry)
        about.setdefault(found.card.profile, []).append(_about(found.card))
    rules = (root / "leaderboards" / "README.md").is_file()
    for profile, rows in entries.items():
        page = root / "leaderboards" / f"{profile}.md"
        text = _page(profile, rows, about.get(profile, []), rules)
        with atomic_write(page) as stream:
            stream.write(text)
        built.pages.append(page)
    return built


def _verify(record: ResultRecord, tasks: Tasks, outputs: Outputs) -> frozenset[str]:
    """The stages of a record that cannot be rescored here, as their file is not in the cache.

    Raises:
        UserError: it is limited, of other data, or not what its files give.
    """
    name = f"{record.system.name} on {record.task.name} ({record.task.profile})"
    command = f"uniconv-bench run --task {record.task.name} --system {record.system.name}"
    again = f"run it again: {command} --profile {record.task.profile}"
    if record.limit is not None:
        raise UserError(f"the record of {name} is limited", mend=again)
    task = tasks.load(record.task.name, record.task.profile)
    if record.task.data_digest != task.digest:
        what = f"the record of {name} is of other data (digest {record.task.data_digest[:12]}, "
        raise UserError(f"{what}this version has {task.digest[:12]})", mend=again)
    files = outputs(record)
    run, answers = files.get("run"), files.get("answers")
    scores, problems = rescore(task, run, answers, whole=False)
    if problems:
        raise UserError(f"the files of the record of {name} are broken: {problems[0]}", mend=again)
    lacking = {"retrieval": run is None, "generation": answers is None}
    for score in record.scores:
        if lacking[score.stage]:
            continue
        values = scores.get(score.metric)
        if values is None or not _equal(score, metric_score(score.metric, values)):
            what = f"the record of {name}: {score.metric} is not what its run and answers give"
            raise UserError(what, mend=again)
    return frozenset(stage for stage, absent in lacking.items() if absent)


def _equal(one: Score, other: Score) -> bool:
    pairs = zip((one.mean, *one.ci95), (other.mean, *other.ci95), strict=True)
    return one.n == other.n and all(abs(a - b) <= TOLERANCE for a, b in pairs)


def _own_entry(
    records: Sequence[ResultRecord], recorded: Mapping[str, frozenset[str]], results: Path
) -> Entry:
    system = records[0].system
    retriever = system.settings.get("retriever")
    bound = isinstance(retriever, dict) and retriever.get("kind") == "gold"
    scores = {r.task.name: r.scores for r in records}
    at_hand = scores_at_hand(records, results)
    by_turn = {r.task.name: at_hand[r.digest] for r in records if r.digest in at_hand}
    return Entry(escape_markdown(system.title), "ours", scores, bound, recorded, by_turn)


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


def _page(profile: Profile, entries: Sequence[Entry], about: Sequence[str], rules: bool) -> str:
    where = "; the rules are in [README.md](README.md)" if rules else ""
    lines = [
        f"# Leaderboard, profile {profile}",
        "",
        f"Written by `uniconv-bench leaderboard build`{where}. Every score is computed here from "
        "run and answer files, except in rows marked *as recorded*: those files of ours were not "
        "at hand. Means x 100 with 95 % intervals (bootstrap over conversations). A rank is one "
        "more than the number of systems that are better by a paired test on the same turns "
        "(conversations' signs flipped, p < 0.05 after Holm over the pairs of a table), so systems "
        "that cannot be told apart share it; it goes by the first metric of a table. "
        f"`{GAP}`: not submitted or not measured.",
    ]
    if profile == "sample":
        lines += [
            "",
            "The sample data was written by this project: no figure here is comparable with a "
            "published one.",
        ]
    for task in sorted({task for entry in entries for task in entry.scores}):
        lines += ["", f"## {escape_markdown(task)}"]
        for stage in ("retrieval", "generation"):
            lines += _ranking(entries, task, stage)
    if about:
        lines += ["", "## Submissions", "", *about]
    return "\n".join(lines) + "\n"


def _ranking(entries: Sequence[Entry], task: str, stage: str) -> list[str]:
    rows = []
    for entry in entries:
        if task in entry.scores:
            scores = {s.metric: s for s in entry.scores[task] if s.stage == stage}
            rows.append((entry, scores))
    metrics = list(dict.fromkeys(metric for _, scores in rows for metric in scores))
    if not metrics:
        return []
    first = metrics[0]
    rows.sort(key=lambda row: -row[1][first].mean if first in row[1] else 1.0)
    ranks, by_test = _ranks(
        {i: (e, s[first]) for i, (e, s) in enumerate(rows) if first in s and not e.bound},
        task,
        first,
    )
    lines = [
        "",
        f"### {stage.capitalize()}",
        "",
        f"| Rank | System | Source | {' | '.join(map(metric_label, metrics))} | n |",
        f"| --: | :-- | :-- | {'--: | ' * len(metrics)}--: |",
    ]
    for number, (entry, scores) in enumerate(rows):
        own = scores.get(first)
        rank = GAP if own is None or entry.bound else str(ranks[number])
        cells = [_cell(scores.get(metric)) for metric in metrics]
        source = f"{entry.source}, upper bound" if entry.bound else entry.source
        if scores and stage in entry.recorded.get(task, ()):
            source += ", as recorded"
        size = str(own.n) if own is not None else GAP
        lines.append(f"| {' | '.join([rank, entry.label, source, *cells, size])} |")
    if not by_test:
        lines += ["", "For lack of some row's scores by turn, ranks here go by intervals alone."]
    return lines


def _ranks(
    rivals: Mapping[int, tuple[Entry, Score]], task: str, metric: str
) -> tuple[dict[int, int], bool]:
    """Row -> rank, and whether tests told the systems apart, not only their intervals."""
    turns = {
        row: entry.by_turn[task][metric]
        for row, (entry, _) in rivals.items()
        if metric in entry.by_turn.get(task, {})
    }
    if len(turns) == len(rivals) and len({frozenset(values) for values in turns.values()}) <= 1:
        from uniconv_bench.statistics import ranks

        return ranks(turns), True
    scores = {row: score for row, (_, score) in rivals.items()}
    return {
        row: 1 + sum(other.ci95[0] > own.ci95[1] for other in scores.values())
        for row, own in scores.items()
    }, False


def _cell(score: Score | None) -> str:
    return GAP if score is None else f"{percent(score.mean)} {interval(score)}"
