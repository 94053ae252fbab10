"""Whether a run or answer file is of a task at all, and what in it is not. Turn ids cannot tell the
first, since `1_1` is a turn of most tasks; ids of passages can. Knows no task.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from uniconv_bench.errors import UserError
from uniconv_bench.runs import DEPTH, ordered
from uniconv_bench.system import Answer, Ranking


def check_passages(passages: Iterable[str], corpus: Container[str], task: str, where: Path) -> None:
    """Refuses a file most of whose passages are not in a task's corpus.

    Args:
        passages: ids in the file.
        corpus: ids of the task.
        task: its name.
        where: the file.
    """
    named = dict.fromkeys(passages)
    strangers = [passage_id for passage_id in named if passage_id not in corpus]
    if 2 * len(strangers) > len(named):
        count = f"{len(strangers):,} of the {len(named):,} passages"
        what = f"{count} in this file are not in the corpus of {task}, first {strangers[0]!r}"
        mend = "it belongs to another task or profile: name that with --task or --profile"
        raise UserError(what, where=where, mend=mend)


def ranked(run: Mapping[str, Iterable[tuple[str, float]]]) -> list[str]:
    """The ids of a run's passages."""
    return [passage_id for ranking in run.values() for passage_id, _ in ranking]


def shown(answers: Mapping[str, Answer]) -> list[str]:
    """The ids of the passages that answers were written from; none where the file does not say."""
    return [passage_id for answer in answers.values() for passage_id in answer.evidence]


def check_run(
    run: Mapping[str, Ranking],
    turn_ids: Collection[str],
    passage_ids: Container[str],
    *,
    judged: Collection[str] = (),
    depth: int = DEPTH,
) -> list[str]:
    """What is wrong with a run, a line each: unknown or missing turns, unknown passages, depth.

    Args:
        run: as read.
        turn_ids: every turn of the split.
        passage_ids: the corpus.
        judged: turns that must have a ranking.
        depth: most passages a turn.
    """
    problems = _check_turns(run, turn_ids, judged, "ranking")
    absent = {p for p in dict.fromkeys(ranked(run)) if p not in passage_ids}
    strangers = [(t, p) for t, rows in run.items() for p, _ in rows if p in absent]
    if strangers:
        turn_id, passage_id = strangers[0]
        problems.append(
            f"{len(strangers)} ranked passages are not in the corpus, "
            f"first {passage_id!r} of turn {turn_id!r}"
        )
    deep = [turn_id for turn_id, rows in run.items() if len(rows) > depth]
    if deep:
        problems.append(f"{len(deep)} turns rank more than {depth} passages, first {deep[0]!r}")
    for turn_id, rows in run.items():
        try:
            ordered(rows)
        except UserError as error:
            problems.append(f"turn {turn_id!r}: {error}")
            break
    return problems


def check_answers(
    answers: Mapping[str, Any], turn_ids: Collection[str], *, judged: Collection[str] = ()
) -> list[str]:
    """What is wrong with answers, a line each: unknown turns, judged turns without an answer."""
    return _check_turns(answers, turn_ids, judged, "answer")


def check_evidence(answers: Mapping[str, Answer], passage_ids: Container[str]) -> list[str]:
    """A line if answers name passages that the corpus does not have as what they were made from."""
    absent = [p for p in dict.fromkeys(shown(answers)) if p not in passage_ids]
    if not absent:
        return []
    return [f"{len(absent)} passages named as evidence are not in the corpus, first {absent[0]!r}"]


def _check_turns(
    given: Mapping[str, Any], turn_ids: Collection[str], judged: Collection[str], what: str
) -> list[str]:
    problems = []
    known = set(turn_ids)
    unknown = [turn_id for turn_id in given if turn_id not in known]
    if unknown:
        problems.append(f"{len(unknown)} turns are not of this task, first {unknown[0]!r}")
    absent = [turn_id for turn_id in judged if turn_id not in given]
    if absent:
        problems.append(f"{len(absent)} judged turns have no {what}, first {absent[0]!r}")
    return problems
