"""Whether a run or answer file is of a task at all. Turn ids cannot tell, since `1_1` is a turn of
most tasks; ids of passages can. Knows no task.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from uniconv_bench.errors import UserError
from uniconv_bench.system import Answer


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
