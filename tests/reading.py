"""What the tests of the tasks' readers share: reading raw files, breaking them, the real ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.prepare import prepare
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card, task_module
from uniconv_bench.task import Task

RAW = Path(__file__).parent / "data" / "raw"
USER, AGENT = "user", "assistant"


def splits(task: str, raw: Path | None = None) -> tuple[str, ...]:
    found: tuple[str, ...] = task_module(*task_card(task)).splits(raw or RAW / task)
    return found


def conversations(task: str, split: str, raw: Path | None = None) -> list[Conversation]:
    return list(task_module(*task_card(task)).conversations(raw or RAW / task, split))


def turns(task: str, split: str, raw: Path | None = None) -> list[Turn]:
    return [turn for conversation in conversations(task, split, raw) for turn in conversation]


def passages(task: str, raw: Path | None = None) -> list[Passage]:
    return list(task_module(*task_card(task)).passages(raw or RAW / task))


def everything(task: str, raw: Path | None = None) -> tuple[Any, ...]:
    """All that a reader finds in a folder: equal for every form of the same data."""
    found = {split: conversations(task, split, raw) for split in splits(task, raw)}
    return found, passages(task, raw)


def said(turn: Turn) -> list[tuple[str, str]]:
    return [(utterance.role, utterance.text) for utterance in turn.history]


def unsized(task: str) -> tuple[TaskCard, Path]:
    """The shipped card without its published counts: of small files nothing else can be read."""
    card, path = task_card(task)
    return card.model_copy(update={"size": None}), path


def prepared(task: str, raw: Path, profile: Profile = "full") -> Task:
    card, path = unsized(task)
    return Task(card, profile, prepare(card, path, profile, raw, progress=Silent()))


def copied(task: str, folder: Path) -> Path:
    """A copy of the small raw files that a test may change."""
    return shutil.copytree(RAW / task, folder / task)


def replaced(path: Path, old: str, new: str) -> None:
    """Replaces what must be there, once."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def dump_lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def refusal(task: str, raw: Path) -> str:
    """The one line that preparing a folder is refused with: what, where and how to mend it."""
    with pytest.raises(UserError) as caught:
        prepared(task, raw)
    assert caught.value.where and caught.value.mend
    message = str(caught.value)
    assert "\n" not in message
    return message


def official(name: str) -> Path:
    """The folder of a dataset's real files; skips the test where there are none."""
    folder = os.environ.get("UNICONV_BENCH_TEST_DATA")
    if not folder:
        pytest.skip("UNICONV_BENCH_TEST_DATA names no folder of real dataset files")
    if not (Path(folder) / name).is_dir():
        pytest.skip(f"UNICONV_BENCH_TEST_DATA: no folder {folder}/{name}")
    return Path(folder) / name
