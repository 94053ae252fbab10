"""The joint loss in one pass: gradients of `losses.loss_terms`, with every session read once.

A contrast needs all embeddings of a batch at once, yet activations need be held for a part of it
only: embeddings are made first, the loss gives their gradients, and each part runs again to carry
those back (GradCache, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uniconv_bench.uniconv.losses import (
    Batch,
    Weights,
    cii_loss,
    in_places,
    info_nce,
    similarity_kl,
)
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.reading import (
    FILLERS,
    SPOKEN,
    Found,
    Key,
    Role,
    filled,
    parts_of,
    read,
    trees_of,
)
from uniconv_bench.uniconv.tree import size

ALONE = Processes()


class JointLoss:
    """The joint loss of a decoder on batches; all processes that share it end with the same.

    Where the model is spread over the processes, each makes as many passes as the busiest one.

    Args:
        model: a causal decoder, with adapters or without.
        weights: of the terms; one of weight 0, or without supervision in a batch, is left out.
        end: id that fills rows up.
        tokens_at_once: tokens whose activations a process holds at a time, if no tree is larger;
            None: all, and no second pass. Without dropout gradients are the same to rounding.
        autocast: around forward passes.
        processes: that share the work.

    Attributes:
        tokens_read: in the last step, by all processes together: what a batch's losses of some
            weight read, each session once; twice as many went through the decoder where there was
            a second pass.
    """

    def __init__(
        self,
        model: Any,
        weights: Weights,
        end: int,
        *,
        tokens_at_once: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: Processes = ALONE,
    ):
        self._model, self._weights, self._end = model, weights, end
        self._tokens_at_once, self._processes = tokens_at_once, processes
        self._autocast = autocast
        self.tokens_read = 0

    def step(self, batch: Batch) -> dict[str, float]:
        """Adds the gradients on a batch, the same in all processes, to those of the parameters.

        Returns each term's value.
        """
        work = self._work(batch)
        self.tokens_read = work.tokens_read
        learning = [p for p in self._model.parameters() if p.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                # Made before any activation: among those it would keep their memory in pieces.
                parameter.grad = torch.zeros_like(parameter)
        held = len(work.parts) == 1
        values, states, found = self._values(work, batch, held=held)
        leaves = [values.table.requires_grad_(), values.scores.requires_grad_()]
        terms = values.contrasts(batch, self._weights)
        for name, loss in terms.items():
            (getattr(self._weights, name) * loss).backward()
        back = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        for part, state in zip(work.parts, states, strict=True):
            if found is None:
                state.restore()
                found = self._read(part)
            loss = found.nll * (self._weights.generation / max(work.tokens, 1))
            for key, value in found.values.items():
                loss = loss + (value * work.place(key, *back)).sum()
            torch.autograd.backward(loss)
            found = None
        self._processes.add([p.grad for p in learning if p.grad is not None])
        return self._said(terms, values, work)

    @torch.no_grad()
    def value(self, batch: Batch) -> dict[str, float]:
        """Each term's value as of `step`, and no gradients."""
        work = self._work(batch)
        values, _, _ = self._values(work, batch, held=False)
        return self._said(values.contrasts(batch, self._weights), values, work)

    def _work(self, batch: Batch) -> _Work:
        return _Work(batch, self._weights, self._tokens_at_once, self._processes, self._end)

    def _read(self, part: Any) -> Found:
        with self._autocast():
            return read(self._model, part, self._end)

    def _values(
        self, work: _Work, batch: Batch, *, held: bool
    ) -> tuple[_Values, list[_Randomness], Found | None]:
        """What all processes read, the randomness before each part, and the part that is held."""
        values = _Values(work, batch, self._model)
        states: list[_Randomness] = []
        found: Found | None = None
        for part in work.parts:
            states.append(_Randomness())
            with torch.set_grad_enabled(held):
                found = self._read(part)
            values.put(found)
        self._processes.add([values.table, values.scores, values.nll])
        return values, states, found if held else None

    @staticmethod
    def _said(terms: dict[str, Tensor], values: _Values, work: _Work) -> dict[str, float]:
        said = {name: loss.item() for name, loss in terms.items()}
        return said | {"generation": values.nll.item() / work.tokens} if work.tokens else said


class _Work:
    """What is to be read of a batch.

    Attributes:
        line: of each embedding of the batch, in a table of all.
        tokens: of all responses.
        tokens_read: of all trees, of all processes.
        parts: trees of this process, those together that are read together.
    """

    def __init__(
        self,
        batch: Batch,
        weights: Weights,
        tokens_at_once: int | None,
        processes: Processes,
        end: int,
    ):
        trees = trees_of(batch, weights)
        sizes = [size([row.path for row in tree]) for tree in trees]
        self.tokens_read = sum(sizes)
        rows = [row for tree in trees for row in tree]
        keys = [row.key for row in rows if row.role not in SPOKEN]
        self.tokens = sum(row.length for row in rows if row.role == "response")
        self.parts = parts_of(trees, sizes, tokens_at_once, processes)
        if processes.sharded:
            everybody = [replace(processes, rank=rank) for rank in range(processes.count)]
            most = max(len(parts_of(trees, sizes, tokens_at_once, each)) for each in everybody)
            self.parts += [[] for _ in range(most - len(self.parts))]
            self.parts = [filled(part, end) for part in self.parts]
            keys += FILLERS
        self.line = {key: number for number, key in enumerate(keys)}

    def place(self, key: Key, table: Tensor, scores: Tensor) -> Tensor:
        """Where what has this key is among all embeddings, or among all likelihoods of pairs."""
        return scores[key[1]] if key[0] == "pair" else table[self.line[key]]


class _Values:
    """What was read of a whole batch: everybody gets all, and so the same loss and gradients.

    Attributes:
        table: (K, d) embeddings.
        scores: (P,) of the batch's pairs, where those are likelihoods.
        nll: of the response tokens, summed.
    """

    def __init__(self, work: _Work, batch: Batch, model: Any):
        self._work = work
        self.table = torch.zeros(len(work.line), model.config.hidden_size, device=model.device)
        self.scores = torch.zeros(len(batch.pairs), device=model.device)
        self.nll = torch.zeros((), device=model.device)

    def put(self, found: Found) -> None:
        """What a part has."""
        self.nll += found.nll.detach()
        for key, value in found.values.items():
            self._work.place(key, self.table, self.scores).copy_(value.detach())

    def contrasts(self, batch: Batch, weights: Weights) -> dict[str, Tensor]:
        """L_R, what a teacher adds to it, and L_CII."""
        return _contrasts(self.table, self.scores, self._work.line, batch, weights)


def _contrasts(
    table: Tensor, scores: Tensor, line: dict[Key, int], batch: Batch, weights: Weights
) -> dict[str, Tensor]:
    """L_R, what a teacher adds to it, and L_CII over what was read of the whole batch.

    Args:
        table: (K, d) embeddings.
        scores: (P,) of the batch's pairs, where those are likelihoods.
        line: of each embedding in the table.
        batch: says which belong together.
        weights: for the temperatures.
    """

    def of(role: Role, places: Sequence[int]) -> Tensor:
        return table[torch.tensor([line[role, place] for place in places], device=table.device)]

    found = {}
    if judged := sorted(place for role, place in line if role == "query"):
        found["retrieval"] = info_nce(
            of("query", judged),
            of("candidate", range(len(batch.candidates))),
            torch.tensor([batch.positives[i] for i in judged], device=table.device),
            batch.allowed[judged].to(table.device),
            weights.temperature,
        )
        if batch.teacher is not None:
            found["distillation"] = similarity_kl(
                of("query", judged),
                of("candidate", range(len(batch.candidates))),
                batch.teacher[judged].to(table.device),
                weights.distillation_temperature,
            )
    if weights.cii and batch.contrasts:
        if weights.cii_score == "embedding":
            anchors = of("anchor", range(len(batch.anchors)))
            targets = of("target", range(len(batch.targets)))
            with torch.autocast(table.device.type, enabled=False):
                grid = anchors @ targets.T
        else:
            grid = in_places(scores, batch)
        tau, score = weights.cii_temperature, weights.cii_score
        found["cii"] = cii_loss(grid, batch.contrasts, tau, score)
    return found


class _Randomness:
    """The state of the generators that dropout draws from, to be taken up again."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        """Draws what was drawn since once more."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)
