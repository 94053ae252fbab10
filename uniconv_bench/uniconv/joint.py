"""The joint loss in one pass: gradients of `losses.loss_terms`, with every session read once.

A turn's retrieval query, prompt with response, and grounded anchor begin with the same session, so
they are one tree (see `tree`). A contrast needs all embeddings of a batch at once, yet activations
need be held for a part of it only: embeddings are made first, the loss gives their gradients, and
each part runs again to carry those back (GradCache, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.uniconv.losses import (
    Batch,
    Weights,
    cii_loss,
    in_places,
    info_nce,
    similarity_kl,
)
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.tree import Path, pack, size
from uniconv_bench.uniconv.tree import Row as TreeRow

Role = Literal["query", "candidate", "anchor", "target", "pair", "response", "filler"]
Key = tuple[Role, int]
"""What an embedding or a likelihood is of: its role, and its place in the batch's list."""
SPOKEN = ("pair", "response")
TEXTS = ("candidate", "target")
"""Roles whose trees are short texts; those of all others hold a session."""
ALONE = Processes()


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a tree; of a `response` or `pair` its last `length` tokens are to be predicted."""

    path: TreeRow
    role: Role
    place: int
    length: int = 0

    @property
    def key(self) -> Key:
        """Names its embedding, or its likelihood."""
        return self.role, self.place


class _Found(NamedTuple):
    values: dict[Key, Tensor]
    """Embeddings (d), and of pairs the mean log-likelihoods a token ()."""
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

    Where the model is spread over the processes, each makes as many passes as the busiest one.

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
    work = _Work(batch, weights, tokens_at_once, processes, end)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            # Made before any activation: among those it would keep their memory in pieces.
            parameter.grad = torch.zeros_like(parameter)
    values = _Values(work, model)
    states: list[_Randomness] = []
    found: _Found | None = None
    for part in work.parts:
        states.append(_Randomness())
        with torch.set_grad_enabled(len(work.parts) == 1), autocast():
            found = _read(model, part, end)
        values.put(found)
    processes.add([values.table, values.scores, values.nll])
    leaves = [values.table.requires_grad_(), values.scores.requires_grad_()]
    terms = values.contrasts(batch, weights)
    for name, loss in terms.items():
        (getattr(weights, name) * loss).backward()
    if work.tokens:
        terms["generation"] = values.nll / work.tokens
    back = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    for part, state in zip(work.parts, states, strict=True):
        if len(work.parts) > 1 or found is None:
            state.restore()
            with autocast():
                found = _read(model, part, end)
        loss = found.nll * (weights.generation / max(work.tokens, 1))
        for key, value in found.values.items():
            loss = loss + (value * work.place(key, *back)).sum()
        backward(loss)
        found = None
    processes.add([parameter.grad for parameter in learning if parameter.grad is not None])
    return {name: loss.item() for name, loss in terms.items()}


@torch.no_grad()
def joint_loss(
    model: Any,
    batch: Batch,
    weights: Weights,
    end: int,
    *,
    tokens_at_once: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Each term's value as of `joint_step`, and no gradients."""
    work = _Work(batch, weights, tokens_at_once, processes, end)
    values = _Values(work, model)
    for part in work.parts:
        with autocast():
            values.put(_read(model, part, end))
    processes.add([values.table, values.scores, values.nll])
    terms = values.contrasts(batch, weights)
    if work.tokens:
        terms["generation"] = values.nll / work.tokens
    return {name: loss.item() for name, loss in terms.items()}


class _Work:
    """What is to be read of a batch.

    Attributes:
        line: of each embedding of the batch, in a table of all.
        pairs: how many likelihoods there are beside.
        tokens: of all responses.
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
        trees = _trees(batch, weights)
        rows = [row for tree in trees for row in tree]
        keys = [row.key for row in rows if row.role not in SPOKEN]
        self.pairs = len(batch.pairs)
        self.tokens = sum(row.length for row in rows if row.role == "response")
        self.parts = _parts(trees, tokens_at_once, processes)
        if processes.sharded:
            everybody = [replace(processes, rank=rank) for rank in range(processes.count)]
            most = max(len(_parts(trees, tokens_at_once, each)) for each in everybody)
            self.parts += [[] for _ in range(most - len(self.parts))]
            self.parts = [_filled(part, end) for part in self.parts]
            keys += [("filler", 0), ("filler", 1)]
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

    def __init__(self, work: _Work, model: Any):
        self._work = work
        self.table = torch.zeros(len(work.line), model.config.hidden_size, device=model.device)
        self.scores = torch.zeros(work.pairs, device=model.device)
        self.nll = torch.zeros((), device=model.device)

    def put(self, found: _Found) -> None:
        """What a part has."""
        self.nll += found.nll.detach()
        for key, value in found.values.items():
            self._work.place(key, self.table, self.scores).copy_(value.detach())

    def contrasts(self, batch: Batch, weights: Weights) -> dict[str, Tensor]:
        """L_R and L_CII."""
        return _contrasts(self.table, self.scores, self._work.line, batch, weights)


def _trees(batch: Batch, weights: Weights) -> list[list[_Row]]:
    """A tree a turn, then one a text that contrasts embed beside the sessions."""
    turns = range(len(batch.queries))
    compares = weights.retrieval or weights.distillation
    judged = [i for i in turns if compares and batch.positives[i] is not None]
    embeds = weights.cii_score == "embedding"
    trees: list[list[_Row]] = [[] for _ in turns]
    for i in turns:
        if i in judged:
            trees[i].append(_Row(TreeRow(batch.queries[i]), "query", i))
        if weights.generation and (response := batch.responses[i]):
            ids, unseen, start = batch.prompts[i]
            path = TreeRow([*ids, *response], unseen, start)
            trees[i].append(_Row(path, "response", i, len(response)))
    if weights.cii and batch.contrasts:
        if embeds:
            for k, anchor in enumerate(batch.anchors):
                trees[anchor.turn].append(_Row(TreeRow(anchor.ids), "anchor", k))
        for k, (place, target) in enumerate([] if embeds else batch.pairs):
            anchor, ids = batch.anchors[place], batch.targets[target]
            path = TreeRow([*anchor.ids, *ids])
            trees[anchor.turn].append(_Row(path, "pair", k, len(ids)))
    trees = [tree for tree in trees if tree]
    if judged:
        trees += [[_Row(TreeRow(ids), "candidate", j)] for j, ids in enumerate(batch.candidates)]
    if weights.cii and batch.contrasts and embeds:
        trees += [[_Row(TreeRow(ids), "target", k)] for k, ids in enumerate(batch.targets)]
    return trees


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


def _filled(part: list[list[_Row]], end: int) -> list[list[_Row]]:
    """A part with a tree more of each kind, which no loss depends on: it takes two passes."""
    return [*part, [_Row(TreeRow([end]), "filler", 0)], [_Row(TreeRow([end]), "filler", 1)]]


def _is_text(tree: list[_Row]) -> bool:
    """Short, and not a session."""
    return tree[0].role in TEXTS or tree[0].key == ("filler", 1)


def _read(model: Any, part: Sequence[list[_Row]], end: int) -> _Found:
    """Embeddings and likelihoods of some trees; sessions and mere texts are of unlike size."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    values: dict[Key, Tensor] = {}
    spoken: list[_Row] = []
    before: list[Tensor] = []
    sessions = [tree for tree in part if not _is_text(tree)]
    texts = [tree for tree in part if _is_text(tree)]
    for trees in filter(None, (sessions, texts)):
        hidden, paths = _hidden(causal, trees, end)
        for row, (line, path) in zip((r for tree in trees for r in tree), paths, strict=True):
            if row.role in SPOKEN:
                spoken.append(row)
                before.append(hidden[line, path[-row.length - 1 : -1]])
            else:
                vector = hidden[line, path[-1]].float()
                values[row.key] = functional.normalize(vector, dim=-1)
    nll = torch.zeros((), device=causal.device)
    if spoken:
        labels = [token for row in spoken for token in row.path.ids[-row.length :]]
        logits = causal.get_output_embeddings()(torch.cat(before)).float()
        target = torch.tensor(labels, device=causal.device)
        each = functional.cross_entropy(logits, target, reduction="none")
        for row, losses in zip(spoken, torch.split(each, [r.length for r in spoken]), strict=True):
            if row.role == "response":
                nll = nll + losses.sum()
            else:
                values[row.key] = -losses.mean()
    return _Found(values, nll)


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
