"""What an adapter learns from another system: its similarities and its responses.

Both are made step by step, from the turns of that step alone: a training that was stopped goes on
with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from uniconv_bench.system import Generator, Progress
from uniconv_bench.uniconv.parts import DenseRetriever

if TYPE_CHECKING:
    from uniconv_bench.uniconv.losses import Batch
    from uniconv_bench.uniconv.mixture import Example


class Teacher:
    """A system that another one learns from.

    Args:
        retriever: whose similarities are learnt; None: they are not.
        generator: whose responses are; likewise.
        progress: told of the loading of its weights.
    """

    def __init__(
        self, retriever: DenseRetriever | None, generator: Generator | None, progress: Progress
    ):
        self._retriever, self._generator, self._progress = retriever, generator, progress

    def answered(self, group: Sequence[Example]) -> list[Example]:
        """The examples with the teacher's response, given their grounds, in the place of theirs.

        One to whom the teacher says nothing keeps its own.
        """
        if self._generator is None:
            return list(group)
        asked = [example for example in group if example.response is not None]
        evidence = {example.turn.turn_id: example.grounds for example in asked}
        said = self._generator.generate([e.turn for e in asked], evidence, self._progress)
        found = {answer.turn_id: answer.text for answer in said}
        return [replace(e, response=found.get(e.turn.turn_id) or e.response) for e in group]

    def judged(self, batch: Batch, group: Sequence[Example]) -> Batch:
        """The batch of a group with the teacher's similarities of its turns and candidates."""
        import torch

        if self._retriever is None or not batch.passages:
            return batch
        turns = [example.turn for example in group]
        scores = self._retriever.similarities(turns, batch.passages, self._progress)
        return replace(batch, teacher=torch.from_numpy(scores))
