"""Picks the turn of a task that best shows what makes it hard, for `show task`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.task import Task

LEANING = re.compile(r"\b(it|its|he|him|his|she|her|they|them|their|these|those|there)\b", re.I)
"""Words that say something only to who has followed the conversation."""
LOOKED_AT, LENGTH = 200, 600
"""Turns to choose from; characters of history that a reader takes in at a glance."""


@dataclass(frozen=True)
class Example:
    """A turn as `show task` tells it.

    Attributes:
        profile: where it comes from.
        turn: the turn.
        passage: the first passage that is given, else the first relevant one.
        terms: the words of the query that BM25 searches for.
        shared: those of them that the passage holds.
    """

    profile: str
    turn: Turn
    passage: Passage | None
    terms: tuple[str, ...]
    shared: frozenset[str]


def example_of(task: Task) -> Example:
    """Of the first turns of the test split, the one whose query leans most on its history."""
    turns = task.turns()[:LOOKED_AT]
    examples = [_told(task, turn) for turn in _candidates(turns)]
    return min(examples, key=lambda e: len(e.shared) / max(len(e.terms), 1))


def _candidates(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with all that a reader wants to see; where there are none, with less of it."""
    told = [t for t in turns if (t.gold or t.given) and t.references and t.kind == "answer"]
    later = [t for t in told or turns if t.history]
    leaning = [t for t in later if LEANING.search(t.query)]
    short = [t for t in leaning if sum(len(u.text) for u in t.history) <= LENGTH]
    return next(found for found in (short, leaning, later, told, list(turns)) if found)


def _told(task: Task, turn: Turn) -> Example:
    names = turn.given or turn.gold
    passage = task.corpus[names[0]] if names else None
    terms = _terms(turn.query)
    shared = frozenset(terms) & frozenset(_terms(passage.contents) if passage else ())
    return Example(task.profile, turn, passage, terms, shared)


def _terms(text: str) -> tuple[str, ...]:
    """What BM25 indexes of a text: its words without stop words, each once."""
    import bm25s

    (words,) = bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)
    return tuple(dict.fromkeys(words))
