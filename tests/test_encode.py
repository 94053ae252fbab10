"""Encoding a corpus: shards that outlive a kill and are shared by processes; who fits an index."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uniconv_bench import approximate, dense, encode, evaluate, locks, stages
from uniconv_bench.artefacts import (
    MANIFEST,
    folder_of,
    hold,
    missing_artefact,
    open_artefact,
    throw_away,
)
from uniconv_bench.cli import main
from uniconv_bench.conversation import Passage
from uniconv_bench.dialogue import Dialogue
from uniconv_bench.encode import Embeddings, encode_corpus, encode_rows
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import CACHE, cache_dir
from uniconv_bench.index import ExactIndex
from uniconv_bench.progress import Silent
from uniconv_bench.runs import read_run
from uniconv_bench.system import InMemory

CORPUS = InMemory([Passage(f"p{i}", "x" * (i + 1)) for i in range(7)])
PROCESS = """
import os, sys, time
from pathlib import Path
import numpy as np
from uniconv_bench import encode
from uniconv_bench.conversation import Passage
from uniconv_bench.progress import Silent
from uniconv_bench.system import InMemory

encode.SHARD = 2
corpus = InMemory([Passage(f"p{i}", "x" * (i + 1)) for i in range(40)])

def embed(rows):
    print(*(len(row) for row in rows), flush=True)
    time.sleep(float(sys.argv[1]))
    return np.array([[len(row), 1.0] for row in rows], dtype=np.float32)

print("ready", flush=True)
sys.stdin.readline()
tokens = lambda passage: [0] * len(passage.text)
found = encode.encode_corpus(corpus, {"v": 1}, tokens, embed, 1000, Silent(), dimension=2)
"""


class Stopped(Exception):
    """What a person does with Ctrl-C."""


def lengths(rows: Sequence[Sequence[int]]) -> Any:
    return np.array([[len(row), 1.0] for row in rows], dtype=np.float32)


def encoded(embed: Callable[[Any], Any] = lengths, **options: Any) -> Embeddings:
    tokens = lambda passage: [0] * len(passage.text)  # noqa: E731
    whole: dict[str, Any] = {"dimension": 2} | options
    return encode_corpus(CORPUS, {"v": 1}, tokens, embed, 1000, Silent(), **whole)


def vectors(found: Embeddings) -> Any:
    return np.concatenate([np.load(path) for path in found.shards])


@pytest.fixture
def shards_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "SHARD", 2)


def test_rows_come_back_in_their_order_from_batches_of_like_length() -> None:
    rows = [[1] * n for n in (5, 3, 8, 1, 8, 2)]
    batches: list[list[int]] = []

    def of(batch: Any) -> Any:
        batches.append([len(row) for row in batch])
        return lengths(batch)

    counted: list[int] = []
    assert encode_rows(rows, of, 16, counted.append)[:, 0].tolist() == [5, 3, 8, 1, 8, 2]
    assert batches == [[8, 8], [5, 3, 2], [1]]  # no more than 16 tokens, padding included
    assert counted == [2, 3, 1]


def test_encoding_goes_on_with_the_next_shard(private_cache: Path, shards_of_two: None) -> None:
    seen: list[int] = []

    def until(count: int) -> Callable[[Any], Any]:
        def of(rows: Any) -> Any:
            if len(seen) + len(rows) > count:
                raise Stopped
            seen.extend(len(row) for row in rows)
            return lengths(rows)

        return of

    with pytest.raises(Stopped):
        encoded(until(5))
    assert sorted(seen) == [1, 2, 3, 4]
    assert vectors(encoded(until(99)))[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]
    assert vectors(encoded(until(0)))[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]  # from cache


def test_an_artefact_of_shards_has_a_header_and_nothing_else(
    private_cache: Path, shards_of_two: None
) -> None:
    found = encoded(dtype="float16")
    assert open_artefact(found.folder) == {"v": 1}
    names = sorted(path.name for path in found.folder.iterdir())
    assert names == [*(f"{i:05d}.npy" for i in range(4)), MANIFEST]
    assert [path.name for path in found.folder.parent.iterdir()] == [found.folder.name]
    assert vectors(found).dtype == np.float16 and found.shape == (7, 2)
    assert found.spread(3)[:, 0].tolist() == [1, 3, 5]
    assert found.spread(8)[:, 0].tolist() == list(range(1, 8))


def test_what_float16_cannot_hold_is_refused(private_cache: Path) -> None:
    with pytest.raises(UserError, match="passages 1 to 7 is not finite in float16.*float32"):
        encoded(lambda rows: 1e5 * lengths(rows), dtype="float16")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_embedded(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(private_cache.parent)._replace(free=2 * 7 * 4096 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)

    def never(rows: Any) -> Any:
        raise AssertionError

    with pytest.raises(UserError, match=r"7 x 4,096 in float16 take 57.3 kB of disk, 57.3 kB are"):
        encoded(never, dimension=4096, dtype="float16")


def started(cache: Path, seconds: float, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(seconds)],
        env={**os.environ, CACHE: str(cache), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def done(process: subprocess.Popen[str]) -> list[int]:
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    return [int(word) for word in out.split()]


def whole(cache: Path) -> Any:
    (folder,) = (cache / "embeddings").iterdir()
    assert open_artefact(folder) == {"v": 1}
    return vectors(Embeddings(folder))[:, 0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("launched", [False, True])
def test_two_processes_share_the_shards(launched: bool, tmp_path: Path) -> None:
    """Each passage is embedded once, whether a launcher started them or two people did."""
    ranks = [{"RANK": f"{i}", "WORLD_SIZE": "2"} if launched else {} for i in range(2)]
    both = [started(tmp_path, 0.05, **rank) for rank in ranks]
    for process in both:
        go(process)
    parts = [done(process) for process in both]
    assert all(parts) and sorted(sum(parts, [])) == list(range(1, 41))
    assert whole(tmp_path) == list(range(1, 41))


@pytest.mark.slow
def test_a_killed_process_leaves_its_shard_to_the_other(tmp_path: Path) -> None:
    slow, other = started(tmp_path, 30), started(tmp_path, 0)
    go(slow)
    assert slow.stdout is not None and slow.stdout.readline() == "2 1\n"  # the first shard is its
    go(other)
    folder = tmp_path / "embeddings"
    for _ in range(3000):
        if len(list(folder.rglob("*.npy"))) == 19:  # all but that one, for which it now waits
            break
        time.sleep(0.01)
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    assert sorted(done(other)) == list(range(1, 41))
    assert whole(tmp_path) == list(range(1, 41))


@pytest.mark.slow
def test_a_killed_encoding_goes_on(tmp_path: Path) -> None:
    process = started(tmp_path, 0.1)
    go(process)
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(tmp_path.rglob("*.npy")))
    assert 3 <= there < 20
    rest = started(tmp_path, 0)
    go(rest)
    assert sorted(done(rest)) == list(range(2 * there + 1, 41))
    assert whole(tmp_path) == list(range(1, 41))


# --- as a stage ---------------------------------------------------------------------------------


@pytest.fixture
def card(tmp_path: Path, private_cache: Path) -> Path:
    """A system that needs no training."""
    from test_evaluate import CARD

    path = tmp_path / "tiny.toml"
    path.write_text(CARD.replace('kind = "bm25"', 'kind = "dense"'))
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any, str]:
    code = main([*map(str, arguments)])
    out, said = capsys.readouterr()
    return code, json.loads(out) if out else None, said


def test_an_index_made_elsewhere_serves_the_system_that_made_it(
    card: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ("--task", "qrecc", "--system", card, "--json")
    code, made, said = told(capsys, "encode", *pair)
    assert code == 0 and "x 32 in float32 take" in said
    elsewhere = shutil.copytree(made[0]["index"], tmp_path / "elsewhere")
    code, own, _ = told(capsys, "retrieve", *pair)
    assert code == 0
    monkeypatch.setenv(CACHE, str(tmp_path / "other"))
    code, taken, said = told(capsys, "retrieve", *pair, "--index", elsewhere)
    assert code == 0, said
    assert "encode passages" not in said and not (tmp_path / "other" / "embeddings").exists()
    assert Path(taken[0]["run"]).read_bytes() == Path(own[0]["run"]).read_bytes()
    card.write_text(card.read_text().replace("passage_tokens = 100", "passage_tokens = 90"))
    code, _, said = told(capsys, "retrieve", *pair, "--index", elsewhere)
    assert code == 2
    assert "error: " in said and "passage_tokens of the index is 100, of the query encoder" in said
    card.write_text(card.read_text().replace("passage_tokens = 90", "passage_tokens = 100"))
    # What is cached from a fitting index does not vouch for another.
    manifest = json.loads((elsewhere / MANIFEST).read_text())
    manifest["fingerprint"]["backbone"] = "another"
    del manifest["digest"]
    (elsewhere / MANIFEST).write_text(json.dumps(manifest))
    code, _, said = told(capsys, "retrieve", *pair, "--index", elsewhere)
    assert code == 2 and 'backbone of the index is "another"' in said


def test_longer_sessions_need_no_new_embeddings(card: Path, private_cache: Path) -> None:
    first = evaluate.encode("qrecc", str(card), "sample", progress=Silent())
    card.write_text(card.read_text().replace("session_tokens = 200", "session_tokens = 300"))
    assert evaluate.encode("qrecc", str(card), "sample", progress=Silent()) == first
    card.write_text(card.read_text().replace("top_k = 1", 'embedding_dtype = "float16"'))
    assert evaluate.encode("qrecc", str(card), "sample", progress=Silent()) != first


def test_who_embeds_nothing_is_refused(card: Path) -> None:
    card.write_text(card.read_text().replace('kind = "dense"', 'kind = "bm25"'))
    with pytest.raises(UserError, match="tiny embeds no passages of qrecc"):
        evaluate.encode("qrecc", str(card), "sample", progress=Silent())


@pytest.mark.slow
def test_two_launched_commands_share_an_encoding(card: Path, private_cache: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "uniconv_bench", "encode"]
    done = subprocess.run(
        [*command, "--task", "qrecc", "--system", str(card), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)  # said once
    assert open_artefact(Path(row["index"])) is not None


# --- approximate indexes ------------------------------------------------------------------------


@pytest.fixture
def some(private_cache: Path) -> Embeddings:
    """500 embeddings of 32 dimensions."""
    corpus = InMemory([Passage(f"p{i}", "x" * (i + 1)) for i in range(500)])
    drawn = np.random.default_rng(0).standard_normal((501, 32)).astype(np.float32)
    tokens = lambda passage: [0] * len(passage.text)  # noqa: E731
    return encode_corpus(
        *(corpus, {}, tokens, lambda rows: np.stack([drawn[len(row)] for row in rows]), 9999),
        Silent(),
        dimension=32,
    )


@pytest.mark.parametrize(
    ("factory", "settings", "least"),
    [("Flat", "", 1.0), ("HNSW16", "efSearch=500", 0.99), ("IVF8,Flat", "nprobe=8", 1.0)],
)
def test_an_index_finds_what_exact_search_finds(
    some: Embeddings, factory: str, settings: str, least: float
) -> None:
    ids = [f"p{i}" for i in range(500)]
    path = approximate.built(some, factory, {}, Silent())
    queries = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    exact = list(ExactIndex(ids, some.shards).search(queries, 10))
    found = list(approximate.FactoryIndex(ids, path, settings).search(queries, 10))
    assert approximate.recall(found, exact) >= least
    assert approximate.built(some, factory, {}, Silent()) == path


def test_no_phantom_neighbour_leaks(some: Embeddings) -> None:
    """One list of eight holds fewer passages than are asked for; the rest is -1 to faiss."""
    ids = [f"p{i}" for i in range(500)]
    path = approximate.built(some, "IVF8,Flat", {}, Silent())
    queries = np.random.default_rng(1).standard_normal((8, 32)).astype(np.float32)
    exact = list(ExactIndex(ids, some.shards).search(queries, 400))
    found = list(approximate.FactoryIndex(ids, path, "nprobe=1").search(queries, 400))
    assert all(0 < len(ranking) < 400 and ranking[-1][0] != "p499" for ranking in found)
    for ranking in found:
        assert len({passage for passage, _ in ranking}) == len(ranking)
        assert ranking == sorted(ranking, key=lambda one: (-one[1], one[0]))
    assert 0 < approximate.recall(found, exact) < 0.5


def test_equal_scores_of_an_index_are_ordered_by_id(private_cache: Path) -> None:
    """The first row, faiss's 0, is a passage as well."""
    alike = encode_corpus(
        InMemory([Passage(name, "x") for name in "cafbed"]),
        *({}, lambda passage: [0], lambda rows: np.ones((len(rows), 4), np.float32), 9, Silent()),
        dimension=4,
    )
    path = approximate.built(alike, "Flat", {}, Silent())
    (ranking,) = approximate.FactoryIndex("cafbed", path).search(np.ones((1, 4), np.float32), 6)
    assert ranking == [(name, 4.0) for name in "abcdef"]


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("Nonsense", "index = 'Nonsense' over 32 dimensions: could not parse index string"),
        ("PQ7", "should be a multiple of the number of subquantizers"),
        ("IVF4096,Flat", "has 4,096 lists for 500 passages"),
    ],
)
def test_an_impossible_index_is_refused_before_anything_is_embedded(
    factory: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as refused:
        approximate.check(factory, 32, 500)
    assert "\n" not in str(refused.value)


def test_too_few_points_and_unknown_settings_are_one_line(some: Embeddings) -> None:
    with pytest.raises(UserError, match=r"index = 'PQ4x9'.*points \(500\).*clusters \(512\)"):
        approximate.built(some, "PQ4x9", {}, Silent())
    path = approximate.built(some, "Flat", {}, Silent())
    with pytest.raises(UserError, match="index_search = 'bogus=3': .*could not set parameter"):
        approximate.FactoryIndex([], path, "bogus=3")


def test_a_card_with_an_approximate_index_tells_its_recall(
    card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card.write_text(card.read_text().replace("top_k = 1", 'depth = 10, index = "IVF4,Flat"'))
    code, rows, said = told(capsys, "retrieve", "--task", "qrecc", "--system", card, "--json")
    assert code == 0, said
    assert re.search(r"index IVF4,Flat: recall@10 0\.\d+ against exact search on \d+ queries", said)
    assert Path(rows[0]["run"]).exists()
    shown = float(said.partition("recall@10 ")[2].split()[0])
    out = ("--limit", "4", "--results", card.parent / "results", "--json")
    code, record, said = told(capsys, "run", "--task", "qrecc", "--system", card, *out)
    assert code == 0, said
    assert record["index"]["depth"] == 10 and record["index"]["queries"] == 4
    assert 0 < record["index"]["recall"] <= 1 and 0 < shown < 1


def test_nothing_that_is_used_is_thrown_away(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To embed many queries takes hours, in which `cache prune` may be called."""
    card.write_text(card.read_text().replace("top_k = 1", 'depth = 10, index = "IVF4,Flat"'))
    embedded, kept = dense.encode_rows, []

    def meanwhile(*given: Any) -> Any:
        folders = [path.parent for path in cache_dir().glob(f"*/*/{MANIFEST}")]
        kept.extend(path.parent.name for path in folders if not throw_away(path))
        return embedded(*given)

    monkeypatch.setattr(dense, "encode_rows", meanwhile)
    of = Evaluation.of("qrecc", str(card), "sample", 4, Silent())
    ranking = stages.retrieve(of)
    assert {"embeddings", "tasks"} <= set(kept)
    assert not throw_away(ranking)  # before it is answered from
    del of
    gc.collect()
    assert throw_away(ranking)


def test_what_is_thrown_away_while_a_hold_is_waited_for_is_not_held(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("stage", "one", {})
    with missing_artefact(folder, {}) as working:
        assert working is not None
    wait = locks._wait

    def goes_meanwhile(stream: Any, how: int, waited: Path) -> bool:
        folder.rename(folder.with_name("gone"))
        return wait(stream, how, waited)

    assert hold(folder) is not None
    monkeypatch.setattr(locks, "_wait", goes_meanwhile)
    assert hold(folder) is None


def test_turn_by_turn_an_index_is_read_once_and_not_checked_exactly(
    card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card.write_text(card.read_text().replace("top_k = 1", 'depth = 10, index = "IVF4,Flat"'))
    read, begin = [], approximate.FactoryIndex.__init__

    def counted(self: Any, *given: Any) -> None:
        read.append(given[1])
        begin(self, *given)

    monkeypatch.setattr(approximate.FactoryIndex, "__init__", counted)
    batch = Evaluation.of("qrecc", str(card), "sample", 2, Silent())
    first = read_run(stages.retrieve(batch) / "run.trec")
    monkeypatch.setattr(ExactIndex, "search", None)
    dialogue = Dialogue("qrecc", str(card), "sample", Silent())
    for turn in batch.turns:
        ranking = dialogue.speaker.retrieve(turn)
        assert [p for p, _ in ranking] == [p for p, _ in first[turn.turn_id]][: len(ranking)]
    assert len(read) == 2


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF8,Flat", "IVF8,PQ4x4"])
def test_how_many_are_searched_for_at_once_changes_no_ranking(
    some: Embeddings, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = approximate.FactoryIndex(
        [f"p{i}" for i in range(500)], approximate.built(some, factory, {}, Silent())
    )
    queries = np.random.default_rng(1).standard_normal((21, 32)).astype(np.float32)
    done: list[int] = []
    together = list(index.search(queries, 10, done.append))
    monkeypatch.setattr(approximate, "QUERIES", 4)
    apart = list(index.search(queries, 10, done.append))
    assert done == [21, 4, 4, 4, 4, 4, 1]
    for one, other in zip(together, apart, strict=True):
        assert [p for p, _ in one] == [p for p, _ in other]
        assert [s for _, s in one] == pytest.approx([s for _, s in other], rel=1e-5)


def test_too_small_a_gpu_is_told_and_an_index_that_none_has_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import faiss

    def says(what: str) -> Any:
        def refuse(index: Any) -> None:
            raise RuntimeError(what)

        return refuse

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", says("not supported"), raising=False)
    index = faiss.IndexFlatIP(4)
    assert approximate._on_gpus(index) is index
    lacking = "Error: alloc fail: cudaMalloc error out of memory"
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", says(lacking), raising=False)
    with pytest.raises(RuntimeError, match="out of memory"):
        approximate._on_gpus(index)
