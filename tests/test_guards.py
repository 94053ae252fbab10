"""What is watched while training: each number by hand, and each failure planted and found."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_uniconv import END, learnt, task, trained, training

from uniconv_bench.conversation import INSTRUCTION
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.training_cards import Guards as Bounds
from uniconv_bench.training_cards import Validation
from uniconv_bench.uniconv.embedding import embed
from uniconv_bench.uniconv.guards import Guards, chat, warnings
from uniconv_bench.uniconv.losses import response_nll


def guards(form: PromptFormat, **changes: Any) -> Guards:
    chosen = training(**changes)
    return Guards(learnt(task(), chosen), chosen, form)


def test_embeddings_by_hand(tiny_model: Any, form: PromptFormat) -> None:
    judged = [e for e in learnt(task(), training()) if e.targets]
    sessions = embed(tiny_model, [form.query(e.turn) for e in judged], END)
    passages = embed(tiny_model, [form.passage(e.targets[0]) for e in judged], END)
    found = guards(form).measure(tiny_model, None)
    for name, vectors in (("session_variance", sessions), ("passage_variance", passages)):
        wanted = ((vectors - vectors.mean(0)) ** 2).sum(1).mean().item()
        assert found[name] == pytest.approx(wanted, abs=1e-5)
    apart = torch.cdist(sessions, passages).square()
    own = torch.eye(len(judged), dtype=torch.bool)
    assert found["alignment"] == pytest.approx(apart[own].mean().item(), abs=1e-5)
    gap = apart[~own].mean() - apart[own].mean()
    assert found["alignment_gap"] == pytest.approx(gap.item(), abs=1e-5)


@pytest.mark.parametrize("mask", ["none", "strict"])
def test_likelihoods_by_hand(mask: Any, tiny_model: Any, form: PromptFormat) -> None:
    found = guards(form, session_mask=mask).measure(tiny_model, None)
    nll, tokens = {"shown": 0.0, "hidden": 0.0}, 0
    for example in learnt(task(), training()):
        if example.grounds:
            response = form.response(example.response or "")
            tokens += len(response)
            for name, passages in (("shown", example.grounds[:1]), ("hidden", ())):
                prompt = form.prompt(example.turn, passages, mask)
                nll[name] += response_nll(tiny_model, [prompt], [response], END).item()
    gain = (nll["hidden"] - nll["shown"]) / tokens
    assert found["passage_gain"] == pytest.approx(gain, abs=1e-5)
    assert found["forgetting"] == 0


def test_a_passage_shared_by_two_turns_is_not_another_turns(
    tiny_model: Any, form: PromptFormat
) -> None:
    (first, *others) = [e for e in learnt(task(), training()) if e.targets]
    twice = [first, first, others[0]]
    numbers = Guards(twice, training(), form).measure(tiny_model, None)
    once = Guards([first, others[0]], training(), form).measure(tiny_model, None)
    sessions = embed(tiny_model, [form.query(e.turn) for e in (first, others[0])], END)
    passages = embed(tiny_model, [form.passage(e.targets[0]) for e in (first, others[0])], END)
    apart = torch.cdist(sessions, passages).square()
    wanted = (2 * apart[0, 1] + 2 * apart[1, 0]) / 4
    assert numbers["alignment_gap"] + numbers["alignment"] == pytest.approx(wanted.item(), abs=1e-5)
    assert once["alignment_gap"] + once["alignment"] == pytest.approx(wanted.item(), abs=1e-5)


def test_turns_without_supervision_have_no_such_numbers(
    tiny_model: Any, form: PromptFormat
) -> None:
    bare = [replace(e, targets=(), grounds=()) for e in learnt(task(), training())]
    found = Guards(bare, training(), form).measure(tiny_model, None)
    assert set(found) == {"chat_nll", "forgetting"}
    assert warnings(found, Bounds()) == {}


def test_collapse_and_an_ignored_passage_are_found(tiny_model: Any, form: PromptFormat) -> None:
    """A decoder whose layers pass on nothing: every state is that of its own token."""
    healthy = guards(form).measure(tiny_model, None)
    with torch.no_grad():
        for layer in tiny_model.base_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    found = guards(form).measure(tiny_model, None)
    assert healthy["session_variance"] > 1e-4
    assert found["session_variance"] == pytest.approx(0, abs=1e-5)
    assert found["passage_gain"] == pytest.approx(0, abs=1e-5)
    told = warnings(found, Bounds())
    assert set(told) == {"session_variance", "passage_variance", "alignment_gap", "passage_gain"}
    assert told["session_variance"].startswith("retrieval collapse: ")
    assert told["passage_gain"].startswith("ignored passage: ")


def test_no_number_is_beyond_every_bound() -> None:
    names = ("session_variance", "passage_gain", "text_for_end", "forgetting")
    assert set(warnings(dict.fromkeys(names, math.nan), Bounds())) == set(names)


def test_chat_is_asked_without_the_tasks_instruction(form: PromptFormat) -> None:
    assert INSTRUCTION not in form.tokenizer.decode(form.chat("How are you?").ids)
    assert INSTRUCTION in form.tokenizer.decode(form.prompt(task().turns("train")[0], []).ids)


def test_text_in_place_of_an_embedding_is_found(tiny_model: Any, form: PromptFormat) -> None:
    for logit, share in ((1e4, 0.0), (-1e4, 1.0)):
        tiny_model.lm_head.bias = torch.nn.Parameter(torch.zeros(tiny_model.config.vocab_size))
        tiny_model.lm_head.bias.data[END] = logit
        found = guards(form).measure(tiny_model, None)
        assert found["text_for_end"] == share
        told = warnings(found, Bounds(most_text_for_end=0.5))
        assert ("text_for_end" in told) == (share == 1.0)


def test_forgetting_is_found(tiny_model: Any, form: PromptFormat) -> None:
    watched = guards(form)
    before = watched.measure(tiny_model, None)
    with torch.no_grad():
        tiny_model.get_output_embeddings().weight.mul_(-30)
    after = watched.measure(tiny_model, before)
    assert after["forgetting"] == after["chat_nll"] - before["chat_nll"] > 0.5
    assert "forgetting" in warnings(after, Bounds())
    assert "forgetting" not in warnings(after, Bounds(most_forgetting=100.0))


def test_chat_is_general_and_says_nothing_twice() -> None:
    exchanges = chat()
    assert 10 <= len(exchanges) <= 20
    assert len({text for exchange in exchanges for text in exchange}) == 2 * len(exchanges)


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_training_reports_and_warns(tmp_path: Path) -> None:
    """Bounds that nothing keeps: a warning at every point but the one before training."""
    noting = Noting()
    bounds = Bounds(least_passage_gain=50.0, most_forgetting=-50.0)
    chosen = training(validation=Validation(share=0.25, every=3), guards=bounds)
    trained(tmp_path / "a", chosen, noting)
    report = json.loads((tmp_path / "a" / "training.json").read_text())["guards"]
    assert [point["steps"] for point in report["points"]] == [0, 3, 6]
    first, *later = report["points"]
    assert first["forgetting"] == 0
    assert [point["forgetting"] for point in later] == pytest.approx(
        [point["chat_nll"] - first["chat_nll"] for point in later], abs=2e-5
    )
    assert later[0]["chat_nll"] != later[1]["chat_nll"] != first["chat_nll"]
    assert report["bounds"]["least_passage_gain"] == 50.0
    for number in ("passage_gain", "forgetting"):
        assert [w["steps"] for w in report["warnings"] if w["number"] == number] == [3, 6]
        (told, _) = [line for line in noting.notes if f": {number} is " in line]
        assert told.startswith("  WARNING after step 3: ")
