"""One conversational turn, retrieved for and answered: one model that keeps what it has read of the
session, against the same backbone as two separate models.

Both sides embed the session, search, and answer from session and passages. `ratio` compares the
time to the answer's first token, `ideal` counts tokens read: (2s + p) / (s + p). Sides alternate;
times are medians. Goal: 0.9 of the ideal; whole turns and the weights in memory stand beside it.
`peak_mib` is of the whole process, with both sides and all sessions so far.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniconv_bench.decode import Decoding, stream
from uniconv_bench.index import ExactIndex
from uniconv_bench.progress import Bars
from uniconv_bench.prompts import Prompt
from uniconv_bench.reader import Memory
from uniconv_bench.uniconv.backbone import device, find_backbone, load_model
from uniconv_bench.uniconv.embedding import embed, unit

GOAL, MEMORY_GOAL = 0.9, 0.55
PASSAGES = 10_000
"""In the index, which both sides search."""


def unified(model: Any, index: ExactIndex, session: list[int], read: list[int], end: int) -> Any:
    """Retrieves and begins to answer with one model."""
    memory = Memory(model)
    list(index.search(unit(memory.state([*session, end])[None]).cpu().numpy(), 3))
    return memory, Prompt([*session, *read])


def separate(
    retriever: Any,
    generator: Any,
    index: ExactIndex,
    session: list[int],
    read: list[int],
    end: int,
) -> Any:
    """The same with one model for each."""
    with torch.inference_mode():
        list(index.search(embed(retriever, [[*session, end]], end).cpu().numpy(), 3))
    return Memory(generator), Prompt([*session, *read])


def timed(begin: Callable[[], Any], how: Decoding) -> tuple[float, float, list[int]]:
    """Seconds to the first token and to the last one, and the tokens."""
    start = time.perf_counter()
    memory, prompt = begin()
    tokens = stream(memory, prompt, how)
    said = [next(tokens)]
    first = time.perf_counter() - start
    said += tokens
    return first, time.perf_counter() - start, said


def weights(*models: Any) -> int:
    """Bytes of all tensors, each counted once."""
    tensors = {t.data_ptr(): t.nbytes for model in models for t in model.parameters()}
    return sum(tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--passages", type=int, default=300, help="tokens of passages in a prompt")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    one, other = (load_model(find_backbone("smollm2-135m"), "float32", Bars()) for _ in range(2))
    end, draw = one.config.eos_token_id, random.Random(0)
    width = one.config.hidden_size
    vectors = np.random.default_rng(0).standard_normal((PASSAGES, width), dtype=np.float32)
    shard = Path(tempfile.mkdtemp()) / "vectors.npy"
    np.save(shard, vectors)
    index = ExactIndex([f"p{i}" for i in range(PASSAGES)], [shard])
    how = Decoding(ends=(), max_new_tokens=given.tokens)
    memory = weights(one) / weights(one, other)

    def ids(length: int) -> list[int]:
        return [draw.randrange(10, one.config.vocab_size) for _ in range(length)]

    for length in given.sessions:
        session, read = ids(length), ids(given.passages)
        sides: dict[str, Callable[[], Any]] = {
            "separate": lambda: separate(one, other, index, session, read, end),  # noqa: B023
            "unified": lambda: unified(one, index, session, read, end),  # noqa: B023
        }
        runs: dict[str, list[tuple[float, float, list[int]]]] = {side: [] for side in sides}
        for _ in range(given.repeat + 1):
            for side, begin in sides.items():
                runs[side].append(timed(begin, how))
        first, whole = (
            {side: statistics.median(run[n] for run in found[1:]) for side, found in runs.items()}
            for n in (0, 1)
        )
        ideal = (2 * length + given.passages) / (length + given.passages)
        line = {
            "benchmark": "turn",
            "session": length,
            "passages": given.passages,
            "ratio": round(first["separate"] / first["unified"], 3),
            "ideal": round(ideal, 3),
            "goal": round(GOAL * ideal, 3),
            "whole_turn_ratio": round(whole["separate"] / whole["unified"], 3),
            "weight_memory": round(memory, 3),
            "weight_memory_goal": MEMORY_GOAL,
            "first_token_seconds": {side: round(value, 3) for side, value in first.items()},
            "whole_turn_seconds": {side: round(value, 3) for side, value in whole.items()},
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "tokens": given.tokens,
            "identical": all(run[2] == runs["separate"][0][2] for run in runs["unified"]),
            "device": device(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
