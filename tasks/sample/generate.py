"""Regenerates the sample: worlds -> raw files. `python -m uniconv_bench.tasks.sample.generate`.

Takes names of tasks (all without); the same worlds give the same bytes everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from uniconv_bench.tasks.sample.library import Library, write_library
from uniconv_bench.tasks.sample.plan import STYLES, Planner
from uniconv_bench.tasks.sample.raw import Files, Plans, faithdial, qrecc, topiocqa
from uniconv_bench.tasks.sample.raw_annotated import inscit, orquac
from uniconv_bench.tasks.sample.world import World, read_world

from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import atomic_write

HERE = Path(__file__).parent
WRITERS: dict[str, Callable[[World, Library, Plans], Files]] = {
    "topiocqa": topiocqa,
    "qrecc": qrecc,
    "orquac": orquac,
    "inscit": inscit,
    "faithdial": faithdial,
}


def generate(task: str) -> Files:
    """Path below the task's raw folder -> contents.

    Raises:
        UserError: no such task, or its world file is wrong.
    """
    if task not in WRITERS:
        raise unknown_name("task", task, WRITERS)
    world = read_world(HERE / "worlds" / f"{task}.toml")
    if world.task != task:
        where = HERE / "worlds" / f"{task}.toml"
        raise UserError(f"field task is {world.task!r}, not {task!r}", where=where)
    library, style = write_library(world), STYLES[task]
    plans = {}
    for split, count in (("train", style.train), ("test", style.test)):
        entities = [e for e in world.entities.values() if e.held_out is (split == "test")]
        plans[split] = Planner(world, library, style, split).conversations(entities, count)
    return WRITERS[task](world, library, plans)


def main(tasks: list[str]) -> None:
    """Writes the raw files of the named tasks beside this module."""
    for task in tasks or sorted(WRITERS):
        files = generate(task)
        for name, text in files.items():
            with atomic_write(HERE / task / name) as stream:
                stream.write(text)
        size = sum(len(text.encode()) for text in files.values())
        sys.stdout.write(f"{task}: {len(files)} files, {size:,} bytes\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
