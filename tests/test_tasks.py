"""Every shipped card. What its reader makes of raw files is tested in test_task_<name>.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.metrics import parse_metric
from uniconv_bench.registry import task_card, task_module, task_names

RAW = Path(__file__).parent / "data" / "raw"
TASKS = ("faithdial", "inscit", "orquac", "qrecc", "topiocqa")
USER, AGENT = "user", "assistant"


def read(task: str, split: str, raw: Path | None = None) -> list[Conversation]:
    return list(task_module(*task_card(task)).conversations(raw or RAW / task, split))


def turns(task: str, split: str, raw: Path | None = None) -> list[Turn]:
    return [turn for conversation in read(task, split, raw) for turn in conversation]


def passages(task: str, raw: Path | None = None) -> list[Passage]:
    return list(task_module(*task_card(task)).passages(raw or RAW / task))


def said(turn: Turn) -> list[tuple[str, str]]:
    return [(utterance.role, utterance.text) for utterance in turn.history]


# ---------------------------------------------------------------------------------------- cards


def test_the_five_tasks_are_there() -> None:
    assert set(TASKS) <= set(task_names())


@pytest.mark.parametrize("task", task_names())
def test_card_is_complete(task: str) -> None:
    card, path = task_card(task)
    module = task_module(card, path)
    assert card.name == path.stem == task
    trained_on = set() if card.reader == "chatrag" else {"train"}
    assert trained_on | {card.test_split} <= set(module.splits(RAW / (card.reader or task)))
    assert card.homepage.startswith("https://")
    assert len(card.licence) > 2 and len(card.description) > 20 and len(card.retrieval_setting) > 40
    assert card.traps
    for name in card.metrics:
        parse_metric(name)
    assert module.__doc__ is not None and len(module.__doc__.splitlines()) > 10


def test_official_f1s_stand_beside_the_plain_one() -> None:
    f1s = {t: [m for m in task_card(t)[0].metrics if m.startswith("f1")] for t in task_names()}
    own = {"topiocqa": "f1_topiocqa", "orquac": "f1_quac", "inscit": "f1_inscit"}
    assert f1s == {task: ["f1", own[task]] if task in own else ["f1"] for task in f1s}


def test_published_counts_are_those_that_are_known_for_sure() -> None:
    found = {
        (task, name, count): number
        for task in TASKS
        for name, counts in task_card(task)[0].size.model_dump(exclude_none=True)["splits"].items()
        for count, number in counts.items()
    }
    assert found == {
        ("topiocqa", "train", "conversations"): 3_509,
        ("topiocqa", "train", "turns"): 45_450,
        ("topiocqa", "train", "judged_retrieval"): 45_450,
        ("topiocqa", "dev", "conversations"): 205,
        ("topiocqa", "dev", "turns"): 2_514,
        ("topiocqa", "dev", "judged_retrieval"): 2_514,
        ("qrecc", "train", "conversations"): 10_823,
        ("qrecc", "train", "turns"): 63_501,
        ("qrecc", "test", "conversations"): 2_775,
        ("qrecc", "test", "turns"): 16_451,
        ("qrecc", "test", "judged_retrieval"): 8_209,
        ("inscit", "dev", "conversations"): 86,
        ("inscit", "dev", "turns"): 502,
        ("inscit", "dev", "judged_retrieval"): 485,
        ("inscit", "test", "conversations"): 469,
        ("inscit", "test", "judged_retrieval"): 2_706,
        ("faithdial", "train", "turns"): 18_357,
        ("faithdial", "test", "turns"): 3_539,
    }
    passages = {task: task_card(task)[0].size.passages for task in TASKS}
    assert passages == {
        "topiocqa": 25_700_592,
        "qrecc": 54_573_064,
        "orquac": 11_377_951,
        "inscit": None,
        "faithdial": None,
    }


@pytest.mark.parametrize("task", task_names())
def test_citation_is_bibtex(task: str) -> None:
    citation = task_card(task)[0].citation.strip()
    assert citation.startswith(("@article{", "@inproceedings{"))
    assert citation.endswith("}") and citation.count("{") == citation.count("}")
    for field in ("title", "author", "year", "doi"):
        assert f"\n  {field}" in citation, field


@pytest.mark.parametrize("task", task_names())
def test_reported_figures_have_a_source_and_a_scale(task: str) -> None:
    card, _ = task_card(task)
    keys = [(figure.system, figure.metric) for figure in card.reported]
    assert len(set(keys)) == len(keys)
    for figure in card.reported:
        parse_metric(figure.metric)
        assert len(figure.source) > 10
        # A percentage written on the scale of fractions, or the reverse, would fall out here.
        assert 0.05 < figure.fraction < 0.8


def test_reported_figures_are_those_that_are_known() -> None:
    found = {
        (task, figure.system, figure.metric): round(100 * figure.fraction, 2)
        for task in TASKS
        for figure in task_card(task)[0].reported
    }
    assert found == {
        ("topiocqa", "uniconv", "ndcg@3"): 42.6,
        ("topiocqa", "uniconv-no-cii", "ndcg@3"): 45.5,
        ("topiocqa", "uniconv", "f1"): 29.6,
        ("topiocqa", "chatretriever+mistral-7b", "f1"): 28.3,
        ("qrecc", "uniconv", "recall@10"): 68.9,
        ("qrecc", "uniconv", "f1"): 26.2,
        ("qrecc", "chatretriever+mistral-7b", "f1"): 26.3,
        ("qrecc", "bm25, original question", "mrr"): 9.3,
        ("qrecc", "bm25, original question", "recall@10"): 15.5,
        ("qrecc", "bm25, human rewrite", "mrr"): 39.81,
        ("qrecc", "bm25, human rewrite", "recall@10"): 62.65,
        ("orquac", "uniconv", "f1"): 17.8,
        ("inscit", "uniconv", "f1"): 33.2,
        ("inscit", "chatretriever+mistral-7b", "f1"): 30.3,
        ("faithdial", "uniconv", "f1"): 11.6,
    }


@pytest.mark.parametrize("task", TASKS)
def test_an_absent_file_is_named(task: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file|none of the files"):
        turns(task, "train", tmp_path)
    with pytest.raises(UserError, match="no file|none of the files|no passages|no articles"):
        passages(task, tmp_path)
