"""Token F1 as an `evaluate` metric: what `definitions` says, nothing of its own.

`evaluate.load` takes this folder and works offline; it parses imports by line, so one a line.
"""

from __future__ import annotations

from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

from uniconv_bench.definitions import GENERATION

_DESCRIPTION = """Token F1 after SQuAD normalisation (lower case, no punctuation, no articles), \
the best over the references of each item. Both empty: 1; one empty: 0."""
_INPUTS = """
Args:
    predictions: list of answers.
    references: for each answer, the list of acceptable answers.
Returns:
    the mean under the metric's name, and `per_turn`, the value of each item.
"""
_CITATION = """@inproceedings{rajpurkar-etal-2016-squad,
  title = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle = {Proceedings of EMNLP},
  year = {2016}
}"""


class TokenF1(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Its configuration name is the metric's name in this project; `f1` by default."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
        name = "f1" if self.config_name == "default" else self.config_name
        definition = GENERATION[name].value
        per_turn = [definition(p, r) for p, r in zip(predictions, references, strict=True)]
        return {name: sum(per_turn) / len(per_turn), "per_turn": per_turn}
