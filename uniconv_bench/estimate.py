"""How long a run will take on this machine, said before it starts. Never part of a result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.evaluate import Evaluation
from uniconv_bench.recording import RUN
from uniconv_bench.system import Progress
from uniconv_bench.uniconv.backbone import Backbone

PASSAGE_TOKENS, SESSION_TOKENS = 75, 110
"""Typical lengths, for estimates of time alone."""


def estimate(
    task: str,
    system: str,
    profile: Profile,
    limit: int | None = None,
    *,
    data_dir: Path | None = None,
    retrain: Collection[str] | None = None,
    progress: Progress,
) -> dict[str, float]:
    """Stage -> seconds still to be spent on this machine, roughly; 0 for what is cached.

    From the sizes of data and backbone and from what one core was seen to do.

    Args:
        data_dir: as of `evaluate.run`.
        retrain: as of `Setup.fit`.
        progress: told of the preparation of data, without which nothing can be said.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress, data_dir)
    setup, counts = evaluation.setup, evaluation.task.counts
    turns = len(evaluation.turns)
    reading, training = _rates(setup.backbone)
    missing = setup.to_train(retrain)
    todo = dict.fromkeys(("train", "retrieve", "generate", "score"), 0.0)
    for name in missing:
        todo["train"] += _training_tokens(setup, name) / training
    passages = counts["passages"] * PASSAGE_TOKENS
    per_turn = SESSION_TOKENS + setup.card.inference.top_k * PASSAGE_TOKENS
    writing = 5 * evaluation.task.card.answer_tokens  # batched, one token costs about five read
    full = {
        "retrieve": (passages + turns * SESSION_TOKENS) / reading,
        "generate": turns * (per_turn + writing) / reading,
        "score": 15.0,
    }
    if setup.card.retriever.kind in ("bm25", "gold", "none"):
        full["retrieve"] = 1.0
    if missing:
        return todo | full
    setup.fit()
    done = evaluation.retrieval[0]
    if not done.exists():
        return todo | full
    answered = evaluation.answering(done / RUN)[0]
    return todo if answered.exists() else todo | {k: full[k] for k in ("generate", "score")}


def _training_tokens(setup: Setup, name: str) -> float:
    """About how many tokens training an adapter reads and learns from."""
    training = setup.card.adapters[name]
    counts = (setup.training_tasks[task].counts["splits"]["train"] for task in training.tasks)
    turns = sum(count["turns"] for count in counts) * training.epochs
    if training.max_steps:
        turns = min(turns, training.max_steps * training.batch_size)
    shown = training.generation_passages + 1
    passes = {
        "retrieval": SESSION_TOKENS + (1 + training.hard_negatives) * PASSAGE_TOKENS,
        "generation": SESSION_TOKENS + shown * PASSAGE_TOKENS,
        "cii": SESSION_TOKENS + PASSAGE_TOKENS,
    }
    weights = training.losses.model_dump()
    return float(turns * sum(n for term, n in passes.items() if weights[term]))


def _rates(backbone: Backbone | None) -> tuple[float, float]:
    """(tokens read a second, tokens trained on a second) on this machine, to a factor of two.

    A core of a current server was seen to read 400 and train 220 tokens a second of a backbone of
    135 M parameters; one GPU does the work of some hundred cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    workers = 200 if shutil.which("nvidia-smi") else cores
    size = (backbone.parameters if backbone else 135_000_000) / 135_000_000
    return 400 * workers / size, 220 * workers / size
