"""Folders in BEIR layout as ad-hoc tasks: the reader, the card, and a run from the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from uniconv_bench import cli, evaluate
from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.estimate import estimate
from uniconv_bench.prepare import is_prepared
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card, task_module, task_names
from uniconv_bench.runs import read_run
from uniconv_bench.task import Task, load_task

RAW = Path(__file__).parent / "data" / "raw" / "beir" / "mossy-ford"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RAW, tmp_path / "ford"))


def load(folder: Path, profile: str = "sample") -> Task:
    return load_task(str(folder), profile, progress=Silent())  # type: ignore[arg-type]


def read(split: str) -> list[Conversation]:
    return list(task_module(*task_card(str(RAW))).conversations(RAW, split))


# -------------------------------------------------------------------------------------- reader


def test_counts_first_tenth_and_last() -> None:
    turns = [turn for conversation in read("test") for turn in conversation]
    assert len(turns) == 12 and len(read("test")) == 11
    assert turns[0] == Turn("q1_1", "q1", 1, "who designed the bridge at mossy ford", gold=("p2",))
    tenth = turns[9]
    assert (tenth.turn_id, tenth.query, tenth.gold) == (
        "walk 1_1",
        "is there a bridge at mossy ford",
        ("p2",),
    )
    assert turns[11].turn_id == "q12_1" and turns[11].gold == ()  # judged irrelevant alone
    assert [t.turn_id for c in read("train") for t in c] == ["t1_1"]
    assert [t.turn_id for c in read("dev") for t in c] == ["d1_1"]


def test_passages_first_tenth_and_last() -> None:
    passages = list(task_module(*task_card(str(RAW))).passages(RAW))
    assert len(passages) == 11
    assert passages[0] == Passage(
        "p1", "The ford was called the wet stair until 1810.", "Mossy Ford"
    )
    assert passages[9] == Passage(
        "p10", "Geese crossed free of toll, their owners did not.", "Toll"
    )
    assert passages[10].text.endswith('a list of "unpaid geese".')
    assert passages[5] == Passage("p6", "Otters were seen below the weir in spring.")  # no title


def test_grades_above_zero_are_relevant() -> None:
    gold = {turn.turn_id: turn.gold for conversation in read("test") for turn in conversation}
    assert gold["q2_1"] == ("p1",)  # 2 counts, 0 does not
    assert gold["q5_1"] == ("p6", "p7")  # 3 and 1 alike
    assert gold["q3_1"] == ("Una Kell 1",)  # an id with blanks


def test_ids_that_tell_conversations_make_one_cluster() -> None:
    walk = next(c for c in read("test") if c.conversation_id == "walk 1")
    assert [(t.turn_id, t.number) for t in walk] == [("walk 1_1", 1), ("walk 1_3", 3)]


# ---------------------------------------------------------------------------------------- card


def test_a_folder_is_a_task_of_its_own_name(folder: Path) -> None:
    card, path = task_card(f"{folder}/")
    assert (card.name, path, card.test_split) == ("ford", folder.resolve(), "test")
    assert card.metrics == ("ndcg@3", "ndcg@10", "recall@10", "recall@100", "mrr")
    assert "beir" not in task_names() and "ford" not in task_names()


def test_a_name_without_a_slash_is_a_folder_if_no_task_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert task_card("ford")[1] == folder.resolve()
    folder.rename("qrecc")
    assert task_card("qrecc")[1].suffix == ".toml"
    with pytest.raises(UserError, match="has the name of the task 'qrecc'.*rename it"):
        task_card("./qrecc")


def test_without_test_judgements_dev_is_tested(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").unlink()
    assert task_card(str(folder))[0].test_split == "dev"
    (folder / "qrels" / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"neither qrels/test.tsv nor qrels/dev.tsv.*BEIR layout"):
        task_card(str(folder))


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot name a task"):
        task_card(str(folder.rename(tmp_path / "my ford")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file corpus.jsonl.*in BEIR layout"):
        task_card(str(tmp_path / "empty"))


# ----------------------------------------------------------------------------------- preparing


def test_every_profile_reads_the_folder_itself(folder: Path, private_cache: Path) -> None:
    assert not is_prepared(*task_card(str(folder)), "full")
    sample, full = load(folder), load(folder, "full")
    assert sample.profile == "sample" and is_prepared(*task_card(str(folder)), "full")
    assert sample.digest == full.digest and len(full.corpus) == 11
    assert sample.counts["splits"]["test"] == {
        "conversations": 11,
        "turns": 12,
        "judged_retrieval": 11,
        "judged_generation": 0,
    }
    (folder / "qrels" / "train.tsv").unlink()
    assert set(load(folder).counts["splits"]) == {"dev", "test"}  # an edited folder is read anew


def test_gzipped_files_are_read(folder: Path, private_cache: Path) -> None:
    plain = load(folder)
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load(folder).digest == plain.digest


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("corpus.jsonl", '"_id": "p1"', '"_id": "p\\t1"', "field _id is 'p\\t1'"),
        ("corpus.jsonl", '"_id": "p1"', '"_id": " p1"', "outer blank"),
        ("corpus.jsonl", '"_id": "p1"', '"_id": 1', "field _id is int, not str"),
        ("corpus.jsonl", '"_id": "p2"', '"_id": "p1"', "field id 'p1' occurs twice"),
        ("corpus.jsonl", '"text": "She', '"txt": "She', "field text is missing"),
        ("corpus.jsonl", '"title": "Weir"', '"title": null', "field title is NoneType, not str"),
        ("queries.jsonl", '"_id": "q2"', '"_id": "q1"', "field _id 'q1' occurs twice"),
        ("queries.jsonl", '"text": "who built the weir"', '"text": " "', "field query is empty"),
        ("queries.jsonl", '"_id": "q6"', '"_id": "q66"', "field query-id is 'q6', which queries"),
        ("queries.jsonl", "walk 1<::>3", "walk 1<::>1", "occurs twice"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "", "not the header query-id"),
        ("qrels/test.tsv", "q6\tp7\t1", "q6\tp7\tyes", "field score is 'yes'"),
        ("qrels/test.tsv", "q6\tp7\t1", "q6 p7 1", "1 columns instead of 3"),
        ("qrels/test.tsv", "q6\tp7\t1", "q6\tp77\t1", "field gold names passage 'p77'"),
        ("qrels/test.tsv", "q6\tp7\t1", "q6\t\t1", "field corpus-id is an empty id"),
    ],
)
def test_a_broken_line_is_named(
    name: str, old: str, new: str, told: str, folder: Path, private_cache: Path
) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(folder)
    message = str(caught.value)
    assert told in message and str(folder) in message and "\n" not in message
    assert not any((private_cache / "tasks").glob("*"))


# ------------------------------------------------------------------------------------- running

CARD = """
name = "lexical"
title = "Lexical"
description = "BM25, and nobody to answer."
backbone = { sample = "random-tiny" }
retriever = { kind = "bm25", query = "session" }
generator = { kind = "llm" }
"""


def test_a_run_scores_retrieval_and_writes_no_answers(
    folder: Path, tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lexical.toml").write_text(CARD)
    system = str(tmp_path / "lexical.toml")
    monkeypatch.setattr(
        "uniconv_bench.uniconv.parts.load_decoder", lambda *_: pytest.fail("an answer was written")
    )
    assert estimate(str(folder), system, "sample", progress=Silent())["generate"] == 0
    record, path = evaluate.run(
        str(folder), system, "sample", results=tmp_path / "results", progress=Silent()
    )
    assert path == tmp_path / "results" / "sample" / "lexical" / "ford.json"
    assert [s.metric for s in record.scores] == list(task_card(str(folder))[0].metrics)
    assert {s.n for s in record.scores} == {11} and {s.stage for s in record.scores} == {
        "retrieval"
    }
    recall = record.score("recall@100")
    assert recall is not None and recall.mean > 0.8
    assert record.digests.answers is None and record.counts.judged_generation == 0
    run = read_run(evaluate.outputs(record)["run.trec"])
    assert run["q3_1"][0][0] == "Una Kell 1"
    assert not any(estimate(str(folder), system, "sample", progress=Silent()).values())


def test_commands_take_a_folder_where_they_take_a_name(
    folder: Path, private_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def output(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capfd.readouterr().out

    (row,) = json.loads(output("prepare", "--task", str(folder), "--json"))
    assert (row["name"], row["passages"]) == ("ford", 11)
    shown = json.loads(output("show", "task", str(folder), "--json"))
    assert shown["counts"]["sample"]["splits"]["test"]["turns"] == 12
    assert shown["example"]["turn_id"].startswith("q") and set(shown["counts"]) == {"sample"}
    assert "walk" not in shown["example"]["turn_id"]
    page = output("show", "task", str(folder))
    assert "ford  (ford, version 1)" in page and "11 passages" in page
