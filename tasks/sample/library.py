"""What is written about a world: a document a facet of an entity, and near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from uniconv_bench.tasks.sample.world import Entity, Facet, World


@dataclass(frozen=True, eq=False)
class Document:
    """A passage before it has an id.

    Attributes:
        number: its place in the entity's page, from 1; copies stand after the facets.
        copy: a near-duplicate in other words, never gold.
    """

    entity: Entity
    facet: Facet
    number: int
    text: str
    copy: bool = False


@dataclass
class Library:
    """Every document of a world, and which facets must not be asked about."""

    documents: list[Document] = field(default_factory=list)
    facets: dict[tuple[str, str], Document] = field(default_factory=dict)
    blocked: set[tuple[str, str]] = field(default_factory=set)


def write_library(world: World) -> Library:
    """One document a facet of an entity, and copies.

    The two of a deceptive pair are described in the same words, so that only names and values
    differ. Copies restate a facet of one of the pair; that facet is never asked about, so a copy
    is always a wrong answer to a question about the other.
    """
    library = Library()
    for kind in world.kinds:
        rng = Random(f"{world.task}/{kind.name}/library")
        twin = {b: a for a, b in kind.pairs}
        chosen: dict[tuple[str, str], int] = {}
        for name in sorted(kind.names, key=lambda n: n in twin):
            for number, facet in enumerate(kind.facets, 1):
                template = rng.randrange(2)
                template = chosen.get((twin.get(name, ""), facet.id), template)
                chosen[name, facet.id] = template
                entity = world.entities[name]
                text = entity.fill(facet.passages[template])
                document = Document(entity, facet, number, text)
                library.documents.append(document)
                library.facets[name, facet.id] = document
        for pair in kind.pairs:
            # Of a pair across the split the trained one is restated: the test asks for the other.
            name = min(pair[::-1], key=lambda n: world.entities[n].held_out)
            for extra, facet in enumerate(rng.sample(kind.facets, 2), 1):
                entity, number = world.entities[name], len(kind.facets) + extra
                text = entity.fill(facet.passages[1 - chosen[name, facet.id]])
                library.documents.append(Document(entity, facet, number, text, copy=True))
                library.blocked.add((name, facet.id))
    Random(f"{world.task}/shuffle").shuffle(library.documents)
    return library
