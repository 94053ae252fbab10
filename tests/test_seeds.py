"""Runs that differ in their seeds, pooled: in tables and as intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence import put, steady

from uniconv_bench.errors import UserError
from uniconv_bench.records import ResultRecord, read_records
from uniconv_bench.statistics.intervals import summarise
from uniconv_bench.statistics.pooling import pooled, summarise_runs
from uniconv_bench.tables import table
from uniconv_bench.turnscores import scores_at_hand

CODE = {"device": "cpu", "package": "0.1.0", "libraries": {}, "code": "a" * 64, "tokens": 9}


def run(folder: Path, value: float, seed: int, **training: Any) -> None:
    made = {"joint": {**CODE, "seed": seed, "steps": 5, "peak_memory_bytes": 0}}
    settings = {"adapters": {"joint": {"seed": seed, "learning_rate": 1e-4, **training}}}
    put(folder, "qrecc", "b", {"f1": steady(value)}, training=made, settings=settings)


def tabled(*folders: Path) -> str:
    found: dict[str, ResultRecord] = {}
    at_hand = {}
    for folder in folders:
        own = read_records(folder / "sample")
        found |= {record.digest: record for record in own}
        at_hand |= scores_at_hand(own, folder)
    return table(list(found.values()), metrics=["f1"], turn_scores=at_hand)


def test_a_table_pools_runs_with_other_seeds(tmp_path: Path) -> None:
    folders = [tmp_path / str(seed) for seed in (1, 2, 3)]
    for folder, value, seed in zip(folders, (0.3, 0.4, 0.5), (1, 2, 3), strict=True):
        run(folder, value, seed)
    single, text = tabled(folders[1]), tabled(*folders)
    assert "| B | 40.0 [" in single and "seeds" not in single
    low, high = summarise_runs([steady(value) for value in (0.3, 0.4, 0.5)]).ci95
    assert f"| B | 40.0 [{100 * low:.1f}, {100 * high:.1f}] |" in text
    assert "B on qrecc: the mean over runs with seeds 1, 2, 3, its interval over" in text


def test_runs_that_differ_in_more_than_seeds_are_not_pooled(tmp_path: Path) -> None:
    run(tmp_path / "1", 0.3, 1)
    run(tmp_path / "2", 0.4, 2, learning_rate=1e-3)
    with pytest.raises(UserError, match="more than their seeds: adapters.joint.learning_rate"):
        tabled(tmp_path / "1", tmp_path / "2")


def test_equal_runs_are_one_and_unlike_ones_widen_the_interval() -> None:
    alike = [steady(0.4)] * 3
    assert summarise_runs(alike).ci95 == pytest.approx(summarise(steady(0.4)).ci95, abs=0.01)
    unlike = [steady(value) for value in (0.3, 0.4, 0.5)]
    narrow, wide = summarise(pooled(unlike)), summarise_runs(unlike)
    assert wide.mean == pytest.approx(narrow.mean) and wide.n == narrow.n
    # The standard error of three such seeds alone is 0.058.
    assert wide.ci95[1] - wide.ci95[0] > 3 * 0.058 > narrow.ci95[1] - narrow.ci95[0]


@pytest.mark.slow
def test_intervals_over_seeds_cover_where_those_over_conversations_do_not() -> None:
    """What is drawn: 5 seeds of deviation 0.05, 30 conversations of 0.1; 200 experiments."""
    draw = np.random.default_rng(5)
    hits = {"both": 0, "conversations": 0}
    for _ in range(200):
        conversations = draw.normal(0.5, 0.1, 30).clip(0.2, 0.8)
        runs = [
            {f"{c}_1": float(v + shift) for c, v in enumerate(conversations)}
            for shift in draw.normal(0.0, 0.05, 5).clip(-0.15, 0.15)
        ]
        for name, found in (
            ("both", summarise_runs(runs)),
            ("conversations", summarise(pooled(runs))),
        ):
            hits[name] += found.ci95[0] <= 0.5 <= found.ci95[1]
    assert hits["both"] >= 180 > 175 > hits["conversations"]
