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
    told = "'toy.ir-metadata.yml' is not what card and manifest give: pack the bundle again"
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for wrong in (right.replace(b"Ann", b"Eve"), right + b"more: true\n", bomb, b"\xff", b""):
        path.write_bytes(wrong)
        reseal(bundle, described=False)
        assert check(bundle, TASKS) == [told]
    reseal(bundle)
    assert path.read_bytes() == right
    assert check(bundle, TASKS) == []
    path.unlink()
    reseal(bundle, described=False)
    assert check(bundle, TASKS) == ["toy.ir-metadata.yml is missing"]
