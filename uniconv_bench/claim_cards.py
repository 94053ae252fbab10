"""The paper's claims as data: `claims.toml`, whose head says how they are judged. Facts only."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from uniconv_bench.cards import Card, parse_card
from uniconv_bench.files import read_toml


class SystemPart(Card):
    """One system is above another, or at most a margin below it."""

    metric: str
    above: str
    below: str
    margin: float = Field(default=0.0, ge=0, lt=1)
    reason: str | None = None
    """Why the margin is what it is."""

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if bool(self.margin) != bool(self.reason):
            raise ValueError("a margin goes with its reason")
        return self


class StudyPart(Card):
    """A difference that a study measured is above 0, or below it."""

    study: str
    difference: str
    """As the study calls it: `<condition> - <other>`, or an interaction."""
    metric: str
    direction: Literal["higher", "lower"]


def _kind(part: Any) -> str:
    named = part if isinstance(part, dict) else vars(part) if isinstance(part, Card) else {}
    return "study" if "study" in named else "systems"


Part = SystemPart | StudyPart


class Claim(Card):
    """A claim and the comparisons that decide it."""

    id: str
    family: str
    """Parts of all claims of a family are corrected together."""
    sentence: str
    source: str
    parts: Annotated[
        tuple[
            Annotated[
                Annotated[SystemPart, Tag("systems")] | Annotated[StudyPart, Tag("study")],
                Discriminator(_kind),
            ],
            ...,
        ],
        Field(min_length=1),
    ]


class Claims(Card):
    """All of them."""

    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError("an id comes twice")
        return self


def read_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """The paper's claims, or those of a file; a UserError names what is wrong with it."""
    path = path or Path(str(files("uniconv_bench") / "claims.toml"))
    return parse_card(Claims, read_toml(path), path).claims
