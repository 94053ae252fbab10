"""Numbers for the failures that UniConv's paper warns of, each with what it means when it is bad:
retrieval collapse, ignored passages, forgetting. Knows a decoder and prompts, no training loop.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from uniconv_bench.prompts import Prompt, PromptFormat
from uniconv_bench.training_cards import Guards as Bounds
from uniconv_bench.training_cards import Training
from uniconv_bench.uniconv.embedding import embed, hidden_states
from uniconv_bench.uniconv.losses import response_nll
from uniconv_bench.uniconv.mixture import Example

T = TypeVar("T")
AT_ONCE = 8
"""Turns of a forward pass."""


class Guards:
    """Held-out turns and general chat, on which a decoder is watched.

    Args:
        examples: the turns.
        training: what retrieval asks and what answers see.
        form: of the backbone.
    """

    def __init__(self, examples: Sequence[Example], training: Training, form: PromptFormat):
        self._end = form.end
        mask = training.session_mask
        judged = [e for e in examples if e.targets]
        self._queries = [form.query(e.turn, training.retrieval_input) for e in judged]
        self._passages = [form.passage(e.targets[0]) for e in judged]
        grounded = [e for e in examples if e.grounds and e.response is not None]
        self._responses = [form.response(e.response or "") for e in grounded]
        self._shown = [form.prompt(e.turn, e.grounds[:1], mask) for e in grounded]
        self._hidden = [form.prompt(e.turn, [], mask) for e in grounded]
        said = chat()
        self._asked = [form.chat(user) for user, _ in said]
        self._replies = [form.response(assistant) for _, assistant in said]

    @torch.no_grad()
    def measure(self, model: Any, before: Mapping[str, float] | None) -> dict[str, float]:
        """Number -> value; those of retrieval or grounding are left out where no turn has any.

        `session_variance`, `passage_variance`: of unit embeddings about their mean, 0 when all are
        the same and 1 at most. `alignment`: mean squared distance of a session from its passage
        (Wang and Isola, arXiv 2005.10242); `alignment_gap`: how much farther the other turns'
        passages are. `text_for_end`: share of sessions after which the decoder would go on with
        text where its input has the end token that makes the embedding. `passage_gain`: by how
        much the response is likelier with its passage than without. `chat_nll`: negative
        log-likelihood of general chat; `forgetting`: its rise. Likelihoods are in nats a token.

        Args:
            model: the decoder, in evaluation mode.
            before: what was measured before training; None: this is it.
        """
        found: dict[str, float] = {}
        if len(self._queries) > 1:
            found |= self._retrieval(model)
        if self._responses:
            without = self._nll(model, self._hidden, self._responses)
            found["passage_gain"] = without - self._nll(model, self._shown, self._responses)
        found["chat_nll"] = self._nll(model, self._asked, self._replies)
        found["forgetting"] = found["chat_nll"] - (before or found)["chat_nll"]
        return found

    def _retrieval(self, model: Any) -> dict[str, float]:
        read = [self._read(model, rows) for rows in _chunks(self._queries)]
        sessions = torch.cat([embeddings for embeddings, _ in read])
        passages = torch.cat([embed(model, rows, self._end) for rows in _chunks(self._passages)])
        distances = torch.cdist(sessions, passages).square()
        same = torch.tensor([[a == b for b in self._passages] for a in self._passages])
        others = distances.cpu()[~same]
        alignment = distances.diagonal().mean().item()
        found = {
            "session_variance": _variance(sessions),
            "passage_variance": _variance(passages),
            "alignment": alignment,
            "text_for_end": sum(texts for _, texts in read) / len(self._queries),
        }
        if len(others):
            found["alignment_gap"] = others.mean().item() - alignment
        return found

    def _read(self, model: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
        """Embeddings of sessions, and after how many of them the decoder would write text."""
        states = hidden_states(model, rows, self._end)
        each = torch.arange(len(rows), device=states.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=states.device)
        following = model.get_output_embeddings()(states[each, last - 1]).argmax(-1)
        embeddings = functional.normalize(states[each, last].float(), dim=-1)
        return embeddings, int((following != self._end).sum())

    def _nll(self, model: Any, prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> float:
        """A token."""
        pairs = list(zip(prompts, responses, strict=True))
        total = 0.0
        for chunk in _chunks(pairs):
            asked, said = zip(*chunk, strict=True)
            total += response_nll(model, list(asked), list(said), self._end).item()
        return total / sum(map(len, responses))


def warnings(numbers: Mapping[str, float], bounds: Bounds) -> dict[str, str]:
    """Number -> what it means, of those beyond their bounds."""
    lowest = {
        "session_variance": (
            bounds.least_variance,
            "retrieval collapse: sessions have nearly one embedding",
        ),
        "passage_variance": (
            bounds.least_variance,
            "retrieval collapse: passages have nearly one embedding",
        ),
        "alignment_gap": (
            bounds.least_alignment_gap,
            "retrieval collapse: a session's own passage is no nearer than others'",
        ),
        "passage_gain": (
            bounds.least_passage_gain,
            "ignored passage: responses are no likelier with their passage than without",
        ),
    }
    highest = {
        "text_for_end": (
            bounds.most_text_for_end,
            "retrieval collapse: text is written where an embedding is due",
        ),
        "forgetting": (
            bounds.most_forgetting,
            "forgetting: general chat has become this much less likely, in nats a token",
        ),
    }
    # Turned about, so that what is no number is beyond its bound too.
    found = {n: why for n, (least, why) in lowest.items() if not numbers.get(n, least) >= least}
    return found | {
        n: why for n, (most, why) in highest.items() if not numbers.get(n, most) <= most
    }


@cache
def chat() -> list[tuple[str, str]]:
    """(what a user says, what an assistant replies), on everyday things, written for this."""
    table = tomllib.loads((Path(__file__).parent / "chat.toml").read_text(encoding="utf-8"))
    return [(entry["user"], entry["assistant"]) for entry in table["exchange"]]


def _variance(embeddings: Tensor) -> float:
    """Mean squared distance of vectors (N, d) from their mean."""
    return (embeddings - embeddings.mean(0)).square().sum(1).mean().item()


def _chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]
