"""How long a run will take on this machine, said before it starts. Never part of a result."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench.assembly import BOUNDS, Setup
from uniconv_bench.cards import Profile
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import digest_of
from uniconv_bench.machine import cores
from uniconv_bench.progress import Silent
from uniconv_bench.recording import RUN
from uniconv_bench.system import Encoding, Progress
from uniconv_bench.system_cards import RewriteRetriever
from uniconv_bench.task import load_task
from uniconv_bench.uniconv.backbone import Backbone

PASSAGE_TOKENS, SESSION_TOKENS = 75, 110
"""Typical lengths, for estimates of time alone."""
TRAINING_MEMORY = {"smollm2-135m": "about 14 GB of memory"}
"""Backbone -> what training an adapter of it was seen to take."""


@dataclass(frozen=True)
class Plan:
    """What several tasks and systems take together.

    Attributes:
        seconds: of all stages; an adapter that several systems share is trained once.
        adapters: `<adapter> of <system>`, to be trained.
        memory: what training takes, where it is known.
    """

    seconds: float
    adapters: tuple[str, ...]
    memory: tuple[str, ...]


def plan(
    pairs: Sequence[tuple[str, str]],
    profile: Profile,
    limit: int | None,
    *,
    retrain: Collection[str] | None = None,
    progress: Progress,
) -> Plan:
    """The time still to be spent on (task, system) pairs, and the adapters to be trained."""
    tasks = {name: load_task(name, profile, progress=progress) for name, _ in pairs}
    seconds, trained, named, memory = 0.0, set(), [], []
    for system in dict.fromkeys(system for _, system in pairs):
        setup = Setup.of(system, profile, Silent())
        missing = setup.to_train(retrain)
        for name in missing:
            identity = digest_of(setup.identity(name))
            if identity not in trained:
                trained.add(identity)
                named.append(f"{name} of {setup.card.name}")
                seconds += training_seconds(setup, [name])
                backbone = setup.backbone.name if setup.backbone else ""
                if backbone in TRAINING_MEMORY:
                    memory.append(f"{TRAINING_MEMORY[backbone]} with {backbone}")
        for task in (task for task, other in pairs if other == system):
            evaluation = Evaluation(setup, tasks[task], limit, Silent(), None)
            todo = _todo(evaluation, missing)
            seconds += sum(s for stage, s in todo.items() if stage != "train")
    return Plan(seconds, tuple(named), tuple(dict.fromkeys(memory)))


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
    return _todo(evaluation, evaluation.setup.to_train(retrain))


def _todo(evaluation: Evaluation, missing: Sequence[str]) -> dict[str, float]:
    """As `estimate`, with the adapters that are to be trained."""
    setup = evaluation.setup
    todo = dict.fromkeys(("train", "retrieve", "generate", "score"), 0.0)
    todo["train"] = training_seconds(setup, missing)
    full = stage_seconds(evaluation)
    encoding = full.pop("encode")
    if missing:
        return todo | full | {"retrieve": full["retrieve"] + encoding}
    if not setup.adapters:
        setup.fit()
    if not _encoded(evaluation):
        full["retrieve"] += encoding
    done = evaluation.retrieval[0]
    if not done.exists():
        return todo | full
    if not full["generate"] or evaluation.answering(done / RUN)[0].exists():
        return todo
    return todo | {k: full[k] for k in ("generate", "score")}


def _encoded(evaluation: Evaluation) -> bool:
    """Whether passages have to be embedded, and have been."""
    asked, task = evaluation.asked, evaluation.task
    if evaluation.setup.is_given(task) or not isinstance(asked, Encoding):
        return False
    return asked.embeddings(task.corpus)[0].exists()


def stage_seconds(evaluation: Evaluation) -> dict[str, float]:
    """Stage -> seconds, roughly, with trained adapters and nothing else at hand; passages encoded
    apart from the turns that ask for them.
    """
    setup, counts = evaluation.setup, evaluation.task.counts
    turns = len(evaluation.turns)
    reading, _ = _rates(setup.backbone)
    per_turn = SESSION_TOKENS + evaluation.top_k * PASSAGE_TOKENS
    answers = bool(evaluation.metrics_of("generation"))
    writing = 5 * evaluation.task.card.answer_tokens  # batched, one token costs about five read
    full = {
        "encode": counts["passages"] * PASSAGE_TOKENS / reading,
        "retrieve": turns * SESSION_TOKENS / reading,
        "generate": turns * (per_turn + writing) / reading if answers else 0.0,
        "score": 15.0,
    }
    card = setup.card.retriever
    asked = card.retriever if isinstance(card, RewriteRetriever) else card
    if asked.kind in ("bm25", *BOUNDS) or setup.is_given(evaluation.task):
        full |= {"encode": 0.0, "retrieve": 1.0}
    if isinstance(card, RewriteRetriever):
        full["retrieve"] += turns * (SESSION_TOKENS + 5 * card.rewrite_tokens) / reading
    return full


def training_seconds(setup: Setup, names: Sequence[str]) -> float:
    """Of these adapters of a card, and of those that their teachers lack."""
    _, training = _rates(setup.backbone)
    own = sum(_training_tokens(setup, name) for name in names) / training
    teachers = filter(None, (setup.teacher(name) for name in names))
    return own + sum(training_seconds(teacher, teacher.to_train()) for teacher in teachers)


def _training_tokens(setup: Setup, name: str) -> float:
    """About how many tokens training an adapter reads and learns from."""
    training = setup.card.adapters[name]
    splits = (setup.training_tasks[task].counts["splits"]["train"] for task in training.tasks)
    counts = [split["turns"] for split in splits]
    turns = sum(min(n, training.turns or n) for n in counts) * training.epochs
    if training.max_steps:
        size = min(training.batch_size, training.turns or training.batch_size)
        turns = min(turns, training.max_steps * size)
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
    workers = 200 if shutil.which("nvidia-smi") else cores()
    size = (backbone.parameters if backbone else 135_000_000) / 135_000_000
    return 400 * workers / size, 220 * workers / size
