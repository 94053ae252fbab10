"""What a study found: cells, differences and a reading, as JSON. Knows no task and no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from uniconv_bench.errors import UserError
from uniconv_bench.files import read_json
from uniconv_bench.records import STUDIES, Count, Digest, Provenance
from uniconv_bench.sealed import Sealed, Strict, opened, write_sealed
from uniconv_bench.statistics.differences import Difference

OUTCOME = "outcome.json"
ALL = "all tasks"
"""Stands for a task where a difference is the mean over several."""
Number = Annotated[float, Field(ge=-2, le=2)]
Seconds = Annotated[float, Field(ge=0)]


class Mean(Strict):
    """A measure of one condition on one task, over all its turns or a part of them."""

    condition: str
    task: str
    part: str | None
    """Of the turns, as a slicing names it; None: all."""
    measure: str
    mean: Number
    ci95: tuple[Number, Number]
    n: Annotated[int, Field(gt=0)]
    conversations: Annotated[int, Field(gt=0)]


class Gap(Strict):
    """A difference between two conditions on the turns that both have."""

    label: str
    """What is subtracted from what."""
    condition: str | None
    """None: an interaction of four."""
    task: str
    measure: str
    sides: tuple[Number, Number] | None
    """The two means on these turns; None: an interaction."""
    mean: Number
    ci95: tuple[Number, Number]
    p: Annotated[float, Field(ge=0, le=1)]
    p_holm: Annotated[float, Field(ge=0, le=1)]
    """Corrected for all differences of the study."""
    detectable: float | None
    """The smallest true difference that as many conversations show in four of five cases."""
    n: Annotated[int, Field(gt=0)]
    conversations: Annotated[int, Field(gt=0)]

    def difference(self) -> Difference:
        """As statistics has it, uncorrected."""
        return Difference(
            mean=self.mean,
            ci95=self.ci95,
            p=self.p,
            null=0.0,
            detectable=self.detectable,
            n=self.n,
            conversations=self.conversations,
        )


class Cost(Strict):
    """What a condition took; of stages that were cached, what they took when they were done."""

    condition: str
    task: str
    turns: Count
    retrieval_seconds: Seconds | None
    """Passages encoded included; None: it retrieves nothing itself."""
    answer_seconds: Seconds | None
    training_seconds: Seconds
    training_tokens: Count
    peak_memory_bytes: Count
    weights_bytes: Count
    """Of all models that have to be in memory to answer: adapters, and one backbone for each part
    that has weights of its own."""


class Watched(Strict):
    """A guard's number at the end of an adapter's training, where its card has validation."""

    condition: str
    adapter: str
    number: str
    before: float
    after: float
    warned: str | None
    """What it means, where it is beyond its bound."""


class Outcome(Sealed):
    """Everything a study found, and what it depends on."""

    schema_version: Literal[1] = 1
    study: str
    title: str
    question: str
    card_digest: Digest
    profile: Literal["sample", "mini", "full"]
    backbones: dict[str, str | None]
    """Condition -> name of its backbone."""
    axis: str
    x: dict[str, float]
    """Condition -> its place on the axis."""
    figure: Literal["dots", "line", "pareto", "grid", "bars"]
    baseline: str
    data: dict[str, Digest]
    """Task -> digest of its data."""
    cut: tuple[str, ...]
    """Tasks whose split is cut for engineering, or of which data is a part."""
    turns: int | None
    """The first so many of each task; None: all."""
    split: Literal["test", "train"] = "test"
    """The turns that were answered: those of the test split, or the training turns."""
    left_out: tuple[str, ...] = ()
    """Conditions of the card that are not run at this profile."""
    choices: bool = False
    """Whether its conditions differ in what the paper leaves open."""
    means: tuple[Mean, ...]
    gaps: tuple[Gap, ...]
    costs: tuple[Cost, ...]
    watched: tuple[Watched, ...]
    reading: tuple[str, ...]
    provenance: Provenance

    LATE = ("split", "left_out", "choices")

    def limits(self) -> list[str]:
        """In what it rests on less than all test turns of the whole data, a sentence each."""
        lines = []
        if self.turns is not None:
            lines.append(f"The first {self.turns} {self.split} turns of each task.")
        elif self.split == "train":
            lines.append("All turns are training turns.")
        if self.cut:
            lines.append(f"Not the paper's split, or part of the dataset: {', '.join(self.cut)}.")
        return lines

    def conditions(self) -> list[str]:
        """In the order of the card."""
        return list(dict.fromkeys(mean.condition for mean in self.means))

    def of(self, condition: str, task: str, measure: str, part: str | None = None) -> Mean | None:
        """One mean, or None if it was not measured."""
        wanted = (condition, task, measure, part)
        return next(
            (m for m in self.means if (m.condition, m.task, m.measure, m.part) == wanted), None
        )


def write_outcome(outcome: Outcome, folder: Path) -> Path:
    """Writes an outcome with its digest into a study's folder."""
    return write_sealed(outcome, folder / OUTCOME)


def outcome_path(results: Sequence[Path], profile: str, study: str) -> Path | None:
    """In the first folder of results that has it; seeds of studies are not pooled."""
    paths = (folder / STUDIES / profile / study / OUTCOME for folder in results)
    return next((path for path in paths if path.is_file()), None)


def read_outcome(path: Path) -> Outcome:
    """Reads an outcome.

    Raises:
        UserError: it is malformed, or was changed after it was written.
    """
    content = read_json(path)
    mend = "run the study again"
    if not isinstance(content, dict):
        raise UserError("not a study's outcome: no JSON object", where=path, mend=mend)
    return opened(Outcome, content, path, what="outcome", mend=mend)
