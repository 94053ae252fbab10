"""Studies: what conditions change, how turns are sliced, and a study from card to page."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from uniconv_bench import cli, registry
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.experiments.conditions import NAME, NUMBER, evidence_of, view_of
from uniconv_bench.experiments.measures import Measured, extra_of
from uniconv_bench.experiments.pages import CSV, PAGE, kept
from uniconv_bench.experiments.planning import Planner
from uniconv_bench.experiments.slices import sliced
from uniconv_bench.experiments.study import conduct, setup_of
from uniconv_bench.files import read_json
from uniconv_bench.outcomes import OUTCOME, Outcome, read_outcome
from uniconv_bench.progress import Silent
from uniconv_bench.system import Answer
from uniconv_bench.task import Task, load_task

TINY = """
backbone = {{ sample = "random-tiny" }}
inference = {{ session_tokens = 200, passage_tokens = 40, decode_batch_size = 4 }}
extends = "{base}"
name = "tiny-{base}"
title = "T"
description = "D"
"""
STUDY = """
name = "small"
title = "A small study"
description = "Is it so?"
metrics = ["ndcg@3", "f1"]
extras = ["grounding", "same_passages", "same_answer"]
baseline = "own"
tasks = { sample = ["qrecc"] }
turns = { sample = 12 }
arms = { sample = ["own", "no history", "gold", "gold + 2", "none", "bm25's"] }
slices = ["depth"]
interaction = ["own", "no history", "gold", "none"]

[conditions]
"own" = { system = "SYSTEM" }
"no history" = { system = "SYSTEM", history = "none" }
"gold" = { system = "SYSTEM", evidence = "gold" }
"gold + 2" = { system = "SYSTEM", evidence = "gold+2" }
"gold + 4" = { system = "SYSTEM", evidence = "gold+4" }
"none" = { system = "SYSTEM", evidence = "none" }
"bm25's" = { system = "SYSTEM", evidence = "from bm25+llm" }

[[expectations]]
condition = "no history"
against = "own"
metric = "ndcg@3"
direction = "lower"
source = "Plain reason"
"""


@pytest.fixture(scope="module")
def qrecc() -> Task:
    return load_task("qrecc", "sample", progress=Silent())


def turn(number: int, query: str = "who?", **more: object) -> Turn:
    return replace(Turn(f"c_{number}", "c", number, query), **more)  # type: ignore[arg-type]


# --- conditions ---------------------------------------------------------------------------------


def test_views_change_the_history_alone(qrecc: Task) -> None:
    asked = next(t for t in qrecc.turns() if t.number == 4)
    assert view_of("full", qrecc) is None
    for name, left in (("none", ()), ("last", asked.history[-2:])):
        view = view_of(name, qrecc)  # type: ignore[arg-type]
        assert view is not None and view.name == name
        shown = view.change(asked)
        assert shown == replace(asked, history=left)


def test_a_renamed_history_has_one_name_of_another_conversation(qrecc: Task) -> None:
    view = view_of("renamed", qrecc)
    assert view is not None
    pairs = [(t, shown) for t in qrecc.turns() if (shown := view.change(t)) is not None]
    assert len(pairs) > 20
    for before, after in pairs:
        assert after.history != before.history and replace(after, history=before.history) == before
        gone = [
            (one.text, other.text)
            for one, other in zip(before.history, after.history, strict=True)
            if one != other
        ]
        assert gone
    assert [view.change(t) for t in qrecc.turns()] == [view.change(t) for t in qrecc.turns()]
    assert view.change(turn(1)) is None  # nothing was said yet


def test_evidence_is_what_its_name_says(qrecc: Task) -> None:
    turns = qrecc.turns()
    judged = {t.turn_id: t for t in turns if t.gold}

    def ids(kind: str) -> dict[str, set[str]]:
        found = evidence_of(kind, turns, qrecc, 3)
        return {turn_id: {p.passage_id for p in passages} for turn_id, passages in found.items()}

    assert ids("none") == {t.turn_id: set() for t in turns}
    assert ids("gold") == {name: set(t.gold) for name, t in judged.items()}
    for name, found in ids("gold+2").items():
        assert set(judged[name].gold) < found and len(found) == len(judged[name].gold) + 2
    for name, found in ids("irrelevant").items():
        assert len(found) == 3 and not found & set(judged[name].gold)
    before = {(t.conversation_id, t.number): t for t in turns}
    some = ids("previous_turn")
    assert some
    for name, found in some.items():
        now = judged[name]
        past = before[now.conversation_id, now.number - 1]
        assert found <= set(past.gold) and not found & set(now.gold)


def test_a_contradicted_passage_no_longer_says_the_answer(qrecc: Task) -> None:
    turns = qrecc.turns()
    found = evidence_of("contradictory", turns, qrecc, 3)
    assert len(found) > 10
    for turn_id, passages in found.items():
        asked = next(t for t in turns if t.turn_id == turn_id)
        assert {p.passage_id for p in passages} == set(asked.gold)
        sound = "\n".join(qrecc.corpus[p.passage_id].contents for p in passages)
        broken = "\n".join(p.contents for p in passages)
        spans = {s for r in asked.references for s in (*NAME.findall(r), *NUMBER.findall(r))}
        gone = [s for s in spans if re.search(rf"\b{s}\b", sound) and s not in broken]
        assert gone and not any(s in u.text for s in gone for u in asked.history)


def test_grounding_is_in_what_was_read_not_in_what_the_corpus_says(qrecc: Task) -> None:
    passage = next(iter(qrecc.corpus))
    word = next(w for w in passage.text.split() if w.isalpha() and len(w) > 5)
    answers = {"1_1": Answer("1_1", f"{word} zyx", evidence=(passage.passage_id,))}
    asked: Any = SimpleNamespace(task=qrecc)

    def grounded(handed: dict[str, list[Passage]] | None) -> float:
        measured = Measured(asked, [], {}, answers, {}, {}, handed)
        return extra_of("grounding", measured, measured)["1_1"]

    assert grounded(None) == 0.5
    assert grounded({"1_1": [replace(passage, text="zyx", title="")]}) == 0.5
    assert grounded({"1_1": [replace(passage, text="else", title="")]}) == 0.0


# --- slices -------------------------------------------------------------------------------------


def test_turns_are_sliced_by_what_they_are() -> None:
    turns = [
        turn(1, "Who built Harrow Light?", topic="light", gold=("a",)),
        turn(2, "And how high is it?", topic="light", gold=("b",)),
        turn(3, "Which painter lived in the village of Kell?", topic="kell", gold=("c",)),
        turn(7, "Which painter was born in the village of Kell?", topic="kell"),
    ]
    run = {"c_1": [("a", 0.9), ("b", 0.1)], "c_2": [("x", 0.5), ("b", 0.4)], "c_3": [("c", 0.3)]}
    shown = {"c_1": ("a",), "c_2": ("x",), "c_7": ("x",)}

    def of(kind: str) -> dict[str, str]:
        return sliced(kind, turns, run, shown)  # type: ignore[arg-type]

    assert list(of("depth").values()) == ["turn 1", "turn 2", "turn 3", "turn 7 and later"]
    assert of("topic") == {"c_2": "same topic", "c_3": "topic switch"}
    assert of("ellipsis") == {
        "c_2": "leans on its history",
        "c_3": "stands alone",
        "c_7": "stands alone",
    }
    assert of("hit") == {"c_1": "relevant passage shown", "c_2": "none shown"}
    assert of("ambiguity") == {"c_1": "clear", "c_2": "ambiguous"}


# --- cards --------------------------------------------------------------------------------------


def test_every_shipped_study_can_be_set_up() -> None:
    adapters: dict[tuple[str, str], Any] = {}
    for name in registry.study_names():
        card, _ = registry.study_card(name)
        for profile in ("sample", "mini"):
            setups = [setup_of(card, c, profile, Silent()) for c in card.at(profile).conditions]
            # Systems of one name are one, in whatever study: what they left in the cache is shared.
            for setup in setups:
                plain = {"sources": {}}
                said = {n: t.model_copy(update=plain) for n, t in setup.card.adapters.items()}
                assert adapters.setdefault((profile, setup.card.name), said) == said
    sweep, lab = (
        {setup_of(card, label, "sample", Silent()).card.name for label in card.conditions}
        for card in (
            registry.study_card(name)[0].at("sample") for name in ("alpha-sweep", "cii-lab")
        )
    )
    assert len(sweep & lab) == 2  # without L_CII, and with its default


def test_a_condition_differs_from_its_system_as_the_card_says() -> None:
    card, _ = registry.study_card("alpha-sweep")
    assert (
        set(card.at("sample").conditions) < set(card.conditions) == set(card.at("mini").conditions)
    )
    setup = setup_of(card, "alpha 2", "mini", Silent())
    joint, first = setup.card.adapters["joint"], setup.card.adapters["first"]
    assert (joint.losses.cii, joint.start, joint.max_steps) == (2.0, "first", 24)
    assert (first.losses.cii, first.max_steps) == (0.0, 90)
    alone, _ = registry.study_card("cross-domain")
    found = setup_of(alone, "inscit alone", "mini", Silent()).card.adapters["joint"]
    assert found.tasks == ("inscit",) and not found.mixture


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('baseline = "own"', 'baseline = "mine"', "baseline: 'mine' is none of conditions"),
        ('metric = "ndcg@3"', 'metric = "mrr"', "'mrr' is not measured"),
        ('slices = ["depth"]', 'figure = "line"', "give every condition its x"),
        ('evidence = "gold+2"', 'evidence = "golden"', "evidence"),
        ('"none"]', '"nothing"]', "interaction: 'nothing' is none of conditions"),
        ('sample = ["own", ', "sample = [", "arms.sample: the baseline is not among them"),
    ],
)
def test_a_study_that_cannot_be_is_refused(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert old in STUDY
    (tmp_path / "small.toml").write_text(STUDY.replace(old, new))
    with pytest.raises(UserError, match=told):
        registry.study_card(str(tmp_path / "small.toml"))


# --- from card to page --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(
        TINY.format(base="uniconv-untrained").replace("tiny-uniconv-untrained", "tiny")
    )
    (folder / "small.toml").write_text(STUDY.replace("SYSTEM", str(folder / "tiny.toml")))
    return folder / "small.toml"


@pytest.fixture(scope="module")
def outcome(study_file: Path) -> Outcome:
    card, _ = registry.study_card(str(study_file))
    return conduct(card, "sample", progress=Silent())


@pytest.mark.slow
def test_conditions_are_measured_on_the_turns_that_they_can_be_made_for(outcome: Outcome) -> None:
    own, gold = (outcome.of(name, "qrecc", "f1") for name in ("own", "gold"))
    assert own is not None and gold is not None and gold.n < own.n <= 12
    assert outcome.of("gold", "qrecc", "ndcg@3") is None  # nothing was retrieved
    assert outcome.of("own", "qrecc", "same_passages") is None  # all is like itself
    same = outcome.of("bm25's", "qrecc", "same_passages")
    assert same is not None and same.mean < 1
    parts = {m.part for m in outcome.means if m.condition == "own"}
    assert {None, "turn 1", "turn 2"} <= parts
    whole = [m for m in outcome.means if (m.condition, m.measure, m.part) == ("own", "f1", None)]
    of_parts = [m for m in outcome.means if (m.condition, m.measure) == ("own", "f1") and m.part]
    assert sum(m.n for m in of_parts) == whole[0].n


@pytest.mark.slow
def test_what_is_in_the_cache_is_not_planned_again(
    outcome: Outcome, study_file: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, _ = registry.study_card(str(study_file))
    planner = Planner("sample")
    first = planner.plan(card)
    assert first.seconds > 10 and not first.trains and not first.training
    assert planner.plan(card).seconds == 0  # the first of them leaves it all
    monkeypatch.undo()
    assert Planner("sample").plan(card).seconds == 0
    assert outcome.left_out == ("gold + 4",)


@pytest.mark.slow
def test_studies_that_share_an_adapter_train_it_once() -> None:
    planner = Planner("sample")
    sweep, lab = (planner.plan(registry.study_card(n)[0]) for n in ("alpha-sweep", "cii-lab"))
    alone = Planner("sample").plan(registry.study_card("cii-lab")[0])
    assert sweep.trains and lab.trains and set(lab.training) < set(alone.training)
    assert 0 < lab.seconds < alone.seconds


@pytest.mark.slow
def test_a_few_turns_learnt_by_heart(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.format(base="uniconv"))
    text = (Path(registry.__file__).parent / "experiments" / "overfit.toml").read_text()
    text = text.replace('system = "uniconv"', f'system = "{tmp_path / "tiny.toml"}"')
    text = text.replace('system = "uniconv-untrained"', f'system = "{tmp_path / "tiny.toml"}"')
    text = text.replace("max_steps = 40", "max_steps = 2").replace('"overfit"', '"by-heart"')
    (tmp_path / "overfit.toml").write_text(text)
    card, _ = registry.study_card(str(tmp_path / "overfit.toml"))
    found = conduct(card, "sample", progress=Silent())
    task = load_task("topiocqa", "sample", progress=Silent())
    measured = found.of("by heart", "topiocqa", "verbatim")
    assert measured is not None and measured.n == 3 and found.split == "train"
    assert any("demands Recall@1 of at least 100.0 for by heart" in s for s in found.reading)
    assert "The first 3 train turns of each task." in found.limits()
    report = read_json(
        next(iter(setup_of(card, "by heart", "sample", Silent()).fit().values())) / "training.json"
    )
    assert sum(report["turns"].values()) == 3 and len(task.turns("train")) > 3


@pytest.mark.slow
def test_differences_are_of_the_same_turns(outcome: Outcome) -> None:
    gaps = {(g.label, g.measure): g for g in outcome.gaps}
    gold = gaps["gold - own", "f1"]
    measured = outcome.of("gold", "qrecc", "f1")
    assert measured is not None and gold.n == measured.n
    own, bm25 = (outcome.of(name, "qrecc", "ndcg@3") for name in ("own", "bm25's"))
    assert own is not None and bm25 is not None
    assert gold.sides is not None and gold.sides[0] == pytest.approx(measured.mean)
    bm25s = gaps["bm25's - own", "ndcg@3"]
    assert bm25s.sides is not None and bm25s.sides[0] - bm25s.sides[1] == pytest.approx(bm25s.mean)
    assert gaps["bm25's - own", "ndcg@3"].mean == pytest.approx(bm25.mean - own.mean)
    assert all(gap.p_holm >= gap.p for gap in outcome.gaps)
    assert ("gold - own", "same_answer") not in gaps
    assert any(gap.condition is None for gap in outcome.gaps)


@pytest.mark.slow
def test_a_study_is_kept_as_page_csv_and_outcome(outcome: Outcome, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found, written = kept(outcome, tmp_path)
    assert written and found == read_outcome(tmp_path / OUTCOME)
    text = (tmp_path / PAGE).read_text()
    for told in ("Plain reason leads one to expect NDCG@3 to be lower", "n=12", "figure.png"):
        assert told in text
    rows = list(csv.DictReader((tmp_path / CSV).open()))
    assert len(rows) == len(outcome.means)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"figure.{kind}").stat().st_size > 1000
    again = outcome.model_copy(update={"costs": ()})
    assert kept(again, tmp_path) == (found, False)
    content = json.loads((tmp_path / OUTCOME).read_text())
    content["means"][0]["mean"] += 0.01
    (tmp_path / OUTCOME).write_text(json.dumps(content))
    with pytest.raises(UserError, match="was changed after it was written"):
        read_outcome(tmp_path / OUTCOME)


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["dots", "pareto", "grid", "bars"])
def test_every_kind_of_figure_is_drawn(figure: str, outcome: Outcome, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kept(outcome.model_copy(update={"figure": figure}), tmp_path)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_names_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(("experiment", "reliabilty")) == 2
    assert "did you mean 'reliability'" in capsys.readouterr().err.lower()
    assert cli.main(("list", "studies", "--json")) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert "alpha-sweep" in names and names == sorted(names)
