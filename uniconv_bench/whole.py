"""Whether the counts of a preparation are those of the whole dataset, as its card has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uniconv_bench.cards import TaskCard
from uniconv_bench.errors import UserError

COUNTED = {"judged_retrieval": "turns with a relevant passage"}
"""Counts whose names say too little to a person."""


def part_of(
    card: TaskCard, counts: Mapping[str, Any], *, allowed: bool, where: str | Path
) -> list[str]:
    """In what the counts are not those of the whole dataset, as `12 of 2,514 turns of dev`.

    A split that is not there is not missed: what must be there is not asked here.

    Args:
        card: has the published counts.
        counts: `splits`, and `passages` as soon as they are counted.
        allowed: a person wants to go on with a part.
        where: the raw files.

    Raises:
        UserError: some count differs and a part is not allowed; names the first.
    """
    differing = [
        (name, found, whole) for name, found, whole in _pairs(card, counts) if found != whole
    ]
    if differing and not allowed:
        name, found, whole = differing[0]
        others = f" ({len(differing) - 1} more counts differ)" if differing[1:] else ""
        what = f"found {found:,} {name} where the whole of {card.title} has {whole:,}{others}"
        mend = (
            "put all of its official files there, or take --profile mini, or add --allow-part to "
            "prepare, and every table will say 'part of the dataset'"
        )
        raise UserError(what, where=where, mend=mend)
    return [f"{found:,} of {whole:,} {name}" for name, found, whole in differing]


def unchecked(card: TaskCard, split: str) -> list[str]:
    """What of corpus and split no published count is known of, so that nothing says it is whole."""
    size = card.size
    turns = size.splits.get(split) if size else None
    known = turns is not None and (turns.turns or turns.judged_retrieval)
    corpus = card.evidence == "given" or (size is not None and size.passages)
    return [
        what for what, there in (("passages", corpus), (f"turns of {split}", known)) if not there
    ]


def _pairs(card: TaskCard, counts: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(what is counted, found, in the whole dataset) of all that is known of both."""
    if card.size is None:
        return []
    pairs = [
        (f"{COUNTED.get(name, name)} of {split}", counts["splits"][split][name], whole)
        for split, size in card.size.splits.items()
        if split in counts["splits"]
        for name, whole in size.model_dump(exclude_none=True).items()
    ]
    if card.size.passages is not None and "passages" in counts:
        pairs.append(("passages", counts["passages"], card.size.passages))
    return pairs
