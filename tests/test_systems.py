"""Systems beside the paper's own, each through the ordinary stages on the tiny random backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import evaluate
from uniconv_bench.conversation import Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, read_jsonl
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.records import ResultRecord
from uniconv_bench.registry import system_card
from uniconv_bench.runs import read_run
from uniconv_bench.task import load_task

SMALL = """
[backbone]
sample = "random-tiny"
[inference]
session_tokens = 200
passage_tokens = 40
decode_batch_size = 3
"""
TINY_TRAINING = """
tasks = ["qrecc"]
batch_size = 3
max_steps = 2
dtype = "float32"
hard_negatives = 1
generation_passages = 0
lora = { r = 2 }
"""


def derived(folder: Path, base: str, changes: str = "") -> str:
    """A shipped system on the tiny backbone, as a card by path."""
    name = f"tiny-{base}".replace("+", "-")
    path = folder / f"{name}.toml"
    path.write_text(
        f'extends = "{base}"\nname = "{name}"\ntitle = "T"\ndescription = "D"\n{SMALL}{changes}'
    )
    return str(path)


def run(system: str, limit: int = 4) -> ResultRecord:
    record, _ = evaluate.run(
        "qrecc", system, "sample", limit=limit, results=None, progress=Silent()
    )
    return record


def turns(count: int) -> list[Turn]:
    return load_task("qrecc", "sample", progress=Silent()).turns()[:count]


# --- rewriting ----------------------------------------------------------------------------------


def test_bm25_is_asked_what_the_decoder_wrote(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.uniconv.rewriting import Rewriter

    asked: list[str] = []

    def texts(self: Any, model: Any, form: PromptFormat, batch: list[Turn]) -> list[str]:
        asked.extend(turn.turn_id for turn in batch)
        return ["" if t.number == 2 else f"keeper of the lighthouse {t.number}" for t in batch]

    monkeypatch.setattr(Rewriter, "_texts", texts)
    record = run(derived(tmp_path, "rewrite+bm25"))
    later = [turn for turn in turns(4) if turn.history]
    assert asked == [turn.turn_id for turn in later] and 2 <= len(later) < 4
    (path,) = (cache_dir() / "rewrites").glob("qrecc-*/rewrites.jsonl")
    rows = [row for _, row in read_jsonl(path)]
    assert [row["query"] for row in rows] == [turn.query for turn in later]
    task = load_task("qrecc", "sample", progress=Silent())
    from uniconv_bench.index import Bm25Index

    index = Bm25Index(task.corpus, task.card.bm25)
    written = {row["turn_id"]: row["rewrite"] for row in rows}
    found = read_run(evaluate.outputs(record)["run.trec"])
    for turn in turns(4):
        query = written.get(turn.turn_id) or turn.query
        assert [p for p, _ in found[turn.turn_id]] == [p for p, _ in index.search(query, 100)]


def test_rewrites_go_on_where_a_stopped_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.uniconv.rewriting import Rewriter

    write = Rewriter._texts
    batches: list[int] = []

    def stops(self: Any, model: Any, form: Any, batch: Any) -> list[str]:
        batches.append(len(batch))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return write(self, model, form, batch)

    system = derived(tmp_path, "rewrite+bm25")

    def rewrites(folder: str) -> str:
        monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / folder))
        run(system, limit=9)
        (path,) = (tmp_path / folder / "rewrites").glob("qrecc-*/rewrites.jsonl")
        return path.read_text()

    whole = rewrites("whole")
    monkeypatch.setattr(Rewriter, "_texts", stops)
    with pytest.raises(KeyboardInterrupt):
        rewrites("stopped")
    assert rewrites("stopped") == whole
    assert batches[0] == 3 and sum(batches) == len(whole.splitlines()) + batches[1]


def test_what_is_rewritten_is_the_conversation_in_its_order(tiny_tokenizer: Any) -> None:
    history = (
        Utterance("user", "Tell me of Nore."),
        Utterance("assistant", "A light."),
        Utterance("user", "Where?"),
        Utterance("assistant", "At sea."),
    )
    turn = Turn("c_3", "c", 3, "Who kept it?", history)
    form = PromptFormat(tiny_tokenizer, 1000, 60)
    text = tiny_tokenizer.decode(form.rewriting(turn).ids)
    said = "User: Tell me of Nore.\nAssistant: A light.\nUser: Where?\nAssistant: At sea.\n"
    assert f"<|im_start|>user\n{said}User: Who kept it?<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
    short = PromptFormat(tiny_tokenizer, len(form.rewriting(turn).ids) - 1, 60)
    assert "user\nUser: Where?" in tiny_tokenizer.decode(short.rewriting(turn).ids)


def test_a_wrong_field_of_the_retriever_behind_a_rewriter_is_named(tmp_path: Path) -> None:
    system = derived(tmp_path, "rewrite+bm25", "[retriever.retriever]\nquerry = 1\n")
    with pytest.raises(UserError, match="field retriever.retriever.querry.*did you mean 'query'"):
        system_card(system)


# --- ablations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "learnt"),
    [
        ("uniconv-no-retrieval", {"generation", "cii"}),
        ("uniconv-no-generation", {"retrieval", "cii"}),
    ],
)
def test_an_ablation_learns_the_other_losses_and_still_does_both(
    system: str, learnt: set[str], tmp_path: Path, private_cache: Path
) -> None:
    path = derived(tmp_path, system, f"[adapters.joint]\n{TINY_TRAINING}")
    record = run(path)
    assert {score.stage for score in record.scores} == {"retrieval", "generation"}
    (report,) = (cache_dir() / "adapters").glob("joint-*/training.json")
    log = json.loads(report.read_text())["log"]
    assert {name for row in log for name in row} & {"retrieval", "generation", "cii"} == learnt
