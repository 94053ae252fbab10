"""Search: exact, float32, ties by passage id, no phantom neighbour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.conversation import Passage
from uniconv_bench.index import Bm25Index, ExactIndex, _Nearest
from uniconv_bench.system import Ranking


class Passages(list[Passage]):
    """A corpus in memory."""

    digest = "test"

    @property
    def ids(self) -> list[str]:
        return [p.passage_id for p in self]


def brute_force(ids: list[str], vectors: np.ndarray, query: np.ndarray, depth: int) -> Ranking:
    """All scores summed in float64, equal ones by id."""
    scores = (vectors.astype(np.float64) @ query).astype(np.float32)
    ranked = sorted((-s, i) for s, i in zip(scores.tolist(), ids, strict=True))
    return [(i, -s) for s, i in ranked[:depth]]


def stored(vectors: np.ndarray, folder: Path, shard: int) -> list[Path]:
    """Shards on disk."""
    folder.mkdir()
    paths = []
    for start in range(0, len(vectors), shard):
        paths.append(folder / f"{start:05d}.npy")
        np.save(paths[-1], vectors[start : start + shard])
    return paths


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shard", "block"), [(400, 400), (64, 10), (7, 64), (150, 33)])
def test_exact_search_equals_brute_force_with_ties_by_id(
    dtype: str, shard: int, block: int, tmp_path: Path
) -> None:
    generator = np.random.default_rng(3)
    # Small integers: products are exact, and equal scores are everywhere.
    vectors = generator.integers(-1, 2, size=(400, 4)).astype(dtype)
    ids = [f"p{i}" for i in generator.permutation(400)]
    queries = generator.integers(-1, 2, size=(20, 4)).astype(np.float32)
    index = ExactIndex(ids, stored(vectors, tmp_path / "shards", shard))
    for depth in (1, 10, 100, 400):
        found = list(index.search(queries, depth, block=block))
        assert found == [brute_force(ids, vectors, query, depth) for query in queries]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rankings_and_scores_depend_on_no_size(
    dtype: str, device: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal passages far apart have equal scores, to the bit, however products were summed."""
    generator = np.random.default_rng(4)
    vectors = generator.standard_normal((700, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[generator.permutation(700)[:350]] = vectors[5]
    vectors = vectors.astype(dtype)
    ids = [f"p{i}" for i in generator.permutation(700)]
    queries = np.concatenate(
        [vectors[[5]].astype(np.float32), generator.standard_normal((30, 96), np.float32)]
    )
    wanted = None
    for shard, block, group in ((700, 700, 31), (64, 64, 31), (33, 5, 4), (700, 1, 31)):
        monkeypatch.setattr("uniconv_bench.index.QUERIES", group)
        index = ExactIndex(ids, stored(vectors, tmp_path / f"{shard}-{block}", shard), device)
        found = list(index.search(queries, 60, block=block))
        assert wanted is None or found == wanted
        wanted = found
    for query, ranking in zip(queries, wanted, strict=True):
        expected = brute_force(ids, vectors, query, 60)
        assert [i for i, _ in ranking] == [i for i, _ in expected]
        assert [s for _, s in ranking] == pytest.approx([s for _, s in expected], abs=1e-6)
    assert len({s for _, s in wanted[0]}) == 1


def test_candidates_within_rounding_of_the_cut_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the matrix product were off by as much as it can be."""
    generator = np.random.default_rng(6)
    middle = generator.standard_normal(64) / 8
    vectors = (middle + 2e-6 * generator.standard_normal((600, 64))).astype(np.float32)
    queries = (middle + 0.1 + np.zeros((3, 1))).astype(np.float32)
    ids = [f"p{i:03d}" for i in generator.permutation(600)]

    def rough(self: _Nearest, passages: np.ndarray) -> np.ndarray:
        exact = self._queries.astype(np.float64) @ passages.T
        longest = np.linalg.norm(self._queries, axis=1)[:, None] * np.linalg.norm(passages, axis=1)
        bound = 64 * 2.0**-24 * longest
        return (exact + bound * generator.uniform(-1, 1, exact.shape)).astype(np.float32)

    monkeypatch.setattr(_Nearest, "_scores", rough)
    index = ExactIndex(ids, stored(vectors, tmp_path / "shards", 40))
    for query, ranking in zip(queries, index.search(queries, 20, block=40), strict=True):
        expected = [score for _, score in brute_force(ids, vectors, query, 20)]
        assert [s for _, s in ranking] == pytest.approx(expected, abs=1.5e-7)  # a digit or so


def test_a_corpus_smaller_than_the_depth_brings_no_phantom(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    shards = stored(vectors, tmp_path / "shards", 2)
    (ranking,) = ExactIndex(["a", "b", "c"], shards).search(vectors[1:2], 100)
    assert [i for i, _ in ranking] == ["b", "a", "c"]


def test_shards_of_another_corpus_are_refused(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="2 ids for 3 vectors"):
        ExactIndex(["a", "b"], stored(vectors, tmp_path / "shards", 2))


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


def test_scores_are_summed_in_float64_and_rounded_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.random((40, 3000), dtype=np.float32)
    query = draw.random((1, 3000), dtype=np.float32)
    np.save(tmp_path / "all.npy", vectors)
    ids = [f"p{i:02d}" for i in range(40)]
    (found,) = ExactIndex(ids, [tmp_path / "all.npy"]).search(query, 40)
    sums = (vectors * query).astype(np.float64).sum(1).astype(np.float32)
    assert dict(found) == dict(zip(ids, sums.tolist(), strict=True))
    assert (sums != (vectors * query).sum(1)).any()
