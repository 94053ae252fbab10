"""What ir_metadata is told of a submission, and that a bundle can say nothing else."""

from __future__ import annotations

from pathlib import Path

import yaml
from bundling import CARD, TASKS, reseal

from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.examination import check
from uniconv_bench.files import read_toml
from uniconv_bench.irmetadata import ir_metadata

MORE = """
commit = "1234567"
command = "python make_runs.py --depth 100"
paper = "https://example.org/paper"
platform = { gpu = "One of 80 GB", system = "Debian 13", libraries = ["torch==2.9.0"] }
"""


def described(folder: Path, text: str) -> dict[str, object]:
    (folder / "card.toml").write_text(text)
    card = parse_card(SubmissionCard, read_toml(folder / "card.toml"), folder)
    found = yaml.safe_load(ir_metadata(card, "toy", "d" * 64, ["ndcg@3", "mrr", "f1"]))
    assert isinstance(found, dict)
    return found


def test_every_component_of_primad_is_there(tmp_path: Path) -> None:
    found = described(tmp_path, CARD + MORE)
    components = ["platform", "research goal", "implementation", "method", "actor", "data"]
    assert [*found] == ["schema-version", "run-version", "tag", *components]
    assert found["tag"] == "good-one" and found["schema-version"] == 0.1
    assert found["platform"] == {
        "hardware": {"gpu": {"model": "One of 80 GB"}},
        "operating system": {"distribution": "Debian 13"},
        "software": {"libraries": {"python": ["torch==2.9.0"]}},
    }
    goal = found["research goal"]
    assert goal["evaluation"]["reported measures"] == ["f1", "recip_rank", "ndcg_cut_3"]  # type: ignore[index]
    assert found["implementation"] == {
        "executable": {"cmd": "python make_runs.py --depth 100"},
        "source": {"repository": "https://example.org/code", "commit": "1234567"},
    }
    assert found["data"] == {
        "test collection": {
            "name": "toy",
            "source": "uniconv-bench, profile sample",
            "sha256": "d" * 64,
        },
        "training data": [{"name": "toy"}],
    }


def test_what_the_card_leaves_out_is_left_out(tmp_path: Path) -> None:
    found = described(tmp_path, CARD.replace('trained_on = ["toy"]', "trained_on = []"))
    assert "platform" not in found and "executable" not in found["implementation"]  # type: ignore[operator]
    assert "training data" not in found["data"]  # type: ignore[operator]


def test_metadata_of_a_bundle_is_what_its_card_gives(bundle: Path) -> None:
    path = bundle / "toy.ir-metadata.yml"
    right = path.read_bytes()
    assert yaml.safe_load(right)["actor"]["name"] == "Ann O'Nym, B. Ob"
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for wrong, field in (
        (right.replace(b"Ann", b"Eve"), "actor.name"),
        (right + b"more: true\n", "more"),
        (right.replace(b"reported measures:", b"hits: all\n    measures:"), "research goal"),
        (right.replace(b"- f1", b"- [f1]"), "research goal.evaluation.reported measures"),
        (right.replace(b"- f1", b"- '<b>'"), "research goal.evaluation.reported measures"),
        (right.replace(b"- f1", b"- f1\n    - best"), "research goal.evaluation.reported"),
        (right.replace(b"tag: good-one", b"tag: other"), "tag"),
        (right.replace(b"tag: good-one\n", b""), "tag"),
        (bomb, "with an alias"),
        (b"\xff", "of no YAML"),
        (b"[" * 5000, "of no YAML"),
        (b"", "tag"),
    ):
        assert wrong != right
        path.write_bytes(wrong)
        reseal(bundle, described=False)
        (told,) = check(bundle, TASKS)
        start = f"'toy.ir-metadata.yml' is not what card and manifest give (field '{field}"
        assert told.startswith(start) and told.endswith("pack the bundle again")
    reseal(bundle)
    assert path.read_bytes() == right
    assert check(bundle, TASKS) == []
    path.unlink()
    reseal(bundle, described=False)
    assert check(bundle, TASKS) == ["toy.ir-metadata.yml is missing"]


def test_metadata_of_another_version_holds_if_it_says_nothing_else(bundle: Path) -> None:
    """Other names of measures and tests, another layout, a field that was not there yet."""
    path = bundle / "toy.ir-metadata.yml"
    found = yaml.safe_load(path.read_bytes())
    found["schema-version"] = 0.2
    goal = found["research goal"]["evaluation"]
    goal["reported measures"] = [
        "nDCG_3" if n == "ndcg_cut_3" else n for n in goal["reported measures"]
    ]
    goal["significance test"] = [{"name": "t test"}]
    del found["method"]["score ties"]
    path.write_text(yaml.safe_dump(found, default_flow_style=True))
    assert "nDCG_3" in path.read_text()
    reseal(bundle, described=False)
    assert check(bundle, TASKS) == []
