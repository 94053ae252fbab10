"""Who is ranked where: tests where turns are the same, intervals where they are not."""

from __future__ import annotations

from collections.abc import Mapping

from evidence import steady

from uniconv_bench.metrics import metric_score
from uniconv_bench.ranking import Entry, Ranking, rankings

Values = Mapping[str, float]


def entry(name: str, ndcg: Values, f1: Values) -> Entry:
    by_metric = {"ndcg@3": dict(ndcg), "f1": dict(f1)}
    scores = [metric_score(metric, values) for metric, values in by_metric.items()]
    return Entry(name, name, "ours", {"toy": scores}, by_turn={"toy": by_metric})


def ranked(*entries: Entry) -> dict[str, tuple[dict[str, str], Ranking]]:
    return {
        r.kind: ({row.entry.name: str(row.ranks) for row in r.rows}, r) for r in rankings(entries)
    }


def test_scores_on_other_turns_are_ranked_by_intervals() -> None:
    """No test pairs them: of one system's scores by turn some are lacking."""
    whole, better = steady(0.4), {t: v + 0.02 for t, v in steady(0.4).items()}
    part = dict(list(better.items())[:30])
    same = ranked(entry("a", whole, whole), entry("b", better, better))
    for kind in ("retrieval", "generation", "both"):
        assert same[kind][0] == {"a": "2", "b": "1"} and same[kind][1].by_test
    other = ranked(entry("a", whole, whole), entry("b", part, better))
    assert other["retrieval"][0] == other["both"][0] == {"a": "1-2", "b": "1-2"}
    assert not other["retrieval"][1].by_test and not other["both"][1].by_test
    assert other["generation"][0] == {"a": "2", "b": "1"} and other["generation"][1].by_test


def test_intervals_apart_tell_systems_apart_to_both_sides() -> None:
    low, middle, high = (steady(value) for value in (0.2, 0.5, 0.8))
    near = {turn: value - 0.01 for turn, value in list(middle.items())[:40]}
    found = ranked(
        *(entry(n, v, v) for n, v in zip("abcd", (low, middle, near, high), strict=True))
    )
    assert found["both"][0] == {"d": "1", "b": "2-3", "c": "2-3", "a": "4"}
