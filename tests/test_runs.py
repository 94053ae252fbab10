"""Run, answer, qrels and reference files: round trips, the one order, refusals by line."""

from __future__ import annotations

import gzip
import math
import random
import re
import struct
from pathlib import Path

import pytest

from uniconv_bench.errors import UserError
from uniconv_bench.origin import check_answers, check_evidence, check_run
from uniconv_bench.runs import (
    check_ranks,
    float32,
    ordered,
    read_answers,
    read_qrels,
    read_references,
    read_run,
    write_answers,
    write_run,
)
from uniconv_bench.system import Answer


def text(tmp_path: Path, content: str, name: str = "file.txt") -> Path:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def test_equal_scores_are_ordered_by_passage_id_ascending() -> None:
    shuffled = [("b", 1.0), ("a10", 1.0), ("c", 2.0), ("a2", 1.0), ("B", 1.0)]
    assert [p for p, _ in ordered(shuffled)] == ["c", "B", "a10", "a2", "b"]


def test_scores_that_differ_beyond_float32_are_ties() -> None:
    assert 0.30000001 != 0.3 and float32(0.300000001) == float32(0.3)
    assert [p for p, _ in ordered([("z", 0.300000001), ("a", 0.3)])] == ["a", "z"]
    # ... and what float32 can tell apart is no tie (bfloat16 could not).
    assert [p for p, _ in ordered([("a", 0.3), ("z", 0.3000001)])] == ["z", "a"]


def test_a_run_comes_back_as_float32_bit_for_bit(tmp_path: Path) -> None:
    rng = random.Random(5)
    scores = [struct.unpack("f", rng.randbytes(4))[0] for _ in range(3000)]
    ranking = [(f"p{i}", s) for i, s in enumerate(scores) if math.isfinite(s)]
    path = tmp_path / "run.trec"
    write_run(path, [("c_1", ranking)], "tag")
    assert read_run(path)["c_1"] == ordered(ranking)


def test_run_file_has_six_tab_separated_columns_and_ids_may_hold_blanks(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, [("a b_1", [("Page: one:0", 0.5), ("A", 0.5)]), ("a b_2", [])], "my tag")
    assert path.read_text() == (
        "a b_1\tQ0\tA\t1\t0.5\tmy tag\na b_1\tQ0\tPage: one:0\t2\t0.5\tmy tag\n"
    )
    assert read_run(path) == {"a b_1": [("A", 0.5), ("Page: one:0", 0.5)]}


def test_gzipped_runs_and_answers_are_equal_byte_for_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / f"{name}.run.gz", [("c_1", [("p", 1.0)])], "t")
        write_answers(tmp_path / f"{name}.jsonl.gz", [Answer("c_1", "é")])
    for suffix in ("run.gz", "jsonl.gz"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (
            tmp_path / f"two.{suffix}"
        ).read_bytes()
    assert read_run(tmp_path / "one.run.gz") == {"c_1": [("p", 1.0)]}
    assert read_answers(tmp_path / "one.jsonl.gz")["c_1"].text == "é"


def test_a_foreign_run_is_sorted_by_score_whatever_its_ranks_and_line_order(tmp_path: Path) -> None:
    path = text(tmp_path, "t_1 Q0 b 1 0.1 x\nt_2 Q0 c 1 7 x\nt_1 Q0 a 2 9e-1 x\n\n")
    assert read_run(path) == {"t_1": [("a", float32(0.9)), ("b", float32(0.1))], "t_2": [("c", 7)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("t_1 Q0 a 1 nan x\n", "field score: 'nan'.*line 1"),
        ("t_1 Q0 a 1 0.5 x\nt_1 Q0 b 2 inf x\n", "inf.*line 2"),
        ("t_1 Q0 a 1 1e60 x\n", "1e60.*line 1"),
        ("t_1 Q0 a 1 1_0 x\n", "field score: '1_0'.*line 1"),
        ("t_1 Q0 a 1 \u0661.\u0665 x\n", "field score.*line 1"),
        ("t_1 Q0 a 1 \uff11 x\n", "field score.*line 1"),
        ("t_1 Q0 a 1 0x1p3 x\n", "field score.*line 1"),
        ("t_1 Q0 a 1 high x\n", "field score: 'high'.*line 1"),
        ("t_1 Q0 a 1 0.5\n", "5 columns where 6.*line 1"),
        ("t_1 Q0 Page one:0 1 0.5 x\n", "7 columns.*tabs"),
        ("t_1\tQ0\t\t1\t0.5\tx\n", "column 3 is empty.*line 1"),
        ("t_1 Q0 a 1 0.5 x\nt_1 Q0 a 2 0.4 x\n", "'a' comes twice.*line 2"),
    ],
)
def test_a_broken_run_names_line_and_field(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_run(text(tmp_path, content))


@pytest.mark.parametrize(
    "score", ["1", "-2.5", "+3.", ".5", "1e3", "1E-3", "-1.25e+2", "0", "0007"]
)
def test_numbers_in_plain_digits_are_read(tmp_path: Path, score: str) -> None:
    path = text(tmp_path, f"t_1 Q0 a 1 {score} x\n")
    assert read_run(path) == {"t_1": [("a", float32(float(score)))]}
    assert check_ranks(path) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("t_1 Q0 a 1 2 x\nt_1 Q0 b 2 1 x\nt_2 Q0 a 1 1 x\n", None),
        ("t_1 Q0 a 1 1 x\nt_1 Q0 b 2 1 x\n", None),
        ("t_1 Q0 a 1 2 x\nt_1 Q0 b 3 1 x\n", "line 2: rank '3' where 2 is due"),
        ("t_1 Q0 a \u0661 2 x\n", "line 1: rank '\u0661' where 1 is due"),
        ("t_1 Q0 a 1 1 x\nt_1 Q0 b 2 2 x\n", "line 2: 'b' is ranked below a lower score"),
        ("t_1 Q0 b 1 1 x\nt_1 Q0 a 2 1 x\n", "line 2: 'a' is ranked below .* or a later id"),
        (
            "t_1 Q0 a 1 2 x\nt_2 Q0 a 1 2 x\nt_1 Q0 b 1 1 x\n",
            "line 3: turn 't_1' goes on after another's lines",
        ),
    ],
)
def test_ranks_are_those_of_scores_in_one_block_a_turn(
    tmp_path: Path, content: str, fault: str | None
) -> None:
    found = check_ranks(text(tmp_path, content))
    assert found is None if fault is None else re.search(fault, str(found))


def test_missing_and_damaged_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path)
    cut = tmp_path / "cut.gz"
    lines = "".join(f"t_{i} Q0 a 1 0.5 x\n" for i in range(50))
    cut.write_bytes(gzip.compress(lines.encode())[:-9])
    with pytest.raises(UserError, match="not a whole gzip file"):
        read_run(cut)
    latin = tmp_path / "latin"
    latin.write_bytes(b"t_1 Q0 a 1 0.5 x\nt_1 Q0 \xe9 1 0.5 x\n")
    with pytest.raises(UserError, match="UTF-8.*line 2"):
        read_run(latin)


def test_writing_refuses_nan_duplicates_and_ids_that_break_the_format(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for ranking, message in [
        ([("a", math.nan)], "'a' is not a finite number.*t_1"),
        ([("a", 1.0), ("a", 0.5)], "'a' is ranked twice"),
        ([("a\tb", 1.0)], "cannot be written"),
        ([("", 1.0)], "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message):
            write_run(path, [("t_1", ranking)], "tag")
        assert not path.exists()


def test_answers_round_trip_and_foreign_names_are_read(tmp_path: Path) -> None:
    answers = [Answer("c_1", "one\nline", 9, 3, ("p 1", "p2")), Answer("c_2", "")]
    path = tmp_path / "answers.jsonl"
    write_answers(path, answers)
    assert list(read_answers(path).values()) == answers
    foreign = text(tmp_path, '{"turn_id": "c_1", "text": "x"}\n')
    assert read_answers(foreign) == {"c_1": Answer("c_1", "x")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"turn_id": "a_1", "answer": "x"}\n{"turn_id": "a_1", "answer": "y"}', "twice.*line 2"),
        ('{"turn_id": "a_1"}', "field answer is missing.*line 1"),
        ('{"turn_id": "a_1", "answer": "\\ud800"}', "field answer.*half a character.*line 1"),
        ('{"turn_id": "a_1", "answer": "", "evidence": ["\\ud800"]}', "field evidence.*half"),
        (
            '{"turn_id": "a_1", "answer": "", "tokens": ' + "9" * 5000 + "}",
            "not valid JSON.*line 1",
        ),
        ('{"turn_id": "a_1", "answer": null}', "field answer.*line 1"),
        ('{"turn_id": 3, "answer": "x"}', "field turn_id.*line 1"),
        ('{"turn_id": "a_1", "answer": "x", "tokens": "9"}', "field tokens.*line 1"),
        ('{"turn_id": "a_1", "answer": "x", "tokens": -1}', "field tokens.*0 or more.*line 1"),
        ('{"turn_id": "a_1", "answer": "x", "text": "y"}', "both field text.*line 1"),
        ('{"turn_id": "a_1", "answer": "x", "answer": "y"}', "names a field twice.*line 1"),
        ('\n{"turn_id": ', "JSON.*line 2"),
        ('["a"]', "not a JSON object"),
    ],
)
def test_broken_answers_name_line_and_field(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_answers(text(tmp_path, content))


def test_qrels_and_references(tmp_path: Path) -> None:
    qrels = text(tmp_path, "c_1\t0\tPage one:0\t2\nc_1 0 p 0\nc_2 0 p 1\n")
    assert read_qrels(qrels) == {"c_1": {"Page one:0": 2, "p": 0}, "c_2": {"p": 1}}
    references = text(tmp_path, '{"turn_id": "c_1", "references": ["a", ""]}\n', "refs")
    assert read_references(references) == {"c_1": ("a", "")}
    for content, message in [
        ("c_1 0 p one\n", "grade: 'one'.*line 1"),
        ("c_1 0 p 1_0\n", "grade: '1_0'.*line 1"),
        ("c_1 0 p \u0661\n", "grade: .*line 1"),
        ("c_1 0 p 1\nc_1 0 p 1\n", "twice.*line 2"),
        ("", "no judgement"),
    ]:
        with pytest.raises(UserError, match=message):
            read_qrels(text(tmp_path, content))
    for content, message in [
        ('{"turn_id": "c_1", "references": []}', "empty.*line 1"),
        ('{"turn_id": "c_1", "references": "a"}', "references.*line 1"),
        ("", "no reference"),
    ]:
        with pytest.raises(UserError, match=message):
            read_references(text(tmp_path, content))


def test_a_passage_id_that_is_not_in_the_corpus_is_caught() -> None:
    """Kernel point 10: faiss pads with -1; neither it nor anything else may pass as a passage."""
    turns, corpus = ["c_1", "c_2"], {"p1", "p2"}
    good = {"c_1": [("p1", 0.9), ("p2", 0.1)], "c_2": [("p2", 0.4)]}
    assert check_run(good, turns, corpus, judged=turns) == []
    padded = {**good, "c_2": [("p2", 0.4), ("-1", -3e38)]}
    assert check_run(padded, turns, corpus) == [
        "1 ranked passages are not in the corpus, first '-1' of turn 'c_2'"
    ]


def test_check_run_names_unknown_missing_deep_and_broken() -> None:
    turns, corpus = ["c_1", "c_2"], {"p1", "p2"}
    assert check_run({"c_9": [("p1", 1.0)]}, turns, corpus, judged=["c_1"]) == [
        "1 turns are not of this task, first 'c_9'",
        "1 judged turns have no ranking, first 'c_1'",
    ]
    two = {"c_1": [("p1", 1.0), ("p2", 0.5)]}
    assert check_run(two, turns, corpus, depth=2) == []
    assert check_run(two, turns, corpus, depth=1) == [
        "1 turns rank more than 1 passages, first 'c_1'"
    ]
    assert "not a finite" in check_run({"c_1": [("p1", math.nan)]}, turns, corpus)[0]


def test_check_answers() -> None:
    assert check_answers({"c_1": "x"}, ["c_1", "c_2"], judged=["c_1"]) == []
    assert check_answers({"c_3": "x"}, ["c_1"], judged=["c_1"]) == [
        "1 turns are not of this task, first 'c_3'",
        "1 judged turns have no answer, first 'c_1'",
    ]
    answers = {"c_1": Answer("c_1", "x", evidence=("p1", "p9"))}
    assert check_evidence(answers, {"p1", "p9"}) == []
    (problem,) = check_evidence(answers, {"p1"})
    assert problem == "1 passages named as evidence are not in the corpus, first 'p9'"
