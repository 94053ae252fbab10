"""`show task`: a card that reads well at any width, and the turn that it tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from uniconv_bench import cardview, cli
from uniconv_bench.cards import TaskCard
from uniconv_bench.commands.example import Example, example_of
from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card
from uniconv_bench.task import load_task

TASKS = ("faithdial", "faithdial-given", "inscit", "orquac", "qrecc", "topiocqa")
SIZES = {"conversations": 1, "turns": 2, "judged_retrieval": 2, "judged_generation": 1}
COUNTS = {"sample": {"passages": 1_234, "splits": {"test": SIZES | {"unanswerable": 17}}}}


@pytest.fixture
def shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """The lines of a task's card at a width."""

    def call(name: str, width: int | None = None) -> list[str]:
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        else:
            monkeypatch.delenv("COLUMNS", raising=False)
        capfd.readouterr()
        assert cli.main(["show", "task", name]) == 0
        return [line.rstrip() for line in capfd.readouterr().out.splitlines()]

    return call


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("width", [60, 100, 140])
def test_it_fits_and_is_whole_at_every_width(
    task: str, width: int, shown: Callable[..., list[str]]
) -> None:
    card, _ = task_card(task)
    lines = shown(task, width)
    told, cited = lines[: lines.index("Cite")], lines[lines.index("Cite") + 1 :]
    wide = [line for line in told if len(line) > min(width, 100)]
    assert [line for line in wide if not line.startswith("homepage")] == []
    assert cited == card.citation.strip().splitlines()  # not folded, so that it can be copied
    assert any(line.endswith(card.homepage) for line in told)
    text = " ".join(" ".join(line.strip(" │") for line in told).split())
    for wanted in (card.description, card.retrieval_setting, card.licence, *card.traps):
        assert wanted in text, wanted
    for figure in card.reported:
        assert figure.system in text and f"{figure.kind}: {figure.source}" in text


def test_what_is_said_of_qrecc(shown: Callable[..., list[str]]) -> None:
    lines = shown("qrecc")
    assert lines[0] == "QReCC  (qrecc, version 1)"
    text = "\n".join(lines)
    for wanted in ("│ user ", "│ assistant ", "│ BM25 sees ", "│ rewritten ", "│ relevant "):
        assert wanted in text
    rows = [line.split() for line in lines if line.strip().startswith(("train ", "test "))]
    assert rows == [
        ["train", "72", "267", "216", "252", "0"],
        ["test", "22", "81", "68", "78", "0"],
        ["train", "10,823", "63,501", "?"],
        ["test", "2,775", "16,451", "8,209"],
    ]
    assert "  440 passages; written by this project about invented places" in lines
    assert "54,573,064 passages in full; the dataset's and" in text
    assert max(map(len, lines)) <= 110


def test_json_holds_card_counts_and_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "task", "topiocqa", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["reported"][0]["kind"] == "summary" and told["evidence"] == "retrieved"
    assert told["counts"]["sample"]["splits"]["dev"]["unanswerable"] == 6
    assert Turn.from_json(told["example"]).history


@pytest.mark.parametrize("task", TASKS)
def test_the_example_leans_on_its_history(task: str) -> None:
    example = example_of(load_task(task, "sample", progress=Silent()))
    turn = example.turn
    assert turn.number > 1 and turn.history and turn.references and turn.kind == "answer"
    assert example.passage is not None and example.passage.passage_id in turn.gold
    assert example.shared <= set(example.terms) and len(example.shared) <= len(example.terms) / 2


def card(**changes: object) -> TaskCard:
    return task_card("qrecc")[0].model_copy(update=changes)


def printed(
    capfd: pytest.CaptureFixture[str], turn: Turn, passage: Passage | None, of: TaskCard
) -> str:
    example = Example("sample", turn, passage, ("built",), frozenset({"built"}))
    cardview.show_task(of, COUNTS, example)
    return capfd.readouterr().out


def test_long_texts_are_shortened_and_brackets_stay(capfd: pytest.CaptureFixture[str]) -> None:
    history = tuple(Utterance("user", f"[bold]No. {i}[/bold]") for i in range(7))
    turn = Turn("a_8", "a", 8, "who built it", history, ("word " * 100,), ("p",))
    out = printed(capfd, turn, Passage("p", "text " * 200, "A title"), card())
    assert "(3 utterances before)" in out and "[bold]No. 3[/bold]" in out and "No. 2" not in out
    assert out.count(" ...") == 2 and "A title: text text" in out
    assert "built in the last question; of these the passage has built" in out
    assert "1,234 passages" in out and " 17 " in out


def test_a_turn_without_passage_references_or_history(capfd: pytest.CaptureFixture[str]) -> None:
    out = printed(capfd, Turn("a_1", "a", 1, "who built it"), None, card(reported=()))
    assert "who built it" in out and "turn 1 of a test conversation" in out
    assert "BM25" not in out and "│ relevant" not in out and "Printed elsewhere" not in out


def test_given_passages_take_the_place_of_retrieved_ones(capfd: pytest.CaptureFixture[str]) -> None:
    turn = Turn("a_2", "a", 2, "who?", (Utterance("user", "a"),), ("b",), given=("p", "q"))
    out = printed(capfd, turn, Passage("p", "Ada did."), card(evidence="given"))
    assert "given 1/2  Ada did." in out
    assert "BM25" not in out and "passage " not in out.partition("1,234")[0]


def test_without_data_only_the_card_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    cardview.show_task(card(), {}, None)
    out = capfd.readouterr().out
    assert "conversation (" not in out and "SCAI-QReCC-21 dropped" in out
    assert "A turn of it is shown here once its official files are prepared." in out


def test_next_is_a_run_on_what_is_there(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["show", "task", "inscit"]) == 0
    assert capfd.readouterr().err.endswith(
        "next: uniconv-bench run --task inscit --system uniconv\n"
    )
