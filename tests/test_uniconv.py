"""The method on a tiny random decoder: losses, mixture, training, encoding."""

from __future__ import annotations

import json
import math
import platform
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from uniconv_bench.cards import Bm25Settings
from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.decode import decode
from uniconv_bench.errors import UserError
from uniconv_bench.files import CACHE, digest_of
from uniconv_bench.metrics import normalise
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import Prompt, PromptFormat
from uniconv_bench.system_cards import Inference
from uniconv_bench.training_cards import SUPERVISED, Lora, Losses, Training
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import Backbone, find_backbone, load_decoder
from uniconv_bench.uniconv.checkpoint import CHECKPOINT
from uniconv_bench.uniconv.embedding import embed, hidden_states, unit
from uniconv_bench.uniconv.loop import learning_rate
from uniconv_bench.uniconv.losses import (
    Contrast,
    Weights,
    cii_loss,
    info_nce,
    loss_terms,
    response_nll,
    similarity_kl,
)
from uniconv_bench.uniconv.mixture import (
    Example,
    examples,
    groups,
    make_batch,
    supervised,
)
from uniconv_bench.uniconv.training import NO_MATTER, RECIPE, identity, leaks, train_adapter

torch.set_num_threads(1)  # two layers of 32 dimensions: threads only wait for each other
END = 2
ROWS = [[1, 40, 41, 42, END], [1, 50, END], [1, 60, 61, 62, 63, 64, 65, END]]
WEIGHTS = Weights(retrieval=1.0, generation=2.0, cii=0.5, temperature=0.05, cii_temperature=0.1)
INFERENCE = Inference(session_tokens=300, passage_tokens=60)


class Corpus(list[Passage]):
    digest = "test"

    @property
    def ids(self) -> list[str]:
        return [p.passage_id for p in self]

    def between(self, start: int, stop: int) -> list[Passage]:
        return list(self)[start:stop]

    def __getitem__(self, key: Any) -> Any:
        found = [p for p in self if p.passage_id == key]
        if not found:
            raise KeyError(key)
        return found[0]


def task(name: str = "toy", turns: int = 8) -> Any:
    """Lighthouses with a keeper each; two turns give the same answer, one has no passage."""
    corpus = Corpus(Passage(f"p{i}", f"Light {i} was kept by keeper {i}.") for i in range(turns))
    said = [f"Light keeper {i}." for i in range(turns)]
    said[1] = "light keeper 0"
    train = [
        Turn(
            f"c{i}_2",
            f"c{i}",
            2,
            "Who kept it?",
            (Utterance("user", f"Tell me of Light {i}."), Utterance("assistant", "A light.")),
            (said[i],),
            (f"p{i}",) if i != 2 else (),
        )
        for i in range(turns)
    ]
    asked = [replace(turn, turn_id=f"t{turn.turn_id}", query="Who kept that?") for turn in train]

    def of(split: str | None = None) -> list[Turn]:
        return {"train": train, None: asked}[split]

    card = SimpleNamespace(name=name, bm25=Bm25Settings(), answer_tokens=8)
    return SimpleNamespace(card=card, corpus=corpus, turns=of, digest="toy")


def learnt(of: Any, chosen: Training, *mine: Any) -> list[Example]:
    """What is learnt from all training turns of a task."""
    return examples(of, supervised(of), chosen, Silent(), *mine)


def training(**changes: Any) -> Training:
    defaults: dict[str, Any] = {
        "tasks": ("toy",),
        "batch_size": 4,
        "epochs": 3,
        "dtype": "float32",
        "lora": Lora(r=4, alpha=8),
        "learning_rate": 0.01,
        "generation_passages": 1,
    }
    return Training(**(defaults | changes))


# --- losses -------------------------------------------------------------------------------------


def test_embedding_is_the_normalised_state_at_the_closing_token(tiny_model: Any) -> None:
    for row, vector in zip(ROWS, embed(tiny_model, ROWS, END), strict=True):
        output = tiny_model(torch.tensor([row]), output_hidden_states=True)
        expected = torch.nn.functional.normalize(output.hidden_states[-1][0, -1], dim=-1)
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)


def test_info_nce_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    every = torch.ones(2, 3, dtype=torch.bool)
    loss = info_nce(queries, candidates, torch.tensor([0, 1]), every, 0.5)
    rows = [(1.0, 0.0, 0.6), (1.0, 0.0, 0.8)]  # the positive's cosine first
    expected = [math.log(sum(math.exp(c / 0.5) for c in row)) - 1 / 0.5 for row in rows]
    assert float(loss) == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_scores_are_float32_even_of_embeddings_that_are_not() -> None:
    torch.manual_seed(0)
    states = torch.randn(6, 512).bfloat16()
    assert unit(states).dtype == torch.float32
    assert torch.allclose(unit(states).norm(dim=-1), torch.ones(6), atol=1e-6)
    queries, candidates = unit(states[:2]).bfloat16(), unit(states[2:]).bfloat16()
    every = torch.ones(2, 4, dtype=torch.bool)
    given = torch.tensor([0, 1]), every, 0.01
    exact = info_nce(queries.float(), candidates.float(), *given)
    assert torch.equal(info_nce(queries, candidates, *given), exact)


def test_a_masked_candidate_has_no_influence_and_a_positive_cannot_be_masked() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(2, 8), torch.randn(3, 8)
    positive, allowed = torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool)
    allowed[:, 2] = False
    without = info_nce(queries, candidates[:2], positive, allowed[:, :2], 0.1)
    assert torch.equal(info_nce(queries, candidates, positive, allowed, 0.1), without)
    allowed[0, 0] = False
    assert torch.equal(info_nce(queries, candidates, positive, allowed, 0.1), without)


def test_info_nce_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    close = torch.nn.functional.normalize(1 + 0.2 * torch.randn(24, 64), dim=-1)
    positive, every = torch.arange(8), torch.ones(8, 16, dtype=torch.bool)
    exact = info_nce(close[:8], close[8:], positive, every, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(close[:8], close[8:], positive, every, 0.01), exact)
        assert (close[:8] @ close[8:].T).dtype == torch.bfloat16  # what it has to keep out


def test_response_likelihood_counts_response_tokens_alone(tiny_model: Any) -> None:
    rows, responses = [[1, 40, 41], [1, 42]], [[50, 51, END], [60, END]]
    prompts = [Prompt(row) for row in rows]
    total = 0.0
    for prompt, response in zip(rows, responses, strict=True):
        logits = tiny_model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        for place, token in enumerate(response, len(prompt) - 1):
            total -= logits[place, token].item()
    loss = response_nll(tiny_model, prompts, responses, END)
    assert loss.item() == pytest.approx(total, abs=1e-4)


def gradients(model: Any, terms: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for _, weight, loss in terms:
        (weight * loss).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_terms_add_up_to_the_joint_loss(tiny_model: Any, form: PromptFormat) -> None:
    chosen = training()
    data = learnt(task(), chosen)
    batch = make_batch(data, chosen, form, random.Random(0))
    apart = gradients(tiny_model, loss_terms(tiny_model, batch, WEIGHTS, END, turns_at_once=3))
    terms = list(loss_terms(tiny_model, batch, WEIGHTS, END, turns_at_once=100))
    assert [name for name, _, _ in terms] == ["retrieval", "generation", "cii"]
    assert [weight for _, weight, _ in terms] == [1.0, 2.0, 0.5]
    tiny_model.zero_grad()
    sum(weight * loss for _, weight, loss in terms).backward()
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(apart[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_terms_without_weight_or_supervision_are_left_out(
    tiny_model: Any, form: PromptFormat
) -> None:
    chosen = training()
    data = learnt(task(), chosen)
    batch = make_batch(data, chosen, form, random.Random(0))
    alone = Weights(0.0, 1.0, 0.0, 0.05, 0.1)
    assert {n for n, _, _ in loss_terms(tiny_model, batch, alone, END)} == {"generation"}
    ungrounded = make_batch([e for e in data if not e.grounds] * 2, chosen, form, random.Random(0))
    assert {n for n, _, _ in loss_terms(tiny_model, ungrounded, WEIGHTS, END)} == {"generation"}


# --- mixture ------------------------------------------------------------------------------------


def test_false_negatives_are_marked_by_passage_and_by_normalised_response(
    form: PromptFormat,
) -> None:
    chosen = training(hard_negatives=0)
    data = learnt(task(), chosen)[:4]
    twice = [data[0], replace(data[0], response="LIGHT keeper 0!"), *data[1:]]
    batch = make_batch(twice, chosen, form, random.Random(0))
    assert batch.positives == [0, 0, 1, None, 2]
    assert len(batch.candidates) == 3
    assert not batch.allowed[0, 0]  # its own passage: the loss keeps it as the positive
    assert batch.allowed[0, 1:].all()
    # "Light keeper 0.", "LIGHT keeper 0!" and "light keeper 0" are one response; the turn without
    # a passage contrasts nothing.
    assert [anchor.turn for anchor in batch.anchors] == [0, 1, 2, 4]
    assert batch.contrasts == [
        *(Contrast((k, k), [(k, 3)]) for k in range(3)),
        Contrast((3, 3), [(3, 0), (3, 1), (3, 2)]),
    ]
    assert batch.responses[3] is not None


def said(form: PromptFormat, batch: Any, pair: tuple[int, int]) -> tuple[str, str]:
    """Passage of the anchor, and response."""
    anchor, target = batch.anchors[pair[0]].ids, batch.targets[pair[1]]
    shown = form.tokenizer.decode(anchor, skip_special_tokens=True).partition("[1] ")[2]
    response = form.tokenizer.decode(target, skip_special_tokens=True)
    return shown.partition(".")[0], response.removeprefix("Answer: ")


@pytest.mark.parametrize("negatives", ["previous_turn", "sampled_generation"])
def test_the_same_response_is_no_rival(negatives: Any, form: PromptFormat) -> None:
    chosen = training(cii_negatives=negatives)
    found = [e for e in learnt(task(), chosen) if e.targets]
    group = [replace(e, response="a LIGHT!", sampled="A light.") for e in found[:3]]
    assert make_batch(group, chosen, form, random.Random(0)).contrasts == []


@pytest.mark.parametrize("score", ["embedding", "loglik"])
@pytest.mark.parametrize(
    ("negatives", "wrong"),
    [
        ("in_batch", ("Light 4 was kept by keeper 4", "Light keeper 3.")),
        ("previous_turn", ("Light 4 was kept by keeper 4", "A light.")),
        ("sampled_generation", ("Light 4 was kept by keeper 4", "Nobody.")),
        ("retrieved_wrong_passage", ("Light 3 was kept by keeper 3", "Light keeper 4.")),
    ],
)
def test_rivals_of_a_response(negatives: Any, wrong: Any, score: Any, form: PromptFormat) -> None:
    chosen = training(cii_negatives=negatives, cii_score=score)
    group = [replace(e, sampled="Nobody.") for e in learnt(task(), chosen) if e.targets]
    batch = make_batch(group, chosen, form, random.Random(0))
    (fourth,) = (c for c in batch.contrasts if batch.anchors[c.right[0]].turn == 3)
    assert said(form, batch, fourth.right) == ("Light 4 was kept by keeper 4", "Light keeper 4.")
    rivals = [said(form, batch, pair) for pair in fourth.wrong]
    assert wrong in rivals
    assert ("Light 4 was kept by keeper 4", "Light keeper 4.") not in rivals
    ends = [anchor.ids[-1] == form.end for anchor in batch.anchors]
    assert all(ends) if score == "embedding" else not any(ends)
    few = make_batch(group, chosen.model_copy(update={"cii_rivals": 1}), form, random.Random(0))
    assert [len(contrast.wrong) for contrast in few.contrasts] == [1] * len(group)


def test_cii_by_hand() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [9.0, 3.0, 2.0]])
    contrasts = [Contrast((0, 0), [(0, 1), (0, 2)]), Contrast((1, 1), [(1, 2)])]
    e = math.exp
    softmax = (math.log(1 + e(-2) + e(-4)) + math.log(1 + e(-2))) / 2
    sigmoid = ((math.log(1 + e(-2)) + math.log(1 + e(-4))) / 2 + math.log(1 + e(-2))) / 2
    assert cii_loss(scores, contrasts, 0.5, "loglik").item() == pytest.approx(softmax)
    assert cii_loss(scores, contrasts, 0.5, "pairwise").item() == pytest.approx(sigmoid)


def test_other_losses_read_the_same_whatever_cii_contrasts(form: PromptFormat) -> None:
    made = []
    for changes in (
        {},
        {"cii_rivals": 1},
        {"cii_negatives": "retrieved_wrong_passage", "cii_rivals": 1},
    ):
        chosen = training(generation_input="session+passage", **changes)
        group = learnt(task(), chosen)
        made.append(make_batch(group, chosen, form, random.Random(0)))
    assert made[0].prompts == made[1].prompts == made[2].prompts
    assert made[0].candidates == made[1].candidates == made[2].candidates


@pytest.mark.parametrize(
    ("ddm", "passages", "responses"),
    [("passage_only", 7, 0), ("response_only", 0, 8), ("different_turns", 3, 4)],
)
def test_what_a_regime_leaves(ddm: Any, passages: int, responses: int, form: PromptFormat) -> None:
    losses = {name: float(name in SUPERVISED[ddm]) for name in ("retrieval", "generation", "cii")}
    chosen = training(ddm=ddm, losses=losses, generation_input="session+passage")
    found = learnt(task(), chosen)
    assert [e.turn for e in found] == [e.turn for e in learnt(task(), training())]
    assert sum(bool(e.targets) for e in found) == passages
    assert sum(e.response is not None for e in found) == responses
    assert not any(e.targets and e.response is not None for e in found)
    batch = make_batch(found, chosen, form, random.Random(0))
    assert batch.contrasts == []
    with pytest.raises(ValueError, match=f"ddm {ddm!r} leaves losses.cii nothing: make it 0"):
        training(ddm=ddm, losses=losses | {"cii": 0.5})


def test_a_response_in_other_words_for_case_and_points_is_no_rival(form: PromptFormat) -> None:
    """Without DDM responses are what L_R contrasts: turns 0 and 1 say the same."""
    chosen = training(ddm="response_as_passage", hard_negatives=3)
    found = learnt(task(), chosen)
    for example in found[:2]:
        assert example.negatives
        said = {normalise(p.text) for p in example.negatives}
        assert said.isdisjoint({"light keeper 0"})
    batch = make_batch(found, chosen, form, random.Random(0))
    same = [k for k, p in enumerate(batch.passages) if normalise(p.text) == "light keeper 0"]
    assert len(same) == 2 and not batch.allowed[:2][:, same].any()
    assert batch.masked["masked_candidates"] > 0


def test_what_l_cii_grounds_on_is_not_its_rival() -> None:
    chosen = training(ddm="passage_as_response", cii_negatives="retrieved_wrong_passage")
    for example in learnt(task(), chosen):
        assert example.wrong
        assert not {p.text for p in example.wrong} & {p.text for p in example.grounds}


def test_turns_that_are_tested_too_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = task()
    train = toy.turns("train")
    assert [e.turn for e in learnt(toy, training())] == train
    alone = replace(train[0], history=())  # a first question may well be the same
    spoken = [replace(u, text=u.text.upper()) for u in train[3].history]
    other = [alone, replace(train[3], turn_id="x", history=tuple(spoken), query="who kept it")]
    seen = task("other")
    seen.turns = lambda split=None: other
    turns = {"toy": train, "again": [*train, alone], "new": toy.turns()}
    assert leaks(turns, [toy, seen]) == {"toy": 1, "again": 1, "new": 8}
    notes: list[str] = []
    progress = Silent()
    progress.note = notes.append  # type: ignore[method-assign]
    toy.turns = lambda split=None: train
    train_adapter("toy", tiny(), training(max_steps=1), INFERENCE, [toy], tmp_path, progress)
    assert notes[0] == "  WARNING: toy trains on 8 turns of toy that are tested on too"
    assert json.loads((tmp_path / "training.json").read_text())["tested_turns"] == {"toy": 8}


def test_hard_negatives_are_neighbours_but_never_relevant() -> None:
    for example in learnt(task(), training()):
        relevant = {p.passage_id for p in example.targets}
        assert example.negatives == example.distractors != ()
        assert not relevant & {p.passage_id for p in example.negatives}


def test_without_ddm_one_text_serves_both(form: PromptFormat) -> None:
    plain = {e.turn.turn_id: e for e in learnt(task(), training())}
    for example in learnt(task(), training(ddm="response_as_passage")):
        assert [p.text for p in example.targets] == [example.response]
        assert example.response == plain[example.turn.turn_id].response
        assert example.negatives and all(
            p.passage_id.startswith("response:") and p.text != example.response
            for p in example.negatives
        )
    for example in learnt(task(), training(ddm="passage_as_response")):
        assert example.targets == plain[example.turn.turn_id].targets
        assert example.response == (example.targets[0].text if example.targets else None)


@pytest.mark.parametrize("ddm", ["response_as_passage", "passage_as_response"])
def test_without_ddm_everything_else_is_the_same(ddm: Any, form: PromptFormat) -> None:
    """As many candidates, passages in the prompt and grounded pairs; never the answer on show."""
    made = {}
    for kind in ("both", ddm):
        chosen = training(ddm=kind, generation_input="session+passage", generation_passages=2)
        group = [e for e in learnt(task(), chosen) if e.turn.gold]
        made[kind] = make_batch(group, chosen, form, random.Random(0))
        for example, prompt in zip(group, made[kind].prompts, strict=True):
            assert form.tokenizer.decode(prompt.ids).count("was kept by") == 3
            shown = form.tokenizer.decode(prompt.ids).partition("Passages:")[2]
            if kind == "passage_as_response":  # it would only be copied
                assert example.response is not None and example.response not in shown
            else:
                gold = example.turn.gold[0].removeprefix("p")
                assert f"kept by keeper {gold}" in shown
    assert len(made[ddm].candidates) == pytest.approx(len(made["both"].candidates), abs=2)
    turns = {kind: [anchor.turn for anchor in batch.anchors] for kind, batch in made.items()}
    assert turns[ddm] == turns["both"]


def test_generation_reads_the_gold_passage_among_distractors_or_the_session_alone(
    form: PromptFormat,
) -> None:
    for kind, passages in (("session", 0), ("session+passage", 3)):
        chosen = training(generation_input=kind, generation_passages=2)
        group = [e for e in learnt(task(), chosen) if e.targets]
        batch = make_batch(group, chosen, form, random.Random(0))
        for example, prompt in zip(group, batch.prompts, strict=True):
            text = form.tokenizer.decode(prompt.ids)
            assert text.count("was kept by") == passages
            assert (example.targets[0].text in text) == bool(passages)


def test_turns_do_not_depend_on_what_is_weighted() -> None:
    """Else adapters would differ in their data beside their losses; turn 2 has no passage."""
    wanted = [e.turn.turn_id for e in learnt(task(), training())]
    assert len(wanted) == 8
    for term in ("retrieval", "generation", "cii"):
        losses = Losses(**{"retrieval": 0.0, "generation": 0.0, "cii": 0.0} | {term: 1.0})
        for ddm in ("both", "response_as_passage", "passage_as_response"):
            data = learnt(task(), training(losses=losses, ddm=ddm))
            assert [e.turn.turn_id for e in data] == wanted


def test_turns_without_passage_and_response_are_left_out() -> None:
    bare = task()
    silent = [replace(turn, references=()) for turn in bare.turns("train")]
    bare.turns = {"train": silent}.__getitem__
    assert [e.turn.number for e in learnt(bare, training())] == [2] * 7


def test_groups_hold_one_task_each_and_every_turn_once_an_epoch() -> None:
    chosen = training(batch_size=3)
    data = {n: learnt(task(n, size), chosen) for n, size in (("a", 6), ("b", 8))}
    first = groups(data, chosen, 0)
    assert first == groups(data, chosen, 0)
    assert first != groups(data, chosen, 1)
    seen = [id(e) for group in first for e in group]
    assert sorted(seen) == sorted(id(e) for found in data.values() for e in found)
    for group in first:
        assert any(all(e in found for e in group) for found in data.values())


def test_a_mixture_reads_a_task_more_often_or_in_part() -> None:
    chosen = training(tasks=("a", "b"), batch_size=2, mixture={"a": 2.0, "b": 0.5})
    data = {n: learnt(task(n, size), chosen) for n, size in (("a", 6), ("b", 8))}
    read = [Counter(id(e) for g in groups(data, chosen, epoch) for e in g) for epoch in (0, 1)]
    for epoch in read:
        assert [epoch[id(e)] for e in data["a"]] == [2] * 6
        assert sorted(epoch[id(e)] for e in data["b"])[-4:] == [1] * 4
        assert epoch.total() == 12 + 4
    assert read[0] != read[1]
    with pytest.raises(ValueError, match="mixture names 'c', which is none of tasks"):
        training(tasks=("a",), mixture={"c": 2.0})


# --- training -----------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a killed process."""


class StopAfter(Silent):
    """Raises after a number of optimiser steps."""

    def __init__(self, steps: int):
        self.steps = steps

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        done = 0

        def advance(count: int, told: str = "") -> None:
            nonlocal done
            done += count
            if label.startswith("train") and done >= self.steps:
                raise Stopped

        yield advance


def tiny() -> Backbone:
    return find_backbone("random-tiny")


def trained(folder: Path, chosen: Training, progress: Any = None) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    train_adapter("toy", tiny(), chosen, INFERENCE, [task()], folder, progress or Silent())
    return load_file(folder / "adapter_model.safetensors")


def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    chosen = training(checkpoint_steps=2)
    whole = trained(tmp_path / "whole", chosen)
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", chosen, StopAfter(3))
    assert (tmp_path / "stopped" / CHECKPOINT).is_dir()
    resumed = trained(tmp_path / "stopped", chosen)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = trained(tmp_path / "other", training(checkpoint_steps=2, seed=14))
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_a_launchers_settings_and_other_adapters_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate keeps precision and accumulation for the whole process; the card's hold."""
    whole = trained(tmp_path / "whole", training(max_steps=2))
    half = trained(tmp_path / "half", training(max_steps=2, dtype="bfloat16"))
    assert not all(torch.equal(whole[name], half[name]) for name in whole)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    again = trained(tmp_path / "again", training(max_steps=2))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_changed_default_is_a_new_recipe() -> None:
    """An adapter's identity leaves defaults out: a change of one has to raise RECIPE."""
    defaults = Training(tasks=("toy",)).model_dump(mode="json", exclude={"sources", *NO_MATTER})
    pinned = (RECIPE, digest_of(defaults))
    assert pinned == (2, "89f05f99e0824b4194cdcfd0fbe314b057a0c6192d3536d1dc88a4653831add9")


def test_sampled_rivals_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    chosen = training(
        cii_negatives="sampled_generation",
        cii_score="loglik",
        cii_temperature=1.0,
        sampling_temperature=0.9,
    )
    drawn: list[float] = []

    def noted(model: Any, prompts: Any, how: Any, **settings: Any) -> Any:
        drawn.append(how.temperature)
        return decode(model, prompts, how, **settings)

    monkeypatch.setattr("uniconv_bench.uniconv.samples.decode", noted)
    for name in ("one", "two"):
        weights = trained(tmp_path / name, chosen)
        report = json.loads((tmp_path / name / "training.json").read_text())
        assert all(step["cii"] > 0 for step in report["log"])
        (kept,) = (tmp_path / "cache" / "samples").rglob("samples.json")
        said = json.loads(kept.read_text())
        assert len(said) == 8 and len(set(said)) > 4  # a random decoder never says the same
    assert drawn == [0.9]
    other = trained(tmp_path / "other", training(cii_score="loglik", cii_temperature=1.0))
    assert not all(torch.equal(weights[key], other[key]) for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("term", ["retrieval", "generation", "cii"])
def test_training_lowers_its_loss_and_writes_what_it_did(term: str, tmp_path: Path) -> None:
    losses = Losses(**{"retrieval": 0.0, "generation": 0.0, "cii": 0.0} | {term: 1.0})
    gentle = {"temperature": 0.05, "cii_temperature": 0.05, "learning_rate": 0.05}
    trained(tmp_path / "a", training(losses=losses, epochs=30, **gentle))
    report = json.loads((tmp_path / "a" / "training.json").read_text())
    values = [row[term] for row in report["log"]]
    assert sum(values[-4:]) < 0.98 * sum(values[:4])
    assert report["steps"] == len(report["log"]) == 60
    config = (tmp_path / "a" / "adapter_config.json").read_text()
    assert json.loads(config)["base_model_name_or_path"] == "random-tiny"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
@pytest.mark.slow
def test_memory_that_was_kept_is_given_back() -> None:
    """In a process of its own: what is kept is kept to its end."""
    script = """
import torch
from pathlib import Path
from uniconv_bench.uniconv.memory import give_back_memory, keep_freed_memory
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 >> 10
keep_freed_memory()
before = held()
large = [torch.ones(1 << 18) for _ in range(200)]
del large
give_back_memory(spare=0.0)  # more than nothing is available
kept = held()
give_back_memory()
print(kept - before, held() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept >= 200 and left < 20  # MiB


def test_an_adapter_merged_or_beside_says_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "a", training(learning_rate=0.1))
    monkeypatch.setattr("uniconv_bench.uniconv.backbone._loaded", {})
    ids = torch.tensor([[5, 6, 7, 8]])

    def logits(adapter: Path | None, dtype: str, merge: bool) -> torch.Tensor:
        model, _ = load_decoder(tiny(), adapter, dtype, merge, Silent())
        assert model.get_input_embeddings().weight.dtype == getattr(torch, dtype)
        beside = any("lora_" in name for name, _ in model.named_modules())
        assert beside == (adapter is not None and not merge)
        with torch.inference_mode():
            found: torch.Tensor = model(ids).logits.float()
        return found

    exact = logits(tmp_path / "a", "float32", False)
    far = (logits(None, "float32", True) - exact).abs().max()
    assert far > 0.5
    torch.testing.assert_close(logits(tmp_path / "a", "float32", True), exact, atol=1e-4, rtol=0)
    for merge in (True, False):
        assert (logits(tmp_path / "a", "bfloat16", merge) - exact).abs().max() < far / 10


def test_every_lora_target_has_to_match(tiny_model: Any) -> None:
    found = adapted(tiny_model, training(lora=Lora(targets=("q_proj", "down_proj"))))
    names = {n.split(".lora_")[0] for n, p in found.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in names} == {"q_proj", "down_proj"}
    for absent in ("w1", "proj"):  # a part of a name is none
        with pytest.raises(UserError, match=absent):
            adapted(tiny_model, training(lora=Lora(targets=("q_proj", absent))))


def test_all_linear_leaves_the_language_head_alone(tiny_model: Any) -> None:
    found = adapted(tiny_model, training())
    names = [n for n, p in found.named_parameters() if p.requires_grad]
    assert {n.split(".lora_")[0].rpartition(".")[2] for n in names} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    }


def test_learning_rate_warms_up_and_decays() -> None:
    chosen = training(warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(step, 100, chosen) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9]) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    constant = training(warmup=0.0, schedule="constant", learning_rate=1.0)
    assert {learning_rate(step, 10, constant) for step in range(10)} == {1.0}


def test_identity_follows_data_and_settings_but_not_sources() -> None:
    base = identity(tiny(), training(), INFERENCE, [task()])
    assert base == identity(tiny(), training(sources={"seed": "ours"}), INFERENCE, [task()])
    assert base != identity(tiny(), training(seed=14), INFERENCE, [task()])
    assert base != identity(tiny(), training(), INFERENCE, [task(turns=9)])
    assert base != identity(tiny(), training(), Inference(session_tokens=9), [task()])


# --- encoding and decoding ------------------------------------------------------------------------


def test_batched_and_single_embeddings_agree(tiny_model: Any) -> None:
    together = embed(tiny_model, ROWS, END)
    for row, vector in zip(ROWS, together, strict=True):
        torch.testing.assert_close(embed(tiny_model, [row], END)[0], vector, atol=1e-6, rtol=0)


def test_padding_does_not_reach_the_states(tiny_model: Any) -> None:
    alone = hidden_states(tiny_model, ROWS[:1], END)[0]
    padded = hidden_states(tiny_model, ROWS, END)[0, : len(ROWS[0])]
    torch.testing.assert_close(alone, padded, atol=1e-6, rtol=0)


# --- several stages, several models --------------------------------------------------------------


def test_similarity_kl_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.5, 0.1], [0.2, 0.9]])

    def softmax(row: Any) -> list[float]:
        powers = [math.exp(value / 0.5) for value in row]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for own, wanted in zip(((1.0, 0.0), (0.6, 0.8)), teacher.tolist(), strict=True):
        pairs = zip(softmax(wanted), softmax(own), strict=True)
        total += sum(t * math.log(t / s) for t, s in pairs)
    found = similarity_kl(queries, candidates, teacher, 0.5)
    assert float(found) == pytest.approx(total / 2, abs=1e-6)
    assert float(similarity_kl(queries, candidates, queries @ candidates.T, 0.5)) == 0.0


def test_training_goes_on_from_the_weights_of_another_adapter(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", training())
    (tmp_path / "second").mkdir()
    still = training(learning_rate=1e-12, seed=99, max_steps=1)
    train_adapter(
        *("toy", tiny(), still, INFERENCE, [task()], tmp_path / "second", Silent()),
        origin=tmp_path / "first",
    )
    second = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert second.keys() == first.keys()
    assert all(torch.equal(second[name], first[name]) for name in first)
    alone = trained(tmp_path / "alone", still)
    assert not all(torch.equal(alone[name], first[name]) for name in first)
    report = json.loads((tmp_path / "second" / "training.json").read_text())
    assert report["start"]["steps"] == 6 and report["steps"] == 1
