"""TopiOCQA: each release on a miniature and on the real files; what its reader refuses."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reading import prepared
from test_tasks import AGENT, RAW, USER, passages, read, said, turns

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError

HUB, LATER, OF_2021 = (RAW / name for name in ("topiocqa", "topiocqa-later", "topiocqa-2021"))
RELEASES = {"hub": HUB, "later": LATER, "2021": OF_2021}


@pytest.fixture(params=RELEASES)
def raw(request: pytest.FixtureRequest) -> Path:
    return RELEASES[request.param]


# ------------------------------------------------------------------- the same in each release


def test_counts(raw: Path) -> None:
    assert [len(c.turns) for c in read("topiocqa", "dev", raw)] == [3, 1, 8]
    assert [c.conversation_id for c in read("topiocqa", "dev", raw)] == ["4", "6", "9"]
    assert [t.turn_id for t in turns("topiocqa", "train", raw)] == ["11_1"]
    assert sum(t.kind == "unanswerable" for t in turns("topiocqa", "dev", raw)) == 3


def test_first_record(raw: Path) -> None:
    first = turns("topiocqa", "dev", raw)[0]
    assert first.references[0] == "Una Kell."
    assert replace(first, references=()) == Turn(
        turn_id="4_1",
        conversation_id="4",
        number=1,
        query="who designed the bridge at mossy ford",
        gold=("7",),
        topic="Mossy Ford",
    )


def test_tenth_record_is_unanswerable_and_keeps_its_gold_passage(raw: Path) -> None:
    tenth = turns("topiocqa", "dev", raw)[9]
    assert (tenth.turn_id, tenth.query) == ("9_6", "What did her first bridge cost?")
    assert (tenth.kind, tenth.gold) == ("unanswerable", ("7",))
    assert set(tenth.references) == {"UNANSWERABLE"}
    assert said(tenth)[-2:] == [(USER, "Could she swim?"), (AGENT, "No, she never learned to.")]


def test_last_record(raw: Path) -> None:
    last = turns("topiocqa", "dev", raw)[-1]
    assert (last.turn_id, last.query) == ("9_8", "Until when was the old name in use?")
    assert (last.references, last.gold, last.rewrite) == (("Until 1810.",), ("3",), None)
    assert len(last.history) == 14
    assert said(last)[:2] == [
        (USER, "who was una kell"),
        (AGENT, "She designed the bridge at Mossy Ford."),
    ]
    assert said(last)[-1] == (AGENT, "UNANSWERABLE")


def test_corpus(raw: Path) -> None:
    found = {p.passage_id: p for p in passages("topiocqa", raw)}
    quoted = 'The ford was called "the wet stair" until 1810, when a bridge was built.'
    assert found["3"] == Passage("3", quoted, "Mossy Ford History")
    named = {
        name for split in ("train", "dev") for t in turns("topiocqa", split, raw) for name in t.gold
    }
    assert named == {"3", "7", "9"} <= set(found)


def core(turn: Turn) -> Turn:
    """A turn without what the release of 2021 does not have."""
    unanswerable = turn.kind == "unanswerable"
    topic = "" if unanswerable else turn.topic
    return replace(turn, references=turn.references[:1], topic=topic)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_releases_give_the_same_turns(split: str) -> None:
    hub = turns("topiocqa", split, HUB)
    assert turns("topiocqa", split, LATER) == hub
    assert turns("topiocqa", split, OF_2021) == [core(turn) for turn in hub]


# -------------------------------------------------------------------------- one release alone


def test_only_the_full_corpus_has_more_than_what_is_relevant() -> None:
    assert [p.passage_id for p in passages("topiocqa", HUB)] == ["3", "7", "8", "9"]
    assert passages("topiocqa", HUB)[2].text == "A passage\nover two lines."
    assert passages("topiocqa", LATER) == passages("topiocqa", HUB)
    assert [p.passage_id for p in passages("topiocqa", OF_2021)] == ["3", "7", "9"]


def test_the_full_corpus_is_read_where_both_are_there(tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    shutil.copy(HUB / "full_wiki_segments.tsv", raw)
    assert len(passages("topiocqa", raw)) == 4


def test_additional_answers_are_references_unless_blank() -> None:
    found = turns("topiocqa", "dev")
    # What two annotators say stands twice: the official score leaves one out at a time.
    assert found[0].references == ("Una Kell.", "Una Kell did.", "Una Kell.")
    assert found[1].references == ("Port Ember.",)
    assert len(found[4].references) == 3


def test_the_later_release_takes_trec_judgements_too(tmp_path: Path) -> None:
    raw = copied(LATER, tmp_path)
    shutil.rmtree(raw / "retriever")
    shutil.copy(OF_2021 / "dev_qrel_gold.trec", raw)
    assert turns("topiocqa", "dev", raw) == turns("topiocqa", "dev")


def test_files_may_be_gzipped(tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert turns("topiocqa", "dev", raw) == turns("topiocqa", "dev", OF_2021)
    assert passages("topiocqa", raw) == passages("topiocqa", OF_2021)


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    raw = copied(HUB, tmp_path)
    edit_lines(raw / "topiocqa_valid.jsonl", lambda rows: rows[0].update(Mood="calm"))
    assert turns("topiocqa", "dev", raw) == turns("topiocqa", "dev")


# ----------------------------------------------------------------------------- what is refused


def copied(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "raw"))


def edit_lines(path: Path, change: Callable[[Any], object]) -> None:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def edit_array(path: Path, change: Callable[[Any], object]) -> None:
    rows = json.loads(path.read_text("utf-8"))
    change(rows)
    path.write_text(json.dumps(rows), "utf-8")


def refusal(raw: Path) -> str:
    with pytest.raises(UserError) as caught:
        turns("topiocqa", "dev", raw)
        passages("topiocqa", raw)
    message = str(caught.value)
    assert "\n" not in message and "; " in message
    return message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r[0].pop("Gold_passage"), "field Gold_passage is missing"),
        (lambda r: r[1].update(Turn_no="2"), "line 2) field Turn_no is str, not int"),
        (lambda r: r[1].update(Turn_no=True), "field Turn_no is bool, not int"),
        (lambda r: r[1].pop("Question"), "field Question is missing"),
        (lambda r: r[1].update(Answer=None), "field Answer is NoneType, not str"),
        (lambda r: r[1].update(Topic=["Una Kell"]), "field Topic is list, not str"),
        (lambda r: r[1].update(Context="who?"), "field Context is str, not list"),
        (lambda r: r[1]["Context"].append(3), "field Context holds int, not str"),
        (lambda r: r[1]["Context"].pop(), "field Context is not what"),
        (lambda r: r[1]["Context"].reverse(), "field Context is not what"),
        (lambda r: r.pop(1), "line 2) field Turn_no is 3, not 2"),
        (lambda r: r.insert(2, r[1]), "line 3) field Turn_no is 2, not 3"),
        (lambda r: r.pop(0), "line 1) field Turn_no is 2, not 1"),
        (lambda r: r[3].update(Conversation_no="6"), "line 4) field Conversation_no is str"),
        (lambda r: r.insert(0, ["no object"]), "line 1) not an object but list"),
        (lambda r: r[0]["Gold_passage"].update(id=7), "field id is int, not str"),
        (lambda r: r[0]["Gold_passage"].update(id="wiki:"), "field Gold_passage.id is an empty id"),
        (lambda r: r[0]["Gold_passage"].update(id="7\t8"), "Gold_passage.id is '7\\t8': an id"),
        (lambda r: r[0]["Additional_answers"][0].pop("Answer"), "field Answer is missing"),
        (lambda r: r.clear(), "topiocqa_valid.jsonl) no turns"),
    ],
)
def test_a_broken_turn(change: Callable[[Any], object], told: str, tmp_path: Path) -> None:
    raw = copied(HUB, tmp_path)
    edit_lines(raw / "topiocqa_valid.jsonl", change)
    message = refusal(raw)
    place, _, what = told.rpartition(") ")
    assert what in message and f"{place})" in message and "topiocqa_valid.jsonl" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r[1].pop("conv_id"), "record 2) field conv_id is missing"),
        (lambda r: r[1].update(turn_id="2"), "record 2) field turn_id is str, not int"),
        (lambda r: r[1].update(positive_ctxs=[]), "record 2) field positive_ctxs is empty"),
        (lambda r: r[1]["positive_ctxs"][0].update(passage_id=9), "field passage_id is int"),
        (lambda r: r[1]["positive_ctxs"][0].update(passage_id=""), "field passage_id is an empty"),
        (lambda r: r[1].update(turn_id=1), "record 2) turn 4_1 is judged twice"),
        (lambda r: r[-1].update(turn_id=9), "record 12) turn 9_8 has no judgement"),
        (lambda r: r.append({**r[0], "conv_id": 5}), "record 13) turn 5_1 is judged, but dev.json"),
    ],
)
def test_a_broken_retriever_file(
    change: Callable[[Any], object], told: str, tmp_path: Path
) -> None:
    raw = copied(LATER, tmp_path)
    edit_array(raw / "retriever" / "all_history" / "dev.json", change)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"{place})" in message and "dev.json" in message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("4_1 0 7 1\n", "4_1 0 7\n", "line 1) not a judgement: '4_1 0 7'"),
        ("4_1 0 7 1\n", "4_1 0 7 0\n", "line 1) not a judgement: '4_1 0 7 0'"),
        ("4_1 0 7 1\n", "4.1 0 7 1\n", "line 1) not a judgement"),
        ("4_1 0 7 1\n", "4_1 0 7 1 yes\n", "line 1) not a judgement"),
        ("4_1 0 7 1\n", "\n4_1 0 7 1\n", "line 1) not a judgement"),
        ("4_2 0 9 1\n", "4_1 0 9 1\n", "line 2) turn 4_1 is judged twice"),
        ("4_2 0 9 1\n", "", "record 10) turn 4_2 has no judgement"),
        ("6_1 0 3 1\n", "6_1 0 3 1\n7_1 0 3 1\n", "line 5) turn 7_1 is judged, but topiocqa_dev"),
    ],
)
def test_broken_trec_judgements(old: str, new: str, told: str, tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    replaced(raw / "dev_qrel_gold.trec", old, new)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"{place})" in message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("2\t4\n", "", "record 9) field Conversation_no is 2, which the map"),
        ("2\t4\n", "2\tfour\n", "line 3) not two conversation numbers: 2, four"),
        ("2\t4\n", "2\t9\n", "line 3) conversation 2 or 9 stands in two lines"),
        ("2\t4\n", "1\t4\n", "line 3) conversation 1 or 4 stands in two lines"),
        ("2\t4\n", "2\n", "line 3) 1 columns instead of 2"),
        ("release_conv_id", "conv_id", "not the header"),
    ],
)
def test_a_broken_map_of_numbers(old: str, new: str, told: str, tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    replaced(raw / "dev_conversation_no_map.tsv", old, new)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"{place})" in message


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id\ttext", "id\ttxt", "not the header id, text, title"),
        ("\tMossy Ford [SEP] Bridge", "", "line 3) 2 columns"),
    ],
)
def test_a_broken_corpus(old: str, new: str, told: str, tmp_path: Path) -> None:
    raw = copied(HUB, tmp_path)
    replaced(raw / "full_wiki_segments.tsv", old, new)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"{place})" in message


def test_the_release_of_2021_without_its_map_is_not_guessed(tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    (raw / "dev_conversation_no_map.tsv").unlink()
    assert "no file dev_conversation_no_map.tsv: the release of 2021" in refusal(raw)


def test_the_later_release_without_judgements_says_where_they_may_be(tmp_path: Path) -> None:
    raw = copied(LATER, tmp_path)
    shutil.rmtree(raw / "retriever")
    message = refusal(raw)
    assert "retriever/original/dev.json" in message and "dev_qrel_gold.trec" in message


def test_an_object_is_no_array_of_turns(tmp_path: Path) -> None:
    raw = copied(OF_2021, tmp_path)
    (raw / "topiocqa_dev.json").write_text("{}", "utf-8")
    assert "not a JSON array" in refusal(raw)


# ---------------------------------------------------------------------------------- real files


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.data
def test_real_release_of_2021(real: Path) -> None:
    raw = real / "topiocqa"
    for split, conversations, number, unanswerable in (
        ("dev", 205, 2514, 174),
        ("train", 3509, 45450, 3652),
    ):
        found = turns("topiocqa", split, raw)
        assert len({t.conversation_id for t in found}) == conversations
        assert len({t.turn_id for t in found}) == len(found) == number
        assert Counter(t.kind for t in found)["unanswerable"] == unanswerable
        judged = {}
        for line in (raw / f"{split}_qrel_gold.trec").read_text("utf-8").splitlines():
            turn_id, _, name, _ = line.split()
            judged[turn_id.replace("-", "_")] = (name,)
        assert {t.turn_id: t.gold for t in found} == judged
    pool = passages("topiocqa", raw)
    assert len(pool) == 1940
    assert {p.passage_id for p in pool} == {
        n for t in turns("topiocqa", "dev", raw) for n in t.gold
    }


@pytest.mark.data
def test_real_histories_are_what_was_said(real: Path) -> None:
    """Against the file itself, by another way: every turn's Context, in the old numbering."""
    raw = real / "topiocqa"
    later = {
        row["zip_2021_Conversation_no"]: row["release_conv_id"]
        for row in table(raw / "dev_conversation_no_map.tsv")
    }
    expected = {
        f"{later[str(row['Conversation_no'])]}_{row['Turn_no']}": row
        for row in json.loads((raw / "topiocqa_dev.json").read_text("utf-8"))
    }
    for turn in turns("topiocqa", "dev", raw):
        row = expected.pop(turn.turn_id)
        assert [text for _, text in said(turn)] == row["Context"]
        assert [role for role, _ in said(turn)] == [USER, AGENT] * (turn.number - 1)
        assert (turn.query, turn.references) == (row["Question"], (row["Answer"],))
    assert not expected


@pytest.mark.data
def test_real_numbering_and_gold_agree_with_the_later_release(real: Path) -> None:
    raw = real / "topiocqa"
    lines = (raw / "dev_original_with_gold_passage.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = turns("topiocqa", "dev", raw)
    assert [t.turn_id for t in found] == [row["id"] for row in rows]
    assert [t.references[0] for t in found] == [row["answer"] for row in rows]
    assert [t.gold for t in found] == [(row["passage_id"],) for row in rows]
    pool = {p.passage_id: p for p in passages("topiocqa", raw)}
    for turn, row in zip(found, rows, strict=True):
        passage = pool[turn.gold[0]]
        assert passage.text == row["passage_text"]
        assert passage.title == row["title"].replace(" [SEP] ", " ")


@pytest.mark.data
def test_real_dev_is_prepared_as_each_release(
    real: Path, tmp_path: Path, private_cache: Path
) -> None:
    """The hub's form and the later one, made from the files of 2021 and their gold passages."""
    folder = real / "topiocqa"
    gold = {p.passage_id: p for p in passages("topiocqa", folder)}
    expected = turns("topiocqa", "dev", folder)
    hub, later = tmp_path / "hub", tmp_path / "later"
    rows = []
    for turn in expected:
        passage = gold[turn.gold[0]]
        rows.append(
            {
                "Conversation_no": int(turn.conversation_id),
                "Turn_no": turn.number,
                "Question": turn.query,
                "Answer": turn.references[0],
                "Rationale": "",
                "Context": [text for _, text in said(turn)],
                "Topic": turn.topic,
                "Gold_passage": {"id": f"wiki:{passage.passage_id}", "text": passage.text},
            }
        )
    for raw in (hub, later):
        raw.mkdir()
        shutil.copy(folder / "dev_gold_passages.tsv", raw / "full_wiki_segments.tsv")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (hub / "topiocqa_valid.jsonl").write_text(lines, "utf-8")
    for row in rows:
        del row["Gold_passage"]
    (later / "topiocqa_dev.json").write_text(json.dumps(rows), "utf-8")
    shutil.copy(folder / "dev_qrel_gold.trec", later)
    for raw in (hub, later):
        task = prepared("topiocqa", raw)
        assert task.turns() == expected
        assert len(task.corpus) == 1940
        assert task.qrels() == {t.turn_id: {t.gold[0]: 1} for t in expected}
