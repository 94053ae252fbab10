"""Search over a corpus: by embedding, exactly and from disk; lexical by term (bm25s).

Scores are float32 and equal scores are ordered by passage id, whatever the library underneath
returns. Knows nothing of models or tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.system import Corpus, Ranking

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = {"cpu": 2048, "cuda": 8192}
"""Passages that are scored at once."""
QUERIES = 1024
"""Queries that are scored at once; more take turns with each block of passages."""
PRODUCTS = 1 << 18
"""Products of single coordinates in memory; few enough for a cache."""
ROUNDING = 2.0**-24
"""Largest relative error of one operation in float32."""


class ExactIndex:
    """Inner-product search over the embeddings of a corpus, streamed from disk in blocks.

    A matrix product in float32 finds candidates; within its rounding error of the cut, each one's
    score is then summed in float64 and rounded once. So scores depend on nothing but the two
    vectors, and rankings on no size of shard or block; equal vectors have equal scores.

    Args:
        ids: passage ids, parallel to the rows of the shards.
        shards: `.npy` files of (rows, d) float16 or float32.

    Raises:
        ValueError: there are not as many rows as ids.
    """

    def __init__(self, ids: Sequence[str], shards: Sequence[Path]):
        self._ids = ids
        self._shards = [(path, len(_mapped(path))) for path in shards]
        if (rows := sum(rows for _, rows in self._shards)) != len(ids):
            raise ValueError(f"{len(ids)} ids for {rows} vectors")

    def search(
        self,
        queries: Any,
        depth: int,
        *,
        block: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Iterator[Ranking]:
        """A ranking of `depth` passages (fewer in a smaller corpus) for each row of `queries`.

        Args:
            queries: (Q, d) float32.
            depth: passages a ranking.
            block: passages scored at once; None: what suits the device.

            advance: told how many more passages are done.
        """
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        asked = torch.from_numpy(queries).to(device)
        nearest = [
            _Nearest(asked[start : start + QUERIES], self._ids, depth)
            for start in range(0, len(asked), QUERIES)
        ]
        rows = 0
        for passages in self._blocks(block or BLOCK[device.type]):
            passages = passages.to(device, non_blocking=True).float()
            longest = float(passages.norm(dim=1).max())
            for group in nearest:
                group.see(passages, rows, longest)
            rows += len(passages)
            advance(len(passages))
        for group in nearest:
            yield from group.rankings()

    def _blocks(self, size: int) -> Iterator[Tensor]:
        """Passages as they are stored; while one block is worked on the next is read."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = None
            for path, start in self._places(size):
                following = reader.submit(_read, path, start, size)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def _places(self, size: int) -> Iterator[tuple[Path, int]]:
        for path, rows in self._shards:
            for start in range(0, rows, size):
                yield path, start


def _mapped(path: Path) -> Any:
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read(path: Path, start: int, size: int) -> Tensor:
    """Some rows of a shard; its map is gone afterwards, and does not count as memory."""
    import numpy as np
    import torch

    rows = torch.from_numpy(np.array(_mapped(path)[start : start + size]))
    return rows.pin_memory() if torch.cuda.is_available() else rows


class _Nearest:
    """The best passages so far for a group of queries: `depth` a query, and some to be weighed.

    Args:
        queries: (Q, d) float32 on the device.
        ids: of all passages; read where the cut goes through equal scores, and at the end.
        depth: passages a query.
    """

    def __init__(self, queries: Tensor, ids: Sequence[str], depth: int):
        import numpy as np

        self._queries, self._ids, self._depth = queries, ids, depth
        # |rounded - exact| <= d u |q| |p| for any order of summation (Higham, section 3.1).
        self._error = (queries.shape[1] + 2) * ROUNDING * queries.norm(dim=1)
        self._cut = queries.new_full((len(queries),), -float("inf"))
        """The score that a passage must reach; -inf for as long as anything is good enough."""
        self._kept = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        """Query, score and row, query by query."""
        self._new: list[tuple[Any, Any, Any]] = []

    def see(self, passages: Tensor, first: int, longest: float) -> None:
        """Takes a block into account.

        Args:
            passages: (B, d) float32 on the device.
            first: row of the first.
            longest: the largest norm among them.
        """
        import torch

        scores = self._queries @ passages.T
        error = self._error * longest
        least = self._cut - error
        filling = bool(least.isneginf().any())
        if filling and len(passages) >= self._depth:
            least = torch.maximum(least, scores.topk(self._depth).values[:, -1] - 2 * error)
        query, row = (scores >= least[:, None]).nonzero(as_tuple=True)
        exact = _products(self._queries, passages, query, row)
        self._new.append((query.cpu().numpy(), exact.cpu().numpy(), row.cpu().numpy() + first))
        if filling or sum(len(part) for part, _, _ in self._new) > len(self._kept[0]) // 4:
            self._weigh()

    def rankings(self) -> Iterator[Ranking]:
        """Best first, equal scores by id."""
        self._weigh()
        query, score, row = self._kept
        found: list[list[tuple[float, str]]] = [[] for _ in self._queries]
        for one, value, place in zip(query.tolist(), score.tolist(), row.tolist(), strict=True):
            found[one].append((-value, self._ids[place]))
        for ranked in found:
            yield [(passage_id, -value) for value, passage_id in sorted(ranked)]

    def _weigh(self) -> None:
        """Keeps the best of what is kept and what is new."""
        import numpy as np

        columns = zip(self._kept, *self._new, strict=True)
        query, score, row = (np.concatenate(parts) for parts in columns)
        order = np.lexsort((-score, query))
        query, score, row = query[order], score[order], row[order]
        numbers = np.arange(len(self._queries))
        starts, ends = np.searchsorted(query, numbers), np.searchsorted(query, numbers, "right")
        full = ends - starts >= self._depth
        cut = np.full(len(self._queries), -np.inf, np.float32)
        cut[full] = score[starts[full] + self._depth - 1]
        keep = score >= cut[query]
        crowded = np.flatnonzero(np.bincount(query[keep], minlength=len(cut)) > self._depth)
        for one in crowded.tolist():
            equal = np.arange(starts[one], ends[one])[score[starts[one] : ends[one]] == cut[one]]
            ranked = sorted(equal.tolist(), key=lambda place: self._ids[int(row[place])])
            keep[ranked[self._depth - (int(equal[0]) - int(starts[one])) :]] = False
        self._kept, self._new = (query[keep], score[keep], row[keep]), []
        self._cut = self._queries.new_tensor(cut)


def _products(queries: Tensor, passages: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """(pairs,) inner products, summed in float64 and rounded to float32.

    Args:
        queries: (Q, d) float32.
        passages: (B, d) float32.
        query: (pairs,) row of `queries`; `row`: of `passages`.
    """
    import torch

    size = max(1, PRODUCTS // queries.shape[1])
    pairs = (slice(start, start + size) for start in range(0, len(row), size))
    parts = [
        (queries[query[of]] * passages[row[of]]).sum(1, dtype=torch.float64).float() for of in pairs
    ]
    return torch.cat(parts) if parts else queries.new_empty(0)


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
