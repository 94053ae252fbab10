"""Scores by turn, kept beside their record: `<task>.scores.jsonl.gz`, which its digest vouches for.

So systems are compared from a folder of results alone. Knows records, no task and no system.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from uniconv_bench.definitions import PerTurn
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.records import ResultRecord, record_path

SUFFIX = ".scores.jsonl.gz"


def scores_path(record: Path) -> Path:
    """Where the scores by turn of a record file are."""
    return record.with_name(record.stem + SUFFIX)


def write_scores(scores: Path, record: Path) -> Path:
    """Puts a file of scores, a JSON line a turn, beside a record file; equal in, equal out."""
    path = scores_path(record)
    with atomic_write(path, "wb") as stream:
        stream.write(gzip.compress(scores.read_bytes(), mtime=0))
    return path


def read_scores(record: ResultRecord, file: Path) -> dict[str, PerTurn]:
    """Metric -> turn -> value, of every metric that a record has.

    Args:
        record: with the digest of the scores.
        file: where it was read from.

    Raises:
        UserError: there is no such file, or it is not the one that the record was made from.
    """
    path = scores_path(file)
    task, system, profile = record.task.name, record.system.name, record.task.profile
    again = f"uniconv-bench run --task {task} --system {system} --profile {profile}"
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        what = f"the record of {system} on {task} has no scores by turn beside it"
        raise UserError(what, where=path, mend=again) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError("not a whole gzip file", where=path, mend=again) from error
    if hashlib.sha256(content).hexdigest() != record.digests.scores:
        what = "these scores by turn are not those that the record beside them was made from"
        raise UserError(what, where=path, mend=again)
    rows = [json.loads(line) for line in content.splitlines()]
    return {
        score.metric: {row["turn_id"]: row[score.metric] for row in rows if score.metric in row}
        for score in record.scores
    }


def scores_at_hand(records: Sequence[ResultRecord], results: Path) -> dict[str, dict[str, PerTurn]]:
    """Digest of a record -> its scores by turn, of those that have them beside them.

    Raises:
        UserError: as of `read_scores`, but not for what is not there.
    """
    paths = {record.digest: (record, record_path(results, record)) for record in records}
    return {
        digest: read_scores(record, path)
        for digest, (record, path) in paths.items()
        if scores_path(path).exists()
    }
