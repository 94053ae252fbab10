"""Result records: what was measured on one task with one system, and how. JSON, strict, sealed.

Knows no task, system or metric code: results outlive all three. A record's digest covers every
other field, so a file edited by hand is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from uniconv_bench.errors import UserError
from uniconv_bench.files import read_json
from uniconv_bench.sealed import Sealed, Strict, opened, write_sealed

SCHEMA_VERSION = 2
STUDIES, BENCHMARKS = "studies", "benchmarks.json"
"""Folder of a results folder that holds what studies found; file with the program's own speed."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TaskPart(Strict):
    """What was measured on."""

    name: str
    version: int
    profile: Literal["sample", "mini", "full"]
    split: str
    card_digest: Digest
    data_digest: Digest
    part: tuple[str, ...] = ()
    """In what the data is only a part of the dataset, as `12 of 2,514 turns of dev`."""
    unchecked: tuple[str, ...] = ()
    """At `full`, what may be a part for all that is known: no count of it is published."""

    LATE = ("part", "unchecked")


class SystemPart(Strict):
    """What was measured."""

    name: str
    title: str
    backbone: str | None
    backbone_revision: str | None
    adapters: dict[str, Digest]
    """Adapter name -> sha256 of its weights."""
    settings: dict[str, Any]
    """The resolved card."""

    @property
    def is_bound(self) -> bool:
        """Whether it is given what nobody has at test time: gold passages, or human rewrites."""
        retriever = self.settings.get("retriever")
        return isinstance(retriever, dict) and (
            retriever.get("kind") == "gold" or retriever.get("query") == "rewrite"
        )


class Score(Strict):
    """One metric: a fraction and its 95 % interval."""

    metric: str
    stage: Literal["retrieval", "generation"]
    mean: Fraction
    ci95: tuple[Fraction, Fraction]
    n: Annotated[int, Field(gt=0)]
    """Turns averaged: all judged ones."""
    conversations: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.ci95[0] > self.ci95[1]:
            raise ValueError("ci95: the lower end is above the upper end")
        if self.conversations > self.n:
            raise ValueError("conversations: more than turns")
        return self


class Counts(Strict):
    """Turns in the split, judged, and left without a result. Missing ones scored 0."""

    turns: Count
    judged_retrieval: Count
    judged_generation: Count
    missing_run: Count
    missing_answers: Count
    empty_answers: Count


class Digests(Strict):
    """sha256 of the files that the scores come from; None: the system has no such file."""

    run: Digest | None
    answers: Digest | None
    scores: Digest | None
    """Per-turn scores."""


class TrainingPart(Strict):
    """Where and by what an adapter was trained, perhaps long before; with what: the settings."""

    seed: int
    device: str
    package: str
    code: Digest
    libraries: dict[str, str]
    steps: Count
    tokens: Count
    peak_memory_bytes: Count


class Provenance(Strict):
    """By what code, on what machine, at what cost."""

    package: str
    """Version of uniconv-bench."""
    commit: str | None
    """Of the checkout that the package runs from; None outside a checkout."""
    dirty: bool | None
    """Whether code or cards differ from the commit."""
    python: str
    packages: dict[str, str]
    hardware: str
    platform: str
    training: dict[str, TrainingPart]
    """Adapter name -> how it came to be; nothing else draws random numbers."""
    seconds: dict[str, Annotated[float, Field(ge=0)]]
    """Stage -> wall-clock seconds, on the machine that it ran on."""
    peak_memory_bytes: Count
    """Largest resident memory of the process."""
    energy_joules: Annotated[float, Field(ge=0)] | None
    """Of the CPU packages; None where the machine does not tell."""
    created: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


class IndexPart(Strict):
    """What an approximate index found of what exact search finds."""

    recall: Fraction
    """Share of the exactly nearest passages, averaged over the queries."""
    depth: Annotated[int, Field(gt=0)]
    """Passages a ranking."""
    queries: Annotated[int, Field(gt=0)]
    """A sample of those of the run."""


class ResultRecord(Sealed):
    """The scores of one system on one task, and everything they depend on."""

    schema_version: Literal[2] = 2
    task: TaskPart
    system: SystemPart
    scores: tuple[Score, ...]
    counts: Counts
    limit: int | None
    """Turns taken if not all; such a record never enters a table."""
    index: IndexPart | None = None
    """None: search was exact, or there was none."""
    digests: Digests
    provenance: Provenance

    LATE = ("index",)

    @model_validator(mode="after")
    def _each_metric_once(self) -> Self:
        names = [score.metric for score in self.scores]
        if len(set(names)) < len(names):
            raise ValueError("scores: a metric comes twice")
        return self

    def score(self, metric: str) -> Score | None:
        """The score of a metric, or None if it was not measured."""
        return next((score for score in self.scores if score.metric == metric), None)


def record_path(results: Path, record: ResultRecord) -> Path:
    """Where a results folder keeps a record: `<profile>/<system>/<task>.json`."""
    return results / record.task.profile / record.system.name / f"{record.task.name}.json"


def results_of(file: Path) -> Path:
    """The folder of results that keeps a record file there."""
    return file.resolve().parents[2]


def write_record(record: ResultRecord, path: Path) -> Path:
    """Writes a record with its digest."""
    return write_sealed(record, path)


def read_record(path: Path) -> ResultRecord:
    """Reads a record.

    Raises:
        UserError: naming the file and the field; also if the digest does not fit the content.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError("not a result record: no JSON object", where=path)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"record of schema version {version!r}, this program reads {SCHEMA_VERSION}",
            where=path,
            mend="run the task again or use the uniconv-bench version that wrote it",
        )
    return opened(ResultRecord, content, path, what="record", mend="run the task again")


def read_records(folder: Path) -> list[ResultRecord]:
    """Every record below a folder, by path, but for what studies and benchmarks keep there.

    Raises:
        UserError: naming the first file that is none.
    """
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, mend="run a system on a task first")
    paths = sorted(folder.rglob("*.json"))
    others = {STUDIES, BENCHMARKS}
    return [read_record(p) for p in paths if others.isdisjoint(p.relative_to(folder).parts)]
