"""Pages: our own records and rescored submissions, ranked; what may not stand on one is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundling import CARD, TASK, TASKS, FakeTask, files, reseal
from evidence import put, steady
from test_records import make_record, make_score

from uniconv_bench import definitions, examination
from uniconv_bench.cards import Reported
from uniconv_bench.errors import UserError
from uniconv_bench.examination import check, examine
from uniconv_bench.leaderboard import build
from uniconv_bench.metrics import metric_score
from uniconv_bench.records import ResultRecord, Score, record_path, write_record
from uniconv_bench.rendering import escape_markdown
from uniconv_bench.rescoring import NotAtHand, Tasks, rescore
from uniconv_bench.runs import read_answers, write_answers
from uniconv_bench.submission import pack


def nothing(record: ResultRecord) -> dict[str, Path]:
    """No run or answer file of ours is left."""
    return {}


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
    pack(tmp_path / "card.toml", {"toy": files(tmp_path / "in", hits=0)}, tmp_path, TASKS)
    root = make_root(tmp_path, bundle)
    built = build(root, TASKS, nothing)
    (path,) = built.pages
    assert path == root / "leaderboards" / "sample.md"
    assert built.recorded == path.read_text().count(", as recorded |") == 5
    page = path.read_text()
    assert "## toy" in page and "nothing" not in page and "comparable with a published" in page
    retrieval = rows(page, "Retrieval")
    assert retrieval[0] == ["Rank", "System", "Source", "NDCG@3", "MRR", "n"]
    shown = {row[1]: row for row in retrieval[2:]}
    assert [row[1] for row in retrieval[2:]] == ["Oracle", "Uniconv", "A good one", "No\\_Passages"]
    assert shown["Oracle"][:3] == ["-", "Oracle", "ours, oracle, as recorded"]
    assert shown["Uniconv"] == ["1", "Uniconv", "ours, as recorded", "90.0 [89.0, 91.0]", "-", "20"]
    assert shown["A good one"][0] == "2" and shown["A good one"][2] == "submission"
    # No hit in four conversations: the exact bound, not the nothing that resampling would show.
    assert shown["A good one"][3:] == ["0.0 [0.0, 60.2]", "0.0 [0.0, 60.2]", "8"]
    assert shown["No\\_Passages"] == ["-", "No\\_Passages", "ours", "-", "-", "-"]
    generation = {row[1]: row for row in rows(page, "Generation")[2:]}
    # 0.35 +- 0.3 and the submission's 0.333 overlap: one rank. 0.01 lies below both.
    assert generation["Uniconv"][0] == generation["A good one"][0] == "1-2"
    assert generation["No\\_Passages"][0] == "3"
    about = page.split("## Submissions")[1]
    assert "Ann O'Nym, B. Ob; 2026-02-03; backbone some-7b, 7,000,000,000 parameters" in about
    assert "[code](https://example.org/code)" in about and "ann" not in about.replace("Ann", "")
    assert build(root, TASKS, nothing) and path.read_text() == page


def test_a_broken_bundle_is_refused_and_the_page_made_from_the_others(
    bundle: Path, tmp_path: Path
) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["f1"] = 0.99

    root = make_root(tmp_path, bundle)
    submissions = root / "leaderboards" / "submissions"
    for name in ("liar", "rubbish"):
        shutil.copytree(bundle, submissions / name)
    (submissions / "rubbish" / "card.toml").write_text("\0")
    card = submissions / "liar" / "card.toml"
    card.write_text(card.read_text().replace("good-one", "liar").replace("A good one", "A liar"))
    reseal(submissions / "liar", lie)
    for name in ("README.md", ".DS_Store"):
        (submissions / name).write_text("no bundle")
    (submissions / ".packing-left").mkdir()
    built = build(root, TASKS, nothing)
    assert list(built.refused) == ["liar", "rubbish"]
    (problem,) = built.refused["liar"]
    assert problem.startswith("toy f1: claims a mean of 0.99")
    assert "not valid TOML" in built.refused["rubbish"][0]
    assert [path.name for path in built.skipped] == [".DS_Store", "README.md"]
    (page,) = built.pages
    assert "A good one" in page.read_text() and "liar" not in page.read_text()


def test_two_submissions_do_not_share_a_title(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path, bundle)
    copy = root / "leaderboards" / "submissions" / "later"
    shutil.copytree(bundle, copy)
    card = copy / "card.toml"
    card.write_text(card.read_text().replace("good-one", "later").replace("A good", "A GOOD"))
    reseal(copy)
    built = build(root, TASKS, nothing)
    message = "card field title: 'A GOOD one' is the name of another system, submission 'good-one'"
    assert built.refused == {"later": [message]}


def test_a_copy_of_another_submission_is_flagged(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path, bundle)
    copy = root / "leaderboards" / "submissions" / "zz-other"
    shutil.copytree(bundle, copy)
    card = copy / "card.toml"
    named = card.read_text().replace("good-one", "zz-other").replace("A good", "Quite another")
    card.write_text(named)
    reseal(copy)
    built = build(root, TASKS, nothing)
    twin = "toy: generation scores on every turn what 'A good one' does"
    assert twin in built.flagged.get("zz-other", []) and "good-one" not in built.flagged
    page = built.pages[0].read_text()
    assert escape_markdown(twin) in page and page.count("flagged |") >= 2
    (tmp_path / "third.toml").write_text(
        CARD.replace("good-one", "third").replace("A good one", "One answer apart")
    )
    third = files(tmp_path / "third")
    first, *others = read_answers(third["answers"]).values()
    write_answers(third["answers"], [replace(first, text="other"), *others])
    pack(tmp_path / "third.toml", {"toy": third}, root / "leaderboards" / "submissions", TASKS)
    assert list(build(root, TASKS, nothing).flagged) == ["zz-other"]


@pytest.mark.parametrize("called", ["A good one", "Good-One"])
def test_a_newcomer_takes_nobodys_place(bundle: Path, tmp_path: Path, called: str) -> None:
    """Whatever its folder is called: who stands on the page was there first."""
    root = make_root(tmp_path, bundle)
    build(root, TASKS, nothing)
    early = root / "leaderboards" / "submissions" / "aaa"
    shutil.copytree(bundle, early)
    card = early / "card.toml"
    named = card.read_text().replace("good-one", "aaa").replace("A good one", called)
    card.write_text(named.replace("2026-02-03", "2025-01-01"))
    reseal(early)
    assert check(early, TASKS) == []
    built = build(root, TASKS, nothing)
    assert list(built.refused) == ["aaa"] and "submission 'good-one'" in built.refused["aaa"][0]
    assert "](submissions/good-one)" in built.pages[0].read_text()
    assert "](submissions/aaa)" not in built.pages[0].read_text()


def test_a_profile_whose_data_is_not_at_hand_keeps_its_page(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path, bundle)
    full = make_record("toy", "big", profile="full")
    write_record(full, record_path(root / "results", full))
    mini = root / "leaderboards" / "submissions" / "small"
    shutil.copytree(bundle, mini)
    card = mini / "card.toml"
    text = card.read_text().replace("good-one", "small").replace("A good one", "Small")
    card.write_text(text.replace('"sample"', '"mini"'))
    reseal(mini)

    def load(name: str, profile: str) -> FakeTask:
        if profile != "sample":
            raise NotAtHand(f"no {profile} data", mend="prepare it")
        return FakeTask(name)

    for name in ("mini", "full"):
        (root / "leaderboards" / f"{name}.md").write_text("as it was")
    built = build(root, Tasks(TASKS.names, load), nothing)
    assert [path.name for path in built.pages] == ["sample.md"] and not built.gone
    assert built.kept == {p: f"no {p} data; prepare it" for p in ("full", "mini")}
    assert [board.profile for board in built.boards] == ["sample"]
    for name in ("mini", "full"):
        assert (root / "leaderboards" / f"{name}.md").read_text() == "as it was"


def test_a_page_goes_with_the_last_that_stood_on_it(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    submitted = root / "leaderboards" / "submissions" / bundle.name
    shutil.copytree(bundle, submitted)
    (page,) = build(root, TASKS, nothing).pages
    (submitted / "stray").write_text("x")
    built = build(root, TASKS, nothing)
    assert list(built.refused) == [bundle.name]
    assert built.gone == [page] and not page.exists()


def test_an_entry_says_what_is_known_of_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "COPIED", {0: 0.1})
    root = make_root(tmp_path, bundle)
    record = make_record(
        "toy",
        "trained",
        adapters={"both": "0" * 64},
        settings={"adapters": {"both": {"tasks": ["toy2", "toy"]}, "other": {"tasks": ["x"]}}},
    )
    data = record.task.model_copy(update={"data_digest": TASK.digest})
    write_record(record.model_copy(update={"task": data}), record_path(root / "results", record))
    built = build(root, TASKS, nothing)
    entries = {entry.name: entry for entry in built.boards[0].entries}
    theirs, ours = entries["good-one"], entries["trained"]
    assert theirs.open_weights is False and ours.open_weights is True
    assert ours.trained_on == ["toy", "toy2"] and list(entries["uniconv"].trained_on) == []
    (flag,) = theirs.flags
    assert built.flagged == {"good-one": [flag]} and "references, word for word" in flag
    assert f"*Flagged: {escape_markdown(flag)}.*" in built.pages[0].read_text()


@pytest.mark.parametrize(
    ("retriever", "bound"),
    [
        ({"kind": "gold"}, True),
        ({"kind": "bm25", "query": "rewrite"}, True),
        ({"kind": "bm25", "query": "session"}, False),
        ("mine:Own", False),
    ],
)
def test_what_nobody_has_at_test_time_has_no_rank(
    tmp_path: Path, retriever: object, bound: bool
) -> None:
    root = make_root(tmp_path, None)
    record = make_record("toy", "given", settings={"retriever": retriever})
    data = record.task.model_copy(update={"data_digest": TASK.digest})
    write_record(record.model_copy(update={"task": data}), record_path(root / "results", record))
    board = build(root, TASKS, nothing).boards[0]
    rows = [row for table in board.rankings for row in table.rows if row.entry.name == "given"]
    assert rows and all((row.ranks is None) is bound for row in rows if row.scores)


def test_printed_figures_stand_at_full_alone_as_fractions(tmp_path: Path) -> None:
    root = make_root(tmp_path, None)
    full = make_record("toy", "big", profile="full")
    data = full.task.model_copy(update={"data_digest": TASK.digest})
    write_record(full.model_copy(update={"task": data}), record_path(root / "results", full))

    where = {"system": "X", "source": "elsewhere", "kind": "paper"}
    figures = (
        Reported(metric="f1", value=35.5, scale="percent", **where),
        Reported(metric="mrr", value=0.2, scale="fraction", **where),
    )

    class Printed(FakeTask):
        card = TASK.card.model_copy(update={"reported": figures})

    tasks = Tasks(TASKS.names, lambda name, profile: Printed(name))
    boards = {board.profile: board for board in build(root, tasks, nothing).boards}
    (entry,) = [e for e in boards["full"].entries if e.source == "published"]
    assert entry.reported == {"toy": {"f1": 0.355, "mrr": 0.2}}
    assert {e.source for e in boards["sample"].entries} == {"ours"}
    assert "*35.5*" in (root / "leaderboards" / "full.md").read_text()


def own_record(folder: Path, **scores: Score) -> tuple[ResultRecord, dict[str, Path]]:
    """A record of the scores that its files give, or of others, and these files."""
    made = files(folder, hits=6)
    made["run"].write_text(made["run"].read_text().partition("c3_1")[0])  # a turn not ranked
    given, problems, _ = rescore(TASK, made["run"], made["answers"], whole=False)
    assert not problems
    right = {metric: metric_score(metric, values) for metric, values in given.items()}
    record = make_record("toy", "own", tuple({**right, **scores}.values()))
    data = record.task.model_copy(update={"data_digest": TASK.digest})
    return record.model_copy(update={"task": data}), made


def test_a_metric_that_cannot_be_computed_here_stops_a_rescoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipped, it would look like a claim that nothing speaks against."""
    made = files(tmp_path)

    class Inscit(FakeTask):
        card = TASK.card.model_copy(update={"metrics": ("mrr", "f1_inscit")})

    monkeypatch.setattr(definitions, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs spacy.*pip install 'uniconv-bench\[inscit\]'"):
        rescore(Inscit(), made["run"], made["answers"])
    scores, problems, _ = rescore(Inscit(), made["run"], None)
    assert list(scores) == ["mrr"] and not problems


def test_a_page_is_made_without_the_package_of_one_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores of ours stay as recorded, a submission's are left out; neither is ever 0."""

    class Inscit(FakeTask):
        card = TASK.card.model_copy(update={"metrics": ("mrr", "f1", "f1_inscit")})

    tasks = Tasks(("toy",), lambda name, profile: Inscit(), {"Own": "ours"})
    monkeypatch.setitem(
        definitions.GENERATION,
        "f1_inscit",
        replace(definitions.GENERATION["f1_inscit"], value=lambda answer, references: 0.25),
    )
    monkeypatch.setattr(definitions, "find_spec", lambda name: name)
    root = tmp_path / "root"
    (tmp_path / "card.toml").write_text(CARD)
    given = {"toy": files(tmp_path / "theirs", hits=6)}
    bundle = pack(tmp_path / "card.toml", given, root / "leaderboards" / "submissions", tasks)
    record, made = own_record(tmp_path / "in", f1_inscit=make_score("f1_inscit", 0.3, 0.1))
    record = record.model_copy(
        update={"scores": tuple(s for s in record.scores if s.metric != "ndcg@3")}
    )
    write_record(record, record_path(root / "results", record))
    monkeypatch.setattr(definitions, "find_spec", lambda name: None)
    built = build(root, tasks, lambda record: made)
    (reason,) = built.lacking
    assert "needs spacy" in reason and "pip install 'uniconv-bench[inscit]'" in reason
    assert built.recorded == 0 and not built.refused
    page = built.pages[0].read_text()
    header, _, *table = rows(page, "Generation")
    cells = {row[1]: dict(zip(header, row, strict=True)) for row in table}
    assert cells["Own"]["Source"] == "ours" and cells["Own"]["F1"] != "-"
    assert cells["Own"]["F1 (INSCIT)"] == "30.0† [20.0, 40.0]"
    assert cells["A good one"]["F1 (INSCIT)"] == "-"
    assert cells["A good one"]["F1"].startswith("33.3")
    assert page.count("†: as recorded") == 1
    assert examine(bundle, tasks).problems == [] and examine(bundle, tasks).lacking


def test_our_own_scores_are_rescored_where_the_files_are(tmp_path: Path) -> None:
    root = tmp_path / "root"
    record, made = own_record(tmp_path / "in")
    path = write_record(record, record_path(root / "results", record))

    def source(outputs: dict[str, Path]) -> list[str]:
        (page,) = build(root, TASKS, lambda record: outputs).pages
        return [rows(page.read_text(), h)[2][2] for h in ("Retrieval", "Generation")]

    assert source(made) == ["ours", "ours"]
    assert source({"run": made["run"]}) == ["ours", "ours, as recorded"]
    assert source({}) == ["ours, as recorded", "ours, as recorded"]
    true = record.score("mrr")
    assert true is not None
    for lie in (
        true.model_copy(update={"mean": true.mean + 1e-6}),
        true.model_copy(update={"ci95": (true.mean, true.ci95[1])}),
        true.model_copy(update={"n": true.n + 1}),
        true.model_copy(update={"metric": "recall@10"}),
    ):
        false, _ = own_record(tmp_path / "in", mrr=lie)
        write_record(false, path)
        with pytest.raises(UserError, match="record of own on toy .sample.: .* is not what its"):
            source(made)
        assert source({"answers": made["answers"]}) == ["ours, as recorded", "ours"]
    write_record(record, path)
    made["run"].write_text("c0_1 Q0 nowhere 1 1.0 x\n")
    with pytest.raises(UserError, match="own on toy .sample. are broken: toy: .*'nowhere'.*--sys"):
        source(made)


def test_stale_and_limited_records_are_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path, bundle)
    stale = make_record("toy", "stale")
    path = write_record(stale, record_path(root / "results", stale))
    with pytest.raises(UserError, match="record of stale on toy .sample. is of other data") as info:
        build(root, TASKS, nothing)
    assert info.value.mend == (
        "run it again: uniconv-bench run --task toy --system stale --profile sample"
    )
    path.unlink()
    limited = make_record("toy", "limited", limit=3)
    write_record(limited, record_path(root / "results", limited))
    with pytest.raises(UserError, match="record of limited on toy .sample. is limited"):
        build(root, TASKS, nothing)


def test_pages_are_by_profile_and_need_no_submission(tmp_path: Path) -> None:
    root = make_root(tmp_path, None)
    full = make_record("toy", "big", profile="full")
    data = full.task.model_copy(update={"data_digest": TASK.digest})
    full = full.model_copy(update={"task": data})
    write_record(full, record_path(root / "results", full))
    pages = build(root, TASKS, nothing).pages
    assert [p.name for p in pages] == ["full.md", "sample.md"]
    assert "Big" in pages[0].read_text() and "Uniconv" not in pages[0].read_text()
    assert "written by this project" not in pages[0].read_text()


def test_a_page_links_the_rules_only_where_they_are(tmp_path: Path) -> None:
    root = make_root(tmp_path, None)
    (page,) = build(root, TASKS, nothing).pages
    assert "README.md" not in page.read_text()
    (root / "leaderboards" / "README.md").write_text("# Rules")
    build(root, TASKS, nothing)
    assert "the rules are in [README.md](README.md)" in page.read_text()


def test_ranks_come_from_paired_tests_where_scores_by_turn_are(tmp_path: Path) -> None:
    """Intervals overlap, yet the second is worse on every turn by as much."""
    best = steady(0.5, wave=0.4)
    systems = {"a": best, "b": {t: v - 0.04 for t, v in best.items()}, "c": best}
    for name, values in systems.items():
        put(tmp_path / "results", "toy", name, {"f1": values}, of_task={"data_digest": TASK.digest})
    (page,) = build(tmp_path, TASKS, nothing).pages
    ranks = {row[1]: row[0] for row in rows(page.read_text(), "Generation")[2:]}
    assert ranks == {"A": "1-2", "C": "1-2", "B": "3"} and "by intervals" not in page.read_text()
    next((tmp_path / "results").rglob("*.gz")).unlink()
    build(tmp_path, TASKS, nothing)
    ranks = {row[1]: row[0] for row in rows(page.read_text(), "Generation")[2:]}
    assert set(ranks.values()) == {"1-3"} and "by intervals alone" in page.read_text()
