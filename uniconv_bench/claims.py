"""The paper's claims as data (`claims.toml`, which says how they are judged), and their verdicts.

Knows records and their scores by turn, no task and no system.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from uniconv_bench.cards import Card, parse_card
from uniconv_bench.comparison import Measured, measured, same_turns
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_toml
from uniconv_bench.footnotes import PART
from uniconv_bench.records import ResultRecord
from uniconv_bench.rendering import metric_label, percent
from uniconv_bench.statistics import LEVEL, Difference, holm, paired
from uniconv_bench.tables import PAPER_TASKS

Verdict = Literal["supported", "contradicted", "inconclusive", "not measured"]


class Part(Card):
    """One system is above another, or at most a margin below it."""

    metric: str
    above: str
    below: str
    margin: float = Field(default=0.0, ge=0, lt=1)
    reason: str | None = None
    """Why the margin is what it is."""

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if bool(self.margin) != bool(self.reason):
            raise ValueError("a margin goes with its reason")
        return self


class Claim(Card):
    """A claim and the comparisons that decide it."""

    id: str
    family: str
    """Parts of all claims of a family are corrected together."""
    sentence: str
    source: str
    parts: tuple[Part, ...] = ()
    needs: str | None = None
    """What would decide it, where no comparison of records can."""

    @model_validator(mode="after")
    def _decidable(self) -> Self:
        if bool(self.parts) == bool(self.needs):
            raise ValueError("a claim has parts, or says what it needs")
        return self


class Claims(Card):
    """All of them."""

    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError("an id comes twice")
        return self


@dataclass(frozen=True)
class Evidence:
    """What records hold of a part.

    Attributes:
        part: what was claimed.
        difference: `above` minus `below`, the mean over the tasks that both were measured on.
        by_task: task -> its own difference.
        backbones: of the systems.
        runs: of each system, with other seeds, that were pooled.
        cautions: in what the systems' training differs beyond their cards, and partial data.
    """

    part: Part
    difference: Difference
    by_task: Mapping[str, Difference]
    backbones: tuple[str, ...]
    runs: int
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A part, measured.

    Attributes:
        evidence: what it rests on.
        p: of the difference, after Holm over the family.
        p_by_task: task -> its own p, after Holm over the tasks.
        verdict: what follows.
    """

    evidence: Evidence
    p: float
    p_by_task: Mapping[str, float]
    verdict: Verdict

    @staticmethod
    def of(evidence: Evidence, p: float) -> Judged:
        """The verdict, by the rule at the top of `claims.toml`."""
        p_by_task = holm({task: found.p for task, found in evidence.by_task.items()})
        side = _side(evidence.difference, p)
        sides = {_side(found, p_by_task[task]) for task, found in evidence.by_task.items()}
        verdicts: dict[int, Verdict] = {1: "supported", -1: "contradicted", 0: "inconclusive"}
        return Judged(evidence, p, p_by_task, verdicts[0 if -side in sides else side])

    def settle(self) -> str | None:
        """What would decide it; None: it is decided, or no number of turns would."""
        found, part = self.evidence.difference, says(self.evidence.part)
        if self.verdict != "inconclusive":
            return None
        if self.p < LEVEL:
            return f"{part}: some task says the contrary, so look at each"
        if (needed := found.turns_to_settle) is None:
            return None
        if needed <= found.n:
            return f"{part}: told apart by itself, not among all claims of its family: more turns"
        there = f"(there are {found.n:,})"
        return f"{part}: about {needed:,} turns, if the true difference is the one seen {there}"


@dataclass(frozen=True)
class Answer:
    """A claim, its verdict, and what would settle it if that is open."""

    claim: Claim
    verdict: Verdict
    parts: tuple[Judged, ...]
    settle: tuple[str, ...]

    @property
    def to_settle(self) -> str:
        """What `settle` is about."""
        decided = self.verdict in ("supported", "contradicted")
        return "for the other tasks" if decided else "to settle it"


def read_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """The paper's claims, or those of a file; a UserError names what is wrong with it."""
    path = path or Path(str(files("uniconv_bench") / "claims.toml"))
    return parse_card(Claims, read_toml(path), path).claims


def judge(claims: Sequence[Claim], profile: str, results: Sequence[Path]) -> list[Answer]:
    """The verdict on every claim, from the records of one profile.

    Args:
        claims: as of `read_claims`.
        profile: `sample`, `mini` or `full`.
        results: folders of records; several hold runs with other seeds, which are pooled.

    Raises:
        UserError: records that a claim compares are not of the same turns, data or backbone.
    """
    books = _Records(profile, results)
    open_: dict[tuple[int, int], Evidence] = {}
    for i, claim in enumerate(claims):
        for j, part in enumerate(claim.parts):
            if (evidence := books.of(part)) is not None:
                open_[i, j] = evidence
    corrected: dict[tuple[int, int], float] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        corrected |= holm(
            {at: e.difference.p for at, e in open_.items() if claims[at[0]].family == family}
        )
    answers = []
    for i, claim in enumerate(claims):
        parts = [Judged.of(evidence, corrected[at]) for at, evidence in open_.items() if at[0] == i]
        verdict = _overall(claim, [part.verdict for part in parts])
        answers.append(Answer(claim, verdict, tuple(parts), tuple(books.settle(claim, parts))))
    return answers


def _side(difference: Difference, p: float) -> int:
    """1 above what is tested against, -1 below, 0 not told apart from it."""
    if p >= LEVEL:
        return 0
    return 1 if difference.mean > difference.null else -1


def _overall(claim: Claim, parts: Sequence[Verdict]) -> Verdict:
    if "contradicted" in parts:
        return "contradicted"
    if not parts or len(parts) < len(claim.parts):
        return "not measured"
    return "supported" if set(parts) == {"supported"} else "inconclusive"


class _Records:
    """Systems on tasks, each read once."""

    def __init__(self, profile: str, results: Sequence[Path]):
        self.profile, self.results = profile, results
        self.read: dict[tuple[str, str], Measured] = {}

    def there(self, system: str, task: str) -> bool:
        return all((f / self.profile / system / f"{task}.json").is_file() for f in self.results)

    def of(self, part: Part) -> Evidence | None:
        """None where no task has both systems."""
        pairs, backbones, told = {}, [], []
        for task in PAPER_TASKS:
            if not all(self.there(system, task) for system in (part.above, part.below)):
                continue
            one, other = (self._measured(system, task) for system in (part.above, part.below))
            _refuse_other_backbone(one, other)
            pairs[task] = same_turns(one, other, part.metric)
            backbones.append(one.record.system.backbone or "none")
            told += _trained_unlike(one.record, other.record)
            if one.record.task.part:
                told.append(f"{task}: {PART}, {'; '.join(one.record.task.part)}.")
        if not pairs:
            return None
        return Evidence(
            part,
            paired(*pairs.values(), null=-part.margin),
            {task: paired(pair, null=-part.margin) for task, pair in pairs.items()},
            tuple(dict.fromkeys(backbones)),
            len(self.results),
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

    def settle(self, claim: Claim, parts: Iterable[Judged]) -> list[str]:
        """What to do about a verdict that is open, or rests on some of the tasks only."""
        if claim.needs:
            return [claim.needs]
        lines = [line for judged in parts if (line := judged.settle()) is not None]
        systems = dict.fromkeys(name for part in claim.parts for name in (part.above, part.below))
        for system in systems:
            lacking = [task for task in PAPER_TASKS if not self.there(system, task)]
            if lacking:
                tasks = " ".join(f"--task {task}" for task in lacking)
                lines.append(
                    f"uniconv-bench run {tasks} --system {system} --profile {self.profile}"
                )
        return lines


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
    for what, of in (
        ("steps", lambda training: f"{training.steps:,}"),
        ("tokens", lambda training: f"{training.tokens:,}"),
        ("code", lambda training: training.code[:12]),
    ):
        first, second = (" + ".join(dict.fromkeys(map(of, side))) for side in (ours, theirs))
        if first != second:
            lines.append(f"{names} were trained with unlike {what}: {first} and {second}.")
    return lines


def says(part: Part) -> str:
    """A part in words."""
    than = f"at most {percent(part.margin)} below" if part.margin else "above"
    return f"{metric_label(part.metric)} of {part.above} {than} {part.below}"
