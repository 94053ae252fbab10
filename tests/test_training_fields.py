"""What a card says of training is what training does: each field of `Training`, each draw and each
text that a batch is made of reaches the place it is for. Their sources are test_registry's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest
import torch
from test_uniconv import INFERENCE, learnt, task, tiny, training

from uniconv_bench.conversation import Passage, SessionMask, Turn
from uniconv_bench.decode import Decoding
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Answer, Context
from uniconv_bench.system_cards import DenseRetriever as DenseCard
from uniconv_bench.training_cards import Distillation, Lora, Losses, Training
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import load_model
from uniconv_bench.uniconv.distillation import Teacher
from uniconv_bench.uniconv.embedding import embed
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.loop import Run, learning_rate
from uniconv_bench.uniconv.losses import Weights
from uniconv_bench.uniconv.mixture import groups, make_batch
from uniconv_bench.uniconv.parts import DenseRetriever
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.samples import with_samples
from uniconv_bench.uniconv.training import identity
from uniconv_bench.uniconv.validation import Validator

# --- data and batches -----------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "matters"), [("train", True), (None, False)])
def test_an_adapter_is_known_by_its_training_turns_alone(split: str | None, matters: bool) -> None:
    of = task()
    before = identity(tiny(), training(), INFERENCE, [of])
    parts = {name: of.turns(name) for name in ("train", None)}
    parts[split] = parts[split][:4]
    of.turns = lambda split=None: parts[split]
    assert (identity(tiny(), training(), INFERENCE, [of]) != before) == matters


def with_two_gold_passages() -> Any:
    """The toy task; a passage is relevant to its turn and to the one before."""
    of = task()
    turns = [
        replace(turn, gold=(f"p{number}", f"p{(number + 1) % 8}"))
        for number, turn in enumerate(of.turns("train"))
    ]
    of.turns = lambda split=None: turns
    return of


@pytest.mark.parametrize("score", ["embedding", "loglik"])
@pytest.mark.parametrize("mask", get_args(SessionMask))
@pytest.mark.parametrize(("asked", "history"), [("session", "query"), ("query", "session")])
def test_each_loss_reads_what_the_card_says_and_all_the_same_passage(
    asked: Any, history: Any, mask: Any, score: Any, form: PromptFormat
) -> None:
    chosen = training(
        retrieval_input=asked,
        session_mask=mask,
        generation_input="session+passage",
        generation_passages=0,
        cii_input=f"{history}+passage",
        cii_score=score,
    )
    group = learnt(with_two_gold_passages(), chosen)
    drawn: list[set[str]] = [set() for _ in group]
    for seed in range(8):
        batch = make_batch(group, chosen, form, random.Random(seed))
        for number, (example, positive) in enumerate(zip(group, batch.positives, strict=True)):
            assert positive is not None
            ground, turn = batch.passages[positive], example.turn
            assert batch.queries[number] == form.query(turn, asked)
            assert batch.prompts[number] == form.prompt(turn, [ground], mask)
            assert batch.anchors[number] == (
                number,
                [*form.grounded(turn, [ground], history), form.end]
                if score == "embedding"
                else form.prompt(turn, [ground], history=history).ids,
            )
            drawn[number].add(ground.passage_id)
    assert drawn == [set(example.turn.gold) for example in group]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_so_many_hard_negatives_a_turn(count: int, form: PromptFormat) -> None:
    chosen = training(hard_negatives=count)
    for example in learnt(task(turns=12), chosen):
        batch = make_batch([example], chosen, form, random.Random(0))
        assert len(batch.passages) == (1 + count if example.targets else 0)


def test_every_turn_has_what_was_said_to_itself(
    private_cache: Any, form: PromptFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that says after each turn what it was asked, the last one first."""

    def echoes(model: Any, prompts: Any, *_: Any, **__: Any) -> Iterator[tuple[int, list[int]]]:
        yield from reversed([(number, prompt.ids) for number, prompt in enumerate(prompts)])

    monkeypatch.setattr("uniconv_bench.uniconv.samples.decode", echoes)
    found = learnt(task(), training())
    model = load_model(tiny(), "float32", Silent())
    how = Decoding(ends=(form.end,), max_new_tokens=8, temperature=0.7, seed=13)
    given = ([found[4:], found[:5]], tiny(), model, form, how, Silent())
    for group, wanted in zip(with_samples(*given), (found[4:], found[:5]), strict=True):
        assert [example.turn for example in group] == [example.turn for example in wanted]
        for example in group:
            ids = form.prompt(example.turn, []).ids
            assert example.sampled == form.tokenizer.decode(ids, skip_special_tokens=True).strip()


# --- a training and its teacher -------------------------------------------------------------------


class Reciter:
    """A generator that says the turn and the passages it was shown."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {}

    def generate(
        self, turns: Sequence[Turn], evidence: Mapping[str, Sequence[Passage]], progress: Any
    ) -> Iterator[Answer]:
        for turn in reversed(turns):
            shown = [passage.passage_id for passage in evidence[turn.turn_id]]
            yield Answer(turn.turn_id, f"{turn.turn_id} {shown}", 0, 0, tuple(shown))


def teacher() -> Teacher:
    """The untrained backbone finds, and the reciter says."""
    context = Context(task().card, "random-tiny", INFERENCE, {})
    retriever = DenseRetriever(DenseCard(kind="dense", adapter=None, query="session"), context)
    return Teacher(retriever, Reciter(), Silent())


def started(chosen: Training, form: PromptFormat) -> Run:
    """A training before its first step; one with distillation has a teacher."""
    model = load_model(tiny(), chosen.dtype, Silent())
    taught = teacher() if chosen.distillation else None
    return Run("toy", model, chosen, form, [], Processes(), None, taught, None)


def test_a_teacher_is_asked_of_the_steps_own_turns(tiny_model: Any, form: PromptFormat) -> None:
    chosen = training(distillation=Distillation(teacher="t"))
    group = learnt(task(), chosen)
    batch = started(chosen, form).batch(group, random.Random(0))
    assert batch.responses == [
        form.response(f"{e.turn.turn_id} {[p.passage_id for p in e.grounds]}") for e in group
    ]
    with torch.no_grad():
        sessions = embed(tiny_model, [form.query(e.turn) for e in group], form.end)
        cosines = sessions @ embed(tiny_model, batch.candidates, form.end).T
    torch.testing.assert_close(batch.teacher, cosines, atol=1e-5, rtol=0)


# --- steps ----------------------------------------------------------------------------------------

CARD = training(
    losses=Losses(retrieval=1.0, generation=2.0, cii=0.5),
    generation_input="session+passage",
    temperature=0.05,
    cii_temperature=0.2,
    lora=Lora(r=4, alpha=8, dropout=0.5),
    learning_rate=0.02,
    warmup=0.5,
    weight_decay=0.5,
    betas=(0.5, 0.7),
    clip=0.05,
    seed=5,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16"},
        {"cii_score": "pairwise", "schedule": "linear"},
        {"distillation": Distillation(teacher="t", similarity=3.0, temperature=0.2)},
    ],
    ids=str,
)
def test_steps_are_those_of_a_plain_loop(changes: dict[str, Any], form: PromptFormat) -> None:
    """Losses, precision, draws, dropout, rate, clipping and decay, to the last bit of a weight."""
    chosen = CARD.model_copy(update=changes)
    plan = [(0, group) for group in groups({"toy": learnt(task(), chosen)}, chosen, 0)] * 2
    run = started(chosen, form)
    run.go(plan, None, Silent())
    torch.manual_seed(5)
    model = adapted(load_model(tiny(), chosen.dtype, Silent()), chosen).train()
    taught = {"distillation": 3.0, "distillation_temperature": 0.2} if chosen.distillation else {}
    loss = JointLoss(
        model,
        Weights(1.0, 2.0, 0.5, 0.05, 0.2, chosen.cii_score, **taught),
        form.end,
        autocast=partial(torch.autocast, "cpu", enabled=chosen.dtype == "bfloat16"),
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.5, betas=(0.5, 0.7))
    for step, (_, group) in enumerate(plan):
        batch = run.batch(group, random.Random(f"5:{step}"))
        torch.manual_seed(5 * 1_000_003 + step)
        terms = loss.step(batch)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.05).item()
        assert norm > 0.05
        rate = learning_rate(step, len(plan), chosen)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        logged = terms | {"gradient_norm": norm, "learning_rate": rate}
        assert {n: run.state.log[step][n] for n in logged} == pytest.approx(logged, abs=1e-4)
    trained = list(run.parameters.values())
    assert all(torch.equal(a, b) for a, b in zip(trained, parameters, strict=True))
    assert {p.dtype for p in trained} == {torch.float32}


def test_an_adapter_has_the_shape_that_the_card_gives(tiny_model: Any) -> None:
    lora = Lora(r=3, alpha=5, dropout=0.25)
    config = adapted(tiny_model, training(lora=lora)).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 5, 0.25)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_have_the_cards_precision(dtype: Any, form: PromptFormat) -> None:
    """Of an adapter's own layer too, whose weights are float32."""
    chosen = training(dtype=dtype)
    run = started(chosen, form)
    seen = set()
    for name, layer in run.model.named_modules():
        if name.endswith("lora_A.default"):
            layer.register_forward_hook(lambda *given: seen.add(given[-1].dtype))
    run.go([(0, learnt(task(), chosen))], None, Silent())
    assert seen == {getattr(torch, dtype)}


class Measured:
    """A learner whose losses are known, and which hears in what mode they are asked for."""

    def __init__(self, model: Any):
        self.model, self.modes = model, set[bool]()

    def batch(self, group: Any, shuffle: random.Random) -> Any:
        return group

    def terms(self, batch: Any) -> dict[str, float]:
        self.modes.add(self.model.training)
        terms = {"retrieval": 1.0, "generation": 10.0, "cii": len(batch) * 100.0}
        return terms | {"distillation": 1000.0}


def test_held_out_losses_are_weighed_and_have_no_dropout(
    tiny_model: Any, form: PromptFormat
) -> None:
    chosen = CARD.model_copy(update={"distillation": Distillation(teacher="t", similarity=3.0)})
    found, learner = learnt(task(), chosen), Measured(tiny_model.train())
    validator = Validator([found[:2], found[2:6]], chosen, form, learner)
    point = validator.point(tiny_model, 0, [])
    assert point["loss"] == pytest.approx(1.0 * 1 + 2.0 * 10 + 0.5 * 300 + 3.0 * 1000)
    assert (learner.modes, tiny_model.training) == ({False}, True)
