"""Claims as data and their verdicts, each reached by made-up records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evidence import make_outcome, put, steady

from uniconv_bench import cli
from uniconv_bench.claim_cards import Claim, StudyPart, SystemPart, read_claims
from uniconv_bench.claims import Answer, judge
from uniconv_bench.errors import UserError
from uniconv_bench.outcomes import ALL, Gap, write_outcome
from uniconv_bench.records import STUDIES
from uniconv_bench.tables import PAPER_TASKS
from uniconv_bench.verdicts import markdown, notes

PART = {"metric": "f1", "above": "a", "below": "b"}
MARGIN = {**PART, "margin": 0.05, "reason": "ours: why not"}


def claim(*parts: object, **fields: object) -> Claim:
    facts = {"id": "x", "family": "y", "sentence": "A over b.", "source": "paper"}
    return Claim.model_validate_json(json.dumps({**facts, "parts": parts, **fields}))


def verdict(results: Path, *parts: object) -> Answer:
    (answer,) = judge([claim(*parts)], "sample", [results])
    return answer


def two(results: Path, above: float, below: float, task: str = "qrecc") -> None:
    put(results, task, "a", {"f1": steady(above)})
    shaken = {
        t: v + (0.15 if i % 4 < 2 else -0.15) for i, (t, v) in enumerate(steady(below).items())
    }
    put(results, task, "b", {"f1": shaken})


@pytest.mark.parametrize(
    ("above", "below", "plain", "within_margin"),
    [
        (0.7, 0.4, "supported", "supported"),
        (0.4, 0.7, "contradicted", "contradicted"),
        (0.5, 0.51, "inconclusive", "inconclusive"),
        (0.5, 0.46, "inconclusive", "supported"),
    ],
)
def test_verdicts(
    tmp_path: Path, above: float, below: float, plain: str, within_margin: str
) -> None:
    two(tmp_path, above, below)
    assert verdict(tmp_path, PART).verdict == plain
    assert verdict(tmp_path, MARGIN).verdict == within_margin


def test_what_is_open_says_what_would_settle_it(tmp_path: Path) -> None:
    two(tmp_path, 0.5, 0.48)
    answer = verdict(tmp_path, PART)
    needed = answer.parts[0].evidence.difference.turns_to_settle
    assert answer.settle[0].startswith(f"F1 of a above b: about {needed:,} turns")
    others = " ".join(f"--task {task}" for task in PAPER_TASKS if task != "qrecc")
    assert f"uniconv-bench run {others} --system a --profile sample" in answer.settle
    (absent,) = judge([claim(PART)], "mini", [tmp_path])
    assert absent.verdict == "not measured" and absent.parts == ()
    assert "--task qrecc" in absent.settle[0] and absent.settle[0].endswith("--profile mini")


def test_a_claim_holds_if_all_its_parts_do_and_falls_with_one(tmp_path: Path) -> None:
    two(tmp_path, 0.7, 0.4)
    reverse = {"metric": "f1", "above": "b", "below": "a"}
    assert verdict(tmp_path, PART, reverse).verdict == "contradicted"
    assert verdict(tmp_path, PART, {**PART, "below": "c"}).verdict == "not measured"
    assert verdict(tmp_path, reverse, {**PART, "below": "c"}).verdict == "contradicted"


def test_a_task_that_says_the_contrary_leaves_a_claim_open(tmp_path: Path) -> None:
    two(tmp_path, 0.74, 0.26)
    assert verdict(tmp_path, PART).verdict == "supported"
    two(tmp_path, 0.4, 0.6, "inscit")
    answer = verdict(tmp_path, PART)
    assert answer.parts[0].evidence.difference.mean > 0 and answer.parts[0].p < 0.05
    assert answer.verdict == "inconclusive" and "the contrary" in answer.settle[0]


def test_parts_of_a_family_are_corrected_together(tmp_path: Path) -> None:
    two(tmp_path, 0.7, 0.4)
    one = claim(PART)
    many = [claim(PART, id=f"x{i}") for i in range(4)]
    apart = [claim(PART, id=f"x{i}", family=f"y{i}") for i in range(4)]
    (alone,) = judge([one], "sample", [tmp_path])
    p = alone.parts[0].p
    assert [a.parts[0].p for a in judge(many, "sample", [tmp_path])] == [pytest.approx(4 * p)] * 4
    assert [a.parts[0].p for a in judge(apart, "sample", [tmp_path])] == [p] * 4


def training(seed: int = 1, code: str = "a", steps: int = 5) -> dict[str, object]:
    facts = {"device": "cpu", "package": "0.1.0", "libraries": {}, "peak_memory_bytes": 0}
    return {**facts, "seed": seed, "code": code * 64, "steps": steps, "tokens": 9}


def test_trainings_that_differ_beyond_cards_and_single_seeds_are_told(tmp_path: Path) -> None:
    for folder, code in (("alike", "a"), ("unlike", "b")):
        put(tmp_path / folder, "qrecc", "a", {"f1": steady(0.7)}, training={"x": training()})
        put(tmp_path / folder, "qrecc", "b", {"f1": steady(0.4)}, training={"x": training(1, code)})
    alike, unlike = (notes([verdict(tmp_path / name, PART)]) for name in ("alike", "unlike"))
    assert [line for line in unlike if line not in alike] == [
        "a and b were trained with unlike code: aaaaaaaaaaaa and bbbbbbbbbbbb."
    ]
    assert "single training run" in alike[0]


def test_a_verdict_on_trained_systems_takes_three_seeds_of_each(tmp_path: Path) -> None:
    folders = [tmp_path / str(seed) for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders, 1):
        for system, value in (("a", 0.7), ("b", 0.4)):
            put(folder, "qrecc", system, {"f1": steady(value)}, training={"x": training(seed)})

    def judged(*results: Path) -> Answer:
        (answer,) = judge([claim(PART)], "sample", results)
        return answer

    assert judged(*folders).verdict == "supported"
    assert "yet other seeds" in notes([judged(*folders)])[0]
    for lacking, results in ((1, folders[:2]), (2, folders[:1] * 3)):  # the same thrice is once
        answer = judged(*results)
        assert answer.verdict == "inconclusive"
        more = f"{lacking} more trainings of each system, with other seeds"
        assert answer.settle[0] == f"F1 of a above b: {more}"
    put(tmp_path / "1", "qrecc", "b", {"f1": steady(0.4)})  # nothing is trained on one side
    assert judged(tmp_path / "1").verdict == "supported"


def test_all_trainings_of_a_system_count(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "a", {"f1": steady(0.7)}, training={"x": training()})
    put(tmp_path, "qrecc", "b", {"f1": steady(0.4)}, training={"x": training(), "y": training()})
    told = notes([verdict(tmp_path, PART)])
    assert "a and b were trained with unlike steps: 5 and 5 + 5." in told
    assert "a and b were trained with unlike tokens: 9 and 9 + 9." in told
    assert not any("unlike code" in line for line in told)


def test_limited_records_judge_nothing_and_partial_data_is_told(tmp_path: Path) -> None:
    for folder, fields in (
        ("limited", {"limit": 48}),
        ("part", {"of_task": {"part": ["48 of 2,514 turns of dev"]}}),
    ):
        put(tmp_path / folder, "qrecc", "a", {"f1": steady(0.7)}, **fields)
        put(tmp_path / folder, "qrecc", "b", {"f1": steady(0.4)}, **fields)
    with pytest.raises(UserError, match="a on qrecc was run on the first 48 turns only"):
        verdict(tmp_path / "limited", PART)
    told = notes([verdict(tmp_path / "part", PART)])
    assert "qrecc: part of the dataset, 48 of 2,514 turns of dev." in told


def test_systems_on_different_backbones_are_not_judged(tmp_path: Path) -> None:
    put(tmp_path, "qrecc", "a", {"f1": steady(0.7)})
    put(tmp_path, "qrecc", "b", {"f1": steady(0.4)}, backbone="mistral-7b")
    with pytest.raises(UserError, match="a and b on qrecc stand on different backbones"):
        verdict(tmp_path, PART)


def test_the_papers_claims_are_well_formed_and_name_systems_that_there_are() -> None:
    from uniconv_bench import registry

    claims = read_claims()
    parts = [part for c in claims for part in c.parts]
    of_systems = [part for part in parts if isinstance(part, SystemPart)]
    named = {name for part in of_systems for name in (part.above, part.below)}
    assert len(claims) >= 8 and named <= set(registry.system_names())


@pytest.mark.parametrize("profile", ["sample", "mini", "full"])
def test_the_differences_that_claims_rest_on_are_those_of_the_studies(profile: Any) -> None:
    from uniconv_bench import registry

    parts = [part for c in read_claims() for part in c.parts if isinstance(part, StudyPart)]
    assert parts
    for part in parts:
        card = registry.study_card(part.study)[0].at(profile)
        compared = {f"{label} - {card.baseline}" for label in card.conditions}
        compared |= {f"{e.condition} - {e.against}" for e in card.expectations}
        if card.interaction:
            compared.add("({} - {}) - ({} - {})".format(*card.interaction))
        assert part.difference in compared and card.tasks[profile]
        assert part.metric in (*card.metrics, *card.extras)


BELOW = {"study": "s", "difference": "x - y", "metric": "f1", "direction": "lower"}


def test_a_study_decides_a_claim(tmp_path: Path) -> None:
    gap = {"label": "x - y", "condition": "x", "measure": "f1", "sides": (0.3, 0.5), "p": 0.01}
    gap |= {"p_holm": 0.04, "detectable": 0.1, "n": 60, "conversations": 22}
    gaps = (
        Gap(task="qrecc", mean=-0.2, ci95=(-0.3, -0.1), **gap),
        Gap(task="inscit", mean=-0.1, ci95=(-0.2, 0.0), **gap),
        Gap(task=ALL, mean=-0.15, ci95=(-0.2, -0.1), **gap),
    )
    (absent,) = judge([claim(BELOW)], "sample", [tmp_path])
    assert absent.verdict == "not measured"
    assert absent.settle == ("uniconv-bench experiment s --profile sample",)
    write_outcome(make_outcome(gaps=gaps, turns=60), tmp_path / STUDIES / "sample" / "s")
    answer = verdict(tmp_path, BELOW)
    found = answer.parts[0].evidence.difference
    assert (answer.verdict, found.mean, found.ci95) == ("supported", 0.15, (0.1, 0.2))
    assert set(answer.parts[0].evidence.by_task) == {"qrecc", "inscit"} and not answer.settle
    assert "Study s: The first 60 test turns of each task." in notes([answer])
    assert "qrecc, inscit, 60 turns" in markdown([answer])
    assert verdict(tmp_path, {**BELOW, "direction": "higher"}).verdict == "contradicted"
    # One p for all parts of a family, and a difference that the study has not is not measured.
    assert verdict(tmp_path, BELOW, {**BELOW, "metric": "mrr"}).verdict == "not measured"
    many = [claim(BELOW, id=f"x{i}") for i in range(6)]
    assert {a.verdict for a in judge(many, "sample", [tmp_path])} == {"inconclusive"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ('margin = 0.02\nmetric = "f1"', "a margin goes with its reason"),
        ('margin = 1.5\nreason = "r"\nmetric = "f1"', "margin"),
        ('metric = "f1"\nweight = 1', "weight"),
    ],
)
def test_a_malformed_file_of_claims_is_refused(tmp_path: Path, changed: str, reason: str) -> None:
    path = tmp_path / "mine.toml"
    head = 'id = "x"\nfamily = "y"\nsentence = "s"\nsource = "z"\n'
    path.write_text(f'[[claims]]\n{head}[[claims.parts]]\nabove = "a"\nbelow = "b"\n{changed}\n')
    with pytest.raises(UserError, match=reason):
        read_claims(path)


def test_the_command_judges_a_file_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two(tmp_path, 0.7, 0.4)
    path, page = tmp_path / "mine.toml", tmp_path / "page.md"
    head = 'id = "x"\nfamily = "y"\nsentence = "A over b."\nsource = "z"\n'
    path.write_text(
        f'[[claims]]\n{head}[[claims.parts]]\nmetric = "f1"\nabove = "a"\nbelow = "b"\n'
    )
    command = ["claims", "--results", str(tmp_path), "--file", str(path), "--output", str(page)]
    assert cli.main(command) == 0
    assert "supported A over b." in capsys.readouterr().out
    assert "## supported: A over b." in page.read_text()
    assert page.read_text().endswith(markdown(judge(read_claims(path), "sample", [tmp_path])))
    assert cli.main([*command, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["verdict"], told["profile"], told["parts"][0]["n"]) == ("supported", "sample", 48)
    assert cli.main([*command, "--profile", "mini"]) == 2
    assert "no such folder" in capsys.readouterr().err
