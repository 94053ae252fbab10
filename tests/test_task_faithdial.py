"""FaithDial: dialogues and the hub's rows on a miniature; what its reader refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reading import prepared
from test_tasks import AGENT, RAW, USER, passages, read, said, turns
from uniconv_bench.tasks import faithdial

from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError

DIALOGUES, ROWS = RAW / "faithdial", RAW / "faithdial-hub"
FORMS = {"dialogues": DIALOGUES, "rows": ROWS}
SPLITS = ("train", "valid", "test")


@pytest.fixture(params=FORMS)
def raw(request: pytest.FixtureRequest) -> Path:
    return FORMS[request.param]


# ---------------------------------------------------------------------- the same in each form


def test_counts(raw: Path) -> None:
    assert [len(c.turns) for c in read("faithdial", "test", raw)] == [2, 1, 9]
    assert [len(turns("faithdial", split, raw)) for split in SPLITS] == [1, 1, 12]


def test_first_record(raw: Path) -> None:
    first = turns("faithdial", "test", raw)[0]
    assert said(first) == [(AGENT, "Hello! What shall we talk about?")]
    assert replace(first, history=()) == Turn(
        turn_id="1_1",
        conversation_id="1",
        number=1,
        query="Mossy Ford. Who designed the bridge?",
        references=("Una Kell did, I believe.",),
        gold=(faithdial.knowledge_id("The bridge was designed by Una Kell."),),
    )


def test_tenth_record(raw: Path) -> None:
    tenth = turns("faithdial", "test", raw)[9]
    assert (tenth.turn_id, tenth.query) == ("3_7", "And who built the bridge inland?")
    assert tenth.gold == turns("faithdial", "test", raw)[0].gold
    assert said(tenth)[:2] == [
        (USER, "I grew up in Port Ember."),
        (AGENT, "It is a harbour town, isn't it? Four hundred people live there."),
    ]


def test_last_record(raw: Path) -> None:
    last = turns("faithdial", "test", raw)[-1]
    assert (last.turn_id, last.query) == ("3_9", "Thank you, that was nice.")
    assert last.references == ("Any time! Greetings to all four hundred people.",)
    assert [role for role, _ in said(last)] == [USER, AGENT] * 8
    assert last.gold == turns("faithdial", "test", raw)[3].gold


def test_a_turn_without_knowledge_is_not_judged(raw: Path) -> None:
    found = turns("faithdial", "test", raw)
    assert [t.turn_id for t in found if not t.gold] == ["2_1", "3_8"]
    assert all(t.references for t in found)


def test_history_opens_with_either_speaker(raw: Path) -> None:
    _, second, third, *_ = turns("faithdial", "test", raw)
    assert [role for role, _ in said(second)] == [AGENT, USER, AGENT]
    assert said(third) == [] and third.query == "Mossy Ford!"


def test_knowledge_of_all_splits_is_one_pool(raw: Path) -> None:
    pool = {p.text: p.passage_id for p in passages("faithdial", raw)}
    assert list(pool)[:3] == [
        "The ford was called the wet stair.",
        "Una Kell never learned to swim.",
        "The bridge was designed by Una Kell.",
    ]
    assert len(passages("faithdial", raw)) == len(pool) == 7
    named = {name for split in SPLITS for t in turns("faithdial", split, raw) for name in t.gold}
    assert named == set(pool.values())
    (train,) = turns("faithdial", "train", raw)
    assert turns("faithdial", "test", raw)[1].gold == train.gold


def test_valid_is_read_but_not_prepared(raw: Path, private_cache: Path) -> None:
    """The prepared sample, which the shipped adapter was trained on, has two splits."""
    (turn,) = turns("faithdial", "valid", raw)
    assert turn.query == "Could Una Kell swim?"
    assert faithdial.splits(raw) == ("train", "test")
    counts = prepared("faithdial", raw).counts
    assert list(counts["splits"]) == ["train", "test"] and counts["passages"] == 7


@pytest.mark.parametrize("split", SPLITS)
def test_the_forms_give_the_same_turns(split: str) -> None:
    assert turns("faithdial", split, DIALOGUES) == turns("faithdial", split, ROWS)


def test_the_forms_give_the_same_passages() -> None:
    assert passages("faithdial", DIALOGUES) == passages("faithdial", ROWS)


# ------------------------------------------------------------------------------ one form alone


def test_the_original_response_is_never_a_reference() -> None:
    original = {r.row["original_response"] for r in faithdial.responses(DIALOGUES, "test")}
    assert {"Nobody did!", "It is two thousand years old."} <= original
    assert not original & {ref for t in turns("faithdial", "test") for ref in t.references}


def test_other_readers_get_the_labels_of_each_response() -> None:
    found = [list(faithdial.responses(raw, "test")) for raw in (DIALOGUES, ROWS)]
    for pair in zip(*found, strict=True):
        first, second = (r.row for r in pair)
        assert (pair[0].dialogue, pair[0].number) == (pair[1].dialogue, pair[1].number)
        assert {name: first[name] for name in ("VRM", "BEGIN", "response")} == {
            name: second[name] for name in ("VRM", "BEGIN", "response")
        }
    assert [r.row["VRM"] for r in found[0]][3:5] == [["Question"], ["Edification"]]


def test_rows_may_number_dialogues_from_anywhere(tmp_path: Path) -> None:
    raw = copied(ROWS, tmp_path)
    edit_lines(
        raw / "test.jsonl",
        lambda rows: [row.update(dialog_idx=9 - row["dialog_idx"]) for row in rows],
    )
    assert turns("faithdial", "test", raw) == turns("faithdial", "test")


def test_rows_may_be_an_array_and_dialogues_lines(tmp_path: Path) -> None:
    raw, lines = copied(ROWS, tmp_path), tmp_path / "lines"
    rows = [json.loads(line) for line in (raw / "test.jsonl").read_text("utf-8").splitlines()]
    (raw / "test.jsonl").unlink()
    (raw / "test.json").write_text(json.dumps(rows), "utf-8")
    lines.mkdir()
    dialogues = json.loads((DIALOGUES / "test.json").read_text("utf-8"))
    (lines / "test.jsonl").write_text("".join(json.dumps(d) + "\n" for d in dialogues), "utf-8")
    assert turns("faithdial", "test", raw) == turns("faithdial", "test", lines)
    assert turns("faithdial", "test", raw) == turns("faithdial", "test")


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    raw = copied(DIALOGUES, tmp_path)
    edit(raw / "test.json", lambda d: d[0]["utterances"][0].update(Mood=1))
    assert turns("faithdial", "test", raw) == turns("faithdial", "test")


# ----------------------------------------------------------------------------- what is refused


def copied(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "raw"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def edit_lines(path: Path, change: Callable[[Any], object]) -> None:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def refusal(raw: Path) -> str:
    with pytest.raises(UserError) as caught:
        turns("faithdial", "test", raw)
    message = str(caught.value)
    assert "\n" not in message and "; " in message
    return message


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (lambda u: u[1].pop("knowledge"), "utterance 2", "field knowledge is missing"),
        (lambda u: u[1].pop("response"), "utterance 2", "field response is missing"),
        (lambda u: u[1].pop("speaker"), "utterance 2", "field speaker is missing"),
        (lambda u: u[1].update(knowledge=None), "utterance 2", "knowledge is NoneType, not str"),
        (lambda u: u[1].update(response=["It"]), "utterance 2", "response is list, not str"),
        (lambda u: u[1].update(history="Hello!"), "utterance 2", "history is str, not list"),
        (lambda u: u[1].update(history=[None]), "utterance 2", "history holds NoneType, not str"),
        (lambda u: u[1].update(history=[]), "utterance 2", "field history is empty: no query"),
        (lambda u: u.append(u[0]), "utterance 3", "history is that of an earlier turn"),
        (lambda u: u.insert(0, "Hello!"), "utterance 1", "not an object but str"),
    ],
)
def test_a_broken_utterance(
    change: Callable[[Any], object], place: str, told: str, tmp_path: Path
) -> None:
    raw = copied(DIALOGUES, tmp_path)
    edit(raw / "test.json", lambda d: change(d[0]["utterances"]))
    message = refusal(raw)
    assert told in message and f"test.json, record 1, {place})" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d[1].pop("utterances"), "record 2) field utterances is missing"),
        (lambda d: d[1].update(utterances="Hello!"), "record 2) field utterances is str"),
        (lambda d: d.insert(0, []), "record 1) not an object but list"),
    ],
)
def test_a_broken_dialogue(change: Callable[[Any], object], told: str, tmp_path: Path) -> None:
    raw = copied(DIALOGUES, tmp_path)
    edit(raw / "test.json", change)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"test.json, {place})" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r[1].pop("dialog_idx"), "line 2) field dialog_idx is missing"),
        (lambda r: r[1].update(dialog_idx="0"), "line 2) field dialog_idx is str, not int"),
        (lambda r: r[1].pop("knowledge"), "line 2) field knowledge is missing"),
        (lambda r: r.append({**r[0], "history": ["Hm?"]}), "line 13) field dialog_idx is 0 again"),
        (lambda r: r.insert(1, r[0]), "line 2) field history is that of an earlier turn"),
        (lambda r: r[0].update(history=[]), "line 1) field history is empty"),
    ],
)
def test_a_broken_row(change: Callable[[Any], object], told: str, tmp_path: Path) -> None:
    raw = copied(ROWS, tmp_path)
    edit_lines(raw / "test.jsonl", change)
    place, _, what = told.rpartition(") ")
    message = refusal(raw)
    assert what in message and f"test.jsonl, {place})" in message


def test_an_object_is_no_array(tmp_path: Path) -> None:
    raw = copied(DIALOGUES, tmp_path)
    (raw / "test.json").write_text("{}", "utf-8")
    assert "not a JSON array" in refusal(raw)


# ---------------------------------------------------------------------------------- real files


@pytest.mark.data
def test_real_example_in_both_forms(real: Path, tmp_path: Path) -> None:
    source = real / "faithdial" / "readme_example.json"
    for split in SPLITS:
        shutil.copy(source, tmp_path / f"{split}.json")
    (turn,) = turns("faithdial", "test", tmp_path)
    assert [role for role, _ in said(turn)] == [USER, AGENT]
    assert turn.query.startswith("Yeah I've heard of it") and turn.turn_id == "1_1"
    assert turn.references[0].startswith("Sure. The concert started in September")
    assert [p.passage_id for p in passages("faithdial", tmp_path)] == list(turn.gold)
    (row,) = json.loads(source.read_text("utf-8"))[0]["utterances"]
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "test.jsonl").write_text(json.dumps({"dialog_idx": 0, **row}), "utf-8")
    assert turns("faithdial", "test", hub) == [turn]
