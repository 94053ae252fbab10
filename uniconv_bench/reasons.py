"""Why a stage of a system on a task would be done again: in what the nearest artefact differs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uniconv_bench.artefacts import folder_of
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.inventory import nearest
from uniconv_bench.recording import ANSWERS, RUN
from uniconv_bench.system import Encoding

Stage = Literal["train", "encode", "retrieve", "generate", "score"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Whether an artefact is there, and if not, what comes nearest.

    Attributes:
        stage: that makes it.
        what: which of its artefacts.
        folder: where it is; None if it is not there.
        nearest: another one of the kind; None if there is none.
        differing: (field, there, here) in which that one differs.
    """

    stage: Stage
    what: str
    folder: Path | None
    nearest: Path | None = None
    differing: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "stage": self.stage,
            "what": self.what,
            "cached": self.folder is not None,
            "folder": str(self.folder) if self.folder else None,
            "nearest": str(self.nearest) if self.nearest else None,
            "differing": [
                {"field": name, "there": there, "here": here}
                for name, there, here in self.differing
            ],
        }


def reasons(evaluation: Evaluation) -> Iterator[Reason]:
    """Stage by stage up to the first that is missing, on whose result the others depend."""
    missing = yield from _adapters(evaluation)
    if missing:
        return
    evaluation.setup.fit()
    name = evaluation.setup.card.name
    part = evaluation.retriever
    if isinstance(part, Encoding) and not evaluation.setup.is_given(evaluation.task):
        yield _reason("encode", name, *part.embeddings(evaluation.task.corpus))
    ranking = _reason("retrieve", name, *evaluation.retrieval)
    yield ranking
    if ranking.folder is None:
        return
    run_file, answers_file = ranking.folder / RUN, None
    if evaluation.metrics_of("generation"):
        answers = _reason("generate", name, *evaluation.answering(run_file))
        yield answers
        if answers.folder is None:
            return
        answers_file = answers.folder / ANSWERS
    yield _reason("score", name, *evaluation.scoring(run_file, answers_file))


def reason(evaluation: Evaluation, stage: Stage) -> list[Reason]:
    """What there is to say of one stage.

    Raises:
        UserError: it cannot be told before another stage is done, or the system has none such.
    """
    found = list(reasons(evaluation))
    chosen = [one for one in found if one.stage == stage]
    if not chosen:
        last = found[-1]
        what = f"{evaluation.setup.card.name} has nothing to {stage} here"
        if last.folder is None:
            what = f"nothing can be said of {stage} before {last.stage} is done"
        raise UserError(what, mend="leave --stage out to see the stages up to there")
    return chosen


def _adapters(evaluation: Evaluation) -> Generator[Reason, None, bool]:
    """A reason for each adapter; returns whether one is missing."""
    setup, missing = evaluation.setup, False
    for name in setup.used_adapters():
        found = setup.find_adapter(name)
        if found is not None:
            yield Reason("train", name, found)
        else:
            missing = True
            wanted = setup.identity(name)
            yield _reason("train", name, folder_of("adapters", name, wanted), wanted)
    return missing


def _reason(stage: Stage, what: str, folder: Path, fingerprint: Mapping[str, Any]) -> Reason:
    if folder.exists():
        return Reason(stage, what, folder)
    found = nearest(folder, fingerprint)
    if found is None:
        return Reason(stage, what, None)
    return Reason(stage, what, None, found[0], tuple(found[1]))
