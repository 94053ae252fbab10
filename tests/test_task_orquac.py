"""OR-QuAC's reader: every form of the official files, trap by trap, and CANARD's real questions."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import (
    AGENT,
    USER,
    conversations,
    copied,
    dump,
    dump_lines,
    everything,
    official,
    passages,
    read_lines,
    refusal,
    replaced,
    said,
    splits,
    turns,
)

from uniconv_bench.conversation import Passage, Turn, Utterance

OPENING = "Who designed the bridge at Mossy Ford?"
LINES = "preprocessed/test.txt"


# ------------------------------------------------------------------------------ the small files


def test_counts_first_tenth_and_last() -> None:
    assert splits("orquac") == ("train", "dev", "test")
    found = turns("orquac", "test")
    assert [c.conversation_id for c in conversations("orquac", "test")] == ["C_a_1", "C_c_0"]
    assert len(found) == 11
    assert found[0] == Turn(
        turn_id="C_a_1_1",
        conversation_id="C_a_1",
        number=1,
        query=OPENING,
        references=("designed by Una Kell", "Una Kell", "Una Kell"),
        gold=("31@1",),
        rewrite=OPENING,
    )
    tenth = found[9]
    assert (tenth.turn_id, tenth.number, len(tenth.history)) == ("C_c_0_7", 7, 12)
    assert tenth.query == "Why?"
    assert tenth.rewrite == "Why was the Lantern Fair moved under the bridge?"
    assert tenth.history[-1] == Utterance(AGENT, "the fair was moved under the bridge")
    assert tenth.references == ("rain put out every lantern but one", "rain")
    last = found[-1]
    assert (last.turn_id, last.query) == ("C_c_0_8", "How many are lit today?")
    assert last.references == ("about nine hundred", "nine hundred are lit", "nine hundred")
    assert last.gold == ("47@1",)
    assert [t.turn_id for t in turns("orquac", "dev")] == ["C_d_1_1", "C_d_1_2"]
    assert [t.turn_id for t in turns("orquac", "train")] == ["C_b_0_1", "C_b_0_2"]


def test_blocks_first_and_last() -> None:
    found = passages("orquac")
    assert [p.passage_id for p in found] == ["31@0", "31@1", "47@0", "47@1"]
    assert found[0] == Passage("31@0", "The ford was called the wet stair.", "Mossy Ford")
    assert found[-1].title == "Lantern Fair" and found[-1].text.endswith("nine hundred are lit.")


def test_first_question_is_its_rewrite_wherever_it_stands() -> None:
    first, second, third, *_ = turns("orquac", "test")
    assert first.query == first.rewrite == OPENING
    assert said(second)[0] == said(third)[0] == (USER, OPENING)
    assert said(third)[2] == (USER, "Was she married?")
    assert third.query == "When did it open?"


def test_references_come_from_the_quac_file() -> None:
    first, second, third, *_ = turns("orquac", "test")
    # What two annotators say stands twice: the official score counts votes.
    assert first.references == ("designed by Una Kell", "Una Kell", "Una Kell")
    assert (set(second.references), second.kind) == ({"CANNOTANSWER"}, "unanswerable")
    assert third.references == ("opened in 1810", "in 1810")
    # What the line itself says decides the kind, one other annotator's answer does not.
    sixth = turns("orquac", "test")[5]
    assert (sixth.kind, set(sixth.references)) == ("unanswerable", {"CANNOTANSWER", "Odo Finch"})


def test_judgements() -> None:
    found = turns("orquac", "test")
    assert found[0].gold == found[1].gold == ("31@1",)
    assert found[2].gold == ()  # not in qrels.txt
    assert found[8].gold == ("47@1", "47@0")
    assert found[9].gold == ("47@1",)  # the other one has grade 0


def test_lost_answers_are_no_references_and_no_history() -> None:
    first, second = turns("orquac", "train")
    assert first.references == () and first.gold == ("31@0",)
    assert said(second) == [(USER, "What was Mossy Ford called?")]
    assert second.references == ("after the wet stair",)


# --------------------------------------------------------------------------------- other forms


def beside(raw: Path) -> None:
    """The lines next to qrels.txt, as some download scripts put them."""
    for path in (raw / "preprocessed").iterdir():
        shutil.move(path, raw / path.name)


def gzipped(raw: Path) -> None:
    for path in [p for p in raw.rglob("*") if p.is_file()]:
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def flattened(raw: Path) -> None:
    """One line an evidence instead of two lists."""
    for path in (raw / "preprocessed").iterdir():
        rows = []
        for row in read_lines(path):
            pairs = zip(row.pop("evidences"), row.pop("retrieval_labels"), strict=True)
            for number, (evidence, label) in enumerate(pairs):
                one = {"unique_id": f"{row['qid']}_{number}", "evidence": evidence}
                rows.append({**row, **one, "retrieval_label": label})
        assert len(rows) > len(read_lines(path))
        dump_lines(path, rows)


def without_evidence(raw: Path) -> None:
    """Nothing that only the official code reads is needed, and what it may gain is ignored."""
    for path in (raw / "preprocessed").iterdir():
        unread = ("evidences", "retrieval_labels", "followup", "yesno")
        rows = [{k: v for k, v in r.items() if k not in unread} for r in read_lines(path)]
        dump_lines(path, [{**row, "seen": [1]} for row in rows])


@pytest.mark.parametrize("form", [beside, gzipped, flattened, without_evidence])
def test_every_form_reads_alike(form: Callable[[Path], None], tmp_path: Path) -> None:
    raw = copied("orquac", tmp_path)
    form(raw)
    assert everything("orquac", raw) == everything("orquac")
    found = turns("orquac", "test", raw)
    assert (len(found), found[9].turn_id, found[-1].number) == (11, "C_c_0_7", 8)


def test_a_split_alone_can_be_read(tmp_path: Path) -> None:
    """Judgements of absent splits stay in qrels.txt: they are no fault."""
    raw = copied("orquac", tmp_path)
    for name in ("train", "dev"):
        (raw / "preprocessed" / f"{name}.txt").unlink()
    (raw / "quac_format" / "dev.txt").unlink()
    assert splits("orquac", raw) == ("test",)
    assert turns("orquac", "test", raw) == turns("orquac", "test")


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (LINES, '"rewrite": "Was', '"rew": "Was', ("line 2", "field rewrite is missing")),
        (LINES, '"question": "Was', '"question": 3, "q": "Was', ("line 2", "field question")),
        (LINES, "_q#1", "_1", ("line 2", "field qid")),
        (LINES, '"C_a_1_q#0"', '"_q#0"', ("line 1", "field qid")),
        (LINES, '"C_a_1_q#1"', '"C_a_1_q#0"', ("line 1", "'C_a_1_q#0' occurs twice")),
        (LINES, '"C_a_1_q#1"', '"C_a_1_q#7"', ("line 2", "q#7 stands where q#1 is due")),
        (LINES, '"history": []', '"history": [1]', ("line 1", "history holds 1 exchanges")),
        (LINES, '"answer": {"text"', '"answer": {"t"', ("line 1", "field text is missing")),
        (LINES, "C_a_1_q#0", "C_a\\t1_q#0", ("line 1", "no answers in quac_format")),
        (LINES, "{", "", ("line 1", "not valid JSON")),
        ("preprocessed/train.txt", "C_b_0_q#0", "C\\tb_q#0", ("train", "field turn_id")),
        ("quac_format/test.txt", '"answers"', '"answer"', ("C_a_1_q#0", "field answers")),
        ("quac_format/test.txt", '"C_c_0_q#3"', '"C_c_0_q#9"', ("line 7", "C_c_0_q#3")),
        ("all_blocks.txt", '"title": "Mossy Ford"', '"title": null', ("line 1", "field title")),
        ("all_blocks.txt", '"id": "31@1"', '"id": "31@0"', ("'31@0' occurs twice",)),
        ("all_blocks.txt", '"id": "31@1"', '"id": " "', ("line 2", "field id is empty")),
        ("all_blocks.txt", '"id": "31@1"', '"id": "31@2"', ("C_a_1_1", "field gold", "'31@1'")),
        ("qrels.txt", '{\n  "31@0": 1\n }', '["31@0"]', ("field C_b_0_q#0 is list",)),
        ("qrels.txt", '"31@0": 1', '"31@0": "1"', ("question C_b_0_q#0", "field 31@0 is str")),
    ],
)
def test_a_broken_record_is_named(
    name: str, old: str, new: str, told: tuple[str, ...], tmp_path: Path, private_cache: Path
) -> None:
    raw = copied("orquac", tmp_path)
    replaced(raw / name, old, new)
    message = refusal("orquac", raw)
    assert all(part in message for part in told), message


def test_a_dialogue_that_is_torn_apart_is_refused(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("orquac", tmp_path)
    rows = read_lines(raw / LINES)
    dump_lines(raw / LINES, [*rows, rows[0]])
    assert "conversation 'C_a_1' occurs twice" in refusal("orquac", raw)


def test_a_flattened_line_given_twice_is_refused(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("orquac", tmp_path)
    flattened(raw)
    rows = read_lines(raw / LINES)
    dump_lines(raw / LINES, [rows[0], *rows])
    assert "question 'C_a_1_q#0' occurs twice" in refusal("orquac", raw)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("all_blocks.txt", "no file all_blocks.txt"),
        ("qrels.txt", "no file qrels.txt"),
        ("quac_format/test.txt", "no file quac_format/test.txt"),
        (LINES, "no files of the split 'test'"),
    ],
)
def test_an_absent_file_is_named(name: str, told: str, tmp_path: Path, private_cache: Path) -> None:
    raw = copied("orquac", tmp_path)
    (raw / name).unlink()
    assert told in refusal("orquac", raw)


def test_judgements_of_another_shape_are_refused(tmp_path: Path, private_cache: Path) -> None:
    raw = copied("orquac", tmp_path)
    dump(raw / "qrels.txt", ["C_a_1_q#0"])
    assert "not a JSON object of judgements" in refusal("orquac", raw)


# ----------------------------------------------------------------------------------- real files


def as_lines(rows: list[Any]) -> list[Any]:
    """CANARD's questions as OR-QuAC has them; CANARD lacks the answer of a dialogue's last."""
    answers = {}
    for row in rows:
        for number, answer in enumerate(row["History"][3::2]):
            answers[row["QuAC_dialog_id"], number] = answer
    asked = {(r["QuAC_dialog_id"], r["Question_no"] - 1): r["Question"] for r in rows}

    def line(row: Any) -> Any:
        dialogue, number = row["QuAC_dialog_id"], row["Question_no"] - 1
        return {
            "qid": f"{dialogue}_q#{number}",
            "question": row["Question"],
            "rewrite": row["Rewrite"],
            "history": [
                {"question": asked[dialogue, n], "answer": {"text": answers[dialogue, n]}}
                for n in range(number)
            ],
            "answer": {"text": answers.get((dialogue, number), "NOTRECOVERED")},
        }

    return [line(row) for row in rows]


@pytest.mark.data
def test_real_canard_dev_makes_the_same_sessions(tmp_path: Path) -> None:
    """An independent release of OR-QuAC's dev questions: its histories are what ours must be."""
    rows = json.loads((official("orquac") / "canard_dev.json").read_text("utf-8"))
    # The reader wants no references for train, and CANARD has none.
    dump_lines(tmp_path / "preprocessed" / "train.txt", as_lines(rows))
    dump(tmp_path / "qrels.txt", {})
    found = turns("orquac", "train", tmp_path)
    assert (len(found), len(conversations("orquac", "train", tmp_path))) == (3430, 490)
    assert found[0].turn_id == "C_2d211835213b45588ad5ca868ce7fabd_0_1"
    assert found[0].query == "What group disbanded?"
    assert sum(t.query == t.rewrite for t in found if t.number == 1) == 490
    assert sum(not t.references for t in found) == 490
    for turn, row in zip(found, rows, strict=True):
        # Past page, section and the first question, which is asked as its rewrite.
        assert [text for _, text in said(turn)][1:] == row["History"][3:]
        assert turn.rewrite == row["Rewrite"]
    by_id = {t.turn_id: t for t in found}
    for turn in found:
        if turn.number > 1:
            before = by_id[f"{turn.conversation_id}_{turn.number - 1}"]
            asked = (Utterance(USER, before.query), Utterance(AGENT, before.references[0]))
            assert turn.history == (*before.history, *asked)


@pytest.mark.data
def test_real_quac_references(tmp_path: Path) -> None:
    content = json.loads((official("orquac") / "quac_format_excerpt.json").read_text("utf-8"))
    (article,) = content["data"]
    (paragraph,) = article["paragraphs"]
    rows = as_lines(
        [
            {
                "QuAC_dialog_id": paragraph["id"],
                "Question_no": number,
                "Question": question["question"],
                "Rewrite": question["question"],
                "History": [
                    article["title"],
                    article["section_title"],
                    *(t for q in paragraph["qas"][: number - 1] for t in texts_of(q)),
                ],
            }
            for number, question in enumerate(paragraph["qas"], 1)
        ]
    )
    dump_lines(tmp_path / "preprocessed" / "test.txt", rows)
    dump(tmp_path / "quac_format" / "test.txt", content)
    dump(tmp_path / "qrels.txt", {})
    found = turns("orquac", "test", tmp_path)
    assert (len(found), len(conversations("orquac", "test", tmp_path))) == (7, 1)
    assert found[0].turn_id == "C_69758fcdfc1f46baba0e92c0f3b0919c_1_1"
    assert found[0].references[0].startswith("30,803,747 speakers of Malayalam")
    assert [t.references for t in found] == [texts_of(q)[1:] for q in paragraph["qas"]]
    assert said(found[-1])[-1] == (AGENT, found[-2].references[0])


def texts_of(question: Any) -> tuple[str, ...]:
    return question["question"], question["orig_answer"]["text"]
