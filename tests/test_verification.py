"""A share of a submission made again: near ties pass, other scores and other words do not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from uniconv_bench import cli
from uniconv_bench.runs import read_answers
from uniconv_bench.system import Answer
from uniconv_bench.verification import answer_fault, drawn, ranking_fault

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
    # Another machine's rounding passes, another score does not; nor do other words.
    assert verified(system(tmp_path, off=1e-5))[0] == 0
    code, stages, _ = verified(system(tmp_path, off=0.5), "--seed", seed)
    assert code == 1 and stages["retrieval"]["agree"] == 0 and stages["generation"]["holds"]
    code, stages, _ = verified(system(tmp_path, words=5))
    assert code == 1 and stages["retrieval"]["holds"] and not stages["generation"]["holds"]
    code, out, _ = command("submit", "verify", bundle, "-s", system(tmp_path, words=5))
    assert code == 1 and "NOT what its system makes" in out
    assert "qrecc generation, first turn that differs" in out
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
