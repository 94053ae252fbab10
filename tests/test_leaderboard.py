"""Pages: our own records and rescored submissions, ranked; what may not stand on one is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from bundling import CARD, TASK, files, load, reseal
from test_records import make_record, make_score

from uniconv_bench.errors import UserError
from uniconv_bench.leaderboard import build
from uniconv_bench.records import record_path, write_record
from uniconv_bench.submission import pack


def make_root(tmp_path: Path, bundle: Path | None) -> Path:
    """Our own systems and, if given, a submission."""
    root = tmp_path / "root"
    (root / "leaderboards" / "submissions").mkdir(parents=True)
    if bundle is not None:
        shutil.copytree(bundle, root / "leaderboards" / "submissions" / bundle.name)
    bound = {"settings": {"retriever": {"kind": "gold"}}}
    none = {"settings": {"retriever": {"kind": "none"}}}
    for system, scores, fields in [
        ("uniconv", (make_score("ndcg@3", 0.9, 0.01), make_score("f1", 0.35, 0.3)), {}),
        ("oracle", (make_score("ndcg@3", 1.0, 0.0), make_score("f1", 0.5, 0.01)), bound),
        ("no_passages", (make_score("f1", 0.01, 0.005),), none),
    ]:
        record = make_record("toy", system, scores, **fields)
        data = record.task.model_copy(update={"data_digest": TASK.digest})
        record = record.model_copy(update={"task": data})
        write_record(record, record_path(root / "results", record))
    return root


def rows(page: str, heading: str) -> list[list[str]]:
    part = page.split(f"### {heading}\n")[1].split("\n#")[0]
    table = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def test_a_page_ranks_recomputed_and_own_scores(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    shutil.rmtree(bundle)
    pack(tmp_path / "card.toml", {"toy": files(tmp_path / "in", hits=0)}, tmp_path, load)
    root = make_root(tmp_path, bundle)
    (path,) = build(root, load)
    assert path == root / "leaderboards" / "sample.md"
    page = path.read_text()
    assert "## toy" in page and "nothing" not in page and "comparable with a published" in page
    retrieval = rows(page, "Retrieval")
    assert retrieval[0] == ["Rank", "System", "Source", "NDCG@3", "MRR", "n"]
    shown = {row[1]: row for row in retrieval[2:]}
    assert [row[1] for row in retrieval[2:]] == ["Oracle", "Uniconv", "A good one", "No\\_Passages"]
    assert shown["Oracle"][:3] == ["-", "Oracle", "ours, upper bound"]
    assert shown["Uniconv"] == ["1", "Uniconv", "ours", "90.0 [89.0, 91.0]", "-", "20"]
    assert shown["A good one"][0] == "2" and shown["A good one"][2] == "submission"
    assert shown["A good one"][3:] == ["0.0 [0.0, 0.0]", "0.0 [0.0, 0.0]", "8"]
    assert shown["No\\_Passages"] == ["-", "No\\_Passages", "ours", "-", "-", "-"]
    generation = {row[1]: row for row in rows(page, "Generation")[2:]}
    # 0.35 +- 0.3 and the submission's 0.333 overlap: one rank. 0.01 lies below both.
    assert generation["Uniconv"][0] == generation["A good one"][0] == "1"
    assert generation["No\\_Passages"][0] == "3"
    about = page.split("## Submissions")[1]
    assert "Ann O'Nym, B. Ob; 2026-02-03; backbone some-7b, 7,000,000,000 parameters" in about
    assert "[code](https://example.org/code)" in about and "ann" not in about.replace("Ann", "")
    assert build(root, load) and path.read_text() == page


def test_a_bundle_whose_claim_differs_stops_the_page(bundle: Path, tmp_path: Path) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["f1"] = 0.99

    reseal(bundle, lie)
    root = make_root(tmp_path, bundle)
    with pytest.raises(UserError, match=r"submission good-one is refused: toy f1: claims a mean"):
        build(root, load)
    assert not (root / "leaderboards" / "sample.md").exists()


def test_rows_of_unlike_data_and_limited_records_are_refused(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path, bundle)
    stale = make_record("toy", "stale")
    path = write_record(stale, record_path(root / "results", stale))
    with pytest.raises(UserError, match="rows of toy .sample. were measured on different data"):
        build(root, load)
    path.unlink()
    limited = make_record("toy", "limited", limit=3)
    write_record(limited, record_path(root / "results", limited))
    with pytest.raises(UserError, match="limited on toy is a limited record"):
        build(root, load)


def test_pages_are_by_profile_and_need_no_submission(tmp_path: Path) -> None:
    root = make_root(tmp_path, None)
    full = make_record("toy", "big", profile="full")
    write_record(full, record_path(root / "results", full))
    pages = build(root, load)
    assert [p.name for p in pages] == ["full.md", "sample.md"]
    assert "Big" in pages[0].read_text() and "Uniconv" not in pages[0].read_text()
    assert "written by this project" not in pages[0].read_text()
