"""A training under way: a plain accelerate loop over steps, validation points and checkpoints.

Everything random is drawn from (seed, step), so a run that was stopped ends with the weights of one
that was not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir
from uniconv_bench.machine import forget_peak
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.training_cards import Distillation, Training
from uniconv_bench.uniconv.adapter import adapted, begin_with
from uniconv_bench.uniconv.backbone import device
from uniconv_bench.uniconv.checkpoint import (
    Row,
    State,
    last_checkpoint,
    put,
    restore,
    write_checkpoint,
)
from uniconv_bench.uniconv.distillation import Teacher
from uniconv_bench.uniconv.guards import warnings
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.losses import Batch, Weights
from uniconv_bench.uniconv.memory import give_back_memory, keep_freed_memory
from uniconv_bench.uniconv.mixture import Example, make_batch
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.report import LIVE, Journal, Tracker, in_words
from uniconv_bench.uniconv.sharding import shard
from uniconv_bench.uniconv.validation import Validator, best, stalled

Plan = Sequence[tuple[int, Sequence[Example]]]
"""Epoch and turns of each step."""
SPARE = 0.3
"""Share of the machine's memory; while less is available, each step gives back what it freed."""


class Run:
    """A training under way: the model, its optimiser, and how far they have come."""

    def __init__(
        self,
        name: str,
        model: Any,
        training: Training,
        form: PromptFormat,
        points: Sequence[Sequence[Example]],
        processes: Processes,
        origin: Path | None,
        teacher: Teacher | None,
        tracker: Tracker | None,
    ):
        keep_freed_memory()
        self._name, self._training, self._form, self._processes = name, training, form, processes
        self._teacher = teacher
        # Of accelerate: processes and trackers. Its precision and its accumulation of gradients are
        # settings of the whole process, which a launcher's may overrule; here the card's hold.
        folder = cache_dir() / "trackers"
        self._accelerator = Accelerator(cpu=device() == "cpu", log_with=tracker, project_dir=folder)
        self._accelerator.init_trackers(name)
        mixed = training.dtype == "bfloat16"
        self._autocast = partial(torch.autocast, device(), torch.bfloat16, enabled=mixed)
        torch.manual_seed(training.seed)
        # Adapters are alike in all processes: `JointLoss` sees to their gradients.
        self.model = adapted(model, training)
        if origin is not None:
            begin_with(self.model, origin)
        if processes.sharded:
            shard(self.model)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self.parameters.values(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )
        weights = Weights(
            **training.losses.model_dump(),
            temperature=training.temperature,
            cii_temperature=training.cii_temperature,
            cii_score=training.cii_score,
            **_learnt(training.distillation),
        )
        self._loss = JointLoss(
            self.model,
            weights,
            form.end,
            tokens_at_once=training.tokens_at_once,
            autocast=self._autocast,  # forward alone; backward follows its dtypes
            processes=processes,
        )
        self._validator = Validator(points, training, form, self) if points else None
        self.state = State()

    def go(self, plan: Plan, working: Path | None, progress: Progress) -> None:
        """Takes the steps that are still to be taken; ends with the weights that are to be kept."""
        self.state, tensors = self._processes.told(last_checkpoint(working))
        forget_peak()
        log, validation = self.state.log, self._training.validation
        restore(tensors, len(log), self.parameters, self._optimiser)
        journal = Journal(self.state, working, self._accelerator.trackers)
        if working:
            progress.note(f"  {self._name}: a line a step in {working / LIVE}")
        if log:
            progress.note(f"  going on with {self._name} after step {len(log)} of {len(plan)}")
        self.model.train()
        with progress.track(f"train {self._name}", len(plan)) as advance:
            advance(len(log))
            if not self.state.points:
                self._validate(0, journal, progress)
            for step, (epoch, group) in enumerate(plan[len(log) :], len(log)):
                if validation and stalled(self.state.points, validation.patience):
                    progress.note(f"  {self._name}: no lower loss since, stopped after step {step}")
                    break
                row = self._step(step, epoch, group, learning_rate(step, len(plan), self._training))
                journal.step(row)
                if validation and (step + 1 == len(plan) or not (step + 1) % validation.every):
                    self._validate(step + 1, journal, progress)
                if working is not None and not (step + 1) % self._training.checkpoint_steps:
                    write_checkpoint(working, self.parameters, self._optimiser, self.state)
                give_back_memory(spare=SPARE)
                advance(1, in_words(row))
        put(self.state.best, self.parameters)
        journal.end()
        give_back_memory()  # what comes next in this process needs less

    def _step(self, step: int, epoch: int, group: Sequence[Example], rate: float) -> Row:
        """One step of the optimiser, and what is to be known of it."""
        start = time.perf_counter()
        training = self._training
        for settings in self._optimiser.param_groups:
            settings["lr"] = rate
        batch = self.batch(group, random.Random(f"{training.seed}:{step}"))
        torch.manual_seed(training.seed * 1_000_003 + step)  # dropout
        terms, tokens = self._loss.step(batch), self._loss.tokens_read
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), training.clip).item()
        if not math.isfinite(norm):
            raise UserError(
                f"training of {self._name} diverged at step {step}",
                mend="lower learning_rate on its card",
            )
        self._optimiser.step()
        self._optimiser.zero_grad()
        seconds = time.perf_counter() - start
        return {
            "step": step,
            "epoch": epoch,
            **{key: round(value, 5) for key, value in (terms | batch.masked).items()},
            "gradient_norm": round(norm, 4),
            "learning_rate": rate,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        }

    def _validate(self, steps: int, journal: Journal, progress: Progress) -> None:
        """A validation point, if there is validation; keeps the best weights so far."""
        if self._validator is None:
            return
        with self._autocast():
            row = self._validator.point(self.model, steps, self.state.points)
        journal.point(row)
        if best(self.state.points) is row:
            self.state.best = {
                n: p.detach().to("cpu", copy=True) for n, p in self.parameters.items()
            }
        if steps:  # before training there is nothing to be warned of
            for number, meaning in warnings(row["guards"], self._training.guards).items():
                value = row["guards"][number]
                progress.note(f"  WARNING after step {steps}: {number} is {value:.3f}. {meaning}")

    def batch(self, group: Sequence[Example], shuffle: random.Random) -> Batch:
        """Examples as token ids, with what a teacher has to say of them."""
        if self._teacher is None:
            return make_batch(group, self._training, self._form, shuffle)
        # One of them speaks for all: trees that differ by a token would be shared out differently.
        first = self._processes.first
        group = self._processes.told(self._teacher.answered(group) if first else [])
        return self._teacher.judged(make_batch(group, self._training, self._form, shuffle), group)

    def terms(self, batch: Batch) -> dict[str, float]:
        """The loss on a batch, with no gradients."""
        return self._loss.value(batch)


def learning_rate(step: int, steps: int, training: Training) -> float:
    """The rate at a step (from 0): linear warm-up, then the card's schedule down to 0."""
    warm = math.ceil(training.warmup * steps)
    if step < warm:
        return training.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate * (1 - done if training.schedule == "linear" else 1)


def _learnt(distillation: Distillation | None) -> dict[str, float]:
    """Weight and temperature of a teacher's similarities."""
    if distillation is None:
        return {}
    temperature = distillation.temperature
    return {"distillation": distillation.similarity, "distillation_temperature": temperature}
