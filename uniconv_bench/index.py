"""Search over a corpus: by embedding, exactly and from disk; lexical by term (bm25s).

Scores are float32 and equal scores are ordered by passage id, whatever the library underneath
returns. Knows nothing of models or tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.machine import cores
from uniconv_bench.system import Corpus, Ranking

QUERIES = 512
"""Most queries that are scored at once, by one thread; fewer where cores would be idle."""
PRODUCTS = 1 << 17
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
        device: of torch, where the products are; None: in numpy, without loading torch.

    Raises:
        ValueError: there are not as many rows as ids.
    """

    def __init__(self, ids: Sequence[str], shards: Sequence[Path], device: str | None = None):
        self._ids, self._device = ids, device
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
        arrays = InNumpy() if self._device is None else InTorch(self._device)
        together = max(1, min(QUERIES, -(-len(queries) // cores())))
        nearest = [
            _Nearest(arrays, queries[start : start + together], self._ids, depth)
            for start in range(0, len(queries), together)
        ]
        rows = 0
        with ThreadPoolExecutor() as pool, arrays.one_thread_a_group():
            for stored in self._blocks(arrays, block or arrays.block):
                passages = arrays.put(stored)
                squares = arrays.xp.einsum("ij,ij->i", passages, passages)
                of_all = repeat(passages), repeat(rows), repeat(float(squares.max()) ** 0.5)
                list(pool.map(_Nearest.see, nearest, *of_all))
                rows += len(passages)
                advance(len(passages))
        for group in nearest:
            yield from group.rankings()

    def _blocks(self, arrays: InNumpy | InTorch, size: int) -> Iterator[Any]:
        """Passages; while one block is worked on the next is read."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = None
            for path, start in self._places(size):
                following = reader.submit(arrays.read, path, start, size)
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


class InNumpy:
    """Where blocks of passages are multiplied: on the CPU, in numpy."""

    block = 4096
    """Passages that are scored at once."""

    def __init__(self) -> None:
        import numpy

        self.xp = numpy

    def one_thread_a_group(self) -> AbstractContextManager[Any]:
        """Products of groups at once: OpenBLAS with threads of its own would take them in turn."""
        from threadpoolctl import threadpool_limits

        alone: AbstractContextManager[Any] = threadpool_limits(1, "blas")
        return alone

    def read(self, path: Path, start: int, size: int) -> Any:
        """Rows of a shard; its map is gone afterwards, and does not count as memory."""
        return self.xp.array(_mapped(path)[start : start + size], dtype=self.xp.float32)

    def put(self, values: Any) -> Any:
        """Values as a float32 array of the device."""
        return values

    def host(self, values: Any) -> Any:
        """An array of the device as one of numpy."""
        return values


class InTorch:
    """The same on a device of torch, to which blocks go as they are stored."""

    block = 8192

    def __init__(self, device: str):
        import torch

        self.xp, self._device = torch, device

    def one_thread_a_group(self) -> AbstractContextManager[Any]:
        """See `InNumpy`."""
        return nullcontext()

    def read(self, path: Path, start: int, size: int) -> Any:
        """See `InNumpy`."""
        rows = self.xp.tensor(_mapped(path)[start : start + size])
        return rows if self._device == "cpu" else rows.pin_memory()

    def put(self, values: Any) -> Any:
        """See `InNumpy`."""
        return self.xp.as_tensor(values).to(self._device, non_blocking=True).float()

    def host(self, values: Any) -> Any:
        """See `InNumpy`."""
        return values.cpu().numpy()


class _Nearest:
    """The best passages so far for a group of queries: `depth` a query, and some to be weighed.

    Args:
        arrays: where products are computed.
        queries: (Q, d) float32 of numpy.
        ids: of all passages; read where the cut goes through equal scores, and at the end.
        depth: passages a query.
    """

    def __init__(self, arrays: InNumpy | InTorch, queries: Any, ids: Sequence[str], depth: int):
        import numpy as np

        self._arrays, self._queries = arrays, arrays.put(queries)
        self._ids, self._depth = ids, depth
        # |rounded - exact| <= d u |q| |p| for any order of summation (Higham, section 3.1).
        self._error = (queries.shape[1] + 2) * ROUNDING * np.linalg.norm(queries, axis=1)
        self._cut = np.full(len(queries), -np.inf, np.float32)
        """The score that a passage must reach; -inf for as long as anything is good enough."""
        self._kept = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        """Query, score and row, query by query."""
        self._new: list[tuple[Any, Any, Any]] = []

    def see(self, passages: Any, first: int, longest: float) -> None:
        """Takes a block into account.

        Args:
            passages: (B, d) float32 on the device.
            first: row of the first.
            longest: the largest norm among them.
        """
        import numpy as np

        scores = self._scores(passages)
        error = self._error * longest
        least = self._cut - error
        filling = bool(np.isneginf(least).any())
        if filling and len(passages) >= self._depth:
            best = np.partition(self._arrays.host(scores), -self._depth, axis=1)
            least = np.maximum(least, best[:, -self._depth] - 2 * error)
        near = scores >= self._arrays.put(least)[:, None]
        (place,) = self._arrays.xp.where(near.reshape(-1))  # quicker than by two coordinates
        query, row = place // len(passages), place % len(passages)
        exact = self._products(passages, query, row)
        self._new.append((self._arrays.host(query), exact, self._arrays.host(row) + first))
        if filling or sum(len(part) for part, _, _ in self._new) > len(self._kept[0]) // 4:
            self._weigh()

    def _scores(self, passages: Any) -> Any:
        """(Q, B) inner products, up to rounding."""
        return self._queries @ passages.T

    def _products(self, passages: Any, query: Any, row: Any) -> Any:
        """(pairs,) inner products, summed in float64 and rounded to float32; of numpy.

        Args:
            passages: (B, d) float32.
            query: (pairs,) row of the queries; `row`: of `passages`.
        """
        import numpy as np

        xp, parts = self._arrays.xp, [np.empty(0, np.float32)]
        size = max(1, PRODUCTS // passages.shape[1])
        for start in range(0, len(row), size):
            of = slice(start, start + size)
            products = self._queries[query[of]] * passages[row[of]]
            sums = xp.asarray(products, dtype=xp.float64).sum(1)
            parts.append(self._arrays.host(sums).astype(np.float32))
        return np.concatenate(parts)

    def rankings(self) -> Iterator[Ranking]:
        """Best first, equal scores by id."""
        self._weigh()
        query, score, row = self._kept
        found: list[list[tuple[float, str]]] = [[] for _ in self._cut]
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
        numbers = np.arange(len(self._cut))
        starts, ends = np.searchsorted(query, numbers), np.searchsorted(query, numbers, "right")
        full = ends - starts >= self._depth
        cut = np.full(len(self._cut), -np.inf, np.float32)
        cut[full] = score[starts[full] + self._depth - 1]
        keep = score >= cut[query]
        crowded = np.flatnonzero(np.bincount(query[keep], minlength=len(cut)) > self._depth)
        for one in crowded.tolist():
            equal = np.arange(starts[one], ends[one])[score[starts[one] : ends[one]] == cut[one]]
            ranked = sorted(equal.tolist(), key=lambda place: self._ids[int(row[place])])
            keep[ranked[self._depth - (int(equal[0]) - int(starts[one])) :]] = False
        self._kept, self._new = (query[keep], score[keep], row[keep]), []
        self._cut = cut


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
