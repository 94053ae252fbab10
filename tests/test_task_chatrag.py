"""Given evidence: ChatRAG-Bench's rows, FaithDial's knowledge, and a run that retrieves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import cli, evaluate
from uniconv_bench.assembly import Setup
from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.estimate import estimate
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.metrics import parse_metric
from uniconv_bench.prepare import sample_of
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import Prompt, PromptFormat
from uniconv_bench.registry import task_card, task_module
from uniconv_bench.runs import read_answers, read_run
from uniconv_bench.task import Task, load_task

RAW = Path(__file__).parent / "data" / "raw" / "chatrag"
NAMES = ("chatrag-inscit", "chatrag-qrecc", "chatrag-quac", "chatrag-topiocqa")
NO_ANSWER = "Sorry. I cannot find the answer based on the context."


def read(split: str, raw: Path = RAW) -> list[Conversation]:
    return list(task_module(*task_card("chatrag-qrecc")).conversations(raw, split))


def turns(split: str, raw: Path = RAW) -> list[Turn]:
    return [turn for conversation in read(split, raw) for turn in conversation]


def passages() -> dict[str, Passage]:
    found = task_module(*task_card("chatrag-qrecc")).passages(RAW)
    return {passage.passage_id: passage for passage in found}


def given(turn: Turn) -> list[str]:
    return [passages()[name].text for name in turn.given]


# -------------------------------------------------------------------------------------- reader


def test_counts_first_tenth_and_last() -> None:
    found = turns("test")
    assert len(found) == 12 and [len(c.turns) for c in read("test")] == [3, 2, 3, 3, 1]
    first, tenth, last = found[0], found[9], found[11]
    assert first == Turn(
        turn_id=f"{first.conversation_id}_1",
        conversation_id=first.conversation_id,
        number=1,
        query="Who designed the bridge at Mossy Ford?",
        references=("Una Kell designed it.", "Una Kell"),
        given=tuple(passages())[1:3],  # the first is dev's
    )
    assert (tenth.number, tenth.query) == (3, "In which century?")
    assert given(tenth) == [
        "The weir was built by millers in 1744.",
        "The mill ground mustard, never wheat.",
    ]
    assert (last.number, last.query) == (1, "Did geese pay?")
    assert last.references == ("No, geese crossed free of toll.",) and len(last.given) == 5
    (only,) = turns("dev")
    assert only.query == "Who built the weir?"


def test_passages_are_named_by_their_content() -> None:
    found = list(passages().values())
    assert len(found) == 8
    weir = "The weir was built by millers in 1744."
    assert found[0] == Passage("c720b083fcb1c031f", weir, "Weir")
    assert found[5].text == "The mill ground mustard, never wheat."
    assert (found[7].title, found[7].text) == ("", "Geese crossed free of toll.")
    in_dev = turns("dev")[0].given
    assert in_dev == turns("test")[8].given  # the same text has one name in every file


def test_the_first_five_contexts_are_given_in_order_each_once() -> None:
    third, fourth = turns("test")[2:4]
    assert [text.split()[-1] for text in given(third)] == [
        *("swim.", "Ember.", "Kell.", "1810.", "1744.")
    ]  # the sixth is left out
    assert given(fourth) == [
        "The ford was called the wet stair until 1810.",
        "The bridge was designed by Una Kell.",
    ]


def test_rows_that_open_alike_are_one_conversation_until_a_number_comes_again() -> None:
    ids = [(c.conversation_id, [t.number for t in c]) for c in read("test")]
    assert ids[1][0] + "-2" == ids[2][0]
    assert [numbers for _, numbers in ids] == [[1, 2, 3], [1, 2], [1, 2, 3], [1, 3, 4], [1]]
    assert read("test")[2].turns[0].references == ("The mustard mill.",)


def test_history_and_answers() -> None:
    second, tenth, eleventh = (turns("test")[i] for i in (1, 9, 10))
    assert second.history == (
        Utterance("user", "Who designed the bridge at Mossy Ford?"),
        Utterance("assistant", "Una Kell designed it."),
    )
    assert [u.role for u in tenth.history] == ["user", "assistant", "user"]  # one said nothing
    assert (tenth.references, tenth.kind) == (("The eighteenth.",), "answer")
    assert (eleventh.references, eleventh.kind) == ((NO_ANSWER,), "unanswerable")
    assert turns("test")[3].references == ("The wet stair.",)  # an empty answer is none
    assert turns("dev")[0].references == ("Millers.", "Millers, in 1744.")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1].pop("ctxs"), r"field ctxs is missing \(.*test\.json, record 2\)"),
        (lambda rows: rows[1].update(ctxs=[]), "field ctxs is empty"),
        (lambda rows: rows[1]["ctxs"][0].pop("title"), "field title is missing"),
        (lambda rows: rows[1].update(answers="Port Ember"), "field answers is str, not list"),
        (lambda rows: rows[1].update(answers=[1]), "field answers holds int, not str"),
        (lambda rows: rows[1]["messages"].pop(), "field messages does not end with the user"),
        (lambda rows: rows[1]["messages"].clear(), "field messages does not end with the user"),
        (lambda rows: rows[1]["messages"][0].update(role="agent"), "field role is 'agent'"),
        (lambda rows: rows[1]["messages"][2].update(content=7), "field content is int, not str"),
        (lambda rows: rows[1]["messages"][2].update(content=" "), "field query is empty"),
        (lambda rows: rows.clear(), "no turns"),
    ],
)
def test_a_broken_row_is_named(
    change: Callable[[Any], None], told: str, tmp_path: Path, private_cache: Path
) -> None:
    raw = Path(shutil.copytree(RAW, tmp_path / "raw"))
    rows = json.loads((raw / "test.json").read_text(encoding="utf-8"))
    change(rows)
    (raw / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=told) as caught:
        load_task("chatrag-qrecc", "full", raw, progress=Silent())
    assert str(raw) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(UserError, match="not a JSON array"):
        turns("test", tmp_path)


# --------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", [*NAMES, "faithdial-given"])
def test_cards_of_given_evidence_judge_answers_alone(name: str) -> None:
    card, path = task_card(name)
    assert card.evidence == "given" and "retrieve" in card.retrieval_setting
    assert {parse_metric(metric).stage for metric in card.metrics} == {"generation"}
    reader = task_module(card, path).__name__.rpartition(".")[2]
    assert reader == card.reader == name.partition("-")[0]


def test_each_configuration_is_tested_on_its_own_split() -> None:
    tested = {name: task_card(name)[0].test_split for name in NAMES}
    assert tested == {
        "chatrag-inscit": "dev",
        "chatrag-qrecc": "test",
        "chatrag-quac": "test",
        "chatrag-topiocqa": "dev",
    }


def test_chatrag_ships_no_sample_and_faithdial_given_has_faithdials() -> None:
    assert all(sample_of(*task_card(name)) is None for name in NAMES)
    with pytest.raises(UserError, match="'chatrag-quac' ships no sample"):
        load_task("chatrag-quac", "sample", progress=Silent())
    folder = sample_of(*task_card("faithdial-given"))
    assert folder is not None and folder == sample_of(*task_card("faithdial"))


def test_a_reader_may_be_a_module_or_a_task(tmp_path: Path) -> None:
    text = task_card("faithdial-given")[1].read_text(encoding="utf-8")
    card = tmp_path / "mine.toml"
    card.write_text(text.replace('"faithdial-given"', '"mine"').replace('"faithdial"', '"form"', 1))
    with pytest.raises(UserError, match="unknown task 'form'"):
        task_module(*task_card(str(card)))
    (tmp_path / "form.py").write_text("def splits(raw):\n    return ('test',)\n")
    assert task_module(*task_card(str(card))).splits(tmp_path) == ("test",)


# ------------------------------------------------------------------------------------- running


def test_faithdial_given_is_faithdial_with_its_knowledge_handed_over() -> None:
    ordinary, handed = (
        load_task(name, "sample", progress=Silent()) for name in ("faithdial", "faithdial-given")
    )
    assert handed.digest == ordinary.digest
    for one, other in zip(ordinary.turns(), handed.turns(), strict=True):
        assert not one.given and other.given == other.gold == one.gold
        assert (one.query, one.references) == (other.query, other.references)


def test_a_given_passage_that_the_corpus_lacks_is_refused(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.tasks import chatrag

    monkeypatch.setattr(chatrag, "passages", lambda raw: iter([Passage("p", "Nothing.")]))
    with pytest.raises(UserError, match="field given names passage 'c.*the corpus lacks.*8 such"):
        load_task("chatrag-qrecc", "full", RAW, progress=Silent())


CARD = """
name = "tiny"
title = "Tiny"
description = "A random backbone, for tests."
backbone = { full = "random-tiny" }
retriever = { kind = "dense" }
generator = { kind = "llm" }
inference = { top_k = 1, depth = 2, session_tokens = 300, passage_tokens = 60 }
"""


@pytest.fixture
def system(tmp_path: Path, private_cache: Path) -> Callable[[str], str]:
    def write(retriever: str) -> str:
        path = tmp_path / f"{retriever}.toml"
        path.write_text(CARD.replace('"dense"', f'"{retriever}"'))
        return str(path)

    return write


@pytest.fixture
def task(private_cache: Path) -> Task:
    return load_task("chatrag-qrecc", "full", RAW, progress=Silent())


def run(system: str, **options: Any) -> Any:
    defaults: dict[str, Any] = {"results": None, "progress": Silent()}
    return evaluate.run("chatrag-qrecc", system, "full", **(defaults | options))[0]


def test_the_generator_reads_what_is_given_in_order_and_nothing_is_encoded(
    task: Task, system: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[tuple[str, list[str]]] = []
    prompt = PromptFormat.prompt

    def seen(self: PromptFormat, turn: Turn, passages: list[Passage], mask: Any) -> Prompt:
        made = prompt(self, turn, passages, mask)
        text = self.tokenizer.decode(made.ids)
        assert all(f"[{i}]" in text for i in range(1, len(passages) + 1))
        prompts.append((turn.turn_id, [passage.passage_id for passage in passages]))
        return made

    monkeypatch.setattr(PromptFormat, "prompt", seen)
    monkeypatch.setattr(
        "uniconv_bench.dense.encode_corpus", lambda *_, **__: pytest.fail("it retrieved")
    )
    expected = {turn.turn_id: list(turn.given) for turn in task.turns()}
    record = run(system("dense"))
    assert dict(prompts) == expected  # beyond depth and top_k of the card
    found = evaluate.outputs(record)
    ranked = read_run(found["run.trec"])
    assert {t: [p for p, _ in ranking] for t, ranking in ranked.items()} == expected
    answers = read_answers(found["answers.jsonl"])
    assert {t: list(answer.evidence) for t, answer in answers.items()} == expected
    assert [score.metric for score in record.scores] == ["f1"]
    assert record.counts.judged_retrieval == 0 and record.counts.judged_generation == 12


def test_a_system_without_passages_stays_without(task: Task, system: Callable[[str], str]) -> None:
    record = run(system("none"), limit=2)
    answers = read_answers(evaluate.outputs(record)["answers.jsonl"])
    assert record.digests.run is None and not any(a.evidence for a in answers.values())


def test_gold_passages_are_gold_where_the_task_has_some(
    task: Task, system: Callable[[str], str]
) -> None:
    with pytest.raises(UserError, match="chatrag-qrecc names no relevant passages"):
        run(system("gold"))
    oracle = Setup.of("oracle", "sample", Silent())
    handed = load_task("faithdial-given", "sample", progress=Silent())
    assert not oracle.is_given(handed) and oracle.part("retriever", handed).fingerprint() == {
        "retriever": "gold"
    }


def test_fingerprints_tell_given_from_retrieved_evidence(private_cache: Path) -> None:
    retrieved, handed = (
        Evaluation.of(name, "bm25+llm", "sample", None, Silent())
        for name in ("faithdial", "faithdial-given")
    )
    assert handed.task.digest == retrieved.task.digest
    assert handed.retrieval[0] != retrieved.retrieval[0]
    assert handed.retrieval[1]["part"] == {"retriever": "given"}
    assert retrieved.retrieval[1]["part"]["retriever"] == "bm25"
    assert (retrieved.depth, retrieved.top_k, handed.depth, handed.top_k) == (100, 3, 1, 1)


def test_no_encoding_is_estimated(task: Task, system: Callable[[str], str]) -> None:
    seconds = estimate("chatrag-qrecc", system("dense"), "full", progress=Silent())
    assert seconds["retrieve"] == 1.0 and seconds["generate"] > 0


def test_a_card_without_data_says_how_to_get_it(
    private_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", "task", "chatrag-quac"]) == 0
    out, err = capfd.readouterr()
    assert "ChatRAG-Bench: QuAC" in out and "a test conversation" not in out
    assert err == (
        "next: uniconv-bench prepare --task chatrag-quac --profile mini --data-dir FOLDER\n"
    )


def test_a_card_shows_what_is_given(task: Task, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "task", "chatrag-qrecc"]) == 0
    out = capfd.readouterr().out
    assert "given 1/" in out and "BM25" not in out and "with\n" not in out
    assert "(full)" in out and "8 passages" in out
