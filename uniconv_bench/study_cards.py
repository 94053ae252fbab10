"""Study cards: a question, the conditions that answer it, and what is measured of each.

Facts only, no behaviour: `experiments` holds that, and the cards that are shipped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from uniconv_bench.cards import Card, Fraction, Name, Positive, Profile

Slicing = Literal["depth", "topic", "ellipsis", "hit", "ambiguity"]
"""How turns are told apart: by their number in the conversation; by whether the topic is another
one than the turn before; by whether the question needs its history to be understood; by whether a
relevant passage was shown; by how clearly the first passage leads."""
History = Literal["full", "last", "none", "renamed"]
"""What a system sees of the turns before: all, the last exchange, nothing, or all with one name
changed for another conversation's (turns without a name to change are left out)."""
Extra = Literal[
    "grounding", "same_passages", "same_answer", "same_ranking", "same_text", "verbatim"
]
"""Measures beside the metrics: the share of an answer's words that the passages shown have; the
share of the first three passages, and the token F1 of the answer, that are as in the baseline;
whether the whole ranking, and the answer to the letter, are as in the baseline; whether the answer
is the first reference to the letter."""


class Condition(Card):
    """One way to answer the turns."""

    system: str
    """By name, or by the path of its card."""
    change: dict[str, Any] = {}
    """Laid on the system's card, as a card that extends it would lay it on."""
    history: History = "full"
    evidence: Annotated[
        str,
        Field(
            pattern=r"^(own|none|gold(\+\d+)?|irrelevant|previous_turn|contradictory|from .+)$",
            examples=["own", "gold+2", "from bm25+llm"],
        ),
    ] = "own"
    """What is read: the system's own passages; nothing; the gold passages, alone or with so many of
    BM25's best that are not gold; as many random ones; the gold ones of the turn before; the gold
    ones with the answer in them replaced; or what another system (`from <system>`) retrieved."""
    x: float | None = None
    """Where it stands on the axis of a study that varies a number."""


class Expectation(Card):
    """A difference that the paper, or plain reason, leads one to expect."""

    condition: str
    against: str
    metric: str
    direction: Literal["higher", "lower"]
    source: str
    """Who expects it."""


class Goal(Card):
    """A value that a condition has to reach, whatever another one does."""

    condition: str
    metric: str
    least: Fraction
    source: str
    """Who demands it."""


class StudyCard(Card):
    """One study."""

    name: Name
    title: str
    description: str
    """The question, and how it is answered."""
    tasks: dict[Profile, tuple[str, ...]]
    turns: dict[Profile, Positive] = {}
    """The first so many turns of each task; none: all of them."""
    split: Literal["test", "train"] = "test"
    """The turns that are answered: what systems are tested on, or what they were trained on."""
    metrics: tuple[str, ...] = ("ndcg@3", "f1")
    extras: tuple[Extra, ...] = ()
    baseline: str
    """The condition that the others are held against."""
    conditions: dict[str, Condition]
    arms: dict[Profile, tuple[str, ...]] = {}
    """The conditions that are run at a profile; none named: all of them."""
    training: dict[Profile, dict[str, Any]] = {}
    """Laid on the adapters that the conditions use, at a profile: how much training a study gets
    there."""
    slices: tuple[Slicing, ...] = ()
    figure: Literal["dots", "line", "pareto", "grid", "bars"] = "dots"
    axis: str = ""
    """What `x` is, for a `line`."""
    interaction: tuple[str, str, str, str] | None = None
    """Four conditions a, b, c, d: what (a - b) - (c - d) is measured for."""
    choices: bool = False
    """Whether the conditions differ in what the paper leaves open, which may explain a gap."""
    expectations: tuple[Expectation, ...] = ()
    goals: tuple[Goal, ...] = ()

    def at(self, profile: Profile) -> Self:
        """The study as it is conducted at a profile: without the conditions that it leaves out."""
        arms = self.arms.get(profile, tuple(self.conditions))
        whole = set(self.interaction or ()) <= set(arms)
        return self.model_copy(
            update={
                "conditions": {name: self.conditions[name] for name in arms},
                "expectations": tuple(
                    e for e in self.expectations if {e.condition, e.against} <= set(arms)
                ),
                "interaction": self.interaction if whole else None,
                "goals": tuple(goal for goal in self.goals if goal.condition in arms),
            }
        )

    @model_validator(mode="after")
    def _named(self) -> Self:
        named = [("baseline", self.baseline), *(("interaction", n) for n in self.interaction or ())]
        for number, expected in enumerate(self.expectations, 1):
            named += [(f"expectations.{number}", n) for n in (expected.condition, expected.against)]
        named += [(f"goals.{i}", goal.condition) for i, goal in enumerate(self.goals, 1)]
        for profile, arms in self.arms.items():
            named += [(f"arms.{profile}", name) for name in arms]
        wanted = {f"expectations.{i}": e.metric for i, e in enumerate(self.expectations, 1)}
        wanted |= {f"goals.{i}": goal.metric for i, goal in enumerate(self.goals, 1)}
        for field, metric in wanted.items():
            if metric not in (*self.metrics, *self.extras):
                raise ValueError(f"{field}: {metric!r} is not measured")
        for field, name in named:
            if name not in self.conditions:
                raise ValueError(f"{field}: {name!r} is none of conditions")
        for profile, arms in self.arms.items():
            if self.baseline not in arms:
                raise ValueError(f"arms.{profile}: the baseline is not among them")
        if self.figure == "line" and any(c.x is None for c in self.conditions.values()):
            raise ValueError("figure is line: give every condition its x")
        return self
