"""A joint optimiser step in one pass against three, on the real backbone with LoRA on all layers.

Both sides take the same batch and have the same loss and gradients: the largest relative distance
is given beside the ratio. Sides alternate; times are medians. `ideal` is the ratio of tokens read,
`ratio` the measured one. Goal: 0.9 of the ideal.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from uniconv_bench.progress import Bars
from uniconv_bench.prompts import Prompt
from uniconv_bench.training_cards import Lora, Training
from uniconv_bench.uniconv.adapter import adapted
from uniconv_bench.uniconv.backbone import device, find_backbone, load_model
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.losses import Anchor, Batch, Contrast, Weights, loss_terms
from uniconv_bench.uniconv.memory import keep_freed_memory

GOAL = 0.9
PASSAGE, RESPONSE = 192, 64
WEIGHTS = Weights(1.0, 1.0, 0.5, 0.01, 0.01)


def adapter(dtype: str) -> tuple[Any, int]:
    """The real backbone with trainable LoRA on all layers, and its end token."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = load_model(find_backbone("smollm2-135m"), dtype, Bars())
    model = adapted(model, Training(tasks=("none",), lora=Lora(dropout=0.0)))
    model.train()
    return model, model.config.eos_token_id


def batch_of(
    turns: int,
    session: int,
    vocabulary: int,
    end: int,
    passage: int = PASSAGE,
    response: int = RESPONSE,
) -> Batch:
    """Turns of sessions, passages and responses of these lengths; L_G reads the session alone."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(10, vocabulary) for _ in range(length)]

    sessions = [ids(session) for _ in range(turns)]
    passages = [ids(passage) for _ in range(turns)]
    responses = [ids(response) for _ in range(turns)]
    return Batch(
        queries=[[*s, end] for s in sessions],
        positives=list(range(turns)),
        candidates=[[*p, end] for p in passages],
        allowed=~torch.eye(turns, dtype=torch.bool),
        prompts=[Prompt(s) for s in sessions],
        responses=list(responses),
        anchors=[
            Anchor(i, [*s, *p, end])
            for i, (s, p) in enumerate(zip(sessions, passages, strict=True))
        ],
        targets=[[*r, end] for r in responses],
        contrasts=[
            Contrast((i, i), [(i, j) for j in range(turns) if j != i]) for i in range(turns)
        ],
    )


def three(model: Any, batch: Batch, end: int, mixed: bool) -> None:
    """The reference: a forward and a backward pass a term."""
    passes = loss_terms(model, batch, WEIGHTS, end)
    while True:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            found = next(passes, None)
        if found is None:
            return
        _, weight, loss = found
        (weight * loss).backward()


def one(model: Any, batch: Batch, end: int, mixed: bool) -> None:
    """Every session read once."""

    def autocast() -> Any:
        return torch.autocast(model.device.type, torch.bfloat16, enabled=mixed)

    JointLoss(model, WEIGHTS, end, autocast=autocast).step(batch)


def timed(model: Any, side: Callable[..., None], *arguments: Any) -> tuple[float, list[Any]]:
    """Seconds and gradients of a step."""
    model.zero_grad()
    start = time.perf_counter()
    side(model, *arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, [p.grad.float().clone() for p in model.parameters() if p.requires_grad]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    for dtype in given.dtypes:
        model, end = adapter(dtype)
        for session in given.sessions:
            batch = batch_of(given.turns, session, model.config.vocab_size, end)
            seconds: dict[str, list[float]] = {"three": [], "one": []}
            apart = 0.0
            for _ in range(given.repeat + 1):
                taken, wanted = timed(model, three, batch, end, dtype != "float32")
                seconds["three"].append(taken)
                taken, found = timed(model, one, batch, end, dtype != "float32")
                seconds["one"].append(taken)
                both = list(zip(found, wanted, strict=True))
                far = sum(((a - b) ** 2).sum() for a, b in both)
                apart = max(apart, float((far / sum((b**2).sum() for b in wanted)) ** 0.5))
            medians = {side: statistics.median(times[1:]) for side, times in seconds.items()}
            ideal = (3 * session + 2 * PASSAGE + 2 * RESPONSE) / (
                session + 2 * PASSAGE + 2 * RESPONSE
            )
            line = {
                "benchmark": "train_step",
                "dtype": dtype,
                "session": session,
                "ratio": round(medians["three"] / medians["one"], 3),
                "ideal": round(ideal, 3),
                "goal": round(GOAL * ideal, 3),
                "seconds": {side: round(value, 3) for side, value in medians.items()},
                "gradient_distance": apart,
                "device": device(),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
