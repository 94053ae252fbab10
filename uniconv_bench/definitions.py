"""What each metric is: one entry holds its name, its definition and the function that computes it.

Knows neither files nor libraries, so that cards can check the names of metrics when they are read.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, Generic, Literal, TypeVar

from uniconv_bench.errors import UserError, unknown_name

Stage = Literal["retrieval", "generation"]
RankingValue = Callable[[Sequence[float], Sequence[float], int | None], float]
"""(grades of what is ranked, best first; grades of all that is relevant; cutoff) -> value."""
AnswerValue = Callable[[str, Sequence[str]], float]
"""(answer, references) -> value."""
Value = TypeVar("Value")
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
class Entry(Generic[Value]):
    """All that there is to say of a metric, of whatever cutoff.

    Attributes:
        label: as printed in tables, without a cutoff.
        definition: in one line, without a cutoff.
        source: where the definition comes from.
        value: the definition itself, of one turn; what a library computes must agree with it.
        whole: a retrieval metric of the whole ranking, which takes no cutoff.
        needs: (optional package, extra of this package that installs it), if it needs one.
    """

    label: str
    definition: str
    source: str
    value: Value = field(repr=False)
    whole: bool = False
    needs: tuple[str, str] | None = None


def ndcg(ranked: Sequence[float], relevant: Sequence[float], cutoff: int | None) -> float:
    """Discounted gain of a ranking as a share of the best ranking's; 0 if nothing is relevant."""
    best = _discounted(sorted(relevant, reverse=True)[:cutoff])
    return _discounted(ranked[:cutoff]) / best if best else 0.0


def _discounted(grades: Sequence[float]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def recall(ranked: Sequence[float], relevant: Sequence[float], cutoff: int | None) -> float:
    """Share of the relevant passages that are ranked; 0 if nothing is relevant."""
    return sum(grade > 0 for grade in ranked[:cutoff]) / len(relevant) if relevant else 0.0


def reciprocal_rank(
    ranked: Sequence[float], relevant: Sequence[float], cutoff: int | None
) -> float:
    """1 / rank of the first relevant passage, 0 if there is none."""
    hits = (rank for rank, grade in enumerate(ranked[:cutoff], 1) if grade > 0)
    return 1 / next(hits, math.inf)


def normalise(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single blanks."""
    text = text.lower().translate(PUNCTUATION)
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


def uncomputable(name: str) -> UserError | None:
    """What to install before a metric can be computed; None: nothing is lacking."""
    needs = GENERATION[name].needs if name in GENERATION else None
    if needs is None or find_spec(needs[0]) is not None:
        return None
    return _lacking(name, *needs)


def _lacking(name: str, package: str, extra: str) -> UserError:
    mend = f"pip install 'uniconv-bench[{extra}]'"
    return UserError(f"metric {name!r} needs {package}, which is not installed", mend=mend)


def computable(names: Iterable[str], tell: Callable[[str], None] | None = None) -> list[str]:
    """The metrics that need no package which is not installed; `tell` is told of each other one."""
    found = []
    for name in names:
        if (lacking := uncomputable(name)) is None:
            found.append(name)
        elif tell is not None:
            tell(f"left out: {lacking}")
    return found


def packages_of(names: Iterable[str]) -> list[str]:
    """The distributions that compute these metrics."""
    needs = (GENERATION[name].needs for name in names if name in GENERATION)
    return ["ranx", "evaluate", *sorted({need[0] for need in needs if need})]


@cache
def _spacy_tokenizer() -> Any:
    """The English rules, which are those of the model that the official script loads."""
    try:
        import spacy
    except ImportError as error:  # it, or something that it needs in turn
        raise _lacking("f1_inscit", *SPACY) from error
    return spacy.blank("en").tokenizer


def _leave_one_out(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    rest = [max([*values[:i], *values[i + 1 :]]) for i in range(len(values))]
    return sum(rest) / len(rest)


CANNOT_ANSWER = "CANNOTANSWER"
PUNCTUATION = str.maketrans("", "", string.punctuation)
SPACY = ("spacy", "inscit")
_SQUAD = "Rajpurkar et al. 2016 (SQuAD), arXiv 1606.05250; computed by evaluate"
RETRIEVAL: dict[str, Entry[RankingValue]] = {
    "ndcg": Entry(
        "NDCG",
        "gain (the grade) over log2(rank + 1), as a share of the best possible ranking's",
        "Järvelin and Kekäläinen 2002, doi 10.1145/582415.582418; computed by ranx",
        ndcg,
    ),
    "recall": Entry(
        "Recall",
        "share of the relevant passages that are ranked",
        "Manning et al. 2008, Introduction to Information Retrieval, ch. 8; computed by ranx",
        recall,
    ),
    "mrr": Entry(
        "MRR",
        "1 / rank of the first relevant passage, 0 if none is ranked",
        "Voorhees 1999 (TREC-8 question answering); computed by ranx",
        reciprocal_rank,
        whole=True,
    ),
}
"""ranx's name without a cutoff -> the metric. ranx computes it; `value` is what it must return."""
GENERATION: dict[str, Entry[AnswerValue]] = {
    "f1": Entry(
        "F1",
        "token F1 after SQuAD normalisation, the best over the references",
        _SQUAD,
        token_f1,
    ),
    "f1_topiocqa": Entry(
        "F1 (TopiOCQA)",
        "token F1, the best over all references but one, averaged over the one left out",
        "evaluate_reader.py of McGill-NLP/topiocqa; computed by evaluate",
        leave_one_out_f1,
    ),
    "f1_quac": Entry(
        "F1 (QuAC)",
        "as f1_topiocqa, after a majority vote on CANNOTANSWER; no turn is filtered out",
        "scorer.py of prdwb/orconvqa-release (its unfiltered F1); computed by evaluate",
        quac_f1,
    ),
    "f1_inscit": Entry(
        "F1 (INSCIT)",
        "as f1, of lower-cased texts that spaCy has cut into words (needs the extra `inscit`)",
        "eval.py of ellenmellon/INSCIT; computed by evaluate",
        inscit_f1,
        needs=SPACY,
    ),
}
"""Name -> the metric."""


def of_stage(names: Iterable[str], stage: Stage) -> list[str]:
    """Those metrics that are of a stage, each once."""
    return [name for name in dict.fromkeys(names) if parse_metric(name).stage == stage]


def parse_metric(name: str) -> Metric:
    """The metric of a canonical name, as `ndcg@3`, `recall@10`, `mrr` or `f1`.

    Raises:
        UserError: no such metric, or a cutoff where there can be none, or none where one must be.
    """
    if name in GENERATION:
        of = GENERATION[name]
        return Metric(name, of.label, "generation", of.definition, of.source)
    family, at, cutoff = name.partition("@")
    if family not in RETRIEVAL:
        raise unknown_name("metric", name, [metric.name for metric in METRICS])
    entry = RETRIEVAL[family]
    if not at and entry.whole:
        definition = f"{entry.definition}; over the whole ranking"
        return Metric(name, entry.label, "retrieval", definition, entry.source)
    if not re.fullmatch(r"[1-9][0-9]*", cutoff):
        raise UserError(
            f"metric {name!r} needs a cutoff of at least 1", mend=f"write it as {family}@10"
        )
    definition = f"{entry.definition}; over the first {cutoff} ranks"
    label = f"{entry.label}@{cutoff}"
    return Metric(name, label, "retrieval", definition, entry.source, int(cutoff))


METRICS: tuple[Metric, ...] = tuple(
    parse_metric(name) for name in ("ndcg@3", "recall@10", "recall@100", "mrr", *GENERATION)
)
"""What `list metrics` shows; `parse_metric` takes any other cutoff too."""
