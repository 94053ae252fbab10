"""One system on one task: its stages, each from files to files.

A stage's artefact is named by everything it depends on, so whatever is already there is not done
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench import machine, metrics, runs
from uniconv_bench.appended import begin_with, line_of, read_texts
from uniconv_bench.artefacts import PARTIAL, folder_of, missing_artefact
from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.costs import counted
from uniconv_bench.definitions import Stage, computable, of_stage, packages_of
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_code, digest_of_file, write_json, write_jsonl
from uniconv_bench.origin import check_passages, check_run, ranked
from uniconv_bench.outside import answers, fingerprint_of, rankings, source_of
from uniconv_bench.recording import ANSWERS, INDEX, RUN, SCORES, SUMMARY
from uniconv_bench.system import (
    Answer,
    Approximates,
    Asks,
    Encoding,
    Generator,
    Progress,
    Retriever,
)
from uniconv_bench.task import Task, load_task


@dataclass(frozen=True)
class View:
    """How a system is shown the test turns; what is right stays as it is.

    Attributes:
        name: names everything that the change depends on.
        change: a turn as it is shown; None: left out.
    """

    name: str
    change: Callable[[Turn], Turn | None]


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
    view: View | None = None
    """None: as the dataset has them."""

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
        return Evaluation.with_setup(setup, loaded, limit, progress)

    @staticmethod
    def with_setup(
        setup: Setup,
        loaded: Task,
        limit: int | None,
        progress: Progress,
        view: View | None = None,
    ) -> Evaluation:
        """A system on a task, both at hand; raises UserError if they do not go together."""
        setup.tasks[loaded.card.name] = loaded
        if setup.card.retriever.kind == "gold" and not loaded.qrels():
            what = (
                f"{loaded.card.name} names no relevant passages, which {setup.card.name} hands over"
            )
            raise UserError(what, mend="choose another system")
        return Evaluation(setup, loaded, limit, progress, machine.energy_joules(), view=view)

    @cached_property
    def turns(self) -> list[Turn]:
        """The test turns, the first `limit` of them if given, as the view shows them."""
        turns = self.task.turns()[: self.limit]
        if self.view is None:
            return turns
        return [shown for turn in turns if (shown := self.view.change(turn)) is not None]

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
            **({"view": self.view.name} if self.view else {}),
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
        return self._answering({"run": digest_of_file(run_file), "top_k": self.top_k})

    def answering_from(
        self, evidence: Mapping[str, Sequence[Passage]]
    ) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of the answers of the turns named, from the passages with each."""
        shown = {t.turn_id: evidence[t.turn_id] for t in self.turns if t.turn_id in evidence}
        digest = digest_of({t: [astuple(p) for p in found] for t, found in shown.items()})
        return self._answering({"evidence": digest})

    def _answering(self, read: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Likewise; `read` names what the answers come from."""
        fingerprint = {
            **self._where,
            **read,
            "part": fingerprint_of(self.generator),
            "code": digest_of_file(source_of(self.generator)),
        }
        return folder_of("answers", self.setup.card.name, fingerprint), fingerprint

    @property
    def asked(self) -> Retriever:
        """What looks for passages in the end: the retriever, or the one that it asks."""
        return self.retriever.asked if isinstance(self.retriever, Asks) else self.retriever

    @property
    def encoding(self) -> Encoding:
        """The same, as one that embeds passages.

        Raises:
            UserError: it is none.
        """
        asked = self.asked
        if self.setup.is_given(self.task) or not isinstance(asked, Encoding):
            what = f"{self.setup.card.name} embeds no passages of {self.task.card.name}"
            raise UserError(what, mend="take a system with a retriever of kind dense or encoder")
        return asked

    def encode(self) -> Path:
        """The folder with the embeddings of the corpus."""
        folder, _ = self.encoding.embeddings(self.task.corpus)
        self.encoding.encode(self.task.corpus, self.progress)
        return folder

    def retrieve(self) -> Path:
        """The folder with `run.trec`."""
        if self.setup.index is not None:
            self.encoding.check(self.task.corpus)
        folder, fingerprint = self.retrieval
        with self._stage("retrieval", folder, fingerprint) as working:
            if working:
                run = rankings(
                    self.retriever, self.turns, self.task.corpus, self.depth, self.progress
                )
                self._check(run)
                if self.retrieves:
                    self._tell_missing("passages", run, self.turns)
                runs.write_run(working / RUN, run.items(), self.setup.card.name)
                if isinstance(self.asked, Approximates) and self.asked.index_recall is not None:
                    write_json(working / INDEX, asdict(self.asked.index_recall))
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

    def _tell_missing(self, what: str, given: Collection[str], turns: Sequence[Turn]) -> None:
        lacking = metrics.missing((turn.turn_id for turn in turns), given)
        if lacking:
            name, count = self.setup.card.name, f"{len(lacking)} of {len(turns)}"
            self.progress.note(f"{name} has no {what} for {count} turns, which score 0 if judged")

    def _check(self, run: runs.Run) -> None:
        """Refuses a run with unknown turns or passages: a retriever's fault, never a score."""
        known = [turn.turn_id for turn in self.turns]
        faults = check_run(run, known, self.task.corpus.ids, depth=self.depth)
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

    def answer_from(self, evidence: Mapping[str, Sequence[Passage]]) -> Path:
        """The folder with `answers.jsonl`: of each turn named, from all the passages with it."""
        folder, fingerprint = self.answering_from(evidence)
        with self._stage("answers", folder, fingerprint) as working:
            if working:
                self._answer(working, {turn: [*passages] for turn, passages in evidence.items()})
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
        """Appends answers as they come to a file that a stopped run goes on with.

        Turns without an entry among the evidence are not asked.
        """
        turns = [turn for turn in self.turns if turn.turn_id in evidence]
        so_far = working / f"answers{PARTIAL}"
        card = self.setup.card
        batch = card.inference.decode_batch_size if card.generator.kind == "llm" else 1
        done = _answers_so_far(so_far, batch)
        left = [turn for turn in turns if turn.turn_id not in done]
        with so_far.open("a", encoding="utf-8") as stream:
            for answer in answers(self.generator, left, evidence, self.progress):
                done[answer.turn_id] = answer
                stream.write(line_of(runs.answer_line(answer).rstrip("\n")))
                stream.flush()
        answered = [done[t.turn_id] for t in turns if t.turn_id in done]
        runs.write_answers(working / ANSWERS, answered)
        self._tell_missing("answer", done, turns)

    def metrics_of(self, stage: Stage) -> list[str]:
        """The card's metrics of one stage."""
        return of_stage(self.task.card.metrics, stage)

    def score(self, run_file: Path | None, answers_file: Path | None) -> Path:
        """The folder with `scores.jsonl` (a line a turn) and `summary.json` (means, intervals).

        Args:
            run_file: None of a system that ranks nothing.
            answers_file: None where the task's metrics judge no answers.
        """
        folder, fingerprint = self.scoring(run_file, answers_file)
        with self._stage("scores", folder, fingerprint) as working:
            if working:
                self._score(working, fingerprint["metrics"], run_file, answers_file)
        return folder

    def scoring(
        self, run_file: Path | None, answers_file: Path | None
    ) -> tuple[Path, dict[str, Any]]:
        """Folder and fingerprint of the scores of a run and answers."""
        names = computable(self.task.card.metrics, self.progress.note)
        fingerprint = {
            **self._where,
            "run": digest_of_file(run_file) if run_file else None,
            "answers": digest_of_file(answers_file) if answers_file else None,
            "metrics": names,
            "retrieves": self.retrieves,
            "code": digest_of_code(
                *("definitions", "metrics", "runs", "evaluation"),
                *("statistics/clusters", "statistics/intervals"),
            ),
            "libraries": {name: metadata.version(name) for name in packages_of(names)},
        }
        return folder_of("scores", self.setup.card.name, fingerprint), fingerprint

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
        read = runs.read_answers(answers_file) if answers_file else None
        by_metric = metrics.score(
            names,
            qrels=qrels,
            run=runs.read_run(run_file) if run_file and self.retrieves else None,
            references=references,
            texts=None if read is None else {t: answer.text for t, answer in read.items()},
        )
        rows = [
            {"turn_id": t.turn_id}
            | {name: values[t.turn_id] for name, values in by_metric.items() if t.turn_id in values}
            for t in self.turns
        ]
        write_jsonl(working / SCORES, rows)
        summary = [metrics.metric_score(name, values) for name, values in by_metric.items()]
        write_json(working / SUMMARY, [s.model_dump(mode="json") for s in summary])


def _answers_so_far(path: Path, batch: int) -> dict[str, Answer]:
    """Whole batches of an interrupted answering, each turn's first answer; all else is cut off.

    So the batches that are left hold the same turns as if nothing had been interrupted.
    """
    kept: dict[str, str] = {}
    for text in read_texts(path):
        kept.setdefault(json.loads(text)["turn_id"], text)
    whole = list(kept.values())[: len(kept) - len(kept) % batch]
    begin_with(path, whole)
    rows = map(json.loads, whole)
    return {
        row["turn_id"]: runs.parse_answer(row, path, number) for number, row in enumerate(rows, 1)
    }
