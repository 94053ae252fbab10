"""Training turns held out, the joint loss on them, and what follows from it: the best weights, an
early stop. Knows batches and a decoder; nothing of optimisers.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.training_cards import Training, Validation
from uniconv_bench.uniconv.checkpoint import Row
from uniconv_bench.uniconv.guards import Guards
from uniconv_bench.uniconv.losses import Batch
from uniconv_bench.uniconv.mixture import Example

Turns = dict[str, list[Turn]]
"""Task -> training turns."""


def held_out(turns: Turns, validation: Validation, seed: int) -> tuple[Turns, Turns]:
    """(what is trained on, what is held out): each conversation is in one of them, whole.

    At least one conversation a task is trained on.
    """
    kept, held = {}, {}
    for name, all_of_it in turns.items():
        sizes = Counter(turn.conversation_id for turn in all_of_it)
        wanted = min(validation.share * len(all_of_it), validation.turns / len(turns))
        drawn = sorted(sizes)
        random.Random(f"{seed}:held out:{name}").shuffle(drawn)
        chosen: set[str] = set()
        for conversation in drawn[:-1]:
            if sum(sizes[c] for c in chosen) >= wanted:
                break
            chosen.add(conversation)
        kept[name] = [turn for turn in all_of_it if turn.conversation_id not in chosen]
        held[name] = [turn for turn in all_of_it if turn.conversation_id in chosen]
    return kept, held


def best(points: Sequence[Row]) -> Row:
    """The point of least loss, the earliest of several."""
    return min(points, key=lambda point: float(point["loss"]))


def stalled(points: Sequence[Row], patience: int | None) -> bool:
    """Whether that many points have passed since the best one."""
    if patience is None or not points:
        return False
    return len(points) - 1 - points.index(best(points)) >= patience


class Learner(Protocol):
    """What is being trained, as far as it is measured."""

    def batch(self, group: Sequence[Example], shuffle: random.Random) -> Batch:
        """Examples as token ids."""

    def terms(self, batch: Batch) -> dict[str, float]:
        """A batch's loss terms by name, with no gradients."""


class Validator:
    """The held-out turns as batches, the same at every point.

    Args:
        held: groups of the turns.
        training: the adapter's card.
        form: of its backbone.
        learner: what is measured.
    """

    def __init__(
        self,
        held: Sequence[Sequence[Example]],
        training: Training,
        form: PromptFormat,
        learner: Learner,
    ):
        self._learner = learner
        self._weights = training.losses.model_dump()
        if training.distillation:
            self._weights["distillation"] = training.distillation.similarity
        draw = random.Random(f"{training.seed}:validation")
        self._batches = [learner.batch(group, draw) for group in held]
        self._guards = Guards([e for group in held for e in group], training, form)

    def point(self, model: Any, steps: int, before: Sequence[Row]) -> Row:
        """What is measured after so many steps.

        Terms are means over the batches that have them, `loss` their weighted sum.

        Args:
            before: the points so far: the first is what forgetting is measured against.
        """
        start = time.perf_counter()
        training = model.training
        model.eval()
        found = [self._learner.terms(batch) for batch in self._batches]
        guards = self._guards.measure(model, before[0]["guards"] if before else None)
        model.train(training)
        names = [name for name in self._weights if any(name in terms for terms in found)]
        if lacking := [n for n, weight in self._weights.items() if weight and n not in names]:
            raise UserError(
                f"no held-out turn has anything to measure losses.{lacking[0]} by",
                mend="raise validation.share or validation.turns on the card",
            )
        columns = {name: [terms[name] for terms in found if name in terms] for name in names}
        means = {name: sum(values) / len(values) for name, values in columns.items()}
        loss = sum(self._weights[name] * value for name, value in means.items())
        return {
            "steps": steps,
            "loss": round(loss, 5),
            **{name: round(value, 5) for name, value in means.items()},
            "seconds": round(time.perf_counter() - start, 3),
            "guards": {name: round(value, 5) for name, value in guards.items()},
        }
