"""All metrics of a run and answers, with intervals, against pytrec_eval and a plain F1 loop.

16,451 turns of 100 passages and an answer each, as QReCC's test set has them. The baseline gives
the same means without intervals; both sides are timed when warm, in turn, but for the resamples of
the intervals, which are drawn anew each time. The largest distance of two values of a turn is given
beside the ratio. Goal: at most 3.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import string
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytrec_eval

from uniconv_bench import metrics
from uniconv_bench.statistics.intervals import resamples

GOAL = 3.0
METRICS = ("mrr", "ndcg@3", "recall@10", "recall@100", "f1")
THEIRS = {
    "recip_rank": "mrr",
    "ndcg_cut_3": "ndcg@3",
    "recall_10": "recall@10",
    "recall_100": "recall@100",
}
ARTICLES = re.compile(r"\b(a|an|the)\b")
MARKS = str.maketrans("", "", string.punctuation)


def data(turns: int, depth: int) -> dict[str, Any]:
    """Turns in conversations of six; a relevant passage is among the ranked in half of them."""
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(2000)]

    def said() -> str:
        return "The " + " ".join(draw.choices(words, k=20)) + "."

    names = [f"{n // 6}_{n % 6 + 1}" for n in range(turns)]
    run, qrels, references, texts = {}, {}, {}, {}
    for name in names:
        found = draw.sample(range(54_000_000), depth)
        run[name] = [(f"p{p}", float(depth - i)) for i, p in enumerate(found)]
        gold = draw.choice(found) if draw.random() < 0.5 else -1
        qrels[name] = {f"p{gold}": 1}
        references[name] = (said(),)
        texts[name] = references[name][0][:60] + said()[:60]
    return {"qrels": qrels, "run": run, "references": references, "texts": texts}


def ours(given: dict[str, Any]) -> dict[str, dict[str, float]]:
    resamples.cache_clear()
    found = metrics.score(METRICS, **given)
    for name, values in found.items():
        metrics.metric_score(name, values)
    return {name: dict(values) for name, values in found.items()}


def theirs(given: dict[str, Any]) -> dict[str, dict[str, float]]:
    judge = pytrec_eval.RelevanceEvaluator(given["qrels"], set(THEIRS))
    by_turn = judge.evaluate({turn: dict(ranked) for turn, ranked in given["run"].items()})
    found = {
        ours: {turn: values[name] for turn, values in by_turn.items()}
        for name, ours in THEIRS.items()
    }
    found["f1"] = {
        turn: max(f1(given["texts"][turn], reference) for reference in references)
        for turn, references in given["references"].items()
    }
    for values in found.values():
        statistics.fmean(values.values())
    return found


def f1(text: str, reference: str) -> float:
    """Token F1 as SQuAD normalises."""
    said, wanted = (
        ARTICLES.sub(" ", one.lower().translate(MARKS)).split() for one in (text, reference)
    )
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=16_451)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    sides: dict[str, Callable[[dict[str, Any]], Any]] = {"ours": ours, "theirs": theirs}
    small, given = data(10, options.depth), data(options.turns, options.depth)
    values: dict[str, Any] = {side: function(small) for side, function in sides.items()}
    runs: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.repeat):
        for side, function in sides.items():
            start = time.perf_counter()
            values[side] = function(given)
            runs[side].append(time.perf_counter() - start)
    seconds = {side: statistics.median(taken) for side, taken in runs.items()}
    line = {
        "benchmark": "score",
        "ratio": round(seconds["ours"] / seconds["theirs"], 3),
        "goal": GOAL,
        "distance": max(
            abs(values["ours"][name][turn] - value)
            for name, of_turns in values["theirs"].items()
            for turn, value in of_turns.items()
        ),
        "turns": options.turns,
        "depth": options.depth,
        **{f"{side}_seconds": round(taken, 2) for side, taken in seconds.items()},
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
