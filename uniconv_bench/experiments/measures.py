"""What is measured of conditions: means over turns and their parts, differences, extra measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from uniconv_bench import runs
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.definitions import PerTurn, normalise, token_f1
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.experiments.slices import sliced
from uniconv_bench.outcomes import ALL, Gap, Mean
from uniconv_bench.statistics.differences import paired
from uniconv_bench.statistics.intervals import summarise
from uniconv_bench.statistics.multiplicity import holm
from uniconv_bench.study_cards import Extra, StudyCard
from uniconv_bench.system import Answer
from uniconv_bench.task import Task

TOP = 3
"""Passages that `same_passages` looks at."""
Key = tuple[str, str | None, str, str]
"""Label, condition, task and measure of a difference."""
Pair = tuple[PerTurn, PerTurn]


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
    handed: dict[str, list[Passage]] | None = None
    """Turn -> passages as they were handed over, perhaps changed; None: the corpus's own."""


def extra_of(extra: Extra, measured: Measured, base: Measured) -> PerTurn:
    """A measure beside the metrics, by turn."""
    if extra == "grounding":
        return _grounding(measured)
    if extra == "verbatim":
        said = {turn.turn_id: turn.references[0] for turn in measured.turns if turn.references}
        return {t: float(a.text == said[t]) for t, a in measured.answers.items() if t in said}
    if extra in ("same_answer", "same_text"):
        alike: Callable[[str, str], float] = _same_answer if extra == "same_answer" else _same
        return {
            turn_id: alike(answer.text, base.answers[turn_id].text)
            for turn_id, answer in measured.answers.items()
            if turn_id in base.answers and (base.answers[turn_id].text or alike is _same)
        }
    compare = _same_passages if extra == "same_passages" else _same
    return {
        turn_id: compare([p for p, _ in ranked], [p for p, _ in base.run[turn_id]])
        for turn_id, ranked in measured.run.items()
        if base.run.get(turn_id)
    }


def _same(one: object, other: object) -> float:
    return float(one == other)


def _same_answer(text: str, before: str) -> float:
    return token_f1(text, [before])


def _same_passages(ranked: Sequence[str], before: Sequence[str]) -> float:
    return len(set(ranked[:TOP]) & set(before[:TOP])) / len(before[:TOP])


def _grounding(measured: Measured) -> PerTurn:
    """Share of an answer's words that stand in the passages it was given from."""
    corpus = measured.evaluation.task.corpus
    found = {}
    for turn_id, answer in measured.answers.items():
        words = normalise(answer.text).split()
        if words and answer.evidence:
            passages = (measured.handed or {}).get(turn_id) or map(
                corpus.__getitem__, answer.evidence
            )
            read = {word for p in passages for word in normalise(p.contents).split()}
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


def means_of(card: StudyCard, found: Mapping[tuple[str, str], Measured]) -> Iterator[Mean]:
    """Every measure of every condition on every task: over all turns, then over each part."""
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


def gaps_of(
    card: StudyCard, tasks: Sequence[Task], found: Mapping[tuple[str, str], Measured]
) -> list[Gap]:
    """Differences from the baseline, those that are expected elsewhere, and the interaction: on
    each task and, of several, their mean.
    """
    sides: dict[Key, list[Pair]] = {}
    for name in (task.card.name for task in tasks):
        for label, condition, measure, pair in _pairs(card, name, found):
            for where in (name, *([ALL] if len(tasks) > 1 else ())):
                sides.setdefault((label, condition, where, measure), []).append(pair)
    # What some tasks lack has no mean over all of them.
    sides = {k: s for k, s in sides.items() if k[2] != ALL or len(s) == len(tasks)}
    differences = {key: paired(*pairs) for key, pairs in sides.items()}
    corrected = holm({key: difference.p for key, difference in differences.items()})
    return [
        Gap(
            label=key[0],
            condition=key[1],
            task=key[2],
            measure=key[3],
            sides=_sides(sides[key]) if key[1] else None,
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


def _pairs(
    card: StudyCard, task: str, found: Mapping[tuple[str, str], Measured]
) -> Iterator[tuple[str, str | None, str, Pair]]:
    """(label, condition, measure, values of both sides) on one task, by turns that all have."""
    compared = [(label, card.baseline) for label in card.conditions if label != card.baseline]
    compared += [(e.condition, e.against) for e in card.expectations]
    for one, other in dict.fromkeys(compared):
        for measure, values in found[one, task].values.items():
            base = found[other, task].values.get(measure, {})
            # Likeness to the baseline is not a thing to be higher or lower than its own 1.
            both = [t for t in values if t in base and not measure.startswith("same_")]
            if both:
                pair = {t: values[t] for t in both}, {t: base[t] for t in both}
                yield f"{one} - {other}", one, measure, pair
    if card.interaction:
        a, b, c, d = card.interaction
        four = [found[label, task].values for label in card.interaction]
        for measure in four[0]:
            own = [values.get(measure, {}) for values in four]
            both = [t for t in own[0] if all(t in values for values in own)]
            if both:
                pair = (
                    {t: own[0][t] + own[3][t] for t in both},
                    {t: own[1][t] + own[2][t] for t in both},
                )
                yield f"({a} - {b}) - ({c} - {d})", None, measure, pair


def _sides(pairs: Sequence[Pair]) -> tuple[float, float]:
    means = [[fmean(side.values()) for side in pair] for pair in pairs]
    one, other = map(fmean, zip(*means, strict=True))
    return one, other
