"""What a person declares: strict schemas over TOML files. Here task and submission cards.

Facts only, no behaviour. `system_cards` holds the other kind.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from uniconv_bench.definitions import Metric, parse_metric
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of
from uniconv_bench.malformed import malformed

Profile = Literal["sample", "mini", "full"]
PROFILES: tuple[Profile, ...] = ("sample", "mini", "full")
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9+_-][A-Za-z0-9+_.-]{0,63}$")]
"""Names folders of the cache and of results: letters, digits, `+`, `-`, `_`, and `.` inside."""


class Card(BaseModel):
    """Base of all cards and their tables: no unknown key, no coercion, no change after reading."""

    # Schemas are built at first use: a command that opens no card does not wait for them.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    def digest(self) -> str:
        """sha256 of what the card says beyond the defaults: new fields leave it as it is."""
        return digest_of(self.model_dump(mode="json", exclude_defaults=True))


class Reported(Card):
    """A number printed elsewhere. Never computed here, never mixed with our records."""

    system: str
    metric: str
    value: float
    scale: Literal["fraction", "percent"]
    source: str
    kind: Literal["paper", "reuse", "aggregator", "summary"]

    @property
    def fraction(self) -> float:
        """The value on the scale that records use."""
        return self.value / 100 if self.scale == "percent" else self.value


class Bm25Settings(Card):
    """Okapi BM25 constants that the literature uses on a dataset."""

    k1: float = 0.9
    b: float = 0.4


MOST_RANKS = 1_000_000
CUT = "-cut"
"""Ends the name of a test split that profile `mini` cut from an official one."""


class Mini(Card):
    """How profile `mini` reduces a corpus, beside keeping every gold passage."""

    neighbours: int = Field(default=2, ge=0)
    """Passages on either side of each gold one in the corpus: mostly of its article."""
    random: int = Field(default=10_000, ge=0)
    """Passages drawn at random."""
    pool: int = Field(default=100_000, ge=0)
    """Passages drawn at random in which BM25 looks for neighbours of the test questions."""
    bm25: int = Field(default=5, ge=0)
    """Of them, the best for each test turn."""
    test_share: Fraction = 0.3
    """Of the conversations, where one split has to be cut into train and test."""


class Source(Card):
    """One raw file of a dataset, or an archive of several, and where it comes from."""

    file: str
    """Path in the raw folder, where the task's reader expects it; of a zip or tar.gz archive the
    folder that it is unpacked into (`.`: the raw folder itself)."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+/\S*$")] | None = None
    """A direct download of a pinned revision; an address with a password is none."""
    manual: str | None = None
    """Where no direct download is known: what a person has to get, and from where."""
    bytes: Positive | None = None
    """Exact size of the download."""
    about_bytes: Positive | None = None
    """Its rounded size, where only that is published; for estimates alone."""
    checksum: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")] | None = (
        None
    )
    """Published digest of the download; without one the first download's own is kept."""
    unpack: Literal["gzip", "zip", "tar.gz"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Source:
        if (self.url is None) == (self.manual is None):
            raise ValueError(f"source of {self.file!r} needs either url or manual")
        if self.unpack and self.manual:
            raise ValueError(f"source of {self.file!r}: what is got by hand is unpacked by hand")
        if "\\" in self.file or PurePosixPath(self.file).is_absolute():
            raise ValueError(f"file {self.file!r} is no relative path")
        if self.file != "." and any(part in ("", ".", "..") for part in self.file.split("/")):
            raise ValueError(f"file {self.file!r} is no plain path inside the raw folder")
        if self.file == "." and self.unpack not in ("zip", "tar.gz"):
            raise ValueError("file '.' is for zip and tar.gz archives")
        return self


class SplitSize(Card):
    """Published counts of one split; what is not known for sure is left out."""

    conversations: Positive | None = None
    turns: Positive | None = None
    judged_retrieval: Positive | None = None
    """Turns with a relevant passage."""


class Size(Card):
    """How large the whole dataset is, as published: what profile `full` has to find."""

    source: str
    """Where the counts come from."""
    passages: Positive | None = None
    splits: dict[str, SplitSize] = {}


class TaskCard(Card):
    """One dataset: its facts, its judged splits, its metrics, what is known about it."""

    name: Name
    title: str
    version: int
    description: str
    homepage: str
    licence: str
    licence_terms: Literal["open", "non-commercial", "unstated"] = "unstated"
    """Other than `open`, a person has to accept the licence before a download."""
    sources: tuple[Source, ...] = ()
    """The raw files; empty: only a folder of a person's own can be prepared."""
    citation: str
    language: str = "en"
    size: Size | None = None
    """None: a part of the dataset cannot be told from the whole."""
    test_split: str = "test"
    metrics: tuple[str, ...]
    answer_tokens: Positive = 48
    """Most tokens that a generated answer may have."""
    reader: str | None = None
    """Name of a module beside this card, or of a task, whose module then reads the raw files and
    whose sample this task takes if it ships none; none: the module that is named as this card."""
    evidence: Literal["retrieved", "given"] = "retrieved"
    """Whether systems retrieve what they answer from, or every turn's passages are given."""
    retrieval_setting: str
    """What is retrieved from what, in one sentence."""
    rewrites: Literal["human", "unstated"] = "unstated"
    """Who wrote the self-contained forms of the questions, where the dataset has some."""
    traps: tuple[str, ...] = ()
    bm25: Bm25Settings = Bm25Settings()
    mini: Mini = Mini()
    reported: tuple[Reported, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _metrics_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("names no metric")
        for name in names:
            try:
                check_cutoff(parse_metric(name))
            except UserError as error:
                raise ValueError(str(error)) from error
        return names

    @model_validator(mode="after")
    def _sources_differ(self) -> TaskCard:
        files = [source.file for source in self.sources]
        if twice := [file for file in files if files.count(file) > 1]:
            raise ValueError(f"two sources of {twice[0]!r}")
        return self


class Platform(Card):
    """On what a submission was made, as far as its authors say."""

    cpu: str | None = None
    gpu: str | None = None
    ram: str | None = None
    system: str | None = None
    """The operating system."""
    libraries: tuple[str, ...] = ()
    """Names with versions, as `torch==2.9.0`."""

    @property
    def said(self) -> list[str]:
        """Every text of it."""
        parts = (self.cpu, self.gpu, self.ram, self.system)
        return [*(part for part in parts if part is not None), *self.libraries]


class SubmissionCard(Card):
    """Who submits what to the leaderboard."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", examples=["my-system"])
    title: str
    authors: tuple[str, ...]
    contact: str
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", examples=["2026-01-31"])
    description: str
    code: str | None = None
    """A repository, a plain https address."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")] | None = None
    """Of the code."""
    command: str | None = None
    """That made the runs."""
    paper: str | None = None
    """A plain https address."""
    platform: Platform | None = None
    weights: str | None = None
    """Where anybody gets the weights, a plain https address; without one they are not open."""
    backbone: str | None = None
    parameters: Annotated[int, Field(gt=0, le=10**15)] | None = None
    trained_on: tuple[str, ...]
    """Names of tasks whose training sets were used, even if only partly; `[]` says: of none."""
    tasks: tuple[str, ...]
    profile: Profile


def check_cutoff(metric: Metric) -> None:
    """Refuses a cutoff beyond what any ranking reaches, and the numbers of the libraries too."""
    if metric.cutoff and metric.cutoff > MOST_RANKS:
        what = f"metric {metric.name!r} has a cutoff above {MOST_RANKS:,}"
        raise UserError(what, mend="run files hold 100 passages a turn")


C = TypeVar("C", bound=Card)


def parse_card(model: type[C], content: dict[str, Any], where: Path) -> C:
    """A dict as a card; a UserError names the file and the first wrong field."""
    try:
        # TOML has arrays only; strict tuples are read from their JSON form.
        return model.model_validate(_tuples(content))
    except ValidationError as error:
        if model is not SubmissionCard and {"authors", "trained_on"} <= content.keys():
            what = "this looks like a submission card"
            mend = "give it to `uniconv-bench submit pack`, and a system's or task's card here"
            raise UserError(what, where=where, mend=mend) from error
        raise malformed(model, error, where) from error


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value
