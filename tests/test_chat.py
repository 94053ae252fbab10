"""Talking to a system on the tiny random backbone, through the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import CARD, CODE, CUSTOM

from uniconv_bench import cli, evaluate
from uniconv_bench.conversation import Turn
from uniconv_bench.dialogue import Exchange
from uniconv_bench.progress import Silent
from uniconv_bench.reader import Reader
from uniconv_bench.runs import read_answers, read_run
from uniconv_bench.task import load_task

UNIFIED = CARD.replace('kind = "bm25"', 'kind = "dense"').replace("= 200", "= 400")
Talk = Callable[..., tuple[int, str, str]]


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def card(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(UNIFIED)
    return str(path)


@pytest.fixture
def talk(
    card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*lines: str, system: str = card, stdin: Any = io.StringIO, **options: str) -> Any:
        monkeypatch.setattr("sys.stdin", stdin("".join(f"{line}\n" for line in lines)))
        given = [word for name, value in options.items() for word in (f"--{name}", value) if word]
        code = cli.main(["chat", "-t", "qrecc", "-s", system, *given])
        return code, *capsys.readouterr()

    return run


def rows(talk: Talk, *lines: str, **options: Any) -> list[dict[str, Any]]:
    code, out, err = talk(*lines, json="", **options)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def turn(number: int) -> Turn:
    return load_task("qrecc", "sample", progress=Silent()).turns()[number]


def parrot(folder: Path) -> str:
    (folder / "parrot.toml").write_text(CUSTOM)
    (folder / "parrot.py").write_text(CODE)
    return str(folder / "parrot.toml")


def test_a_test_turn_is_answered_as_in_a_run(talk: Talk, card: str) -> None:
    asked = turn(1)
    assert asked.history
    (row,) = rows(talk, asked.query, turn=asked.turn_id)[1:]
    given: dict[str, Any] = {"limit": 2, "progress": Silent()}
    wanted = read_answers(evaluate.generate("qrecc", card, "sample", **given))[asked.turn_id]
    ranking = read_run(evaluate.retrieve("qrecc", card, "sample", **given))[asked.turn_id]
    assert row["answer"] == wanted.text
    (passage,) = row["passages"]
    assert (passage["passage_id"], passage["rank"]) == (ranking[0][0], 1)
    assert passage["score"] == pytest.approx(ranking[0][1], abs=1e-5)
    assert passage["relevant"] == (ranking[0][0] in asked.gold)
    assert (row["turn_id"], row["query"]) == (asked.turn_id, asked.query)
    seconds = row["seconds"]
    assert 0 < seconds["retrieved"] <= seconds["first_piece"] <= seconds["answered"]


def test_a_conversation_goes_on_from_what_was_answered(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = Reader._forward

    def counted(self: Reader, ids: Any, mask: Any, states: bool) -> Any:
        read.append(ids.shape[1])
        return forward(self, ids, mask, states)

    monkeypatch.setattr(Reader, "_forward", counted)
    first, second, why, said = rows(talk, "Who?", "And he?", "/why", "/history")
    assert [u["text"] for u in said["history"]] == [
        *("Who?", first["answer"]),
        *("And he?", second["answer"]),
    ]
    assert "Who?" in why["prompt"] and why["prompt"].endswith("<|im_start|>assistant\n")
    assert (first["turn_id"], second["turn_id"]) == ("chat_1", "chat_2")
    longer = [n for n in read if n > 1]
    assert longer[1] < longer[0] + len(why["prompt"]) / 2  # the answer does not read its session


def test_another_system_on_the_same_turn(talk: Talk, tmp_path: Path) -> None:
    name = parrot(tmp_path)
    found = rows(
        talk, "Who?", f"/swap {name}", "/passages", "/history", "And?", "/reset", "/history"
    )
    one, other, passages, said, later, _, empty = found
    assert (one["system"], other["system"], later["system"]) == ("tiny", "parrot", "parrot")
    assert one["query"] == other["query"] == "Who?"
    assert other["answer"] == passages["passages"][0]["text"] != one["answer"]
    assert [u["text"] for u in said["history"]] == ["Who?", other["answer"]]
    assert empty["history"] == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/swapp x", "unknown command '/swapp'; did you mean '/swap'?"),
        ("/swap", "/swap names no system"),
        ("/swap nobody", "unknown system 'nobody'"),
        ("/why", "/why is about an answer, and there is none yet"),
    ],
)
def test_a_mistake_ends_a_script_but_not_a_person(talk: Talk, line: str, told: str) -> None:
    code, _, err = talk(line, "/history")
    assert code == 2 and f"error: {told}" in err
    code, out, err = talk(line, "/help", stdin=Typed)
    assert code == 0 and f"error: {told}" in err and "/passages" in out


def test_what_a_third_party_does_not_show(talk: Talk, tmp_path: Path) -> None:
    code, _, err = talk("Who?", "/why", system=parrot(tmp_path))
    assert code == 2 and "error: the generator of parrot does not show its prompt" in err


def test_people_see_the_answer_then_its_passages(talk: Talk) -> None:
    asked = turn(1)
    code, out, err = talk(asked.query, "/passages", "/quit", "never", turn=asked.turn_id)
    assert code == 0 and "never" not in out
    (row,) = rows(talk, asked.query, turn=asked.turn_id)[1:]
    assert f"tiny: {row['answer'].split()[0]}" in out
    score, name = f"{row['passages'][0]['score']:.4f}", row["passages"][0]["passage_id"]
    assert out.index("tiny: ") < out.index(score) < out.index(f"[1] {name}")
    assert asked.history[0].text in out and asked.query in err


def test_a_wrong_turn_is_one_line(talk: Talk) -> None:
    code, _, err = talk("Who?", turn="nowhere_1")
    assert code == 2 and "error: unknown turn 'nowhere_1'" in err


def test_an_interrupt_ends_the_answer_and_not_the_talk(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = rows(talk, "Stop me")
    say = Exchange.say

    def stopped(self: Exchange) -> Iterator[str]:
        for piece in say(self):
            if self.turn.query == "Stop me" and self.answer != piece:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(Exchange, "say", stopped)
    part, _, said = rows(talk, "Stop me", "Who?", "/history")
    assert whole["answer"].startswith(part["answer"]) and part["answer"] != whole["answer"]
    assert [u["text"] for u in said["history"]][:3] == ["Stop me", part["answer"], "Who?"]

    def never(self: Exchange) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Exchange, "retrieve", never)
    (said,) = rows(talk, "Who?", "/history")
    assert said["history"] == []
