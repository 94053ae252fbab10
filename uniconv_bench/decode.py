"""Decoding: what a causal model writes after prompts, many at once or one token by token.

Knows a model and prompts; nothing of turns, and no tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uniconv_bench.errors import UserError
from uniconv_bench.fitting import Fitting
from uniconv_bench.prompts import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from uniconv_bench.reader import Memory

NEAR = 1e-4
"""Logits that differ by less than this share of the largest are told apart by reading their row
alone, in float32, where rounding was seen to move them by a fiftieth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        ends: each of these tokens ends an answer and is no part of it.
        max_new_tokens: most tokens of an answer; fewer where the model's window ends before.
        temperature: 0: the likeliest token; else tokens are drawn, by their probabilities at it.
        top_p: tokens are drawn from the likeliest that have this probability together.
        seed: of the drawing.
        stopped: whether the tokens so far end an answer.
    """

    ends: Collection[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stopped: Callable[[list[int]], bool] | None = None


def decode(
    model: Any,
    prompts: Sequence[Prompt],
    how: Decoding,
    *,
    batch_size: int,
    names: Sequence[str] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(index into `prompts`, generated ids without the end token), longest prompts first.

    What stands beside a prompt in its batch does not change its greedy answer in float32: rounding
    moves logits by far less than `NEAR`, and closer ones are computed again from the row alone. In
    bfloat16 rounding decides between near-equal tokens. A drawn answer depends on seed and name.

    Args:
        names: of the prompts, for drawing; None: their numbers.

    Raises:
        UserError: a prompt fills the model's window.
    """

    def write(piece: Sequence[int]) -> list[_Answer]:
        answers = [_Answer.to(prompts[i], model, how, names[i] if names else str(i)) for i in piece]
        _write(model, answers, how)
        return answers

    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    fitting = Fitting(write)
    for first in range(0, len(order), batch_size):
        for piece, answers in fitting.on(order[first : first + batch_size]):
            yield from ((i, answer.tokens) for i, answer in zip(piece, answers, strict=True))


def stream(memory: Memory, prompt: Prompt, how: Decoding, name: str = "0") -> Iterator[int]:
    """The tokens that `decode` gives for a prompt by itself, as they come.

    Args:
        memory: of the model; what it has read of the prompt is not read again.
    """
    answer = _Answer.to(prompt, memory.model, how, name)
    logits = memory.prompt(prompt)
    going = True
    while going:
        told = len(answer.tokens)
        (token,) = _chosen(memory.model, logits, [answer], how)
        going = answer.take(token, how)
        yield from answer.tokens[told:]
        if going:
            logits = memory.go_on(token)


@dataclass(slots=True)
class _Answer:
    """An answer as it grows."""

    prompt: Prompt
    limit: int
    drawing: random.Random
    tokens: list[int] = field(default_factory=list)

    @staticmethod
    def to(prompt: Prompt, model: Any, how: Decoding, name: str) -> _Answer:
        window = getattr(model.config, "max_position_embeddings", None)
        left = how.max_new_tokens if window is None else window - len(prompt.ids)
        if left < 1:
            what = f"a prompt of {len(prompt.ids):,} tokens fills the model's window of {window:,}"
            raise UserError(what, mend="lower session_tokens, passage_tokens or top_k on the card")
        return _Answer(prompt, min(left, how.max_new_tokens), random.Random(f"{how.seed} {name}"))

    def take(self, token: int, how: Decoding) -> bool:
        """Takes the next token; whether the answer goes on."""
        if token in how.ends:
            return False
        self.tokens.append(token)
        stopped = how.stopped is not None and how.stopped(self.tokens)
        return not stopped and len(self.tokens) < self.limit


def _write(model: Any, answers: list[_Answer], how: Decoding) -> None:
    """Brings a batch to its end."""
    from uniconv_bench.reader import read_prompts

    reader, logits = read_prompts(model, [answer.prompt for answer in answers])
    rows: list[_Answer | None] = [*answers]  # of the reader; None once its answer has ended
    while True:
        tokens = _chosen(model, logits, rows, how)
        rows = [
            answer if answer and answer.take(token, how) else None
            for answer, token in zip(rows, tokens, strict=True)
        ]
        going = [place for place, answer in enumerate(rows) if answer]
        if not going:
            return
        # Leaving copies what the others have read, so rows leave when half of them have ended.
        if 2 * len(going) <= len(rows):
            reader.keep(going)
            rows, tokens = [rows[i] for i in going], [tokens[i] for i in going]
        logits = reader.read([[token] for token in tokens])


def _chosen(model: Any, logits: Tensor, rows: Sequence[_Answer | None], how: Decoding) -> list[int]:
    """The next token of every row; of those that have ended, any."""
    return _drawn(logits, rows, how) if how.temperature else _likeliest(model, logits, rows)


def _likeliest(model: Any, logits: Tensor, rows: Sequence[_Answer | None]) -> list[int]:
    import torch

    scores, tokens = logits.topk(2)
    chosen: list[int] = tokens[:, 0].tolist()
    if logits.dtype == torch.float32:
        gaps = scores[:, 0] - scores[:, 1]
        near = (gaps < NEAR * logits.abs().amax(-1)).tolist()
        for place, answer in enumerate(rows):
            if near[place] and answer:
                chosen[place] = int(_alone(model, answer).argmax())
    return chosen


def _alone(model: Any, answer: _Answer) -> Tensor:
    """Logits (1, vocabulary) after an answer so far, whatever it was read beside before."""
    from uniconv_bench.reader import Reader

    reader = Reader(model)
    logits = reader.prompts([answer.prompt])
    return reader.read([answer.tokens]) if answer.tokens else logits


def _drawn(logits: Tensor, rows: Sequence[_Answer | None], how: Decoding) -> list[int]:
    """By inversion: the first token at which the probabilities so far exceed the row's number."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    ids = logits.new_empty((len(logits), 0), dtype=torch.long)  # which neither of them looks at
    scores = TemperatureLogitsWarper(how.temperature)(ids, logits.float())
    if how.top_p < 1:
        scores = TopPLogitsWarper(how.top_p)(ids, scores)
    sums = scores.softmax(-1, dtype=torch.float64).cumsum(-1)
    numbers = [answer.drawing.random() if answer else 0.0 for answer in rows]
    wanted = torch.tensor(numbers, dtype=torch.float64, device=sums.device)[:, None] * sums[:, -1:]
    chosen: list[int] = torch.searchsorted(sums, wanted, right=True)[:, 0].tolist()
    return chosen
