"""A task's test turns, passages and judgements as files, for systems that run elsewhere.

What a system may read is always written, what it is judged by only when asked for.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.files import atomic_write
from uniconv_bench.system import Progress
from uniconv_bench.task import Task

TOPICS, PASSAGES = "topics.jsonl", "passages.jsonl"
QRELS, REFERENCES = "qrels.tsv", "references.jsonl"
LARGE = 1_000_000
"""Passages from which on their file is packed unless asked otherwise."""


def export(
    task: Task, out: Path, *, judgements: bool, packed: bool | None, progress: Progress
) -> dict[str, Path]:
    """Writes the files of a task's test split into a folder, one passage in memory at a time.

    Args:
        task: prepared.
        out: folder; files of an earlier export are replaced.
        judgements: write `qrels.tsv` and `references.jsonl` too, as `score` reads them.
        packed: gzip the passages; None: where there are a million or more.

    Returns:
        what a file holds -> where it is.
    """
    turns = task.turns()
    if packed is None:
        packed = len(task.corpus) >= LARGE
    files = {"topics": out / TOPICS, "passages": out / (PASSAGES + ".gz" * packed)}
    human = task.card.rewrites == "human"
    _write(files["topics"], (json_line(topic(turn, human)) for turn in turns))
    with progress.track("passages", len(task.corpus)) as advance:
        _write(files["passages"], _passages(task, advance))
    if judgements:
        files |= {"qrels": out / QRELS, "references": out / REFERENCES}
        judged = task.qrels().items()
        lines = (f"{t}\t0\t{p}\t{grade}\n" for t, qrels in judged for p, grade in qrels.items())
        _write(files["qrels"], lines)
        rows = ({"turn_id": t, "references": list(r)} for t, r in task.references().items())
        _write(files["references"], map(json_line, rows))
    return files


def topic(turn: Turn, human: bool) -> dict[str, Any]:
    """What a system may know of a turn.

    Args:
        turn: the turn.
        human: its rewrite is by a person.
    """
    row: dict[str, Any] = {
        "turn_id": turn.turn_id,
        "conversation_id": turn.conversation_id,
        "number": turn.number,
        "history": [asdict(utterance) for utterance in turn.history],
        "query": turn.query,
    }
    if human and turn.rewrite:
        row["human_rewrite"] = turn.rewrite
    if turn.given:
        row["given"] = list(turn.given)
    return row


def json_line(row: Mapping[str, Any]) -> str:
    """A line of a JSON lines file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _passages(task: Task, advance: Any) -> Iterator[str]:
    for passage in task.corpus:
        yield json_line({"id": passage.passage_id, "title": passage.title, "text": passage.text})
        advance(1)


def _write(path: Path, lines: Iterable[str]) -> None:
    with _opened(path) as stream:
        for line in lines:
            stream.write(line.encode())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with atomic_write(path, "wb") as stream:
        if path.suffix != ".gz":
            yield stream
            return
        # No name and no time in the header: equal content, equal bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
            yield packed
