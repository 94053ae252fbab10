"""Task x system -> adapters -> run -> answers -> scores -> record.

Each stage reads files and writes an artefact named by everything it depends on, so whatever is
already there is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from uniconv_bench import metrics, records, runs
from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.costs import counted
from uniconv_bench.definitions import Stage, computable, packages_of, uncomputable
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of_code, digest_of_file, write_json, write_jsonl
from uniconv_bench.origin import check_passages, ranked
from uniconv_bench.outside import answers, fingerprint_of, rankings, source_of
from uniconv_bench.recording import (
    ANSWERS,
    RECORD,
    RUN,
    SCORES,
    SUMMARY,
    kept,
    recorded,
    scores_of,
)
from uniconv_bench.records import ResultRecord
from uniconv_bench.system import Answer, Generator, Progress, Retriever
from uniconv_bench.task import Task, load_task

if TYPE_CHECKING:
    from uniconv_bench.uniconv.report import Tracker


@dataclass
class Evaluation:
    """One system on one task's test turns, stage by stage."""

    setup: Setup
    task: Task
    limit: int | None
    progress: Progress
    energy: float | None
    """The machine's energy counter when the work began."""
    made: set[str] = field(default_factory=set)
    """Stages that this process did, from their first turn on."""

    @staticmethod
    def of(
        task: str,
        system: str,
        profile: Profile,
        limit: int | None,
        progress: Progress,
        data_dir: Path | None = None,
    ) -> Evaluation:
        """Resolves names, prepares data; raises UserError on what is wrong with either.

        Args:
            data_dir: folder of the task's raw files; None: what is prepared, or shipped.
        """
        if limit is not None and limit < 1:
            raise UserError(f"--limit {limit} leaves no turn", mend="give 1 or more")
        setup = Setup.of(system, profile, progress)
        loaded = load_task(task, profile, data_dir, progress=progress)
        setup.tasks[loaded.card.name] = loaded
        if setup.card.retriever.kind == "gold" and not loaded.qrels():
            what = (
                f"{loaded.card.name} names no relevant passages, which {setup.card.name} hands over"
            )
            raise UserError(what, mend="choose another system")
        return Evaluation(setup, loaded, limit, progress, records.energy_joules())

    @cached_property
    def turns(self) -> list[Turn]:
        """The test turns, the first `limit` of them if given."""
        return self.task.turns()[: self.limit]

    @property
    def retrieves(self) -> bool:
        """Whether the system ranks passages at all; one that does and finds none scores 0."""
        return self.setup.card.retriever.kind != "none"

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
    def _given(self) -> int | None:
        """Most passages that the task gives with a turn; None: the system answers from its own."""
        if not self.setup.is_given(self.task):
            return None
        return max(len(turn.given) for turn in self.turns)

    @property
    def depth(self) -> int:
        """Most passages a turn in the run: the card's number, or all that the task gives."""
        return self.setup.card.inference.depth if self._given is None else self._given

    @property
    def top_k(self) -> int:
        """Most passages of a turn's ranking that the generator reads; likewise."""
        return self.setup.card.inference.top_k if self._given is None else self._given

    @cached_property
    def _where(self) -> dict[str, Any]:
        return {
            "task": self.task.card.name,
            "data": self.task.digest,
            "split": self.task.test_split,
            "limit": self.limit,
        }

    @cached_property
    def retrieval(self) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of the ranking."""
        fingerprint = {
            **self._where,
            "depth": self.depth,
            "part": fingerprint_of(self.retriever),
            "code": [digest_of_file(source_of(self.retriever)), digest_of_code("runs")],
        }
        return folder_of("retrieval", self.setup.card.name, fingerprint), fingerprint

    def answering(self, run_file: Path) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of the answers from a run file."""
        fingerprint = {
            **self._where,
            "run": digest_of_file(run_file),
            "top_k": self.top_k,
            "part": fingerprint_of(self.generator),
            "code": digest_of_file(source_of(self.generator)),
        }
        return folder_of("answers", self.setup.card.name, fingerprint), fingerprint

    def retrieve(self) -> Path:
        """The folder with `run.trec`."""
        folder, fingerprint = self.retrieval
        with self._stage("retrieval", folder, fingerprint) as working:
            if working:
                run = rankings(
                    self.retriever, self.turns, self.task.corpus, self.depth, self.progress
                )
                self._check(run)
                if self.retrieves:
                    self._tell_missing("passages", run)
                runs.write_run(working / RUN, run.items(), self.setup.card.name)
        return folder

    @contextmanager
    def _stage(
        self, name: str, folder: Path, fingerprint: Mapping[str, Any]
    ) -> Iterator[Path | None]:
        """The working folder of a stage to be done, its cost counted, or None if it is done."""
        with missing_artefact(folder, fingerprint) as working:
            if working is None:
                yield None
                return
            with counted(working) as fresh:
                yield working
            if fresh:
                self.made.add(name)

    def _tell_missing(self, what: str, given: Collection[str]) -> None:
        lacking = metrics.missing((turn.turn_id for turn in self.turns), given)
        if lacking:
            name, count = self.setup.card.name, f"{len(lacking)} of {len(self.turns)}"
            self.progress.note(f"{name} has no {what} for {count} turns, which score 0 if judged")

    def _check(self, run: runs.Run) -> None:
        """Refuses a run with unknown turns or passages: a retriever's fault, never a score."""
        known = [turn.turn_id for turn in self.turns]
        faults = runs.check_run(run, known, self.task.corpus.ids, depth=self.depth)
        if faults:
            raise UserError(f"{self.setup.card.name} made an impossible run: {faults[0]}")

    def generate(self, run_file: Path) -> Path:
        """The folder with `answers.jsonl`, from the top passages of a run file."""
        folder, fingerprint = self.answering(run_file)
        with self._stage("answers", folder, fingerprint) as working:
            if working:
                run = runs.read_run(run_file)
                evidence = {
                    turn.turn_id: self._passages(run.get(turn.turn_id, [])[: self.top_k], run_file)
                    for turn in self.turns
                }
                self._answer(working, evidence)
        return folder

    def accept(self, run_file: Path) -> None:
        """Refuses a run file that is not of this task; says so if it ranks some turns only."""
        task, run = self.task.card.name, runs.read_run(run_file)
        check_passages(ranked(run), self.task.corpus.ids, task, run_file)
        covered = [turn.turn_id for turn in self.turns if turn.turn_id in run]
        if not covered:
            mend = f"turns of {task} are named as {self.turns[0].turn_id!r}"
            raise UserError("no turn to answer is ranked in this file", where=run_file, mend=mend)
        if len(covered) < len(self.turns):
            count = f"{len(covered)} of {len(self.turns)} turns"
            self.progress.note(
                f"{run_file} ranks {count}; the others are answered without passages"
            )

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
        card = self.setup.card
        batch = card.inference.decode_batch_size if card.generator.kind == "llm" else 1
        done = _answers_so_far(so_far, batch)
        left = [turn for turn in self.turns if turn.turn_id not in done]
        with so_far.open("a", encoding="utf-8") as stream:
            for answer in answers(self.generator, left, evidence, self.progress):
                done[answer.turn_id] = answer
                stream.write(runs.answer_line(answer))
                stream.flush()
        answered = [done[t.turn_id] for t in self.turns if t.turn_id in done]
        runs.write_answers(working / ANSWERS, answered)
        self._tell_missing("answer", done)
        so_far.unlink()

    def metrics_of(self, stage: Stage) -> list[str]:
        """The card's metrics of one stage."""
        return [n for n in self.task.card.metrics if metrics.parse_metric(n).stage == stage]

    def score(self, run_file: Path | None, answers_file: Path | None) -> Path:
        """The folder with `scores.jsonl` (a line a turn) and `summary.json` (means, intervals).

        Args:
            run_file: None of a system that ranks nothing.
            answers_file: None where the task's metrics judge no answers.
        """
        names = computable(self.task.card.metrics, self.progress.note)
        fingerprint = {
            **self._where,
            "run": digest_of_file(run_file) if run_file else None,
            "answers": digest_of_file(answers_file) if answers_file else None,
            "metrics": names,
            "retrieves": self.retrieves,
            "code": digest_of_code("definitions", "metrics", "runs", "evaluate"),
            "libraries": {name: metadata.version(name) for name in packages_of(names)},
        }
        folder = folder_of("scores", self.setup.card.name, fingerprint)
        with self._stage("scores", folder, fingerprint) as working:
            if working:
                self._score(working, names, run_file, answers_file)
        return folder

    def _score(
        self,
        working: Path,
        names: Collection[str],
        run_file: Path | None,
        answers_file: Path | None,
    ) -> None:
        kept = {turn.turn_id for turn in self.turns}
        qrels = {t: q for t, q in self.task.qrels().items() if t in kept}
        references = {t: r for t, r in self.task.references().items() if t in kept}
        by_metric: dict[str, dict[str, float]] = {}
        retrieval, generation = (
            [name for name in self.metrics_of(stage) if name in names] for stage in get_args(Stage)
        )
        if qrels and retrieval and self.retrieves and run_file:
            by_metric |= metrics.score_run(qrels, runs.read_run(run_file), retrieval)
        if references and generation and answers_file:
            texts = {t: a.text for t, a in runs.read_answers(answers_file).items()}
            by_metric |= metrics.score_answers(references, texts, generation)
        rows = [
            {"turn_id": t.turn_id}
            | {name: values[t.turn_id] for name, values in by_metric.items() if t.turn_id in values}
            for t in self.turns
        ]
        write_jsonl(working / SCORES, rows)
        summary = [metrics.metric_score(name, values) for name, values in by_metric.items()]
        write_json(working / SUMMARY, [s.model_dump(mode="json") for s in summary])


def train(
    system: str,
    profile: Profile,
    *,
    retrain: set[str] | None = None,
    tracker: Tracker | None = None,
    progress: Progress,
) -> dict[str, Path]:
    """Adapter name -> folder, for every adapter in use; trains only what does not fit.

    Args:
        retrain: as of `Setup.fit`; an empty set trains anew even where an adapter fits.
        tracker: told of every step.
    """
    setup = Setup.of(system, profile, progress)
    setup.tracker = tracker
    return setup.fit(retrain=retrain)


def retrieve(
    task: str, system: str, profile: Profile, *, limit: int | None = None, progress: Progress
) -> Path:
    """Trains if needed and ranks passages for the test turns; the TREC run file."""
    evaluation = Evaluation.of(task, system, profile, limit, progress)
    evaluation.setup.fit()
    return evaluation.retrieve() / RUN


def generate(
    task: str,
    system: str,
    profile: Profile,
    *,
    limit: int | None = None,
    run: Path | None = None,
    progress: Progress,
) -> Path:
    """Trains and retrieves if needed and answers the test turns; the answer file.

    Args:
        run: a TREC run file to answer from in place of the system's own.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress)
    if run is not None:
        evaluation.accept(run)
    evaluation.setup.fit()
    return evaluation.generate(run or evaluation.retrieve() / RUN) / ANSWERS


def run(
    task: str,
    system: str,
    profile: Profile,
    *,
    limit: int | None = None,
    data_dir: Path | None = None,
    retrain: set[str] | None = None,
    results: Path | None,
    progress: Progress,
) -> tuple[ResultRecord, Path]:
    """All stages in order, each from cache if it is there; the record and where it is.

    Where a task's metrics judge no answers, none are written.

    Args:
        limit: take the first turns only; such a record stays in the cache.
        data_dir: folder of the task's raw files; None: what is prepared, or shipped.
        retrain: as of `Setup.fit`; one set for several runs trains a shared adapter once.
        results: folder that gets `<profile>/<system>/<task>.json`; None: the cache alone.
    """
    evaluation = Evaluation.of(task, system, profile, limit, progress, data_dir)
    evaluation.setup.fit(retrain=retrain)
    folders = {"retrieval": evaluation.retrieve()}
    run_file, answers_file = folders["retrieval"] / RUN, None
    if evaluation.metrics_of("generation"):
        folders["answers"] = evaluation.generate(run_file)
        answers_file = folders["answers"] / ANSWERS
    folders["scores"] = evaluation.score(run_file, answers_file)
    fingerprint = {
        **{stage: folder.name for stage, folder in folders.items()},
        "card": evaluation.setup.card.digest(),
        "task": evaluation.task.card.digest(),
        "code": digest_of_code("records", "recording", "evaluate"),
    }
    folder = folder_of("records", evaluation.setup.card.name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working:
            records.write_record(recorded(evaluation, folders), working / RECORD)
    record = records.read_record(folder / RECORD)
    if results is None or limit is not None:
        return record, folder / RECORD
    record, path, written = kept(record, results)
    if not written:
        progress.note("record unchanged: the one there has these scores, counts and digests")
    return record, path


def outputs(record: ResultRecord) -> dict[str, Path]:
    """The cached run and answer files that a record was made from, by digest; those still there."""
    found = {}
    wanted = {"retrieval": (RUN, record.digests.run), "answers": (ANSWERS, record.digests.answers)}
    for stage, (name, digest) in wanted.items():
        for path in sorted((cache_dir() / stage).glob(f"{record.system.name}-*/{name}")):
            if digest_of_file(path) == digest:
                found[name] = path
    return found


def rescored(record: ResultRecord, *, progress: Progress) -> ResultRecord | None:
    """A record with the scores that its task's card asks for now, from its cached run and answers.

    No model runs, and what it says of system, run, answers and provenance stays as it is.

    Returns:
        None where the cache lacks one of the files.

    Raises:
        UserError: the task's data is no longer what it was, or a metric lacks its package.
    """
    files = outputs(record)
    due = {RUN: record.digests.run, ANSWERS: record.digests.answers}
    if any(digest and name not in files for name, digest in due.items()):
        return None
    task, system = record.task, record.system.name
    evaluation = Evaluation.of(task.name, system, task.profile, record.limit, progress)
    if evaluation.task.digest != task.data_digest:
        what = f"the data of {task.name} ({task.profile}) is not what {system} was run on"
        raise UserError(what, mend="run it again")
    for name in evaluation.task.card.metrics:
        if (lacking := uncomputable(name)) is not None:
            raise lacking
    folder = evaluation.score(files.get(RUN), files.get(ANSWERS))
    digests = {"scores": digest_of_file(folder / SCORES)}
    return ResultRecord(
        **{name: getattr(record, name) for name in ResultRecord.model_fields}
        | {
            "task": task.model_copy(update={"card_digest": evaluation.task.card.digest()}),
            "scores": scores_of(folder),
            "digests": record.digests.model_copy(update=digests),
        }
    )


def _answers_so_far(path: Path, batch: int) -> dict[str, Answer]:
    """Whole batches of an interrupted answer file, each turn's first line; all else is cut off.

    So the batches that are left hold the same turns as if nothing had been interrupted.
    """
    if not path.exists():
        return {}
    kept: dict[str, bytes] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            kept.setdefault(json.loads(line)["turn_id"], line + b"\n")
        except (ValueError, KeyError, TypeError):
            break  # written while the machine went down: what follows is no better
    whole = len(kept) - len(kept) % batch
    path.write_bytes(b"".join(list(kept.values())[:whole]))
    return runs.read_answers(path)
