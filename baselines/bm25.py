"""BM25 with a choice of query, over the library's index (training mines negatives from it too)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.files import digest_of_code
from uniconv_bench.index import Bm25Index
from uniconv_bench.system import Context, Corpus, Progress, Ranking
from uniconv_bench.system_cards import Bm25Retriever as Bm25Card


class Bm25Retriever:
    """BM25 with the whole session, the last query or the human rewrite as query."""

    def __init__(self, card: Bm25Card, context: Context):
        self._query = card.query
        self._settings = context.task.bm25

    def fingerprint(self) -> Mapping[str, Any]:
        """Constants, query form, library version, code."""
        return {
            "retriever": "bm25",
            "query": self._query,
            **self._settings.model_dump(),
            "bm25s": metadata.version("bm25s"),
            "code": digest_of_code("conversation", "index"),
        }

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""
        index = Bm25Index(corpus, self._settings)
        with progress.track("search", len(turns)) as advance:
            for turn in turns:
                yield turn.turn_id, index.search(" ".join(turn.asked(self._query)), depth)
                advance(1)
