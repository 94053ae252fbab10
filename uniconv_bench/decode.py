"""Batched decoding. Knows a causal model and prompts; nothing of turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from uniconv_bench.prompts import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    Choose = Callable[[Tensor], Tensor]  # logits (B, vocabulary) to tokens (B,)


def greedy(
    model: Any, prompts: Sequence[Prompt], *, end: int, max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """(index into `prompts`, generated ids without the end token), longest prompts first."""
    return _in_batches(model, prompts, end, max_new_tokens, batch_size, _likeliest)


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def sampled(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    end: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[int, list[int]]]:
    """As `greedy`, each token drawn by its probability; the same for the same batches."""
    import torch

    drawing = torch.Generator(model.device).manual_seed(seed)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial(logits.float().softmax(-1), 1, generator=drawing)[:, 0]

    return _in_batches(model, prompts, end, max_new_tokens, batch_size, draw)


def _in_batches(
    model: Any, prompts: Sequence[Prompt], end: int, limit: int, size: int, choose: Choose
) -> Iterator[tuple[int, list[int]]]:
    import torch

    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    for first in range(0, len(order), size):
        batch = order[first : first + size]
        with torch.inference_mode():
            rows = _continued(model, [prompts[i] for i in batch], end, limit, choose)
        for index, tokens in zip(batch, rows, strict=True):
            yield index, tokens[: tokens.index(end)] if end in tokens else tokens


def _continued(
    model: Any, prompts: Sequence[Prompt], end: int, limit: int, choose: Choose
) -> list[list[int]]:
    """What follows each prompt, until all have ended."""
    import torch

    reader = _Reader(model, len(prompts), end)
    if any(prompt.unseen for prompt in prompts):
        # What later tokens do not see is read, and its keys and values are dropped.
        reader.read([prompt.ids[: prompt.start] for prompt in prompts])
        reader.forget([prompt.start - prompt.unseen for prompt in prompts])
    logits = reader.read([prompt.ids[prompt.start :] for prompt in prompts])
    found: list[Tensor] = []
    open_rows = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    while True:
        token = choose(logits)
        found.append(token)
        open_rows &= token != end
        if len(found) == limit or not open_rows.any():
            return torch.stack(found, 1).tolist()
        logits = reader.go_on(token)


class _Reader:
    """A batch of rows read piece by piece.

    Pieces are padded on the left: the next token must follow the last one of every row.
    """

    def __init__(self, model: Any, count: int, pad: int):
        import torch
        from transformers import DynamicCache

        self._model, self._pad = model, pad
        self._cache: Any = DynamicCache()
        self._seen = torch.zeros((count, 0), dtype=torch.long, device=model.device)
        self._read = torch.zeros(count, dtype=torch.long, device=model.device)

    def read(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, vocabulary) after each row's piece."""
        import torch

        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[place, longest - len(row) :] = 1
        return self._forward(ids.to(self._model.device), mask.to(self._model.device))

    def go_on(self, tokens: Tensor) -> Tensor:
        """Logits (B, vocabulary) after one more token a row."""
        import torch

        return self._forward(tokens[:, None], torch.ones_like(tokens)[:, None])

    def forget(self, kept: Sequence[int]) -> None:
        """Keys and values of all but the last tokens of a row: as many in every row."""
        (last,) = set(kept)
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, -last:], layer.values[:, :, -last:]
        self._seen = self._seen[:, -last:]

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        import torch

        self._seen = torch.cat([self._seen, mask], 1)
        positions = self._read[:, None] + (mask.cumsum(1) - 1).clamp(min=0)
        self._read = self._read + mask.sum(1)
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._seen,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits
