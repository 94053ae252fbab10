"""Metrics per turn and their summary: retrieval through ranx, generation through `evaluate`.

Knows runs, qrels and texts, no task and no system. The libraries must agree with `definitions`;
both are imported on first use only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from uniconv_bench.definitions import (
    METRICS,
    RETRIEVAL,
    Metric,
    PerTurn,
    Stage,
    normalise,
    of_stage,
    parse_metric,
    token_f1,
)
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir
from uniconv_bench.records import Score
from uniconv_bench.runs import ordered
from uniconv_bench.system import Ranking

__all__ = [
    "METRICS",
    "Metric",
    "PerTurn",
    "metric_score",
    "missing",
    "normalise",
    "parse_metric",
    "reference_scores",
    "score_answers",
    "score_run",
    "token_f1",
]


def missing(judged: Iterable[str], given: Collection[str]) -> list[str]:
    """The judged turns that a run or an answer file lacks. They score 0 and are reported."""
    return [turn_id for turn_id in judged if turn_id not in given]


def score(
    names: Iterable[str],
    *,
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Ranking] | None,
    references: Mapping[str, Sequence[str]],
    texts: Mapping[str, str] | None,
) -> dict[str, PerTurn]:
    """Metric -> turn -> value: those of retrieval if there is a run, those of answers if any.

    Args:
        names: of metrics of both stages.
        qrels: as of `score_run`; without any, retrieval is left out.
        run: None: no ranking was made.
        references: as of `score_answers`; likewise.
        texts: None: no answers were given.
    """
    names = list(names)
    scores: dict[str, PerTurn] = {}
    if run is not None and qrels and (asked := of_stage(names, "retrieval")):
        scores |= score_run(qrels, run, asked)
    if texts is not None and references and (asked := of_stage(names, "generation")):
        scores |= score_answers(references, texts, asked)
    return scores


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Ranking], metrics: Sequence[str]
) -> dict[str, PerTurn]:
    """Retrieval metrics of every judged turn, through ranx.

    A judged turn without a ranking scores 0; ranked turns without judgement are left out.

    Returns:
        metric -> turn_id -> value.

    Raises:
        UserError: an unknown metric, a score that is not a finite number, nothing judged.
    """
    parsed = _of_stage(metrics, "retrieval")
    judged = _judged(qrels, run)
    scores: dict[str, PerTurn] = {m.name: {turn_id: 0.0 for turn_id in judged} for m in parsed}
    # ranx cannot take a run of empty rankings alone; their scores stand already.
    if any(ranked for _, ranked in judged.values()):
        for metric, values in zip(parsed, _ranx_scores(judged, parsed), strict=True):
            scores[metric.name] = dict(zip(judged, values, strict=True))
    return scores


def reference_scores(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Ranking], metrics: Sequence[str]
) -> dict[str, PerTurn]:
    """What `score_run` must return, by the definitions alone: the arbiter of ranx."""
    judged = _judged(qrels, run)
    scores: dict[str, PerTurn] = {}
    for metric in _of_stage(metrics, "retrieval"):
        value = RETRIEVAL[metric.name.partition("@")[0]].value
        scores[metric.name] = {
            turn_id: value([grades.get(p, 0) for p in ranked], [*grades.values()], metric.cutoff)
            for turn_id, (grades, ranked) in judged.items()
        }
    return scores


def _judged(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Ranking]
) -> dict[str, tuple[dict[str, int], list[str]]]:
    """turn_id -> (relevant passages with their grades, passages ranked in the one order)."""
    if not qrels:
        raise UserError("nothing is judged", mend="give qrels with at least one turn")
    return {
        turn_id: (
            {passage_id: grade for passage_id, grade in grades.items() if grade > 0},
            [p for p, _ in ordered(run.get(turn_id, ()), where=f"turn {turn_id!r}")],
        )
        for turn_id, grades in qrels.items()
    }


def _ranx_scores(
    judged: Mapping[str, tuple[dict[str, int], list[str]]], metrics: Sequence[Metric]
) -> list[list[float]]:
    """By ranx: for every metric the values of all turns, in the order given.

    ranx's string ids are hashed, compiled anew for every new longest id (12 to 21 s) and sorted
    with ties left to chance. So it gets its own array form: a row is (number of the passage
    within the turn, score), and what we call first has the strictly highest score. Turn by turn
    the two lists run parallel, so no turn can be dropped or misplaced; a turn without a ranking
    gets no rows and keeps its place in the mean.
    """
    # Compiled code is kept beside our other caches: the package folder may be read-only.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir() / "numba"))
    import numba
    import numpy as np

    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # type: ignore[attr-defined]
    import ranx  # type: ignore[import-untyped]

    @cache
    def numbered(count: int) -> Any:
        return np.column_stack([np.arange(count), np.arange(count, 0, -1)]).astype(np.float64)

    relevant, rankings = numba.typed.List(), numba.typed.List()
    for grades, ranked in judged.values():
        count = len(ranked)
        places = dict(zip(ranked, range(count), strict=True))
        best_first = sorted(grades.items(), key=lambda item: -item[1])
        pairs = [(places.get(p, count + i), grade) for i, (p, grade) in enumerate(best_first)]
        relevant.append(np.array(pairs, dtype=np.float64).reshape(-1, 2))
        rankings.append(numbered(count))
    # Asked for a single metric with a cutoff, ranx raises KeyError; so never ask for one alone.
    names = [*(metric.name for metric in metrics), "mrr"]
    threads = numba.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", numba.NumbaWarning)
            values = ranx.evaluate(relevant, rankings, names, return_mean=False)
    finally:
        # For fewer than ten turns ranx sets one thread for the whole process, and leaves it so.
        numba.set_num_threads(threads)
    return [[float(value) for value in values[metric.name]] for metric in metrics]


def score_answers(
    references: Mapping[str, Sequence[str]], answers: Mapping[str, str], metrics: Sequence[str]
) -> dict[str, PerTurn]:
    """Generation metrics of every turn with references, through `evaluate`.

    A turn without an answer scores 0, even where an empty answer would be right.

    Returns:
        metric -> turn_id -> value.
    """
    parsed = _of_stage(metrics, "generation")
    if not references:
        raise UserError("nothing is judged", mend="give references for at least one turn")
    scores: dict[str, PerTurn] = {m.name: {turn_id: 0.0 for turn_id in references} for m in parsed}
    answered = [turn_id for turn_id in references if turn_id in answers]
    if not answered:
        return scores
    from uniconv_bench.token_f1.token_f1 import TokenF1

    for metric in parsed:
        module = TokenF1(metric.name, keep_in_memory=True, cache_dir=str(cache_dir() / "evaluate"))
        result = module.compute(
            predictions=[answers[turn_id] for turn_id in answered],
            references=[list(references[turn_id]) for turn_id in answered],
        )
        scores[metric.name].update(zip(answered, result["per_turn"], strict=True))
    return scores


def _of_stage(names: Sequence[str], stage: Stage) -> list[Metric]:
    metrics = [parse_metric(name) for name in names]
    for metric in metrics:
        if metric.stage != stage:
            raise UserError(f"{metric.name!r} is a {metric.stage} metric, not a {stage} metric")
    return metrics


def metric_score(name: str, per_turn: Mapping[str, float]) -> Score:
    """A metric's values by turn as the score that a result record holds."""
    from uniconv_bench.statistics.intervals import summarise

    summary = summarise(per_turn)
    return Score(
        metric=name,
        stage=parse_metric(name).stage,
        mean=summary.mean,
        ci95=summary.ci95,
        n=summary.n,
        conversations=summary.conversations,
    )
