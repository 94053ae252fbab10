"""Packing: a bundle is sound, equal input gives equal bytes, `check` decides; the example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bundling import CARD, TASK, TASKS, files

from uniconv_bench import cli
from uniconv_bench.cards import Platform, SubmissionCard
from uniconv_bench.errors import UserError
from uniconv_bench.examination import check
from uniconv_bench.rescoring import Tasks
from uniconv_bench.submission import pack
from uniconv_bench.submission_cards import OWN, check_card

OUTSIDER = Path(__file__).parent / "data" / "outsider"
EXAMPLE = Path(__file__).parent.parent / "leaderboards" / "submissions" / "example-tfidf"


def test_a_packed_bundle_is_sound_and_claims_what_its_files_give(packed: Path) -> None:
    assert sorted(p.name for p in packed.iterdir()) == [
        "card.toml",
        "manifest.json",
        "toy.answers.jsonl.gz",
        "toy.ir-metadata.yml",
        "toy.run.gz",
        "toy.scores.jsonl.gz",
    ]
    assert check(packed, TASKS) == []
    claim = json.loads((packed / "manifest.json").read_text())["tasks"]["toy"]
    # 8 turns are judged for retrieval, of the first six turns four: c0_1, c0_3, c1_1, c1_3.
    assert claim["data_digest"] == TASK.digest
    assert claim["scores"]["mrr"] == pytest.approx((4 + 0.0) / 8)
    assert claim["scores"]["f1"] == pytest.approx(4 / 12)
    assert [p.name for p in packed.parent.iterdir() if p.name.startswith(".")] == []


def test_packing_twice_gives_equal_bytes_and_never_overwrites(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    given = {"toy": files(tmp_path / "in", hits=6)}
    again = pack(tmp_path / "card.toml", given, tmp_path, TASKS)
    for path in packed.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    with pytest.raises(UserError, match="already there"):
        pack(tmp_path / "card.toml", given, tmp_path, TASKS)
    given["toy"]["run"].write_text("c2_1 Q0 -1 1 1.0 x\n")  # the files are looked at first
    with pytest.raises(UserError, match="no ranking"):
        pack(tmp_path / "card.toml", given, tmp_path, TASKS)


def test_retrieval_alone_and_answers_alone_are_legal(tmp_path: Path) -> None:
    given = files(tmp_path / "in")
    for kind, metrics in (("run", {"ndcg@3", "mrr"}), ("answers", {"f1"})):
        (tmp_path / "card.toml").write_text(
            CARD.replace("good-one", f"only-{kind}")
            .replace("A good one", kind)
            .replace('trained_on = ["toy"]', "trained_on = []")
        )
        bundle = pack(tmp_path / "card.toml", {"toy": {kind: given[kind]}}, tmp_path, TASKS)
        assert check(bundle, TASKS) == []
        claim = json.loads((bundle / "manifest.json").read_text())["tasks"]["toy"]
        assert set(claim["scores"]) == metrics


def test_packing_refuses_what_check_would_and_leaves_nothing(tmp_path: Path) -> None:
    given = files(tmp_path / "in")
    card = tmp_path / "card.toml"
    lines = given["run"].read_text().splitlines(keepends=True)
    for content, message in [
        ("".join(lines).replace("Page 12:0", "-1"), "not in the corpus, first '-1'"),
        ("".join(line for line in lines if "c2_1" not in line), "no ranking, first 'c2_1'"),
    ]:
        given["run"].write_text(content)
        card.write_text(CARD)
        with pytest.raises(UserError, match=message):
            pack(card, {"toy": given}, tmp_path / "out", TASKS)
        assert not (tmp_path / "out").exists()
    for card_text, given_files, message in [
        (CARD, {"toy": {}}, "give a run, answers or both"),
        (CARD, {"toy": given, "toy2": given}, "the card names the tasks toy, files"),
        (
            CARD.replace('"toy"', '"../toy"'),
            {"../toy": given},
            "field tasks: unknown task '../toy'",
        ),
        (CARD.replace("sample", "tiny"), {"toy": given}, "field profile"),
        (CARD.replace("Plain", "<b>Plain"), {"toy": given}, "field description: '<' is markup"),
    ]:
        card.write_text(card_text)
        with pytest.raises(UserError, match=message):
            pack(card, given_files, tmp_path / "out", TASKS)
        assert not (tmp_path / "out").exists()


def test_the_card_to_fill_in_is_one_with_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "card"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    card = SubmissionCard.model_validate_json(json.dumps(shown))
    assert card.model_dump(mode="json", exclude_unset=True) == shown
    assert shown.keys() == SubmissionCard.model_fields.keys()
    assert card.platform is not None and shown["platform"].keys() == Platform.model_fields.keys()
    left = [*check_card(card, card.name, Tasks(["qrecc"], TASKS.load))]
    assert len(left) == len(OWN) + 2 and all("the card to fill in" in line for line in left)


@pytest.mark.slow
def test_the_example_is_what_its_script_makes(
    tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the files that `export` hands out to the committed bundle, byte by byte."""
    shutil.copytree(OUTSIDER, tmp_path / "lab")
    example = EXAMPLE / "card.toml"
    assert (OUTSIDER / "card.toml").read_bytes() == example.read_bytes()
    pack_command = ["submit", "pack", str(tmp_path / "lab" / "card.toml")]
    for task in tomllib.loads(example.read_text())["tasks"]:
        folder = tmp_path / task
        assert cli.main(["export", "--task", task, "--out", str(folder)]) == 0
        subprocess.run(
            [sys.executable, str(tmp_path / "lab" / "make_files.py"), str(folder)], check=True
        )
        pack_command += ["--run", f"{task}={folder}/my.trec"]
        pack_command += ["--answers", f"{task}={folder}/my.jsonl"]
    assert cli.main([*pack_command, "--output", str(tmp_path)]) == 0, capsys.readouterr().err
    for path in EXAMPLE.iterdir():
        assert (tmp_path / EXAMPLE.name / path.name).read_bytes() == path.read_bytes(), path.name
