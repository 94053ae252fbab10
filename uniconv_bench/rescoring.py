"""The one door by which run and answer files of others become scores: checked, then `metrics`.

Knows no task by name: `Tasks` hands them in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.conversation import Turn
from uniconv_bench.definitions import of_stage, uncomputable
from uniconv_bench.errors import UserError
from uniconv_bench.metrics import PerTurn, score
from uniconv_bench.origin import check_answers, check_evidence, check_run
from uniconv_bench.runs import DEPTH, read_answers, read_run
from uniconv_bench.system import Answer, Corpus


class NotAtHand(UserError):
    """The whole data of a task is not on this machine, which speaks against no submission."""


class LoadedTask(Protocol):
    """What is needed of a task."""

    @property
    def card(self) -> TaskCard:
        """Its facts."""

    @property
    def digest(self) -> str:
        """Of its data."""

    @property
    def corpus(self) -> Corpus:
        """Its passages."""

    def turns(self) -> list[Turn]:
        """Of the test split."""

    def qrels(self) -> dict[str, dict[str, int]]:
        """Of the test turns that have relevant passages."""

    def references(self) -> dict[str, tuple[str, ...]]:
        """Of the test turns that have acceptable responses."""


@dataclass(frozen=True)
class Tasks:
    """The tasks of this installation.

    Attributes:
        names: all of them.
        load: (name, profile) -> the task; raises `NotAtHand`.
        taken: names and titles that no submission may bear -> the system that has them.
    """

    names: Collection[str]
    load: Callable[[str, Profile], LoadedTask]
    taken: Mapping[str, str] = field(default_factory=dict)


class Rescored(NamedTuple):
    """What came of run and answer files.

    Attributes:
        scores: metric -> turn -> value; empty where there is a problem.
        problems: what is wrong with the files, a line each.
        answers: turn -> what was read of it; empty where there is no answer file.
    """

    scores: dict[str, PerTurn]
    problems: list[str]
    answers: Mapping[str, Answer]


def rescore(
    task: LoadedTask,
    run_file: Path | None,
    answers_file: Path | None,
    *,
    names: Collection[str] | None = None,
    whole: bool = True,
) -> Rescored:
    """Scores from these files alone, or what is wrong with them.

    Args:
        task: what to score against.
        run_file: a TREC run file, if there is one.
        answers_file: an answer file, if there is one.
        names: metrics of the task; None: all of them.
        whole: as the rules ask of submitters: no judged turn is missing, no ranking too deep.
            Without it missing turns score 0.

    Raises:
        UserError: one of the metrics needs a package that is not installed.
    """
    turn_ids = [turn.turn_id for turn in task.turns()]
    asked = list(task.card.metrics if names is None else names)
    ranks, answers = (of_stage(asked, stage) for stage in ("retrieval", "generation"))
    for name in answers if answers_file else ():
        if (lacking := uncomputable(name)) is not None:
            raise lacking
    problems: list[str] = []
    scores: dict[str, PerTurn] = {}
    said: Mapping[str, Answer] = {}
    try:
        qrels, references = task.qrels(), task.references()
        run = texts = None
        if run_file and not ranks:
            problems.append("has its passages given, retrieval is not scored: leave the run out")
        elif run_file and qrels:
            run = read_run(run_file)
            judged, depth = (qrels, DEPTH) if whole else ((), len(task.corpus))
            problems += check_run(run, turn_ids, task.corpus.ids, judged=judged, depth=depth)
        if answers_file:
            said = read_answers(answers_file)
            problems += check_evidence(said, task.corpus.ids)
        if answers_file and references and answers:
            problems += check_answers(said, turn_ids, judged=references if whole else ())
            texts = {turn_id: answer.text for turn_id, answer in said.items()}
        if not problems:
            scores = score(asked, qrels=qrels, run=run, references=references, texts=texts)
    except UserError as error:
        problems.append(str(error))
    return Rescored(scores, [f"{task.card.name}: {problem}" for problem in problems], said)
