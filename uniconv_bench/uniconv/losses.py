"""L = L_R + L_G + alpha * L_CII as three plain passes over one batch of turns: the reference form.

Training takes the one-pass form in `joint`, whose gradients are tested against these.

Knows tensors and a decoder; nothing of tasks or training loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.conversation import Passage
from uniconv_bench.prompts import Prompt
from uniconv_bench.reader import base_of
from uniconv_bench.training_cards import CiiScore
from uniconv_bench.uniconv.embedding import embed, hidden_states


class Anchor(NamedTuple):
    """Session and passage that L_CII asks for their response, and whose turn's session it is."""

    turn: int
    ids: list[int]


Pair = tuple[int, int]
"""Positions of an anchor and of a target."""


class Contrast(NamedTuple):
    """What L_CII tells apart for one turn."""

    right: Pair
    wrong: list[Pair]


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
        anchors: of L_CII: to be embedded, or to be gone on from, as its score asks.
        targets: responses: texts to embed, or what goes on from an anchor.
        contrasts: of the turns that have a right and a wrong pair of those.
        passages: what `candidates` are the ids of.
        teacher: (B, N) float32, another system's similarities of turns and candidates, if any.
        masked: name -> share of what could be contrasted that is a false negative, and left out.
    """

    queries: list[list[int]]
    positives: list[int | None]
    candidates: list[list[int]]
    allowed: Tensor
    prompts: list[Prompt]
    responses: list[list[int] | None]
    anchors: list[Anchor]
    targets: list[list[int]]
    contrasts: list[Contrast]
    passages: tuple[Passage, ...] = ()
    teacher: Tensor | None = None
    masked: dict[str, float] = field(default_factory=dict)

    @property
    def pairs(self) -> list[Pair]:
        """Those that L_CII scores, each once."""
        both = (pair for one in self.contrasts for pair in (one.right, *one.wrong))
        return list(dict.fromkeys(both))


@dataclass(frozen=True, slots=True)
class Weights:
    """Loss weights and temperatures; `cii` is alpha."""

    retrieval: float
    generation: float
    cii: float
    temperature: float
    cii_temperature: float
    cii_score: CiiScore = "embedding"
    distillation: float = 0.0
    distillation_temperature: float = 1.0


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


def cii_loss(scores: Tensor, contrasts: Sequence[Contrast], tau: float, score: CiiScore) -> Tensor:
    """L_CII in float32: -log softmax(score / tau) at the right pair, a mean over the contrasts.

    `pairwise` has -log sigmoid of the margin over each wrong pair in its place, a mean over those.

    Args:
        scores: (anchors, targets); only what contrasts name is read.
        contrasts: at least one.
        tau: temperature.
        score: what the scores are.
    """
    device = scores.device
    width = max(len(contrast.wrong) for contrast in contrasts)
    keep = torch.tensor([[k < len(c.wrong) for k in range(width)] for c in contrasts])
    wrong = [c.wrong + [c.right] * (width - len(c.wrong)) for c in contrasts]
    rows, columns = torch.tensor(wrong, device=device).unbind(-1)
    own_rows, own_columns = torch.tensor([c.right for c in contrasts], device=device).unbind(-1)
    with torch.autocast(device.type, enabled=False):
        scores = scores.float() / tau
        margins = scores[rows, columns] - scores[own_rows, own_columns][:, None]
        keep = keep.to(device)
        if score == "pairwise":
            each = functional.softplus(margins) * keep
            return (each.sum(1) / keep.sum(1)).mean()
        margins = margins.masked_fill(~keep, float("-inf"))
        return torch.cat([torch.zeros_like(margins[:, :1]), margins], 1).logsumexp(1).mean()


def similarity_kl(queries: Tensor, candidates: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Mean over turns of KL(softmax(teacher / tau) || softmax(cos / tau)), in float32.

    Args:
        queries: (B, d), unit length.
        candidates: (N, d), unit length.
        teacher: (B, N) similarities.
        tau: temperature of both.
    """
    with torch.autocast(queries.device.type, enabled=False):
        own = functional.log_softmax(queries.float() @ candidates.float().T / tau, -1)
        wanted = functional.log_softmax(teacher.float() / tau, -1)
        return functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


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
    causal = base_of(model)
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
    if (weights.retrieval or weights.distillation) and judged:
        positive = torch.tensor([batch.positives[i] for i in judged], device=device)
        queries = embed(model, [batch.queries[i] for i in judged], pad)
        candidates = embed(model, batch.candidates, pad)
        allowed = batch.allowed[judged].to(device)
        loss = info_nce(queries, candidates, positive, allowed, weights.temperature)
        yield "retrieval", weights.retrieval, loss
        if batch.teacher is not None:
            teacher = batch.teacher[judged].to(device)
            # Its own graph: each term runs backward by itself.
            queries = embed(model, [batch.queries[i] for i in judged], pad)
            candidates = embed(model, batch.candidates, pad)
            loss = similarity_kl(queries, candidates, teacher, weights.distillation_temperature)
            yield "distillation", weights.distillation, loss
    answered = [(p, r) for p, r in zip(batch.prompts, batch.responses, strict=True) if r]
    if weights.generation and answered:
        # Like lengths together, so that little is padded.
        answered.sort(key=lambda pair: len(pair[0].ids) + len(pair[1]))
        tokens = sum(len(response) for _, response in answered)
        for start in range(0, len(answered), turns_at_once):
            prompts, responses = zip(*answered[start : start + turns_at_once], strict=True)
            total = response_nll(model, list(prompts), list(responses), pad)
            yield "generation", weights.generation, total / tokens
    if weights.cii and batch.contrasts:
        if weights.cii_score == "embedding":
            anchors = embed(model, [anchor.ids for anchor in batch.anchors], pad)
            with torch.autocast(device.type, enabled=False):
                scores = anchors @ embed(model, batch.targets, pad).T
        else:
            likelihoods = []
            for anchor, target in batch.pairs:
                prompt, response = Prompt(batch.anchors[anchor].ids), batch.targets[target]
                likelihoods.append(-response_nll(model, [prompt], [response], pad) / len(response))
            scores = in_places(torch.stack(likelihoods), batch)
        loss = cii_loss(scores, batch.contrasts, weights.cii_temperature, weights.cii_score)
        yield "cii", weights.cii, loss


def in_places(scores: Tensor, batch: Batch) -> Tensor:
    """(anchors, targets) with the (P,) scores of a batch's pairs in their places, 0 elsewhere."""
    places = torch.tensor(batch.pairs, device=scores.device).unbind(-1)
    return scores.new_zeros(len(batch.anchors), len(batch.targets)).index_put(places, scores)
