"""Names or paths -> cards -> code."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from uniconv_bench import registry
from uniconv_bench.cards import PROFILES, SubmissionCard, parse_card
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_toml
from uniconv_bench.system_cards import Inference
from uniconv_bench.uniconv.training import NO_MATTER

TASK = """
name = "toy"
title = "Toy"
version = 1
description = "Two turns."
homepage = "https://example.org"
licence = "CC0"
citation = "none"
metrics = ["ndcg@3", "f1"]
retrieval_setting = "Passages from two pages."
"""

SYSTEM = """
name = "base"
title = "Base"
description = "A trained retriever and the same backbone answering."
[backbone]
sample = "random-tiny"
[retriever]
kind = "dense"
adapter = "both"
[generator]
kind = "llm"
adapter = "both"
[adapters.both]
tasks = ["toy"]
seed = 7
[adapters.both.losses]
cii = 0.5
"""


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `labplug` with one task and one system, plugged in."""
    package = tmp_path / "labplug"
    for folder in ("tasks", "baselines"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tasks" / "toy.toml").write_text(TASK)
    (package / "tasks" / "toy.py").write_text("def splits(raw):\n    return ('train', 'test')\n")
    (package / "baselines" / "base.toml").write_text(SYSTEM)
    metadata = tmp_path / "labplug-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: labplug\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\nlab = labplug\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._folders.cache_clear()
    yield package
    registry._folders.cache_clear()
    for name in [n for n in sys.modules if n.startswith("labplug")]:
        del sys.modules[name]


def fails(call: object, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)  # type: ignore[operator]
    return str(caught.value)


def test_shipped_cards_are_valid_and_named_as_their_files() -> None:
    for name in registry.task_names():
        card, path = registry.task_card(name)
        assert card.name == name == path.stem
        module = registry.task_module(card, path)
        assert module.__name__ == f"uniconv_bench.tasks.{card.reader or name}"
    for name in registry.system_names():
        card, path = registry.system_card(name)
        assert card.name == name == path.stem
    assert [row["name"] for row in registry.headings("task")] == registry.task_names()
    assert [row["name"] for row in registry.headings("system")] == registry.system_names()


def test_plugged_in_cards_are_found_by_name(plugged: Path) -> None:
    assert "toy" in registry.task_names()
    assert "base" in registry.system_names()
    card, path = registry.task_card("toy")
    assert (card.name, path) == ("toy", plugged / "tasks" / "toy.toml")
    module = registry.task_module(card, path)
    assert module.__name__ == "labplug.tasks.toy"
    assert module.splits(plugged) == ("train", "test")


def test_unknown_name_suggests(plugged: Path) -> None:
    assert fails(registry.task_card, "Toyy") == "unknown task 'Toyy'; did you mean 'toy'?"
    assert "unknown system 'bass'; did you mean 'base'" in fails(registry.system_card, "bass")


def test_two_plugins_with_one_name(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = registry._folders("task")
    other = plugged / "more"
    other.mkdir()
    (other / "toy.toml").write_text(TASK)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_folders", lambda kind: (*folders, ("more", other)))
        assert "two tasks named 'toy'" in fails(registry.task_names)


def test_a_card_by_path_brings_its_module(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TASK)
    card, path = registry.task_card(str(tmp_path / "mine.toml"))
    assert card.name == "toy"
    assert "no module beside the card" in fails(registry.task_module, card, path)
    (tmp_path / "mine.py").write_text("def splits(raw):\n    return ('test',)\n")
    module = registry.task_module(card, path)
    assert module.splits(tmp_path) == ("test",)
    assert registry.task_module(card, path) is module


def test_a_name_other_than_the_files_is_refused(plugged: Path) -> None:
    (plugged / "tasks" / "toy.toml").write_text(TASK.replace('"toy"', '"tow"'))
    for call, args in ((registry.task_card, ("toy",)), (registry.headings, ("task",))):
        message = fails(call, *args)
        assert "field name" in message
        assert "toy.toml" in message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (TASK.replace("version = 1", 'version = "1"'), "version: is a text, not a whole number"),
        (TASK + "metric = 3\n", "field metric: no such field"),
        (TASK + "metric = 3\n", "did you mean 'metrics'? the card takes name, title, version,"),
        (TASK + "[mini]\nrandum = 3\n", "did you mean 'random'? [mini] takes neighbours, random"),
        (TASK.replace('title = "Toy"\n', ""), "field title: is missing"),
        (TASK.replace('["ndcg@3", "f1"]', '"f1"'), "field metrics: is a text, not a list"),
        (TASK.replace('["ndcg@3", "f1"]', '["nope"]'), "field metrics: unknown metric 'nope'"),
        (TASK.replace('["ndcg@3", "f1"]', "[]"), "field metrics: names no metric"),
        ("name = \n", "not valid TOML"),
    ],
)
def test_malformed_card_names_file_and_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    message = fails(registry.task_card, str(path))
    assert field in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kind = "dense"', 'kind = "dens"', "no kind 'dens' (PATH); did you mean 'dense'? kinds"),
        ('kind = "dense"\n', "", "field retriever: has no kind (PATH); kinds of retriever: dense"),
        ('tasks = ["toy"]', 'tasks = "toy"', "adapters.both.tasks: is a text, not a list (PATH)"),
        (
            "seed = 7",
            "sede = 7",
            "did you mean 'seed'? [adapters.both] takes tasks, mixture",
        ),
        ("seed = 7", "dtype = 'float16'", "did you mean 'bfloat16'? it is one of: float32, bfl"),
        ("sample =", "sampel =", "field backbone.sampel"),
        ("cii = 0.5", "cii = -1.0", "losses.cii: is -1.0; it has to be at least 0 (PATH)"),
        (
            "seed = 7",
            "seed = 7\nprofiles = { mini = { sede = 8 } }",
            "profiles.mini: field sede: no such field; did you mean 'seed'?",
        ),
    ],
)
def test_what_is_wrong_with_a_card_is_said_in_plain_words(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "bad.toml"
    assert old in SYSTEM
    path.write_text(SYSTEM.replace(old, new))
    assert told.replace("PATH", str(path)) in fails(registry.system_card, str(path))


def test_what_a_card_says_for_a_profile_holds_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(
        SYSTEM.replace(
            "seed = 7",
            "seed = 7\nmax_steps = 5\nsources = { seed = 'ours', max_steps = 'ours' }\n"
            "profiles = { mini = { tasks = ['other'], losses = { cii = 0.0 }, max_steps = false,"
            " sources = { tasks = 'theirs' } } }",
        )
    )
    card, _ = registry.system_card(str(path))
    (plain,) = card.on("sample").adapters.values()
    (mini,) = card.on("mini").adapters.values()
    assert (plain.tasks, plain.max_steps) == (("toy",), 5)
    assert (mini.tasks, mini.max_steps, mini.seed) == (("other",), None, 7)
    assert mini.losses == plain.losses.model_copy(update={"cii": 0.0})
    assert mini.sources == {"seed": "ours", "tasks": "theirs"}
    assert plain == card.adapters[next(iter(card.adapters))].model_copy(update={"profiles": {}})


def test_a_retriever_asks_what_its_adapter_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(SYSTEM.replace('kind = "dense"', 'kind = "dense"\nquery = "query"'))
    message = fails(registry.system_card, str(path))
    assert (
        "query is 'query', but adapter 'both' is trained with retrieval_input 'session'" in message
    )
    path.write_text(path.read_text().replace("seed = 7", 'seed = 7\nretrieval_input = "query"'))
    assert registry.system_card(str(path))[0].adapters["both"].retrieval_input == "query"


def test_a_generator_sees_what_its_adapter_is_trained_to_see(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(SYSTEM.replace("seed = 7", 'seed = 7\nsession_mask = "strict"'))
    message = fails(registry.system_card, str(path))
    assert (
        "session_mask is 'none', but adapter 'both' is trained with session_mask 'strict'"
        in message
    )
    path.write_text(
        path.read_text().replace('kind = "llm"', 'kind = "llm"\nsession_mask = "strict"')
    )
    assert registry.system_card(str(path))[0].generator.session_mask == "strict"


def test_a_submission_card_shows_the_form_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text(TEMPLATE.read_text().replace("2026-01-31", "31.1.2026"))
    message = fails(parse_card, SubmissionCard, read_toml(path), path)
    assert "field date: '31.1.2026' is not of the right form" in message
    assert message.endswith("write it as '2026-01-31'")


def test_a_changed_setting_does_not_keep_the_source_of_the_old_value(tmp_path: Path) -> None:
    path = tmp_path / "warm.toml"
    path.write_text(
        'extends = "uniconv"\nname = "w"\ntitle = "W"\ndescription = "d"\n'
        "[inference]\nsession_tokens = 512\n"
        "[adapters.joint]\ntemperature = 0.05\nseed = 14\nbatch_size = 8\n"
        '[adapters.joint.losses]\ncii = 0.0\n[adapters.joint.sources]\nseed = "ours: a second"\n'
    )
    card, _ = registry.system_card(str(path))
    base, _ = registry.system_card("uniconv")
    sources = card.adapters["joint"].sources
    assert {"temperature", "losses"}.isdisjoint(sources)
    assert sources["seed"] == "ours: a second"
    kept = {**base.adapters["joint"].sources, "seed": "ours: a second"}
    del kept["temperature"], kept["losses"]
    assert sources == kept  # batch_size is what it was, and so is its source
    assert "session_tokens" not in card.inference.sources
    assert card.inference.sources["passage_tokens"] == "peer:ChatRetriever"


def test_what_a_card_states_holds_at_each_profile_of_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        'extends = "uniconv"\nname = "b"\ntitle = "B"\ndescription = "d"\n'
        "[adapters.joint]\nmax_steps = 5\nseed = 1\nvalidation = { turns = 9 }\n"
        "[adapters.joint.profiles.mini]\nmax_steps = 6\nseed = 2\nsources = { seed = 'ours' }\n"
        "[adapters.joint.profiles.full]\nmax_steps = 7\nvalidation = { every = 3 }\n"
    )
    path = tmp_path / "child.toml"
    path.write_text(
        'extends = "./base.toml"\nname = "c"\ntitle = "C"\ndescription = "d"\n'
        "[adapters.joint]\nmax_steps = 8\nvalidation = false\nseed = 3\n"
        "[adapters.joint.profiles.full]\nmax_steps = false\n"
    )
    card, _ = registry.system_card(str(path))
    found = {p: card.on(p).adapters["joint"] for p in PROFILES}
    assert {p: t.max_steps for p, t in found.items()} == {"sample": 8, "mini": 8, "full": None}
    assert {t.seed for t in found.values()} == {3}
    assert {t.validation for t in found.values()} == {None}
    assert "seed" not in card.adapters["joint"].profiles["mini"].get("sources", {})
    batches = {p: t.batch_size for p, t in found.items()}
    assert batches == {"sample": 8, "mini": 8, "full": 32}  # of which the child says nothing


def test_a_fault_of_the_table_itself_is_none_of_a_profiles(tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text(
        'extends = "uniconv"\nname = "mine"\ntitle = "M"\ndescription = "D"\n'
        '[adapters.joint]\nddm = "passage_only"\n'
    )
    told = fails(registry.system_card, str(card))
    assert "adapters.joint: ddm 'passage_only' leaves losses.generation" in told
    assert "profiles" not in told


def test_every_choice_of_every_shipped_card_has_a_source() -> None:
    """All that trains an adapter, defaults too; of inference and of speed what a card sets."""
    seen = 0
    for name in registry.system_names():
        card, _ = registry.system_card(name)
        for table in (card.inference, *card.adapters.values()):
            fields = set(type(table).model_fields) - {"sources", "profiles"}
            defaults = set() if isinstance(table, Inference) else fields - set(NO_MATTER)
            for profile in PROFILES:
                sources = table.on(profile).sources
                given = table.model_fields_set | set(table.profiles.get(profile, {}))
                assert defaults | (given & fields) <= set(sources) <= fields, (name, profile)
                assert all(re.match("paper|peer:|ours", said) for said in sources.values()), name
                seen += len(sources)
    assert seen > 100


def test_every_prompt_and_pooling_of_a_published_model_has_a_source() -> None:
    seen = 0
    for name in registry.system_names():
        retriever = registry.system_card(name)[0].retriever
        if retriever.kind == "encoder":
            chosen = retriever.model_fields_set - {"kind", "model", "lora", "sources"}
            assert chosen == set(retriever.sources), name
            seen += 1
    assert seen > 4


def test_extends_merges_and_false_removes(plugged: Path, tmp_path: Path) -> None:
    derived = tmp_path / "derived.toml"
    derived.write_text(
        dedent(
            """
            extends = "base"
            name = "derived"
            title = "Derived"
            description = "Two adapters in the place of one."
            [retriever]
            adapter = "left"
            [generator]
            adapter = "right"
            [adapters]
            both = false
            [adapters.left]
            tasks = ["toy"]
            [adapters.left.losses]
            generation = 0.0
            [adapters.right]
            tasks = ["toy"]
            """
        )
    )
    card, _ = registry.system_card(str(derived))
    assert sorted(card.adapters) == ["left", "right"]
    assert card.adapters["left"].losses.generation == 0.0
    assert card.backbone == {"sample": "random-tiny"}
    # A second step: relative path, one field deep in a table changed, all others kept.
    (tmp_path / "third.toml").write_text(
        'extends = "./derived.toml"\nname = "third"\ntitle = "T"\ndescription = "d"\n'
        "[adapters.left]\nseed = 5\n"
    )
    third, _ = registry.system_card(str(tmp_path / "third.toml"))
    assert third.adapters["left"].seed == 5
    assert third.adapters["left"].losses == card.adapters["left"].losses
    assert sorted(third.adapters) == ["left", "right"]


def test_an_adapter_extends_another_systems(plugged: Path, tmp_path: Path) -> None:
    alone = SYSTEM.replace('"base"', '"alone"').partition("[adapters.both]")[0]
    path = tmp_path / "alone.toml"
    path.write_text(
        alone + '[adapters.both]\nextends = "base:both"\nlosses = { retrieval = 0.0 }\n'
    )
    card, _ = registry.system_card(str(path))
    base, _ = registry.system_card("base")
    assert card.adapters["both"].seed == base.adapters["both"].seed == 7
    assert card.adapters["both"].losses.retrieval == 0.0
    assert card.adapters["both"].losses.cii == base.adapters["both"].losses.cii == 0.5
    path.write_text(alone + '[adapters.both]\nextends = "base:bosh"\n')
    message = fails(registry.system_card, str(path))
    assert message == "unknown adapter of base 'bosh'; did you mean 'both'?"


@pytest.mark.parametrize("name", ["../../evil", ".hidden", "a/b", "a b", "", "é", "x" * 65, "a\\n"])
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SYSTEM.replace('"base"', f'"{name}"'))
    assert "field name" in fails(registry.system_card, str(path))
    path.write_text(TASK.replace('"toy"', f'"{name}"'))
    assert "field name" in fails(registry.task_card, str(path))
    path.write_text(
        SYSTEM.replace("adapters.both", f'adapters."{name}"').replace('"both"', f'"{name}"')
    )
    assert "adapters" in fails(registry.system_card, str(path))


def test_a_card_by_path_may_not_take_a_registered_name(plugged: Path, tmp_path: Path) -> None:
    for kind, card, folder in (("system", SYSTEM, "baselines"), ("task", TASK, "tasks")):
        name = "base" if kind == "system" else "toy"
        look = registry.system_card if kind == "system" else registry.task_card
        path = tmp_path / "my.toml"
        path.write_text(card)
        line = fails(look, str(path))
        assert f"{name!r} is the name of another {kind}, whose results it would replace" in line
        assert f"({path}); rename the card" in line
        look(str(plugged / folder / f"{name}.toml"))  # that very file
        path.write_text(card.replace(f'"{name}"', '"my.own_1+x"', 1))
        assert look(str(path))[0].name == "my.own_1+x"


def test_extends_in_a_circle(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.toml").write_text(
            f'extends = "./{other}.toml"\nname = "{one}"\ntitle = "T"\ndescription = "d"\n'
        )
    assert "goes in a circle" in fails(registry.system_card, str(tmp_path / "a.toml"))


def test_resolve(tmp_path: Path) -> None:
    assert registry.resolve("collections:Counter")([1]) == {1: 1}
    assert "no module 'absent_lab'" in fails(registry.resolve, "absent_lab.parts:Retriever")
    assert "did you mean 'Counter'" in fails(registry.resolve, "collections:Countre")
    (tmp_path / "parts.py").write_text("class Mine: pass\n")
    assert registry.resolve("parts:Mine", beside=tmp_path).__name__ == "Mine"
    # A plug-in that lacks a package of its own is not reported as a missing plug-in.
    (tmp_path / "lacking.py").write_text("import absent_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        registry.resolve("lacking:Mine", beside=tmp_path)


TEMPLATE = Path(registry.__file__).parent / "templates" / "submission.toml"


def example(opening: str) -> str:
    """The indented block of CONTRIBUTING.md that begins with a line."""
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text[text.index(f"    {opening}") :]
    return dedent(block[: block.index("\n\n")])


def test_the_guides_examples_are_valid_cards(tmp_path: Path) -> None:
    path = tmp_path / "uniconv-cold.toml"
    path.write_text(example('extends = "uniconv"'))
    card, _ = registry.system_card(str(path))
    base, _ = registry.system_card("uniconv")
    assert card.adapters["joint"].temperature == 0.02
    assert card.adapters["joint"].losses == base.adapters["joint"].losses
    path.write_text(TEMPLATE.read_text())
    assert parse_card(SubmissionCard, read_toml(path), path).tasks == ("qrecc",)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ('extends = "a\\u0000/b.toml"', "unknown system 'a\\\\x00/b.toml'"),
        ('[adapters.a]\nextends = "./base.toml:b"', "unknown adapter of ./base.toml 'b'"),
    ],
)
def test_what_a_card_extends_may_be_anything(extra: str, told: str, tmp_path: Path) -> None:
    head = 'name = "x"\ntitle = "x"\ndescription = "x"\n'
    (tmp_path / "base.toml").write_text(head + "adapters = 5\n")
    (tmp_path / "mine.toml").write_text(head + extra + "\n")
    with pytest.raises(UserError, match=told):
        registry.system_card(str(tmp_path / "mine.toml"))
