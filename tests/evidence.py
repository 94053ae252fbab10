"""A folder of made-up records with scores by turn, for the tests of what is made of records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from test_records import make_record

from uniconv_bench.files import digest_of_file, write_jsonl
from uniconv_bench.metrics import metric_score
from uniconv_bench.outcomes import Outcome
from uniconv_bench.records import ResultRecord, record_path, write_record
from uniconv_bench.turnscores import write_scores

Scores = Mapping[str, Mapping[str, float]]
"""Metric -> turn -> value."""


def put(
    results: Path, task: str, system: str, scores: Scores, *, profile: str = "sample", **fields: Any
) -> ResultRecord:
    """Writes a record and its scores by turn where a folder of results keeps them."""
    limit = fields.pop("limit", None)
    of_task, training = fields.pop("of_task", {}), fields.pop("training", {})
    made = [metric_score(metric, values) for metric, values in scores.items()]
    record = make_record(task, system, tuple(made), profile=profile, limit=limit, **fields)
    turns = sorted({turn for values in scores.values() for turn in values})
    rows = [
        {"turn_id": t} | {m: values[t] for m, values in scores.items() if t in values}
        for t in turns
    ]
    path = record_path(results, record)
    plain = write_jsonl(path.with_suffix(".plain"), rows)
    content = record.model_dump(mode="json", exclude={"digest"})
    content["digests"]["scores"] = digest_of_file(plain)
    content["task"] |= of_task
    content["provenance"]["training"] = training
    record = ResultRecord.model_validate_json(json.dumps(content))
    write_scores(plain, write_record(record, path))
    plain.unlink()
    return record


def steady(
    value: float, conversations: int = 24, turns: int = 2, wave: float = 0.1
) -> dict[str, float]:
    """Values about one, a little higher and lower by conversation and by turn."""
    return {
        f"c{c:02d}_{t}": value + wave * ((c * 7 + t * 3) % 5 - 2) / 2
        for c in range(conversations)
        for t in range(turns)
    }


def make_outcome(**fields: Any) -> Outcome:
    """What a study found, of made-up parts."""
    facts: dict[str, Any] = {
        "study": "s",
        "title": "A study",
        "question": "Is it so?",
        "card_digest": "a" * 64,
        "profile": "sample",
        "backbones": {"x": "smollm2-135m", "y": "smollm2-135m"},
        "axis": "",
        "x": {},
        "figure": "dots",
        "baseline": "y",
        "data": {"qrecc": "b" * 64},
        "turns": None,
        **dict.fromkeys(("cut", "means", "gaps", "costs", "watched", "reading"), ()),
        "provenance": make_record().provenance,
    }
    return Outcome(**{**facts, **fields})
