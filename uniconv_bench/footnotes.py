"""What has to be said below figures of records: what they rest on, and what they do not.

Knows records only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from uniconv_bench.cards import CUT
from uniconv_bench.errors import UserError
from uniconv_bench.records import ResultRecord
from uniconv_bench.rendering import Column, metric_label

PART = "part of the dataset"
INCOMPARABLE = "so no figure here is comparable with a published one."
PROFILES = {
    "sample": "Profile sample: the data is small and was written by this project, " + INCOMPARABLE,
    "mini": f"Profile mini: real turns over a reduced corpus, {INCOMPARABLE}",
    "full": "Profile full: the whole dataset and corpus.",
}
"""What the data of each is."""


def of_profile(records: Sequence[ResultRecord]) -> list[str]:
    """What figures of a profile may be compared with."""
    note = PROFILES[records[0].task.profile]
    if records[0].task.profile != "full":
        return [note]
    parts = distinct(r.task.name for r in records if r.task.part)
    but = f", but {PART} of {', '.join(parts)}" if parts else ""
    unknown = distinct(f"{what} of {r.task.name}" for r in records for what in r.task.unchecked)
    if unknown:
        but += f"; not held against a published count: {', '.join(unknown)}"
    return [f"{note.removesuffix('.')}{but}."]


def of_tasks(records: Sequence[ResultRecord], columns: Sequence[Column]) -> list[str]:
    """Splits, turns and conversations, and what a system left out.

    Raises:
        UserError: the systems were averaged over different turns.
    """
    notes = []
    for task in distinct(task for task, _ in columns):
        own = [r for r in records if r.task.name == task]
        alike: dict[tuple[int, int], list[str]] = {}
        for metric in (m for t, m in columns if t == task):
            scores = [s for r in own for s in r.scores if s.metric == metric]
            sizes = {(s.n, s.conversations) for s in scores}
            if len(sizes) > 1:
                raise UserError(f"systems were averaged over different turns of {task}, {metric}")
            (size,) = sizes
            alike.setdefault(size, []).append(metric_label(metric))
        parts = [
            f"{', '.join(labels)} n = {n} turns of {conversations} conversations"
            for (n, conversations), labels in alike.items()
        ]
        where = f"{own[0].task.split} split, version {own[0].task.version}"
        notes.append(f"{task} ({where}): {'; '.join(parts)}.")
        if own[0].task.part:
            notes.append(
                f"{task}: {PART}, {'; '.join(own[0].task.part)}, so no figure of it is comparable "
                "with a published one."
            )
        official = own[0].task.split.removesuffix(CUT)
        if official != own[0].task.split:
            notes.append(
                f"{task}: conversations of {official} were cut into a training and a test part, "
                "for engineering; it is not the paper's split."
            )
        for record in own:
            lost = _lost(record)
            if lost:
                notes.append(f"{record.system.title} on {task}: {lost}.")
    return notes


def _lost(record: ResultRecord) -> str:
    counts, parts = record.counts, []
    stages = {score.stage for score in record.scores}
    if counts.missing_run and "retrieval" in stages:
        parts.append(f"{counts.missing_run} of {counts.judged_retrieval} judged turns not ranked")
    if counts.missing_answers and "generation" in stages:
        parts.append(
            f"{counts.missing_answers} of {counts.judged_generation} judged turns not answered"
        )
    return " and ".join(parts) + " (each counted as 0)" if parts else ""


def of_setting(records: Sequence[ResultRecord]) -> list[str]:
    """Backbones, code and machines."""
    backbones: dict[str, list[str]] = {}
    for record in records:
        system, revision = record.system, record.system.backbone_revision
        name = system.backbone or "none"
        users = backbones.setdefault(f"{name} ({revision})" if revision else name, [])
        if system.title not in users:
            users.append(system.title)
    if len(backbones) == 1:
        notes = [f"Backbone: {next(iter(backbones))}."]
    else:
        listed = [f"{name}: {', '.join(users)}" for name, users in backbones.items()]
        notes = [f"Backbones: {'; '.join(listed)}."]
    code = []
    for record in records:
        made = record.provenance
        commit = f", commit {made.commit[:12]}" if made.commit else ""
        code.append(f"{made.package}{commit}{' with changes' if made.dirty else ''}")
    hardware = distinct(r.provenance.hardware for r in records)
    notes.append(f"uniconv-bench {'; '.join(distinct(code))}. Hardware: {'; '.join(hardware)}.")
    return notes


def distinct(values: Iterable[str]) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(values))
