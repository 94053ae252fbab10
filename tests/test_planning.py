"""The arithmetic of indexes, against figures worked out by hand and indexes really built."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from uniconv_bench import doctor, planning
from uniconv_bench.cli import main
from uniconv_bench.planning import ASKED, Rates, dimension_of, index_costs, lists_of
from uniconv_bench.progress import Silent
from uniconv_bench.registry import system_card
from uniconv_bench.uniconv.backbone import backbones

RATES = Rates(flops=1e11, disk=1e9)


def test_the_largest_corpus_with_the_backbone_of_the_paper() -> None:
    costs = {cost.index: cost for cost in index_costs(54_573_064, 4096, RATES)}
    assert list(costs) == ["exact, float32", "exact, float16", "Flat", "HNSW32", "IVF32768,PQ64"]
    full, half = costs["exact, float32"], costs["exact, float16"]
    assert (full.disk, half.disk) == (894_125_080_576, 447_062_540_288)
    assert half.memory < full.memory < 600_000_000
    assert costs["Flat"].memory == pytest.approx(894e9, rel=1e-3)
    assert costs["HNSW32"].memory == pytest.approx(54_573_064 * (4 * 4096 + 264), rel=1e-3)
    inverted = costs["IVF32768,PQ64"]
    codes = 54_573_064 * 72 + 4 * 4096 * (32768 + 256)
    assert inverted.disk == full.disk + codes
    # It learns from 64 vectors a list and from the residuals of 65,536, which take more than the
    # codes; a shard of 8,192 is being read.
    learned_from = 64 * 32768 + 65536 + 32768 + 256 + 8192
    assert inverted.memory == planning.PROGRAM + 4 * 4096 * learned_from
    # All but exact search also search exactly for 100 queries, for their recall.
    sample = 2 * 100 * 54_573_064 * 4096 / 1e11
    reading = inverted.disk - full.disk
    assert inverted.search_seconds == pytest.approx(
        2000 * 4096 * 32768 / 1e11 + reading / 1e9 + max(sample, full.disk / 1e9), rel=1e-3
    )
    # 2 x 1,000 x N x d operations, against reading 2 or 4 bytes a number.
    assert full.search_seconds == pytest.approx(2000 * 54_573_064 * 4096 / 1e11)
    slow = index_costs(54_573_064, 4096, Rates(flops=1e15, disk=1e9))
    assert [cost.search_seconds for cost in slow[:2]] == pytest.approx([894.1, 447.1], abs=0.1)


def test_sizes_are_those_of_indexes_as_faiss_writes_them(tmp_path: Path) -> None:
    import faiss

    vectors = np.random.default_rng(0).standard_normal((1500, 16)).astype(np.float32)
    planned = {cost.index: cost for cost in index_costs(1500, 16, RATES)}
    for factory in ("Flat", "HNSW32", f"IVF{lists_of(1500)},PQ16"):
        index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(tmp_path / factory))
        size = (tmp_path / factory).stat().st_size
        assert planned[factory].disk - vectors.nbytes == pytest.approx(size, rel=0.06), factory


BUILD = """
import json, sys
from pathlib import Path
import faiss, numpy as np
from uniconv_bench import approximate
from uniconv_bench.encode import Embeddings
from uniconv_bench.machine import forget_peak, peak_memory
from uniconv_bench.progress import Silent

small = faiss.index_factory(16, "IVF2,PQ2x2")  # starts the threads
small.train(np.eye(200, 16, dtype=np.float32))
forget_peak()
before = peak_memory()
approximate.built(Embeddings(Path(sys.argv[1])), sys.argv[2], {}, Silent())
print(peak_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF512,PQ64"])
def test_memory_is_that_of_indexes_as_they_are_built(
    factory: str, tmp_path: Path, private_cache: Path
) -> None:
    passages, dimension = 12_000, 1024
    draw = np.random.default_rng(0)
    for first in range(0, passages, 8192):
        rows = min(8192, passages - first)
        vectors = draw.standard_normal((rows, dimension), dtype=np.float32)
        np.save(tmp_path / f"{first:05d}.npy", vectors)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path), factory], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    planned = {cost.index: cost for cost in index_costs(passages, dimension, RATES)}[factory]
    assert planned.memory - planning.PROGRAM == pytest.approx(int(done.stdout), rel=0.2)


def test_lists_follow_the_corpus() -> None:
    assert [lists_of(n) for n in (1, 10_000, 1_000_000, 54_573_064)] == [4, 512, 4096, 32768]


def test_dimensions_are_those_of_the_backbones(tiny_model: object) -> None:
    assert dimension_of(system_card("uniconv")[0], "full") == 4096
    assert dimension_of(system_card("uniconv")[0], "sample") == 576
    assert dimension_of(system_card("minilm+llm")[0], "sample") == 384
    assert dimension_of(system_card("bm25+llm")[0], "full") is None
    assert backbones()["random-tiny"].dimension == tiny_model.config.hidden_size  # type: ignore[attr-defined]


def test_rates_of_this_machine_can_be_had(private_cache: Path) -> None:
    rates = planning.measured()
    assert rates.flops > 1e8 and rates.disk > 1e6
    assert not private_cache.exists()


def test_a_disk_too_full_to_be_timed_is_left_out(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(count: int) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "urandom", full)
    private_cache.mkdir()
    first, *others = doctor._indexes()
    assert (first.name, first.detail) == ("disk speed", planning.UNTIMED)
    assert len(others) == 5
    asked = ("prepare", "--task", "qrecc", "--profile", "full", "--dry-run")
    assert main([*asked, "--system", "uniconv"]) == 0
    assert planning.UNTIMED in capsys.readouterr().err


def test_what_one_look_is_refused_keeps_no_other_back(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Iterator[doctor.Check]:
        yield doctor.Check("first", "ok", "")
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/place")

    monkeypatch.setattr(doctor, "LOOKS", (refused, doctor._machine))
    monkeypatch.setattr(doctor, "_adapters", lambda progress: [])
    found = doctor.examine(Silent())
    assert [check.name for check in found] == ["first", "refused", "cores", "memory"]
    assert "/place" in found[1].detail


def test_prepare_and_doctor_tell(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "measured", lambda: RATES)
    asked = ("prepare", "--task", "qrecc", "--profile", "full", "--dry-run")
    assert main([*asked, "--system", "uniconv"]) == 0
    told = capsys.readouterr().err
    assert re.search(r"index exact, float16 \(uniconv\): (more disk .*; )?447.1 GB of disk", told)
    assert f"for {ASKED:,} queries" in told
    assert main([*asked, "--system", "minilm+llm", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["indexes"][0]["disk_bytes"] == 54_573_064 * 384 * 4
    found = {check.name: check for check in doctor._indexes()}
    assert "54,573,064 x 4,096" in found["index exact, float32"].detail
    assert found["index Flat"].state == "note" and "memory" in found["index Flat"].detail


def test_what_is_too_large_for_this_machine_is_told(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12))
    found = {cost.index: cost for cost in index_costs(54_573_064, 4096, RATES)}
    assert found["exact, float32"].lacks() == []
    assert "disk" in found["Flat"].lacks()
    assert re.match(r"more (memory and )?disk than there is; 1\.8 TB of disk", found["Flat"].told())
    assert found["Flat"].to_json()["lacks"] == found["Flat"].lacks()
