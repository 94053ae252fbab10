"""Batched greedy decoding. Knows a causal model and token ids; nothing of turns or prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def greedy(
    model: Any,
    rows: Sequence[Sequence[int]],
    *,
    end: int,
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """(index into `rows`, generated ids without the end token), longest prompts first.

    Rows are padded on the left: the next token must follow the last prompt token of every row.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = len(rows[batch[0]])
        ids = torch.full((len(batch), longest), end, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, index in enumerate(batch):
            ids[place, longest - len(rows[index]) :] = torch.tensor(rows[index])
            mask[place, longest - len(rows[index]) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )
        for index, tokens in zip(batch, output[:, longest:].tolist(), strict=True):
            yield index, tokens[: tokens.index(end)] if end in tokens else tokens
