"""Batched decoding against `generate` of transformers, one prompt after another, on real prompts.

The prompts are those of turns of the sample with passages to read, on the real backbone in float32.
`ratio` is time by time for the same prompts, `identical` how many greedy answers are the same on
both sides, `peak_mib` of the process so far. A line for each size of batch. Goal: 3.
"""

from __future__ import annotations

import argparse
import json
import resource
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
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16, 64])
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
    start = time.perf_counter()
    wanted = [alone(prompt) for prompt in prompts]
    one_by_one = time.perf_counter() - start
    written = sum(map(len, wanted))
    for batch in given.batch:
        start = time.perf_counter()
        found = dict(decode(model, prompts, how, batch_size=batch))
        seconds = {"one_by_one": one_by_one, "batched": time.perf_counter() - start}
        line = {
            "benchmark": "decode",
            "task": given.task,
            "ratio": round(one_by_one / seconds["batched"], 3),
            "goal": GOAL,
            "prompts": len(prompts),
            "batch": batch,
            "tokens_read": sum(len(prompt.ids) for prompt in prompts),
            "tokens_written": written,
            "seconds": {side: round(value, 2) for side, value in seconds.items()},
            "tokens_per_second": {side: round(written / s, 1) for side, s in seconds.items()},
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "identical": sum(found[n] == tokens for n, tokens in enumerate(wanted)),
            "device": device(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
