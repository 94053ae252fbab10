"""Runs of one system that differ in their seeds alone, and their scores as one. Knows records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError
from uniconv_bench.records import ResultRecord, Score
from uniconv_bench.system_cards import SystemCard

SEED = "seed"
TurnScores = Mapping[str, Mapping[str, PerTurn]]
"""Digest of a record -> metric -> its scores by turn, where they are at hand."""


def settings_apart(one: ResultRecord, other: ResultRecord) -> dict[str, tuple[Any, Any]]:
    """Dotted name of a setting -> its value in the one and in the other, where they differ."""
    sides = [dict(_leaves(_settings(record))) for record in (one, other)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _settings(record: ResultRecord) -> Mapping[str, Any]:
    """A record's, with what fields that came after it mean for it."""
    try:
        card = SystemCard.model_validate_json(json.dumps(record.system.settings))
    except ValidationError:  # a card of another version
        return record.system.settings
    return card.model_dump(mode="json")


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name in ("sources", "description", "title"):  # words, on which nothing depends
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def refuse_other_runs(runs: Sequence[ResultRecord]) -> None:
    """Records of one system and task that differ in more than their seeds."""
    for run in runs[1:]:
        apart = [n for n in settings_apart(runs[0], run) if n.rpartition(".")[2] != SEED]
        if apart:
            what = f"runs of {run.system.name} on {run.task.name} differ in more than their seeds"
            raise UserError(f"{what}: {apart[0]}", mend="give a changed system a name of its own")


@dataclass(frozen=True)
class Entry:
    """A system on a task: a run, or several as one.

    Attributes:
        record: the first, which speaks for all but their scores.
        scores: of all of them.
        by_turn: metric -> turn -> the mean over the runs; what is at hand of it.
        seeds: of several, in words.
    """

    record: ResultRecord
    scores: Sequence[Score]
    by_turn: Mapping[str, PerTurn]
    seeds: str | None


def pooled_entries(records: Sequence[ResultRecord], turn_scores: TurnScores) -> list[Entry]:
    """A task and system each, in order of appearance."""
    runs: dict[tuple[str, str], dict[str, ResultRecord]] = {}
    for record in records:
        runs.setdefault((record.task.name, record.system.name), {})[record.digest] = record
    return [_entry([*own.values()], turn_scores) for own in runs.values()]


def _entry(runs: Sequence[ResultRecord], turn_scores: TurnScores) -> Entry:
    first = runs[0]
    if len(runs) == 1:
        return Entry(first, first.scores, turn_scores.get(first.digest, {}), None)
    from uniconv_bench.statistics.pooling import pooled

    refuse_other_runs(runs)
    where = f"{first.system.name} on {first.task.name}"
    scores, by_turn = [], {}
    for score in first.scores:
        own = [turn_scores.get(run.digest, {}).get(score.metric) for run in runs]
        there = [values for values in own if values is not None]
        if len(there) < len(runs):
            what = (
                f"{len(runs)} runs of {where} cannot be pooled without their {score.metric} by turn"
            )
            raise UserError(what, mend="to pool them, run them again; it is kept beside the record")
        if any(values.keys() != there[0].keys() for values in there):
            raise UserError(f"runs of {where} were averaged over different turns by {score.metric}")
        scores.append(_pooled_score(score, there))
        by_turn[score.metric] = pooled(there)
    return Entry(first, scores, by_turn, _seeds_of(runs))


def _seeds_of(runs: Sequence[ResultRecord]) -> str:
    """The seeds of their trainings, in words."""
    found = [sorted({t.seed for t in run.provenance.training.values()}) for run in runs]
    return ", ".join("+".join(map(str, seeds)) or "none" for seeds in found)


def _pooled_score(score: Score, runs: Sequence[PerTurn]) -> Score:
    """The mean over seeds, its interval over conversations and seeds."""
    from uniconv_bench.statistics.pooling import summarise_runs

    said = summarise_runs(runs)
    return score.model_copy(update={"mean": said.mean, "ci95": said.ci95})
