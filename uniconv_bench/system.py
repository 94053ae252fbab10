"""What a system is made of: the protocols of Corpus, Retriever and Generator.

A third party implements `Retriever` or `Generator` and names the class on a card as
`kind = "module:Class"`. Nothing here knows a model or a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from uniconv_bench.cards import TaskCard
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.files import digest_of
from uniconv_bench.system_cards import Inference

if TYPE_CHECKING:
    from uniconv_bench.reader import Memories

Ranking = list[tuple[str, float]]
"""(passage_id, score), best first."""


class Advance(Protocol):
    """Counts work as done."""

    def __call__(self, count: int, told: str = "") -> None:
        """That many more items, or bytes, are done; `told` is how it goes, in a few words."""


class Progress(Protocol):
    """Shows how far long work has come; `evaluate` passes one to every stage."""

    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> AbstractContextManager[Advance]:
        """A context whose value is called with the number of items, or bytes, just done.

        A `total` of 0 is unknown.
        """

    def note(self, message: str) -> None:
        """One line that a person should read."""


class Corpus(Protocol):
    """The passages of a task. Iteration order is the order of `ids`."""

    digest: str
    """sha256 over ids, titles and texts."""

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids, in corpus order; `in` is quick, however many there are."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Passage]: ...

    def between(self, start: int, stop: int) -> list[Passage]:
        """The passages of these rows, whatever comes before them unread."""

    def __getitem__(self, passage_id: str) -> Passage:
        """Raises KeyError if there is no such passage."""


class InMemory:
    """A few passages as a `Corpus`.

    Args:
        passages: each id once.
    """

    def __init__(self, passages: Sequence[Passage]):
        self._passages = {passage.passage_id: passage for passage in passages}
        self.digest = digest_of([[p.passage_id, p.title, p.text] for p in passages])

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids, in corpus order."""
        return tuple(self._passages)

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages.values())

    def between(self, start: int, stop: int) -> list[Passage]:
        """The passages of these rows."""
        return list(self._passages.values())[start:stop]

    def __getitem__(self, passage_id: str) -> Passage:
        """Raises KeyError if there is no such passage."""
        return self._passages[passage_id]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a generator said on one turn.

    Attributes:
        turn_id: the turn.
        text: the answer, stripped; may be empty.
        prompt_tokens: tokens read.
        tokens: tokens written, without the end token.
        evidence: ids of the passages shown, in prompt order.
    """

    turn_id: str
    text: str
    prompt_tokens: int = 0
    tokens: int = 0
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What a part of a system is built with beside its own table on the card.

    Attributes:
        task: the card of the task to run on.
        backbone: name or folder of the pretrained weights for this profile; empty without any.
        inference: limits, depth and precision.
        adapters: trained adapters by their name on the card.
        index: folder of embeddings made elsewhere, in place of those in the cache.
    """

    task: TaskCard
    backbone: str
    inference: Inference
    adapters: Mapping[str, Path]
    index: Path | None = None


class Retriever(Protocol):
    """Ranks passages for turns. Built as `Class(card table, Context)`."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that the ranking depends on, as JSON values. Must not load a model."""

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """(turn_id, at most `depth` passages) for every turn, in order.

        Scores are float32 and never increase; equal scores are ordered by passage id.
        """


@runtime_checkable
class Encoding(Protocol):
    """A retriever that embeds passages, which can be done beforehand and elsewhere."""

    def embeddings(self, corpus: Corpus) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of a corpus's embeddings, be they there or not."""

    def encode(self, corpus: Corpus, progress: Progress) -> Any:
        """Makes them if they are not there."""

    def check(self, corpus: Corpus) -> None:
        """Raises UserError if embeddings made elsewhere do not fit."""


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """How much of what exact search finds an approximate index found.

    Attributes:
        recall: share of the exactly nearest passages, averaged over the queries.
        depth: passages a ranking.
        queries: a sample of those of the run.
    """

    recall: float
    depth: int
    queries: int


@runtime_checkable
class Approximates(Protocol):
    """A retriever whose index may be approximate."""

    def index_recall(self, progress: Progress) -> IndexRecall | None:
        """Of the last retrieval; None: it was exact."""


@runtime_checkable
class Asks(Protocol):
    """A retriever that asks another one, in other words."""

    asked: Retriever


class Generator(Protocol):
    """Answers turns from their session and evidence. Built as `Class(card table, Context)`."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that the answers depend on, as JSON values. Must not load a model."""

    def generate(
        self, turns: Sequence[Turn], evidence: Mapping[str, Sequence[Passage]], progress: Progress
    ) -> Iterator[Answer]:
        """One answer a turn, in any order; `evidence` is keyed by turn id and may be empty."""


@runtime_checkable
class Ranks(Protocol):
    """A retriever that can be asked one turn at a time and remembers what it has read."""

    def rank(
        self, turn: Turn, corpus: Corpus, depth: int, memories: Memories, progress: Progress
    ) -> Ranking:
        """The ranking that `retrieve` gives, to rounding."""


@runtime_checkable
class Streams(Protocol):
    """A generator that can be asked one turn at a time and tells its answer as it comes."""

    def stream(
        self, turn: Turn, passages: Sequence[Passage], memories: Memories, progress: Progress
    ) -> Iterator[str]:
        """The answer that `generate` gives, in pieces."""

    def shown(self, turn: Turn, passages: Sequence[Passage], progress: Progress) -> str:
        """The prompt as the model gets it."""
