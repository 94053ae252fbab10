"""A share of a submission made again: near ties pass, other scores and other words do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import ANY

import pytest

from uniconv_bench import cli
from uniconv_bench.assembly import Setup
from uniconv_bench.progress import Silent
from uniconv_bench.runs import ordered, read_answers, read_run, write_answers, write_run
from uniconv_bench.system import Answer
from uniconv_bench.system_cards import SystemCard
from uniconv_bench.task import load_task
from uniconv_bench.verification import (
    TOLERANCES,
    Repeated,
    answer_fault,
    drawn,
    ranking_fault,
    share_of,
    tolerance_of,
)

CODE = """
from uniconv_bench.system import Answer

class Shared:
    def __init__(self, settings, context):
        self.settings = settings
    def fingerprint(self):
        return self.settings
    def retrieve(self, turns, corpus, depth, progress):
        words = {p.passage_id: set(p.contents.lower().split()) for p in corpus}
        for number, turn in enumerate(turns):
            asked = set(turn.query.lower().split())
            off = self.settings["off"] * (-1) ** number
            rows = [(name, len(asked & found) + off) for name, found in words.items()]
            yield turn.turn_id, sorted(rows, key=lambda row: (-row[1], row[0]))[:depth]

class Echo:
    def __init__(self, settings, context):
        self.settings = settings
    def fingerprint(self):
        return self.settings
    def generate(self, turns, evidence, progress):
        for turn in turns:
            words = evidence[turn.turn_id][0].text.split()[: self.settings["words"]]
            yield Answer(turn.turn_id, " ".join(words))
"""
SYSTEM = """
name = "parrot"
title = "Parrot"
description = "Repeats the first words of what it finds."
retriever = {{ kind = "parrot:Shared", settings = {{ off = {off} }} }}
generator = {{ kind = "parrot:Echo", settings = {{ words = {words} }} }}
"""
CARD = """
name = "my-parrot"
title = "My parrot"
authors = ["A. Bird"]
contact = "bird at example.org"
date = "2026-01-31"
description = "Repeats what it finds."
trained_on = []
tasks = ["qrecc"]
profile = "sample"
"""


def test_near_ties_may_change_places_and_scores_may_not() -> None:
    claimed = [("a", 2.0), ("b", 1.0), ("c", 0.99999)]
    for made, fault in [
        (claimed, None),
        ([*claimed, ("d", 0.5)], None),  # it goes deeper
        ([("a", 2.0), ("c", 1.00001), ("b", 0.99999)], None),
        ([("a", 2.0), ("b", 1.0), ("d", 1.00001)], None),  # a near tie at the last rank
        ([("a", 2.0), ("c", 1.1), ("b", 1.0)], "'c' at rank 3 has the score 0.99999, made again 1"),
        ([("a", 2.0), ("d", 1.5), ("b", 1.0), ("c", 0.99999)], "'d', at rank 2 when made again"),
        ([("b", 1.0), ("c", 0.99999), ("d", 0.9)], "'a' at rank 1 has the score 2, .*at most 0.9"),
        (claimed[:2], "it ranks 3 passages, made again 2"),
        ([], "it ranks 3 passages, made again 0"),
    ]:
        found = ranking_fault(claimed, made, 1e-4)
        if fault is None:
            assert found is None, made
        else:
            assert found is not None and re.search(fault, found), found
    assert ranking_fault([], claimed, 1e-4) is None


COSINES = [(f"p{n:02d}", 0.80 - 0.001 * n) for n in range(100)]
"""Of a bfloat16 model: a spread of a tenth, far from 0."""


def moved(name: str, score: float) -> list[tuple[str, float]]:
    """Those of `COSINES` with a passage at another score, in order, no more than there were."""
    others = [row for row in COSINES if row[0] != name]
    return sorted([*others, (name, score)], key=lambda row: (-row[1], row[0]))[: len(COSINES)]


@pytest.mark.parametrize("added", [0.0, 100.0, 1e5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_passage_is_lifted_whatever_is_added_to_scores(added: float, dtype: str) -> None:
    near = TOLERANCES[dtype].score
    made = [(name, score + added) for name, score in COSINES]

    def fault(name: str, score: float) -> str | None:
        return ranking_fault([(n, s + added) for n, s in moved(name, score)], made, near)

    assert fault("p00", 0.80) is None
    assert "passage 'p15' at rank 1" in str(fault("p15", 0.801))
    assert "made again at most" in str(fault("gold", 0.801))
    assert "made again at most" in str(fault("gold", 0.75))
    if added < 1e5:  # else float32 itself can't tell
        # The last place is as good as any that was not found; 0.0002 of a spread of 0.099.
        assert (fault("gold", 0.7012) is None) == (dtype == "bfloat16")


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_scores_differ_by_a_share_of_their_spread(dtype: str, share: float) -> None:
    made = [("a", 12.0), ("b", 7.0), ("c", 2.0)]
    for off, fits in ((0.9 * share, True), (1.1 * share, False), (-1.1 * share, False)):
        claimed = [("a", 12.0), ("b", 7.0 + 10 * off), ("c", 2.0)]
        assert (ranking_fault(claimed, made, TOLERANCES[dtype].score) is None) == fits


@pytest.mark.parametrize("outlier", [-1e6, 1e6])
def test_an_outlier_that_makes_all_others_near_excuses_no_move(outlier: float) -> None:
    made = sorted([*COSINES, ("odd", outlier)], key=lambda row: -row[1])
    for name in ("p01", "p40"):
        claimed = sorted([*moved(name, 0.801), ("odd", outlier)], key=lambda row: -row[1])
        assert "is a near tie, made again at rank" in str(ranking_fault(claimed, made, 1e-4))
    assert ranking_fault(made, made, 1e-4) is None


def test_scores_that_are_all_the_same_let_no_other_ranking_pass() -> None:
    made = [(f"p{n}", 1e8) for n in range(100)]
    assert ranking_fault(made, made, 0.05) is None
    for claimed in ([("gold", 1e8)], [("p7", 1e8)], [*made[1:], ("gold", 1e8)]):
        assert "near tie" in str(ranking_fault(claimed, made, 0.05))
    assert "near tie" in str(ranking_fault([("gold", 1e8)], [("p0", 1e8)], 0.05))


def test_a_near_tie_lifts_to_half_a_rank_at_most() -> None:
    level = [(f"p{n}", 0.5 - n * 1e-9) for n in range(8)]
    made = [*((f"a{n}", 2.0 - n / 10) for n in range(12)), *level]
    names = [name for name, _ in made]
    for first, fits in ((level[7], True), (("p99", 0.5), True)):
        claimed = [*made[:12], first, *[row for row in level if row != first][:7]]
        assert (ranking_fault(claimed, made, 1e-4) is None) == fits
    assert names.index("p7") + 1 == 20
    few = [("a", 2.0), ("b", 1.9), ("c", 1.8), ("d", 1.7)]
    made = [*((f"p{n}", 3.0 - n * 1e-9) for n in range(4)), *few]
    assert ranking_fault([made[2], *made[:2], *made[3:]], made, 1e-4) is None
    lifted = ranking_fault([made[3], *made[:3], *made[4:]], made, 1e-4)
    assert lifted == "passage 'p3' at rank 1 is a near tie, made again at rank 4"


def card_of(retriever: str, generator: str, dtype: str) -> Setup:
    card = SystemCard.model_validate(
        {
            **dict.fromkeys(("name", "title", "description"), "x"),
            "backbone": {"sample": "smollm2-135m"},
            "retriever": {"kind": retriever},
            "generator": {"kind": generator},
            "inference": {"dtype": dtype},
        }
    )
    return Setup(card, Path("x.toml"), "sample", Silent())


@pytest.mark.parametrize(
    ("retriever", "dtype", "score", "shares"),
    [
        ("bm25", "float32", 1e-4, (1.0, 0.9)),
        ("bm25", "bfloat16", 1e-4, (1.0, 0.7)),
        ("dense", "bfloat16", 0.05, (1.0, 0.7)),
        ("dense", "float32", 1e-4, (1.0, 0.9)),
        ("here:Own", "bfloat16", 0.05, (1.0, 0.7)),
    ],
)
def test_each_stage_is_held_to_the_precision_of_its_own_model(
    retriever: str, dtype: str, score: float, shares: tuple[float, float]
) -> None:
    setup = card_of(retriever, "llm", dtype)
    assert tolerance_of(setup, "retriever").score == score
    assert (share_of(setup, "retriever"), share_of(setup, "generator")) == shares


def test_enough_turns_agree_and_forgers_chances_are_told() -> None:
    def held(agree: int, needed: int) -> Repeated:
        return Repeated("toy", "generation", 10, agree, needed, None)

    assert held(9, 9).holds and not held(8, 9).holds
    # By hand: none of ten met; or at most one; or at most three.
    assert held(10, 10).passes(0.1) == pytest.approx(0.9**10)
    assert held(10, 9).passes(0.2) == pytest.approx(0.8**10 + 10 * 0.2 * 0.8**9)
    assert held(10, 7).passes(0.2) == pytest.approx(0.8791, abs=1e-4)


def test_answers_are_the_same_words() -> None:
    long = "It was built in the year 1820 by a guild of bakers"
    assert answer_fault(Answer("1_1", long), Answer("1_1", f"{long}\n")) is None
    fault = answer_fault(Answer("1_1", long), Answer("1_1", long.replace("guild", "gang")))
    assert fault == (
        "the answer is '… 1820 by a guild of bakers', made again '… 1820 by a gang of bakers'"
    )
    assert "made again ''" in str(answer_fault(Answer("1_1", "yes"), Answer("1_1", "")))
    assert "made again it is not" in str(answer_fault(Answer("1_1", "yes"), None))


def test_turns_are_drawn_by_seed_and_never_too_few() -> None:
    turns = [f"{c}_{n}" for c in range(30) for n in range(10)]
    assert drawn(turns[:7], 0.02, 1) == turns[:7]
    assert len(drawn(turns, 0.02, 1)) == 10 and len(drawn(turns, 0.1, 1)) == 30
    assert drawn(turns, 0.1, 1) == drawn(turns, 0.1, 1) != drawn(turns, 0.1, 2)
    assert drawn(turns, 1.0, 1) == turns
    assert drawn(turns, 0.1, 1) == sorted(drawn(turns, 0.1, 1), key=turns.index)


def system(folder: Path, off: float = 0.0, words: int = 6) -> str:
    path = folder / f"parrot-{off}-{words}.toml"
    path.write_text(SYSTEM.format(off=off, words=words))
    return str(path)


def test_a_bundle_is_held_against_its_system(
    tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    (tmp_path / "parrot.py").write_text(CODE)
    (tmp_path / "card.toml").write_text(CARD)
    ours, results = system(tmp_path), tmp_path / "results"
    assert command("run", "-t", "qrecc", "-s", ours, "--results", results)[0] == 0
    code, _, err = command(
        *("submit", "pack", tmp_path / "card.toml", "--output", tmp_path),
        *("--system", "parrot", "--results", results),
    )
    assert code == 0, err
    bundle = tmp_path / "my-parrot"

    def verified(other: str, *more: str) -> tuple[int, dict[str, dict[str, object]], str]:
        code, out, _ = command("submit", "verify", bundle, "-s", other, "--json", *more)
        told = json.loads(out)
        return code, {stage["stage"]: stage for stage in told["stages"]}, str(told["seed"])

    code, stages, seed = verified(ours, "--share", "0.2")
    assert code == 0
    turns = len(read_answers(bundle / "qrecc.answers.jsonl.gz"))
    assert stages["generation"]["agree"] == stages["generation"]["turns"] == -(-turns // 5)
    assert stages["retrieval"]["first"] is None
    assert stages["retrieval"]["needed"] == stages["retrieval"]["turns"]
    assert stages["generation"]["needed"] == -(-9 * stages["generation"]["turns"] // 10)
    chance = stages["retrieval"]["passes"]
    assert chance == {"0.1": pytest.approx(0.9 ** stages["retrieval"]["turns"]), "0.2": ANY}  # type: ignore[operator]
    # Another machine's rounding passes, another score does not; nor do other words.
    assert verified(system(tmp_path, off=1e-7), "--share", "1")[0] == 0
    code, stages, _ = verified(system(tmp_path, off=0.5), "--seed", seed)
    assert code == 1 and stages["retrieval"]["agree"] == 0 and stages["generation"]["holds"]
    # A bundle of one's own ranking: its answers were written from that, and are so again.
    other = tmp_path / "other"
    made = read_run(bundle / "qrecc.run.gz")
    upside_down = {t: ordered((p, -score) for p, score in rows) for t, rows in made.items()}
    texts = {p.passage_id: p.text for p in load_task("qrecc", "sample", progress=Silent()).corpus}
    written = (
        Answer(turn, " ".join(texts[rows[0][0]].split()[:6])) for turn, rows in upside_down.items()
    )
    write_run(tmp_path / "other.trec", upside_down.items(), "x")
    write_answers(tmp_path / "other.jsonl", written)
    code, _, err = command(
        *("submit", "pack", tmp_path / "card.toml", "--output", other),
        *("--run", f"qrecc={tmp_path / 'other.trec'}"),
        *("--answers", f"qrecc={tmp_path / 'other.jsonl'}"),
    )
    assert code == 0, err
    honest, bundle = bundle, other / "my-parrot"
    code, stages, _ = verified(ours)
    assert code == 1 and stages["retrieval"]["agree"] == 0
    assert stages["generation"]["agree"] == stages["generation"]["turns"]
    bundle = honest
    code, stages, _ = verified(system(tmp_path, words=5))
    assert code == 1 and stages["retrieval"]["holds"] and not stages["generation"]["holds"]
    code, out, _ = command("submit", "verify", bundle, "-s", system(tmp_path, words=5))
    assert code == 1 and "NOT what its system makes" in out
    assert "qrecc generation, first turn that differs" in out
    assert "10 % forged" in " ".join(out.split())  # columns are as wide as the terminal
    # Weights that are not at hand are never trained in passing.
    adapter = tmp_path / "trained.toml"
    adapter.write_text(
        'extends = "uniconv"\nname = "trained"\ntitle = "T"\ndescription = "D"\n'
        "adapters.joint.temperature = 0.05\n"
    )
    code, _, err = command("submit", "verify", bundle, "-s", adapter)
    assert code == 2 and "no adapter fits 'joint' of trained" in err and "adapters/ beside" in err
    # A bundle that is not sound is not run.
    (bundle / "more.txt").write_text("x")
    code, _, err = command("submit", "verify", bundle, "-s", ours)
    assert code == 1 and "unknown file 'more.txt'" in err
