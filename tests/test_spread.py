"""What rounding moves counts for nothing; what another choice moves may explain a gap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence import make_outcome, put, steady

from uniconv_bench import cli
from uniconv_bench.attribution import explained, moves
from uniconv_bench.comparison import compare, measured, sentences
from uniconv_bench.conventions import Shifted
from uniconv_bench.outcomes import OUTCOME, Gap, write_outcome
from uniconv_bench.records import STUDIES, read_records, record_path
from uniconv_bench.reproduce import REASON, TOLERANCE, near
from uniconv_bench.spread import numerical_spread
from uniconv_bench.tables import table
from uniconv_bench.turnscores import scores_at_hand


def study(results: Path, name: str, moved: float, **fields: object) -> None:
    gap = Gap(
        label="x - y",
        condition="x",
        task="qrecc",
        measure="f1",
        sides=(0.4, 0.4 - moved),
        mean=moved,
        ci95=(moved - 0.1, moved + 0.1),
        p=1.0,
        p_holm=1.0,
        detectable=None,
        n=20,
        conversations=6,
    )
    outcome = make_outcome(study=name, gaps=(gap,), **fields)
    write_outcome(outcome, results / STUDIES / "sample" / name)


def test_a_difference_within_the_spread_counts_for_nothing(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "a", {"f1": steady(0.5)})
    put(tmp_path, "qrecc", "b", {"f1": steady(0.47)})
    one, other = (measured(name, "qrecc", "sample", [tmp_path]) for name in "ab")
    records = read_records(tmp_path / "sample")
    at_hand = scores_at_hand(records, tmp_path)
    assert numerical_spread([tmp_path], "sample") is None
    for moved, apart in ((-0.01, True), (-0.04, False)):
        study(tmp_path, "numerics", moved)
        spread = numerical_spread([tmp_path / "none", tmp_path], "sample")
        assert spread is not None and spread.of("f1") == -moved and spread.of("mrr") == 0
        found = compare(one, other, spread=spread)
        assert found.metrics[0].told_apart == apart and found.metrics[0].p < 0.05
        told = f"alone moved F1 by {-100 * moved:.1f} points at most"
        assert any(told in line for line in sentences(found))
        text = table(records, metrics=["f1"], turn_scores=at_hand, spread=spread)
        assert ("**47.0**" in text) != apart and "**50.0**" in text and told in text


def test_a_tolerance_is_no_less_than_what_rounding_moves(tmp_path: Path) -> None:
    record = put(tmp_path, "qrecc", "a", {"f1": steady(0.5)})
    path = record_path(tmp_path, record)
    assert near(record, path) == (TOLERANCE, REASON)
    study(tmp_path, "numerics", 0.02)
    tolerance, why = near(record, path)
    assert tolerance == 0.02 and why.startswith(REASON) and "20 turns of qrecc" in why


def test_the_best_explanation_is_what_closes_most_of_a_gap() -> None:
    rows = [
        Shifted("f1", name, 0.4 + move, 0.4, 9)
        for name, move in (
            ("too little", 0.02),
            ("away", -0.05),
            ("nearly", 0.09),
            ("too far", 0.3),
            ("beyond", 0.13),
        )
    ]
    best = explained(0.1, rows)
    assert [(s.convention, round(share, 2)) for s, share in best] == [
        ("nearly", 0.9),
        ("beyond", 0.7),
        ("too little", 0.2),
    ]
    assert explained(0.0, rows) == []


def test_switches_that_were_measured_explain_a_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(results: Path, system: str, value: float, **joint: object) -> Path:
        settings = {"name": system, "adapters": {"joint": {"seed": 1, **joint}}}
        record = put(results, "qrecc", system, {"f1": steady(value)}, settings=settings)
        return record_path(results, record)

    mine = trained(tmp_path, "uniconv", 0.4, cii=0.5)
    trained(tmp_path, "uniconv-no-cii", 0.46, cii=0.0)
    trained(tmp_path, "uniconv-reseeded", 0.47, cii=0.5, seed=2)
    put(tmp_path, "qrecc", "other", {"f1": steady(0.5)}, settings={"retriever": "z"})
    study(tmp_path, "cii-lab", 0.01, choices=True)
    study(tmp_path, "reliability", 0.05)
    switches = {
        s.convention: round(s.mean, 3)
        for s in moves(mine)
        if "in place" in s.convention or "study" in s.convention
    }
    assert switches == {
        "joint.cii 0.0 in place of 0.5 (uniconv-no-cii)": 0.46,
        "x - y on qrecc (study cii-lab, sample)": 0.41,
    }
    theirs = trained(tmp_path / "theirs", "uniconv", 0.47, cii=0.5)
    ledger = str(tmp_path / "ledger.jsonl")
    assert cli.main(["reproduce", str(mine), str(theirs), "--ledger", ledger, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["explained"]
    assert (
        told[0]
        == "+7.0 points of F1: 86 % by joint.cii 0.0 in place of 0.5 (uniconv-no-cii) (+6.0)"
    )
    assert cli.main(["explain", str(mine), "--json"]) == 0
    names = [row["convention"] for row in json.loads(capsys.readouterr().out)]
    assert set(switches) < set(names)
    assert not list((tmp_path / "theirs").glob(f"**/{OUTCOME}"))
