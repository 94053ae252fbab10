"""The leaderboard: our own records and submissions, all rescored on the spot, as pages.

Knows no task by name: `Tasks` hands them in. `examination` holds what is done with one bundle,
`ranking` how entries are ranked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from uniconv_bench.boardpage import page
from uniconv_bench.bundles import scored_files
from uniconv_bench.cards import Profile, Reported, SubmissionCard
from uniconv_bench.definitions import computable
from uniconv_bench.errors import UserError
from uniconv_bench.examination import TOLERANCE, Examination, examine
from uniconv_bench.files import atomic_write
from uniconv_bench.metrics import metric_score
from uniconv_bench.ranking import Entry, Ranking, rankings, told_of_twins
from uniconv_bench.records import ResultRecord, Score, read_records
from uniconv_bench.rescoring import LoadedTask, NotAtHand, Tasks, rescore
from uniconv_bench.turnscores import scores_at_hand

Outputs = Callable[[ResultRecord], Mapping[str, Path]]
"""A record -> the `run` and `answers` that it was made from; those that are still there."""
SHOWN = re.compile(r"\]\(submissions/([a-z0-9-]+)\)")
"""A bundle that a page names; no text of a card can hold the brackets."""


@dataclass(frozen=True)
class Board:
    """A leaderboard before it takes a format.

    Attributes:
        profile: of everything on it.
        entries: our own, submitted, published.
        rankings: of them.
        tasks: name -> task, of all that are ranked.
    """

    profile: Profile
    entries: Sequence[Entry]
    rankings: Sequence[Ranking]
    tasks: Mapping[str, LoadedTask]

    @property
    def systems(self) -> list[Entry]:
        """The entries of which more is known than printed figures."""
        return [entry for entry in self.entries if entry.source != "published"]


@dataclass
class Built:
    """What came of building the pages.

    Attributes:
        boards: by profile.
        pages: the files written.
        kept: profile -> what is not at hand to build it, so that its page stays as it was.
        gone: pages of profiles that nothing is left on.
        refused: name of a bundle -> what is wrong with it, a line each.
        flagged: name of a bundle that is published -> what a maintainer should look at.
        skipped: plain files among the submissions, which are none.
        recorded: rows of ours, a stage of a task each, whose file is not there to be scored again.
        lacking: why a metric could not be computed here, each reason once.
    """

    boards: list[Board] = field(default_factory=list)
    pages: list[Path] = field(default_factory=list)
    kept: dict[Profile, str] = field(default_factory=dict)
    gone: list[Path] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    flagged: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[Path] = field(default_factory=list)
    recorded: int = 0
    lacking: set[str] = field(default_factory=set)


def build(
    root: Path, tasks: Tasks, outputs: Outputs, sizes: Mapping[str, int] | None = None
) -> Built:
    """Rescores what there are files of and writes `leaderboards/<profile>.md`.

    A bundle that `check` refuses stays off the page; the others do not wait for it. Nor do profiles
    wait for one whose data is not at hand.

    Args:
        root: folder with `leaderboards/submissions/` and `results/`.
        tasks: what records and submissions are of.
        outputs: finds the files that one of our records was made from.
        sizes: parameters of the backbones that our records name.

    Raises:
        UserError: one of our records is limited, stale or not what its files give.
    """
    built = Built()
    records = read_records(root / "results") if (root / "results").is_dir() else []
    submitted = _submitted(root / "leaderboards", tasks, built)
    rules = (root / "leaderboards" / "README.md").is_file()
    for profile in sorted(get_args(Profile)):
        path = root / "leaderboards" / f"{profile}.md"
        own = [record for record in records if record.task.profile == profile]
        others = [entry for card, entry in submitted if card.profile == profile]
        try:
            named = {record.task.name for record in own}
            named.update(*(entry.scores for entry in others))
            loaded = {name: tasks.load(name, profile) for name in sorted(named)}
        except NotAtHand as error:
            built.kept[profile] = str(error)
        if profile in built.kept:
            continue
        if not named:
            if path.exists():
                path.unlink()
                built.gone.append(path)
            continue
        ours = _own_entries(own, loaded, outputs, root / "results", sizes or {}, built)
        board = _board(profile, [*ours, *others], loaded)
        built.boards.append(board)
        built.flagged |= {e.name: list(e.flags) for e in board.entries if e.flags}
        with atomic_write(path) as stream:
            stream.write(page(profile, board.entries, board.rankings, rules=rules))
        built.pages.append(path)
    return built


def _board(profile: Profile, entries: Sequence[Entry], loaded: Mapping[str, LoadedTask]) -> Board:
    entries = told_of_twins(entries)
    if profile == "full":  # nothing else is comparable with what others printed
        entries = [*entries, *_published({n: t.card.reported for n, t in loaded.items()})]
    return Board(profile, entries, rankings(entries), loaded)


def _published(figures: Mapping[str, Sequence[Reported]]) -> list[Entry]:
    """An entry for each system and source of printed figures."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for task, printed in figures.items():
        for figure in printed:
            of_system = found.setdefault((figure.system, figure.source), {})
            of_system.setdefault(task, {})[figure.metric] = figure.fraction
    return [
        Entry(str(number), f"{system} ({source})", "published", reported=reported)
        for number, ((system, source), reported) in enumerate(found.items(), 1)
    ]


def _own_entries(
    records: Sequence[ResultRecord],
    loaded: Mapping[str, LoadedTask],
    outputs: Outputs,
    results: Path,
    sizes: Mapping[str, int],
    built: Built,
) -> Iterator[Entry]:
    for name in sorted({record.system.name for record in records}):
        own = [record for record in records if record.system.name == name]
        files = {record.task.name: outputs(record) for record in own}
        unseen = {
            r.task.name: _verify(r, loaded[r.task.name], files[r.task.name], built) for r in own
        }
        yield _own_entry(own, unseen, files, results, sizes)


def _submitted(pages: Path, tasks: Tasks, built: Built) -> list[tuple[SubmissionCard, Entry]]:
    """Those that stand on a page come first: what comes later may not take their names."""
    there = {name for page in pages.glob("*.md") for name in SHOWN.findall(page.read_text("utf-8"))}
    found: list[tuple[SubmissionCard, Entry]] = []
    taken = dict(tasks.taken)
    for path in sorted(pages.glob("submissions/*"), key=lambda p: (p.name not in there, p.name)):
        if path.is_file() and not path.is_symlink():
            built.skipped.append(path)
        elif not path.name.startswith("."):
            seen = examine(path, replace(tasks, taken=taken))
            if seen.problems or seen.card is None:
                built.refused[path.name] = seen.problems
                continue
            taken |= dict.fromkeys((path.name, seen.card.title), f"submission {path.name!r}")
            if set(seen.card.tasks) - seen.scores.keys():
                built.kept[seen.card.profile] = seen.lacking[0]
                continue
            built.lacking.update(seen.lacking)
            found.append((seen.card, _submission(path, seen.card, seen)))
    return found


def _submission(folder: Path, card: SubmissionCard, seen: Examination) -> Entry:
    files = {task: scored_files(folder, task) for task in card.tasks}
    return Entry(
        card.name,
        card.title,
        "submission",
        {t: [metric_score(m, v) for m, v in s.items()] for t, s in seen.scores.items()},
        by_turn=seen.scores,
        files={
            task: {kind: path for kind, path in zip(("run", "answers"), pair, strict=True) if path}
            for task, pair in files.items()
        },
        backbone=card.backbone,
        parameters=card.parameters,
        trained_on=card.trained_on,
        open_weights=card.weights is not None,
        card=card,
        flags=seen.flags,
    )


def _verify(
    record: ResultRecord, task: LoadedTask, files: Mapping[str, Path], built: Built
) -> frozenset[str]:
    """The metrics of a record that are not computed again here, for lack of a file or a package.

    Raises:
        UserError: it is limited, of other data, or not what its files give.
    """
    name = f"{record.system.name} on {record.task.name} ({record.task.profile})"
    command = f"uniconv-bench run --task {record.task.name} --system {record.system.name}"
    again = f"run it again: {command} --profile {record.task.profile}"
    if record.limit is not None:
        raise UserError(f"the record of {name} is limited", mend=again)
    if record.task.data_digest != task.digest:
        what = f"the record of {name} is of other data (digest {record.task.data_digest[:12]}, "
        raise UserError(f"{what}this version has {task.digest[:12]})", mend=again)
    run, answers = files.get("run"), files.get("answers")
    names = computable(task.card.metrics, built.lacking.add if answers else None)
    scores, problems, _ = rescore(task, run, answers, names=names, whole=False)
    if problems:
        raise UserError(f"the files of the record of {name} are broken: {problems[0]}", mend=again)
    lacking = {"retrieval": run is None, "generation": answers is None}
    built.recorded += sum(lacking[stage] for stage in {score.stage for score in record.scores})
    unknown = set(task.card.metrics) - set(names)
    left = {s.metric for s in record.scores if lacking[s.stage] or s.metric in unknown}
    for score in record.scores:
        if score.metric in left:
            continue
        values = scores.get(score.metric)
        if values is None or not _equal(score, metric_score(score.metric, values)):
            what = f"the record of {name}: {score.metric} is not what its run and answers give"
            raise UserError(what, mend=again)
    return frozenset(left)


def _equal(one: Score, other: Score) -> bool:
    pairs = zip((one.mean, *one.ci95), (other.mean, *other.ci95), strict=True)
    return one.n == other.n and all(abs(a - b) <= TOLERANCE for a, b in pairs)


def _own_entry(
    records: Sequence[ResultRecord],
    recorded: Mapping[str, frozenset[str]],
    files: Mapping[str, Mapping[str, Path]],
    results: Path,
    sizes: Mapping[str, int],
) -> Entry:
    system = records[0].system
    trainings = system.settings.get("adapters", {})
    trained_on = {t for name in system.adapters for t in trainings.get(name, {}).get("tasks", ())}
    at_hand = scores_at_hand(records, results)
    return Entry(
        system.name,
        system.title,
        "ours",
        {r.task.name: r.scores for r in records},
        system.is_bound,
        recorded,
        by_turn={r.task.name: at_hand[r.digest] for r in records if r.digest in at_hand},
        files=files,
        backbone=system.backbone,
        parameters=sizes.get(system.backbone or ""),
        trained_on=sorted(trained_on),
        open_weights=True,  # a backbone that anybody can get, and trainings that a card repeats
    )
