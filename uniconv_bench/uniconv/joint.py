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
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.tree import Path, pack, size
from uniconv_bench.uniconv.tree import Row as TreeRow

Role = Literal["query", "candidate", "anchor", "target", "response"]
Key = tuple[Role, int]
"""What an embedding is of: its role, and its place in the batch's list."""
ALONE = Processes()


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a tree; of a `response` its last `length` tokens are to be predicted."""

    path: TreeRow
    role: Role
    place: int
    length: int = 0

    @property
    def key(self) -> Key:
        """Names its embedding."""
        return self.role, self.place


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
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Gives the parameters the gradients of the joint loss; returns each term's value.

    Args:
        model: a causal decoder, with adapters or without; its gradients are cleared.
        batch: one optimiser step: the same in all processes.
        weights: of the terms; one of weight 0, or without supervision in the batch, is left out.
        end: id that fills rows up.
        tokens_at_once: tokens whose activations a process holds at a time, if no tree is larger;
            None: all, and no second pass. Gradients are the same to rounding.
        autocast: around forward passes.
        backward: of a scalar.
        processes: that share the work; all end with the gradients of the whole batch.
    """
    trees = _trees(batch, weights)
    rows = [row for tree in trees for row in tree]
    line = {row.key: number for number, row in enumerate(r for r in rows if r.role != "response")}
    tokens = sum(row.length for row in rows)
    parts = _parts(trees, tokens_at_once, processes)
    first: list[_Found] = []
    states: list[_Randomness] = []
    for part in parts:
        states.append(_Randomness())
        with torch.set_grad_enabled(len(parts) == 1), autocast():
            first.append(_read(model, part, end))

    # Everybody gets all embeddings, and so the same loss and the gradient of each of them.
    table = torch.zeros(len(line), model.config.hidden_size, device=model.device)
    nll = torch.zeros((), device=model.device)
    for found in first:
        nll += found.nll.detach()
        for key, value in found.embeddings.items():
            table[line[key]] = value.detach()
    processes.add([table, nll])
    table.requires_grad_()
    terms = _contrasts(table, line, batch, weights)
    for name, loss in terms.items():
        (getattr(weights, name) * loss).backward()
    if tokens:
        terms["generation"] = nll / tokens

    for part, found, state in zip(parts, first, states, strict=True):
        if len(parts) > 1:
            state.restore()
            with autocast():
                found = _read(model, part, end)
        loss = found.nll * (weights.generation / max(tokens, 1))
        for key, value in found.embeddings.items():
            if table.grad is not None:
                loss = loss + (value * table.grad[line[key]]).sum()
        backward(loss)
    if processes.count > 1:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:  # of a process that had nothing to read
                parameter.grad = torch.zeros_like(parameter)
        processes.add([parameter.grad for parameter in learning if parameter.grad is not None])
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
            rows.append(_Row(TreeRow(batch.queries[i]), "query", i))
        if weights.generation and (response := batch.responses[i]):
            ids, unseen, start = batch.prompts[i]
            path = TreeRow([*ids, *response], unseen, start)
            rows.append(_Row(path, "response", i, len(response)))
        if i in grounded:
            rows.append(_Row(TreeRow(batch.anchors[i] or []), "anchor", i))
        if rows:
            trees.append(rows)
    if judged:
        trees += [[_Row(TreeRow(ids), "candidate", j)] for j, ids in enumerate(batch.candidates)]
    return trees + [[_Row(TreeRow(batch.targets[i] or []), "target", i)] for i in grounded]


def _parts(
    trees: Sequence[list[_Row]], tokens_at_once: int | None, processes: Processes
) -> list[list[list[_Row]]]:
    """The trees of one process, of like size together, a part at most so many tokens, or a tree."""
    sizes = [size([row.path for row in tree]) for tree in trees]
    parts: list[list[list[_Row]]] = []
    room = 0
    for i in processes.share(sizes):
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
    before: list[Tensor] = []
    labels: list[int] = []
    sessions = [tree for tree in part if tree[0].role not in ("candidate", "target")]
    texts = [tree for tree in part if tree[0].role in ("candidate", "target")]
    for trees in filter(None, (sessions, texts)):
        hidden, paths = _hidden(causal, trees, end)
        for row, (line, path) in zip((r for tree in trees for r in tree), paths, strict=True):
            if row.role == "response":
                before.append(hidden[line, path[-row.length - 1 : -1]])
                labels += row.path.ids[-row.length :]
            else:
                vector = hidden[line, path[-1]].float()
                embeddings[row.key] = functional.normalize(vector, dim=-1)
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
    packed = pack([[row.path for row in tree] for tree in trees], end, dtype, causal.device)
    states = causal.base_model(
        input_ids=packed.ids,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    )
    return states.last_hidden_state, packed.paths


def _contrasts(
    table: Tensor, line: dict[Key, int], batch: Batch, weights: Weights
) -> dict[str, Tensor]:
    """L_R and L_CII over the embeddings of the whole batch.

    Args:
        table: (K, d) embeddings.
        line: of each embedding in it.
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
    if grounded := sorted(place for role, place in line if role == "anchor"):
        found["cii"] = info_nce(
            of("anchor", grounded),
            of("target", grounded),
            torch.arange(len(grounded), device=table.device),
            batch.distinct[grounded][:, grounded].to(table.device),
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
