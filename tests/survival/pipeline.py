"""The whole pipeline on the tiny random backbone, as a process of its own that may be killed.

Python and its libraries take seconds to start, so they are imported once and every life of the
pipeline is forked from there: a real process that does the real work through the command line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A fork has no threads but the one that forked.
os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
os.environ["NUMBA_THREADING_LAYER"] = "workqueue"

from uniconv_bench import (  # noqa: E402
    artefacts,
    blocks,
    cli,
    corpus,
    decode,
    encode,
    estimate,
    evaluation,
    metrics,
    tables,
)
from uniconv_bench.files import CACHE, digest_of  # noqa: E402
from uniconv_bench.uniconv import adapter, loop, parts, training  # noqa: E402

REPOSITORY = Path(__file__).parent.parent.parent
IMPORTED = (adapter, estimate, evaluation, metrics, parts, tables, training)
"""What every life would import first."""
CRASHED, SIGKILLED = 70, -signal.SIGKILL
"""Exit codes of a traceback, as no command line ends, and of a process that was killed."""
CHECKPOINT_STEPS = 2
TASK = """
name = "few"
title = "Few"
version = 1
description = "The first conversations of a shipped sample."
homepage = "https://example.org"
licence = "Apache-2.0"
licence_terms = "open"
citation = "None."
metrics = ["ndcg@3", "mrr", "f1"]
answer_tokens = 4
reader = "qrecc"
retrieval_setting = "Session against a few passages."
"""
CARD = f"""
name = "{{name}}"
title = "Tiny"
description = "A random backbone, trained for a few steps."
backbone = {{{{ sample = "random-tiny" }}}}
retriever = {{{{ kind = "dense", adapter = "joint" }}}}
generator = {{{{ kind = "llm", adapter = "joint" }}}}
[inference]
top_k = 1
depth = 5
session_tokens = 90
passage_tokens = 60
decode_batch_size = 2
[adapters.joint]
tasks = ["{{task}}"]
batch_size = 2
max_steps = 5
checkpoint_steps = {CHECKPOINT_STEPS}
dtype = "float32"
hard_negatives = 1
seed = {{seed}}
lora = {{{{ r = 2 }}}}
"""
CONVERSATIONS = {"training": 4, "test": 2}
PASSAGES = 40
SHARD = 10
BATCH, BLOCK = 4, 1 << 11
"""Passages and bytes of raw files that are stored at a time."""
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events that change what is on disk, `open` if for writing."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


# Compiles what ranx runs.
metrics.score(
    ["ndcg@3", "mrr", "f1"],
    qrels={"1_1": {"p": 1}},
    run={"1_1": [("p", 1.0)]},
    references={"1_1": ("a",)},
    texts={"1_1": "a"},
)


@dataclass(frozen=True)
class Place:
    """Where a pipeline works: its cache, its results, what it said and which work it began."""

    folder: Path
    system: str = "tiny"
    seed: int = 13
    changes: tuple[tuple[str, str], ...] = ()
    """Lines of its card and what stands in their place."""

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def units(self) -> Path:
        """A line for every shard, batch and step that was begun."""
        return self.folder / "units.txt"

    @property
    def log(self) -> Path:
        """All that the pipeline has printed."""
        return self.folder / f"{self.system}.log"

    def commands(self) -> list[list[str]]:
        """The stages, one by one."""
        cards = self.folder.parent  # of all places beside this one: paths are parts of names
        task, system = cards / "few.toml", cards / f"{self.system}.toml"
        if not system.exists():
            write_task(task)
            text = CARD.format(name=self.system, seed=self.seed, task=task)
            for line, other in self.changes:
                text = text.replace(line, other)
            system.write_text(text)
        both = ["--task", str(task), "--system", str(system)]
        results = ["--results", str(self.results)]
        return [
            ["prepare", "--task", str(task)],
            ["train", "--system", str(system)],
            ["encode", *both],
            ["retrieve", *both],
            ["generate", *both],
            ["run", *both, *results],
            ["table", *results],
        ]


def write_task(card: Path) -> None:
    """A task's card and, as its sample, the first conversations of QReCC's."""
    source, sample = REPOSITORY / "tasks" / "sample" / "qrecc", card.parent / "sample" / "few"
    (sample / "wayback").mkdir(parents=True, exist_ok=True)
    wanted = set()
    for split, count in CONVERSATIONS.items():
        name = f"scai-qrecc21-{split}-turns.json"
        turns = [
            t for t in json.loads((source / name).read_text()) if t["Conversation_no"] <= count
        ]
        wanted |= {passage for turn in turns for passage in turn["Truth_passages"]}
        (sample / name).write_text(json.dumps(turns))
    lines = [line for path in sorted(source.glob("*/*.jsonl")) for line in path.open()]
    lines.sort(key=lambda line: json.loads(line)["id"] not in wanted)
    (sample / "wayback" / "few.jsonl").write_text("".join(lines[:PASSAGES]))
    card.write_text(TASK)


def die() -> None:
    """What a process does at the moment that is chosen for it, if nothing else."""
    os.kill(os.getpid(), signal.SIGKILL)


def began(
    place: Place,
    commands: Sequence[Sequence[str]] | None = None,
    *,
    at: int = 0,
    unit: int = 0,
    completed: str = "",
    then: Callable[[], None] = die,
    environment: Mapping[str, str] | None = None,
    shard: int = SHARD,
) -> int:
    """Starts the pipeline as a process, in a session of its own; its id.

    Args:
        commands: the stages; None: all.
        at: the change of the disk, from 1, before which and before each later one it does `then`;
            0: none, and it leaves in `changes.txt` how many there were.
        unit: of work, from 1, before which it dies.
        completed: the stage whose artefact it completes, and dies before it renames it.
        then: what it does.
        environment: what a launcher of several processes would set.
        shard: passages a shard.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    todo = place.commands() if commands is None else commands
    child = os.fork()
    if child:
        return child
    code = CRASHED
    try:
        os.setsid()
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ |= {CACHE: str(place.cache), **(environment or {})}
        encode.SHARD = shard
        corpus.SHARD, corpus.BATCH, blocks.BLOCK = SHARD, BATCH, BLOCK
        if completed:
            _die_over(completed)
        _tell_units(place, unit)
        changes = _Changes(place.folder, at, then)
        sys.addaudithook(changes.see)
        for command in todo:
            code = cli.main(command)
            if code:
                break
        else:
            (place.folder / "changes.txt").write_text(str(changes.seen))
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(child: int, seconds: float) -> int:
    """Kills a process and all that it started after so long; as `ended`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    return ended(child)


class _Changes:
    """Counts what a process changes below a folder, and does something from a chosen change on."""

    def __init__(self, folder: Path, at: int, then: Callable[[], None]):
        self._inside, self._at, self._then = f"{folder}/", at, then
        self._acting = False
        self.seen = 0

    def see(self, event: str, given: tuple[Any, ...]) -> None:
        """An audit hook of Python's."""
        if self._acting or event not in CHANGES or not str(given[0]).startswith(self._inside):
            return
        if event == "open" and not (given[2] or 0) & WRITING:
            return
        self.seen += 1
        if self._at and self.seen >= self._at:
            self._acting = True  # what it does may be changes too
            try:
                self._then()
            finally:
                self._acting = False


def _tell_units(place: Place, last: int) -> None:
    """Has the process note every shard, batch and step that it begins."""
    left = last
    units = os.open(place.units, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(owner: Any, name: str, unit: Callable[..., str]) -> None:
        work = getattr(owner, name)

        def told(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                die()
            os.write(units, f"{place.system} {unit(*given)}\n".encode())
            return work(*given, **named)

        setattr(owner, name, told)

    tell(corpus._Writer, "close_shard", lambda writer: f"passages {len(writer._shards)}")
    tell(encode._Work, "_write", lambda _, shard, *rest: f"shard {shard}")
    tell(loop.Run, "_step", lambda _, step, *rest: f"step {step}")
    tell(decode, "_write", lambda _, answers, *rest: f"batch {_named(answers)}")


def _die_over(stage: str) -> None:
    put = artefacts._put

    def put_or_die(working: Path, folder: Path) -> None:
        if folder.parent.name == stage:
            die()
        put(working, folder)

    artefacts._put = put_or_die


def _named(answers: Sequence[Any]) -> str:
    return digest_of([answer.prompt.ids for answer in answers])[:12]
