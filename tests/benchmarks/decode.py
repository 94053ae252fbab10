"""Batched decoding against `generate` of transformers, one prompt after another, on real prompts.

The prompts are those of turns of the sample with passages to read, on the real backbone in float32.
`ratio` is time by time for the same prompts, `identical` how many greedy answers are the same on
both sides. With a smaller batch, sides alternate batch by batch. Goal: 3.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice

import torch

from uniconv_bench.decode import Decoding, decode
from uniconv_bench.progress import Bars
from uniconv_bench.prompts import Prompt, PromptFormat
from uniconv_bench.task import load_task
from uniconv_bench.uniconv.backbone import device, find_backbone, load_decoder

GOAL = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--task", default="inscit", help="of the five, its answers are the longest")
    parser.add_argument("--passages", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=None, help="default: the task's limit")
    given = parser.parse_args()
    model, tokenizer = load_decoder(
        find_backbone("smollm2-135m"), None, "float32", merge=True, progress=Bars()
    )
    form = PromptFormat(tokenizer, 1024, 384)
    task = load_task(given.task, "sample", progress=Bars())
    passages = list(islice(task.corpus, given.prompts + given.passages))
    prompts = [
        form.prompt(turn, passages[n : n + given.passages])
        for n, turn in enumerate(task.turns()[: given.prompts])
    ]
    how = Decoding(ends=(form.end,), max_new_tokens=given.tokens or task.card.answer_tokens)

    def alone(prompt: Prompt) -> list[int]:
        output = model.generate(
            torch.tensor([prompt.ids], device=model.device),
            attention_mask=torch.ones((1, len(prompt.ids)), dtype=torch.long, device=model.device),
            max_new_tokens=how.max_new_tokens,
            do_sample=False,
            eos_token_id=form.end,
            pad_token_id=form.end,
        )[0, len(prompt.ids) :].tolist()
        return [token for token in output if token != form.end]

    alone(prompts[0])  # what is done once in a process
    list(decode(model, prompts[:2], how, batch_size=2))
    seconds = dict.fromkeys(("one_by_one", "batched"), 0.0)
    same, written = 0, 0
    for first in range(0, len(prompts), given.batch):
        group = prompts[first : first + given.batch]
        start = time.perf_counter()
        wanted = [alone(prompt) for prompt in group]
        middle = time.perf_counter()
        found = dict(decode(model, group, how, batch_size=given.batch))
        seconds["batched"] += time.perf_counter() - middle
        seconds["one_by_one"] += middle - start
        same += sum(found[n] == wanted[n] for n in range(len(group)))
        written += sum(map(len, wanted))
    line = {
        "benchmark": "decode",
        "task": given.task,
        "ratio": round(seconds["one_by_one"] / seconds["batched"], 3),
        "goal": GOAL,
        "prompts": len(prompts),
        "batch": given.batch,
        "tokens_read": sum(len(prompt.ids) for prompt in prompts),
        "tokens_written": written,
        "seconds": {side: round(value, 2) for side, value in seconds.items()},
        "tokens_per_second": {side: round(written / s, 1) for side, s in seconds.items()},
        "identical": same,
        "device": device(),
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
