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


# --------------------------------------------------------------------------------- TopiOCQA


def test_topiocqa_counts_first_and_last() -> None:
    dev = turns("topiocqa", "dev")
    assert [t.turn_id for t in dev] == ["4_1", "4_2", "4_3", "6_1"]
    assert [len(c.turns) for c in read("topiocqa", "dev")] == [3, 1]
    assert [t.turn_id for t in turns("topiocqa", "train")] == ["11_1"]
    assert dev[0] == Turn(
        turn_id="4_1",
        conversation_id="4",
        number=1,
        query="who designed the bridge at mossy ford",
        references=("Una Kell.", "Una Kell did."),
        gold=("7",),
        topic="Mossy Ford",
    )
    assert dev[-1].query == "what was the old name of mossy ford"


def test_topiocqa_unanswerable_keeps_its_gold_passage() -> None:
    last = turns("topiocqa", "dev")[2]
    assert (last.kind, last.references, last.gold) == ("unanswerable", ("UNANSWERABLE",), ("9",))
    assert said(last) == [
        (USER, "who designed the bridge at mossy ford"),
        (AGENT, "Una Kell."),
        (USER, "Where was she born?"),
        (AGENT, "Port Ember."),
    ]


def test_topiocqa_blank_additional_answer_is_no_reference() -> None:
    assert turns("topiocqa", "dev")[1].references == ("Port Ember.",)


def test_topiocqa_corpus_quotes_and_titles() -> None:
    first, *_, last = found = passages("topiocqa")
    assert len(found) == 4
    quoted = 'The ford was called "the wet stair" until 1810, when a bridge was built.'
    assert first == Passage("3", quoted, "Mossy Ford History")
    assert found[2].text == "A passage\nover two lines."
    assert last.passage_id == "9"


# ------------------------------------------------------------------------------------- QReCC


def test_qrecc_counts_first_and_last() -> None:
    test = turns("qrecc", "test")
    assert [t.turn_id for t in test] == ["1_1", "1_2", "1_3", "2_3"]
    assert len(turns("qrecc", "train")) == 1
    assert [p.passage_id[-3:] for p in passages("qrecc")] == ["_p2", "_p0", "_p1"]
    assert passages("qrecc")[0] == Passage(
        "https://fords.example/kell_p2", "Una Kell designed a bridge."
    )


def test_qrecc_first_question_is_its_rewrite() -> None:
    first = turns("qrecc", "test")[0]
    assert first.query == first.rewrite == "Who designed the bridge at Mossy Ford?"


def test_qrecc_history_is_what_was_asked() -> None:
    third = turns("qrecc", "test")[2]
    assert said(third) == [
        (USER, "Who designed the bridge at Mossy Ford?"),
        (AGENT, "The bridge was designed by Una Kell."),
        (USER, "Where was she born?"),  # Context has the rewrite; its empty answer says nothing
    ]
    assert third.rewrite == "Was Una Kell married?"


def test_qrecc_turns_absent_from_the_file_keep_their_rewrite() -> None:
    asked = [text for role, text in said(turns("qrecc", "test")[3]) if role == USER]
    assert asked == ["Is Mossy Ford deep?", "Is Mossy Ford cold?"]


def test_qrecc_unjudged_turns() -> None:
    first, second, third, _ = turns("qrecc", "test")
    assert [p[-3:] for p in first.gold] == ["_p1", "_p2"]  # named twice, judged once
    assert second.references == () and second.gold == ()
    assert third.references == ("No.",) and third.gold == ()  # [""] is no passage


# ---------------------------------------------------------------------------------- FaithDial


def test_faithdial_counts_first_and_last() -> None:
    assert [t.turn_id for t in turns("faithdial", "test")] == ["1_1", "1_2", "2_1"]
    assert len(turns("faithdial", "train")) == 1
    texts = [p.text for p in passages("faithdial")]
    assert texts == [
        "The ford was called the wet stair.",
        "Una Kell never learned to swim.",
        "The bridge was designed by Una Kell.",
    ]


def test_faithdial_history_opens_with_either_speaker() -> None:
    first, second, third = turns("faithdial", "test")
    assert said(first) == [(AGENT, "Hello! What shall we talk about?")]
    assert first.query == "Mossy Ford. Who designed the bridge?"
    assert [role for role, _ in said(second)] == [AGENT, USER, AGENT]
    assert said(third) == [] and third.query == "Mossy Ford!"


def test_faithdial_reference_is_the_faithful_response() -> None:
    first, second, _ = turns("faithdial", "test")
    assert first.references == ("Una Kell did, I believe.",)
    assert second.references == ("It was the wet stair.",)


def test_faithdial_knowledge_of_any_split_is_one_pool() -> None:
    pool = {p.text: p.passage_id for p in passages("faithdial")}
    first, second, third = turns("faithdial", "test")
    assert first.gold == (pool["The bridge was designed by Una Kell."],)
    (train,) = turns("faithdial", "train")
    assert second.gold == train.gold  # the same knowledge in two splits is one passage
    assert third.gold == ()


# ------------------------------------------------------------------------------ broken raw files


def edited(task: str, tmp_path: Path, name: str, edit: Callable[[str], str]) -> Path:
    raw = tmp_path / task
    shutil.copytree(RAW / task, raw)
    (raw / name).write_text(edit((raw / name).read_text(encoding="utf-8")), encoding="utf-8")
    return raw


@pytest.mark.parametrize(
    ("task", "name", "old", "new", "told"),
    [
        ("topiocqa", "topiocqa_valid.jsonl", '"Gold_passage"', '"Gold"', "field Gold_passage is"),
        ("topiocqa", "topiocqa_valid.jsonl", '"Turn_no": 2', '"Turn_no": "2"', "line 2"),
        ("topiocqa", "full_wiki_segments.tsv", "id\ttext", "id\ttxt", "header"),
        ("topiocqa", "full_wiki_segments.tsv", "\tMossy Ford [SEP] Bridge", "", "2 columns"),
        ("qrecc", "scai-qrecc21-test-turns.json", '"Truth_answer": "No."', '"A": 1', "record 3"),
        ("qrecc", "scai-qrecc21-test-turns.json", '"Yes."\n', '"Yes.", "?"\n', "Context"),
        ("qrecc", "wayback/part.jsonl", '"contents"', '"text"', "field contents is missing"),
        ("faithdial", "test.json", '"knowledge"', '"fact"', "dialogue 1, utterance 1"),
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
def test_real_topiocqa_dev(real: Path, tmp_path: Path, private_cache: Path) -> None:
    """The hub's form, joined from the 2021 release and its gold passages."""
    folder = real / "topiocqa"
    numbers = {int(a): int(b) for a, b in map(dict.values, rows_of(folder / DEV_MAP))}
    gold = {}
    for line in (folder / "dev_original_with_gold_passage.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        passage = {"id": f"wiki:{row['passage_id']}", "title": row["title"]}
        gold[row["conv_id"], row["turn_id"]] = {**passage, "text": row["passage_text"]}
    dev = json.loads((folder / "topiocqa_dev.json").read_text("utf-8"))
    for row in dev:
        row["Conversation_no"] = numbers[row["Conversation_no"]]
        row["Gold_passage"] = gold[row["Conversation_no"], row["Turn_no"]]
    raw = tmp_path / "raw"
    dump_lines(raw / "topiocqa_valid.jsonl", dev)
    dump_lines(raw / "topiocqa_train.jsonl", dev[:1])
    shutil.copy(folder / "dev_gold_passages.tsv", raw / "full_wiki_segments.tsv")

    task = load_task("topiocqa", "mini", raw, progress=Silent())
    found = task.turns()
    assert (len(found), len({t.conversation_id for t in found})) == (2514, 205)
    assert Counter(t.kind for t in found)["unanswerable"] == 174
    assert len(task.corpus) == 1940
    expected = {}
    for line in (folder / "dev_qrel_gold.trec").read_text("utf-8").splitlines():
        turn, _, passage_id, _ = line.split()
        expected[turn] = {passage_id: 1}
    assert task.qrels() == expected
    for before, after in zip(found, found[1:], strict=False):
        if after.number > 1:
            asked = (Utterance("user", before.query), Utterance("assistant", before.references[0]))
            assert after.history == (*before.history, *asked)


DEV_MAP = "dev_conversation_no_map.tsv"


@pytest.mark.data
def test_real_qrecc_sample_and_passages(real: Path, tmp_path: Path) -> None:
    folder, raw = real / "qrecc", tmp_path / "raw"
    rows = json.loads((folder / "dev-sampled2k-modified.json").read_text("utf-8"))
    for row in rows:
        row["Context"] = row.pop("NewContext")
    rows.sort(key=lambda row: (row["Conversation_no"], row["Turn_no"]))
    dump(raw / "scai-qrecc21-test-turns.json", rows)
    (raw / "wayback").mkdir()
    shutil.copy(folder / "scai_passages_excerpt.jsonl", raw / "wayback" / "part.jsonl")
    found = turns("qrecc", "test", raw)
    assert (len(found), len(read("qrecc", "test", raw))) == (2000, 1257)
    assert sum(bool(t.gold) for t in found) == 927
    assert sum(not t.references for t in found) == 203
    qrels = json.loads((folder / "qrels_dev.txt").read_text("utf-8"))
    assert all(set(t.gold) == set(qrels[t.turn_id]) - {""} for t in found)
    assert len(passages("qrecc", raw)) == 326


@pytest.mark.data
def test_real_qrecc_context_is_restored(real: Path, tmp_path: Path) -> None:
    """A whole real conversation, its fields renamed to SCAI's."""
    names = {"Rewrite": "Truth_rewrite", "Answer": "Truth_answer"}
    rows = json.loads((real / "qrecc" / "qrecc_test_excerpt.json").read_text("utf-8"))
    renamed = [{names.get(k, k): v for k, v in r.items()} | {"Truth_passages": []} for r in rows]
    dump(tmp_path / "scai-qrecc21-test-turns.json", renamed)
    found = turns("qrecc", "test", tmp_path)
    asked = [text for role, text in said(found[-1]) if role == USER]
    assert asked == [found[0].query, *(row["Question"] for row in rows[1:-1])]
    assert rows[-1]["Context"][2] == rows[1]["Rewrite"] != rows[1]["Question"] == asked[1]


@pytest.mark.data
def test_real_faithdial_example(real: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        shutil.copy(real / "faithdial" / "readme_example.json", tmp_path / f"{split}.json")
    (turn,) = turns("faithdial", "test", tmp_path)
    assert [role for role, _ in said(turn)] == [USER, AGENT]
    assert turn.references[0].startswith("Sure. The concert started in September")
    assert [p.passage_id for p in passages("faithdial", tmp_path)] == list(turn.gold)
