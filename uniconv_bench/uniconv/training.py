"""What an adapter is trained from, and its training from data to files (the loop is `loop`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, read_json, write_json
from uniconv_bench.metrics import normalise
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.system_cards import Inference
from uniconv_bench.task import Task
from uniconv_bench.training_cards import Training
from uniconv_bench.uniconv.backbone import Backbone, load_model, load_tokenizer

if TYPE_CHECKING:
    from uniconv_bench.uniconv.distillation import Teacher
    from uniconv_bench.uniconv.processes import Processes
    from uniconv_bench.uniconv.report import Tracker

RECIPE = 2
"""Raised by hand whenever a change of code makes training mean something else, so that adapters of
the former meaning no longer fit."""
REVISED = {"response_as_passage": 3}
"""Of regimes of DDM whose meaning has changed since."""
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
        inference: lengths of session and passage, and what the model is told.
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
        "recipe": REVISED.get(training.ddm, RECIPE),
        "backbone": backbone.revision,
        "training": settings,
        "session_tokens": inference.session_tokens,
        "passage_tokens": inference.passage_tokens,
        **inference.model_dump(include={"instruction"}, exclude_defaults=True),
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
    """Trains from the last checkpoint in `working`, if any, and leaves the adapter beside it.

    Writes `adapter_model.safetensors` (float16), `adapter_config.json` and `training.json`; while
    it trains, `log.jsonl` has a line for every step and validation point.

    Args:
        name: of the adapter, for messages.
        backbone: what it adapts.
        training: its card.
        inference: lengths of session and passage, and what the model is told.
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
    from uniconv_bench.decode import Decoding
    from uniconv_bench.uniconv.adapter import write_adapter
    from uniconv_bench.uniconv.loop import Run
    from uniconv_bench.uniconv.mining import by_bm25, by_embedding
    from uniconv_bench.uniconv.mixture import examples, groups, supervised
    from uniconv_bench.uniconv.processes import Processes
    from uniconv_bench.uniconv.report import check_tracker, summary
    from uniconv_bench.uniconv.samples import with_samples
    from uniconv_bench.uniconv.validation import held_out

    check_tracker(tracker)
    processes = processes or Processes()
    form = PromptFormat(
        load_tokenizer(backbone, progress),
        inference.session_tokens,
        inference.passage_tokens,
        inference.instruction,
    )
    dense = training.hard_negatives_from == "dense"
    mine = by_embedding(backbone, miner, training, inference) if dense else by_bm25
    turns = {task.card.name: supervised(task)[: training.turns] for task in tasks}
    leaked = leaks(turns, tasks)
    for of, count in leaked.items():
        progress.note(f"  WARNING: {name} trains on {count} turns of {of} that are tested on too")
    apart: dict[str, list[Turn]] = {}
    if training.validation:
        turns, apart = held_out(turns, training.validation, training.seed)
    data, held = (
        {
            task.card.name: examples(task, part[task.card.name], training, progress, mine)
            for task in tasks
            if part
        }
        for part in (turns, apart)
    )
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
        how = Decoding(
            ends=(form.end,),
            max_new_tokens=max(task.card.answer_tokens for task in tasks),
            temperature=training.sampling_temperature,
            seed=training.seed,
        )
        steps = [*(group for _, group in plan), *points]
        steps = with_samples(steps, backbone, model, form, how, progress)
        plan = [(epoch, group) for (epoch, _), group in zip(plan, steps, strict=False)]
        points = steps[len(plan) :]
    run = Run(name, model, training, form, points, processes, origin, teacher, tracker)
    run.go(plan, working, progress)
    if working is None:
        return
    report = {
        "adapter": name,
        "backbone": backbone.name,
        "turns": {task: len(found) for task, found in data.items()},
        "tested_turns": leaked,
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


def leaks(turns: Mapping[str, Sequence[Turn]], tasks: Sequence[Task]) -> dict[str, int]:
    """Training turns of each task that some task also tests on; tasks without any are left out.

    The same question after the same utterances, whatever their case and punctuation. A first
    question is nobody's own and counts for none.
    """

    def said(turn: Turn) -> tuple[str, ...]:
        return tuple(normalise(text) for text in (*(u.text for u in turn.history), turn.query))

    seen = {said(turn) for task in tasks for turn in task.turns()}
    counts = {n: sum(bool(t.history) and said(t) in seen for t in of) for n, of in turns.items()}
    return {name: count for name, count in counts.items() if count}
