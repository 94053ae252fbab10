"""What a person declares: task, system and submission cards. Strict schemas over TOML files.

Facts only, no behaviour. Every field of the method that the paper does not publish is a field here,
and `sources` says where its value comes from.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from uniconv_bench.conversation import QueryForm, SessionMask
from uniconv_bench.definitions import parse_metric
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of
from uniconv_bench.malformed import first_fault, malformed

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
    url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """A direct download of a pinned revision."""
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
                parse_metric(name)
            except UserError as error:
                raise ValueError(str(error)) from error
        return names

    @model_validator(mode="after")
    def _sources_differ(self) -> TaskCard:
        files = [source.file for source in self.sources]
        if twice := [file for file in files if files.count(file) > 1]:
            raise ValueError(f"two sources of {twice[0]!r}")
        return self


class DenseRetriever(Card):
    """A decoder's EOS embedding as query and passage encoder."""

    kind: Literal["dense"]
    adapter: str | None = None
    """Name of one of the card's `adapters`; none: the backbone untrained."""
    query: Literal["session", "query"] = "session"


class EncoderRetriever(Card):
    """An off-the-shelf sentence encoder (mean pooling), by backbone name."""

    kind: Literal["encoder"]
    model: str
    query: QueryForm = "session"


class Bm25Retriever(Card):
    """Okapi BM25 with the constants of the task card."""

    kind: Literal["bm25"]
    query: QueryForm = "session"


class BoundRetriever(Card):
    """`gold`: the relevant passages, as an upper bound. `none`: nothing, as a lower bound."""

    kind: Literal["gold", "none"]


class LlmGenerator(Card):
    """A decoder that answers from session and evidence."""

    kind: Literal["llm"]
    adapter: str | None = None
    session_mask: SessionMask = "none"
    """What answers see of the session, as the adapter's training has it."""


class CustomPart(Card):
    """A third party's retriever or generator: `module:Class`, built with its settings."""

    kind: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", examples=["module:Class"])]
    settings: dict[str, Any] = {}


def _part(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "module:Class" if isinstance(kind, str) and ":" in kind else str(kind)


RetrieverCard = Annotated[
    Annotated[DenseRetriever, Tag("dense")]
    | Annotated[EncoderRetriever, Tag("encoder")]
    | Annotated[Bm25Retriever, Tag("bm25")]
    | Annotated[BoundRetriever, Tag("gold")]
    | Annotated[BoundRetriever, Tag("none")]
    | Annotated[CustomPart, Tag("module:Class")],
    Discriminator(_part),
]
GeneratorCard = Annotated[
    Annotated[LlmGenerator, Tag("llm")] | Annotated[CustomPart, Tag("module:Class")],
    Discriminator(_part),
]


class Losses(Card):
    """Weights of L = retrieval * L_R + generation * L_G + cii * L_CII (alpha in the paper)."""

    retrieval: float = Field(default=1.0, ge=0)
    generation: float = Field(default=1.0, ge=0)
    cii: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Losses:
        if not self.retrieval + self.generation + self.cii:
            raise ValueError("all loss weights are 0")
        return self


class Lora(Card):
    """Low-rank adapters through peft."""

    r: Positive = 16
    alpha: Positive = 64
    dropout: Fraction = 0.1
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class Training(Card):
    """How one adapter is trained. Defaults follow the closest peers where the paper is silent."""

    tasks: tuple[str, ...]
    """Training sets mixed, each turn once an epoch."""
    losses: Losses = Losses()
    ddm: Literal["both", "response_as_passage", "passage_as_response"] = "both"
    """`both`: data-discrepancy mitigation, each turn carries its passage and its response.
    Without it one text serves both objectives, as in earlier work: the response is what L_R pulls
    to the session, or the passage is what L_G writes (which then grounds on BM25's best)."""
    retrieval_input: Literal["session", "query"] = "session"
    """What L_R pulls to its passage; the retriever that uses the adapter has to ask the same."""
    generation_input: Literal["session", "session+passage"] = "session"
    """What L_G's response is conditioned on."""
    session_mask: SessionMask = "none"
    """What L_G's response sees of the session."""
    generation_passages: int = Field(default=0, ge=0)
    """Distractor passages shown beside the gold one when `generation_input` has passages."""
    cii_input: Literal["session+passage", "query+passage"] = "session+passage"
    cii_temperature: float = Field(default=0.01, gt=0)
    temperature: float = Field(default=0.01, gt=0)
    """Of L_R's cosine similarities."""
    hard_negatives: int = Field(default=1, ge=0)
    """Passages per turn drawn from its BM25 neighbours that are not gold."""
    lora: Lora = Lora()
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = 0.1
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    batch_size: Positive = 16
    """Turns per optimiser step; also the number of in-batch candidates."""
    epochs: Positive = 3
    max_steps: Positive | None = None
    """Optimiser steps after which training ends, its schedule included; none: all epochs."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen backbone and the activations; adapters and losses stay in float32."""
    checkpoint_steps: Positive = 50
    tokens_at_once: Positive | None = None
    """Tokens of a step whose activations are held at a time, for a second forward pass over all;
    none: all of them, in one pass. The batch of the contrasts is the same."""
    seed: int = 13
    sources: dict[str, str] = {}
    """Field name -> `paper`, `peer:<name>` or `ours`."""
    profiles: dict[Profile, dict[str, Any]] = {}
    """Fields that are otherwise at a profile: its data, its backbone's size, its machine."""

    @model_validator(mode="after")
    def _profiles_fit(self) -> Training:
        for profile in self.profiles:
            self.on(profile)
        return self

    def on(self, profile: Profile) -> Training:
        """What a profile trains by.

        Raises:
            ValueError: what the card says for the profile fits no field.
        """
        base = self.model_dump(exclude={"profiles"}, exclude_defaults=True)
        changed = self.profiles.get(profile, {})
        try:
            return Training.model_validate(merged(base, changed))
        except ValidationError as error:
            what, mend = first_fault(Training, error)
            raise ValueError(
                "; ".join(filter(None, (f"profiles.{profile}: {what}", mend)))
            ) from error


class Inference(Card):
    """What retrieval and answering share."""

    session_tokens: Positive = 1024
    passage_tokens: Positive = 384
    depth: Positive = 100
    """Passages per turn in a run file."""
    top_k: Annotated[int, Field(ge=0)] = 3
    """Passages that the generator reads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    encode_batch_tokens: Positive = 4096
    decode_batch_size: Positive = 16
    sources: dict[str, str] = {}
    """As of an adapter's fields; part of no fingerprint."""


class SystemCard(Card):
    """One runnable system: a retriever, a generator, and the adapters they use."""

    name: Name
    title: str
    description: str
    backbone: dict[Profile, str] = {}
    """Which backbone serves each profile; empty for systems with their own code only."""
    retriever: RetrieverCard
    generator: GeneratorCard
    adapters: dict[Name, Training] = {}
    inference: Inference = Inference()

    def on(self, profile: Profile) -> SystemCard:
        """The card of one profile: what its adapters say for profiles is settled."""
        adapters = {name: training.on(profile) for name, training in self.adapters.items()}
        return self.model_copy(update={"adapters": adapters})

    @model_validator(mode="after")
    def _adapters_exist(self) -> SystemCard:
        for part in (self.retriever, self.generator):
            name = getattr(part, "adapter", None)
            if name is not None and name not in self.adapters:
                raise ValueError(f"adapter {name!r} is used but not declared under [adapters]")
        dense = self.retriever if isinstance(self.retriever, DenseRetriever) else None
        if dense is not None and dense.adapter is not None:
            trained = self.adapters[dense.adapter].retrieval_input
            if trained != dense.query:
                raise ValueError(
                    f"the retriever asks the {dense.query}, its adapter {dense.adapter!r} is "
                    f"trained on the {trained}: make retrieval_input and query the same"
                )
        llm = self.generator if isinstance(self.generator, LlmGenerator) else None
        if llm is not None and llm.adapter is not None:
            mask = self.adapters[llm.adapter].session_mask
            if mask != llm.session_mask:
                raise ValueError(
                    f"the generator has session_mask {llm.session_mask!r}, its adapter "
                    f"{llm.adapter!r} is trained with {mask!r}: make them the same"
                )
        return self


class SubmissionCard(Card):
    """Who submits what to the leaderboard."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", examples=["my-system"])
    title: str
    authors: tuple[str, ...]
    contact: str
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", examples=["2026-01-31"])
    description: str
    code: str | None = None
    backbone: str | None = None
    parameters: Annotated[int, Field(gt=0, le=10**15)] | None = None
    trained_on: tuple[str, ...]
    """Names of tasks whose training sets were used, even if only partly; `[]` says: of none."""
    tasks: tuple[str, ...]
    profile: Profile


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


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: tables merge key by key, everything else replaces.

    `false` takes a key away (no card has a field of that type). A table whose `kind` differs
    replaces the base's whole, since its fields mean something else. A value that `over` changes
    loses the source that `base` gives for it in `sources`, unless `over` gives one.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if value is False:
            result.pop(key, None)
        elif isinstance(old, dict) and isinstance(value, dict):
            same_kind = "kind" not in value or value["kind"] == old.get("kind")
            result[key] = merged(old, value) if same_kind else value
        else:
            result[key] = value
    if isinstance(sources := result.get("sources"), dict):
        own = over.get("sources") or {}
        changed = {key for key in over if key != "sources" and result.get(key) != base.get(key)}
        result["sources"] = {k: v for k, v in sources.items() if k in own or k not in changed}
    return result
