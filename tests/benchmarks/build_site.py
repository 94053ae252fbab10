"""Leaderboard and site of 100 submissions to five tasks of 80 turns: as many as `sample` has.

Every bundle is checked and rescored, every pair of systems tested, every page and reading-room file
written. The ratio is the share taken of 2 minutes, so the goal is at most 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from check_submission import SECONDS, SIZES, invented, submitted, tell

from uniconv_bench.leaderboard import build
from uniconv_bench.site import write

TURNS, PASSAGES = 80, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=100)
    count = parser.parse_args().submissions
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tasks = invented(dict.fromkeys(SIZES, TURNS), PASSAGES)
        for number in range(count):
            submitted(f"s{number}", tasks, root, 0.2 + 0.6 * number / count, "sample")
        start, busy = time.perf_counter(), time.process_time()
        built = build(root, tasks, lambda record: {})
        ranked = time.perf_counter()
        write(built.boards, root / "site")
        done, busy = time.perf_counter(), time.process_time() - busy
        if built.refused:
            raise SystemExit(f"refused: {built.refused}")
        pages = sum(p.stat().st_size for p in (root / "site").rglob("*") if p.suffix != ".js")
        data = sum(p.stat().st_size for p in (root / "site").rglob("*.js"))
    tell(
        "build_site",
        (done - start) / SECONDS,
        busy,
        submissions=count,
        rank_seconds=round(ranked - start, 1),
        write_seconds=round(done - ranked, 1),
        pages_kib=pages >> 10,
        data_kib=data >> 10,
    )


if __name__ == "__main__":
    main()
