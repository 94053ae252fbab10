"""Every shipped card, and every reader on miniatures of its raw format, trap by trap."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.metrics import parse_metric
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card, task_module, task_names
from uniconv_bench.task import load_task

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
    assert {"train", card.test_split} <= set(module.splits(RAW / task))
    assert card.homepage.startswith("https://")
    assert len(card.licence) > 2 and len(card.description) > 20 and len(card.retrieval_setting) > 40
    assert card.traps
    for name in card.metrics:
        parse_metric(name)
    assert module.__doc__ is not None and len(module.__doc__.splitlines()) > 10


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


# ------------------------------------------------------------------------------------ OR-QuAC


def test_orquac_counts_first_and_last() -> None:
    assert [t.turn_id for t in turns("orquac", "test")] == ["C_a_1_1", "C_a_1_2", "C_a_1_3"]
    assert [t.turn_id for t in turns("orquac", "train")] == ["C_b_0_1", "C_b_0_2"]
    assert [p.passage_id for p in passages("orquac")] == ["31@0", "31@1"]
    assert passages("orquac")[0].title == "Mossy Ford"


def test_orquac_first_question_is_its_rewrite_wherever_it_stands() -> None:
    first, second, third = turns("orquac", "test")
    opening = "Who designed the bridge at Mossy Ford?"
    assert first.query == first.rewrite == opening
    assert said(second)[0] == said(third)[0] == (USER, opening)
    assert said(third)[2] == (USER, "Was she married?")
    assert third.query == "When did it open?"


def test_orquac_references_come_from_the_quac_file() -> None:
    first, second, third = turns("orquac", "test")
    assert first.references == ("designed by Una Kell", "Una Kell", "Una Kell")
    assert (set(second.references), second.kind) == ({"CANNOTANSWER"}, "unanswerable")
    assert third.references == ("opened in 1810", "in 1810")


def test_orquac_judgements() -> None:
    first, second, third = turns("orquac", "test")
    assert first.gold == second.gold == ("31@1",)
    assert third.gold == ()  # not in qrels.txt


def test_orquac_lost_answers_are_no_references_and_no_history() -> None:
    first, second = turns("orquac", "train")
    assert first.references == () and first.gold == ("31@0",)
    assert said(second) == [(USER, "What was Mossy Ford called?")]
    assert second.references == ("after the wet stair",)


# ------------------------------------------------------------------------------------- INSCIT


def test_inscit_counts_first_and_last() -> None:
    test = turns("inscit", "test")
    assert [t.turn_id for t in test] == [f"fords_level2_dial9_{n}" for n in (1, 2, 3)]
    assert [c.conversation_id for c in read("inscit", "train")] == ["fords_level1_dial1"]
    found = passages("inscit")
    assert [p.passage_id for p in found] == [f"Mossy Ford:{n}" for n in (0, 1, 2)]
    assert found[0] == Passage("Mossy Ford:0", "History; Bridge", "Mossy Ford")
    assert found[2].title == "Mossy Ford Bridge"


def test_inscit_two_annotators() -> None:
    first = turns("inscit", "test")[0]
    assert first.kind == "clarification"
    assert first.references == ("The ford, or its bridge?", "It was called the wet stair.")
    assert first.gold == ("Mossy Ford:1", "Mossy Ford:2")


def test_inscit_history_goes_on_with_one_of_them() -> None:
    last = turns("inscit", "test")[2]
    assert last.query == "Is it toll-free?"
    assert said(last)[1:3] == [(AGENT, "The ford, or its bridge?"), (USER, "The latter.")]


def test_inscit_turns_without_an_answer() -> None:
    _, second, third = turns("inscit", "test")
    assert second.kind == "no_direct_answer"
    assert second.gold == ("Mossy Ford:2", "Mossy Ford:1")  # of the second annotator too
    assert (third.kind, third.gold) == ("unanswerable", ())
    assert third.references == ("I found nothing.",)


# ------------------------------------------------------------------------------ broken raw files


def edited(task: str, tmp_path: Path, name: str, edit: Callable[[str], str]) -> Path:
    raw = tmp_path / task
    shutil.copytree(RAW / task, raw)
    (raw / name).write_text(edit((raw / name).read_text(encoding="utf-8")), encoding="utf-8")
    return raw


@pytest.mark.parametrize(
    ("task", "name", "old", "new", "told"),
    [
        ("orquac", "preprocessed/test.txt", "_q#1", "_1", "field qid"),
        ("orquac", "quac_format/test.txt", '"answers"', '"answer"', "C_a_1_q#0"),
        ("orquac", "all_blocks.txt", '"title": "Mossy Ford"', '"title": null', "field title"),
        ("inscit", "test.json", "noAnswerButRelevantInfo", "no", "field responseType"),
        ("inscit", "test.json", '   "What about Mossy Ford?"\n', "", "field context"),
        ("inscit", "text_0420_processed/wiki_00", '"titles"', '"title"', "Mossy Ford:0"),
    ],
)
def test_a_broken_record_is_named(
    task: str, name: str, old: str, new: str, told: str, tmp_path: Path
) -> None:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    raw = edited(task, tmp_path, name, edit)
    with pytest.raises(UserError) as caught:
        for split in task_module(*task_card(task)).splits(raw):
            turns(task, split, raw)
        passages(task, raw)
    message = str(caught.value)
    assert told in message and Path(name).name in message and "\n" not in message


@pytest.mark.parametrize("task", TASKS)
def test_an_absent_file_is_named(task: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file|none of the files"):
        turns(task, "train", tmp_path)
    with pytest.raises(UserError, match="no file|none of the files|no passages|no articles"):
        passages(task, tmp_path)


# ------------------------------------------------------------------------------- real files


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def dump_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.data
def test_real_inscit_dev(real: Path, tmp_path: Path, private_cache: Path) -> None:
    folder, raw = real / "inscit", tmp_path / "raw"
    raw.mkdir()
    for split in ("train", "test"):
        shutil.copy(folder / "dev.json", raw / f"{split}.json")
    articles = [
        {
            "title": row["title"],
            "passages": [
                {"id": row["id"], "titles": row["title"].split(" [SEP] "), "text": row["text"]}
            ],
        }
        for row in rows_of(folder / "dev_evidence_passages.tsv")
    ]
    dump(raw / "text_0420_processed" / "wiki_00", articles)
    task = load_task("inscit", "mini", raw, progress=Silent())
    found = task.turns()
    assert (len(found), len({t.conversation_id for t in found})) == (502, 86)
    assert sum(len(t.references) == 2 for t in found) > 300
    assert Counter(t.kind for t in found) == {
        "answer": 344,
        "no_direct_answer": 75,
        "clarification": 66,
        "unanswerable": 17,
    }
    assert len(task.corpus) == 996
    expected: dict[str, dict[str, int]] = {}
    for line in (folder / "dev_qrel.tsv").read_text("utf-8").splitlines():
        turn, _, passage_id, _ = line.split("\t")
        expected.setdefault(turn, {})[passage_id] = 1
    assert task.qrels() == expected
    assert (len(expected), sum(map(len, expected.values()))) == (485, 1118)


@pytest.mark.data
def test_real_quac_references(real: Path, tmp_path: Path) -> None:
    content = json.loads((real / "orquac" / "quac_format_excerpt.json").read_text("utf-8"))
    questions = content["data"][0]["paragraphs"][0]["qas"]
    rows = [
        {
            "qid": question["id"],
            "question": question["question"],
            "rewrite": question["question"],
            "history": [],
            "answer": {**question["orig_answer"], "bid": 0},
        }
        for question in questions
    ]
    dump_lines(tmp_path / "preprocessed" / "test.txt", rows)
    dump(tmp_path / "quac_format" / "test.txt", content)
    dump(tmp_path / "qrels.txt", {})
    found = turns("orquac", "test", tmp_path)
    assert len(found) == 7
    assert found[0].turn_id == "C_69758fcdfc1f46baba0e92c0f3b0919c_1_1"
    assert found[0].references[0].startswith("30,803,747 speakers of Malayalam")
