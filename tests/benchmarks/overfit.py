"""One turn learnt by heart: how long until it finds its passage and says its response exactly.

The real backbone in float32, the joint loss of `uniconv` on a single turn of the sample with hard
negatives. Every few steps it retrieves among the gold passage and its neighbours and answers from
the gold one. Goal: recall@1 = 1 and the very response within 60 seconds.
"""

from __future__ import annotations

import json
import random
import sys
import time

import torch
from train_step import adapter

from uniconv_bench.assembly import Setup
from uniconv_bench.decode import Decoding, decode
from uniconv_bench.progress import Bars
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.uniconv.backbone import load_tokenizer
from uniconv_bench.uniconv.embedding import embed
from uniconv_bench.uniconv.joint import JointLoss
from uniconv_bench.uniconv.losses import Weights
from uniconv_bench.uniconv.mixture import examples, make_batch, supervised

GOAL, STEPS, EVERY, RIVALS = 60.0, 40, 4, 50


def main() -> None:
    setup = Setup.of("uniconv", "sample", Bars())
    assert setup.backbone is not None
    task = setup.training_tasks["qrecc"]
    card, inference = setup.card.adapters["joint"], setup.card.inference
    form = PromptFormat(
        load_tokenizer(setup.backbone, Bars()), inference.session_tokens, inference.passage_tokens
    )
    found = examples(task, supervised(task), card, Bars())
    example = next(e for e in found if e.grounds and e.response)
    gold = example.grounds[0]
    others = [p for p in task.corpus if p.passage_id != gold.passage_id][:RIVALS]
    # L_R needs a rival in the batch, L_CII a second response: another turn has both.
    other = next(e for e in found if e.grounds and e.turn != example.turn)
    model, end = adapter("float32")
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    weights = Weights(**card.losses.model_dump(), temperature=0.01, cii_temperature=0.01)
    seconds, hit, said, steps = 0.0, False, "", 0
    for step in range(STEPS):
        start = time.perf_counter()
        batch = make_batch([example, other], card, form, random.Random(step))
        JointLoss(model, weights, end).step(batch)
        optimiser.step()
        optimiser.zero_grad()
        seconds += time.perf_counter() - start
        steps = step + 1
        if steps % EVERY:
            continue
        with torch.inference_mode():
            texts = [form.passage(p) for p in [gold, *others]]
            passages = torch.cat([embed(model, texts[i : i + 8], end) for i in range(0, 51, 8)])
            scores = (passages @ embed(model, [form.query(example.turn)], end).T).flatten()
        hit = bool(scores.argmax() == 0)
        prompt = form.prompt(example.turn, [gold])
        how = Decoding(ends={end}, max_new_tokens=64)
        ((_, answer),) = decode(model, [prompt], how, batch_size=1)
        said = form.tokenizer.decode(answer).strip()
        if hit and said == example.response:
            break
    line = {
        "benchmark": "overfit",
        "ratio": round(seconds / GOAL, 3),
        "goal": 1.0,
        "seconds": round(seconds, 1),
        "steps": steps,
        "recall@1": float(hit),
        "exact": said == example.response,
        "response": example.response,
        "said": said,
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
