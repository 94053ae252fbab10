"""Files that a person hands to `score`: read, with a mend for what is commonly mixed up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from uniconv_bench.commands.shared import note
from uniconv_bench.errors import UserError

T = TypeVar("T")
LINES_OF = {
    "--run": "turn Q0 passage rank score tag",
    "--qrels": "turn 0 passage grade",
    "--answers": '{"turn_id": ..., "answer": ...}',
    "--references": '{"turn_id": ..., "references": [...]}',
}
"""Option -> a line of its file."""


def read(option: str, reader: Callable[[Path], T], path: Path) -> T:
    """What a reader makes of a file; what it refuses is told with what the option takes."""
    if path.is_dir():
        raise UserError("a folder, not a file", where=path, mend=f"{option} takes one file")
    try:
        return reader(path)
    except UserError as error:
        mend = f"{option} takes lines as {LINES_OF[option]}"
        if not path.exists():
            mend = f"point {option} to a file that is there"
        elif "UTF-8" in error.what:
            mend = f"convert the file to UTF-8; {mend}"
        elif path.suffix != ".gz" and _holds_json(path) != ("{" in LINES_OF[option]):
            mend = f"this looks like {'JSON lines' if _holds_json(path) else 'columns'}, but {mend}"
        elif error.mend:
            mend = error.mend
        raise UserError(error.what, where=error.where, mend=mend) from error


def _holds_json(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1024).lstrip().startswith(b"{")


def gold(
    path: Path | None, reader: Callable[[Path], T], of_task: Callable[[], T] | None, option: str
) -> T:
    """What is right, from a file or from the task."""
    if path is not None:
        return read(option, reader, path)
    if of_task is None:
        raise UserError("nothing to score against", mend=f"give {option} or --task")
    return of_task()


def is_whole(given: Collection[str], judged: Collection[str], path: Path) -> bool:
    """Whether a file lacks no judged turn; says how many, and refuses one that lacks all."""
    lacking = [turn_id for turn_id in judged if turn_id not in given]
    if len(lacking) == len(judged):
        mend = f"the judged turns are as {lacking[0]!r}"
        if given:
            mend += f", this file's as {next(iter(given))!r}"
        raise UserError("no judged turn is in this file", where=path, mend=mend)
    if lacking:
        note(f"{path}: {len(lacking)} of {len(judged)} judged turns are missing and score 0")
    return not lacking
