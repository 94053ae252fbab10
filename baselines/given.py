"""What stands in a retriever's place on tasks whose evidence is given: nothing is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.system import Context, Corpus, Progress, Ranking


class Given:
    """The passages that the task gives with a turn, in its order; scores only keep that order."""

    def __init__(self, card: object, context: Context):
        pass

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Retriever`."""
        return {"retriever": "given"}

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""
        for turn in turns:
            scores = range(len(turn.given), 0, -1)
            yield turn.turn_id, list(zip(turn.given, map(float, scores), strict=True))
