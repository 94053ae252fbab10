"""Hard negatives by embedding: the nearest, no relevant ones, kept; and the adapter that mines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_evaluate import ADAPTER, CARD
from test_uniconv import END, INFERENCE, learnt, task, tiny, trained, training

from uniconv_bench import evaluate
from uniconv_bench.assembly import Setup
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.registry import system_card
from uniconv_bench.uniconv.embedding import embed
from uniconv_bench.uniconv.mining import by_embedding
from uniconv_bench.uniconv.training import train_adapter

DENSE = training(hard_negatives_from="dense", hard_negatives=1)


def nearest(adapter: Path | None = None) -> list[list[str]]:
    toy = task()
    turns = toy.turns("train")
    mine = by_embedding(tiny(), adapter, DENSE, INFERENCE)
    near = mine(toy.corpus, toy, turns, 1, Silent())
    return [[passage.passage_id for passage in near(turn)] for turn in turns]


def test_the_nearest_by_cosine(private_cache: Path, tiny_model: Any, tiny_tokenizer: Any) -> None:
    toy = task()
    form = PromptFormat(tiny_tokenizer, INFERENCE.session_tokens, INFERENCE.passage_tokens)
    passages = embed(tiny_model, [form.passage(p) for p in toy.corpus], END)
    sessions = embed(tiny_model, [form.query(turn) for turn in toy.turns("train")], END)
    order = (sessions @ passages.T).argsort(dim=1, descending=True).tolist()
    found = nearest()
    assert all(len(row) == 8 for row in found)
    assert found == [[f"p{i}" for i in row] for row in order]


def test_relevant_passages_are_no_negatives(private_cache: Path) -> None:
    mine = by_embedding(tiny(), None, DENSE, INFERENCE)
    for example in learnt(task(), DENSE, mine):
        assert example.negatives
        assert not set(example.turn.gold) & {p.passage_id for p in example.negatives}


def test_what_was_mined_is_kept_for_each_adapter(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "a", training(learning_rate=0.3))
    plain, adapted = nearest(), nearest(tmp_path / "a")
    assert plain != adapted

    def refused(*given: Any) -> Any:
        raise AssertionError("mined again")

    monkeypatch.setattr("uniconv_bench.uniconv.parts.load_decoder", refused)
    assert (nearest(), nearest(tmp_path / "a")) == (plain, adapted)


def test_training_learns_from_what_its_miner_finds(
    private_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(backbone: Any, adapter: Path | None, *given: Any) -> Any:
        asked.append(adapter)
        return by_embedding(backbone, adapter, *given)

    monkeypatch.setattr("uniconv_bench.uniconv.mining.by_embedding", watched)
    trained(tmp_path / "a", training(learning_rate=0.3))
    chosen, found = training(hard_negatives_from="dense", max_steps=2), []
    for miner in (None, tmp_path / "a"):
        folder = tmp_path / f"with {miner is not None}"
        folder.mkdir()
        given = ("toy", tiny(), chosen, INFERENCE, [task()], folder, Silent())
        train_adapter(*given, miner=miner)
        found.append(load_file(folder / "adapter_model.safetensors"))
    assert asked == [None, tmp_path / "a"]
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


MINED = """
[adapters.{name}]
tasks = ["qrecc"]
batch_size = 4
max_steps = 2
dtype = "float32"
lora = {{ r = 2 }}
hard_negatives_from = "dense"
hard_negatives_adapter = "{miner}"
"""


def card_of(tmp_path: Path, more: str = "") -> str:
    """`b` learns from negatives that `a` mines."""
    path = tmp_path / "tiny.toml"
    retriever = '{ kind = "dense", adapter = "b" }'
    text = CARD.replace('{ kind = "bm25", query = "session" }', retriever)
    path.write_text(text + ADAPTER + more + MINED.format(name="b", miner="a"))
    return str(path)


def test_the_adapter_that_mines_is_trained_first(tmp_path: Path, private_cache: Path) -> None:
    found = evaluate.train(card_of(tmp_path), "sample", progress=Silent())
    assert set(found) == {"b"}
    made = {path.name.partition("-")[0] for path in (cache_dir() / "adapters").iterdir()}
    assert made == {"a", "b"}
    (_,) = (cache_dir() / "negatives").glob("qrecc-*/nearest.jsonl")
    assert load_file(found["b"] / "adapter_model.safetensors")


def test_another_miner_is_another_adapter(tmp_path: Path, private_cache: Path) -> None:
    identities = []
    for more in ("", "seed = 14\n"):
        setup = Setup.of(card_of(tmp_path, more), "sample", Silent())
        identities.append(setup.identity("b"))
        assert identities[-1]["hard_negatives_adapter"] == digest_of(setup.identity("a"))
        assert "hard_negatives_adapter" not in setup.identity("a")
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("name", "miner", "told"),
    [
        ("b", "c", "hard_negatives_adapter: 'c' is not declared under"),
        ("b", "b", "goes in a circle"),
    ],
)
def test_miners_that_cannot_be(name: str, miner: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD + MINED.format(name=name, miner=miner))
    with pytest.raises(UserError, match=told):
        system_card(str(path))


def test_a_miner_embeds(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD + ADAPTER + 'hard_negatives_adapter = "a"\n')
    with pytest.raises(UserError, match='needs hard_negatives_from = "dense"'):
        system_card(str(path))
