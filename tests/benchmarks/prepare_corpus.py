"""Preparing a large corpus against merely reading and decoding its file, as TSV and JSON lines.

The baseline is the standard library's decoder (csv.reader, json.loads) over the same file. The
measured side is all of `prepare`, checksums of the raw file and of what was written included;
`store` is its part from the file to Arrow, `decode` the same reader with nothing behind it.
`ratio` is the larger one of `store` to baseline. Each runs in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RAW = Path(__file__).parent.parent / "data" / "raw"
GOAL = 1.5
GOAL_MIB = 1024
FORMS = {
    "tsv": ("topiocqa", "full_wiki_segments.tsv"),
    "jsonl": ("orquac", "all_blocks.txt"),
}
MEASURE = """
import resource, sys, time
from pathlib import Path
side, task, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
clocks = lambda: (time.perf_counter(), time.process_time())
spent = {}
def timed(name, function, *arguments):
    start = clocks()
    result = function(*arguments)
    spent[name] = [round(now - then, 2) for now, then in zip(clocks(), start)]
    return result
def baseline():
    import csv, json
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".tsv":
            for row in csv.reader(stream, delimiter="\\t"):
                pass
        else:
            for line in stream:
                json.loads(line)
def decode():
    from uniconv_bench.registry import task_card, task_module
    for block in task_module(*task_card(task)).passages(path.parent).blocks():
        pass
def prepare():
    from uniconv_bench import dataset, prepare
    from uniconv_bench.progress import Silent
    from uniconv_bench.registry import task_card
    store = dataset.store
    dataset.store = lambda *arguments: timed("store", store, *arguments)
    card, place = task_card(task)
    prepare.prepare(card, place, "full", path.parent, allow_part=True, progress=Silent())
timed(side, locals()[side])
spent["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
sys.stdout.write(__import__("json").dumps(spent))
"""


POOL = 20_000
"""Different texts; each comes again under other ids."""


def texts() -> Iterator[tuple[str, str]]:
    """Title and text of about 480 characters, one in five with quotes, one in four beyond ASCII."""
    draw = random.Random(0)
    letters = "aaabcdeeefghiiklmnoooprsttuvwy"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(3000)]
    page = " ".join(draw.choices(words, k=200_000))
    for number in range(POOL):
        start = draw.randrange(len(page) - 1000)
        text = page[start : start + draw.randint(60, 900)]
        if number % 5 == 0:
            text = f'{text[:100]} "{text[100:120]}" {text[120:]}'
        if number % 4 == 0:
            text = f"{text[:50]} Čapek – {text[50:]}"
        if number % 50 == 0:
            text = f"{text[:40]}\n{text[40:]}"
        yield page[start + 7 : start + 30], text


def write(form: str, path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        if form == "tsv":
            writer = csv.writer(stream, delimiter="\t")
            writer.writerow(("id", "text", "title"))
            rows = [(text, f"{title} [SEP] {title}") for title, text in texts()]
            writer.writerows((n + 1, *rows[n % POOL]) for n in range(count))
        else:
            dump = json.JSONEncoder(ensure_ascii=False).encode
            pool = [f'"title": {dump(title)}, "text": {dump(text)}' for title, text in texts()]
            for n in range(count):
                aid, bid = divmod(n, 8)
                place = f'"id": "{aid}@{bid}", "aid": "{aid}", "bid": {bid}'
                stream.write(f"{{{place}, {pool[n % POOL]}}}\n")


def measure(side: str, task: str, path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as cache:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, side, task, str(path)],
            env={**os.environ, "UNICONV_BENCH_CACHE": cache},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def of_form(form: str, count: int, repeat: int) -> dict[str, Any]:
    """Least seconds of each part over `repeat` rounds, by the clock and of processor time."""
    task, name = FORMS[form]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        shutil.copytree(RAW / task, raw)
        path = raw / name
        write(form, path, count)
        found: dict[str, Any] = {"mib": path.stat().st_size >> 20}
        for _ in range(repeat):
            for side in ("baseline", "decode", "prepare"):
                spent = measure(side, task, path)
                found[f"{side}_peak_mib"] = spent.pop("peak_mib")
                for part, (seconds, processor) in spent.items():
                    for key, value in ((part, seconds), (f"{part}_cpu", processor)):
                        found[key] = min(value, found.get(key, value))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args()
    sides = {form: of_form(form, options.passages, options.repeat) for form in options.forms}

    def ratio(part: str) -> float:
        clock = "_cpu" if part.endswith("_cpu") else ""
        return round(max(side[part] / side[f"baseline{clock}"] for side in sides.values()), 2)

    result = {
        "benchmark": "prepare_corpus",
        "ratio": ratio("store"),
        "goal": GOAL,
        "ratios": {part: ratio(part) for part in ("decode", "store", "prepare", "store_cpu")},
        "peak_mib": max(side["prepare_peak_mib"] for side in sides.values()),
        "goal_mib": GOAL_MIB,
        "passages": options.passages,
        **sides,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
