"""Who asks what in which order: conversations about a world, before any raw format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Literal

from uniconv_bench.tasks.sample.library import Document, Library
from uniconv_bench.tasks.sample.world import Entity, Facet, Kind, Vague, World

FIRST = ("The first of those, please.", "I meant the former.", "The first one.")
SECOND = ("The second of those, please.", "I meant the latter.", "The second one.")


@dataclass(frozen=True)
class Style:
    """How conversations of a dataset run."""

    switch: float = 0.0
    """Chance to ask for what links to another entity, and more to follow the link."""
    back: float = 0.0
    """Chance to return from a linked topic to the first one."""
    unanswerable: float = 0.0
    """Share of conversations with one such question."""
    vague: float = 0.0
    """Share of conversations with one such question."""
    openers: bool = False
    train: int = 72
    test: int = 22
    """Conversations."""


STYLES = {
    "topiocqa": Style(switch=0.6, back=0.3, unanswerable=0.3),
    "qrecc": Style(switch=0.3, back=0.2, unanswerable=0.22),
    # A QuAC dialogue stays with its article.
    "orquac": Style(unanswerable=0.35),
    "inscit": Style(switch=0.3, back=0.2, unanswerable=0.3, vague=0.3),
    "faithdial": Style(switch=0.3, back=0.15, unanswerable=0.25, openers=True),
}


@dataclass(frozen=True)
class Exchange:
    """A question and how it is answered.

    Attributes:
        question: as the user puts it.
        rewrite: self-contained.
        leaning: an opening question put as if its page were in view, else empty.
        answers: acceptable ones; the conversation goes on with the first.
        documents: what the answer rests on, or what an annotator would have looked at.
        named: the entity that the answer brings up.
    """

    entity: Entity
    facet: Facet
    question: str
    rewrite: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...]
    kind: Literal["answer", "unanswerable", "clarification"] = "answer"
    leaning: str = ""
    named: Entity | None = None
    vague: Vague | None = None


class Planner:
    """Plans conversations one after another, each facet about equally often."""

    def __init__(self, world: World, library: Library, style: Style, seed: str):
        self.world, self.library, self.style = world, library, style
        self.rng = Random(f"{world.task}/{seed}")
        self.asked: Counter[tuple[str, str]] = Counter()
        self.worded: Counter[str] = Counter()

    def conversations(self, entities: list[Entity], count: int) -> list[list[Exchange]]:
        """`count` conversations that begin with the entities in turn."""
        order: list[Entity] = []
        while len(order) < count:
            order += self.rng.sample(entities, len(entities))
        conversations = []
        for i, start in enumerate(order[:count]):
            length = (3, 4, 3, 4, 5, 4, 3)[i % 7]
            # Not before these turns: an unanswerable and a vague question, if it is their time.
            puzzle = self.rng.randrange(1, length) if _due(self.style.unanswerable, i) else length
            vague = self.rng.randrange(1, length - 1) if _due(self.style.vague, i + 2) else length
            conversations.append(self._conversation(start, length, puzzle, vague))
        return conversations

    def _conversation(self, start: Entity, length: int, puzzle: int, vague: int) -> list[Exchange]:
        said: list[Exchange] = []
        while (turn := len(said)) < length:
            before = said[-1] if said else None
            kinds = [exchange.kind for exchange in said]
            last = turn == length - 1
            exchange = None
            if before and before.vague:
                exchange = self._pick(before, before.vague, said)
            elif before and turn >= vague and not last and "clarification" not in kinds:
                exchange = self._vague(before.entity, said)
            elif before and turn >= puzzle and "unanswerable" not in kinds:
                exchange = self._unanswerable(before.entity, said)
            said.append(exchange or self._next(start, said, last=last))
        return said

    def cover(self, documents: list[Document]) -> list[Exchange]:
        """A conversation that asks about given documents of one entity, in order."""
        said: list[Exchange] = []
        for document in documents:
            said.append(self._ask(document.entity, document.facet, said, document=document))
        return said

    def _next(self, start: Entity, said: list[Exchange], *, last: bool) -> Exchange:
        rng, style = self.rng, self.style
        if not said:
            return self._ask(start, self._facet(start, said, links=not last), said)
        before = said[-1]
        entity = before.entity
        visited = {exchange.entity for exchange in said}
        target = before.named
        likely = style.switch + 0.3 if style.switch else 0.0
        if target and target not in visited and rng.random() < likely:
            return self._ask(target, self._facet(target, said, links=not last), said)
        if entity is not start and rng.random() < style.back:
            return self._ask(start, self._facet(start, said, links=False), said, full=True)
        return self._ask(entity, self._facet(entity, said, links=not last), said)

    def _word(self, templates: Iterable[str]) -> str:
        """One of the templates, each about equally often."""
        chosen = min(templates, key=lambda t: (self.worded[t], self.rng.random()))
        self.worded[chosen] += 1
        return chosen

    def _free(self, entity: Entity, said: list[Exchange]) -> list[Facet]:
        used = {(e.entity.name, e.facet.id) for e in said} | self.library.blocked
        return [f for f in entity.kind.facets if (entity.name, f.id) not in used]

    def _facet(self, entity: Entity, said: list[Exchange], *, links: bool) -> Facet:
        free = self._free(entity, said)
        if links and self.rng.random() < self.style.switch:
            visited = {e.entity.name for e in said} | {entity.name}
            linking = [f for f in free if f.switch and entity.links[f.switch] not in visited]
            free = linking or free
        return min(free, key=lambda f: (self.asked[entity.name, f.id], self.rng.random()))

    def _ask(
        self,
        entity: Entity,
        facet: Facet,
        said: list[Exchange],
        *,
        full: bool = False,
        document: Document | None = None,
    ) -> Exchange:
        rng = self.rng
        rewrite = question = entity.fill(self._word(facet.full))
        leaning = ""
        if not said:
            leaning = entity.fill(self._word(_plain(facet.follow)))
            if self.style.openers and rng.random() < 0.6:
                opener = entity.fill(self._word(entity.kind.openers))
                question = f"{opener} {leaning}"
        elif not full:
            question = self._follow(entity, facet.follow, said) or question
        self.asked[entity.name, facet.id] += 1
        return Exchange(
            entity,
            facet,
            question,
            rewrite,
            self._answers(entity, facet, said),
            (document or self.library.facets[entity.name, facet.id],),
            leaning=leaning,
            named=self.world.entities[entity.links[facet.switch]] if facet.switch else None,
        )

    def _follow(self, entity: Entity, templates: tuple[str, ...], said: list[Exchange]) -> str:
        """A question that leans on what was said, or nothing if it would lean the wrong way."""
        before = said[-1]
        choices = list(templates)
        other = before.named if before.entity is entity else before.entity
        if other is not None and other.pronoun == entity.pronoun:
            # Two things share a pronoun: only the noun tells which is meant.
            choices = [t for t in choices if _has_noun(t, entity.kind)]
        if any(e.question.startswith("And ") for e in said):
            choices = list(_plain(tuple(choices)))
        return entity.fill(self._word(choices)) if choices else ""

    def _answers(self, entity: Entity, facet: Facet, said: list[Exchange]) -> tuple[str, ...]:
        fill = entity.span if self.world.task == "orquac" else entity.fill
        first = self._word(facet.answers)
        answers = [fill(answer) for answer in (first, *(a for a in facet.answers if a != first))]
        before = [_opening(text) for e in said[-1:] for text in e.answers[:1]]
        if _opening(answers[0]) in before:
            answers = answers[1:] + answers[:1]
        return tuple(answers)

    def _unanswerable(self, entity: Entity, said: list[Exchange]) -> Exchange | None:
        free = {f.id for f in self._free(entity, said)}
        choices = [u for u in entity.kind.unanswerable if u.near in free]
        if not choices:
            return None
        choice = min(choices, key=lambda u: (self.worded[u.full], self.rng.random()))
        self.worded[choice.full] += 1
        near = entity.kind.facet(choice.near)
        return Exchange(
            entity,
            near,
            self._follow(entity, choice.follow, said) or entity.fill(choice.full),
            entity.fill(choice.full),
            (),
            (self.library.facets[entity.name, near.id],),
            kind="unanswerable",
        )

    def _vague(self, entity: Entity, said: list[Exchange]) -> Exchange | None:
        free = {f.id for f in self._free(entity, said)}
        choices = [v for v in entity.kind.vague if set(v.facets) <= free]
        if not choices:
            return None
        vague = self.rng.choice(choices)
        question = self._follow(entity, vague.follow, said)
        if not question:
            return None
        return Exchange(
            entity,
            entity.kind.facet(vague.facets[0]),
            question,
            question,
            tuple(entity.fill(text) for text in vague.clarify),
            tuple(self.library.facets[entity.name, f] for f in vague.facets),
            kind="clarification",
            vague=vague,
        )

    def _pick(self, before: Exchange, vague: Vague, said: list[Exchange]) -> Exchange:
        position = self.rng.randrange(2)
        facet = before.entity.kind.facet(vague.facets[position])
        answer = self._ask(before.entity, facet, said, full=True)
        words = self._word((FIRST, SECOND)[position])
        return Exchange(**{**vars(answer), "question": words})


def _plain(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Without those that only go on from something: "And ...?"."""
    return tuple(t for t in templates if not t.startswith(("And ", "What about "))) or templates


def _has_noun(template: str, kind: Kind) -> bool:
    return kind.noun.split()[-1] in template.lower()


def _opening(text: str) -> str:
    return " ".join(text.split()[:2])


def _due(share: float, position: int) -> bool:
    """Spreads a share evenly over positions 0, 1, 2, ..."""
    return int((position + 1) * share) > int(position * share)
