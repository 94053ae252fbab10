"""INSCIT's reader: articles and table, two annotators, trap by trap, and the real dev split."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reading import (
    AGENT,
    USER,
    conversations,
    copied,
    dump,
    everything,
    official,
    passages,
    prepared,
    refusal,
    replaced,
    said,
    splits,
    turns,
)

from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.dataset import qrels_file
from uniconv_bench.definitions import inscit_f1, token_f1

ARTICLES = "text_0420_processed"


# ------------------------------------------------------------------------------ the small files


def test_counts_first_tenth_and_last() -> None:
    assert splits("inscit") == ("train", "test")
    names = [c.conversation_id for c in conversations("inscit", "test")]
    assert names == ["fords_level2_dial9", "fairs_level1_dial2"]
    found = turns("inscit", "test")
    assert len(found) == 11
    assert found[0] == Turn(
        turn_id="fords_level2_dial9_1",
        conversation_id="fords_level2_dial9",
        number=1,
        query="What about Mossy Ford?",
        references=("The ford, or its bridge?", "It was called the wet stair."),
        gold=("Mossy Ford:1", "Mossy Ford:2"),
        kind="clarification",
    )
    tenth = found[9]
    assert (tenth.turn_id, tenth.query) == ("fairs_level1_dial2_7", "Which one was left?")
    assert (tenth.kind, len(tenth.history)) == ("no_direct_answer", 12)
    assert tenth.references == ("I only know that one was.", "No idea.")
    assert tenth.gold == ("Lantern Fair:3",)
    last = found[-1]
    assert (last.turn_id, last.query) == ("fairs_level1_dial2_8", "What did he bake?")
    assert last.references == ("He baked for the ferrymen and swimmers.",) * 2  # said by both
    assert last.gold == ("Odo Finch:1",)
    assert [c.conversation_id for c in conversations("inscit", "train")] == ["fords_level1_dial1"]


def test_articles_first_and_last() -> None:
    found = passages("inscit")
    names = [f"Mossy Ford:{n}" for n in range(3)] + [f"Lantern Fair:{n}" for n in range(4)]
    assert [p.passage_id for p in found] == [*names, "Odo Finch:1"]
    assert found[0] == Passage("Mossy Ford:0", "History; Bridge", "Mossy Ford")
    assert found[6].title == "Lantern Fair Weir Rain of 1961"
    assert found[-1].text.endswith('"the drowned", as he called swimmers.')


def test_evidence_of_every_annotator_is_relevant() -> None:
    found = turns("inscit", "test")
    assert found[0].gold == ("Mossy Ford:1", "Mossy Ford:2")
    assert found[1].gold == ("Mossy Ford:2", "Mossy Ford:1")
    assert found[4].gold == ("Lantern Fair:1", "Odo Finch:1")  # in order of first appearance
    assert found[5].gold == ()


def test_history_goes_on_with_one_of_them() -> None:
    third = turns("inscit", "test")[2]
    assert third.query == "Is it toll-free?"
    assert said(third)[1:3] == [(AGENT, "The ford, or its bridge?"), (USER, "The latter.")]


def test_turns_without_an_answer() -> None:
    _, second, third, *_ = turns("inscit", "test")
    assert second.kind == "no_direct_answer"
    assert (third.kind, third.gold) == ("unanswerable", ())
    assert third.references == ("I found nothing.",)  # the other annotator's is blank


# --------------------------------------------------------------------------------- other forms


def as_table(raw: Path, name: str) -> None:
    """What the official create_corpus_tsv.py makes of the articles, a header a file included."""
    path = raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        for source in sorted((raw / ARTICLES).iterdir()):
            writer.writerow(["id", "text", "title"])
            for article in json.loads(source.read_text("utf-8")):
                for row in article["passages"]:
                    text, title = " ".join(row["text"].split()), " [SEP] ".join(row["titles"])
                    writer.writerow([row["id"], text, title])
    shutil.rmtree(raw / ARTICLES)


@pytest.mark.parametrize(
    "name",
    [
        "full_wiki_segments.tsv",
        "retrieval_data/wikipedia/full_wiki_segments.tsv",
        "dev_evidence_passages.tsv",
    ],
)
def test_the_table_reads_as_the_articles_do(name: str, tmp_path: Path) -> None:
    raw = copied("inscit", tmp_path)
    as_table(raw, name)
    assert everything("inscit", raw) == everything("inscit")
    found = passages("inscit", raw)
    assert (len(found), found[0].title, found[-1].passage_id) == (8, "Mossy Ford", "Odo Finch:1")


def test_articles_go_before_the_table(tmp_path: Path) -> None:
    raw = copied("inscit", tmp_path)
    (raw / "full_wiki_segments.tsv").write_text("id\ttext\ttitle\nOther:1\ttext\tOther\n")
    assert passages("inscit", raw) == passages("inscit")


def test_dev_alone_can_be_read(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("inscit", tmp_path)
    (raw / "train.json").unlink()
    (raw / "test.json").rename(raw / "dev.json")
    assert splits("inscit", raw) == ("dev",)
    assert turns("inscit", "dev", raw) == turns("inscit", "test")
    assert "no files of the split 'test'" in refusal("inscit", raw)


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    raw = copied("inscit", tmp_path)
    content = json.loads((raw / "test.json").read_text("utf-8"))
    for body in content.values():
        del body["seedArticle"]
        for turn in body["turns"]:
            del turn["prevEvidence"]
            turn["annotators"] = 2
            for label in turn["labels"]:
                label["seconds"] = 40
    dump(raw / "test.json", content)
    assert everything("inscit", raw) == everything("inscit")


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("test.json", '"context"', '"contexts"', ("fords_level2_dial9, turn 1", "field context")),
        ("test.json", '"What about Mossy Ford?"', "7", ("turn 1", "field context holds int")),
        ("test.json", '"The latter."', '"The latter.", "Well?"', ("turn 2", "user's query")),
        ("test.json", '   "What about Mossy Ford?"\n', "", ("turn 1", "field context")),
        ("test.json", '"turns"', '"turn"', ("fords_level2_dial9", "field turns is missing")),
        ("test.json", '"fords_level2_dial9"', '" "', ("empty name",)),
        ("test.json", '"fords_level2_dial9"', '"fords\\tdial9"', ("field turn_id",)),
        ("test.json", '"fairs_level1_dial2"', '"fords_level2_dial9"', ("occurs twice",)),
        ("test.json", "noAnswerButRelevantInfo", "no", ("turn 2", "field responseType is 'no'")),
        ("test.json", '"directAnswer"', '"direct"', ("turn 1", "field responseType is 'direct'")),
        ("test.json", '"response"', '"answer"', ("turn 1", "field response is missing")),
        ("test.json", '"evidence"', '"passages"', ("turn 1", "field evidence is missing")),
        ("test.json", '"passage_id"', '"pid"', ("turn 1", "field passage_id is missing")),
        ("test.json", '"Mossy Ford:1"', '""', ("turn fords_level2_dial9_1", "field gold is empty")),
        ("test.json", '"Mossy Ford:1"', '"Mossy\\tFord:1"', ("dial9_1", "field gold is")),
        ("test.json", '"Mossy Ford:1"', '"Mossy Ford:9"', ("dial9_1", "corpus lacks")),
        (f"{ARTICLES}/wiki_00", '"titles"', '"title"', ("wiki_00", "Mossy Ford:0", "titles")),
        (f"{ARTICLES}/wiki_00", '"id"', '"pid"', ("wiki_00, article 1", "field id is missing")),
        (f"{ARTICLES}/wiki_01", '"Mossy Ford:2"', '"Mossy Ford:1"', ("occurs twice",)),
        (f"{ARTICLES}/wiki_02", '"passages"', '"text"', ("wiki_02, article 1", "passages")),
    ],
)
def test_a_broken_record_is_named(
    name: str, old: str, new: str, told: tuple[str, ...], tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("inscit", tmp_path)
    replaced(raw / name, old, new)
    message = refusal("inscit", raw)
    assert all(part in message for part in told), message


def edited(raw: Path, turn: int, key: str, value: Any) -> None:
    """Sets a field of a turn of the second conversation; None as value drops the turn."""
    content = json.loads((raw / "test.json").read_text("utf-8"))
    rows = content["fairs_level1_dial2"]["turns"]
    if value is None:
        del rows[turn - 1]
    else:
        rows[turn - 1][key] = value
    dump(raw / "test.json", content)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("labels", [], "turn 4); every turn has one or two annotators' labels"),
        ("context", None, "holds 4 exchanges, not 3"),
        ("context", ["What?"], "holds 0 exchanges, not 3"),
    ],
)
def test_a_gap_is_refused(
    key: str, value: Any, told: str, tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("inscit", tmp_path)
    edited(raw, 4, key, value)
    message = refusal("inscit", raw)
    assert told in message and "test.json, fairs_level1_dial2, turn 4" in message


@pytest.mark.parametrize(("name", "value"), [("test.json", []), (f"{ARTICLES}/wiki_00", {})])
def test_a_file_of_another_shape_is_refused(
    name: str, value: Any, tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("inscit", tmp_path)
    dump(raw / name, value)
    message = refusal("inscit", raw)
    assert "not a JSON" in message and Path(name).name in message


def test_a_broken_table_is_refused(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("inscit", tmp_path)
    as_table(raw, "full_wiki_segments.tsv")
    replaced(raw / "full_wiki_segments.tsv", "\tMossy Ford [SEP] Bridge", "")
    message = refusal("inscit", raw)
    assert "full_wiki_segments.tsv, line 5" in message and "2 columns instead of 3" in message


def test_an_absent_corpus_is_named(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("inscit", tmp_path)
    shutil.rmtree(raw / ARTICLES)
    message = refusal("inscit", raw)
    assert ARTICLES in message and "full_wiki_segments.tsv" in message


# ----------------------------------------------------------------------------------- real files


def rows_of(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


@pytest.mark.data
def test_real_dev_as_it_lies(private_cache: Path) -> None:
    """The folder as it is: one split, and the passages that its labels quote."""
    folder = official("inscit")
    assert splits("inscit", folder) == ("dev",)
    found = turns("inscit", "dev", folder)
    content = json.loads((folder / "dev.json").read_text("utf-8"))
    labels = [label for body in content.values() for t in body["turns"] for label in t["labels"]]
    assert (len(content), len(found), len(labels)) == (86, 502, 835)
    assert Counter(t.kind for t in found) == {
        "answer": 344,
        "no_direct_answer": 75,
        "clarification": 66,
        "unanswerable": 17,
    }
    # Two labels on 333 turns, a few of them with the same words.
    assert 300 < sum(len(t.references) == 2 for t in found) <= 333
    assert all(1 <= len(t.references) <= 2 for t in found)
    assert len(passages("inscit", folder)) == 996
    first, tenth, last = found[0], found[9], found[-1]
    assert first.turn_id == "food_level1_dial24_1"
    assert first.gold == ("Types of cheese:19", "Cheese:1")
    assert (tenth.turn_id, len(tenth.history)) == (list(content)[1] + "_4", 6)
    body = content[last.conversation_id]["turns"]
    assert (last.number, last.query) == (len(body), body[-1]["context"][-1])
    for before, after in zip(found, found[1:], strict=False):
        if after.number > 1:
            assert after.history[:-2] == before.history
            assert after.history[-2] == Utterance(USER, before.query)


@pytest.mark.data
def test_real_dev_judgements_line_for_line(tmp_path: Path, private_cache: Path) -> None:
    """Our qrels are the derived ones, and run parallel to a third party's with integer ids."""
    folder, raw = official("inscit"), tmp_path / "raw"
    raw.mkdir()
    shutil.copy(folder / "dev.json", raw / "test.json")
    shutil.copy(folder / "dev_evidence_passages.tsv", raw)
    task = prepared("inscit", raw)
    ours = rows_of(task.folder / qrels_file("test"))
    assert ours == rows_of(folder / "dev_qrel.tsv")
    assert (len(ours), len({row[0] for row in ours}), len(task.corpus)) == (1118, 485, 996)
    numbers = {int_id: name for int_id, name in rows_of(folder / "dev_intid_map.tsv")[1:]}
    assert len(numbers) == 996 == len(set(numbers.values()))
    theirs = [line.split() for line in (folder / "dev_qrel_gold_intid.trec").open()]
    assert len(theirs) == 1118
    seen: dict[str, str] = {}
    for (turn, _, passage_id, grade), (qid, _, int_id, other) in zip(ours, theirs, strict=True):
        assert (numbers[int_id], other) == (passage_id, grade)
        ordinal, _, number = qid.partition("_")
        assert number == turn.rpartition("_")[2]
        assert seen.setdefault(conversation_of([turn]), ordinal) == ordinal
    assert len(set(seen.values())) == len(seen) == 86


@pytest.mark.data
def test_real_dev_annotators_against_each_other() -> None:
    """The official F1 of the one annotator's response, the other's being the reference."""
    pytest.importorskip("spacy")
    content = json.loads((official("inscit") / "dev.json").read_text("utf-8"))
    labels = [turn["labels"] for body in content.values() for turn in body["turns"]]
    pairs = [[label["response"] for label in both] for both in labels if len(both) == 2]
    values = [inscit_f1(one, [other]) for one, other in pairs]
    assert len(values) == 333
    # Equal to what the arithmetic of the official eval/eval.py, written anew, gave on these pairs.
    assert sum(values) / len(values) == pytest.approx(0.429881, abs=1e-6)
    plain = [token_f1(one, [other]) for one, other in pairs]
    assert sum(plain) / len(plain) == pytest.approx(0.427360, abs=1e-6)


def conversation_of(row: list[str]) -> str:
    return row[0].rpartition("_")[0]
