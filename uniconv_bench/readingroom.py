"""What the reading room shows of a task and of a system on it, turn by turn, as plain data.

Knows tasks and entries; nothing of HTML, into which every text is put as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.ranking import Entry
from uniconv_bench.rendering import metric_label
from uniconv_bench.rescoring import LoadedTask
from uniconv_bench.runs import Run, read_answers, read_run

SHOWN = 5
"""Passages of a ranking that are shown."""
DIGITS = 6


def task_data(task: LoadedTask, *, texts: bool) -> dict[str, Any]:
    """Every test turn: its id and, with `texts`, what was said in it and its references."""
    return {
        "texts": texts,
        "turns": [_turn(turn) if texts else {"id": turn.turn_id} for turn in task.turns()],
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "id": turn.turn_id,
        "history": [[said.role, said.text] for said in turn.history],
        "query": turn.query,
        "references": list(dict.fromkeys(turn.references)),
    }


def can_be_read(entry: Entry, task: str) -> bool:
    """Whether there is anything by turn to show of a system on a task."""
    return bool(entry.by_turn.get(task))


def system_data(task: LoadedTask, entry: Entry, *, texts: bool) -> dict[str, Any]:
    """A system's turns in the order of the task's.

    Args:
        task: which.
        entry: with scores by turn of it.
        texts: also answers and passages; without, rankings show ids alone.

    Returns:
        `metrics`, their `labels`, `passages` ([id, title, text], each once) and `turns`: `scores`
        in the order of `metrics`, `ranking` ([number of the passage, score, whether it is gold],
        best first), `gold` (ranks, from 1, of all gold passages in the ranking), `answer`.
        None: not at hand.
    """
    name = task.card.name
    by_turn, files = entry.by_turn[name], entry.files.get(name, {})
    run = read_run(files["run"]) if "run" in files else None
    answers = read_answers(files["answers"]) if "answers" in files and texts else {}
    shown = _Passages(task, texts)
    rows = []
    for turn in task.turns():
        values = [by_turn[metric].get(turn.turn_id) for metric in by_turn]
        answer = answers.get(turn.turn_id)
        rows.append(
            {
                "scores": [None if value is None else round(value, DIGITS) for value in values],
                **_ranked(turn, run, shown),
                "answer": answer.text if answer else None,
            }
        )
    labels = [metric_label(metric) for metric in by_turn]
    return {"metrics": list(by_turn), "labels": labels, "passages": shown.rows, "turns": rows}


class _Passages:
    """The passages shown, each once."""

    def __init__(self, task: LoadedTask, texts: bool) -> None:
        self.rows: list[list[str]] = []
        self._numbers: dict[str, int] = {}
        self._task, self._texts = task, texts

    def number(self, passage_id: str) -> int:
        if passage_id not in self._numbers:
            self._numbers[passage_id] = len(self.rows)
            passage = self._task.corpus[passage_id] if self._texts else None
            self.rows.append([passage_id, *([passage.title, passage.text] if passage else [])])
        return self._numbers[passage_id]


def _ranked(turn: Turn, run: Run | None, shown: _Passages) -> dict[str, Any]:
    if run is None:
        return {"ranking": None, "gold": None}
    ranking = run.get(turn.turn_id, [])
    return {
        "ranking": [
            [shown.number(passage_id), round(score, DIGITS), passage_id in turn.gold]
            for passage_id, score in ranking[:SHOWN]
        ],
        "gold": [rank for rank, (name, _) in enumerate(ranking, 1) if name in turn.gold],
    }


def script(name: str, value: Mapping[str, Any]) -> str:
    """Data as a script, which pages opened from a folder may load where they may not fetch.

    The data is a string in it: no key and no text of it is ever code.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"receive({json.dumps(name)}, {json.dumps(text)});\n"
