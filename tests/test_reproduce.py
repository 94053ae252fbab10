"""Records held against records and published figures: outcomes, the ladder, the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evidence import put, steady
from test_records import make_record, make_score

from uniconv_bench import cli
from uniconv_bench.cards import Reported
from uniconv_bench.comparison import measured_at
from uniconv_bench.errors import UserError
from uniconv_bench.records import ResultRecord, record_path
from uniconv_bench.reproduce import (
    against_published,
    against_record,
    enter,
    order,
    rank_biased_overlap,
    switches,
)

FLAT = {f"c{i}_1": 0.4 for i in range(20)}


def flat(value: float) -> dict[str, dict[str, float]]:
    return {"f1": dict.fromkeys(FLAT, value)}


def file_of(folder: Path, system: str = "uniconv") -> Path:
    return folder / "sample" / system / "qrecc.json"


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(0.4, "same"), (0.4049, "close"), (0.3951, "close"), (0.406, "different")],
)
def test_outcomes(tmp_path: Path, value: float, outcome: str) -> None:
    put(tmp_path / "mine", "qrecc", "uniconv", flat(value))
    put(tmp_path / "theirs", "qrecc", "uniconv", flat(0.4))
    mine, theirs = (measured_at([file_of(tmp_path / n)]) for n in ("mine", "theirs"))
    (row,) = against_record(mine, theirs)
    assert row.outcome == outcome and row.rmse == pytest.approx(abs(value - 0.4), abs=1e-12)
    assert row.effect_ratio is None
    (wide,) = against_record(mine, theirs, tolerance=0.05)
    assert wide.outcome == ("same" if value == 0.4 else "close")


def test_equal_means_of_other_turns_are_not_the_same(tmp_path: Path) -> None:
    """Half of the turns 0.1 up, half down: RMSE 0.1."""
    values = {turn: v + (0.1 if i % 2 else -0.1) for i, (turn, v) in enumerate(FLAT.items())}
    put(tmp_path / "mine", "qrecc", "uniconv", {"f1": values})
    put(tmp_path / "theirs", "qrecc", "uniconv", flat(0.4))
    mine, theirs = (measured_at([file_of(tmp_path / n)]) for n in ("mine", "theirs"))
    (row,) = against_record(mine, theirs)
    assert row.outcome == "close" and row.rmse == pytest.approx(0.1) and row.inside


def test_effects_over_a_baseline_by_hand(tmp_path: Path) -> None:
    """0.10 gained of 0.20: half. Relative gains: 0.2 / 0.2 - 0.1 / 0.25 = 0.6."""
    for folder, system, value in (
        ("mine", "uniconv", 0.35),
        ("mine", "base", 0.25),
        ("theirs", "uniconv", 0.4),
        ("theirs", "base", 0.2),
    ):
        put(tmp_path / folder, "qrecc", system, flat(value))
    mine, base, theirs, due = (
        measured_at([file_of(tmp_path / folder, system)])
        for folder in ("mine", "theirs")
        for system in ("uniconv", "base")
    )
    (row,) = against_record(mine, theirs, (base, due))
    assert (row.effect_ratio, row.delta_ri) == (pytest.approx(0.5), pytest.approx(0.6))
    (row,) = against_record(mine, theirs, (base, theirs))  # no effect to divide by
    assert row.effect_ratio is None


def test_orders_by_hand() -> None:
    """One of three pairs swapped: tau 1/3. Two swapped at the top: agreement 0, then 1."""
    assert order({"t": "abc"}, {"t": "acb"}).tau == pytest.approx(1 / 3)
    assert rank_biased_overlap("ab", "ba") == pytest.approx(0.81 + 0.1 / 0.9 * 0.81)
    assert rank_biased_overlap("abcde", "abcde") == pytest.approx(1.0)
    assert rank_biased_overlap("ab", "cd") == 0.0
    found = order({"t": "ab", "u": "a", "v": "ab", "w": ""}, {"t": "ba", "u": "a", "w": "a"})
    assert (found.tau, found.turns) == (0.0, 2)  # -1 and 1; v and w are ranked by one alone
    with pytest.raises(UserError, match="no turn in common"):
        order({"t": "a"}, {"u": "a"})


def test_other_systems_and_other_data_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "uniconv", flat(0.4))
    put(tmp_path, "qrecc", "other", flat(0.4))
    put(tmp_path / "b", "qrecc", "uniconv", flat(0.4), of_task={"data_digest": "f" * 64})
    one, other = (measured_at([file_of(tmp_path, name)]) for name in ("uniconv", "other"))
    with pytest.raises(UserError, match="different systems: uniconv and other"):
        against_record(one, other)
    with pytest.raises(UserError, match="different data"):
        against_record(one, measured_at([file_of(tmp_path / "b")]))


def test_what_two_records_do_not_share_is_named() -> None:
    settings = {"adapters": {"joint": {"seed": 13, "lora": {"r": 16}, "sources": {"seed": "x"}}}}
    other = {"adapters": {"joint": {"seed": 14, "lora": {"r": 16}, "sources": {"seed": "y"}}}}
    one = make_record(settings=settings)
    assert switches(one, make_record(settings=other, backbone_revision="0.1.3")) == {
        "adapters.joint.seed": (13, 14),
        "backbone revision": ("0.1.2", "0.1.3"),
    }
    assert switches(one, one) == {}


def figure(value: float, **fields: Any) -> Reported:
    facts = {"system": "uniconv", "metric": "f1", "scale": "percent", "source": "s"}
    return Reported(**{**facts, "value": value, "kind": "paper", **fields})


@pytest.mark.parametrize(
    ("value", "outcome"), [(25.04, "same"), (25.3, "close"), (26.2, "different")]
)
def test_published_figures(value: float, outcome: str) -> None:
    record = make_record(scores=(make_score("f1", 0.25, half=0.01),), profile="full")
    others = [figure(25, metric="mrr"), figure(25, system="peer")]
    (row,) = against_published(record, [figure(value), *others])
    assert (row.outcome, row.source) == (outcome, "s (paper)")
    assert row.inside == (value < 26) and row.against == pytest.approx(value / 100)
    with pytest.raises(UserError, match="no figure for uniconv on qrecc"):
        against_published(record, others)


def test_only_the_whole_dataset_is_held_against_published_figures() -> None:
    for record in (make_record(), make_record(profile="full", limit=3)):
        with pytest.raises(UserError, match="cannot reproduce a published figure"):
            against_published(record, [figure(25)])


def test_a_ledger_holds_every_finding_once(tmp_path: Path) -> None:
    record = make_record(scores=(make_score("f1", 0.25),), profile="full")
    ledger = tmp_path / "new" / "ledger.jsonl"
    rows = against_published(record, [figure(25.3)])
    assert enter(ledger, record, rows, 0.005, "why") == 1
    assert enter(ledger, record, rows, 0.005, "why") == 0
    assert enter(ledger, record, rows, 0.01, "why") == 1
    first, _ = map(json.loads, ledger.read_text().splitlines())
    assert (first["record"], first["outcome"], first["n"]) == (record.digest, "close", 20)
    assert first["reason"] == "why"


def test_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    record: ResultRecord = put(tmp_path, "qrecc", "uniconv", {"f1": steady(0.4)})
    put(tmp_path / "b", "qrecc", "uniconv", {"f1": steady(0.41)})
    path, ledger = str(record_path(tmp_path, record)), str(tmp_path / "ledger.jsonl")
    command = ["reproduce", path, str(file_of(tmp_path / "b")), "--ledger", ledger]
    assert cli.main(command) == 0
    assert "different" in capsys.readouterr().out
    assert cli.main([*command, "--tolerance", "0.02", "--reason", "seeds", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"][0]["outcome"] == "close" and told["reason"] == "seeds"
    assert told["order"] is None  # nothing in the cache
    assert cli.main([*command, "--tolerance", "0.02"]) == 2
    assert "a tolerance goes with its reason" in capsys.readouterr().err
    assert cli.main(["reproduce", path, "published", "--ledger", ledger]) == 2
    assert "of profile sample cannot reproduce" in capsys.readouterr().err
    assert cli.main(["explain", path, "--json"]) == 0
    names = [row["convention"] for row in json.loads(capsys.readouterr().out)]
    assert "each conversation weighs alike" in names and not any("ties" in n for n in names)
