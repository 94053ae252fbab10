"""A task as files: what a system may know, apart from what is right; and the way back to scores."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import cli, export
from uniconv_bench.progress import Silent
from uniconv_bench.runs import read_qrels, read_references
from uniconv_bench.task import Task, load_task

Shown = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Shown:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def sample(task: str) -> Task:
    return load_task(task, "sample", progress=Silent())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_topics_hold_what_was_said_and_nothing_that_is_right(tmp_path: Path) -> None:
    task = sample("qrecc")
    files = export.export(task, tmp_path, judgements=False, packed=None, progress=Silent())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["passages.jsonl", "topics.jsonl"]
    turns, topics = task.turns(), rows(files["topics"])
    assert [topic["turn_id"] for topic in topics] == [turn.turn_id for turn in turns]
    assert {key for topic in topics for key in topic} == {
        *("turn_id", "conversation_id", "number", "history", "query", "human_rewrite")
    }
    last = turns[-1]
    assert topics[-1]["history"] == [{"role": u.role, "text": u.text} for u in last.history]
    assert (topics[-1]["query"], topics[-1]["human_rewrite"]) == (last.query, last.rewrite)
    passages = rows(files["passages"])
    assert [p["id"] for p in passages] == list(task.corpus.ids)
    first = task.corpus[task.corpus.ids[0]]
    assert passages[0] == {"id": first.passage_id, "title": first.title, "text": first.text}


def test_only_rewrites_by_people_are_handed_out(tmp_path: Path) -> None:
    turn = sample("qrecc").turns()[0]
    assert "human_rewrite" in export.topic(turn, human=True)
    assert "human_rewrite" not in export.topic(turn, human=False)
    assert all("human_rewrite" not in export.topic(t, True) for t in sample("inscit").turns())


def test_large_corpora_are_packed_unless_asked_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = sample("faithdial")

    def passages(packed: bool | None) -> Path:
        found = export.export(task, tmp_path, judgements=False, packed=packed, progress=Silent())
        return found["passages"]

    plain = passages(None).read_bytes()
    monkeypatch.setattr(export, "LARGE", 10)
    assert passages(False).name == "passages.jsonl"
    packed = passages(None)
    assert packed.name == "passages.jsonl.gz"
    assert gzip.decompress(packed.read_bytes()) == plain


def test_a_task_that_hands_over_its_passages_wants_answers_alone(
    command: Shown, tmp_path: Path
) -> None:
    err = command("export", "--task", "faithdial-given", "--out", tmp_path)[2]
    assert "write answers as JSON lines" in err and "--run" not in err and "TREC" not in err
    assert "next: uniconv-bench score --task faithdial-given --answers my.jsonl\n" in err
    file = tmp_path / "topics.jsonl"
    code, _, err = command("export", "--task", "faithdial-given", "--out", file)
    assert code == 2 and err.endswith(f"a file, not a folder ({file}); name another folder\n")


def test_from_an_export_to_perfect_scores(command: Shown, tmp_path: Path) -> None:
    out = tmp_path / "files"
    code, printed, err = command("export", "--task", "inscit", "--out", out, "--judgements")
    assert code == 0
    assert printed.split() == [
        str(out / name)
        for name in ("topics.jsonl", "passages.jsonl", "qrels.tsv", "references.jsonl")
    ]
    assert "licence: " in err and "next: uniconv-bench score --task inscit --run" in err
    qrels, references = out / "qrels.tsv", out / "references.jsonl"
    task = sample("inscit")
    assert read_qrels(qrels) == task.qrels()
    assert read_references(references) == task.references()
    run, answers = tmp_path / "my.trec", tmp_path / "my.jsonl"
    run.write_text(
        "".join(
            f"{turn}\tQ0\t{passage}\t{rank}\t{-rank}\tmine\n"
            for turn, grades in read_qrels(qrels).items()
            for rank, passage in enumerate(grades, 1)
        )
    )
    answers.write_text(
        "".join(
            json.dumps({"turn_id": turn, "answer": right[0]}) + "\n"
            for turn, right in read_references(references).items()
        )
    )
    made = ("--run", run, "--answers", answers, "--json")
    for judged in (("--task", "inscit"), ("--qrels", qrels, "--references", references)):
        wanted = [part for m in ("ndcg@3", "recall@10", "mrr", "f1") for part in ("-m", m)]
        code, printed, _ = command("score", *judged, *made, *wanted)
        assert code == 0
        scores = json.loads(printed)["scores"]
        assert {name: score["mean"] for name, score in scores.items()} == dict.fromkeys(
            ("ndcg@3", "recall@10", "mrr", "f1"), pytest.approx(1.0)
        )
