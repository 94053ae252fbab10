"""Task x system -> adapters -> run -> answers -> scores -> record. Each stage reads files and writes
an artefact named by everything it depends on, so whatever is already there is not done again.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from inspect import getfile
from pathlib import Path
from typing import Any

from uniconv_bench import metrics, records, runs
from uniconv_bench.cards import CustomPart, Profile, SystemCard, Training
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import (
    digest_of,
    digest_of_code,
    digest_of_file,
    folder_of,
    new_artefact,
    open_artefact,
    read_json,
    write_json,
    write_jsonl,
)
from uniconv_bench.registry import adapter_folders, resolve, system_card
from uniconv_bench.system import Answer, Context, Generator, Progress, Retriever
from uniconv_bench.task import Task, load_task
from uniconv_bench.uniconv.backbone import Backbone, find_backbone

PARTS = {
    "dense": "uniconv_bench.uniconv.parts:DenseRetriever",
    "llm": "uniconv_bench.uniconv.parts:LlmGenerator",
    "bm25": "uniconv_bench.baselines.bm25:Bm25Retriever",
    "encoder": "uniconv_bench.baselines.encoder:EncoderRetriever",
    "gold": "uniconv_bench.baselines.bounds:Bound",
    "none": "uniconv_bench.baselines.bounds:Bound",
}
"""Kinds of retriever and generator that cards can name -> the class behind each."""


@dataclass
class Setup:
    """One system on one profile: its card, its backbone, and where its adapters are or will be."""

    card: SystemCard
    path: Path
    profile: Profile
    progress: Progress
    adapters: dict[str, Path] = field(default_factory=dict)

    @staticmethod
    def of(system: str, profile: Profile, progress: Progress) -> Setup:
        """A system by name or card path.

        Raises:
            UserError: no such card, a malformed one, or one without a backbone for the profile.
        """
        card, path = system_card(system)
        if card.backbone and profile not in card.backbone:
            raise UserError(
                f"{card.name} names no backbone for profile {profile}",
                where=path,
                mend=f"add `{profile} = ...` under [backbone]",
            )
        return Setup(card, path, profile, progress)

    @property
    def backbone(self) -> Backbone | None:
        """The pretrained weights of this profile."""
        return find_backbone(self.card.backbone[self.profile]) if self.card.backbone else None

    @cached_property
    def _training_tasks(self) -> dict[str, Task]:
        names = {name for training in self.card.adapters.values() for name in training.tasks}
        return {n: load_task(n, self.profile, progress=self.progress) for n in sorted(names)}

    def identity(self, name: str) -> dict[str, Any]:
        """What the adapter of this name on the card has to be trained from."""
        from uniconv_bench.uniconv.training import identity

        if self.backbone is None:
            raise UserError("adapters need a [backbone]", where=self.path)
        training = self.card.adapters[name]
        tasks = [self._training_tasks[task] for task in training.tasks]
        return identity(self.backbone, training, self.card.inference, tasks)

    def used_adapters(self) -> list[str]:
        """Names of the adapters that retriever and generator ask for."""
        parts = (self.card.retriever, self.card.generator)
        return sorted({part.adapter for part in parts if getattr(part, "adapter", None)})

    def find_adapter(self, name: str) -> Path | None:
        """The cached or shipped adapter that fits the card, verified; None if there is none."""
        wanted = self.identity(name)
        cached = folder_of("adapters", name, wanted)
        shipped = [f for root in adapter_folders() for f in sorted(root.glob("*")) if f.is_dir()]
        for folder in (cached, *shipped):
            if open_artefact(folder) == wanted:
                return folder
        return None

    def train(self, name: str) -> Path:
        """Trains an adapter into the cache, going on from where a stopped training was."""
        from uniconv_bench.uniconv.training import train_adapter

        training: Training = self.card.adapters[name]
        identity = self.identity(name)
        folder = folder_of("adapters", name, identity)
        tasks = [self._training_tasks[task] for task in training.tasks]
        assert self.backbone is not None
        with new_artefact(folder, identity) as working:
            train_adapter(
                name, self.backbone, training, self.card.inference, tasks, working, self.progress
            )
        return folder

    def part(self, which: str, task: Task) -> Any:
        """The card's `retriever` or `generator`, built for a task."""
        table = getattr(self.card, which)
        custom = isinstance(table, CustomPart)
        target = resolve(table.kind if custom else PARTS[table.kind], self.path.parent)
        backbone = self.card.backbone.get(self.profile, "")
        context = Context(task.card, backbone, self.card.inference, self.adapters)
        return target(table.settings if custom else table, context)


def train(
    system: str, profile: Profile, *, retrain: bool = False, progress: Progress
) -> dict[str, Path]:
    """Adapter name -> folder, for every adapter that a system uses; trains only what does not fit.

    Args:
        retrain: train anew even where a fitting adapter is cached or shipped.
    """
    setup = Setup.of(system, profile, progress)
    return _adapters(setup, retrain)


def _adapters(setup: Setup, retrain: bool) -> dict[str, Path]:
    for name in setup.used_adapters():
        found = None if retrain else setup.find_adapter(name)
        setup.adapters[name] = found or setup.train(name)
    return setup.adapters


@dataclass
class Evaluation:
    """One system on one task's test turns, stage by stage."""

    setup: Setup
    task: Task
    limit: int | None
    progress: Progress

    @staticmethod
    def of(
        task: str, system: str, profile: Profile, limit: int | None, progress: Progress
    ) -> Evaluation:
        """Resolves names; raises UserError on a wrong one."""
        if limit is not None and limit < 1:
            raise UserError(f"--limit {limit} leaves no turn", mend="give 1 or more")
        setup = Setup.of(system, profile, progress)
        return Evaluation(setup, load_task(task, profile, progress=progress), limit, progress)

    @cached_property
    def turns(self) -> list[Turn]:
        """The test turns, the first `limit` of them if given."""
        return self.task.turns()[: self.limit]

    @cached_property
    def retriever(self) -> Retriever:
        """Built after the adapters are there."""
        part: Retriever = self.setup.part("retriever", self.task)
        return part

    @cached_property
    def generator(self) -> Generator:
        """Built after the adapters are there."""
        part: Generator = self.setup.part("generator", self.task)
        return part

    @cached_property
    def _where(self) -> dict[str, Any]:
        return {
            "task": self.task.card.name,
            "data": self.task.digest,
            "split": self.task.card.test_split,
            "limit": self.limit,
        }

    def retrieve(self) -> Path:
        """The folder with `run.trec`."""
        depth = self.setup.card.inference.depth
        fingerprint = {
            **self._where,
            "depth": depth,
            "part": dict(self.retriever.fingerprint()),
            "code": [digest_of_file(Path(getfile(type(self.retriever)))), digest_of_code("runs")],
        }
        with _stage("retrieval", self.setup.card.name, fingerprint, self.progress) as working:
            if working:
                rankings = self.retriever.retrieve(
                    self.turns, self.task.corpus, depth, self.progress
                )
                runs.write_run(working / "run.trec", rankings, self.setup.card.name)
        return folder_of("retrieval", self.setup.card.name, fingerprint)

    def generate(self, run_file: Path) -> Path:
        """The folder with `answers.jsonl`, from the top passages of a run file."""
        top_k = self.setup.card.inference.top_k
        fingerprint = {
            **self._where,
            "run": digest_of_file(run_file),
            "top_k": top_k,
            "part": dict(self.generator.fingerprint()),
            "code": digest_of_file(Path(getfile(type(self.generator)))),
        }
        with _stage("answers", self.setup.card.name, fingerprint, self.progress) as working:
            if working:
                run = runs.read_run(run_file)
                evidence = {
                    turn.turn_id: self._passages(run.get(turn.turn_id, [])[:top_k], run_file)
                    for turn in self.turns
                }
                self._answer(working, evidence)
        return folder_of("answers", self.setup.card.name, fingerprint)

    def _passages(self, ranking: list[tuple[str, float]], run_file: Path) -> list[Passage]:
        try:
            return [self.task.corpus[passage_id] for passage_id, _ in ranking]
        except KeyError as error:
            raise UserError(
                f"passage {error} is not in the corpus of {self.task.card.name}", where=run_file
            ) from error

    def _answer(self, working: Path, evidence: Mapping[str, list[Passage]]) -> None:
        """Appends answers as they come to a file that a stopped run goes on with."""
        so_far = working / "answers.partial"
        done = _answers_so_far(so_far)
        left = [turn for turn in self.turns if turn.turn_id not in done]
        with so_far.open("a", encoding="utf-8") as stream:
            for answer in self.generator.generate(left, evidence, self.progress):
                done[answer.turn_id] = answer
                stream.write(runs.answer_line(answer))
                stream.flush()
        runs.write_answers(working / "answers.jsonl", (done[t.turn_id] for t in self.turns))
        so_far.unlink()

    def score(self, run_file: Path, answers_file: Path) -> tuple[Path, list[Any]]:
        """The folder with `scores.jsonl` (a line a turn), and the scores of the record."""
        names = self.task.card.metrics
        fingerprint = {
            **self._where,
            "run": digest_of_file(run_file),
            "answers": digest_of_file(answers_file),
            "metrics": list(names),
            "code": digest_of_code("metrics", "runs", "evaluate"),
            "libraries": {name: metadata.version(name) for name in ("ranx", "evaluate")},
        }
        with _stage("scores", self.setup.card.name, fingerprint, self.progress) as working:
            if working:
                self._score(working, run_file, answers_file)
        folder = folder_of("scores", self.setup.card.name, fingerprint)
        return folder, read_json(folder / "summary.json")

    def _score(self, working: Path, run_file: Path, answers_file: Path) -> None:
        kept = {turn.turn_id for turn in self.turns}
        qrels = {t: q for t, q in self.task.qrels().items() if t in kept}
        references = {t: r for t, r in self.task.references().items() if t in kept}
        answers = {t: a.text for t, a in runs.read_answers(answers_file).items()}
        names = self.task.card.metrics
        by_metric: dict[str, dict[str, float]] = {}
        retrieval = [n for n in names if metrics.parse_metric(n).stage == "retrieval"]
        generation = [n for n in names if metrics.parse_metric(n).stage == "generation"]
        run = runs.read_run(run_file)
        if qrels and retrieval and run:  # a system that retrieves nothing has no such score
            by_metric |= metrics.score_run(qrels, run, retrieval)
        if references and generation:
            by_metric |= metrics.score_answers(references, answers, generation)
        rows = [
            {"turn_id": t.turn_id}
            | {name: values[t.turn_id] for name, values in by_metric.items() if t.turn_id in values}
            for t in self.turns
        ]
        write_jsonl(working / "scores.jsonl", rows)
        summary = [records.metric_score(name, values) for name, values in by_metric.items()]
        write_json(working / "summary.json", [s.model_dump(mode="json") for s in summary])


def _answers_so_far(path: Path) -> dict[str, Answer]:
    """Whole lines of an interrupted answer file; a torn last line is cut off the file."""
    if not path.exists():
        return {}
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    path.write_bytes(whole + b"\n" if whole else b"")
    return runs.read_answers(path) if whole else {}


@contextmanager
def _stage(
    stage: str, name: str, fingerprint: Mapping[str, Any], progress: Progress
) -> Iterator[Path | None]:
    """Yields the working folder of a stage to be done, or None if its artefact is there.

    Seconds and peak memory of the process are kept beside the result.
    """
    folder = folder_of(stage, name, fingerprint)
    if open_artefact(folder) is not None:
        yield None
        return
    with new_artefact(folder, fingerprint) as working:
        start = time.perf_counter()
        yield working
        cost = {
            "seconds": round(time.perf_counter() - start, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        write_json(working / "cost.json", cost)
