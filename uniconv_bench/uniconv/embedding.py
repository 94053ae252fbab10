"""A text's embedding: the last-layer hidden state at the end token that closes it, unit length.

Training and retrieval share it. Knows tensors and a decoder; nothing of losses or indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.reader import base_of


def padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (B, longest), padded on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)


def hidden_states(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Last-layer hidden states (B, longest, d) of right-padded rows, without the language head."""
    causal = base_of(model)
    ids, mask = padded(rows, pad, causal.device)
    states: Tensor = causal.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return states


def embed(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Embeddings (B, d): the hidden state at each row's last token, L2-normalised, float32."""
    states = hidden_states(model, rows, pad)
    last = torch.tensor([len(row) - 1 for row in rows], device=states.device)
    pooled = states[torch.arange(len(rows), device=states.device), last]
    return unit(pooled)


def unit(states: Tensor) -> Tensor:
    """States (B, d) as embeddings: unit length, float32."""
    return functional.normalize(states.float(), dim=-1)
