"""One system on one task: what is evaluated, and where the artefact of each of its `stages` is.

An artefact is named by everything it depends on, so whatever is already there is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench import machine
from uniconv_bench.artefacts import folder_of
from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.definitions import Stage, computable, of_stage, packages_of
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_code, digest_of_file
from uniconv_bench.locks import Hold
from uniconv_bench.outside import fingerprint_of, source_of
from uniconv_bench.system import Asks, Encoding, Generator, Progress, Retriever
from uniconv_bench.task import Task, load_task

SCORING = (
    "definitions",
    "metrics",
    "runs",
    "stages",
    "statistics/clusters",
    "statistics/intervals",
)
"""What scores depend on."""


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
    """Stages that this process did, from their first turn on; kept by `stages`."""
    view: View | None = None
    """None: as the dataset has them."""
    held: list[Hold | None] = field(default_factory=list)
    """What keeps other processes from throwing finished stages away meanwhile; by `stages`."""

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
        if limit is not None and limit >= len(loaded.turns()):
            progress.note(f"  {loaded.card.name} has no more than {limit:,} turns: no limit")
            limit = None
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

    def metrics_of(self, stage: Stage) -> list[str]:
        """The card's metrics of one stage."""
        return of_stage(self.task.card.metrics, stage)

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
            "code": digest_of_code(*SCORING),
            "libraries": {name: metadata.version(name) for name in packages_of(names)},
        }
        return folder_of("scores", self.setup.card.name, fingerprint), fingerprint
