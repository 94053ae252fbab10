"""The joint loss in one pass: gradients of `losses.loss_terms`, with every session read once.

A turn's retrieval query, prompt with response, and grounded anchor begin with the same session, so
they are one tree (see `tree`). A contrast needs all embeddings of a batch at once, yet activations
need be held for a part of it only: embeddings are made first, the loss gives their gradients, and
each part runs again to carry those back (GradCache, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.uniconv.losses import Batch, Weights, info_nce
from uniconv_bench.uniconv.tree import Path, pack, size

Role = Literal["query", "candidate", "anchor", "target", "response"]
Key = tuple[Role, int]
"""What an embedding is of: its role, and its place in the batch's list."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a tree; of a `response` its last `length` tokens are to be predicted."""

    ids: list[int]
    role: Role
    place: int
    length: int = 0


class _Found(NamedTuple):
    embeddings: dict[Key, Tensor]
    nll: Tensor
    """Of the response tokens, summed."""


def joint_step(
    model: Any,
    batch: Batch,
    weights: Weights,
    end: int,
    *,
    tokens_at_once: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> dict[str, float]:
    """Adds the gradients of the joint loss to the parameters'; returns each term's value.

    Args:
        model: a causal decoder, with adapters or without.
        batch: one optimiser step.
        weights: of the terms; one of weight 0, or without supervision in the batch, is left out.
        end: id that fills rows up.
        tokens_at_once: tokens whose activations are held at a time, if no tree is larger; None:
            all, and no second pass. Gradients are the same to rounding.
        autocast: around forward passes.
        backward: of a scalar.
    """
    parts = _parts(_trees(batch, weights), tokens_at_once)
    tokens = sum(row.length for part in parts for tree in part for row in tree)
    first: list[_Found] = []
    states: list[_Randomness] = []
    for part in parts:
        states.append(_Randomness())
        with torch.set_grad_enabled(len(parts) == 1), autocast():
            first.append(_read(model, part, end))
    known = {key: value for found in first for key, value in found.embeddings.items()}
    leaves = {key: value.detach().requires_grad_() for key, value in known.items()}
    terms = _contrasts(leaves, batch, weights)
    if tokens and weights.generation:
        terms["generation"] = torch.stack([found.nll.detach() for found in first]).sum() / tokens
    for name, loss in terms.items():
        if loss.requires_grad:
            (getattr(weights, name) * loss).backward()
    for part, found, state in zip(parts, first, states, strict=True):
        if len(parts) > 1:
            state.restore()
            with autocast():
                found = _read(model, part, end)
        loss = found.nll * (weights.generation / max(tokens, 1))
        for key, value in found.embeddings.items():
            if (gradient := leaves[key].grad) is not None:
                loss = loss + (value * gradient).sum()
        backward(loss)
    return {name: loss.item() for name, loss in terms.items()}


def _trees(batch: Batch, weights: Weights) -> list[list[_Row]]:
    """A tree a turn, then one a text that contrasts embed beside the sessions."""
    turns = range(len(batch.queries))
    judged = [i for i in turns if weights.retrieval and batch.positives[i] is not None]
    grounded = [i for i in turns if weights.cii and batch.anchors[i] is not None]
    if len(grounded) < 2:
        grounded = []
    trees: list[list[_Row]] = []
    for i in turns:
        rows = []
        if i in judged:
            rows.append(_Row(batch.queries[i], "query", i))
        if weights.generation and (response := batch.responses[i]):
            rows.append(_Row(batch.prompts[i] + response, "response", i, len(response)))
        if i in grounded:
            rows.append(_Row(batch.anchors[i] or [], "anchor", i))
        if rows:
            trees.append(rows)
    if judged:
        trees += [[_Row(ids, "candidate", j)] for j, ids in enumerate(batch.candidates)]
    return trees + [[_Row(batch.targets[i] or [], "target", i)] for i in grounded]


def _parts(trees: Sequence[list[_Row]], tokens_at_once: int | None) -> list[list[list[_Row]]]:
    """Trees of like size together, in parts of at most that many tokens (or of one tree)."""
    sizes = [size([row.ids for row in tree]) for tree in trees]
    parts: list[list[list[_Row]]] = []
    room = 0
    for i in sorted(range(len(trees)), key=lambda i: (-sizes[i], i)):
        if not parts or (tokens_at_once is not None and sizes[i] > room):
            parts.append([])
            room = tokens_at_once or 0
        parts[-1].append(trees[i])
        room -= sizes[i]
    return parts


def _read(model: Any, part: Sequence[list[_Row]], end: int) -> _Found:
    """Embeddings and likelihoods of some trees; sessions and mere texts are of unlike size."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    embeddings: dict[Key, Tensor] = {}
    before, labels = [], []
    sessions = [tree for tree in part if tree[0].role not in ("candidate", "target")]
    texts = [tree for tree in part if tree[0].role in ("candidate", "target")]
    for trees in filter(None, (sessions, texts)):
        hidden, paths = _hidden(causal, trees, end)
        for row, (line, path) in zip((r for tree in trees for r in tree), paths, strict=True):
            if row.role == "response":
                before.append(hidden[line, path[-row.length - 1 : -1]])
                labels += row.ids[-row.length :]
            else:
                vector = hidden[line, path[-1]].float()
                embeddings[row.role, row.place] = functional.normalize(vector, dim=-1)
    if not labels:
        return _Found(embeddings, torch.zeros((), device=causal.device))
    logits = causal.get_output_embeddings()(torch.cat(before)).float()
    target = torch.tensor(labels, device=causal.device)
    return _Found(embeddings, functional.cross_entropy(logits, target, reduction="sum"))


def _hidden(causal: Any, trees: Sequence[list[_Row]], end: int) -> tuple[Tensor, list[Path]]:
    """Last-layer states (B, width, d) of some trees in one batch, and where each row is in them."""
    kind = causal.device.type
    dtype = causal.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    packed = pack([[row.ids for row in tree] for tree in trees], end, dtype, causal.device)
    states = causal.base_model(
        input_ids=packed.ids,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    )
    return states.last_hidden_state, packed.paths


def _contrasts(leaves: dict[Key, Tensor], batch: Batch, weights: Weights) -> dict[str, Tensor]:
    """L_R and L_CII over the embeddings of the whole batch."""
    found = {}
    judged = sorted(place for role, place in leaves if role == "query")
    if judged:
        device = leaves["query", judged[0]].device
        columns = range(len(batch.candidates))
        found["retrieval"] = info_nce(
            torch.stack([leaves["query", i] for i in judged]),
            torch.stack([leaves["candidate", j] for j in columns]),
            torch.tensor([batch.positives[i] for i in judged], device=device),
            batch.allowed[judged].to(device),
            weights.temperature,
        )
    grounded = sorted(place for role, place in leaves if role == "anchor")
    if grounded:
        device = leaves["anchor", grounded[0]].device
        found["cii"] = info_nce(
            torch.stack([leaves["anchor", i] for i in grounded]),
            torch.stack([leaves["target", i] for i in grounded]),
            torch.arange(len(grounded), device=device),
            batch.distinct[grounded][:, grounded].to(device),
            weights.cii_temperature,
        )
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
