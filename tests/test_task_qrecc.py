"""QReCC: each schema on a miniature and on the real files; what its reader refuses."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import prepared
from test_tasks import AGENT, RAW, USER, passages, read, said, turns

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.registry import task_card, task_module

SCAI, APPLE, SAMPLED = (RAW / name for name in ("qrecc-scai", "qrecc-apple", "qrecc-dev"))
SCHEMAS = {"scai": SCAI, "apple": APPLE}
SCAI_TEST, APPLE_TEST = "scai-qrecc21-test-turns.json", "qrecc_test.json"
DEV = "dev-sampled2k-modified.json"
WEB = "http://web.archive.org/web/20190901000000id_/https://fords.example/"


@pytest.fixture(params=SCHEMAS)
def raw(request: pytest.FixtureRequest) -> Path:
    return SCHEMAS[request.param]


def splits(raw: Path) -> tuple[str, ...]:
    found: tuple[str, ...] = task_module(*task_card("qrecc")).splits(raw)
    return found


# ------------------------------------------------------------------- the same in each schema


def test_counts_and_order(raw: Path) -> None:
    """Conversations as the file has them, which is not by number."""
    assert splits(raw) == ("train", "test")
    assert [c.conversation_id for c in read("qrecc", "test", raw)] == ["5", "2", "8"]
    assert [len(c.turns) for c in read("qrecc", "test", raw)] == [4, 5, 3]
    assert [t.turn_id for t in turns("qrecc", "train", raw)] == ["1_1", "1_2"]


def test_first_record_asks_its_rewrite(raw: Path) -> None:
    assert turns("qrecc", "test", raw)[0] == Turn(
        turn_id="5_1",
        conversation_id="5",
        number=1,
        query="Who designed the bridge at Mossy Ford?",
        references=("The bridge was designed by Una Kell.",),
        gold=(f"{WEB}mossy_p1",),
        rewrite="Who designed the bridge at Mossy Ford?",
    )


def test_tenth_record(raw: Path) -> None:
    tenth = turns("qrecc", "test", raw)[9]
    assert (tenth.turn_id, tenth.query) == ("8_1", "Tell me about Port Ember.")
    assert (tenth.history, tenth.gold) == ((), (f"{WEB}port_p0",))


def test_last_record(raw: Path) -> None:
    last = turns("qrecc", "test", raw)[-1]
    assert (last.turn_id, last.query) == ("8_3", "And who lights the lamp?")
    assert last.rewrite == "Who lights the lamp of the lighthouse of Port Ember?"
    assert said(last) == [
        (USER, "Tell me about Port Ember."),
        (AGENT, "Port Ember is a harbour town."),
        (USER, "Who designed its lighthouse?"),
        (AGENT, "Una Kell, who also designed a bridge."),
    ]


def test_history_is_what_was_asked_and_an_empty_answer_says_nothing(raw: Path) -> None:
    fourth = turns("qrecc", "test", raw)[3]
    assert said(fourth) == [
        (USER, "Who designed the bridge at Mossy Ford?"),
        (AGENT, "The bridge was designed by Una Kell."),
        (USER, "Where was she born?"),
        (USER, "Could she swim?"),
        (AGENT, "No, she never learned to."),
    ]


def test_turns_that_are_not_judged_are_kept(raw: Path) -> None:
    found = turns("qrecc", "test", raw)
    assert [t.turn_id for t in found if not t.references] == ["5_2", "2_3", "8_3"]
    assert [t.turn_id for t in found if not t.gold] == ["5_2", "2_3", "2_4", "2_5"]


def test_a_passage_named_twice_is_judged_once(raw: Path) -> None:
    kell = "https://fords.example/kell_p"
    assert turns("qrecc", "test", raw)[3].gold == (f"{kell}2", f"{kell}3")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_schemas_give_the_same_turns(split: str) -> None:
    assert turns("qrecc", split, SCAI) == turns("qrecc", split, APPLE)


def test_unjudged_turns_are_counted(raw: Path, private_cache: Path) -> None:
    counts = prepared("qrecc", raw).counts
    assert counts["splits"]["test"] == {
        "conversations": 3,
        "turns": 12,
        "judged_retrieval": 8,
        "judged_generation": 9,
    }


# --------------------------------------------------------------------------- the sampled dev


def test_dev_counts_and_order() -> None:
    assert splits(SAMPLED) == ("dev",)
    found = {c.conversation_id: [t.number for t in c] for c in read("qrecc", "dev", SAMPLED)}
    assert list(found) == ["17", "31", "40", "23"]
    assert found == {"17": [2, 3, 4, 5], "31": [1, 2, 4, 6], "40": [1], "23": [2, 3]}


def test_dev_first_tenth_and_last() -> None:
    found = turns("qrecc", "dev", SAMPLED)
    assert (len(found), found[0].turn_id, found[9].turn_id) == (11, "17_2", "23_2")
    assert found[0].query == "is it made of stone"
    assert said(found[0]) == [
        (USER, "how long is the bridge at mossy ford"),
        (AGENT, "Forty paces."),
    ]
    assert (found[9].query, found[9].gold) == ("Where?", ("https://fords.example/kell_p2",))
    assert found[-1].turn_id == "23_3" and found[-1].references == ("Very much.",)


def test_dev_history_has_turns_that_the_sample_lacks() -> None:
    (sixth,) = (t for t in turns("qrecc", "dev", SAMPLED) if t.turn_id == "31_6")
    asked = [text for role, text in said(sixth) if role == USER]
    assert asked[0] == "What is the mill at Mossy Ford known for?"
    assert asked[1:] == ["Who bakes it?", "Since when?", "Is it sold in town?", "Why?"]


def test_a_rewrite_whose_turn_is_lacking_stays(tmp_path: Path) -> None:
    """Of a sample that keeps Context, nothing else is known of that turn."""
    row = {
        "Conversation_no": 2,
        "Turn_no": 3,
        "Question": "And the ford?",
        "Context": ["Is Mossy Ford deep?", "No.", "Is Mossy Ford cold?", "Yes."],
        "Truth_rewrite": "What about Mossy Ford?",
        "Truth_answer": "It is the wet stair.",
        "Truth_passages": [],
    }
    (tmp_path / DEV).write_text(json.dumps([row]), "utf-8")
    (turn,) = turns("qrecc", "dev", tmp_path)
    assert [text for _, text in said(turn)] == row["Context"]


# ---------------------------------------------------------------------------------- passages


def test_passages_of_the_folders_in_order() -> None:
    found = passages("qrecc", SCAI)
    assert [p.passage_id[-7:] for p in found] == [
        "kell_p2",
        "kell_p3",
        "ossy_p0",
        "ossy_p1",
        "port_p0",
    ]
    kell = "https://fords.example/kell_p2"
    assert found[0] == Passage(kell, "Una Kell designed a bridge and a lighthouse.")


def test_the_excerpt_is_read_only_without_the_folders(tmp_path: Path) -> None:
    raw = copied(SAMPLED, tmp_path)
    assert len(passages("qrecc", raw)) == 5
    (raw / "wayback").mkdir()
    (raw / "wayback" / "part.jsonl").write_text('{"id": "a", "contents": "One."}\n', "utf-8")
    assert passages("qrecc", raw) == [Passage("a", "One.")]


# --------------------------------------------------------------------------- small allowances


def test_files_may_be_gzipped(tmp_path: Path) -> None:
    raw = copied(APPLE, tmp_path)
    for path in list(raw.glob("q*_test.*")):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert turns("qrecc", "test", raw) == turns("qrecc", "test", APPLE)


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    raw = copied(SCAI, tmp_path)
    edit(raw / SCAI_TEST, lambda r: r[0].update(Transformer_rewrite="Who?", Mood=3))
    assert turns("qrecc", "test", raw) == turns("qrecc", "test", SCAI)


def test_an_exchange_edited_in_one_half_is_the_same_exchange(tmp_path: Path) -> None:
    raw = copied(SCAI, tmp_path)
    edit(raw / SCAI_TEST, lambda r: r[3].update(Truth_answer="Two lighthouses."))
    edit(raw / SCAI_TEST, lambda r: r[3]["Context"].__setitem__(1, "Una Kell did."))
    edit(raw / SCAI_TEST, lambda r: r[3]["Context"].__setitem__(2, "Where did Kell come from?"))
    assert said(turns("qrecc", "test", raw)[3])[:3] == [
        (USER, "Who designed the bridge at Mossy Ford?"),
        (AGENT, "Una Kell did."),
        (USER, "Where was she born?"),
    ]


# ----------------------------------------------------------------------------- what is refused


def copied(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "raw"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def refusal(raw: Path, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        turns("qrecc", split, raw)
        passages("qrecc", raw)
    message = str(caught.value)
    assert "\n" not in message and "; " in message
    return message


def swapped(texts: list[str]) -> None:
    texts[:4] = texts[2:4] + texts[:2]


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (lambda r: r.insert(0, "no object"), "record 1", "not an object but str"),
        (lambda r: r[1].pop("Conversation_no"), "record 2", "field Conversation_no is missing"),
        (lambda r: r[1].update(Turn_no="2"), "record 2", "field Turn_no is str, not int"),
        (lambda r: r[1].update(Turn_no=1), "record 2", "Turn_no is 1, which conversation 5 has"),
        (lambda r: r.append(r[0]), "record 13", "Turn_no is 1, which conversation 5 has"),
        (lambda r: r.pop(1), "record 2", "Turn_no is 3, but the conversation has no turn 2"),
        (lambda r: r.pop(0), "record 1", "Turn_no is 2, but the conversation has no turn 1"),
        (lambda r: r[1].update(Turn_no=0), "record 2", "Turn_no is 0, but the conversation has"),
        (lambda r: r[1].pop("Question"), "record 2", "field Question is missing"),
        (lambda r: r[0].pop("Question"), "record 1", "field Question is missing"),
        (lambda r: r[1].pop("Truth_rewrite"), "record 2", "field Truth_rewrite is missing"),
        (lambda r: r[1].update(Truth_answer=None), "record 2", "field Truth_answer is NoneType"),
        (lambda r: r[1].update(Context="who?"), "record 2", "field Context is str, not list"),
        (lambda r: r[1].update(Context=[1, 2]), "record 2", "field Context holds int, not str"),
        (lambda r: r[2]["Context"].pop(), "record 3", "field Context holds 3 texts, not"),
        (lambda r: r[0]["Context"].extend("ab"), "record 1", "of 0 earlier turns"),
        (lambda r: swapped(r[3]["Context"]), "record 4", "Context does not have turn 1 as"),
        (lambda r: r[1].update(Truth_passages="a"), "record 2", "Truth_passages is str, not list"),
        (lambda r: r[1].update(Truth_passages=["a\tb"]), "record 2", "Truth_passages is 'a\\tb'"),
        (lambda r: r[1].update(Truth_passages=[" "]), "record 2", "Truth_passages is an empty id"),
    ],
)
def test_a_broken_turn(
    change: Callable[[Any], object], place: str, told: str, tmp_path: Path
) -> None:
    raw = copied(SCAI, tmp_path)
    edit(raw / SCAI_TEST, change)
    message = refusal(raw)
    assert told in message and f"{SCAI_TEST}, {place})" in message


@pytest.mark.parametrize("name", ["Rewrite", "Answer"])
def test_a_broken_turn_in_the_schema_of_apple(name: str, tmp_path: Path) -> None:
    raw = copied(APPLE, tmp_path)
    edit(raw / APPLE_TEST, lambda r: r[1].pop(name))
    assert f"field {name} is missing" in (message := refusal(raw))
    assert f"{APPLE_TEST}, record 2)" in message


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (lambda q: q.pop("5_2"), f"{APPLE_TEST}, record 2", "turn 5_2 has no judgement"),
        (lambda q: q.update({"7_1": {"": 1}}), "qrels_test.txt", "turn 7_1 is judged, but qrecc_"),
        (lambda q: q.update({"5_2": [""]}), "qrels_test.txt", "field 5_2 is list, not dict"),
        (lambda q: q.update({"5_2": {"a": 0}}), "qrels_test.txt, key 5_2", "grade that is not 1"),
        (lambda q: q.update({"5_2": {"a\tb": 1}}), "qrels_test.txt, key 5_2", "is 'a\\tb': an id"),
    ],
)
def test_broken_judgements(
    change: Callable[[Any], object], place: str, told: str, tmp_path: Path
) -> None:
    raw = copied(APPLE, tmp_path)
    edit(raw / "qrels_test.txt", change)
    message = refusal(raw)
    assert told in message and f"{place})" in message


def test_a_turn_judged_twice(tmp_path: Path) -> None:
    raw = copied(APPLE, tmp_path)
    path = raw / "qrels_test.txt"
    path.write_text(path.read_text("utf-8").replace('"5_2"', '"5_1"'), "utf-8")
    assert "field 5_1 occurs twice in one object" in refusal(raw)


def test_judgements_that_are_no_object(tmp_path: Path) -> None:
    raw = copied(APPLE, tmp_path)
    (raw / "qrels_test.txt").write_text("[]", "utf-8")
    assert "not a JSON object of turns" in refusal(raw)


def test_the_schema_of_apple_needs_judgements(tmp_path: Path) -> None:
    raw = copied(APPLE, tmp_path)
    (raw / "qrels_test.txt").unlink()
    message = refusal(raw)
    assert "no file qrels_test.txt" in message and SCAI_TEST in message


def test_an_object_is_no_array_of_turns(tmp_path: Path) -> None:
    raw = copied(SCAI, tmp_path)
    (raw / SCAI_TEST).write_text("{}", "utf-8")
    assert "not a JSON array of turns" in refusal(raw)


@pytest.mark.parametrize(
    ("change", "place", "told"),
    [
        (lambda r: r.append(r[0]), "record 12", "Turn_no is 3, which conversation 17 has already"),
        (lambda r: r[1]["NewContext"].pop(0), "record 2", "Context holds 5 texts"),
        (lambda r: swapped(r[0]["NewContext"]), "record 1", "Context does not have turn 2 as"),
        (lambda r: r[1].pop("NewContext"), "record 2", "field Context is missing"),
    ],
)
def test_a_broken_turn_of_dev(
    change: Callable[[Any], object], place: str, told: str, tmp_path: Path
) -> None:
    raw = copied(SAMPLED, tmp_path)
    edit(raw / DEV, change)
    message = refusal(raw, "dev")
    assert told in message and f"{DEV}, {place})" in message


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "a", "text": "One."}', "field contents is missing"),
        ('{"id": 7, "contents": "One."}', "field id is int, not str"),
        ('["a", "One."]', "not an object but list"),
        ('{"id": "a", "contents": "One.', "not valid JSON"),
    ],
)
def test_a_broken_passage(line: str, told: str, tmp_path: Path) -> None:
    raw = copied(SCAI, tmp_path)
    with (raw / "wayback" / "part.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    message = refusal(raw)
    assert told in message and "part.jsonl, line 4)" in message


# ---------------------------------------------------------------------------------- real files


@pytest.mark.data
def test_real_dev_sample(real: Path) -> None:
    raw = real / "qrecc"
    assert splits(raw) == ("dev",)
    found = turns("qrecc", "dev", raw)
    assert (len(found), len(read("qrecc", "dev", raw))) == (2000, 1257)
    assert sum(bool(t.gold) for t in found) == 927
    assert sum(not t.references for t in found) == 203
    qrels = json.loads((raw / "qrels_dev.txt").read_text("utf-8"))
    assert all(set(t.gold) == set(qrels[t.turn_id]) - {""} for t in found)


@pytest.mark.data
def test_real_dev_histories_are_those_of_the_file(real: Path) -> None:
    rows = json.loads((real / "qrecc" / DEV).read_text("utf-8"))
    expected = {f"{row['Conversation_no']}_{row['Turn_no']}": row for row in rows}
    for turn in turns("qrecc", "dev", real / "qrecc"):
        row = expected.pop(turn.turn_id)
        assert [text for _, text in said(turn)] == [text for text in row["NewContext"] if text]
        assert (turn.query, turn.rewrite) == (row["Question"], row["Truth_rewrite"])
    assert not expected


@pytest.mark.data
def test_real_judgements_of_all_test_turns(real: Path, tmp_path: Path) -> None:
    """Under the real judgements, invented turns in Apple's schema, one for each key."""
    shutil.copy(real / "qrecc" / "qrels_test.txt", tmp_path)
    rows = []
    for name in json.loads((tmp_path / "qrels_test.txt").read_text("utf-8")):
        conversation, number = map(int, name.split("_"))
        said_before = [text for n in range(1, number) for text in (f"q{n}", f"a{n}")]
        row = {"Conversation_no": conversation, "Turn_no": number, "Context": said_before}
        rows.append(row | {"Question": "?", "Rewrite": f"q{number}", "Answer": f"a{number}"})
    (tmp_path / APPLE_TEST).write_text(json.dumps(rows), "utf-8")
    found = turns("qrecc", "test", tmp_path)
    assert (len(found), len({t.conversation_id for t in found})) == (16451, 2775)
    judged = [len(t.gold) for t in found if t.gold]
    assert (len(judged), max(judged)) == (8209, 81)
    assert round(sum(judged) / len(judged), 2) == 1.28


@pytest.mark.data
def test_real_context_is_restored(real: Path, tmp_path: Path) -> None:
    """The official excerpt with its judgements: the first eight turns of conversation 1."""
    rows = json.loads((real / "qrecc" / "qrecc_test_excerpt.json").read_text("utf-8"))
    (tmp_path / APPLE_TEST).write_text(json.dumps(rows), "utf-8")
    qrels = json.loads((real / "qrecc" / "qrels_test.txt").read_text("utf-8"))
    mine = {f"1_{number}": qrels[f"1_{number}"] for number in range(1, 9)}
    (tmp_path / "qrels_test.txt").write_text(json.dumps(mine), "utf-8")
    found = turns("qrecc", "test", tmp_path)
    assert [t.turn_id for t in found] == list(mine)
    asked = [text for role, text in said(found[-1]) if role == USER]
    assert asked == [found[0].query, *(row["Question"] for row in rows[1:-1])]
    assert rows[-1]["Context"][2] == rows[1]["Rewrite"] != rows[1]["Question"] == asked[1]
    assert [t.turn_id for t in found if t.gold] == [k for k, v in mine.items() if "" not in v]


@pytest.mark.data
def test_real_passages(real: Path) -> None:
    found = passages("qrecc", real / "qrecc")
    assert len({p.passage_id for p in found}) == len(found) == 326
    qrels = json.loads((real / "qrecc" / "qrels_test.txt").read_text("utf-8"))
    assert {p.passage_id for p in found} & {name for names in qrels.values() for name in names}
