"""Trains one adapter: a plain accelerate loop over the mixture's batches.

Everything random is drawn from (seed, step), so a run that was stopped ends with the weights of one
that was not.
"""

from __future__ import annotations

import ctypes
import math
import platform
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of, read_json, write_json
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.system_cards import Distillation, Inference, Training
from uniconv_bench.task import Task
from uniconv_bench.uniconv.backbone import Backbone, device, load_model, load_tokenizer

if TYPE_CHECKING:
    from uniconv_bench.uniconv.checkpoint import Row
    from uniconv_bench.uniconv.distillation import Teacher
    from uniconv_bench.uniconv.losses import Batch
    from uniconv_bench.uniconv.mixture import Example
    from uniconv_bench.uniconv.processes import Processes
    from uniconv_bench.uniconv.report import Journal, Tracker
    from uniconv_bench.uniconv.validation import Data

    Plan = Sequence[tuple[int, Sequence[Example]]]

RECIPE = 2
"""Raised by hand whenever a change of code makes training mean something else, so that adapters of
the former meaning no longer fit."""
TRIM_STEPS = 8
"""Giving memory back takes seconds, for what the next step has to ask for again."""
NO_MATTER = ("checkpoint_steps", "tokens_at_once", "gradient_checkpointing", "guards")
"""Settings that change no weight beyond rounding (`tokens_at_once` does where there is dropout)."""


def identity(
    backbone: Backbone,
    training: Training,
    inference: Inference,
    tasks: list[Task],
    **origins: Any,
) -> dict[str, Any]:
    """What an adapter is trained from: two adapters of equal identity are interchangeable.

    Of the code it names the `RECIPE` alone, and of the settings what differs from the defaults, so
    that an adapter outlives a tidying; `training.json` beside the weights records code and machine.

    Args:
        backbone: what it adapts.
        training: its card.
        inference: lengths of session and passage.
        tasks: whose training turns are mixed.
        origins: under the names of the card's fields, what identifies the adapter that it starts
            with and what it learns from a teacher, if any.
    """
    ignored = {"sources", "start", "hard_negatives_adapter", "distillation", *NO_MATTER}
    if training.lora.dropout:  # drawn part by part
        ignored.discard("tokens_at_once")
    settings = training.model_dump(mode="json", exclude=ignored, exclude_defaults=True)
    taught = training.distillation and training.distillation.responses == "teacher"
    if taught or training.cii_negatives == "sampled_generation":
        origins["answer_tokens"] = {task.card.name: task.card.answer_tokens for task in tasks}
    if training.hard_negatives_from == "dense":
        origins["mined_in"] = inference.model_dump(include={"dtype", "lora", "encode_batch_tokens"})
    return {
        "recipe": RECIPE,
        "backbone": backbone.revision,
        "training": settings,
        "session_tokens": inference.session_tokens,
        "passage_tokens": inference.passage_tokens,
        "data": {task.card.name: _supervision(task) for task in tasks},
        **origins,
    }


def _supervision(task: Task) -> str:
    """Digest of what training reads of a task, whatever else its prepared files come to hold."""
    turns = [
        [t.turn_id, [[u.role, u.text] for u in t.history], t.query, t.rewrite]
        + [list(t.references[:1]), list(t.gold)]
        for t in task.turns("train")
    ]
    bm25 = task.card.bm25.model_dump()  # hard negatives are mined with it
    return digest_of({"turns": turns, "corpus": task.corpus.digest, "bm25": bm25})


def train_adapter(
    name: str,
    backbone: Backbone,
    training: Training,
    inference: Inference,
    tasks: list[Task],
    working: Path | None,
    progress: Progress,
    processes: Processes | None = None,
    *,
    origin: Path | None = None,
    teacher: Teacher | None = None,
    tracker: Tracker | None = None,
    miner: Path | None = None,
) -> None:
    """Trains from the last checkpoint in `working`, if any, and leaves the adapter there.

    Writes `adapter_model.safetensors` (float16), `adapter_config.json` and `training.json`; while
    it trains, `log.jsonl` has a line for every step and validation point.

    Args:
        name: of the adapter, for messages.
        backbone: what it adapts.
        training: its card.
        inference: lengths of session and passage.
        tasks: whose training turns are mixed.
        working: where checkpoints and the adapter go; None in all processes but the first.
        progress: told of every step.
        processes: that share every step's work, None being one alone; the weights are the same to
            rounding, however many there are, where there is no dropout.
        origin: folder of the adapter whose weights it begins with; None: its own random ones.
        teacher: of its `distillation`, if it has one.
        miner: folder of the adapter that mines hard negatives, where the card names one.
        tracker: told of every step and validation point too.
    """
    from uniconv_bench.uniconv.checkpoint import CHECKPOINT, write_adapter
    from uniconv_bench.uniconv.mining import by_bm25, by_embedding
    from uniconv_bench.uniconv.mixture import examples, groups
    from uniconv_bench.uniconv.processes import Processes
    from uniconv_bench.uniconv.report import check_tracker, summary
    from uniconv_bench.uniconv.samples import with_samples
    from uniconv_bench.uniconv.validation import held_out

    check_tracker(tracker)
    processes = processes or Processes()
    form = PromptFormat(
        load_tokenizer(backbone, progress), inference.session_tokens, inference.passage_tokens
    )
    dense = training.hard_negatives_from == "dense"
    mine = by_embedding(backbone, miner, training, inference) if dense else by_bm25
    data = {task.card.name: examples(task, training, progress, mine) for task in tasks}
    held: Data = {}
    if training.validation:
        data, held = held_out(data, training.validation, training.seed)
    plan = [(e, g) for e in range(training.epochs) for g in groups(data, training, e)]
    plan = plan[: training.max_steps]
    if not plan:
        mend = "give its card tasks with train turns, and a batch_size of 2 or more: it contrasts"
        raise UserError(f"nothing to train {name} on", mend=mend)
    # Each of them once, however often the mixture trains on its task.
    points = groups(held, training.model_copy(update={"mixture": {}}), 0)
    if training.validation and not points:
        raise UserError(
            f"the conversations held out of {name} have fewer than two turns of any task",
            mend="raise validation.share or validation.turns on its card",
        )
    model = load_model(backbone, training.dtype, progress)
    if training.cii_negatives == "sampled_generation":
        longest = max(task.card.answer_tokens for task in tasks)
        steps = [*(group for _, group in plan), *points]
        steps = with_samples(steps, backbone, model, form, longest, training.seed, progress)
        plan = [(epoch, group) for (epoch, _), group in zip(plan, steps, strict=False)]
        points = steps[len(plan) :]
    run = _Run(name, model, training, form, points, processes, origin, teacher, tracker)
    run.go(plan, working, progress)
    if working is None:
        return
    report = {
        "adapter": name,
        "backbone": backbone.name,
        "turns": {task: len(found) for task, found in data.items()},
        "trainable_parameters": sum(p.numel() for p in run.parameters.values()),
        **summary(run.state, processes, training.guards),
    }
    if origin is not None:
        first = read_json(origin / "training.json")
        report["start"] = {key: value for key, value in first.items() if key != "log"}
    if held:
        report["validation"]["turns"] = {task: len(found) for task, found in held.items()}
    write_adapter(run.model, backbone.name, working)
    write_json(working / "training.json", report)
    shutil.rmtree(working / CHECKPOINT, ignore_errors=True)


class _Run:
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
        import torch
        from accelerate import Accelerator

        from uniconv_bench.uniconv.checkpoint import State, begin_with
        from uniconv_bench.uniconv.losses import Weights
        from uniconv_bench.uniconv.validation import Validator

        keep_freed_memory()
        self._name, self._training, self._form, self._processes = name, training, form, processes
        self._teacher = teacher
        self._accelerator = Accelerator(
            cpu=device() == "cpu",
            mixed_precision="bf16" if training.dtype == "bfloat16" else "no",
            log_with=tracker,
            project_dir=cache_dir() / "trackers",
        )
        self._accelerator.init_trackers(name)
        torch.manual_seed(training.seed)
        # Adapters are alike in all processes: `joint_step` sees to their gradients.
        self.model = adapted(model, training)
        if origin is not None:
            begin_with(self.model, origin)
        if processes.sharded:
            from uniconv_bench.uniconv.sharding import shard

            shard(self.model)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self._weights = Weights(
            **training.losses.model_dump(),
            temperature=training.temperature,
            cii_temperature=training.cii_temperature,
            cii_score=training.cii_score,
            **_learnt(training.distillation),
        )
        self._validator = Validator(points, training, form, self) if points else None
        self.state = State()

    def go(self, plan: Plan, working: Path | None, progress: Progress) -> None:
        """Takes the steps that are still to be taken; ends with the weights that are to be kept."""
        from uniconv_bench.uniconv.checkpoint import (
            last_checkpoint,
            put,
            restore,
            write_checkpoint,
        )
        from uniconv_bench.uniconv.report import LIVE, Journal, in_words
        from uniconv_bench.uniconv.validation import stalled

        self.state, tensors = self._processes.told(last_checkpoint(working))
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
                if not (step + 1) % TRIM_STEPS:
                    give_back_memory()
                advance(1, in_words(row))
        put(self.state.best, self.parameters)
        journal.end()

    def _step(self, step: int, epoch: int, group: Sequence[Example], rate: float) -> Row:
        """One step of the optimiser, and what is to be known of it."""
        import torch

        from uniconv_bench.uniconv.joint import joint_step

        start = time.perf_counter()
        training = self._training
        for settings in self._optimiser.param_groups:
            settings["lr"] = rate
        batch = self.batch(group, random.Random(f"{training.seed}:{step}"))
        torch.manual_seed(training.seed * 1_000_003 + step)  # dropout
        terms = joint_step(
            self.model,
            batch,
            self._weights,
            self._form.end,
            tokens_at_once=training.tokens_at_once,
            autocast=self._accelerator.autocast,  # forward alone; backward follows its dtypes
            backward=self._accelerator.backward,
            processes=self._processes,
        )
        clipped = list(self.parameters.values())
        norm = self._accelerator.clip_grad_norm_(clipped, training.clip).item()
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
            "tokens": batch.tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(batch.tokens / seconds, 1),
        }

    def _validate(self, steps: int, journal: Journal, progress: Progress) -> None:
        """A validation point, if there is validation; keeps the best weights so far."""
        from uniconv_bench.uniconv.guards import warnings
        from uniconv_bench.uniconv.validation import best

        if self._validator is None:
            return
        with self._accelerator.autocast():
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
        from uniconv_bench.uniconv.mixture import make_batch

        if self._teacher is None:
            return make_batch(group, self._training, self._form, shuffle)
        group = self._teacher.answered(group)
        return self._teacher.judged(make_batch(group, self._training, self._form, shuffle), group)

    def terms(self, batch: Batch) -> dict[str, float]:
        """The loss on a batch, with no gradients."""
        from uniconv_bench.uniconv.joint import joint_loss

        return joint_loss(
            self.model,
            batch,
            self._weights,
            self._form.end,
            tokens_at_once=self._training.tokens_at_once,
            autocast=self._accelerator.autocast,
            processes=self._processes,
        )


def adapted(model: Any, training: Training) -> Any:
    """The frozen model with trainable LoRA layers in float32, its layers checkpointed if asked.

    Raises:
        UserError: a named target matches no layer (peft passes over such names in silence as long
            as another one matches).
    """
    from peft import LoraConfig, get_peft_model

    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    targets = training.lora.targets
    if targets != "all-linear":
        names = [name for name, _ in model.named_modules()]
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(
                    f"LoRA target {target!r} matches no layer of the backbone",
                    mend="correct lora.targets on the card",
                )
    config = LoraConfig(
        r=training.lora.r,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _learnt(distillation: Distillation | None) -> dict[str, float]:
    """Weight and temperature of a teacher's similarities."""
    if distillation is None:
        return {}
    temperature = distillation.temperature
    return {"distillation": distillation.similarity, "distillation_temperature": temperature}


def learning_rate(step: int, steps: int, training: Training) -> float:
    """The rate at a step (from 0): linear warm-up, then the card's schedule down to 0."""
    warm = math.ceil(training.warmup * steps)
    if step < warm:
        return training.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate * (1 - done if training.schedule == "linear" else 1)


def give_back_memory() -> None:
    """Hands what `keep_freed_memory` has kept to the kernel.

    Steps are of unlike shapes, so what they leave free falls into pieces that fit nothing: by then
    30 steps were seen to take a process from 13 to 21 GB.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_freed_memory() -> None:
    """Has glibc keep freed activations for the next pass in place of handing them to the kernel.

    They are gigabytes, freed and asked for again several times a step; faulting the pages in anew
    was seen to take longer than the arithmetic.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks
