"""World files: invented things, what is written about them, what people ask. Knows no dataset."""

from __future__ import annotations

import string
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import field, read_toml, texts

PRONOUNS = {
    "she": ("she", "her", "her", "herself"),
    "he": ("he", "his", "him", "himself"),
    "it": ("it", "its", "it", "itself"),
    "they": ("they", "their", "them", "themselves"),
}
FORMS = ("it", "its", "them", "itself")
FACET_KEYS = {"id", "section", "passages", "full", "follow", "answers"}
FACET_EXTRAS = {"switch", "yesno", "hallucinated", "second_answers"}
KIND_KEYS = {"name", "noun", "names", "slots", "facet", "unanswerable", "vague"}
HELD_OUT = 3
"""Entities of a kind that only test conversations speak of."""


@dataclass(frozen=True)
class Facet:
    """One thing to know about an entity: a passage, questions for it, answers from it."""

    id: str
    section: str
    passages: tuple[str, ...]
    full: tuple[str, ...]
    follow: tuple[str, ...]
    answers: tuple[str, ...]
    switch: str = ""
    hallucinated: tuple[str, ...] = ()
    second_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unanswerable:
    """A question that no passage answers, and the facet whose passage comes nearest."""

    full: str
    follow: tuple[str, ...]
    near: str


@dataclass(frozen=True)
class Vague:
    """A question that two facets could answer, and how to ask back."""

    follow: tuple[str, ...]
    facets: tuple[str, ...]
    clarify: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A sort of entity."""

    name: str
    noun: str
    names: tuple[str, ...]
    slots: dict[str, Any]
    facets: tuple[Facet, ...]
    unanswerable: tuple[Unanswerable, ...]
    vague: tuple[Vague, ...]
    openers: tuple[str, ...]

    def facet(self, name: str) -> Facet:
        """The facet of that id."""
        return next(facet for facet in self.facets if facet.id == name)

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The two pairs of names that are easiest to mistake for one another."""
        ranked = sorted(
            combinations(self.names, 2), key=lambda pair: -SequenceMatcher(None, *pair).ratio()
        )
        first = ranked[0]
        return first, next(pair for pair in ranked if not set(pair) & set(first))


@dataclass(frozen=True, eq=False)
class Entity:
    """One invented thing and the values of its slots."""

    kind: Kind
    name: str
    pronoun: str
    values: dict[str, str]
    links: dict[str, str]
    held_out: bool

    def fill(self, template: str) -> str:
        """The template with this entity's words, its first letter raised."""
        text = self.span(template)
        return text[:1].upper() + text[1:]

    def span(self, template: str) -> str:
        """The template with this entity's words."""
        return template.format(**self.values)


@dataclass(frozen=True)
class World:
    """All kinds and entities of one dataset's sample."""

    task: str
    kinds: tuple[Kind, ...]
    entities: dict[str, Entity]


def read_world(path: Path) -> World:
    """A world file with every entity's slots drawn, the same at every reading.

    Raises:
        UserError: the file breaks the schema; names kind and field.
    """
    content = read_toml(path)
    _only(content, {"task", "kind"}, set(), path)
    task = field(content, "task", str, path)
    kinds = tuple(_kind(row, path) for row in field(content, "kind", list, path))
    entities: dict[str, Entity] = {}
    split = {kind.name: _held_out(kind, odd=bool(i % 2)) for i, kind in enumerate(kinds)}
    for kind in kinds:
        for entity in _entities(kind, split, kinds, f"{task}/{kind.name}", path):
            if entity.name in entities:
                raise UserError(f"two entities named {entity.name!r}", where=path)
            entities[entity.name] = entity
    world = World(task, kinds, entities)
    _try_all(world, path)
    return world


def _only(row: dict[str, Any], needed: set[str], extras: set[str], where: Path | str) -> None:
    needed = needed or set(row)
    if wrong := sorted((needed - set(row)) | (set(row) - needed - extras)):
        raise UserError(f"missing or unknown fields: {', '.join(wrong)}", where=where)


def _kind(row: Any, path: Path) -> Kind:
    where = f"{path}, kind {field(row, 'name', str, path)}"
    _only(row, KIND_KEYS, {"openers"}, where)
    kind = Kind(
        name=row["name"],
        noun=field(row, "noun", str, where),
        names=tuple(name.partition("|")[0] for name in texts(row, "names", where)),
        slots={
            "pronoun": {name.partition("|")[0]: name.partition("|")[2] for name in row["names"]},
            **field(row, "slots", dict, where),
        },
        facets=tuple(_facet(facet, where) for facet in field(row, "facet", list, where)),
        unanswerable=tuple(
            Unanswerable(
                field(u, "full", str, where),
                tuple(texts(u, "follow", where)),
                field(u, "near", str, where),
            )
            for u in field(row, "unanswerable", list, where)
        ),
        vague=tuple(
            Vague(*(tuple(texts(v, key, where)) for key in ("follow", "facets", "clarify")))
            for v in field(row, "vague", list, where)
        ),
        openers=tuple(texts(row, "openers", where)) if "openers" in row else (),
    )
    known = {facet.id for facet in kind.facets}
    used = {u.near for u in kind.unanswerable} | {f for v in kind.vague for f in v.facets}
    if used - known or len(known) != len(kind.facets):
        raise UserError("facet ids repeated or unknown", where=where)
    if len(set(kind.names)) != 12:
        raise UserError("field names does not hold 12 names", where=where)
    return kind


def _facet(row: Any, where: str) -> Facet:
    place = f"{where}, facet {field(row, 'id', str, where)}"
    _only(row, FACET_KEYS, FACET_EXTRAS, place)
    several = {
        key: tuple(texts(row, key, place))
        for key in ("passages", "full", "follow", "answers", "hallucinated", "second_answers")
        if key in row
    }
    if len(several["passages"]) != 2 or not all(several.values()):
        raise UserError("needs 2 passages and at least one of each other text", where=place)
    section = field(row, "section", str, place)
    return Facet(row["id"], section, switch=row.get("switch", ""), **several)


def _held_out(kind: Kind, *, odd: bool) -> set[str]:
    """Deceptive pairs lie across the split or inside the test side, turn about."""
    (first, _), (third, fourth) = kind.pairs
    if not odd:
        return {first, third, fourth}
    alone = next(n for n in kind.names if all(n not in pair for pair in kind.pairs))
    return {first, third, alone}


def _entities(
    kind: Kind, split: dict[str, set[str]], kinds: tuple[Kind, ...], seed: str, path: Path
) -> list[Entity]:
    drawn: dict[str, dict[str, str]] = {}
    links: dict[str, dict[str, str]] = {}
    for slot, values in kind.slots.items():
        rng, where = Random(f"{seed}/{slot}"), f"{path}, kind {kind.name}, slot {slot}"
        if slot == "pronoun":
            continue
        if isinstance(values, dict) and "kind" in values:
            target = next((k for k in kinds if k.name == values["kind"]), None)
            if target is None or target is kind:
                raise UserError(f"links to {values['kind']!r}, no other kind", where=where)
            drawn[slot] = links[slot] = _linked(kind, target, split, rng)
            continue
        if isinstance(values, dict):
            span = range(values["from"], values["to"] + 1, values.get("step", 1))
            choices = [str(n) for n in rng.sample(span, min(12, len(span)))]
        else:
            choices = rng.sample(values, len(values))
        if len(choices) < 3:
            raise UserError("fewer than 3 values", where=where)
        drawn[slot] = {name: choices[i % len(choices)] for i, name in enumerate(kind.names)}
    return [_entity(kind, name, drawn, links, name in split[kind.name]) for name in kind.names]


def _linked(kind: Kind, target: Kind, split: dict[str, set[str]], rng: Random) -> dict[str, str]:
    """Held-out entities link to held-out ones, so that no test topic is met in training."""
    result: dict[str, str] = {}
    for side in (True, False):
        sources = [n for n in kind.names if (n in split[kind.name]) is side]
        targets = [n for n in target.names if (n in split[target.name]) is side]
        rng.shuffle(targets)
        result |= dict(zip(sources, targets, strict=True))
    return result


def _entity(
    kind: Kind,
    name: str,
    drawn: dict[str, dict[str, str]],
    links: dict[str, dict[str, str]],
    held_out: bool,
) -> Entity:
    pronoun = kind.slots["pronoun"][name] or "it"
    forms = dict(zip(FORMS, PRONOUNS[pronoun], strict=True))
    values = {slot: of[name] for slot, of in drawn.items()}
    values |= {"name": name, **forms, "It": forms["it"].title(), "Its": forms["its"].title()}
    targets = {slot: of[name] for slot, of in links.items()}
    return Entity(kind, name, pronoun, values, targets, held_out)


def _try_all(world: World, path: Path) -> None:
    """Fills every template once, so that a wrong field name fails here and says where."""
    for kind in world.kinds:
        entity = world.entities[kind.names[0]]
        templates = [*kind.openers]
        for facet in kind.facets:
            templates += [*facet.passages, *facet.full, *facet.follow, *facet.answers]
            templates += [*facet.hallucinated, *facet.second_answers]
            if facet.switch and facet.switch not in entity.links:
                where = f"{path}, kind {kind.name}, facet {facet.id}"
                raise UserError("field switch names no link slot", where=where)
        for question in (*kind.unanswerable, *kind.vague):
            templates += question.follow
        templates += [u.full for u in kind.unanswerable]
        templates += [text for v in kind.vague for text in v.clarify]
        for template in templates:
            fields = {name for _, name, _, _ in string.Formatter().parse(template) if name}
            if unknown := fields - set(entity.values):
                where = f"{path}, kind {kind.name}"
                raise UserError(f"unknown field {unknown} in {template!r}", where=where)
