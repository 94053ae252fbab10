"""Scores by turn beside records: equal in, equal out; what is not the record's is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence import put, steady

from uniconv_bench.errors import UserError
from uniconv_bench.records import read_records, record_path
from uniconv_bench.turnscores import read_scores, scores_at_hand, scores_path, write_scores

SCORES = {"ndcg@3": steady(0.4), "f1": {"c00_0": 1 / 3, "zz_9": 0.1 + 0.2}}


def test_scores_come_back_to_the_digit_and_the_file_is_always_the_same(tmp_path: Path) -> None:
    record = put(tmp_path, "qrecc", "uniconv", SCORES)
    assert read_scores(record, record_path(tmp_path, record)) == SCORES
    assert read_records(tmp_path) == [record]  # the file beside it is taken for no record
    path = scores_path(record_path(tmp_path, record))
    first = path.read_bytes()
    put(tmp_path, "qrecc", "uniconv", SCORES)
    assert path.read_bytes() == first and path.name == "qrecc.scores.jsonl.gz"


def test_scores_of_another_run_are_refused(tmp_path: Path) -> None:
    record = put(tmp_path, "qrecc", "uniconv", SCORES)
    other = tmp_path / "other.jsonl"
    other.write_text('{"turn_id": "c00_0", "ndcg@3": 1.0}\n')
    path = write_scores(other, record_path(tmp_path, record))
    with pytest.raises(UserError, match=r"not those that the record.*run --task qrecc --system"):
        read_scores(record, record_path(tmp_path, record))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole gzip file"):
        read_scores(record, record_path(tmp_path, record))
    path.write_text("turn_id")
    with pytest.raises(UserError, match="not a whole gzip file"):
        scores_at_hand([record], tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no scores by turn beside it"):
        read_scores(record, record_path(tmp_path, record))
    assert scores_at_hand([record], tmp_path) == {}


def test_every_committed_record_has_its_scores_and_they_average_to_it() -> None:
    results = Path(__file__).parent.parent / "results"
    records = read_records(results)
    assert records
    for record in records:
        by_turn = read_scores(record, record_path(results, record))
        for score in record.scores:
            values = by_turn[score.metric].values()
            assert len(values) == score.n
            assert sum(values) / len(values) == pytest.approx(score.mean, abs=1e-12)
