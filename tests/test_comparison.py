"""Two systems side by side: figures, sentences, the turns that moved, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evidence import put, steady

from uniconv_bench import cli
from uniconv_bench.comparison import compare, measured, sentences
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.task import load_task

HIGH, LOW = steady(0.6), steady(0.3)


def pair(results: Path, *metrics: str, **fields: Any) -> Any:
    folder = fields.pop("folders", [results])
    one, other = (measured(s, "qrecc", "sample", folder) for s in ("one", "other"))
    return compare(one, other, metrics)


def test_a_clear_difference_and_none_are_told_in_words(tmp_path: Path) -> None:
    noisy = {turn: v + (0.2 if i % 2 else -0.2) for i, (turn, v) in enumerate(HIGH.items())}
    put(tmp_path, "qrecc", "one", {"ndcg@3": HIGH, "f1": HIGH})
    put(tmp_path, "qrecc", "other", {"ndcg@3": LOW, "f1": noisy})
    found = pair(tmp_path)
    ndcg, f1 = found.metrics
    assert ndcg.means == (pytest.approx(0.6, abs=0.02), pytest.approx(0.3, abs=0.02))
    assert ndcg.difference.mean == pytest.approx(0.3) and ndcg.told_apart
    assert ndcg.p == pytest.approx(2 * ndcg.difference.p)  # Holm over two metrics
    assert not f1.told_apart
    first, second = sentences(found)
    assert first.startswith(
        "One ranks the right passages higher than Other on qrecc (sample): NDCG@3"
    )
    assert "30.0 points" in first and "p < 0.001" in first
    assert second.startswith("F1 does not tell One and Other apart on qrecc (sample)")


def test_the_better_system_is_named_first_and_few_conversations_are_told(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "one", {"f1": steady(0.3, conversations=9)})
    put(tmp_path, "qrecc", "other", {"f1": steady(0.6, conversations=9)})
    first, few = sentences(pair(tmp_path))
    assert first.startswith("Other answers more like the references than One")
    assert few.startswith("Only 9 conversations")


def test_a_part_of_a_dataset_and_its_first_turns_are_told(tmp_path: Path) -> None:
    for name in ("one", "other"):
        part = {"part": ["48 of 2,514 turns of dev"]}
        put(tmp_path, "qrecc", name, {"f1": LOW}, limit=48, of_task=part)
    assert sentences(pair(tmp_path))[1:] == [
        "Only the first 48 turns were run.",
        "qrecc is part of the dataset: 48 of 2,514 turns of dev.",
    ]


def test_turns_that_moved_most_come_first(tmp_path: Path) -> None:
    """By the first metric asked for; ties by the next; turns that did not move not at all."""
    put(
        tmp_path,
        "qrecc",
        "one",
        {
            "mrr": {"a_1": 1.0, "a_2": 1.0, "b_1": 0.2, "b_2": 0.5},
            "f1": {"a_1": 0.1, "a_2": 0.9, "b_1": 0.0},
        },
    )
    put(
        tmp_path,
        "qrecc",
        "other",
        {
            "mrr": {"a_1": 0.0, "a_2": 0.0, "b_1": 0.5, "b_2": 0.5},
            "f1": {"a_1": 0.0, "a_2": 0.0, "b_1": 0.0},
        },
    )
    moved = pair(tmp_path, "mrr", "f1").moved
    assert [turn.turn_id for turn in moved] == ["a_2", "a_1", "b_1"]
    assert moved[0].scores == {"mrr": (1.0, 0.0), "f1": (0.9, 0.0)}
    assert [turn.turn_id for turn in pair(tmp_path, "f1").moved] == ["a_2", "a_1"]


def test_runs_of_other_seeds_are_pooled_and_their_spread_told(tmp_path: Path) -> None:
    folders = [tmp_path / "13", tmp_path / "14"]
    for folder, shift in zip(folders, (0.0, 0.1), strict=True):
        put(folder, "qrecc", "one", {"f1": {t: v + shift for t, v in LOW.items()}})
        put(folder, "qrecc", "other", {"f1": LOW})
    found = pair(tmp_path, folders=folders)
    (f1,) = found.metrics
    assert f1.difference.mean == pytest.approx(0.05) and f1.difference.n == len(LOW)
    assert found.one.seeds["f1"] == pytest.approx(0.1 / 2**0.5) and found.other.seeds["f1"] is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"of_task": {"data_digest": "f" * 64}}, "different data: bbbbbbbbbbbb and ffffffffffff"),
        ({"of_task": {"split": "dev"}}, "different splits: test and dev"),
        ({"of_task": {"version": 2}}, "different versions of the task: 1 and 2"),
        ({"limit": 4}, "different limits: none and 4"),
    ],
)
def test_records_that_are_not_alike_are_refused(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    put(tmp_path, "qrecc", "one", {"f1": LOW})
    put(tmp_path, "qrecc", "other", {"f1": LOW}, **fields)
    with pytest.raises(UserError, match=reason):
        pair(tmp_path)


def test_other_turns_and_other_metrics_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "one", {"f1": LOW, "mrr": LOW})
    put(tmp_path, "qrecc", "other", {"f1": dict(list(LOW.items())[1:]), "f1_quac": LOW})
    with pytest.raises(UserError, match="different turns by f1: 1 are one's alone, as 'c00_0'"):
        pair(tmp_path)
    with pytest.raises(UserError, match=r"other has no mrr on qrecc.*scored by f1, f1_quac"):
        pair(tmp_path, "mrr")
    put(tmp_path, "qrecc", "other", {"f1_quac": LOW})
    with pytest.raises(UserError, match="no metric in common"):
        pair(tmp_path)
    with pytest.raises(UserError, match=r"no record of othr.*did you mean 'other'"):
        measured("othr", "qrecc", "sample", [tmp_path])


def test_the_command_prints_for_people_and_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "qrecc", "one", {"ndcg@3": HIGH})
    put(tmp_path, "qrecc", "other", {"ndcg@3": LOW})
    command = ["compare", "one", "other", "-t", "qrecc", "--results", str(tmp_path)]
    assert cli.main(command) == 0
    assert "One ranks the right passages higher than Other" in capsys.readouterr().out
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"][0]["name"] == "ndcg@3" and told["metrics"][0]["told_apart"] is True
    assert told["metrics"][0]["mean"] == pytest.approx(0.3) and len(told["moved"]) == 10
    assert cli.main([*command, "--profile", "mini"]) == 2
    assert "no record of one on qrecc (mini)" in capsys.readouterr().err


def test_texts_of_the_turns_that_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], private_cache: Path
) -> None:
    task = load_task("qrecc", "sample", progress=Silent())
    turn = next(turn for turn in task.turns() if turn.references)
    for name, value in (("one", 1.0), ("other", 0.0)):
        data = {"data_digest": task.digest}
        put(tmp_path, "qrecc", name, {"f1": {turn.turn_id: value}}, of_task=data)
    command = ["compare", "one", "other", "-t", "qrecc", "--results", str(tmp_path), "--texts"]
    assert cli.main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    (moved,) = json.loads(out)["moved"]
    assert moved["texts"] == {"question": turn.query, "reference": turn.references[0]}
    assert "the answers of One are not in this cache" in err
    assert cli.main(command) == 0
    assert f"question: {turn.query}" in capsys.readouterr().out
    put(tmp_path, "qrecc", "one", {"f1": {turn.turn_id: 1.0}})
    put(tmp_path, "qrecc", "other", {"f1": {turn.turn_id: 0.0}})
    assert cli.main(command) == 2
    assert "is not what the records are of" in capsys.readouterr().err
