"""Search over a corpus: exact by embedding (faiss), lexical by term (bm25s).

Scores are float32 and equal scores are ordered by passage id, whatever the library underneath
returns. Knows nothing of models or tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.errors import UserError
from uniconv_bench.system import Corpus, Ranking


class DenseIndex:
    """Exact inner-product search over embeddings in memory.

    Args:
        ids: passage ids, parallel to the rows of `vectors`.
        vectors: (N, d) float32.
    """

    def __init__(self, ids: Sequence[str], vectors: Any):
        try:
            import faiss
        except ImportError as error:
            raise UserError(
                "faiss is not installed", mend="pip install 'uniconv-bench[cpu]' (or [gpu])"
            ) from error
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors")
        self._ids = ids
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def search(self, queries: Any, depth: int) -> Iterator[Ranking]:
        """A ranking of `depth` passages (fewer in a smaller corpus) for each row of `queries`.

        faiss cuts through equal scores arbitrarily, so the cut is widened until the score behind
        it differs from the score before it. Its id -1 (no such neighbour) never becomes a passage.
        """
        for query in queries:
            width = min(depth + 16, len(self._ids))
            while True:
                scores, rows = self._index.search(query[None], width)
                if width == len(self._ids) or scores[0, depth - 1] > scores[0, width - 1]:
                    break
                width = min(2 * width, len(self._ids))
            found = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
            ranked = sorted((-score, self._ids[row]) for score, row in found if row >= 0)
            yield [(passage_id, -score) for score, passage_id in ranked[:depth]]


class Bm25Index:
    """A corpus in memory as BM25 postings: Lucene's variant, English stop words, no stemming."""

    def __init__(self, corpus: Corpus, settings: Bm25Settings):
        import bm25s

        self._ids = list(corpus.ids)
        self._tokenise: Any = partial(bm25s.tokenize, stopwords="en", show_progress=False)
        self._index: Any = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
        self._index.index(self._tokenise([p.contents for p in corpus]), show_progress=False)

    def search(self, query: str, depth: int) -> Ranking:
        """The `depth` best passages that share a term with the query; ties by passage id."""
        import numpy as np

        tokens = self._tokenise([query])
        words = {number: word for word, number in tokens.vocab.items()}
        # A term said twice counts twice, as in Lucene.
        terms = [words[n] for n in tokens.ids[0] if words[n] in self._index.vocab_dict]
        if not terms:
            return []
        scores = self._index.get_scores(terms).astype(np.float32)
        found = np.flatnonzero(scores > 0)
        if len(found) > depth:  # most passages share some word: only those at the top are sorted
            found = found[scores[found] >= np.partition(scores[found], -depth)[-depth]]
        best = sorted((-float(scores[i]), self._ids[i]) for i in found)[:depth]
        return [(pid, -score) for score, pid in best]
