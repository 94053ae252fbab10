"""Checking and rescoring a submission of full size, in a process of its own.

Five tasks of 30,000 turns in all, 100 passages and an answer each; invented, in the sizes of the
real test sets. The ratio is the larger of the shares taken of 2 minutes and of 2 GiB: the goal is
at most 1. Two cores are meant; `--turns` makes it smaller for a trial.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import string
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pyarrow

from uniconv_bench.cards import TaskCard
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.examination import examine
from uniconv_bench.files import digest_of
from uniconv_bench.lookup import PassageIds, write_lookup
from uniconv_bench.rescoring import Tasks
from uniconv_bench.runs import write_answers, write_run
from uniconv_bench.submission import pack
from uniconv_bench.system import Answer

GOAL = 1.0
SECONDS, BYTES = 120.0, 2 << 30
SIZES = {"qrecc": 16_451, "orquac": 5_571, "faithdial": 3_539, "topiocqa": 2_514, "inscit": 1_925}
"""Test turns of a task; they add up to 30,000."""
CARD = """
name = "{name}"
title = "Invented {name}"
authors = ["Nobody"]
contact = "nobody at example.org"
date = "2026-01-31"
description = "Drawn at random."
trained_on = []
tasks = {tasks}
profile = "{profile}"
"""


class InventedCorpus:
    """Numbered passages, their ids looked up on disk as those of a prepared corpus are."""

    digest = "0" * 64

    def __init__(self, passages: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.names = [f"passage-{n}" for n in range(passages)]
        column = pyarrow.chunked_array([self.names])
        write_lookup(Path(self._folder.name), [self.names], column, "invented")
        self.ids = PassageIds(Path(self._folder.name), column)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, passage_id: str) -> Passage:
        return Passage(passage_id, f"The text of {passage_id}, " + "which goes on " * 20)


class InventedTask:
    """Turns in conversations of six; each has a relevant passage and a reference of 20 words."""

    def __init__(self, name: str, turns: int, corpus: InventedCorpus) -> None:
        self.card = TaskCard(
            name=name,
            title=name,
            version=1,
            description="Invented.",
            homepage="https://example.org",
            licence="none",
            citation="none",
            retrieval_setting="Invented.",
            metrics=("ndcg@3", "recall@10", "recall@100", "mrr", "f1"),
        )
        self.digest = digest_of([name, turns, len(corpus)])
        self._size, self.corpus = turns, corpus

    @cached_property
    def _turns(self) -> list[Turn]:
        draw = random.Random(self.card.name)
        words = ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(2000)]
        found = []
        for number in range(self._size):
            conversation = f"{number // 6}"
            said = " ".join(draw.choices(words, k=20))
            gold = (draw.choice(self.corpus.names),)
            turn_id = f"{conversation}_{number % 6 + 1}"
            found.append(Turn(turn_id, conversation, number % 6 + 1, "What?", (), (said,), gold))
        return found

    def turns(self) -> list[Turn]:
        return self._turns

    def qrels(self) -> dict[str, dict[str, int]]:
        return {turn.turn_id: dict.fromkeys(turn.gold, 1) for turn in self._turns}

    def references(self) -> dict[str, tuple[str, ...]]:
        return {turn.turn_id: turn.references for turn in self._turns}


def invented(sizes: Mapping[str, int], passages: int) -> Tasks:
    """Tasks of so many turns each, over one corpus of so many passages."""
    corpus = InventedCorpus(passages)
    made = {name: InventedTask(name, turns, corpus) for name, turns in sizes.items()}
    return Tasks(tuple(made), lambda name, profile: made[name])


def submitted(name: str, tasks: Tasks, folder: Path, skill: float, profile: str) -> Path:
    """The bundle of a system that finds and says what is right in that share of turns."""
    draw, files = random.Random(name), {}
    for task_name in tasks.names:
        task = tasks.load(task_name, profile)  # type: ignore[arg-type]
        run, answers = {}, []
        for turn in task.turns():
            ranked = draw.sample(task.corpus.names, 100)
            if draw.random() < skill and turn.gold[0] not in ranked:
                ranked[draw.randrange(10)] = turn.gold[0]
            run[turn.turn_id] = [(p, draw.random()) for p in ranked]
            right = turn.references[0].split()
            said = [word if draw.random() < skill else "other" for word in right]
            answers.append(Answer(turn.turn_id, " ".join(said)))
        place = folder / "files" / name / task_name
        place.mkdir(parents=True)
        write_run(place / "run.trec", run.items(), name)
        write_answers(place / "answers.jsonl", answers)
        files[task_name] = {"run": place / "run.trec", "answers": place / "answers.jsonl"}
    card = folder / f"{name}.toml"
    named = json.dumps(list(tasks.names))
    card.write_text(CARD.format(name=name, tasks=named, profile=profile), encoding="utf-8")
    return pack(card, files, folder / "leaderboards" / "submissions", tasks)


def checked(bundle: Path, sizes: Mapping[str, int], passages: int) -> tuple[float, float, int]:
    """Seconds, those of them on a core, and peak bytes of a check in a process of its own."""
    tasks = invented(sizes, passages)
    start, busy = time.perf_counter(), time.process_time()
    found = examine(bundle, tasks)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    if found.problems:
        raise SystemExit(found.problems[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tell(benchmark: str, ratio: float, busy: float, **figures: float) -> None:
    """Prints a benchmark's line: the share taken of what is allowed, and seconds on a core."""
    line = {"benchmark": benchmark, "ratio": round(ratio, 3), "goal": GOAL, **figures}
    line |= {"core_seconds": round(busy, 1), "seconds_allowed": SECONDS}
    sys.stdout.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=sum(SIZES.values()))
    parser.add_argument("--passages", type=int, default=500_000, help="of the corpus")
    options = parser.parse_args()
    sizes = {n: round(size * options.turns / sum(SIZES.values())) for n, size in SIZES.items()}
    with tempfile.TemporaryDirectory() as name:
        tasks = invented(sizes, options.passages)
        bundle = submitted("invented", tasks, Path(name), 0.5, "full")
        with multiprocessing.get_context("spawn").Pool(1) as process:
            seconds, busy, peak = process.apply(checked, (bundle, sizes, options.passages))
    tell(
        "check_submission",
        max(seconds / SECONDS, peak / BYTES),
        busy,
        turns=sum(sizes.values()),
        seconds=round(seconds, 1),
        peak_mib=peak >> 20,
        peak_mib_allowed=BYTES >> 20,
    )


if __name__ == "__main__":
    main()
