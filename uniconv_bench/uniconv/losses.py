"""L = L_R + L_G + alpha * L_CII as three plain passes over one batch of turns: the reference form.

Training takes the one-pass form in `joint`, whose gradients are tested against these.

Knows tensors and a decoder; nothing of tasks, cards or training loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.prompts import Prompt
from uniconv_bench.uniconv.embedding import embed, hidden_states


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids of one optimiser step. Lists of B turns; a turn may lack a passage or a response.

    Attributes:
        queries: sessions closed by the end token, for L_R.
        positives: position of each turn's gold passage in `candidates`; None without one.
        candidates: N passages (gold of all turns, then hard negatives), closed by the end token.
        allowed: (B, N) bool; False where a candidate is a false negative of the turn.
        prompts: inputs of the generator, for L_G.
        responses: what it should write; None without one.
        anchors: session and gold passage closed by the end token, for L_CII; None without both.
        targets: responses as texts to embed, parallel to `anchors`.
        distinct: (B, B) bool; False where two responses are the same text.
    """

    queries: list[list[int]]
    positives: list[int | None]
    candidates: list[list[int]]
    allowed: Tensor
    prompts: list[Prompt]
    responses: list[list[int] | None]
    anchors: list[list[int] | None]
    targets: list[list[int] | None]
    distinct: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of all inputs."""
        lists = (self.queries, self.candidates, [prompt.ids for prompt in self.prompts])
        optional = (self.responses, self.anchors, self.targets)
        return sum(len(ids) for rows in (*lists, *optional) for ids in rows if ids is not None)


@dataclass(frozen=True, slots=True)
class Weights:
    """Loss weights and temperatures; `cii` is alpha."""

    retrieval: float
    generation: float
    cii: float
    temperature: float
    cii_temperature: float


def info_nce(
    queries: Tensor, candidates: Tensor, positive: Tensor, allowed: Tensor, tau: float
) -> Tensor:
    """Mean of -log softmax(cos / tau) at the positive, in float32 whatever autocast says.

    At tau = 0.01 a cosine rounded to bfloat16 moves its logit by up to 0.2.

    Args:
        queries: (B, d), unit length.
        candidates: (N, d), unit length.
        positive: (B,) column of each row's positive.
        allowed: (B, N) bool; False removes a column from a row's denominator (never the positive).
        tau: temperature.
    """
    keep = allowed.clone()
    keep[torch.arange(len(positive), device=keep.device), positive] = True
    with torch.autocast(queries.device.type, enabled=False):
        scores = (queries.float() @ candidates.float().T) / tau
        return functional.cross_entropy(scores.masked_fill(~keep, float("-inf")), positive)


def response_nll(model: Any, prompts: list[Prompt], responses: list[list[int]], pad: int) -> Tensor:
    """Negative log-likelihood of the responses, summed over their tokens."""
    if any(prompt.unseen for prompt in prompts):
        states = [masked_states(model, p, r) for p, r in zip(prompts, responses, strict=True)]
    else:
        rows = [[*p.ids, *r] for p, r in zip(prompts, responses, strict=True)]
        states = list(hidden_states(model, rows, pad))
    before, labels = [], []
    for state, prompt, response in zip(states, prompts, responses, strict=True):
        # The state at position t predicts token t + 1; the language head runs on those alone.
        before.append(state[len(prompt.ids) - 1 : len(prompt.ids) + len(response) - 1])
        labels += response
    logits = model.get_output_embeddings()(torch.cat(before)).float()
    target = torch.tensor(labels, device=logits.device)
    return functional.cross_entropy(logits, target, reduction="sum")


def masked_states(model: Any, prompt: Prompt, response: list[int]) -> Tensor:
    """Last-layer states (length, d) under a session mask: what is not seen is cut from the cache.

    Those before `prompt.start` predict no response and are left 0.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.tensor([[*prompt.ids, *response]], device=causal.device)
    head = causal.base_model(input_ids=ids[:, : prompt.start], use_cache=True).past_key_values
    for layer in head.layers:
        layer.keys, layer.values = (
            layer.keys[:, :, prompt.unseen :],
            layer.values[:, :, prompt.unseen :],
        )
    positions = torch.arange(prompt.start, ids.shape[1], device=causal.device)[None]
    seen = torch.ones(1, ids.shape[1] - prompt.unseen, dtype=torch.long, device=causal.device)
    tail = causal.base_model(
        input_ids=ids[:, prompt.start :],
        attention_mask=seen,
        position_ids=positions,
        past_key_values=head,
        use_cache=True,
    ).last_hidden_state[0]
    return torch.cat([tail.new_zeros(prompt.start, tail.shape[1]), tail])


def loss_terms(
    model: Any, batch: Batch, weights: Weights, pad: int, turns_at_once: int = 8
) -> Iterator[tuple[str, float, Tensor]]:
    """(name, weight, loss) of every term, one forward pass after the other.

    The terms add up, so a caller that runs backward on each before asking for the next has the
    gradients of the joint loss at the memory of its largest term. L_G is a mean over the response
    tokens of the whole batch, brought in parts of `turns_at_once` turns. A term whose supervision
    the batch lacks is left out.
    """
    device = model.device
    judged = [i for i, position in enumerate(batch.positives) if position is not None]
    if weights.retrieval and judged:
        positive = torch.tensor([batch.positives[i] for i in judged], device=device)
        queries = embed(model, [batch.queries[i] for i in judged], pad)
        candidates = embed(model, batch.candidates, pad)
        allowed = batch.allowed[judged].to(device)
        loss = info_nce(queries, candidates, positive, allowed, weights.temperature)
        yield "retrieval", weights.retrieval, loss
    answered = [(p, r) for p, r in zip(batch.prompts, batch.responses, strict=True) if r]
    if weights.generation and answered:
        # Like lengths together, so that little is padded.
        answered.sort(key=lambda pair: len(pair[0].ids) + len(pair[1]))
        tokens = sum(len(response) for _, response in answered)
        for start in range(0, len(answered), turns_at_once):
            prompts, responses = zip(*answered[start : start + turns_at_once], strict=True)
            total = response_nll(model, list(prompts), list(responses), pad)
            yield "generation", weights.generation, total / tokens
    grounded = [i for i, anchor in enumerate(batch.anchors) if anchor is not None]
    if weights.cii and len(grounded) > 1:
        anchors = embed(model, [batch.anchors[i] or [] for i in grounded], pad)
        targets = embed(model, [batch.targets[i] or [] for i in grounded], pad)
        allowed = batch.distinct[grounded][:, grounded].to(device)
        own = torch.arange(len(grounded), device=device)
        loss = info_nce(anchors, targets, own, allowed, weights.cii_temperature)
        yield "cii", weights.cii, loss
