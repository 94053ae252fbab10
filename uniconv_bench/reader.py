"""A causal model that reads rows of tokens piece by piece, keeping keys and values.

Knows tensors and prompts; not how tokens are chosen, nor what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from uniconv_bench.prompts import Prompt

ROOM = 64
"""Tokens that keys and values can grow by before they are copied."""
TOGETHER = 16
"""Prompts read at once; more would be no quicker, and padded to the longest of more."""


class Reader:
    """A batch of rows read piece by piece.

    Pieces are padded on the left: the next token must follow the last one of every row.

    Args:
        model: a causal model, with adapters or without.
        rows: how many.
    """

    def __init__(self, model: Any, rows: int = 1):
        self.model = model
        self._cache = Cache(layer_class_to_replicate=_Layer)
        self._seen = torch.zeros((rows, 0), dtype=torch.long, device=model.device)
        self._read = torch.zeros(rows, dtype=torch.long, device=model.device)

    def prompts(self, prompts: Sequence[Prompt], known: int = 0) -> Tensor:
        """Logits (B, vocabulary) after each row's prompt.

        Args:
            prompts: all of them with the same number of tokens that stay in view, or none hidden.
            known: tokens of each that are read already, at most up to its `start`.
        """
        if any(prompt.unseen for prompt in prompts):
            # What later tokens do not see is read, and its keys and values are dropped.
            if any(known < prompt.start for prompt in prompts):
                self.read([prompt.ids[known : prompt.start] for prompt in prompts])
            (kept,) = {prompt.start - prompt.unseen for prompt in prompts}
            self._forget(kept)
            return self.read([prompt.ids[prompt.start :] for prompt in prompts])
        return self.read([prompt.ids[known:] for prompt in prompts])

    def join(self, others: Sequence[Reader]) -> None:
        """The rows of other readers of the model come after its own; they are used up."""
        readers = [self, *others]
        longest = max(reader._seen.shape[1] for reader in readers)
        self._seen = torch.cat([_padded(reader._seen, longest, 1) for reader in readers])
        self._read = torch.cat([reader._read for reader in readers])
        for layer in self._cache.layers:
            assert isinstance(layer, _Layer)
            # Layer by layer, so that no more than one of them is held twice.
            layer.join([other._cache.layers.pop(0) for other in others])  # type: ignore[misc]

    def read(self, rows: Sequence[Sequence[int]], *, states: bool = False) -> Tensor:
        """Logits (B, vocabulary) after each row's piece, or the last layer's states (B, d)."""
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[place, longest - len(row) :] = 1
        return self._forward(ids.to(self.model.device), mask.to(self.model.device), states)

    def keep(self, rows: Sequence[int]) -> None:
        """These rows alone go on."""
        chosen = torch.tensor(rows, device=self._seen.device)
        self._cache.batch_select_indices(chosen)
        self._seen, self._read = self._seen[chosen], self._read[chosen]

    def take_back(self, tokens: int) -> None:
        """As if a row's last tokens had not been read; there is one row."""
        self._cache.crop(-tokens)
        self._seen = self._seen[:, : self._seen.shape[1] - tokens]
        self._read = self._read - tokens

    def _forget(self, kept: int) -> None:
        """Keys and values of all but the last tokens."""
        for layer in self._cache.layers:
            assert isinstance(layer, _Layer)
            layer.forget(kept)
        self._seen = self._seen[:, -kept:]

    @torch.inference_mode()
    def _forward(self, ids: Tensor, mask: Tensor, states: bool) -> Tensor:
        self._seen = torch.cat([self._seen, mask], 1)
        positions = self._read[:, None] + (mask.cumsum(1) - 1).clamp(min=0)
        self._read = self._read + mask.sum(1)
        given = {
            "input_ids": ids,
            "attention_mask": self._seen,
            "position_ids": positions,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if not states:
            logits: Tensor = self.model(**given, logits_to_keep=1).logits[:, -1]
            return logits
        found: Tensor = base_of(self.model).base_model(**given).last_hidden_state[:, -1]
        return found


def base_of(model: Any) -> Any:
    """A decoder itself, without what peft put around it; its adapters stay in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def read_prompts(model: Any, prompts: Sequence[Prompt]) -> tuple[Reader, Tensor]:
    """A reader that has read prompts, and the logits (B, vocabulary) after each.

    Args:
        prompts: as of `Reader.prompts`; those of like length had better be neighbours.
    """
    readers, logits = [], []
    for start in range(0, len(prompts), TOGETHER):
        group = prompts[start : start + TOGETHER]
        readers.append(Reader(model, len(group)))
        logits.append(readers[-1].prompts(group))
    reader, *others = readers
    if others:
        reader.join(others)
    return reader, torch.cat(logits)


class Memory:
    """One row at a time: what an input shares with the one before it is not read again.

    Args:
        model: a causal model.
    """

    def __init__(self, model: Any):
        self.model = model
        self._reader, self._ids = Reader(model), list[int]()

    def state(self, ids: Sequence[int]) -> Tensor:
        """The last layer's state (d,) at the last token."""
        known = self._shared(ids, len(ids) - 1)
        state: Tensor = self._reader.read([ids[known:]], states=True)[0]
        self._ids = list(ids)
        return state

    def prompt(self, prompt: Prompt) -> Tensor:
        """Logits (1, vocabulary) after a prompt."""
        known = self._shared(prompt.ids, prompt.start if prompt.unseen else len(prompt.ids) - 1)
        logits = self._reader.prompts([prompt], known)
        # What is dropped in the middle is no beginning of anything that comes later.
        self._ids = [] if prompt.unseen else list(prompt.ids)
        return logits

    def go_on(self, token: int) -> Tensor:
        """Logits (1, vocabulary) after one more token."""
        ids, self._ids = self._ids, []
        logits = self._reader.read([[token]])
        self._ids = [*ids, token] if ids else []
        return logits

    def _shared(self, ids: Sequence[int], most: int) -> int:
        """Goes back to what is known of a row: its first tokens, as many as were read last."""
        known, self._ids = self._ids, []  # until all is read: a reading may be broken off
        most = min(most, len(known))
        same = next((n for n in range(most) if ids[n] != known[n]), most)
        if same:
            self._reader.take_back(len(known) - same)
        else:
            self._reader = Reader(self.model)
        return same


class Memories:
    """A memory for each model: parts of a system with the same weights share one."""

    def __init__(self) -> None:
        self._of: list[Memory] = []

    def of(self, model: Any) -> Memory:
        """The model's."""
        found = next((memory for memory in self._of if memory.model is model), None)
        if found is None:
            found = Memory(model)
            self._of.append(found)
        return found


class _Layer(DynamicLayer):
    """Keys and values (B, heads, tokens, d) with room behind them: what comes is written there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends; gives all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return self._hold(key_states, value_states)
        keys, values = self._held()
        start, new = keys.shape[2], key_states.shape[2]
        if start + new > self._all[0].shape[2]:
            self._hold(keys, values, new)
        for whole, states in zip(self._all, (key_states, value_states), strict=True):
            whole[:, :, start : start + new] = states
        return self._show(start + new)

    def join(self, others: Sequence[_Layer]) -> None:
        """The rows of others come after its own; all are padded on the left."""
        held = [layer._held() for layer in (self, *others)]
        longest = max(keys.shape[2] for keys, _ in held)
        keys, values = (
            torch.cat([_padded(tensor, longest, 2) for tensor in of])
            for of in zip(*held, strict=True)
        )
        self._hold(keys, values)

    def batch_select_indices(self, indices: Tensor) -> None:
        """These rows alone."""
        keys, values = self._held()
        self._hold(keys[indices], values[indices])

    def forget(self, kept: int) -> None:
        """All but the last tokens."""
        keys, values = self._held()
        self._hold(keys[:, :, -kept:], values[:, :, -kept:])

    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _hold(self, keys: Tensor, values: Tensor, more: int = 0) -> tuple[Tensor, Tensor]:
        """Copies these, with room for so many more tokens and then some."""
        rows, heads, tokens, _ = keys.shape
        room = (rows, heads, tokens + more + ROOM)
        self._all = [given.new_empty(*room, given.shape[3]) for given in (keys, values)]
        for whole, given in zip(self._all, (keys, values), strict=True):
            whole[:, :, :tokens] = given
        return self._show(tokens)

    def _show(self, tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = (whole[:, :, :tokens] for whole in self._all)
        self.keys, self.values = keys, values
        return keys, values


def _padded(tensor: Tensor, tokens: int, dim: int) -> Tensor:
    """With zeros before it, so that there are that many tokens along a dimension."""
    shape = [*tensor.shape]
    shape[dim] = tokens - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim)
