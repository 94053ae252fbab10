"""Metrics per turn and their summary: retrieval through ranx, generation through `evaluate`.

Knows runs, qrels and texts, no task and no system. `reference_scores` and `token_f1` are the
definitions; the libraries must agree with them. Both libraries are imported on first use only.
"""

from __future__ import annotations

import math
import os
import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import cache_dir
from uniconv_bench.records import Score
from uniconv_bench.runs import ordered
from uniconv_bench.system import Ranking

if TYPE_CHECKING:
    import numpy as np

Stage = Literal["retrieval", "generation"]
PerTurn = dict[str, float]
"""turn_id -> value in [0, 1], one entry for every judged turn."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by its canonical name.

    Attributes:
        name: as written on cards, in records and on the command line; ranx's name for retrieval.
        label: as printed in tables.
        stage: what it judges.
        definition: in one line.
        source: where the definition comes from.
        cutoff: ranks that count; None: all.
    """

    name: str
    label: str
    stage: Stage
    definition: str
    source: str
    cutoff: int | None = None


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """Mean over the judged turns with its 95 % interval.

    Attributes:
        mean: a fraction.
        ci95: percentile bootstrap over conversations.
        n: turns averaged.
        conversations: clusters resampled.
    """

    mean: float
    ci95: tuple[float, float]
    n: int
    conversations: int


_JARVELIN = "Järvelin and Kekäläinen 2002, doi 10.1145/582415.582418; computed by ranx"
_SQUAD = "Rajpurkar et al. 2016 (SQuAD), arXiv 1606.05250; computed by evaluate"
_RETRIEVAL: dict[str, tuple[str, str, str]] = {
    "ndcg": (
        "NDCG",
        "gain (the grade) over log2(rank + 1), as a share of the best possible ranking's",
        _JARVELIN,
    ),
    "recall": (
        "Recall",
        "share of the relevant passages that are ranked",
        "Manning et al. 2008, Introduction to Information Retrieval, ch. 8; computed by ranx",
    ),
    "mrr": (
        "MRR",
        "1 / rank of the first relevant passage, 0 if none is ranked",
        "Voorhees 1999 (TREC-8 question answering); computed by ranx",
    ),
}
_GENERATION: dict[str, tuple[str, str, str]] = {
    "f1": (
        "F1",
        "token F1 after SQuAD normalisation, the best over the references",
        _SQUAD,
    ),
    "f1_topiocqa": (
        "F1 (TopiOCQA)",
        "token F1, the best over all references but one, averaged over the one left out",
        "evaluate_reader.py of McGill-NLP/topiocqa; computed by evaluate",
    ),
    "f1_quac": (
        "F1 (QuAC)",
        "as f1_topiocqa, after a majority vote on CANNOTANSWER; no turn is filtered out",
        "scorer.py of prdwb/orconvqa-release (its unfiltered F1); computed by evaluate",
    ),
    "f1_inscit": (
        "F1 (INSCIT)",
        "as f1, of lower-cased texts that spaCy has cut into words (needs the extra `inscit`)",
        "eval.py of ellenmellon/INSCIT; computed by evaluate",
    ),
}


def parse_metric(name: str) -> Metric:
    """The metric of a canonical name, as `ndcg@3`, `recall@10`, `mrr` or `f1`.

    Raises:
        UserError: no such metric, or a cutoff where there can be none, or none where one must be.
    """
    family, at, cutoff = name.partition("@")
    if name in _GENERATION:
        label, definition, source = _GENERATION[name]
        return Metric(name, label, "generation", definition, source)
    if family not in _RETRIEVAL:
        raise unknown_name("metric", name, [m.name for m in METRICS])
    label, definition, source = _RETRIEVAL[family]
    if not at and family == "mrr":
        return Metric(name, label, "retrieval", f"{definition}; over the whole ranking", source)
    if not re.fullmatch(r"[1-9][0-9]*", cutoff):
        raise UserError(f"metric {name!r} needs a cutoff", mend=f"write it as {family}@10")
    definition = f"{definition}; over the first {cutoff} ranks"
    return Metric(name, f"{label}@{cutoff}", "retrieval", definition, source, int(cutoff))


METRICS: tuple[Metric, ...] = tuple(
    parse_metric(name) for name in ("ndcg@3", "recall@10", "recall@100", "mrr", *_GENERATION)
)
"""What `list metrics` shows; `parse_metric` takes any other cutoff too."""


def missing(judged: Iterable[str], given: Collection[str]) -> list[str]:
    """The judged turns that a run or an answer file lacks. They score 0 and are reported."""
    return [turn_id for turn_id in judged if turn_id not in given]


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
    """What `score_run` must return, in numpy and by the definitions alone: the arbiter of ranx."""
    import numpy as np

    scores: dict[str, PerTurn] = {name: {} for name in metrics}
    for metric in _of_stage(metrics, "retrieval"):
        for turn_id, (grades, ranked) in _judged(qrels, run).items():
            gains = np.array([grades.get(passage_id, 0) for passage_id in ranked], dtype=float)
            gains = gains[: metric.cutoff]
            best = np.sort(np.array(list(grades.values()), dtype=float))[::-1]
            hits = np.flatnonzero(gains)
            match metric.name.partition("@")[0]:
                case "ndcg":
                    ideal = _discounted(best[: metric.cutoff])
                    value = _discounted(gains) / ideal if ideal else 0.0
                case "recall":
                    value = len(hits) / len(best) if len(best) else 0.0
                case _:
                    value = 1 / (hits[0] + 1) if len(hits) else 0.0
            scores[metric.name][turn_id] = float(value)
    return scores


def _discounted(gains: np.ndarray[Any, Any]) -> float:
    import numpy as np

    return float(np.sum(gains / np.log2(np.arange(len(gains)) + 2)))


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

    relevant, rankings = numba.typed.List(), numba.typed.List()
    for grades, ranked in judged.values():
        numbers = {passage_id: float(i) for i, passage_id in enumerate([*ranked, *grades])}
        best_first = sorted(grades.items(), key=lambda item: -item[1])
        pairs = [(numbers[passage_id], float(grade)) for passage_id, grade in best_first]
        relevant.append(np.array(pairs, dtype=np.float64).reshape(-1, 2))
        rows = [(numbers[p], float(len(ranked) - i)) for i, p in enumerate(ranked)]
        rankings.append(np.array(rows, dtype=np.float64).reshape(-1, 2))
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


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single blanks."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Token F1 after SQuAD normalisation, the best over the references; the metric `f1`.

    Where nothing is left after normalisation on both sides it is 1, on one side 0.
    """
    return max(_overlap(prediction, reference) for reference in references)


def _overlap(prediction: str, reference: str) -> float:
    said, right = (normalise(side).split() for side in (prediction, reference))
    if not said or not right:
        return float(said == right)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))


def leave_one_out_f1(prediction: str, references: Sequence[str]) -> float:
    """TopiOCQA's official F1; the metric `f1_topiocqa`.

    With several references even one of them, given as the answer, seldom scores 1: it is compared
    with the others when it is the one left out. That is what makes it fair to a human answer.
    """
    return _leave_one_out([_overlap(prediction, reference) for reference in references])


def quac_f1(prediction: str, references: Sequence[str]) -> float:
    """QuAC's official F1 without its filter of turns on which people disagree; `f1_quac`.

    CANNOTANSWER is the only reference where at least half of them are it, and none otherwise; it
    is matched whole. Unlike in `f1`, two empty texts have no overlap.
    """
    answers = [reference for reference in references if reference != CANNOT_ANSWER]
    if 2 * len(answers) <= len(references):
        return float(prediction == CANNOT_ANSWER)
    empty = not normalise(prediction)
    return _leave_one_out([0.0 if empty else _overlap(prediction, answer) for answer in answers])


def inscit_f1(prediction: str, references: Sequence[str]) -> float:
    """INSCIT's official F1, the best over the annotators' responses; the metric `f1_inscit`.

    spaCy parts what SQuAD's normalisation would run together: "well-known" is two words, not one.

    Raises:
        UserError: spaCy is not installed.
    """
    return token_f1(_cut(prediction), [_cut(reference) for reference in references])


def _cut(text: str) -> str:
    """The words and signs of a lower-cased text, single blanks between them."""
    return " ".join(token.text for token in _spacy_tokenizer()(" ".join(text.lower().split())))


@cache
def _spacy_tokenizer() -> Any:
    """The English rules, which are those of the model that the official script loads."""
    try:
        import spacy
    except ImportError as error:
        mend = "pip install 'uniconv-bench[inscit]'"
        raise UserError("metric 'f1_inscit' needs spaCy", mend=mend) from error
    return spacy.blank("en").tokenizer


def _leave_one_out(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    rest = [max([*values[:i], *values[i + 1 :]]) for i in range(len(values))]
    return sum(rest) / len(rest)


CANNOT_ANSWER = "CANNOTANSWER"
GENERATION: dict[str, Callable[[str, Sequence[str]], float]] = {
    "f1": token_f1,
    "f1_topiocqa": leave_one_out_f1,
    "f1_quac": quac_f1,
    "f1_inscit": inscit_f1,
}
"""Name -> definition: (answer, references) -> value."""


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


def conversation_of(turn_id: str) -> str:
    """The conversation of `<conversation>_<turn>`; an id of another shape stands alone."""
    return turn_id.rpartition("_")[0] or turn_id


def summarise(
    per_turn: Mapping[str, float], *, resamples: int = 2000, seed: int = 13
) -> MetricSummary:
    """Mean over turns and its 95 % percentile bootstrap interval over conversations.

    Turns of one conversation are not independent, so whole conversations are drawn, and the mean
    of a draw is over its turns. One conversation alone says nothing of the others: (0, 1).

    Raises:
        ValueError: no turn, or a value that is not in [0, 1].
    """
    import numpy as np

    if not per_turn:
        raise ValueError("no turn to average")
    if not all(0 <= value <= 1 for value in per_turn.values()):
        raise ValueError("a value is not in [0, 1]")
    clusters: dict[str, list[float]] = defaultdict(list)
    for turn_id in sorted(per_turn):
        clusters[conversation_of(turn_id)].append(per_turn[turn_id])
    count = len(clusters)
    mean = math.fsum(per_turn.values()) / len(per_turn)
    if count == 1:
        return MetricSummary(mean, (0.0, 1.0), len(per_turn), 1)
    totals = np.array([math.fsum(values) for values in clusters.values()])
    sizes = np.array([len(values) for values in clusters.values()])
    # How often each conversation is drawn in each resample.
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    means = (draws @ totals) / (draws @ sizes)
    low, high = np.percentile(means, [2.5, 97.5])
    return MetricSummary(mean, (float(low), min(float(high), 1.0)), len(per_turn), count)


def metric_score(name: str, per_turn: Mapping[str, float]) -> Score:
    """A metric's values by turn as the score that a result record holds."""
    summary = summarise(per_turn)
    return Score(
        metric=name,
        stage=parse_metric(name).stage,
        mean=summary.mean,
        ci95=summary.ci95,
        n=summary.n,
        conversations=summary.conversations,
    )
