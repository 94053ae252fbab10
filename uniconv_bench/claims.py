"""Verdicts on claims, by the evidence that results hold. Knows no task and no system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uniconv_bench.claim_cards import Claim, Part, StudyPart
from uniconv_bench.evidence import Evidence, Results
from uniconv_bench.rendering import metric_label, percent
from uniconv_bench.statistics.differences import Difference
from uniconv_bench.statistics.intervals import LEVEL
from uniconv_bench.statistics.multiplicity import holm

SEEDS = 3
"""Trainings of each system that a verdict on trained systems rests on: how far scores differ by
chance alone is seen from no fewer."""
Verdict = Literal["supported", "contradicted", "inconclusive", "not measured"]


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
        unsure = -side in sides or (evidence.of_trainings and evidence.trainings < SEEDS)
        return Judged(evidence, p, p_by_task, verdicts[0 if unsure else side])

    def settle(self) -> str | None:
        """What would decide it; None: it is decided, or no number of turns would."""
        found, part = self.evidence.difference, says(self.evidence.part)
        if self.verdict != "inconclusive":
            return None
        if self.evidence.of_trainings and (lacking := SEEDS - self.evidence.trainings) > 0:
            return f"{part}: {lacking} more trainings of each system, with other seeds"
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


def judge(claims: Sequence[Claim], profile: str, results: Sequence[Path]) -> list[Answer]:
    """The verdict on every claim, from the records of one profile.

    Args:
        claims: as of `read_claims`.
        profile: `sample`, `mini` or `full`.
        results: folders of records; several hold runs with other seeds, which are pooled.

    Raises:
        UserError: records that a claim compares are not of the same turns, data or backbone.
    """
    books = Results(profile, results)
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
        settle = [line for part in parts if (line := part.settle()) is not None]
        answers.append(Answer(claim, verdict, tuple(parts), (*settle, *books.to_run(claim))))
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


def says(part: Part) -> str:
    """A part in words."""
    label = metric_label(part.metric)
    if isinstance(part, StudyPart):
        sign = "above" if part.direction == "higher" else "below"
        return f"{label}: {part.difference} {sign} 0 (study {part.study})"
    than = f"at most {percent(part.margin)} below" if part.margin else "above"
    return f"{label} of {part.above} {than} {part.below}"
