"""How long studies will take on this machine, said before they start. Never part of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from uniconv_bench.assembly import Setup
from uniconv_bench.cards import Profile
from uniconv_bench.definitions import of_stage
from uniconv_bench.estimate import stage_seconds, training_seconds
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.experiments.conditions import evidence_of, view_of
from uniconv_bench.experiments.study import setup_of, tasks_of
from uniconv_bench.files import digest_of
from uniconv_bench.progress import Silent
from uniconv_bench.recording import RUN
from uniconv_bench.study_cards import Condition, StudyCard
from uniconv_bench.system import Encoding
from uniconv_bench.task import Task

OPENING = 5.0
"""Seconds that a stage takes before its first turn: weights are read, code is compiled."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study still takes.

    Attributes:
        trains: whether it needs adapters that are not there, perhaps ones of a study before it.
        training: those to be trained for it, as `<adapter> of <system>`.
        seconds: for everything.
    """

    trains: bool
    training: tuple[str, ...]
    seconds: float


@dataclass
class Planner:
    """Plans studies one after the other; what one leaves in the cache costs the next nothing."""

    profile: Profile
    left: set[str] = field(default_factory=set)
    """Digests of the work that is planned already."""

    def plan(self, card: StudyCard) -> StudyPlan:
        """What is still to be done for a study, after those planned before it."""
        card = card.at(self.profile)
        tasks = tasks_of(card, self.profile, Silent())
        named: list[str] = []
        trains, seconds = False, 0.0
        for label, condition in card.conditions.items():
            setup = setup_of(card, label, self.profile, Silent())
            missing = setup.to_train()
            trains = trains or bool(missing)
            for name in missing:
                if self._new("adapter", setup.identity(name)):
                    named.append(f"{name} of {setup.card.name}")
                    seconds += training_seconds(setup, [name])
            if not missing:
                setup.fit()
            seconds += sum(self._stages(card, condition, setup, task) for task in tasks)
        return StudyPlan(trains, tuple(named), seconds)

    def _stages(self, card: StudyCard, condition: Condition, setup: Setup, task: Task) -> float:
        limit, view = card.turns.get(self.profile), view_of(condition.history, task)
        evaluation = Evaluation.with_setup(setup, task, limit, Silent(), view)
        finder = evaluation
        if condition.evidence.startswith("from "):
            other = Setup.of(condition.evidence.removeprefix("from "), self.profile, Silent())
            if not other.to_train():
                other.fit()
            finder = Evaluation.with_setup(other, task, limit, Silent(), view)
        where = [task.digest, task.test_split, limit, condition.history]
        seconds = 0.0
        if condition.evidence.startswith(("own", "from ")):
            seconds += self._retrieval(finder, where)
        answers = of_stage(card.metrics, "generation") and evaluation.metrics_of("generation")
        if answers and not self._answered(evaluation, finder, condition):
            key = [*where, condition.evidence, finder.setup.ability(), setup.ability()]
            if self._new("answers", key):
                seconds += OPENING + stage_seconds(evaluation)["generate"]
        return seconds

    def _retrieval(self, finder: Evaluation, where: Sequence[object]) -> float:
        ability = finder.setup.ability()
        ready = _ready(finder.setup)
        if ready and finder.retrieval[0].exists():
            return 0.0
        full = stage_seconds(finder)
        seconds = 0.0
        encoded = ready and isinstance(finder.retriever, Encoding)
        if encoded and finder.encoding.embeddings(finder.task.corpus)[0].exists():
            full["encode"] = 0.0
        if self._new("corpus", [finder.task.digest, ability["retriever"], ability["adapters"]]):
            seconds += full["encode"]
        if self._new("run", [*where, ability]):
            seconds += OPENING + full["retrieve"]
        return seconds

    def _answered(self, evaluation: Evaluation, finder: Evaluation, condition: Condition) -> bool:
        """Whether the cache holds the answers."""
        if not (_ready(evaluation.setup) and _ready(finder.setup)):
            return False
        if condition.evidence.startswith(("own", "from ")):
            run = finder.retrieval[0] / RUN
            return run.exists() and evaluation.answering(run)[0].exists()
        if self.profile == "full":  # to search millions of passages is no matter of a plan
            return False
        of = condition.evidence, evaluation.turns, evaluation.task, evaluation.top_k
        return evaluation.answering_from(evidence_of(*of))[0].exists()

    def _new(self, kind: str, what: object) -> bool:
        """Whether this was not planned before; it is from now on."""
        digest = digest_of({kind: what})
        new = digest not in self.left
        self.left.add(digest)
        return new


def _ready(setup: Setup) -> bool:
    return set(setup.used_adapters()) <= set(setup.adapters)
