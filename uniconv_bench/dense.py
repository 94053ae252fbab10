"""Dense retrieval, whatever the encoder: passages encoded once, then searched as the card says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniconv_bench import approximate
from uniconv_bench.artefacts import hold, open_artefact
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.encode import Embed, Embeddings, embeddings_folder, encode_corpus, encode_rows
from uniconv_bench.errors import UserError
from uniconv_bench.files import differences, digest_of_code
from uniconv_bench.index import ExactIndex
from uniconv_bench.progress import Silent
from uniconv_bench.reader import Memories
from uniconv_bench.system import Context, Corpus, IndexRecall, Progress, Ranking

EXACT = "exact"
SAMPLE = 100
"""Queries on which an approximate index is compared with exact search."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded encoder.

    Attributes:
        dimension: of its embeddings.
        passage: a passage's token ids.
        query: a turn's token ids.
        embed_passages: rows of such ids -> embeddings; `embed_queries` likewise.
    """

    dimension: int
    passage: Callable[[Passage], list[int]]
    query: Callable[[Turn], list[int]]
    embed_passages: Embed
    embed_queries: Embed


@dataclass(frozen=True, slots=True)
class Searched:
    """What is searched.

    Attributes:
        corpus: digest.
        index: None: the embeddings themselves, exactly.
    """

    corpus: str
    embeddings: Embeddings
    index: approximate.FactoryIndex | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of what an approximate index found.

    Attributes:
        queries: (N, d).
        found: their rankings.
    """

    searched: Embeddings
    corpus: Corpus
    depth: int
    queries: Any
    found: list[Ranking]


class EmbeddingRetriever(ABC):
    """Ranks passages by the inner product of their embeddings with a turn's."""

    def __init__(self, context: Context):
        self.inference = context.inference
        self._made_elsewhere = context.index
        self._kept: Searched | None = None
        """By who asks one turn at a time."""
        self._sample: Sample | None = None
        """Of the last search through an approximate index."""

    @abstractmethod
    def of_passages(self) -> dict[str, Any]:
        """What a passage's embedding depends on."""

    @abstractmethod
    def of_queries(self) -> dict[str, Any]:
        """What else a query's embedding depends on."""

    @abstractmethod
    def encoder(self, progress: Progress) -> Encoder:
        """The loaded encoder."""

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Retriever`."""
        search: dict[str, Any] = {"code_search": digest_of_code("dense", "index")}
        if self.inference.index != EXACT:
            names = {"index", "index_search"}
            search |= self.inference.model_dump(include=names, exclude_defaults=True)
            search |= {
                "faiss": approximate.version(),
                "code_index": digest_of_code("approximate"),
            }
        return {**self.of_queries(), **self._of_embeddings(), **search}

    def _of_embeddings(self) -> dict[str, Any]:
        stored = self.inference.model_dump(include={"embedding_dtype"}, exclude_defaults=True)
        return {**self.of_passages(), **stored}

    def embeddings(self, corpus: Corpus) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of a corpus's embeddings, be they there or not. Loads no model."""
        fingerprint = {**self._of_embeddings(), "corpus": corpus.digest}
        return self._made_elsewhere or embeddings_folder(fingerprint), fingerprint

    def check(self, corpus: Corpus) -> None:
        """Refuses embeddings made elsewhere that this encoder would not have made.

        Raises:
            UserError: names the first field that differs.
        """
        folder, wanted = self.embeddings(corpus)
        if self._made_elsewhere is None:
            return
        found = open_artefact(folder)
        if found is None:
            raise UserError("no index in this folder", where=folder, mend="name one of `encode`")
        if differing := differences(found, wanted):
            name, theirs, ours = differing[0]
            others = f" ({len(differing) - 1} more fields differ)" if differing[1:] else ""
            what = f"{name} of the index is {theirs}, of the query encoder {ours}{others}"
            raise UserError(what, where=folder, mend="encode the passages with this system")

    def encode(
        self, corpus: Corpus, progress: Progress, encoder: Encoder | None = None
    ) -> Embeddings:
        """The embeddings of a corpus, made if they are not there.

        Args:
            encoder: if it is loaded already.
        """
        folder, fingerprint = self.embeddings(corpus)
        there = self._made_elsewhere or open_artefact(folder) is not None
        if there and (held := hold(folder)):
            return Embeddings(folder, held)
        loaded = encoder or self.encoder(progress)
        return encode_corpus(
            corpus,
            fingerprint,
            loaded.passage,
            loaded.embed_passages,
            self.inference.encode_batch_tokens,
            progress,
            dimension=loaded.dimension,
            dtype=self.inference.embedding_dtype,
        )

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""

        def embedded(encoder: Encoder) -> Any:
            rows = [encoder.query(turn) for turn in turns]
            batch_tokens = self.inference.encode_batch_tokens
            with progress.track("encode queries", len(rows)) as advance:
                return encode_rows(rows, encoder.embed_queries, batch_tokens, advance)

        encoder = self.encoder(progress)
        searched = self._opened(corpus, encoder, progress)
        rankings = self._search(searched, embedded(encoder), corpus, depth, progress)
        for turn, ranking in zip(turns, rankings, strict=True):
            yield turn.turn_id, ranking

    def rank(
        self, turn: Turn, corpus: Corpus, depth: int, memories: Memories, progress: Progress
    ) -> Ranking:
        """See `system.Ranks`. What is searched stays open, and held, for the next turn."""
        encoder = self.encoder(progress)
        if self._kept is None or self._kept.corpus != corpus.digest:
            self._kept = self._opened(corpus, encoder, progress)
        query = self.remembered(turn, encoder, memories, progress)
        (ranking,) = self._search(self._kept, query, corpus, depth, Silent())
        return ranking

    def remembered(
        self, turn: Turn, encoder: Encoder, memories: Memories, progress: Progress
    ) -> Any:
        """(1, d): the embedding of one turn, with what is remembered where that helps."""
        return encoder.embed_queries([encoder.query(turn)])

    def _opened(self, corpus: Corpus, encoder: Encoder, progress: Progress) -> Searched:
        """What is searched, made if it is not there, and held."""
        self.check(corpus)
        factory, settings = self.inference.index, self.inference.index_search
        if factory == EXACT:
            return Searched(corpus.digest, self.encode(corpus, progress, encoder), None)
        approximate.check(factory, encoder.dimension, len(corpus))
        embeddings = self.encode(corpus, progress, encoder)
        _, fingerprint = self.embeddings(corpus)
        while True:
            path = approximate.built(embeddings, factory, fingerprint, progress)
            if held := hold(path.parent):
                index = approximate.FactoryIndex(corpus.ids, path, settings)
                del held  # it is in memory now
                return Searched(corpus.digest, embeddings, index)

    def _search(
        self, searched: Searched, queries: Any, corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[Ranking]:
        """A ranking for each of the query embeddings, (N, d)."""
        if searched.index is None:
            yield from self._exact(queries, corpus, searched.embeddings, depth, progress)
            return
        with progress.track("search", len(queries)) as advance:
            found = list(searched.index.search(queries, depth, advance))
        some = range(0, len(queries), max(1, len(queries) // SAMPLE))
        rankings = [found[i] for i in some]
        self._sample = Sample(searched.embeddings, corpus, depth, queries[some], rankings)
        yield from found

    def _exact(
        self, queries: Any, corpus: Corpus, embeddings: Embeddings, depth: int, progress: Progress
    ) -> Iterator[Ranking]:
        import torch

        device = "cuda" if torch.cuda.is_available() else None
        with progress.track("search", len(corpus)) as advance:
            index = ExactIndex(corpus.ids, embeddings.shards, device)
            yield from index.search(queries, depth, advance=advance)

    def index_recall(self, progress: Progress) -> IndexRecall | None:
        """See `system.Approximates`; searches exactly for a sample of the queries."""
        of = self._sample
        if of is None:
            return None
        wanted = list(self._exact(of.queries, of.corpus, of.searched, of.depth, progress))
        share = approximate.recall(of.found, wanted)
        told = f"recall@{of.depth} {share:.3f} against exact search on {len(wanted)} queries"
        name = " ".join(filter(None, (self.inference.index, self.inference.index_search)))
        progress.note(f"  index {name}: {told}")
        return IndexRecall(share, of.depth, len(wanted))
