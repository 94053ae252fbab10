"""Figures under other conventions, worked by hand."""

from __future__ import annotations

import pytest
from test_records import make_record, make_score

from uniconv_bench.conventions import by_averaging, by_ties

VALUES = {"a_2": 1.0, "a_3": 0.5, "a_10": 0.0, "b_1": 0.4, "b_2": 0.0}


def test_averages_by_hand() -> None:
    """a: 0.5, b: 0.2. Without a_2 (2 comes before 10) and b_1: 0.5 of three. One turn missing."""
    record = make_record(scores=(make_score("f1", 0.38, n=5), make_score("f1_quac", 0.3)))
    counts = record.counts.model_copy(update={"missing_answers": 1})
    record = record.model_copy(update={"counts": counts})
    rows = by_averaging(record, {"f1": VALUES, "f1_quac": {"a_1": 0.3}})
    found = {row.convention: (row.mean, row.n) for row in rows if row.metric == "f1"}
    assert found == {
        "each conversation weighs alike": (pytest.approx(0.35), 2),
        "without the first judged turn": (pytest.approx(0.5 / 3), 3),
        "turns not answered dropped, not zero": (pytest.approx(1.9 / 4), 4),
        "the dataset's own variant, f1_quac": (0.3, 20),
    }
    assert all(row.recorded == (0.38 if row.metric == "f1" else 0.3) for row in rows)


def test_ties_by_hand() -> None:
    """p1 and p2 tie below p0, p1 is relevant: rank 2 by our rule, 3 by trec_eval's."""
    record = make_record(scores=(make_score("mrr", 0.25), make_score("f1", 0.3)))
    run = {"a_1": [("p1", 1.0), ("p2", 1.0), ("p0", 2.0)]}
    rows = by_ties(record, run, {"a_1": {"p1": 1, "p2": 0}, "a_2": {"p9": 1}})
    assert [row.metric for row in rows] == ["mrr"] * 3 and {row.n for row in rows} == {2}
    trec, lucky, unlucky = (row.mean for row in rows)
    assert (trec, lucky, unlucky) == (1 / 6, 1 / 4, 1 / 6)
