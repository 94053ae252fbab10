"""A study from its card to its outcome: conditions run, compared with the baseline, read.

Every stage of a condition is an artefact of the cache, so a study that was stopped goes on, and
shares what it can with ordinary runs. Draws nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from uniconv_bench import machine, registry, runs, stages
from uniconv_bench.assembly import Setup
from uniconv_bench.cards import CUT, Profile
from uniconv_bench.definitions import of_stage
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.experiments.conditions import evidence_of, view_of
from uniconv_bench.experiments.costs import cost_of, watched_of
from uniconv_bench.experiments.measures import Measured, extra_of, gaps_of, means_of
from uniconv_bench.experiments.reading import reading
from uniconv_bench.files import digest_of
from uniconv_bench.outcomes import Outcome
from uniconv_bench.recording import ANSWERS, RUN
from uniconv_bench.study_cards import Condition, StudyCard
from uniconv_bench.system import Answer, Progress
from uniconv_bench.system_cards import SystemCard
from uniconv_bench.task import Task, load_task


def conduct(card: StudyCard, profile: Profile, *, progress: Progress) -> Outcome:
    """Runs all conditions of a study, adapters trained where none fits, and compares them.

    Raises:
        UserError: the study has no tasks at this profile, or something that it needs is missing.
    """
    if not card.tasks.get(profile):
        there = ", ".join(card.tasks)
        what = f"study {card.name} names no task for profile {profile}"
        raise UserError(what, mend=f"add one to its [tasks]; it has {there}")
    digest, every = card.digest(), card.conditions
    card = card.at(profile)
    tasks = tasks_of(card, profile, progress)
    setups = {label: setup_of(card, label, profile, progress) for label in card.conditions}
    found: dict[tuple[str, str], Measured] = {}
    for label, condition in card.conditions.items():
        for task in tasks:
            progress.note(f"{card.name}: {label}, on {task.card.name}")
            found[label, task.card.name] = _measured(card, condition, setups[label], task, progress)
    for (_, name), measured in found.items():
        base = found[card.baseline, name]
        for extra in card.extras:
            if measured is not base or not extra.startswith("same_"):  # all is like itself
                measured.values[extra] = extra_of(extra, measured, base)
    gaps = gaps_of(card, tasks, found)
    means = list(means_of(card, found))
    watched = [row for label, setup in setups.items() for row in watched_of(label, setup)]
    costs = [cost_of(label, name, measured) for (label, name), measured in found.items()]
    return Outcome(
        study=card.name,
        title=card.title,
        question=card.description,
        card_digest=digest,
        profile=profile,
        backbones={label: s.backbone.name if s.backbone else None for label, s in setups.items()},
        axis=card.axis,
        x={label: c.x for label, c in card.conditions.items() if c.x is not None},
        figure=card.figure,
        baseline=card.baseline,
        data={task.card.name: task.digest for task in tasks},
        cut=tuple(task.card.name for task in tasks if task.part or task.test_split.endswith(CUT)),
        turns=card.turns.get(profile),
        split=card.split,
        choices=card.choices,
        left_out=tuple(label for label in every if label not in card.conditions),
        means=tuple(means),
        gaps=tuple(gaps),
        costs=tuple(costs),
        watched=tuple(watched),
        reading=tuple(reading(card, means, gaps, watched)),
        provenance=machine.provenance({}, {}),
    )


def tasks_of(card: StudyCard, profile: Profile, progress: Progress) -> list[Task]:
    """The tasks of a study at a profile, tested on the turns that it asks for."""
    tasks = [load_task(name, profile, progress=progress) for name in card.tasks.get(profile, ())]
    return [replace(task, tested="train") for task in tasks] if card.split == "train" else tasks


def setup_of(card: StudyCard, label: str, profile: Profile, progress: Progress) -> Setup:
    """The system of a condition, its card changed as the study says.

    A changed system is named by what its card says, so that studies share what is the same.
    """
    condition = card.conditions[label]
    own, path = registry.system_card(condition.system)
    adapters = {
        name: table
        for name, table in card.training.get(profile, {}).items()
        if own.adapters and (name in own.adapters or "extends" in table)
    }
    plain = Setup.with_card(own, path, profile, progress)
    changes = [c for c in ({"adapters": adapters}, condition.change) if any(c.values())]
    if not changes:
        return plain
    setup = Setup.with_card(*registry.varied(condition.system, *changes), profile, progress)
    said = _meant(setup.card)
    if said == _meant(plain.card):
        return plain
    names = {"name": f"{own.name}-{digest_of(said)[:8]}", "title": f"{own.title}, {label}"}
    return replace(setup, card=setup.card.model_copy(update=names))


def _meant(card: SystemCard) -> dict[str, Any]:
    """What of a card its results depend on."""
    said = card.model_dump(
        mode="json", exclude={"name", "title", "description"}, exclude_defaults=True
    )
    for table in (said.get("inference", {}), *said.get("adapters", {}).values()):
        table.pop("sources", None)
    return said


def _measured(
    study: StudyCard, condition: Condition, setup: Setup, task: Task, progress: Progress
) -> Measured:
    limit = study.turns.get(setup.profile)
    view = view_of(condition.history, task)
    evaluation = Evaluation.with_setup(setup, task, limit, progress, view)
    setup.fit()
    folders: dict[str, Path] = {}
    run, turns, passages = runs.Run(), evaluation.turns, None
    if condition.evidence == "own":
        folders["retrieval"] = stages.retrieve(evaluation)
        run_file = folders["retrieval"] / RUN
    elif condition.evidence.startswith("from "):
        name = condition.evidence.removeprefix("from ")
        other = Setup.of(name, setup.profile, progress)
        source = Evaluation.with_setup(other, task, limit, progress, view)
        other.fit()
        folders["retrieval"] = stages.retrieve(source)
        run_file = folders["retrieval"] / RUN
    else:
        passages = evidence_of(condition.evidence, turns, task, evaluation.top_k)
        turns = [turn for turn in turns if turn.turn_id in passages]
    if passages is None:
        run = runs.read_run(run_file)
    answers: dict[str, Answer] = {}
    if of_stage(study.metrics, "generation") and evaluation.metrics_of("generation") and turns:
        folders["answers"] = (
            stages.generate(evaluation, run_file)
            if passages is None
            else stages.answer_from(evaluation, passages)
        )
        answers = runs.read_answers(folders["answers"] / ANSWERS)
    judged = run if passages is None and evaluation.retrieves else None
    values = stages.measured(evaluation, study.metrics, turns, judged, answers or None)
    return Measured(evaluation, turns, run, answers, values, folders, passages)
