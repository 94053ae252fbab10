"""What the cache holds, what may go, and why something is not found there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import inventory, stages
from uniconv_bench.artefacts import folder_of, missing_artefact, open_artefact
from uniconv_bench.cli import main
from uniconv_bench.evaluation import Evaluation
from uniconv_bench.files import differences, digest_of_file
from uniconv_bench.progress import Silent
from uniconv_bench.reasons import reason, reasons

HOLDER = """
import sys
from pathlib import Path
from contextlib import nullcontext
from uniconv_bench.artefacts import hold, missing_artefact

way, folder = sys.argv[1], Path(sys.argv[2])
context = nullcontext(hold(folder)) if way == "use" else missing_artefact(folder, {})
with context as working:
    if way == "make":
        (working / "file").write_text("half")
    print("holding", flush=True)
    sys.stdin.readline()
"""
NOW = 1_000_000.0


def made(stage: str, name: str, size: int = 10, used: float = 0.0, **fingerprint: Any) -> Path:
    folder = folder_of(stage, name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        assert working is not None
        (working / "file").write_bytes(name.encode() + b"x" * size)
    if used:
        os.utime(folder, (used, used))
    return folder


def names(found: list[inventory.Holding]) -> list[str]:
    return sorted(one.folder.name.rpartition("-")[0] for one in found)


def going(**rules: Any) -> list[str]:
    defaults: dict[str, Any] = {"keep": None, "unused": None, "unfinished": False, "now": NOW}
    return names(inventory.to_prune(inventory.holdings(), **(defaults | rules)))


@pytest.fixture
def three(private_cache: Path) -> list[Path]:
    """An old adapter, an old ranking and a newer one, of a thousand bytes or so each."""
    return [
        made("adapters", "joint", 1000, NOW - 500),
        made("retrieval", "old", 1000, NOW - 300),
        made("retrieval", "new", 1000, NOW - 100),
    ]


def test_what_is_there_and_what_was_made_from_it(private_cache: Path) -> None:
    adapter = made("adapters", "joint")
    embeddings = made("embeddings", "corpus", backbone="b", adapter="a", corpus="c")
    part = {"backbone": "b", "adapter": "a", "query": "session"}
    run = made("retrieval", "uniconv", part=part, used_adapter=digest_of_file(adapter / "file"))
    answers = made("answers", "uniconv", run=digest_of_file(run / "file"))
    made("retrieval", "other", part=part | {"backbone": "other"})
    (private_cache / "numba").mkdir()
    (private_cache / "numba" / "code").write_bytes(b"x" * 5000)
    found = {one.name: one for one in inventory.holdings()}
    relative = {p: p.relative_to(private_cache).as_posix() for p in (adapter, embeddings, run)}
    assert found[relative[adapter]].used_by == (relative[run],)
    assert found[relative[embeddings]].used_by == (relative[run],)
    assert found[relative[run]].used_by == (answers.relative_to(private_cache).as_posix(),)
    first = inventory.holdings()[0]
    assert (first.name, first.bytes, first.state) == ("numba", 5000, "other")


def test_least_recently_used_goes_first_and_adapters_last(three: list[Path]) -> None:
    total = sum(one.bytes for one in inventory.holdings())
    assert going(keep=total) == []
    assert going(keep=total - 1) == ["old"]
    assert going(keep=total - 2000) == ["new", "old"]
    assert going(keep=0) == ["joint", "new", "old"]
    assert going(unused=200) == ["joint", "old"]
    assert going(unused=200, keep=0) == ["joint", "new", "old"]


@pytest.mark.parametrize("command", [["list"], ["prune", "--unfinished"]])
def test_a_cache_that_cannot_be_read_is_not_an_empty_one(
    command: list[str],
    private_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    private_cache.mkdir(exist_ok=True)

    def refused(path: str) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refused)
        patch.setattr(os, "scandir", refused)
        code = main(["cache", *command])
    line = capsys.readouterr().err
    assert code == 2 and line.startswith(
        f"error: no permission ({private_cache}); see that you may"
    )


def test_opening_an_artefact_is_using_it(three: list[Path]) -> None:
    assert open_artefact(three[1]) == {}
    total = sum(one.bytes for one in inventory.holdings())
    assert going(keep=total - 1) == ["new"]


def held(way: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, way, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "holding\n"
    return process


def test_what_a_process_uses_or_makes_stays_and_what_a_dead_one_left_goes(
    three: list[Path],
) -> None:
    missing = folder_of("retrieval", "making", {})
    user, maker = held("use", three[1]), held("make", missing)
    everything = {"keep": 0, "unused": 0, "unfinished": True}
    stale = [one for one in inventory.holdings() if one.folder == three[1]]
    assert [one.state for one in stale] == ["in use"]
    assert going(**everything) == ["joint", "new"]
    # It may be taken up between the choice and the removal.
    assert inventory.prune(stale) == [] and three[1].exists()
    for process in (user, maker):
        process.kill()
        process.wait()
    left = missing.with_name(f"{missing.name}.partial")
    assert (left / "file").read_text() == "half"
    assert going(unfinished=True) == ["making"]
    chosen = inventory.to_prune(
        inventory.holdings(), keep=None, unused=None, unfinished=True, now=NOW
    )
    assert inventory.prune(chosen) == chosen
    assert not left.exists() and all(folder.exists() for folder in three)
    assert {path.name for path in missing.parent.iterdir()} == {three[1].name, three[2].name}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_commands_list_and_prune(
    three: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, out, _ = said(capsys, "cache", "list", "--json")
    assert code == 0 and len(json.loads(out)) == 3
    code, out, _ = said(capsys, "cache", "list")
    assert code == 0 and "retrieval/old-" in out and "1.2 kB" in out
    code, out, err = said(capsys, "cache", "prune", "--keep", "0", "--dry-run")
    assert code == 0 and "would remove: 3" in err and all(folder.exists() for folder in three)
    code, _, err = said(capsys, "cache", "prune", "--keep", "0")  # nobody answers
    assert code == 2 and "add --yes" in err and all(folder.exists() for folder in three)
    code, out, _ = said(capsys, "cache", "prune", "--keep", "2.5kb", "--yes", "--json")
    assert code == 0 and [row["name"] for row in json.loads(out)] == [f"retrieval/{three[1].name}"]
    assert [folder.exists() for folder in three] == [True, False, True]
    for wrong, what in ((("--keep", "ten"), "--keep 'ten' is no amount"), ((), "nothing says")):
        code, _, err = said(capsys, "cache", "prune", *wrong)
        assert code == 2 and what in err


# --- why ----------------------------------------------------------------------------------------


def test_fields_that_differ_are_named_with_both_values() -> None:
    found = {"a": 1, "part": {"x": [1], "y": "s"}, "gone": None}
    wanted = {"a": 1, "part": {"x": [1, 2], "y": "s", "z": True}}
    assert differences(found, wanted) == [
        ("part.x", "[1]", "[1,2]"),
        ("part.z", "absent", "true"),
        ("gone", "null", "absent"),
    ]
    assert differences(wanted, wanted) == []


def test_why_names_the_field_that_missed(
    private_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_evaluate import CARD

    card = tmp_path / "tiny.toml"
    card.write_text(CARD.replace('kind = "bm25"', 'kind = "dense"'))

    def found() -> Evaluation:
        return Evaluation.of("qrecc", str(card), "sample", 2, Silent())

    assert [one.nearest for one in reasons(found())] == [None, None]
    stages.retrieve(found())
    assert [(one.stage, one.folder is not None) for one in reasons(found())] == [
        ("encode", True),
        ("retrieve", True),
        ("generate", False),
    ]
    before = card.read_text()
    card.write_text(before.replace("passage_tokens = 100", "passage_tokens = 99"))
    (encoding,) = reason(found(), "encode")
    assert encoding.differing == (("passage_tokens", "100", "99"),)
    (ranking,) = reason(found(), "retrieve")
    assert ranking.differing == (("part.passage_tokens", "100", "99"),)
    pair = ("--task", "qrecc", "--system", str(card), "--limit", "2")
    code, out, _ = said(capsys, "why", *pair)
    assert code == 0 and "retrieve tiny: not cached" in out and "part.passage_tokens" in out
    code, _, err = said(capsys, "why", *pair, "--stage", "score")
    assert code == 2 and "nothing can be said of score before retrieve is done" in err
    card.write_text(before.replace("top_k = 1", "top_k = 1, depth = 9"))
    code, out, _ = said(capsys, "why", *pair, "--stage", "retrieve", "--json")
    assert json.loads(out)[0]["differing"] == [{"field": "depth", "there": "100", "here": "9"}]


def test_why_of_an_adapter_that_would_be_trained(private_cache: Path, tmp_path: Path) -> None:
    from test_evaluate import ADAPTER, CARD, LLM

    card = tmp_path / "tiny.toml"
    card.write_text(CARD.replace('kind = "llm"', LLM) + ADAPTER)
    made_from = Evaluation.of("qrecc", str(card), "sample", 2, Silent()).setup.identity("a")
    made("adapters", "a", **made_from)
    (first, *_) = reasons(Evaluation.of("qrecc", str(card), "sample", 2, Silent()))
    assert first.stage == "train" and first.folder is not None
    card.write_text(card.read_text().replace("batch_size = 4", "batch_size = 3"))
    (only,) = reasons(Evaluation.of("qrecc", str(card), "sample", 2, Silent()))
    assert [name for name, _, _ in only.differing] == ["training.batch_size"]
