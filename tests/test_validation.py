"""Training watched: held-out conversations, the best weights, early stops, logs, checkpointing."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_joint import WEIGHTS, batch_of, distance, gradients
from test_uniconv import END, INFERENCE, StopAfter, Stopped, learnt, task, tiny, trained, training

from uniconv_bench.cli import main
from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.training_cards import Guards, Lora, Training, Validation
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import load_model
from uniconv_bench.uniconv.checkpoint import State
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.mixture import examples, make_batch, supervised
from uniconv_bench.uniconv.report import Journal
from uniconv_bench.uniconv.training import identity, train_adapter
from uniconv_bench.uniconv.validation import best, held_out, stalled

WATCHED = Validation(share=0.25, every=1)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return report


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- what is held out -----------------------------------------------------------------------------


def conversations(count: int, turns: int) -> list[Turn]:
    (first, *_) = supervised(task())
    return [
        replace(first, turn_id=f"c{c}_{n}", conversation_id=f"c{c}")
        for c in range(count)
        for n in range(turns)
    ]


def test_conversations_are_held_out_whole_and_at_most_so_many_turns() -> None:
    data = {"a": conversations(20, 5), "b": conversations(4, 2)}
    for turns, wanted in ((1000, {"a": 20, "b": 2}), (20, {"a": 10, "b": 2})):
        kept, held = held_out(data, Validation(share=0.2, turns=turns), 13)
        assert {name: len(found) for name, found in held.items()} == wanted
        for name, all_of_it in data.items():
            assert [e for e in all_of_it if e in kept[name]] == kept[name]
            assert len(kept[name]) + len(held[name]) == len(all_of_it)
            apart = [{turn.conversation_id for turn in part[name]} for part in (kept, held)]
            assert not apart[0] & apart[1]
    again = held_out(data, Validation(share=0.2, turns=20), 13)[1]
    assert again == held
    assert held_out(data, Validation(share=0.2, turns=20), 14)[1] != held


@pytest.mark.parametrize("ddm", ["both", "response_as_passage"])
def test_nothing_held_out_is_learnt_from(ddm: Any) -> None:
    of, chosen = task(), training(ddm=ddm)
    kept, held = held_out({"toy": supervised(of)}, Validation(share=0.5), 13)
    found = examples(of, kept["toy"], chosen, Silent())
    assert [e.turn for e in found] == kept["toy"]
    responses = {f"response:{turn.turn_id}" for turn in held["toy"]}
    assert responses and all(e.negatives for e in found)
    assert not responses & {p.passage_id for e in found for p in e.negatives}


def test_nothing_to_measure_is_no_loss_of_0(tmp_path: Path) -> None:
    losses = {"retrieval": 1.0, "generation": 0.0, "cii": 0.0}
    bare = task()
    turns = [replace(t, gold=t.gold if n < 4 else ()) for n, t in enumerate(supervised(bare))]
    bare.turns = lambda split=None: turns
    chosen = training(losses=losses, validation=WATCHED, seed=unjudged(turns))
    with pytest.raises(UserError, match=r"has anything to measure losses\.retrieval by"):
        train_adapter(*("toy", tiny(), chosen, INFERENCE, [bare], tmp_path, Silent()))


def unjudged(turns: list[Turn]) -> int:
    """A seed by which no held-out turn has a passage."""
    drawn = ((seed, held_out({"toy": turns}, WATCHED, seed)[1]["toy"]) for seed in range(1000))
    return next(seed for seed, held in drawn if not any(turn.gold for turn in held))


def test_a_task_is_never_held_out_whole() -> None:
    kept, held = held_out({"a": conversations(2, 3)}, Validation(share=0.9), 13)
    assert len(kept["a"]) == len(held["a"]) == 3


def test_too_little_to_hold_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raise validation\.share"):
        trained(tmp_path / "a", training(validation=Validation(turns=1)))


# --- the loss on it -------------------------------------------------------------------------------


def test_in_bfloat16_too(tiny_model: Any, form: PromptFormat) -> None:
    """At a temperature of 0.01 a cosine rounded to bfloat16 would be another loss."""

    def bfloat16() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    batch = batch_of(form)
    loss = JointLoss(tiny_model, replace(WEIGHTS, cii_temperature=0.01), END, autocast=bfloat16)
    with bfloat16():  # as a validation point is measured
        found = loss.value(batch)
    assert found == pytest.approx(loss.step(batch), rel=1e-5)


@pytest.mark.parametrize("tokens_at_once", [None, 500])
def test_the_validation_loss_is_that_of_a_step(
    tokens_at_once: int | None, tiny_model: Any, form: PromptFormat
) -> None:
    batch = batch_of(form)
    found = JointLoss(tiny_model, WEIGHTS, END, tokens_at_once=tokens_at_once).value(batch)
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    wanted = JointLoss(tiny_model, WEIGHTS, END, tokens_at_once=tokens_at_once).step(batch)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_best_point_and_the_points_since() -> None:
    points = [{"steps": n, "loss": loss} for n, loss in enumerate((3.0, 1.0, 2.0, 1.0))]
    assert best(points)["steps"] == 1
    assert [stalled(points[:n], 2) for n in range(5)] == [False, False, False, False, True]
    assert not stalled(points, None)


@pytest.mark.slow
def test_the_weights_of_the_least_loss_are_kept(tmp_path: Path) -> None:
    """With too high a rate the loss first falls, then rises."""
    hot = {"schedule": "constant", "warmup": 0.0, "learning_rate": 0.03, "epochs": 8}
    chosen = training(validation=WATCHED, **hot)
    kept = trained(tmp_path / "whole", chosen)
    validation = report_of(tmp_path / "whole")["validation"]
    losses = [point["loss"] for point in validation["points"]]
    assert [point["steps"] for point in validation["points"]] == list(range(len(losses)))
    lowest = losses.index(min(losses))
    assert validation["chosen"] == lowest
    assert 0 < lowest < len(losses) - 1
    until = trained(tmp_path / "until", chosen.model_copy(update={"max_steps": lowest}))
    assert same(kept, until)
    assert validation["turns"] == {"toy": 2}
    assert report_of(tmp_path / "whole")["turns"] == {"toy": 6}


def early(**changes: Any) -> Training:
    hot = {"schedule": "constant", "warmup": 0.0, "learning_rate": 0.2, "epochs": 8}
    return training(
        validation=Validation(share=0.25, every=1, patience=2), checkpoint_steps=2, **hot, **changes
    )


def test_training_stops_when_the_loss_falls_no_more(tmp_path: Path) -> None:
    trained(tmp_path / "a", early())
    report = report_of(tmp_path / "a")
    assert report["steps"] == report["validation"]["chosen"] + 2 < 16
    assert report["validation"]["points"][-1]["steps"] == report["steps"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "steps"),
    [(training(validation=WATCHED, checkpoint_steps=2), 3), (early(), 3)],
    ids=["to its end", "stopped early"],
)
def test_a_stopped_training_ends_with_the_same_points_and_weights(
    chosen: Training, steps: int, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", chosen)
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", chosen, StopAfter(steps))
    assert same(whole, trained(tmp_path / "stopped", chosen))
    one, other = (report_of(tmp_path / name) for name in ("whole", "stopped"))
    assert one["guards"] == other["guards"]
    for points in (one["validation"]["points"], other["validation"]["points"]):
        for point in points:
            del point["seconds"]
    assert one["validation"] == other["validation"]


def test_without_validation_nothing_is_held_out(tmp_path: Path) -> None:
    trained(tmp_path / "a", training())
    report = report_of(tmp_path / "a")
    assert report["turns"] == {"toy": 8}
    assert not {"validation", "guards"} & set(report)


def test_what_changes_no_weight_is_no_part_of_the_identity() -> None:
    def of(**changes: Any) -> Any:
        return identity(tiny(), training(**changes), INFERENCE, [task()])

    assert of(gradient_checkpointing=True, guards=Guards(most_forgetting=9.0)) == of()
    assert of(validation=WATCHED) != of()


# --- what is told ---------------------------------------------------------------------------------


class Watching(Silent):
    """Reads the live log at every step, and hears what the bar is told."""

    def __init__(self, folder: Path, steps: int = 99):
        self.folder, self.steps = folder, steps
        self.logs: list[list[dict[str, Any]]] = []
        self.told: list[str] = []

    @contextmanager
    def track(self, label: str, total: int, unit: Any = "") -> Iterator[Callable[..., None]]:
        def advance(count: int, told: str = "") -> None:
            if label.startswith("train"):
                lines = (self.folder / "log.jsonl").read_text().splitlines()
                self.logs.append([json.loads(line) for line in lines])
                self.told.append(told)
                if len(self.logs) > self.steps:
                    raise Stopped

        yield advance


def test_a_line_a_step_while_it_trains(tmp_path: Path) -> None:
    watching = Watching(tmp_path / "a", steps=3)
    chosen = training(validation=WATCHED, checkpoint_steps=2)
    with pytest.raises(Stopped):
        trained(tmp_path / "a", chosen, watching)
    steps = [[row.get("step") for row in log] for log in watching.logs]
    assert steps == [
        [],
        [None, 0, None],
        [None, 0, None, 1, None],
        [None, 0, None, 1, None, 2, None],
    ]
    row = watching.logs[-1][-2]
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"], rel=0.1)
    terms = {"retrieval", "generation", "cii", "gradient_norm", "learning_rate"}
    assert terms | {"masked_candidates", "masked_responses"} <= set(row)
    assert f"retrieval {row['retrieval']:.3f}" in watching.told[-1]
    assert watching.told[-1].endswith(" tokens/s")
    again = Watching(tmp_path / "a")
    trained(tmp_path / "a", chosen, again)
    assert again.logs[0] == watching.logs[2]  # as the checkpoint has it: step 2 is not there twice
    assert not (tmp_path / "a" / "log.jsonl").exists()
    assert report_of(tmp_path / "a")["log"] == [r for r in again.logs[-1] if "step" in r]


class Tracker:
    """As accelerate's."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.ended = True


def test_trackers_are_told_numbers_by_kind() -> None:
    tracker = Tracker()
    journal = Journal(State(), None, [tracker])
    journal.point({"steps": 0, "loss": 3.0, "guards": {"forgetting": 0.0}})
    journal.step({"step": 0, "retrieval": 2.0})
    journal.end()
    assert tracker.ended
    assert tracker.rows == [
        (0, {"validation/steps": 0, "validation/loss": 3.0, "guards/forgetting": 0.0}),
        (1, {"training/step": 0, "training/retrieval": 2.0}),
    ]


def test_a_tracker_that_is_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_evaluate import ADAPTER, CARD, LLM

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, package=None: None if name == "trackio" else find(name, package),
    )
    card = tmp_path / "tiny.toml"
    card.write_text(CARD.replace('kind = "llm"', LLM) + ADAPTER)
    assert main(["train", "--system", str(card), "--tracker", "trackio", "--retrain"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: tracker trackio is not installed; pip install 'uniconv-bench[trackio]'"


def test_masked_pairs_are_counted(form: PromptFormat) -> None:
    """Turn 1 says what turn 0 says; turn 2 has no passage. Turns 0 and 3 share passage 3."""
    data = learnt(task(), training(hard_negatives=0))[:4]
    shared = replace(data[0], targets=(*data[0].targets, *data[3].targets))
    batch = make_batch([shared, *data[1:]], training(hard_negatives=0), form, random.Random(1))
    assert len(batch.candidates) == 3
    # Three judged turns with two other candidates each, of which one pair is masked; three grounded
    # turns, of which two have one response.
    assert batch.masked == pytest.approx({"masked_candidates": 1 / 6, "masked_responses": 2 / 6})


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize("tokens_at_once", [None, 500])
def test_gradient_checkpointing_has_the_same_gradients(
    tokens_at_once: int | None, form: PromptFormat
) -> None:
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        chosen = training(gradient_checkpointing=on, lora=Lora(r=4, alpha=8, dropout=0.5))
        model = adapted(load_model(tiny(), "float32", Silent()), chosen)
        model.train()
        calls: list[int] = []
        layer = model.get_base_model().base_model.layers[0].self_attn
        handle = layer.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        JointLoss(model, WEIGHTS, END, tokens_at_once=tokens_at_once).step(batch_of(form))
        handle.remove()
        found.append((gradients(model), len(calls)))
    (plain, once), (checkpointed, again) = found
    assert again > once  # layers were computed anew
    assert distance(checkpointed, plain) < 1e-6
