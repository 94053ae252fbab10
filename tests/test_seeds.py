"""Runs that differ in their seeds, pooled: in tables and as intervals."""

from __future__ import annotations

import math
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
    assert summarise_runs(alike).ci95 == pytest.approx(summarise(steady(0.4)).ci95)
    unlike = [steady(value) for value in (0.3, 0.4, 0.5)]
    narrow, wide = summarise(pooled(unlike)), summarise_runs(unlike)
    assert wide.mean == pytest.approx(narrow.mean) and wide.n == narrow.n
    assert wide.ci95[0] < narrow.ci95[0] and narrow.ci95[1] < wide.ci95[1]


def test_seeds_alone_give_students_interval() -> None:
    """0.3, 0.4 and 0.5 throughout: 0.4 +- 4.3027 (two degrees of freedom) x 0.1 / sqrt(3)."""
    runs = [steady(value, wave=0) for value in (0.3, 0.4, 0.5)]
    half = 4.3027 * 0.1 / math.sqrt(3)
    assert summarise_runs(runs).ci95 == pytest.approx((0.4 - half, 0.4 + half), abs=1e-4)


@pytest.mark.parametrize(
    ("seeds", "deviation", "least", "most"),
    [(3, 0.02, 0.93, 0.97), (5, 0.05, 0.93, 0.97), (3, 0.05, 0.91, 0.95), (2, 0.05, 0.85, 0.91)],
)
def test_intervals_over_seeds_cover_where_those_over_conversations_do_not(
    seeds: int, deviation: float, least: float, most: float
) -> None:
    """60 conversations of deviation 0.1, and 0.05 between runs of one; 1,000 experiments.

    The last two are the worst that the docstring of `summarise_runs` owns up to.
    """
    draw = np.random.default_rng(5)
    hits = {"both": 0, "conversations": 0}
    for _ in range(1000):
        values = draw.normal(0.5, 0.1, 60) + draw.normal(0, deviation, (seeds, 1))
        values = (values + draw.normal(0, 0.05, values.shape)).clip(0, 1)
        runs = [{f"{c}_1": v for c, v in enumerate(row)} for row in values.tolist()]
        for name, found in (
            ("both", summarise_runs(runs)),
            ("conversations", summarise(pooled(runs))),
        ):
            hits[name] += found.ci95[0] <= 0.5 <= found.ci95[1]
    assert least <= hits["both"] / 1000 <= most and hits["conversations"] < 900
