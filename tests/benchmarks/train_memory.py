"""Peak memory of a joint step over 256 turns against one over 16, contrasts over all of them.

The real backbone with LoRA on all layers in float32; each side in a process of its own. The 16
turns are read at once, as anybody would; the 256 in parts of as many tokens as 8 turns have, since
parts are filled by tree and leave the allocator gaps. `ratio` is of the peaks; `held` is the ratio
without the memory that the model alone takes. Goal: at most 1.3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

GOAL = 1.3
SESSION, PASSAGE, RESPONSE = 96, 64, 32
TOKENS = 8 * (SESSION + 2 * PASSAGE + 2 * RESPONSE)
MEASURE = f"""
import json, resource, sys
from train_step import WEIGHTS, adapter, batch_of
from uniconv_bench.uniconv.joint import JointLoss
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
model, end = adapter("float32")
before = peak()
batch = batch_of(int(sys.argv[1]), {SESSION}, model.config.vocab_size, end, {PASSAGE}, {RESPONSE})
JointLoss(model, WEIGHTS, end, tokens_at_once=json.loads(sys.argv[2])).step(batch)
sys.stdout.write(json.dumps({{"model_mib": before, "peak_mib": peak()}}))
"""


def measured(turns: int, tokens_at_once: int | None) -> dict[str, int]:
    """MiB before the step and at its peak."""
    here = str(sys.path[0])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(turns), json.dumps(tokens_at_once)],
        cwd=here,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs=2, default=[16, 256])
    turns = parser.parse_args().turns
    few, many = measured(turns[0], None), measured(turns[1], TOKENS)
    line = {
        "benchmark": "train_memory",
        "ratio": round(many["peak_mib"] / few["peak_mib"], 3),
        "goal": GOAL,
        "held": round(
            (many["peak_mib"] - many["model_mib"]) / (few["peak_mib"] - few["model_mib"]), 3
        ),
        "few": few,
        "many": many,
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
