"""Metrics: hand-worked values, and three implementations that must agree on random runs."""

from __future__ import annotations

import importlib
import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from uniconv_bench import definitions, metrics
from uniconv_bench.errors import UserError
from uniconv_bench.metrics import (
    METRICS,
    metric_score,
    missing,
    normalise,
    parse_metric,
    reference_scores,
    score_answers,
    score_run,
    token_f1,
)
from uniconv_bench.rendering import metric_label

RETRIEVAL = ["ndcg@3", "recall@10", "mrr"]
Runs = dict[str, list[tuple[str, float]]]


# --- names -------------------------------------------------------------------------------------


def test_metric_names() -> None:
    metric = parse_metric("recall@25")
    assert (metric.label, metric.stage, metric.cutoff) == ("Recall@25", "retrieval", 25)
    assert parse_metric("mrr").cutoff is None and parse_metric("f1").stage == "generation"
    for listed in METRICS:
        assert listed == parse_metric(listed.name)
        assert listed.definition and listed.source and "\n" not in listed.definition
    for wrong, message in [
        ("ncdg@3", "did you mean 'ndcg@3'"),
        ("ndcg", "ndcg@10"),
        ("recall@0", "needs a cutoff of at least 1"),
        ("recall@", "needs a cutoff"),
        ("f1@3", "unknown metric"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_metric(wrong)


def test_one_entry_is_all_that_a_metric_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def precision(ranked: Sequence[float], relevant: Sequence[float], cutoff: int | None) -> float:
        return sum(grade > 0 for grade in ranked[:cutoff]) / (cutoff or len(ranked))

    entry = definitions.Entry("Precision", "share of the ranks that are relevant", "s", precision)
    monkeypatch.setitem(definitions.RETRIEVAL, "precision", entry)
    assert parse_metric("precision@4").label == metric_label("precision@4") == "Precision@4"
    qrels = {"c_1": {"a": 1, "b": 1}}
    run = {"c_1": [("a", 3.0), ("x", 2.0), ("b", 1.0)]}
    for score in (score_run, reference_scores):
        assert score(qrels, run, ["precision@4"]) == {"precision@4": {"c_1": 0.5}}
    length = definitions.Entry("Length", "d", "s", lambda answer, references: len(answer) / 10)
    monkeypatch.setitem(definitions.GENERATION, "length", length)
    assert score_answers({"c_1": ["x"]}, {"c_1": "four"}, ["length"])["length"] == {"c_1": 0.4}
    assert metric_label("f1_quac") == "F1 (QuAC)" and metric_label("gone@3") == "gone@3"


def test_a_metric_of_the_other_stage_is_refused() -> None:
    with pytest.raises(UserError, match="'f1' is a generation metric"):
        score_run({"c_1": {"p": 1}}, {}, ["f1"])
    with pytest.raises(UserError, match="'mrr' is a retrieval metric"):
        score_answers({"c_1": ["x"]}, {}, ["mrr"])


def test_listing_metrics_imports_nothing_heavy() -> None:
    code = (
        "import json, sys; from uniconv_bench import metrics, records, runs, tables; "
        "print(len(metrics.METRICS)); "
        "print(json.dumps([m for m in ('numpy', 'numba', 'ranx', 'evaluate', 'datasets', 'torch', "
        "'pandas', 'pyarrow', 'spacy') if m in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.splitlines()[-1]) == []


# --- retrieval ---------------------------------------------------------------------------------


def random_case(seed: int, turns: int = 60) -> tuple[dict[str, dict[str, int]], Runs]:
    """Many ties, grades 0 to 3, judged turns that are missing, empty or without relevant ones."""
    rng = random.Random(seed)
    pool = [f"{'p' * rng.randint(1, 9)}{i}" for i in range(30)]
    qrels, run = {}, {}
    for i in range(turns):
        turn_id = f"c{i // 7}_{i % 7}"
        judged = rng.sample(pool, rng.randint(1, 6))
        qrels[turn_id] = {p: rng.randint(0, 3) for p in judged}
        if rng.random() < 0.15:
            continue
        ranked = rng.sample(pool, rng.randint(0, len(pool)))
        run[turn_id] = [(p, rng.choice([0.25, 0.5, 0.75, rng.random()])) for p in ranked]
    run["unjudged_1"] = [(pool[0], 1.0)]
    return qrels, run


def test_ranx_the_reference_and_pytrec_eval_agree_on_random_runs() -> None:
    """Kernel point 8. pytrec_eval breaks ties by descending id, so it is given ranks as scores."""
    import pytrec_eval

    names = ["ndcg@3", "ndcg@10", "recall@10", "mrr"]
    theirs = {"ndcg@3": "ndcg_cut_3", "ndcg@10": "ndcg_cut_10", "recall@10": "recall_10"}
    theirs["mrr"] = "recip_rank"
    compared = nonzero = 0
    for seed in range(12):
        qrels, run = random_case(seed)
        by_ranx = score_run(qrels, run, names)
        by_reference = reference_scores(qrels, run, names)
        in_order = {t: sorted(rows, key=lambda row: (-row[1], row[0])) for t, rows in run.items()}
        ranks = {
            t: {p: float(len(rows) - i) for i, (p, _) in enumerate(rows)}
            for t, rows in in_order.items()
        }
        judge = pytrec_eval.RelevanceEvaluator(qrels, set(theirs.values()))
        by_trec = judge.evaluate(ranks)
        for name in names:
            assert set(by_ranx[name]) == set(by_reference[name]) == set(qrels)
            for turn_id in qrels:
                value = by_ranx[name][turn_id]
                assert value == pytest.approx(by_reference[name][turn_id], abs=1e-9)
                trec = by_trec.get(turn_id, {}).get(theirs[name], 0.0)
                assert value == pytest.approx(trec, abs=1e-9), (seed, name, turn_id)
                compared += turn_id in by_trec
                nonzero += value > 0
    assert compared > 2000 and nonzero > 1000


def test_retrieval_by_hand() -> None:
    qrels = {"c_1": {"a": 3, "b": 2, "c": 1, "junk": 0}, "c_2": {"a": 1, "b": 1}}
    run = {"c_1": [("b", 9.0), ("junk", 8.0), ("a", 7.0), ("c", 6.0)], "c_2": [("x", 1.0)]}
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    for score in (score_run, reference_scores):
        scores = score(qrels, run, [*RETRIEVAL, "recall@1"])
        assert scores["ndcg@3"]["c_1"] == pytest.approx((2 + 3 / 2) / ideal, abs=1e-12)
        assert scores["recall@10"]["c_1"] == 1.0
        assert scores["recall@1"]["c_1"] == pytest.approx(1 / 3, abs=1e-12)
        assert scores["mrr"] == {"c_1": 1.0, "c_2": 0.0}


def test_ties_are_broken_by_passage_id_ascending_before_ranx_sees_them() -> None:
    """Kernel point 8: two hundred equal scores, the gold passage fourth by id, in any order."""
    ids = [f"p{i:03d}" for i in range(200)]
    qrels = {"c_1": {"p003": 1}}
    for seed in range(3):
        shuffled = random.Random(seed).sample(ids, len(ids))
        run = {"c_1": [(p, 0.5) for p in shuffled]}
        assert score_run(qrels, run, ["mrr"])["mrr"]["c_1"] == 0.25


def test_scores_are_compared_as_float32() -> None:
    """Kernel point 8: float32 tells 0.3 from 0.3000001, not from 0.300000001."""
    qrels = {"c_1": {"z": 1}}
    tied = {"c_1": [("z", 0.300000001), ("a", 0.3)]}
    apart = {"c_1": [("a", 0.3), ("z", 0.3000001)]}
    assert score_run(qrels, tied, ["mrr"])["mrr"]["c_1"] == 0.5
    assert score_run(qrels, apart, ["mrr"])["mrr"]["c_1"] == 1.0


def test_every_judged_turn_counts() -> None:
    """Kernel point 9: missing and empty turns score 0 and stay in the mean; others are left out."""
    qrels = {"c_1": {"p": 1}, "c_2": {"p": 1}, "c_3": {"p": 1}, "c_4": {"p": 1}}
    run: Runs = {"c_2": [("p", 1.0)], "c_3": [], "zz_9": [("p", 1.0)]}
    before = {turn_id: list(rows) for turn_id, rows in run.items()}
    for name, values in score_run(qrels, run, RETRIEVAL).items():
        assert values == {"c_1": 0.0, "c_2": 1.0, "c_3": 0.0, "c_4": 0.0}, name
        score = metric_score(name, values)
        assert (score.n, score.mean, score.conversations) == (4, 0.25, 1)
    assert run == before
    assert missing(qrels, run) == ["c_1", "c_4"]
    nothing = score_run(qrels, {}, RETRIEVAL)
    assert all(list(values.values()) == [0.0] * 4 for values in nothing.values())


def test_nan_is_refused_and_not_ranked_first() -> None:
    for bad in (math.nan, math.inf, 1e60):
        with pytest.raises(UserError, match="'p' is not a finite number.*c_1"):
            score_run({"c_1": {"p": 1}}, {"c_1": [("q", 0.5), ("p", bad)]}, RETRIEVAL)
    with pytest.raises(UserError, match="nothing is judged"):
        score_run({}, {}, RETRIEVAL)


def test_gold_passages_score_one_on_every_retrieval_metric() -> None:
    """Kernel point 13, wherever no turn has more gold passages than the cutoff."""
    rng = random.Random(3)
    qrels = {f"c_{i}": {f"g{i}.{j}": 1 for j in range(rng.randint(1, 3))} for i in range(40)}
    run = {t: [(p, 1.0) for p in gold] + [("a", 0.5)] for t, gold in qrels.items()}
    names = [m.name for m in METRICS if m.stage == "retrieval"]
    for name, values in score_run(qrels, run, names).items():
        assert set(values.values()) == {1.0}, name


def test_ranx_is_not_compiled_again_for_longer_ids_and_its_thread_count_is_undone() -> None:
    import numba

    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    threads = numba.get_num_threads()
    module = importlib.import_module("ranx.metrics.ndcg")

    def compiled(width: int) -> int:
        score_run({"c_1": {"g" * width: 1}}, {"c_1": [("g" * width, 1.0)]}, ["ndcg@3"])
        return len(module._ndcg_parallel.signatures)

    assert compiled(1) == compiled(40) == compiled(90)
    assert numba.get_num_threads() == threads


# --- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("The cat sat.", ["a cat sat"], 1.0),
        ("cat", ["the cat sat on a mat"], 2 * 1 * (1 / 4) / (1 + 1 / 4)),
        ("red red red", ["red blue"], 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
        ("red red blue", ["red red"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("well-known", ["wellknown"], 1.0),
        ("well known", ["well-known"], 0.0),
        ("Ångström, é!", ["ångström é"], 1.0),
        ("cafe", ["café"], 0.0),
        ("東京 Tokyo", ["tokyo"], 2 / 3),
        ("theatre another ant", ["theatre another ant"], 1.0),
        ("theatre", ["atre"], 0.0),
        ("", [""], 1.0),
        ("the.", ["a"], 1.0),
        ("", ["x"], 0.0),
        ("x", [""], 0.0),
        ("x", ["the"], 0.0),
        ("one two", ["nine", "two", "one two three"], 0.8),
        ("yes", ["", "yes"], 1.0),
    ],
)
def test_f1_by_hand(prediction: str, references: list[str], expected: float) -> None:
    """Kernel point 12: plain SQuAD token F1, the best over the references."""
    assert token_f1(prediction, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "references", "plain", "topiocqa", "quac"),
    [
        ("red fox", ["red fox"], 1.0, 1.0, 1.0),
        # Leaving out "red fox" leaves 0 and 2/3; leaving out another leaves 1.
        ("red fox", ["red fox", "blue", "fox"], 1.0, (2 / 3 + 1 + 1) / 3, (2 / 3 + 1 + 1) / 3),
        ("red fox", ["red fox", "red fox"], 1.0, 1.0, 1.0),
        # Half of the references are CANNOTANSWER: it alone stands.
        ("red", ["CANNOTANSWER", "red"], 1.0, 0.5, 0.0),
        ("CANNOTANSWER", ["CANNOTANSWER", "red"], 1.0, 0.5, 1.0),
        ("cannotanswer", ["CANNOTANSWER"], 1.0, 1.0, 0.0),
        # A minority of CANNOTANSWER is dropped: one reference is left, hence no leaving out.
        ("CANNOTANSWER", ["CANNOTANSWER", "red", "red"], 1.0, (0 + 1 + 1) / 3, 0.0),
        ("red", ["CANNOTANSWER", "red", "blue"], 1.0, (1 + 0 + 1) / 3, (0 + 1) / 2),
        ("", ["the"], 1.0, 1.0, 0.0),
    ],
)
def test_official_variants_by_hand(
    prediction: str, references: list[str], plain: float, topiocqa: float, quac: float
) -> None:
    """Kernel point 12: the datasets' own rules have their own names; `f1` is none of them."""
    for name, expected in (("f1", plain), ("f1_topiocqa", topiocqa), ("f1_quac", quac)):
        value = definitions.GENERATION[name].value(prediction, references)
        assert value == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize(
    ("prediction", "references", "expected", "plain"),
    [
        ("The bridge.", ["a BRIDGE"], 1.0, 1.0),
        # it s well known bridge | bridge is well known: 3 of 5 and 3 of 4; plainly its wellknown.
        ("It's a well-known bridge", ["The bridge is well known."], 6 / 9, 2 / 7),
        # ca nt | ca nt go: 2 of 2 and 2 of 3; plainly cant.
        ("can't", ["Can't  go"], 4 / 5, 2 / 3),
        # 1810 12 | 12: 1 of 2 and 1 of 1; plainly 181012.
        ("1810-12", ["12"], 2 / 3, 0.0),
        # 31 m | 31 metres: 1 of 2 each; plainly 31m.
        ("31m", ["31 metres"], 1 / 2, 0.0),
        # endthe weir | end weir: lower case goes first, and hides from spaCy where a sentence ends.
        ("end.The weir", ["end weir"], 1 / 2, 1 / 2),
        # The best of two annotators, not their mean nor one against the other.
        ("under the bridge", ["on the weir", "under a bridge"], 1.0, 1.0),
        ("a.", ["the"], 1.0, 1.0),
        ("", ["weir"], 0.0, 0.0),
    ],
)
def test_f1_inscit_by_hand(
    prediction: str, references: list[str], expected: float, plain: float
) -> None:
    """Kernel point 12: spaCy cuts before SQuAD's normalisation joins; `f1` does not."""
    pytest.importorskip("spacy")
    value = score_answers({"c_1": references}, {"c_1": prediction}, ["f1_inscit"])
    assert value["f1_inscit"]["c_1"] == pytest.approx(expected, abs=1e-12)
    assert token_f1(prediction, references) == pytest.approx(plain, abs=1e-12)


def test_f1_inscit_without_spacy_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    definitions._spacy_tokenizer.cache_clear()
    with pytest.raises(UserError, match=r"needs spacy, .*; pip install 'uniconv-bench\[inscit\]'"):
        definitions.inscit_f1("x", ["x"])


def test_normalisation_by_hand() -> None:
    assert normalise("  The “Quick”, (brown)\tFOX's  an-the a.") == "“quick” brown foxs anthe"


def test_a_missing_answer_scores_zero_even_where_an_empty_one_is_right() -> None:
    """Kernel point 9, for answers."""
    references = {"c_1": [""], "c_2": [""], "c_3": ["yes", "no"], "c_4": ["yes"]}
    answers = {"c_2": "", "c_3": "no", "zz_1": "yes"}
    scores = score_answers(references, answers, ["f1"])
    assert scores == {"f1": {"c_1": 0.0, "c_2": 1.0, "c_3": 1.0, "c_4": 0.0}}
    assert score_answers(references, {}, ["f1"]) == {"f1": dict.fromkeys(references, 0.0)}
    with pytest.raises(UserError, match="nothing is judged"):
        score_answers({}, answers, ["f1"])


def test_gold_answers_score_one_on_every_generation_metric() -> None:
    """Kernel point 13. The leave-one-out variants can give 1 for a single reference only."""
    pytest.importorskip("spacy")
    references = {f"c_{i}": ["UNANSWERABLE", f"The {i} of a"] for i in range(20)}
    for chosen in (0, 1):
        gold = {turn_id: texts[chosen] for turn_id, texts in references.items()}
        assert set(score_answers(references, gold, ["f1"])["f1"].values()) == {1.0}
    single = {turn_id: texts[1:] for turn_id, texts in references.items()}
    names = [m.name for m in METRICS if m.stage == "generation"]
    for name, values in score_answers(single, gold, names).items():
        assert set(values.values()) == {1.0}, name


def test_evaluate_loads_the_shipped_module_offline_and_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    loaded = evaluate.load(str(Path(metrics.__file__).parent / "token_f1"))
    predictions, references = ["the cat", "x", ""], [["cat"], ["y", "x z"], ["z"]]
    result = loaded.compute(predictions=predictions, references=references)
    expected = [token_f1(p, r) for p, r in zip(predictions, references, strict=True)]
    assert result == {"f1": pytest.approx(sum(expected) / 3), "per_turn": expected}


def test_a_metric_without_its_package_is_not_computable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "find_spec", lambda name: None)
    told: list[str] = []
    assert definitions.computable(["f1_inscit", "mrr", "f1"], told.append) == ["mrr", "f1"]
    (line,) = told
    assert line.endswith("not installed; pip install 'uniconv-bench[inscit]'")
    assert definitions.packages_of(["mrr", "f1"]) == ["ranx", "evaluate"]
    assert definitions.packages_of(["f1_inscit"]) == ["ranx", "evaluate", "spacy"]
