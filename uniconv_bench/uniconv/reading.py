"""What the joint loss reads of a batch: trees of rows, in parts, each by one forward pass or two.

A turn's retrieval query, prompt with response, and grounded anchor begin with the same session, so
they are one tree (see `tree`); texts that are embedded beside the sessions are trees of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.reader import base_of
from uniconv_bench.uniconv.losses import Batch, Weights
from uniconv_bench.uniconv.processes import Processes
from uniconv_bench.uniconv.tree import Path, attend_in_order, pack
from uniconv_bench.uniconv.tree import Row as TreeRow

Role = Literal["query", "candidate", "anchor", "target", "pair", "response", "filler"]
Key = tuple[Role, int]
"""What an embedding or a likelihood is of: its role, and its place in the batch's list."""
SPOKEN = ("pair", "response")
"""Roles whose tokens are predicted; the others are embedded."""
TEXTS = ("candidate", "target")
"""Roles whose trees are short texts; those of all others hold a session."""
FILLERS: tuple[Key, ...] = (("filler", 0), ("filler", 1))
"""A session and a text that no loss depends on."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a tree, and what it is for.

    Of a `response` or `pair` the last `length` tokens are to be predicted.
    """

    path: TreeRow
    role: Role
    place: int
    length: int = 0

    @property
    def key(self) -> Key:
        """Names its embedding, or its likelihood."""
        return self.role, self.place


class Found(NamedTuple):
    """What was read of a part."""

    values: dict[Key, Tensor]
    """Embeddings (d), and of pairs the mean log-likelihoods a token ()."""
    nll: Tensor
    """Of the response tokens, summed."""


def trees_of(batch: Batch, weights: Weights) -> list[list[Row]]:
    """A tree a turn, then one a text that contrasts embed beside the sessions."""
    turns = range(len(batch.queries))
    compares = weights.retrieval or weights.distillation
    judged = [i for i in turns if compares and batch.positives[i] is not None]
    embeds = weights.cii_score == "embedding"
    trees: list[list[Row]] = [[] for _ in turns]
    for i in turns:
        if i in judged:
            trees[i].append(Row(TreeRow(batch.queries[i]), "query", i))
        if weights.generation and (response := batch.responses[i]):
            ids, unseen, start = batch.prompts[i]
            path = TreeRow([*ids, *response], unseen, start)
            trees[i].append(Row(path, "response", i, len(response)))
    if weights.cii and batch.contrasts:
        if embeds:
            for k, anchor in enumerate(batch.anchors):
                trees[anchor.turn].append(Row(TreeRow(anchor.ids), "anchor", k))
        for k, (place, target) in enumerate([] if embeds else batch.pairs):
            anchor, ids = batch.anchors[place], batch.targets[target]
            path = TreeRow([*anchor.ids, *ids])
            trees[anchor.turn].append(Row(path, "pair", k, len(ids)))
    trees = [tree for tree in trees if tree]
    if judged:
        trees += [[Row(TreeRow(ids), "candidate", j)] for j, ids in enumerate(batch.candidates)]
    if weights.cii and batch.contrasts and embeds:
        trees += [[Row(TreeRow(ids), "target", k)] for k, ids in enumerate(batch.targets)]
    return trees


def parts_of(
    trees: Sequence[list[Row]],
    sizes: Sequence[int],
    tokens_at_once: int | None,
    processes: Processes,
) -> list[list[list[Row]]]:
    """The trees of one process, of like size together, a part at most so many tokens, or a tree."""
    parts: list[list[list[Row]]] = []
    room = 0
    for i in processes.share(sizes):
        if not parts or (tokens_at_once is not None and sizes[i] > room):
            parts.append([])
            room = tokens_at_once or 0
        parts[-1].append(trees[i])
        room -= sizes[i]
    return parts


def filled(part: list[list[Row]], end: int) -> list[list[Row]]:
    """A part with a tree more of each kind, which no loss depends on: it takes two passes."""
    return [*part, *([Row(TreeRow([end]), *key)] for key in FILLERS)]


def _is_text(tree: list[Row]) -> bool:
    """Short, and not a session."""
    return tree[0].role in TEXTS or tree[0].key == FILLERS[1]


def read(model: Any, part: Sequence[list[Row]], end: int) -> Found:
    """Embeddings and likelihoods of some trees; sessions and mere texts are of unlike size."""
    causal = base_of(model)
    values: dict[Key, Tensor] = {}
    spoken: list[Row] = []
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
    return Found(values, nll)


def _hidden(causal: Any, trees: Sequence[list[Row]], end: int) -> tuple[Tensor, list[Path]]:
    """Last-layer states (B, width, d) of some trees in one batch, and where each row is in them."""
    kind = causal.device.type
    dtype = causal.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    packed = pack([[row.path for row in tree] for tree in trees], end, dtype, causal.device)
    attend_in_order(causal)
    states = causal.base_model(
        input_ids=packed.ids,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
        in_order=True,
    )
    return states.last_hidden_state, packed.paths
