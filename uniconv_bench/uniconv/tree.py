"""Rows of token ids that begin alike, packed as trees: what they share is read once.

A node is a token after all tokens before it; it attends to its own path from the root alone, and
its position is its depth. So a decoder's states at a row's nodes are those of the row by itself.
Knows tensors; nothing of what the rows mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


class Row(NamedTuple):
    """Token ids, of which those from `start` on do not see the first `unseen` ones."""

    ids: Sequence[int]
    unseen: int = 0
    start: int = 0


Rows = Sequence[Row]
Path = tuple[int, list[int]]
"""Of a row in a batch: the batch's row, and the nodes of its tokens in it."""
ATTENTION = 2000
"""Width at which attention costs about as much as all else in a layer of a small decoder."""
IN_ORDER = "sdpa_in_order"
PIECE = 256
"""Queries that attend at once where nodes are in order, so to few keys that come after them."""


class Packed(NamedTuple):
    """Trees side by side in the rows of one batch; trees do not see each other.

    Attributes:
        ids: (B, width) token ids.
        positions: (B, width) depth of each node.
        mask: (B, 1, width, width), 0 where a node attends to another, else the dtype's lowest
            number. Added to scores: boolean masks of four dimensions are ignored by some kernels.
        paths: of each row of each tree, in the order given.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    paths: list[Path]


def size(rows: Rows) -> int:
    """Number of nodes of the tree of some rows."""
    return len(_grown(rows).tokens)


def pack(trees: Sequence[Rows], pad: int, dtype: torch.dtype, device: Any) -> Packed:
    """Trees, each of rows that may begin alike, as one batch with little filled up.

    Args:
        trees: rows of at least one token.
        pad: id of the nodes that fill a row up; they attend to themselves.
        dtype: of the mask: that in which the model computes attention.
        device: where the tensors go.
    """
    grown = [_grown(rows) for rows in trees]
    width, places = _placed([len(tree.tokens) for tree in grown])
    count = 1 + max(row for row, _ in places)
    ids = torch.full((count, width), pad, dtype=torch.long)
    positions = torch.zeros((count, width), dtype=torch.long)
    seen = torch.eye(width, dtype=torch.bool).repeat(count, 1, 1)
    paths = []
    for tree, (row, first) in zip(grown, places, strict=True):
        span = slice(first, first + len(tree.tokens))
        ids[row, span] = torch.tensor(tree.tokens)
        positions[row, span] = torch.tensor(tree.depths)
        seen[row, span, span] = tree.seen
        paths += [(row, [first + node for node in path]) for path in tree.paths]
    mask = torch.zeros((count, 1, width, width), dtype=dtype)
    mask.masked_fill_(~seen[:, None], torch.finfo(dtype).min)
    return Packed(ids.to(device), positions.to(device), mask.to(device), paths)


class _Tree(NamedTuple):
    tokens: list[int]
    depths: list[int]
    seen: Tensor
    paths: list[list[int]]


def _grown(rows: Rows) -> _Tree:
    """The tree of some rows: each goes along with the earlier row that begins most like it."""
    tokens: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = []
    total = sum(len(row.ids) for row in rows)
    seen = torch.zeros((total, total), dtype=torch.bool)
    for row in rows:
        trunk: list[int] = []
        for other, path in zip(rows, paths, strict=False):
            shared = _shared(row.ids, [tokens[node] for node in path])
            for one in (row, other):
                if one.unseen:  # nodes that see less are nobody else's
                    shared = min(shared, one.start)
            if shared > len(trunk):
                trunk = path[:shared]
        start, stop = len(tokens), len(tokens) + len(row.ids) - len(trunk)
        tokens += row.ids[len(trunk) :]
        depths += range(len(trunk), len(row.ids))
        seen[start:stop, trunk] = True
        seen[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
        path = [*trunk, *range(start, stop)]
        if row.unseen:
            below = torch.tensor(path[row.start :])
            seen[below[:, None], torch.tensor(path[: row.unseen])] = False
        paths.append(path)
    return _Tree(tokens, depths, seen[: len(tokens), : len(tokens)], paths)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _placed(sizes: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """A width, and (row, first node) of each tree; the largest go first, each where it fits first.

    Of widths up to twice the largest tree the one whose batch costs least: tokens times what a
    layer does for each, of which attention's share grows with the width.
    """
    largest = max(sizes)
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    best: tuple[float, int, list[tuple[int, int]]] | None = None
    for width in range(largest, 2 * largest + 1, max(1, largest // 64)):
        used: list[int] = []
        places = [(0, 0)] * len(sizes)
        for tree in order:
            fits = (row for row, taken in enumerate(used) if taken + sizes[tree] <= width)
            row = next(fits, len(used))
            if row == len(used):
                used.append(0)
            places[tree] = (row, used[row])
            used[row] += sizes[tree]
        width = max(used)
        cost = len(used) * width * (1 + width / ATTENTION)
        if best is None or cost < best[0]:
            best = (cost, width, places)
    assert best is not None
    return best[1:]


def attend_in_order(model: Any) -> None:
    """Has a decoder skip, in passes that are told `in_order=True`, what no node of a tree sees.

    A node comes after all that it attends to. So a piece of the queries needs no keys beyond its
    end, and nearly half of the scores, which the mask would throw away, are not computed at all.
    Only decoders that compute attention by torch's `scaled_dot_product_attention` are changed.
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(IN_ORDER, _in_order)
        AttentionMaskInterface.register(IN_ORDER, sdpa_mask)
        model.config._attn_implementation = IN_ORDER


def _in_order(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    in_order: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    if attention_mask is None or not in_order:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    pieces = []
    for start in range(0, query.shape[2], PIECE):
        end = start + PIECE
        mask = attention_mask[:, :, start:end, :end]
        queries, keys, values = query[:, :, start:end], key[:, :, :end], value[:, :, :end]
        pieces.append(sdpa_attention_forward(module, queries, keys, values, mask, **options)[0])
    return torch.cat(pieces, dim=1), None
