"""The main job on the real backbone, through the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench.runs import read_answers

pytestmark = pytest.mark.slow
LIMIT = "12"


def run(cache: Path, system: str) -> tuple[dict[str, Any], str]:
    """The record that `run --json` prints, and what it said meanwhile."""
    command = [sys.executable, "-m", "uniconv_bench", "run", "--json", "--limit", LIMIT]
    done = subprocess.run(
        [*command, "--task", "qrecc", "--system", system],
        env={**os.environ, "UNICONV_BENCH_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout), done.stderr


def means(record: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["mean"] for score in record["scores"]}


def test_uniconv_retrieves_answers_and_beats_its_untrained_backbone(tmp_path: Path) -> None:
    record, said = run(tmp_path, "uniconv")
    assert "encode passages" in said
    assert "train" not in record["provenance"]["seconds"]
    assert record["system"]["backbone"] == "smollm2-135m"
    (answers,) = tmp_path.glob("answers/*/answers.jsonl")
    texts = [answer.text for answer in read_answers(answers).values()]
    assert len(texts) == record["counts"]["turns"] == int(LIMIT)
    assert all(texts)

    again, said = run(tmp_path, "uniconv")
    assert again == record
    assert "encode passages" not in said

    untrained, _ = run(tmp_path, "uniconv-untrained")
    trained, bare = means(record), means(untrained)
    assert trained["mrr"] > bare["mrr"]
    assert trained["f1"] > bare["f1"]
