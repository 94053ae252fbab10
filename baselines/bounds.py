"""Retrievers that bound a system: the relevant passages themselves, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.system import Context, Corpus, Progress, Ranking
from uniconv_bench.system_cards import BoundRetriever


class Bound:
    """`gold`: each turn's relevant passages, equal in score. `none`: an empty ranking."""

    def __init__(self, card: BoundRetriever, context: Context):
        self._kind = card.kind

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Retriever`."""
        return {"retriever": self._kind}

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""
        for turn in turns:
            gold = sorted(turn.gold)[:depth] if self._kind == "gold" else []
            yield turn.turn_id, [(passage_id, 1.0) for passage_id in gold]
