"""How long `uniconv-bench list tasks` takes against `lm_eval ls tasks`, whole processes.

lm-evaluation-harness is looked for in this environment, and else in the folder that
LM_EVAL_FOLDER names: `pip install --target FOLDER lm-eval`. Its median of several runs in turn is
the baseline. Goal: at most a fifth of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

GOAL = 0.2
SIDES = {
    "ours": [sys.executable, "-m", "uniconv_bench", "list", "tasks"],
    "lm_eval": [sys.executable, "-m", "lm_eval", "ls", "tasks"],
}


def seconds(command: list[str]) -> float:
    paths = filter(None, (os.environ.get("LM_EVAL_FOLDER"), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode or not done.stdout.strip():
        last = (done.stderr.strip() or "it printed nothing").splitlines()[-1]
        mend = "pip install --target FOLDER lm-eval, and set LM_EVAL_FOLDER=FOLDER"
        raise SystemExit(f"{' '.join(command[1:])}: {last} ({mend})")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    runs: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeat + 1):
        for side, command in SIDES.items():
            runs[side].append(seconds(command))
    # The first run of each compiles and fills caches.
    found = {side: round(statistics.median(taken[1:]), 3) for side, taken in runs.items()}
    line = {
        "benchmark": "start",
        "ratio": round(found["ours"] / found["lm_eval"], 3),
        "goal": GOAL,
        **{f"{side}_seconds": taken for side, taken in found.items()},
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
