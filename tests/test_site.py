"""The static site: what is in it, what is not, and that nothing in it is markup of others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from bundling import CARD, TASK, TASKS, files
from evidence import put

from uniconv_bench.errors import UserError
from uniconv_bench.leaderboard import Board, build
from uniconv_bench.readingroom import script
from uniconv_bench.rescoring import Tasks
from uniconv_bench.site import write
from uniconv_bench.submission import pack

CSP = "default-src 'none'; script-src 'self'; style-src 'self'"


def boards(root: Path, tasks: Tasks) -> list[Board]:
    """Ours: a bound with a markup in its title, one with answers alone; and a submission."""
    of_task = {"data_digest": TASK.digest}
    turns = TASK.turns()
    judged = {t.turn_id: 0.5 for t in turns if t.gold}
    f1 = {t.turn_id: 0.25 for t in turns}
    perfect = dict.fromkeys(judged, 1.0)
    results = root / "results"
    ranked = {"ndcg@3": perfect, "mrr": perfect, "f1": f1}
    put(
        results,
        "toy",
        "gold",
        ranked,
        of_task=of_task,
        title="Gold & <b>bound</b>",
        settings={"retriever": {"kind": "gold"}},
        backbone="small",
    )
    put(
        results,
        "toy",
        "steady",
        {"ndcg@3": judged, "mrr": judged, "f1": f1},
        of_task=of_task,
        backbone="small",
    )
    put(results, "toy", "silent", {"f1": f1}, of_task=of_task, backbone="small")
    card = root / "card.toml"
    card.write_text(CARD)
    folder = root / "leaderboards" / "submissions"
    pack(card, {"toy": files(root / "in", hits=1)}, folder, tasks)
    return build(root, tasks, lambda record: {}, {"small": 10**8}).boards


def built_site(root: Path, tasks: Tasks) -> Path:
    return write(boards(root, tasks), root / "site").parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Board]:
    return boards(tmp_path_factory.mktemp("boards"), TASKS)


@pytest.fixture
def site(made: list[Board], tmp_path: Path) -> Path:
    return write(made, tmp_path / "site").parent


def data(path: Path) -> object:
    name, text = re.fullmatch(r"receive\((.*?), (.*)\);\n", path.read_text()).groups()  # type: ignore[union-attr]
    assert json.loads(name) == path.stem
    return json.loads(json.loads(text))


def test_every_page_forbids_inline_scripts_and_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) == 8
    for page in pages:
        text = page.read_text()
        assert CSP in text and "style=" not in text and not re.search(r"<script(?! src)", text)
        assert not re.search(
            r"(src|href)=\"(https?:)?//", text.replace("https://example.org/code", "")
        )


def test_every_link_leads_to_a_file(site: Path) -> None:
    for page in site.rglob("*.html"):
        for link in re.findall(r"(?:href|src)=\"([^\"]+)\"", page.read_text()):
            if not link.startswith(("https://example.org", "data:")):
                assert (page.parent / link.partition("#")[0]).is_file(), (page, link)


def test_titles_are_escaped(site: Path) -> None:
    text = (site / "sample" / "task-toy.html").read_text()
    assert "Gold &amp; &lt;b&gt;bound&lt;/b&gt;" in text and "<b>bound" not in text


def test_the_reading_room_has_what_is_at_hand(site: Path) -> None:
    folder = site / "sample" / "data"
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.js",
        "toy.js",
        "toy.ours-gold.js",
        "toy.ours-silent.js",
        "toy.ours-steady.js",
        "toy.submission-good-one.js",
    ]
    turns = data(folder / "toy.js")["turns"]  # type: ignore[index]
    assert turns[0] == {"id": "c0_1", "history": [], "query": "q", "references": ["the answer 0 1"]}
    first, second = data(folder / "toy.submission-good-one.js")["turns"][:2]  # type: ignore[index]
    assert first["answer"] == "the answer 0 1" and first["gold"] == [1]
    assert [row[2] for row in first["ranking"]] == [True, False]
    assert second["scores"] == [None, None, 0.0]
    ours = data(folder / "toy.ours-steady.js")["turns"][0]  # type: ignore[index]
    assert ours == {"scores": [0.5, 0.5, 0.25], "ranking": None, "gold": None, "answer": None}


def test_texts_of_others_stay_out_unless_asked_for(made: list[Board], tmp_path: Path) -> None:
    real = [Board("mini", b.entries, b.rankings, b.tasks) for b in made]
    for texts in (False, True):
        folder = write(real, tmp_path / "site", texts=texts).parent / "mini"
        everything = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
        assert ("the answer 0 1" in everything) is texts
        assert ("--texts" in (folder / "reading.html").read_text()) is not texts


def test_data_is_a_string_whatever_its_keys_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.js"
    value = {"__proto__": '</script>\u2028"); alert(1); ("', "turn": ["\\", "\n"]}
    path.write_text(script("x", value))
    assert data(path) == value and path.read_text().count("\n") == 1


def test_a_site_replaces_a_site_and_nothing_else(made: list[Board], site: Path) -> None:
    (site / "sample" / "stale.html").write_text("x")
    write(made, site)
    assert not (site / "sample" / "stale.html").exists()
    shutil.rmtree(site)
    site.mkdir()
    (site / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="something else than a site"):
        write(made, site)
    assert [p.name for p in site.iterdir()] == ["thesis.tex"]
    assert [p.name for p in site.parent.iterdir()] == ["site"]


def test_the_joint_ranking_is_over_turns_judged_for_both(made: list[Board]) -> None:
    (both,) = [ranking for ranking in made[0].rankings if ranking.kind == "both"]
    rows = {row.entry.name: row for row in both.rows}
    assert set(rows) == {"gold", "steady", "good-one"} and rows["gold"].ranks is None
    assert rows["steady"].scores["both"].mean == pytest.approx((0.5 + 0.25) / 2)
    assert rows["steady"].scores["both"].n == 8  # four of the twelve turns have no gold passage
    assert list(both.labels.values()) == ["mean of NDCG@3 and F1"]
