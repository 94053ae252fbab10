"""Bundles and pages: a sound bundle passes, every way to cheat or break one has its line."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_records import make_record, make_score

from uniconv_bench import submission
from uniconv_bench.cards import TaskCard
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_file
from uniconv_bench.leaderboard import build, check, pack
from uniconv_bench.records import record_path, write_record
from uniconv_bench.runs import read_objects, write_answers, write_objects, write_run
from uniconv_bench.system import Answer


class FakeCorpus:
    """Thirteen passages, the last relevant to no turn; ids with blanks, as INSCIT's."""

    ids = tuple(f"Page {i:02d}:0" for i in range(13))
    digest = "0" * 64

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Passage]:
        return (self[name] for name in self.ids)

    def __getitem__(self, passage_id: str) -> Passage:
        if passage_id not in self.ids:
            raise KeyError(passage_id)
        return Passage(passage_id, "text")


@dataclass
class FakeTask:
    """Four conversations of three turns; the second of each is not judged for retrieval."""

    name: str = "toy"
    digest: str = digest_of("toy data")
    corpus: FakeCorpus = field(default_factory=FakeCorpus)

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            **dict.fromkeys(
                ("title", "description", "homepage", "licence", "citation", "retrieval_setting"),
                "x",
            ),
            name=self.name,
            version=1,
            metrics=("ndcg@3", "mrr", "f1"),
        )

    def turns(self) -> list[Turn]:
        return [
            Turn(f"c{c}_{n}", f"c{c}", n, "q", (), (f"the answer {c} {n}",), self.gold(c, n))
            for c in range(4)
            for n in (1, 2, 3)
        ]

    def gold(self, conversation: int, number: int) -> tuple[str, ...]:
        return () if number == 2 else (self.corpus.ids[conversation * 3 + number - 1],)

    def qrels(self) -> dict[str, dict[str, int]]:
        return {t.turn_id: dict.fromkeys(t.gold, 1) for t in self.turns() if t.gold}

    def references(self) -> dict[str, tuple[str, ...]]:
        return {t.turn_id: t.references for t in self.turns()}


TASK = FakeTask()


def load(name: str, profile: str) -> FakeTask:
    if name not in ("toy", "toy2"):
        raise UserError(f"unknown task {name!r}")
    return FakeTask(name)


CARD = """
name = "good-one"
title = "A good | one"
authors = ["Ann O'Nym", "B. Ob"]
contact = "ann@example.org"
date = "2026-02-03"
description = "Plain text, 100 % of it."
code = "https://example.org/code"
backbone = "some-7b"
parameters = 7000000000
trained_on = ["toy"]
tasks = ["toy"]
profile = "sample"
""".replace(" | ", " ")


def files(folder: Path, *, hits: int = 12) -> dict[str, Path]:
    """A run that finds the gold passage of the first `hits` turns, and answers, half right."""
    folder.mkdir(parents=True, exist_ok=True)
    other = TASK.corpus.ids[-1]
    run = []
    for i, turn in enumerate(TASK.turns()):
        gold = [(p, 2.0) for p in turn.gold] if i < hits else []
        run.append((turn.turn_id, [*gold, (other, 1.0)]))
    answers = [Answer(t.turn_id, t.references[0] if t.number == 1 else "no") for t in TASK.turns()]
    write_run(folder / "run.trec", run, "x")
    write_answers(folder / "answers.jsonl", answers)
    return {"run": folder / "run.trec", "answers": folder / "answers.jsonl"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "card.toml").write_text(CARD)
    return pack(folder / "card.toml", {"toy": files(folder / "in", hits=6)}, folder, load)


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """A sound bundle of this test alone."""
    return Path(shutil.copytree(packed, tmp_path / packed.name))


def reseal(bundle: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """A cheat who knows the format mends every sha256 after editing a file."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {
        p.name: digest_of_file(p) for p in bundle.iterdir() if p.name != "manifest.json"
    }
    if change:
        change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode()))


# --- packing -----------------------------------------------------------------------------------


def test_a_packed_bundle_is_sound_and_claims_what_its_files_give(packed: Path) -> None:
    assert sorted(p.name for p in packed.iterdir()) == [
        "card.toml",
        "manifest.json",
        "toy.answers.jsonl.gz",
        "toy.run.gz",
        "toy.scores.jsonl.gz",
    ]
    assert check(packed, load) == []
    claim = json.loads((packed / "manifest.json").read_text())["tasks"]["toy"]
    # 8 turns are judged for retrieval, of the first six turns four: c0_1, c0_3, c1_1, c1_3.
    assert claim["data_digest"] == TASK.digest
    assert claim["scores"]["mrr"] == pytest.approx((4 + 0.0) / 8)
    assert claim["scores"]["f1"] == pytest.approx(4 / 12)
    assert [p.name for p in packed.parent.iterdir() if p.name.startswith(".")] == []


def test_packing_twice_gives_equal_bytes_and_never_overwrites(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)
    given = {"toy": files(tmp_path / "in", hits=6)}
    again = pack(tmp_path / "card.toml", given, tmp_path, load)
    for path in packed.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    with pytest.raises(UserError, match="already there"):
        pack(tmp_path / "card.toml", given, tmp_path, load)


def test_retrieval_alone_and_answers_alone_are_legal(tmp_path: Path) -> None:
    given = files(tmp_path / "in")
    for kind, metrics in (("run", {"ndcg@3", "mrr"}), ("answers", {"f1"})):
        (tmp_path / "card.toml").write_text(CARD.replace("good-one", f"only-{kind}"))
        bundle = pack(tmp_path / "card.toml", {"toy": {kind: given[kind]}}, tmp_path, load)
        assert check(bundle, load) == []
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
            pack(card, {"toy": given}, tmp_path / "out", load)
        assert list((tmp_path / "out").iterdir()) == []
    for card_text, given_files, message in [
        (CARD, {"toy": {}}, "give a run, answers or both"),
        (CARD, {"toy": given, "toy2": given}, "the card names the tasks toy, files"),
        (CARD.replace('"toy"', '"../toy"'), {"../toy": given}, "'../toy' is no task name"),
        (CARD.replace("sample", "tiny"), {"toy": given}, "field profile"),
        (CARD.replace("Plain", "<b>Plain"), {"toy": given}, "field description: '<' is markup"),
    ]:
        card.write_text(card_text)
        with pytest.raises(UserError, match=message):
            pack(card, given_files, tmp_path / "out", load)
        assert list((tmp_path / "out").iterdir()) == []


# --- claims ------------------------------------------------------------------------------------


def test_a_claimed_mean_that_the_files_do_not_give_is_named(bundle: Path) -> None:
    def raise_claim(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["mrr"] += 1e-6

    reseal(bundle, raise_claim)
    (problem,) = check(bundle, load)
    assert problem.startswith("toy mrr: claims a mean of 0.500001") and problem.endswith(
        "it is 0.5"
    )


def test_per_turn_scores_in_a_bundle_are_not_trusted_and_the_first_lie_is_named(
    bundle: Path,
) -> None:
    path = bundle / "toy.scores.jsonl.gz"
    rows = [row for _, row in read_objects(path)]
    for row in rows:
        row["f1"] = 1.0
        if "mrr" in row:
            row["mrr"] = 1.0
    write_objects(path, rows)

    def claim_all(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"] |= {"f1": 1.0, "mrr": 1.0}

    reseal(bundle, claim_all)
    problems = check(bundle, load)
    assert "toy mrr: claims 1.0 for turn 'c2_1', it is 0.0" in problems
    assert "toy f1: claims 1.0 for turn 'c0_2', it is 0.0" in problems
    assert any(p.startswith("toy mrr: claims a mean of 1.0") for p in problems)


@pytest.mark.parametrize("value", [float("nan"), "1.0", None, [1]])
def test_a_per_turn_claim_that_is_no_number_is_named(bundle: Path, value: Any) -> None:
    path = bundle / "toy.scores.jsonl.gz"
    rows = [row for _, row in read_objects(path)]
    rows[3]["f1"] = value
    write_objects(path, rows)
    reseal(bundle)
    (problem,) = check(bundle, load)
    assert problem.startswith("toy f1: claims") and "c1_1" in problem


def test_a_metric_that_is_claimed_but_not_given_is_named(bundle: Path) -> None:
    def claim_more(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["recall@10"] = 1.0

    reseal(bundle, claim_more)
    assert "claims f1, mrr, ndcg@3, recall@10, its files give f1, mrr" in check(bundle, load)[0]


# --- files -------------------------------------------------------------------------------------

RUN, ANSWERS = "toy.run.gz", "toy.answers.jsonl.gz"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (RUN, lambda s: s.replace("\t2\t", "\tnan\t", 1), "line 1"),
        (RUN, lambda s: s.replace("Page 12:0", "-1", 1), "not in the corpus, first '-1'"),
        (RUN, lambda s: s.replace("c0_1\t", "c9_9\t"), "not of this task, first 'c9_9'"),
        (RUN, lambda s: s.replace("c0_1\t", "c0_2\t"), "twice"),
        (RUN, lambda s: "".join(s.splitlines(True)[2:]), "no ranking, first 'c0_1'"),
        (ANSWERS, lambda s: s.split("\n", 1)[1], "no answer, first 'c0_1'"),
        (ANSWERS, lambda s: s.replace("c0_1", "c7_1"), "not of this task, first 'c7_1'"),
        (ANSWERS, lambda s: s.replace('"no"', "7", 1), "field answer"),
    ],
)
def test_a_bad_run_or_answer_file_has_its_line(
    bundle: Path, name: str, change: Callable[[str], str], message: str
) -> None:
    edit(bundle / name, change)
    (unsealed,) = check(bundle, load)
    assert unsealed == f"{name!r} is not the file that the manifest names (sha256 differs)"
    reseal(bundle)
    problems = check(bundle, load)
    assert any(message in p and p.startswith("toy: ") for p in problems), problems
    assert all("\n" not in p for p in problems)


def test_more_than_a_hundred_passages_a_turn(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(f"p{i:03d}" for i in range(101))
    monkeypatch.setattr(FakeCorpus, "ids", (*FakeCorpus.ids, *many))
    for count, expected in ((98, []), (99, ["toy: 1 turns rank more than 100 passages"])):
        rows = "".join(f"c0_1\tQ0\t{p}\t9\t0.1\tx\n" for p in many[:count])
        edit(bundle / RUN, lambda s, rows=rows: s + rows)  # type: ignore[misc]
        reseal(bundle)
        found = check(bundle, load)
        assert [p.partition(", first")[0] for p in found] == expected
        edit(bundle / RUN, lambda s, rows=rows: s.removesuffix(rows))  # type: ignore[misc]


def test_data_of_another_version_is_not_scored(bundle: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["data_digest"] = "f" * 64

    reseal(bundle, other)
    (problem,) = check(bundle, load)
    assert problem.startswith("toy: made for other data (digest 'ffffffffffff'")


def test_links_folders_strangers_and_gaps(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (bundle / "toy.extra").symlink_to(secret)
    assert check(bundle, load) == [
        "'toy.extra' is a symbolic link; put the file itself into the bundle"
    ]
    (bundle / "toy.extra").unlink()
    (bundle / "more").mkdir()
    assert check(bundle, load) == ["'more' is not a plain file"]
    (bundle / "more").rmdir()
    (bundle / "toy2.run.gz").write_text("x")
    assert check(bundle, load) == ["unknown file 'toy2.run.gz'"]
    (bundle / "toy2.run.gz").unlink()
    (bundle / RUN).unlink()
    assert check(bundle, load) == [f"{RUN!r} is in the manifest but not in the bundle"]
    (bundle / ANSWERS).unlink()
    assert "toy: neither a run nor answers" in check(bundle, load)
    (bundle / "card.toml").unlink()
    assert check(bundle, load) == ["card.toml is missing"]
    assert "is not a folder" in check(tmp_path / "absent", load)[0]
    link = tmp_path / "link"
    link.symlink_to(bundle)
    assert "is not a folder" in check(link, load)[0]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "x\\y"])
def test_a_manifest_cannot_name_a_path(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_text("x")

    def name_it(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = digest_of_file(bundle.parent / "secret")

    reseal(bundle, name_it)
    assert check(bundle, load) == [f"manifest names {name!r}, a path outside the bundle"]


def test_a_task_cannot_be_a_path(bundle: Path) -> None:
    card = bundle / "card.toml"
    card.write_text(card.read_text().replace('tasks = ["toy"]', 'tasks = ["../evil"]'))
    reseal(bundle)
    assert "card field tasks: '../evil' is no task name" in check(bundle, load)


def test_an_unpacked_size_beyond_the_limit_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "LARGEST_FILE", 200)
    assert f"{RUN!r} is no whole gzip file of at most 0 MiB" in check(bundle, load)
    monkeypatch.undo()
    (bundle / RUN).write_bytes((bundle / RUN).read_bytes()[:-5])
    reseal(bundle)
    assert check(bundle, load) == [f"{RUN!r} is no whole gzip file of at most 1024 MiB"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "malformed manifest"),
        ('{"schema_version": 2, "package": "", "files": {}, "tasks": {}}', "schema_version"),
        ('{"schema_version": 1, "package": "", "files": {}}', "tasks: Field required"),
        ('{"schema_version": 1, "package": "\\ud800", "files": {}, "tasks": {}}', "unicode"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_malformed_manifest_has_its_line(bundle: Path, manifest: str, message: str) -> None:
    (bundle / "manifest.json").write_text(manifest)
    (problem,) = check(bundle, load)
    assert message in problem


def test_a_nan_claim_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"mrr": 0.5', '"mrr": NaN'))
    assert "malformed manifest" in check(bundle, load)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A good one", "<img src=x onerror=alert(1)>", "field title: '<' is markup"),
        ("A good one", "x | y", "field title: '|' is markup"),
        ("A good one", "  ", "field title: empty"),
        ("A good one", "a\\u202eb", "field title: holds control characters"),
        ("B. Ob", "[B](x)", "field authors: '[' is markup"),
        ("Plain text", "see http://x", "field description: 'http://' is markup"),
        ("some-7b", "`rm`", "field backbone: '`' is markup"),
        ("https://example.org/code", "javascript:alert(1)", "field code"),
        ("https://example.org/code", "https://e.x/a) [b](https://c.d", "field code"),
        ("good-one", "other", "the card's name is 'other'"),
        ("2026-02-03", "soon", "malformed card: field date"),
        ('title = "A good one"', "", "malformed card: field title"),
    ],
)
def test_text_fields_hold_text(bundle: Path, old: str, new: str, message: str) -> None:
    card = bundle / "card.toml"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    reseal(bundle)
    problems = check(bundle, load)
    assert any(message in p for p in problems), problems


# --- pages -------------------------------------------------------------------------------------


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
