"""What is measured of conditions: means over turns and their parts, differences, extra measures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uniconv_bench import runs
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.definitions import PerTurn, normalise, token_f1
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.experiments.outcome import Gap, Mean
from uniconv_bench.experiments.slices import sliced
from uniconv_bench.statistics import holm, paired, summarise
from uniconv_bench.study_cards import Extra, StudyCard
from uniconv_bench.system import Answer
from uniconv_bench.task import Task

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
    handed: dict[str, list[Passage]] | None = None
    """Turn -> passages as they were handed over, perhaps changed; None: the corpus's own."""


def extra_of(extra: Extra, measured: Measured, base: Measured) -> PerTurn:
    """A measure beside the metrics, by turn."""
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
