"""Search: exact, float32, ties by passage id, no phantom neighbour."""

from __future__ import annotations

import numpy as np

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.conversation import Passage
from uniconv_bench.index import Bm25Index, DenseIndex


class Passages(list[Passage]):
    """A corpus in memory."""

    digest = "test"

    @property
    def ids(self) -> list[str]:
        return [p.passage_id for p in self]


def brute_force(ids: list[str], vectors: np.ndarray, query: np.ndarray, depth: int) -> list[str]:
    scores = vectors @ query
    ranked = sorted((-s, i) for s, i in zip(scores.tolist(), ids, strict=True))
    return [i for _, i in ranked[:depth]]


def test_dense_search_equals_brute_force_with_ties_by_id() -> None:
    generator = np.random.default_rng(3)
    # Small integers: products are exact, and equal scores are everywhere.
    vectors = generator.integers(-1, 2, size=(400, 4)).astype(np.float32)
    ids = [f"p{i}" for i in generator.permutation(400)]
    queries = generator.integers(-1, 2, size=(20, 4)).astype(np.float32)
    index = DenseIndex(ids, vectors)
    for depth in (1, 10, 100, 400):
        for query, ranking in zip(queries, index.search(queries, depth), strict=True):
            assert [i for i, _ in ranking] == brute_force(ids, vectors, query, depth)
            scores = [s for _, s in ranking]
            assert scores == sorted(scores, reverse=True)


def test_a_corpus_smaller_than_the_depth_brings_no_phantom() -> None:
    vectors = np.eye(3, dtype=np.float32)
    (ranking,) = DenseIndex(["a", "b", "c"], vectors).search(vectors[1:2], 100)
    assert [i for i, _ in ranking] == ["b", "a", "c"]


def test_bm25_ranks_by_shared_terms_and_leaves_out_the_rest() -> None:
    corpus = Passages(
        [
            Passage("b", "the harbour light burned whale oil"),
            Passage("a", "the harbour light burned whale oil"),
            Passage("c", "a cheese with a blue rind"),
            Passage("d", "oil of lavender"),
        ]
    )
    index = Bm25Index(corpus, Bm25Settings())
    ranking = index.search("Which whale oil did the harbour burn?", 10)
    assert [i for i, _ in ranking] == ["a", "b", "d"]
    assert ranking[0][1] == ranking[1][1] > ranking[2][1] > 0
    assert index.search("zebra", 10) == []
    assert index.search("", 10) == []
    assert [i for i, _ in index.search("whale", 1)] == ["a"]


def test_bm25_cuts_through_equal_scores_by_id() -> None:
    generator = np.random.default_rng(5)
    words = ["oil", "tar", "rope", "sail"]
    texts = [" ".join(generator.choice(words, size=2)) for _ in range(300)]
    names = [f"p{i}" for i in generator.permutation(300)]
    index = Bm25Index(Passages(map(Passage, names, texts)), Bm25Settings())
    whole = index.search("oil rope", 300)
    assert len(whole) > 100 and len({score for _, score in whole}) < 10
    assert whole == sorted(whole, key=lambda found: (-found[1], found[0]))
    for depth in (0, 1, 7, 100):
        assert index.search("oil rope", depth) == whole[:depth]
