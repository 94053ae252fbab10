"""A system's card made runnable: its adapters found or trained, its retriever and generator built.

Knows registry, backbones and training; nothing of runs, scores or records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.artefacts import folder_of, missing_artefact, open_artefact
from uniconv_bench.cards import Profile
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of
from uniconv_bench.outside import built
from uniconv_bench.progress import Silent
from uniconv_bench.registry import adapter_folders, resolve, system_card
from uniconv_bench.system import Context, Progress
from uniconv_bench.system_cards import CustomPart, SystemCard
from uniconv_bench.task import Task, load_task
from uniconv_bench.uniconv.backbone import Backbone, checkpoint, find_backbone

if TYPE_CHECKING:
    from uniconv_bench.uniconv.distillation import Teacher
    from uniconv_bench.uniconv.report import Tracker

WEIGHTS = "adapter_model.safetensors"
PARTS = {
    "dense": "uniconv_bench.uniconv.parts:DenseRetriever",
    "llm": "uniconv_bench.uniconv.parts:LlmGenerator",
    "endpoint": "uniconv_bench.endpoint:EndpointGenerator",
    "bm25": "uniconv_bench.baselines.bm25:Bm25Retriever",
    "encoder": "uniconv_bench.baselines.encoder:EncoderRetriever",
    "rewrite": "uniconv_bench.baselines.rewrite:RewriteRetriever",
    "gold": "uniconv_bench.baselines.bounds:Bound",
    "none": "uniconv_bench.baselines.bounds:Bound",
}
"""Kinds of retriever and generator that cards can name -> the class behind each."""
GIVEN = "uniconv_bench.baselines.given:Given"
BOUNDS = ("gold", "none")
"""Retrievers that mean the same on every task: all of the evidence, and none."""


@dataclass
class Setup:
    """One system on one profile: its card, its backbone, and where its adapters are or will be."""

    card: SystemCard
    path: Path
    profile: Profile
    progress: Progress
    adapters: dict[str, Path] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    """Tasks that are loaded already, perhaps from a folder of the person's own."""
    trained: set[str] = field(default_factory=set)
    """Adapters that this process trained from the first step."""
    pupils: tuple[str, ...] = ()
    """Systems that learn from this one, and those that learn from them."""
    tracker: Tracker | None = None
    """Told of every training step."""
    index: Path | None = None
    """Folder of embeddings made elsewhere."""

    @staticmethod
    def of(system: str, profile: Profile, progress: Progress) -> Setup:
        """A system by name or card path.

        Raises:
            UserError: no such card, a malformed one, or one without a backbone for the profile.
        """
        return Setup.with_card(*system_card(system), profile, progress)

    @staticmethod
    def with_card(card: SystemCard, path: Path, profile: Profile, progress: Progress) -> Setup:
        """A system whose card is at hand.

        Raises:
            UserError: it has no backbone for the profile.
        """
        if card.backbone and profile not in card.backbone:
            there = next(iter(card.backbone))
            what = f"{card.name} names no backbone for profile {profile}"
            mend = f"add --profile {there}, or `{profile} = ...` to its [backbone]"
            raise UserError(what, where=path, mend=mend)
        return Setup(card.on(profile), path, profile, progress)

    @property
    def backbone(self) -> Backbone | None:
        """The pretrained weights of this profile."""
        return find_backbone(self.card.backbone[self.profile]) if self.card.backbone else None

    @cached_property
    def training_tasks(self) -> dict[str, Task]:
        """The tasks whose training sets the card's adapters mix, by name."""
        names = {name for training in self.card.adapters.values() for name in training.tasks}
        return {
            name: self.tasks.get(name) or load_task(name, self.profile, progress=self.progress)
            for name in sorted(names)
        }

    def identity(self, name: str) -> dict[str, Any]:
        """What the adapter of this name on the card has to be trained from."""
        from uniconv_bench.uniconv.training import identity

        if self.backbone is None:
            raise UserError("adapters need a [backbone]", where=self.path)
        training = self.card.adapters[name]
        tasks = [self.training_tasks[task] for task in training.tasks]
        origins: dict[str, Any] = {}
        if training.start is not None:
            origins["start"] = digest_of(self.identity(training.start))
        if training.hard_negatives_adapter is not None:
            miner = self.identity(training.hard_negatives_adapter)
            origins["hard_negatives_adapter"] = digest_of(miner)
        if training.distillation and (teacher := self.teacher(name)):
            settings = training.distillation.model_dump(exclude={"teacher"}, exclude_defaults=True)
            origins["distillation"] = {**settings, "teacher": digest_of(teacher.ability())}
        return identity(self.backbone, training, self.card.inference, tasks, **origins)

    def teacher(self, name: str) -> Setup | None:
        """The system that an adapter learns from, at the same profile.

        Raises:
            UserError: it learns from this one, or has no retriever whose similarities are learnt.
        """
        distillation = self.card.adapters[name].distillation
        if distillation is None:
            return None
        teacher = Setup.of(distillation.teacher, self.profile, self.progress)
        teacher.tasks, teacher.pupils = self.tasks, (*self.pupils, self.card.name)
        where = f"{self.path}, adapters.{name}.distillation"
        if teacher.card.name in teacher.pupils:
            raise UserError("systems learn from each other in a circle", where=where)
        if distillation.similarity and teacher.card.retriever.kind != "dense":
            mend = "set similarity = 0.0, or choose a teacher of kind dense"
            raise UserError(f"{teacher.card.name} has no embeddings", where=where, mend=mend)
        return teacher

    def ability(self) -> dict[str, Any]:
        """What this system's similarities and answers come from."""
        card = self.card.model_dump(
            mode="json", include={"retriever", "generator", "inference"}, exclude_defaults=True
        )
        card.get("inference", {}).pop("sources", None)
        adapters = {name: digest_of(self.identity(name)) for name in self.used_adapters()}
        return {**card, "backbone": self.backbone and self.backbone.revision, "adapters": adapters}

    def _at_hand(self, teacher: Setup, name: str) -> Teacher:
        """A teacher for an adapter, its own adapters found or trained."""
        from uniconv_bench.uniconv.distillation import Teacher

        teacher.fit()
        training = self.card.adapters[name]
        assert training.distillation is not None
        tasks = [self.training_tasks[task] for task in training.tasks]
        longest = max(tasks, key=lambda task: task.card.answer_tokens)
        return Teacher(
            teacher.part("retriever", longest) if training.distillation.similarity else None,
            teacher.part("generator", longest)
            if training.distillation.responses == "teacher"
            else None,
            Silent(),
        )

    def used_adapters(self) -> list[str]:
        """Names of the adapters that retriever and generator ask for."""
        parts = (self.card.retriever, self.card.generator)
        named = (getattr(part, "adapter", None) for part in parts)
        return sorted({name for name in named if name})

    def find_adapter(self, name: str) -> Path | None:
        """The cached or shipped adapter that fits the card, verified; None if there is none.

        What another card trains under another name fits as well. Shipped are those of the packages
        of systems, and those in `adapters/` beside the card.
        """
        wanted = self.identity(name)
        cached = folder_of("adapters", name, wanted)
        alike = sorted(cached.parent.glob(folder_of("adapters", "*", wanted).name))
        roots = dict.fromkeys([*adapter_folders(), self.path.parent / "adapters"])
        shipped = [f for root in roots for f in sorted(root.glob("*")) if f.is_dir()]
        for folder in (cached, *alike, *shipped):
            # One that is just being trained is waited for where it is needed, not here.
            if folder.exists() and open_artefact(folder) == wanted:
                return folder
        return None

    def train(self, name: str, needed: Mapping[str, Path], *, anew: bool = False) -> Path:
        """Trains an adapter into the cache, going on from where a stopped training was.

        Of several processes the first holds the artefact; all train if it says so.

        Args:
            name: of the adapter on the card.
            needed: the adapters that it needs, by their names on the card.
            anew: even if the cache holds it.
        """
        from uniconv_bench.uniconv.processes import Processes
        from uniconv_bench.uniconv.training import train_adapter

        training = self.card.adapters[name]
        identity = self.identity(name)
        folder = folder_of("adapters", name, identity)
        tasks = [self.training_tasks[task] for task in training.tasks]
        assert self.backbone is not None
        teacher = self.teacher(name)
        learn = partial(
            train_adapter,
            *(name, self.backbone, training, self.card.inference, tasks),
            origin=needed.get(training.start or ""),
            teacher=self._at_hand(teacher, name) if teacher else None,
            miner=needed.get(training.hard_negatives_adapter or ""),
            tracker=self.tracker,
        )
        processes = Processes.joined()
        if not processes.first:
            if processes.told(False):
                learn(None, self.progress, processes)
            processes.told(False)  # the artefact is whole
            return folder
        # transformers saves no model in any other process than the first, and says nothing.
        checkpoint(self.backbone, self.progress)
        with missing_artefact(folder, identity, anew=anew) as working:
            processes.told(working is not None)
            if working is not None:
                if not any(working.iterdir()):
                    self.trained.add(name)
                learn(working, self.progress, processes)
        processes.told(True)
        return folder

    def is_given(self, task: Task) -> bool:
        """Whether this system answers from what a task gives, in place of what it retrieves."""
        return task.card.evidence == "given" and self.card.retriever.kind not in BOUNDS

    def part(self, which: str, task: Task) -> Any:
        """The card's `retriever` or `generator`, built for a task."""
        table = getattr(self.card, which)
        custom = isinstance(table, CustomPart)
        name = table.kind if custom else PARTS[table.kind]
        if which == "retriever" and self.is_given(task):
            name = GIVEN
        target = resolve(name, self.path.parent)
        backbone = self.card.backbone.get(self.profile, "")
        context = Context(task.card, backbone, self.card.inference, self.adapters, self.index)
        return built(target, table.settings if custom else table, context)

    def fit(self, *, retrain: set[str] | None = None) -> dict[str, Path]:
        """Adapter name -> folder, for every adapter in use; trains only what does not fit.

        Args:
            retrain: if given, adapters are trained anew even where a fitting one is cached or
                shipped, except those whose identity's digest is in it; gets those trained.
        """
        for name in self.used_adapters():
            self.adapters[name] = self._fitted(name, retrain)
        return self.adapters

    def _fitted(self, name: str, retrain: set[str] | None) -> Path:
        found = self._to_find(name, retrain)
        if found is None:
            needed = {n: self._fitted(n, retrain) for n in self.card.adapters[name].needs}
            found = self.train(name, needed, anew=retrain is not None)
        if retrain is not None:
            retrain.add(digest_of(self.identity(name)))
        return found

    def to_train(self, retrain: Collection[str] | None = None) -> list[str]:
        """The adapters that `fit` would train."""
        found: list[str] = []
        waiting = self.used_adapters()
        while waiting:
            name = waiting.pop()
            if name not in found and self._to_find(name, retrain) is None:
                found.append(name)
                waiting += self.card.adapters[name].needs
        return sorted(found)

    def _to_find(self, name: str, retrain: Collection[str] | None) -> Path | None:
        if retrain is not None and digest_of(self.identity(name)) not in retrain:
            return None
        return self.find_adapter(name)
