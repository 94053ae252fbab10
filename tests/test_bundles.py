"""A sound bundle passes; every way to cheat or to break one has its line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bundling import CARD, TASKS, FakeCorpus, FakeTask, edit, files, reseal

from uniconv_bench import bundles, submission_cards
from uniconv_bench.cards import TaskCard
from uniconv_bench.examination import LONGEST_LINE, check
from uniconv_bench.files import digest_of_file
from uniconv_bench.rescoring import Tasks
from uniconv_bench.runs import read_objects, write_objects
from uniconv_bench.submission import pack

RUN, ANSWERS, SCORES = "toy.run.gz", "toy.answers.jsonl.gz", "toy.scores.jsonl.gz"

# --- claims ------------------------------------------------------------------------------------


def test_a_claimed_mean_that_the_files_do_not_give_is_named(bundle: Path) -> None:
    def raise_claim(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["mrr"] += 1e-6

    reseal(bundle, raise_claim)
    (problem,) = check(bundle, TASKS)
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
    problems = check(bundle, TASKS)
    assert "toy mrr: claims 1.0 for turn 'c2_1', it is 0.0" in problems
    assert "toy f1: claims 1.0 for turn 'c0_2', it is 0.0" in problems
    assert any(p.startswith("toy mrr: claims a mean of 1.0") for p in problems)


@pytest.mark.parametrize(
    "claim", ["NaN", '"1.0"', "null", "[1]", "1" + "0" * 400, "true", '"\\ud800"', "[[[0]]]"]
)
def test_a_per_turn_claim_that_is_no_score_is_named(bundle: Path, claim: str) -> None:
    edit(bundle / SCORES, lambda s: s.replace('"f1": 1.0', f'"f1": {claim}', 1))
    reseal(bundle)
    (problem,) = check(bundle, TASKS)
    assert problem.startswith("toy f1: claims") and len(problem) <= LONGEST_LINE + 1
    assert problem.encode().decode().isprintable()


ENDLESS = "7" * 5000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'{{"turn_id": {ENDLESS}}}', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"turn_id": "\\ud800", "f1": 1.0}', "claims None"),
        ('{"turn_id": ["c0_1"], "f1": 1.0}', "claims None"),
        ("", "claims None"),
    ],
)
def test_a_broken_score_file_has_its_line(bundle: Path, row: str, message: str) -> None:
    edit(bundle / SCORES, lambda s: row)
    reseal(bundle)
    problems = check(bundle, TASKS)
    assert problems and all(message in p and "\n" not in p for p in problems), problems


def test_a_metric_that_is_claimed_but_not_given_is_named(bundle: Path) -> None:
    def claim_more(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"]["recall@10"] = 1.0

    reseal(bundle, claim_more)
    assert "claims f1, mrr, ndcg@3, recall@10, its files give f1, mrr" in check(bundle, TASKS)[0]


# --- files -------------------------------------------------------------------------------------


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
    (unsealed,) = check(bundle, TASKS)
    assert unsealed == f"{name!r} is not the file that the manifest names (sha256 differs)"
    reseal(bundle)
    problems = check(bundle, TASKS)
    assert any(message in p and p.startswith("toy: ") for p in problems), problems
    assert all("\n" not in p for p in problems)


def test_more_than_a_hundred_passages_a_turn(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(f"p{i:03d}" for i in range(101))
    monkeypatch.setattr(FakeCorpus, "ids", (*FakeCorpus.ids, *many))
    for count, expected in ((98, []), (99, ["toy: 1 turns rank more than 100 passages"])):
        rows = "".join(f"c0_1\tQ0\t{p}\t{i}\t0.1\tx\n" for i, p in enumerate(many[:count], 3))
        edit(bundle / RUN, lambda s, rows=rows: s.replace("c0_2\t", f"{rows}c0_2\t", 1))  # type: ignore[misc]
        reseal(bundle)
        found = check(bundle, TASKS)
        assert [p.partition(", first")[0] for p in found] == expected
        edit(bundle / RUN, lambda s, rows=rows: s.replace(rows, ""))  # type: ignore[misc]


def test_data_of_another_version_is_not_scored(bundle: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["data_digest"] = "f" * 64

    reseal(bundle, other)
    (problem,) = check(bundle, TASKS)
    assert problem.startswith("toy: made for other data (digest 'ffffffffffff'")


def test_links_folders_strangers_and_gaps(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (bundle / "toy.extra").symlink_to(secret)
    assert check(bundle, TASKS) == [
        "'toy.extra' is a symbolic link; put the file itself into the bundle"
    ]
    (bundle / "toy.extra").unlink()
    (bundle / "more").mkdir()
    assert check(bundle, TASKS) == ["'more' is not a plain file"]
    (bundle / "more").rmdir()
    (bundle / "toy2.run.gz").write_text("x")
    assert check(bundle, TASKS) == ["unknown file 'toy2.run.gz'"]
    (bundle / "toy2.run.gz").unlink()
    (bundle / RUN).unlink()
    assert check(bundle, TASKS) == [f"{RUN!r} is in the manifest but not in the bundle"]
    (bundle / ANSWERS).unlink()
    assert "toy: neither a run nor answers" in check(bundle, TASKS)
    (bundle / "card.toml").unlink()
    assert check(bundle, TASKS) == ["card.toml is missing"]
    assert "is not a folder" in check(tmp_path / "absent", TASKS)[0]
    link = tmp_path / "link"
    link.symlink_to(bundle)
    assert "is not a folder" in check(link, TASKS)[0]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "x\\y"])
def test_a_manifest_cannot_name_a_path(bundle: Path, name: str) -> None:
    (bundle.parent / "secret").write_text("x")

    def name_it(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = digest_of_file(bundle.parent / "secret")

    reseal(bundle, name_it)
    assert check(bundle, TASKS) == [f"manifest names {name!r}, a path outside the bundle"]


def test_a_task_cannot_be_a_path(bundle: Path) -> None:
    card = bundle / "card.toml"
    card.write_text(card.read_text().replace('tasks = ["toy"]', 'tasks = ["../evil"]'))
    reseal(bundle)
    assert "card field tasks: unknown task '../evil'; known: toy, toy2" in check(bundle, TASKS)


def test_an_unpacked_size_beyond_the_limit_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "LARGEST_FILE", 200)
    assert f"{RUN!r} is no whole gzip file of at most 0 MiB" in check(bundle, TASKS)
    monkeypatch.undo()
    (bundle / RUN).write_bytes((bundle / RUN).read_bytes()[:-5])
    reseal(bundle)
    assert check(bundle, TASKS) == [f"{RUN!r} is no whole gzip file of at most 1024 MiB"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "malformed manifest"),
        ('{"schema_version": 2, "package": "", "files": {}, "tasks": {}}', "schema_version"),
        ('{"schema_version": 1, "package": "", "files": {}}', "tasks: Field required"),
        ('{"schema_version": 1, "package": "\\ud800", "files": {}, "tasks": {}}', "unicode"),
        ("[" * 100_000, "nested too deep"),
        (f'{{"schema_version": {ENDLESS}}}', "not valid JSON: a number of thousands of digits"),
        (f'{{"schema_version": {"7" * 4000}}}', "schema_version"),
        (" " * (1 << 20) + "{}", "'manifest.json' is larger than 1 MiB"),
    ],
)
def test_a_malformed_manifest_has_its_line(bundle: Path, manifest: str, message: str) -> None:
    (bundle / "manifest.json").write_text(manifest)
    (problem,) = check(bundle, TASKS)
    assert message in problem


def test_what_a_bundle_quotes_stays_one_printable_line(bundle: Path) -> None:
    def claim(manifest: dict[str, Any]) -> None:
        manifest["tasks"]["toy"]["scores"] |= {"f1\n\x1b[31m": 1.0, "m" * 10_000: 1.0}

    reseal(bundle, claim)
    (problem,) = check(bundle, TASKS)
    assert problem.startswith("toy: claims f1, f1\\n\\x1b[31m, mmm") and len(problem) < 500


def test_a_claim_beyond_every_float(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"mrr": 0.5', f'"mrr": 1{"0" * 400}'))
    (problem,) = check(bundle, TASKS)
    assert "mrr" in problem


def test_a_file_that_cannot_be_read_is_a_problem(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bundles, "digest_of_file", unreadable)
    (problem,) = check(bundle, TASKS)
    assert problem.endswith("card.toml: Permission denied")


def test_a_bundle_is_named_as_its_folder_wherever_one_stands(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert check(Path(), TASKS) == []


@pytest.mark.parametrize(
    ("day", "expected"), [(2, []), (1, ["card field date: 2026-02-03 is in the future"])]
)
def test_a_card_may_be_dated_where_it_is_tomorrow(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, day: int, expected: list[str]
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 2, day, 12, tzinfo=tz)

    monkeypatch.setattr(submission_cards, "datetime", Clock)
    assert check(bundle, TASKS) == expected


def test_a_nan_claim_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"mrr": 0.5', '"mrr": NaN'))
    assert "malformed manifest" in check(bundle, TASKS)[0]


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
        ("2026-02-03", "2026-02-30", "field date: '2026-02-30' is no day of the calendar"),
        ("2026-02-03", "9999-12-31", "field date: 9999-12-31 is in the future"),
        ("2026-02-03", "2024-12-31", "field date: 2024-12-31 is before"),
        ('["Ann O\'Nym", "B. Ob"]', "[]", "field authors: name at least one"),
        ('trained_on = ["toy"]', "", "malformed card: field trained_on"),
        (
            'trained_on = ["toy"]',
            'trained_on = ["tou"]',
            "field trained_on: unknown task 'tou'; did",
        ),
        ('trained_on = ["toy"]', 'trained_on = ["toy", "toy"]', "trained_on: name each task once"),
        (
            '\ntasks = ["toy"]',
            '\ntasks = ["tooy"]',
            "field tasks: unknown task 'tooy'; did you mean",
        ),
        ("7000000000", f"0x{'f' * 5000}", "malformed card: field parameters"),
        ("7000000000", ENDLESS, "not valid TOML: a number of thousands of digits"),
        ("7000000000", "[" * 5000, "not valid TOML: nested too deep"),
        ("7000000000", "1\na" + ".a" * 5000 + " = 1", "nested too deep"),
        ("A good one", "\\ud800", "not valid TOML"),
        ("parameters = 7000000000", 'command = "a | b"', "field command: '|' is markup"),
        ("parameters = 7000000000", 'paper = "javascript:alert(1)"', "card field paper"),
        ("parameters = 7000000000", 'commit = "HEAD"', "malformed card: field commit"),
        ("parameters = 7000000000", 'platform.gpu = "<b>"', "field platform: '<' is markup"),
        ("parameters = 7000000000", 'platform.libraries = [" "]', "field platform: empty"),
    ],
)
def test_text_fields_hold_text(bundle: Path, old: str, new: str, message: str) -> None:
    card = bundle / "card.toml"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    reseal(bundle)
    problems = check(bundle, TASKS)
    assert any(message in p for p in problems), problems


class RetrievalAlone(FakeTask):
    """No metric of it reads answers."""

    @property
    def card(self) -> TaskCard:
        return super().card.model_copy(update={"metrics": ("ndcg@3", "mrr")})


def test_answers_that_no_metric_reads_are_looked_at_all_the_same(tmp_path: Path) -> None:
    tasks = Tasks(("toy",), lambda name, profile: RetrievalAlone())
    (tmp_path / "card.toml").write_text(CARD)
    bundle = pack(tmp_path / "card.toml", {"toy": files(tmp_path / "in")}, tmp_path, tasks)
    edit(bundle / ANSWERS, lambda s: "[]\n")
    reseal(bundle)
    (problem,) = check(bundle, tasks)
    assert "not a JSON object" in problem
