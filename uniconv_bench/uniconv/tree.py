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

Rows = Sequence[Sequence[int]]


class Packed(NamedTuple):
    """Trees side by side in the rows of one batch; trees do not see each other.

    Attributes:
        ids: (B, width) token ids.
        positions: (B, width) depth of each node.
        mask: (B, 1, width, width), 0 where a node attends to another, else the dtype's lowest
            number. Added to scores: boolean masks of four dimensions are ignored by some kernels.
        paths: of each row of each tree, in the order given: its batch row and the nodes of its
            tokens in it.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    paths: list[tuple[int, list[int]]]


def size(rows: Rows) -> int:
    """Number of nodes of the tree of some rows."""
    return len(_grown(rows).tokens)


def pack(trees: Sequence[Rows], pad: int, dtype: torch.dtype, device: Any) -> Packed:
    """Trees, each of rows that may begin alike, as one batch no wider than its largest tree.

    Args:
        trees: rows of at least one token.
        pad: id of the nodes that fill a row up; they attend to themselves.
        dtype: of the mask: that in which the model computes attention.
        device: where the tensors go.
    """
    grown = [_grown(rows) for rows in trees]
    width = max(len(tree.tokens) for tree in grown)
    places = _placed([len(tree.tokens) for tree in grown], width)
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
    total = sum(map(len, rows))
    seen = torch.zeros((total, total), dtype=torch.bool)
    for row in rows:
        trunk: list[int] = []
        for path in paths:
            shared = _shared(row, [tokens[node] for node in path])
            if shared > len(trunk):
                trunk = path[:shared]
        start, stop = len(tokens), len(tokens) + len(row) - len(trunk)
        tokens += row[len(trunk) :]
        depths += range(len(trunk), len(row))
        seen[start:stop, trunk] = True
        seen[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
        paths.append([*trunk, *range(start, stop)])
    return _Tree(tokens, depths, seen[: len(tokens), : len(tokens)], paths)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _placed(sizes: Sequence[int], width: int) -> list[tuple[int, int]]:
    """(row, first node) of each tree: the largest first, each in the first row it fits into."""
    used: list[int] = []
    places = [(0, 0)] * len(sizes)
    for tree in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        row = next((r for r, taken in enumerate(used) if taken + sizes[tree] <= width), len(used))
        if row == len(used):
            used.append(0)
        places[tree] = (row, used[row])
        used[row] += sizes[tree]
    return places
