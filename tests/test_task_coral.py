"""CORAL: its card, and its reader on every form that public code reads. No real file is at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import (
    AGENT,
    RAW,
    USER,
    conversations,
    copied,
    dump,
    dump_lines,
    everything,
    passages,
    prepared,
    read_lines,
    refusal,
    replaced,
    said,
    splits,
    turns,
)

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.registry import task_card

TEST = "test/test_conversation.json"
QRELS = "test/test_qrel.tsv"
CORPUS = "passage_corpus.json"


def test_the_card_says_what_is_not_verified() -> None:
    card, _ = task_card("coral")
    assert card.test_split == "test"
    assert sum("UNVERIFIED" in trap for trap in card.traps) == 2
    (figure,) = card.reported
    assert (figure.system, figure.metric, figure.kind) == ("uniconv", "f1", "aggregator")
    assert figure.fraction == pytest.approx(0.243)


# ------------------------------------------------------------------------------ the small files


def test_counts_first_tenth_and_last() -> None:
    assert splits("coral") == ("train", "test")
    names = [c.conversation_id for c in conversations("coral", "test")]
    assert names == ["Test_LDS_3", "Test_SIDS_4", "Test_DTRW_1"]
    found = turns("coral", "test")
    assert len(found) == 11
    assert found[0] == Turn(
        turn_id="Test_LDS_3_1",
        conversation_id="Test_LDS_3",
        number=1,
        query="What is Mossy Ford?",
        references=("A ford with a bridge. It was called the wet stair.",),
        gold=("7", "8"),
        rewrite="What is Mossy Ford?",
    )
    tenth = found[9]
    assert (tenth.turn_id, tenth.query) == ("Test_DTRW_1_3", "When was the great rain?")
    assert tenth.rewrite == "When was the great rain at the Lantern Fair?"
    assert (tenth.references, tenth.gold) == (("In 1961.",), ("23",))
    assert said(tenth) == [
        (USER, "What lives at the weir?"),
        (AGENT, "Eels climb it in May."),
        (USER, "Do they mind the lanterns?"),
        (AGENT, "Nobody has asked them."),
    ]
    last = found[-1]
    assert (last.turn_id, last.gold, len(last.history)) == ("Test_DTRW_1_4", ("21", "30"), 6)
    assert last.references == ("In 1922, on the weir.",)
    assert [t.turn_id for t in turns("coral", "train")] == ["Train_STRW_9_1", "Train_STRW_9_2"]


def test_passages_first_and_last() -> None:
    found = passages("coral")
    assert [p.passage_id for p in found] == ["7", "8", "21", "22", "23", "30"]
    assert found[0].text.startswith("The ford was called") and found[0].title == ""
    assert found[-1] == Passage("30", "Eels climb the weir in May.")


def test_no_citation_is_left(tmp_path: Path) -> None:
    raw = copied("coral", tmp_path)
    replaced(raw / TEST, "with a bridge [7].", "with a bridge \\n[7].")
    for split in ("train", "test"):
        for turn in turns("coral", split, raw):
            for text in (*turn.references, *(u.text for u in turn.history)):
                assert "[" not in text and "  " not in text and " ." not in text


def test_an_empty_response_is_no_reference_and_no_history(tmp_path: Path) -> None:
    third = turns("coral", "test")[2]
    assert third.references == () and third.gold == ()
    raw = copied("coral", tmp_path)
    replaced(raw / TEST, "Una Kell drew the bridge on a hymn sheet [8].", " [8] ")
    assert said(turns("coral", "test", raw)[2])[2:] == [(USER, "Who drew it?")]


def test_the_judgements_decide(tmp_path: Path) -> None:
    raw = copied("coral", tmp_path)
    rest = (raw / QRELS).read_text().splitlines()[3:]
    lines = ["Test_LDS_3_1 0 30 1", "Test_LDS_3_1 0 7 0", "Test_LDS_3_2 0 7 0", *rest, ""]
    (raw / QRELS).write_text("\n".join(lines))
    first, second, *_ = turns("coral", "test", raw)
    assert (first.gold, second.gold) == (("30",), ())


# --------------------------------------------------------------------------------- other forms


def as_lines(raw: Path) -> None:
    """Conversations as JSON lines, the corpus as a JSON array."""
    for split in ("train", "test"):
        path = raw / split / f"{split}_conversation.json"
        dump_lines(path, json.loads(path.read_text("utf-8")))
    dump(raw / CORPUS, read_lines(raw / CORPUS))


def as_second_release(raw: Path) -> None:
    """Other names; the first release may lie beside it, and is not read."""
    for split in ("train", "test"):
        folder = raw / split
        conversations_file = folder / f"{split}_conversation.json"
        judgements_file = folder / f"{split}_qrel.tsv"
        conversations_file.rename(folder / f"new_{split}_conversation.json")
        judgements_file.rename(folder / f"new_{split}_qrel.trec")
        conversations_file.write_text("[]")
        judgements_file.write_text("Nobody_1 0 7 1\n")


def beside_later_judgements(raw: Path) -> None:
    """Judgements of a release whose conversations are not there are not read."""
    (raw / "test" / "new_test_qrel.trec").write_text("Nobody_1 0 7 1\n")


def without_judgements(raw: Path) -> None:
    for split in ("train", "test"):
        (raw / split / f"{split}_qrel.tsv").unlink()


def with_numbers_as_text(raw: Path) -> None:
    """And without the passages' text, which the corpus has."""
    without_judgements(raw)
    for split in ("train", "test"):
        path = raw / split / f"{split}_conversation.json"
        rows = json.loads(path.read_text("utf-8"))
        for turn in (t for row in rows for t in row["turns"]):
            del turn["golden_docs_text"]
            turn["golden_docs_pids"] = [str(pid) for pid in turn["golden_docs_pids"]]
        dump(path, rows)


def under_other_names(*names: str) -> Callable[[Path], None]:
    def form(raw: Path) -> None:
        pid, text = names
        rows = read_lines(raw / CORPUS)
        dump_lines(raw / CORPUS, [{pid: r["ref_id"], text: r["ref_string"]} for r in rows])

    return form


@pytest.mark.parametrize(
    "form",
    [
        as_lines,
        as_second_release,
        beside_later_judgements,
        without_judgements,
        with_numbers_as_text,
        under_other_names("pid", "text"),
        under_other_names("id", "contents"),
    ],
)
def test_every_form_reads_alike(form: Callable[[Path], None], tmp_path: Path) -> None:
    raw = copied("coral", tmp_path)
    form(raw)
    assert everything("coral", raw) == everything("coral")
    found = turns("coral", "test", raw)
    assert (len(found), found[9].gold, found[-1].turn_id) == (11, ("23",), "Test_DTRW_1_4")


def test_titles_are_kept_and_rewrites_may_be_absent(tmp_path: Path) -> None:
    raw = copied("coral", tmp_path)
    rows = [{**row, "title": f"Reference {row['ref_id']}"} for row in read_lines(raw / CORPUS)]
    dump_lines(raw / CORPUS, rows)
    assert passages("coral", raw)[2].title == "Reference 21"
    rows = json.loads((raw / TEST).read_text("utf-8"))
    for turn in (t for row in rows for t in row["turns"]):
        del turn["golden_rewrite"]
    dump(raw / TEST, rows)
    assert {t.rewrite for t in turns("coral", "test", raw)} == {None}


def test_it_is_prepared(private_cache: Path) -> None:
    task = prepared("coral", RAW / "coral")
    assert task.counts["splits"]["test"] == {
        "conversations": 3,
        "turns": 11,
        "judged_retrieval": 9,
        "judged_generation": 10,
    }
    assert task.qrels()["Test_SIDS_4_4"] == {"22": 1, "23": 1}


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (TEST, '"conv_id"', '"id"', ("record 1", "field conv_id is missing")),
        (TEST, '"Test_LDS_3"', '" "', ("record 1", "field conv_id is empty")),
        (TEST, '"Test_LDS_3"', '"Test\\tLDS_3"', ("field turn_id",)),
        (TEST, '"Test_SIDS_4"', '"Test_LDS_3"', ("'Test_LDS_3' occurs twice",)),
        (TEST, '"turns"', '"turn"', ("record 1", "field turns is missing")),
        (TEST, '"turn_id": 2', '"turn_id": 3', ("Test_LDS_3, turn 2", "is 3, not 2")),
        (TEST, '"turn_id": 2', '"turn_id": 1', ("Test_LDS_3, turn 2", "is 1, not 2")),
        (TEST, '"turn_id": 2', '"turn_id": "2"', ("Test_LDS_3, turn 2", "field turn_id is str")),
        (TEST, '"response"', '"answer"', ("Test_LDS_3, turn 1", "field response is missing")),
        (TEST, '"question": "Why', '"question": " ", "q": "Why', ("field query is empty",)),
        (TEST, '"golden_docs_pids"', '"pids"', ("turn 1", "golden_docs_pids is missing")),
        (TEST, "     7,", "     true,", ("turn 1", "golden_docs_pids holds bool")),
        (TEST, '"golden_rewrite": "', '"golden_rewrite": 1, "x": "', ("golden_rewrite is int",)),
        (QRELS, "Test_LDS_3_1\t0\t8\t1", "Test_LDS_3_1\t8", (QRELS, "line 2", "a grade")),
        (QRELS, "Test_LDS_3_1\t0\t8\t1", "Test_LDS_3_1\t0\t8\tx", (QRELS, "line 2", "a grade")),
        (QRELS, "Test_LDS_3_2", "Test_a_3_2", (QRELS, "'Test_a_3_2' is in no conversation")),
        (QRELS, "Test_LDS_3_2\t0\t8", "Test_LDS_3_2\t0\t99", ("Test_LDS_3_2", "'99'")),
        (CORPUS, '"ref_id"', '"number"', (CORPUS, "line 1", "field ref_id is missing")),
        (CORPUS, '"ref_string"', '"passage"', (CORPUS, "line 1", "field ref_string is missing")),
        (CORPUS, '"ref_id": 8', '"ref_id": null', (CORPUS, "line 2", "ref_id holds NoneType")),
        (CORPUS, '"ref_id": 8', '"ref_id": 7', ("field id '7' occurs twice",)),
        (CORPUS, '"ref_id": 8', '"ref_id": ""', ("passage 2", "field id is empty")),
        (CORPUS, '{"ref_id": 8', '["ref_id", 8', (CORPUS, "line 2", "not valid JSON")),
    ],
)
def test_a_broken_record_is_named(
    name: str, old: str, new: str, told: tuple[str, ...], tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("coral", tmp_path)
    replaced(raw / name, old, new)
    message = refusal("coral", raw)
    assert all(part in message for part in told), message


@pytest.mark.parametrize("name", [TEST, CORPUS])
@pytest.mark.parametrize("value", [["text"], "text", {"7": "A ford."}, 7])
def test_a_file_of_another_shape_is_refused(
    name: str, value: Any, tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("coral", tmp_path)
    dump(raw / name, value)
    message = refusal("coral", raw)
    assert Path(name).name in message


@pytest.mark.parametrize(
    ("name", "told"), [(TEST, "no files of the split 'test'"), (CORPUS, f"no file {CORPUS}")]
)
def test_an_absent_file_is_named(name: str, told: str, tmp_path: Path, private_cache: Path) -> None:
    raw = copied("coral", tmp_path)
    (raw / name).unlink()
    assert told in refusal("coral", raw)
