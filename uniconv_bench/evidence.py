"""What folders of results hold of the parts of claims: systems' records, and studies' outcomes.

Knows records and their scores by turn, no task and no system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench.claim_cards import Claim, Part, StudyPart, SystemPart
from uniconv_bench.comparison import Measured, measured, same_turns
from uniconv_bench.errors import UserError
from uniconv_bench.footnotes import PART
from uniconv_bench.outcomes import ALL, outcome_path, read_outcome
from uniconv_bench.records import ResultRecord, TrainingPart
from uniconv_bench.statistics.differences import Difference, paired
from uniconv_bench.tables import PAPER_TASKS


@dataclass(frozen=True)
class Evidence:
    """What records hold of a part.

    Attributes:
        part: what was claimed.
        difference: above 0 if it is so; the mean over the tasks that all sides were measured on.
        by_task: task -> its own difference.
        backbones: of the systems.
        trainings: with other seeds, of the trained system that has the fewest; 0: none is trained.
        of_trainings: whether trained systems are compared with each other, so that chance in
            training is a part of what is seen.
        cautions: in what the systems' training differs beyond their cards, and partial data.
    """

    part: Part
    difference: Difference
    by_task: Mapping[str, Difference]
    backbones: tuple[str, ...]
    trainings: int
    of_trainings: bool
    cautions: tuple[str, ...]


class Results:
    """What folders of results hold, each read once."""

    def __init__(self, profile: str, results: Sequence[Path]):
        self.profile, self.results = profile, results
        self.read: dict[tuple[str, str], Measured] = {}

    def _there(self, system: str, task: str) -> bool:
        return all((f / self.profile / system / f"{task}.json").is_file() for f in self.results)

    def _outcome(self, study: str) -> Path | None:
        return outcome_path(self.results, self.profile, study)

    def of(self, part: Part) -> Evidence | None:
        """None where no task, or no study, has what is compared."""
        return self._of_systems(part) if isinstance(part, SystemPart) else self._of_study(part)

    def _of_study(self, part: StudyPart) -> Evidence | None:
        if (path := self._outcome(part.study)) is None:
            return None
        outcome = read_outcome(path)
        wanted = (part.difference, part.metric)
        found = {g.task: g.difference() for g in outcome.gaps if (g.label, g.measure) == wanted}
        if not found:  # not at this profile
            return None
        if part.direction == "lower":
            found = {task: -difference for task, difference in found.items()}
        whole = found.pop(ALL) if ALL in found else next(iter(found.values()))
        told = [f"Study {part.study}: {line}" for line in outcome.limits()]
        backbones = dict.fromkeys(name or "none" for name in outcome.backbones.values())
        return Evidence(part, whole, found, tuple(backbones), 1, False, tuple(told))

    def _of_systems(self, part: SystemPart) -> Evidence | None:
        pairs, backbones, told = {}, [], []
        trainings: list[int] = []
        of_trainings = False
        for task in PAPER_TASKS:
            if not all(self._there(system, task) for system in (part.above, part.below)):
                continue
            one, other = (self._measured(system, task) for system in (part.above, part.below))
            _refuse_other_backbone(one, other)
            pairs[task] = same_turns(one, other, part.metric)
            backbones.append(one.record.system.backbone or "none")
            told += _trained_unlike(one.record, other.record)
            trained = [side.trainings for side in (one, other) if side.trainings]
            trainings += trained
            of_trainings |= len(trained) == 2
            if one.record.task.part:
                told.append(f"{task}: {PART}, {'; '.join(one.record.task.part)}.")
        if not pairs:
            return None
        return Evidence(
            part,
            paired(*pairs.values(), null=-part.margin),
            {task: paired(pair, null=-part.margin) for task, pair in pairs.items()},
            tuple(dict.fromkeys(backbones)),
            min(trainings, default=0),
            of_trainings,
            tuple(dict.fromkeys(told)),
        )

    def _measured(self, system: str, task: str) -> Measured:
        if (system, task) not in self.read:
            found = measured(system, task, self.profile, self.results)
            if found.record.limit is not None:
                what = f"{system} on {task} was run on the first {found.record.limit} turns only"
                raise UserError(what, mend="run it again without --limit")
            self.read[system, task] = found
        return self.read[system, task]

    def to_run(self, claim: Claim) -> Iterator[str]:
        """Commands that would let a verdict rest on all that it could."""
        of_systems = [part for part in claim.parts if isinstance(part, SystemPart)]
        systems = (name for part in of_systems for name in (part.above, part.below))
        for system in dict.fromkeys(systems):
            lacking = [task for task in PAPER_TASKS if not self._there(system, task)]
            if lacking:
                tasks = " ".join(f"--task {task}" for task in lacking)
                yield f"uniconv-bench run {tasks} --system {system} --profile {self.profile}"
        of_studies = [part for part in claim.parts if isinstance(part, StudyPart)]
        for study in dict.fromkeys(part.study for part in of_studies):
            if self._outcome(study) is None:
                yield f"uniconv-bench experiment {study} --profile {self.profile}"


def _refuse_other_backbone(one: Measured, other: Measured) -> None:
    ours, theirs = (
        (side.record.system.backbone, side.record.system.backbone_revision) for side in (one, other)
    )
    if ours != theirs:
        names = f"{one.record.system.name} and {other.record.system.name}"
        what = f"{names} on {one.record.task.name} stand on different backbones: "
        what += f"{' '.join(map(str, ours))} and {' '.join(map(str, theirs))}"
        raise UserError(what, mend="a claim compares systems on one; run the older again")


def _trained_unlike(one: ResultRecord, other: ResultRecord) -> list[str]:
    """What of two trainings no card says, yet scores may depend on."""
    ours, theirs = (list(record.provenance.training.values()) for record in (one, other))
    if not ours or not theirs:
        return []
    names = f"{one.system.name} and {other.system.name}"
    lines = []
    for what in ("steps", "tokens", "code"):
        first, second = (_of_trainings(side, what) for side in (ours, theirs))
        if first != second:
            lines.append(f"{names} were trained with unlike {what}: {first} and {second}.")
    return lines


def _of_trainings(side: Sequence[TrainingPart], what: str) -> str:
    if what == "code":
        return ", ".join(sorted({training.code[:12] for training in side}))
    return " + ".join(f"{getattr(training, what):,}" for training in side)
