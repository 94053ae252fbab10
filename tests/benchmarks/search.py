"""Exact search streamed from float16 shards on disk against faiss IndexFlatIP in memory.

The same queries and vectors, each side in processes of its own, in turn; faiss holds float32 and is
timed once everything is in it. `ratio` is of the medians of the search times, `memory` of the
peaks. Goal: at most 1.5 times its time and 0.15 of its memory, with the same passages in the same
order. `linear` is the time from the smallest corpus to the largest over the ratio of their sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

GOAL, GOAL_MEMORY = 1.5, 0.15
QUERIES, DEPTH, SHARD = 1000, 100, 8192
MEASURE = f"""
import json, resource, sys, time
from pathlib import Path
import numpy as np
side, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
queries = np.load(folder / "queries" / "all.npy")
shards = sorted((folder / "shards").glob("*.npy"))[: -(-count // {SHARD})]
if side == "ours":
    from uniconv_bench.index import ExactIndex
    class Ids:
        def __len__(self):
            return count
        def __getitem__(self, row):
            return f"{{row:09d}}"
    start = time.perf_counter()
    index = ExactIndex(Ids(), shards)
    found = [[int(p) for p, _ in ranking] for ranking in index.search(queries, {DEPTH})]
    seconds = time.perf_counter() - start
else:
    import faiss
    index = faiss.IndexFlatIP(queries.shape[1])
    for shard in shards:
        index.add(np.load(shard).astype(np.float32))
    start = time.perf_counter()
    _, found = index.search(queries, {DEPTH})
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
np.save(folder / f"{{side}}.npy", np.array(found))
sys.stdout.write(json.dumps({{"seconds": seconds, "peak_mib": peak}}))
"""


def write(folder: Path, count: int, dimension: int) -> None:
    """Unit vectors in shards, and queries."""
    draw = np.random.default_rng(0)

    def unit(rows: int) -> Any:
        vectors = draw.standard_normal((rows, dimension), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    for name in ("shards", "queries"):
        (folder / name).mkdir()
    np.save(folder / "queries" / "all.npy", unit(QUERIES))
    for start in range(0, count, SHARD):
        shard = unit(min(SHARD, count - start)).astype(np.float16)
        np.save(folder / "shards" / f"{start // SHARD:05d}.npy", shard)


def measured(side: str, folder: Path, count: int) -> dict[str, Any]:
    """Seconds of the search and MiB at the peak of its process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, side, str(folder), str(count)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def both(folder: Path, count: int, repeat: int) -> dict[str, dict[str, float]]:
    """Median seconds and highest peak of each side; they take turns."""
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "faiss": []}
    for _ in range(repeat):
        for side, runs in sides.items():
            runs.append(measured(side, folder, count))
    return {
        side: {
            "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "peak_mib": max(run["peak_mib"] for run in runs),
        }
        for side, runs in sides.items()
    }


def agreement(folder: Path) -> float:
    """Share of places with the same passage; faiss orders scores within rounding as it likes."""
    ours, theirs = (np.load(folder / f"{side}.npy") for side in ("ours", "faiss"))
    return float((ours == theirs).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=576)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--growth", type=int, nargs="*", default=[250_000, 500_000, 2_000_000])
    options = parser.parse_args()
    # Whole shards, so that a smaller corpus is the beginning of a larger one.
    sizes = sorted({-(-n // SHARD) * SHARD for n in (options.passages, *options.growth)})
    chosen = -(-options.passages // SHARD) * SHARD
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, sizes[-1], options.dimension)
        sides = both(folder, chosen, options.repeat)
        same = agreement(folder)
        by_size = {
            size: sides["ours"] if size == chosen else measured("ours", folder, size)
            for size in sizes
        }
    seconds, peaks = (
        {size: round(found[name], 2) for size, found in by_size.items()}
        for name in ("seconds", "peak_mib")
    )
    line = {
        "benchmark": "search",
        "ratio": round(sides["ours"]["seconds"] / sides["faiss"]["seconds"], 3),
        "goal": GOAL,
        "memory": round(sides["ours"]["peak_mib"] / sides["faiss"]["peak_mib"], 3),
        "goal_memory": GOAL_MEMORY,
        "same_places": round(same, 6),
        "linear": round(seconds[sizes[-1]] / seconds[sizes[0]] / (sizes[-1] / sizes[0]), 3),
        "seconds_by_passages": seconds,
        "peak_mib_by_passages": peaks,
        "queries": QUERIES,
        "depth": DEPTH,
        "passages": chosen,
        "dimension": options.dimension,
        **sides,
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
