"""Which turns belong together: every way to slice gives each turn the name of its part."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence

from uniconv_bench.conversation import Turn
from uniconv_bench.runs import Run
from uniconv_bench.study_cards import Slicing

ELLIPTIC = re.compile(
    r"\b(he|she|it|they|him|her|them|his|hers|its|their|this|that|these|those|there|then|one|ones"
    r"|so|else|another|other|same)\b",
    re.IGNORECASE,
)
SHORT = 4
"""Words up to which a later question hardly stands alone."""


def sliced(
    kind: Slicing, turns: Sequence[Turn], run: Run, shown: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """turn_id -> part, of the turns that the way to slice says anything of.

    Args:
        kind: the way.
        turns: of one task, in order.
        run: what was retrieved for them.
        shown: turn_id -> ids of the passages that the answer was given from.
    """
    slicers: dict[Slicing, Callable[[], dict[str, str]]] = {
        "depth": lambda: {t.turn_id: _depth(t.number) for t in turns},
        "topic": lambda: _topics(turns),
        "ellipsis": lambda: {t.turn_id: _ellipsis(t) for t in turns if t.number > 1},
        "hit": lambda: {t.turn_id: _hit(t, shown) for t in turns if t.gold and t.turn_id in shown},
        "ambiguity": lambda: _ambiguity(run),
    }
    return slicers[kind]()


def _depth(number: int) -> str:
    if number <= 3:
        return f"turn {number}"
    return "turns 4 to 6" if number <= 6 else "turn 7 and later"


def _topics(turns: Sequence[Turn]) -> dict[str, str]:
    topics = {(t.conversation_id, t.number): t.topic for t in turns}
    found = {}
    for turn in turns:
        before = topics.get((turn.conversation_id, turn.number - 1))
        if before and turn.topic:
            found[turn.turn_id] = "same topic" if before == turn.topic else "topic switch"
    return found


def _ellipsis(turn: Turn) -> str:
    leans = ELLIPTIC.search(turn.query) or len(turn.query.split()) <= SHORT
    return "leans on its history" if leans else "stands alone"


def _hit(turn: Turn, shown: Mapping[str, Sequence[str]]) -> str:
    found = set(turn.gold) & set(shown[turn.turn_id])
    return "relevant passage shown" if found else "none shown"


def _ambiguity(run: Run) -> dict[str, str]:
    """By the lead of the first passage over the second, against the median lead."""
    leads = {t: ranking[0][1] - ranking[1][1] for t, ranking in run.items() if len(ranking) > 1}
    if not leads:
        return {}
    median = statistics.median(leads.values())
    return {t: "ambiguous" if lead < median else "clear" for t, lead in leads.items()}
