"""A study from its card to its outcome: conditions run, compared with the baseline, read.

Every stage of a condition is an artefact of the cache, so a study that was stopped goes on, and
shares what it can with ordinary runs. Draws nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench import machine, metrics, registry, runs
from uniconv_bench.assembly import WEIGHTS, Setup
from uniconv_bench.cards import CUT, Profile
from uniconv_bench.conversation import Turn
from uniconv_bench.costs import COST
from uniconv_bench.definitions import PerTurn, normalise, of_stage, token_f1
from uniconv_bench.errors import UserError
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.experiments.conditions import evidence_of, view_of
from uniconv_bench.experiments.outcome import Cost, Gap, Mean, Outcome, Watched
from uniconv_bench.experiments.reading import reading
from uniconv_bench.experiments.slices import sliced
from uniconv_bench.files import digest_of, read_json
from uniconv_bench.recording import ANSWERS, RUN
from uniconv_bench.statistics import holm, paired, summarise
from uniconv_bench.study_cards import Condition, Extra, StudyCard
from uniconv_bench.system import Answer, Progress
from uniconv_bench.system_cards import EncoderRetriever, SystemCard
from uniconv_bench.task import Task, load_task
from uniconv_bench.uniconv.backbone import find_backbone

DECODERS = ("dense", "llm", "rewrite")
"""Kinds of parts that read with the system's backbone."""
TOP = 3
"""Passages that `same_passages` looks at."""


@dataclass(frozen=True)
class Measured:
    """What came of one condition on one task.

    Attributes:
        turns: those that the condition could be made for.
        run: what was retrieved; empty where passages were handed over.
        answers: by turn.
        values: metric -> turn -> value.
        folders: of the stages that were done.
    """

    evaluation: Evaluation
    turns: list[Turn]
    run: runs.Run
    answers: dict[str, Answer]
    values: dict[str, PerTurn]
    folders: dict[str, Path]


def conduct(card: StudyCard, profile: Profile, *, progress: Progress) -> Outcome:
    """Runs all conditions of a study, adapters trained where none fits, and compares them.

    Raises:
        UserError: the study has no tasks at this profile, or something that it needs is missing.
    """
    names = card.tasks.get(profile, ())
    if not names:
        there = ", ".join(card.tasks)
        what = f"study {card.name} names no task for profile {profile}"
        raise UserError(what, mend=f"add one to its [tasks]; it has {there}")
    tasks = [load_task(name, profile, progress=progress) for name in names]
    setups = {label: setup_of(card, label, profile, progress) for label in card.conditions}
    found: dict[tuple[str, str], Measured] = {}
    for label, condition in card.conditions.items():
        for task in tasks:
            progress.note(f"{card.name}: {label}, on {task.card.name}")
            found[label, task.card.name] = _measured(card, condition, setups[label], task, progress)
    for (_, name), measured in found.items():
        base = found[card.baseline, name]
        for extra in card.extras:
            if measured is not base or extra == "grounding":  # all is like itself
                measured.values[extra] = _extra(extra, measured, base)
    gaps = _gaps(card, tasks, found)
    means = list(_means(card, found))
    watched = [row for label, setup in setups.items() for row in _watched(label, setup)]
    costs = [_cost(label, name, measured) for (label, name), measured in found.items()]
    return Outcome(
        study=card.name,
        title=card.title,
        question=card.description,
        card_digest=card.digest(),
        profile=profile,
        backbones={label: s.backbone.name if s.backbone else None for label, s in setups.items()},
        axis=card.axis,
        x={label: c.x for label, c in card.conditions.items() if c.x is not None},
        figure=card.figure,
        baseline=card.baseline,
        data={task.card.name: task.digest for task in tasks},
        cut=tuple(task.card.name for task in tasks if task.part or task.test_split.endswith(CUT)),
        turns=card.turns.get(profile),
        means=tuple(means),
        gaps=tuple(gaps),
        costs=tuple(costs),
        watched=tuple(watched),
        reading=tuple(reading(card, gaps, watched)),
        provenance=machine.provenance({}, {}),
    )


def setup_of(card: StudyCard, label: str, profile: Profile, progress: Progress) -> Setup:
    """The system of a condition, its card changed as the study says."""
    condition = card.conditions[label]
    own, _ = registry.system_card(condition.system)
    adapters = {
        name: table
        for name, table in card.training.get(profile, {}).items()
        if own.adapters and (name in own.adapters or "extends" in table)
    }
    changes = [
        change for change in ({"adapters": adapters}, condition.change) if any(change.values())
    ]
    if changes:
        slug = re.sub(r"[^A-Za-z0-9+_-]+", "-", f"{card.name}-{label}").strip("-")[:64]
        changes.append({"name": slug, "title": f"{own.title}, {label}"})
    return Setup.with_card(*registry.varied(condition.system, *changes), profile, progress)


def to_train(card: StudyCard, profile: Profile, progress: Progress) -> list[str]:
    """Names of the adapters that a study would train, a line each."""
    found = {}
    for label in card.conditions:
        setup = setup_of(card, label, profile, progress)
        for name in setup.to_train():
            found[digest_of(setup.identity(name))] = f"{setup.card.name}: {name}"
    return list(found.values())


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
        folders["retrieval"] = evaluation.retrieve()
        run_file = folders["retrieval"] / RUN
    elif condition.evidence.startswith("from "):
        name = condition.evidence.removeprefix("from ")
        other = Setup.of(name, setup.profile, progress)
        source = Evaluation.with_setup(other, task, limit, progress, view)
        other.fit()
        folders["retrieval"] = source.retrieve()
        run_file = folders["retrieval"] / RUN
    else:
        passages = evidence_of(condition.evidence, turns, task, evaluation.top_k)
        turns = [turn for turn in turns if turn.turn_id in passages]
    if passages is None:
        run = runs.read_run(run_file)
    answers: dict[str, Answer] = {}
    if of_stage(study.metrics, "generation") and evaluation.metrics_of("generation") and turns:
        folders["answers"] = (
            evaluation.generate(run_file) if passages is None else evaluation.answer_from(passages)
        )
        answers = runs.read_answers(folders["answers"] / ANSWERS)
    kept = {turn.turn_id for turn in turns}
    values = metrics.score(
        study.metrics,
        qrels={t: q for t, q in task.qrels().items() if t in kept},
        run=run if passages is None and evaluation.retrieves else None,
        references={t: r for t, r in task.references().items() if t in kept},
        texts={t: a.text for t, a in answers.items()} if answers else None,
    )
    return Measured(evaluation, turns, run, answers, values, folders)


def _extra(extra: Extra, measured: Measured, base: Measured) -> PerTurn:
    if extra == "grounding":
        return _grounding(measured)
    if extra == "same_answer":
        return {
            turn_id: token_f1(answer.text, [base.answers[turn_id].text])
            for turn_id, answer in measured.answers.items()
            if turn_id in base.answers and base.answers[turn_id].text
        }
    return {
        turn_id: len({p for p, _ in ranked[:TOP]} & {p for p, _ in base.run[turn_id][:TOP]})
        / len(base.run[turn_id][:TOP])
        for turn_id, ranked in measured.run.items()
        if base.run.get(turn_id)
    }


def _grounding(measured: Measured) -> PerTurn:
    """Share of an answer's words that stand in the passages it was given from."""
    corpus = measured.evaluation.task.corpus
    found = {}
    for turn_id, answer in measured.answers.items():
        words = normalise(answer.text).split()
        if words and answer.evidence:
            read = {w for p in answer.evidence for w in normalise(corpus[p].contents).split()}
            found[turn_id] = sum(word in read for word in words) / len(words)
    return found


def _parts(card: StudyCard, measured: Measured) -> dict[str | None, set[str]]:
    """The turns of every part that the study slices them into; None: all."""
    parts: dict[str | None, set[str]] = {None: {turn.turn_id for turn in measured.turns}}
    shown = {turn_id: answer.evidence for turn_id, answer in measured.answers.items()}
    for kind in card.slices:
        for turn_id, part in sliced(kind, measured.turns, measured.run, shown).items():
            parts.setdefault(part, set()).add(turn_id)
    return parts


def _means(card: StudyCard, found: Mapping[tuple[str, str], Measured]) -> Iterator[Mean]:
    for (label, name), measured in found.items():
        for part, turns in _parts(card, measured).items():
            for measure, values in measured.values.items():
                of_part = {t: v for t, v in values.items() if t in turns}
                if not of_part:
                    continue
                said = summarise(of_part)
                yield Mean(
                    condition=label,
                    task=name,
                    part=part,
                    measure=measure,
                    mean=said.mean,
                    ci95=said.ci95,
                    n=said.n,
                    conversations=said.conversations,
                )


def _gaps(
    card: StudyCard, tasks: Sequence[Task], found: Mapping[tuple[str, str], Measured]
) -> list[Gap]:
    """Differences from the baseline, those that are expected elsewhere, and the interaction."""
    pairs = [(label, card.baseline) for label in card.conditions if label != card.baseline]
    pairs += [(e.condition, e.against) for e in card.expectations]
    sides: dict[tuple[str, str | None, str, str], tuple[PerTurn, PerTurn]] = {}
    for task in (task.card.name for task in tasks):
        for one, other in dict.fromkeys(pairs):
            for measure, values in found[one, task].values.items():
                base = found[other, task].values.get(measure, {})
                # Likeness to the baseline is not a thing to be higher or lower than its own 1.
                both = [t for t in values if t in base and not measure.startswith("same_")]
                if both:
                    sides[f"{one} - {other}", one, task, measure] = (
                        {t: values[t] for t in both},
                        {t: base[t] for t in both},
                    )
        if card.interaction:
            four = [found[label, task].values for label in card.interaction]
            a, b, c, d = card.interaction
            for measure in four[0]:
                both = [t for t in four[0][measure] if all(t in v.get(measure, {}) for v in four)]
                if both:
                    sides[f"({a} - {b}) - ({c} - {d})", None, task, measure] = (
                        {t: four[0][measure][t] + four[3][measure][t] for t in both},
                        {t: four[1][measure][t] + four[2][measure][t] for t in both},
                    )
    differences = {key: paired(two) for key, two in sides.items()}
    corrected = holm({key: difference.p for key, difference in differences.items()})
    return [
        Gap(
            label=key[0],
            condition=key[1],
            task=key[2],
            measure=key[3],
            sides=_sides(*sides[key]) if key[1] else None,
            mean=difference.mean,
            ci95=difference.ci95,
            p=difference.p,
            p_holm=corrected[key],
            detectable=difference.detectable,
            n=difference.n,
            conversations=difference.conversations,
        )
        for key, difference in differences.items()
    ]


def _sides(one: PerTurn, other: PerTurn) -> tuple[float, float]:
    return math.fsum(one.values()) / len(one), math.fsum(other.values()) / len(other)


def _cost(label: str, task: str, measured: Measured) -> Cost:
    setup = measured.evaluation.setup
    costs = {stage: read_json(folder / COST) for stage, folder in measured.folders.items()}
    reports = [read_json(folder / "training.json") for folder in setup.adapters.values()]
    memory = [cost["peak_memory_bytes"] for cost in costs.values()]
    seconds = {stage: cost["seconds"] for stage, cost in costs.items()}
    return Cost(
        condition=label,
        task=task,
        turns=len(measured.turns),
        retrieval_seconds=seconds.get("retrieval"),
        answer_seconds=seconds.get("answers"),
        training_seconds=float(sum(report["seconds"] for report in reports)),
        training_tokens=sum(report["tokens"] for report in reports),
        peak_memory_bytes=max(memory, default=0),
        weights_bytes=_weights(setup.card, setup),
    )


def _weights(card: SystemCard, setup: Setup) -> int:
    """Bytes in memory: a backbone for each set of weights that is needed, and the adapters."""
    size = sum((folder / WEIGHTS).stat().st_size for folder in setup.adapters.values())
    if isinstance(card.retriever, EncoderRetriever):
        size += 4 * find_backbone(card.retriever.model).parameters
    if setup.backbone is not None:
        parts = [p for p in (card.retriever, card.generator) if p.kind in DECODERS]
        models = {getattr(part, "adapter", None) for part in parts}
        bytes_each = 2 if card.inference.dtype == "bfloat16" else 4
        size += len(models) * setup.backbone.parameters * bytes_each
    return size


def _watched(label: str, setup: Setup) -> Iterator[Watched]:
    for name, folder in setup.adapters.items():
        report = read_json(folder / "training.json").get("guards")
        if report is None:
            continue
        first, last = report["points"][0], report["points"][-1]
        told = {
            w["number"]: w["meaning"] for w in report["warnings"] if w["steps"] == last["steps"]
        }
        for number in (key for key in last if key != "steps"):
            yield Watched(
                condition=label,
                adapter=name,
                number=number,
                before=first[number],
                after=last[number],
                warned=told.get(number),
            )
