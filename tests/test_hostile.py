"""Hostile submissions: each is seen for what it is, in one clear line, and nothing else happens."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundling import TASK, TASKS, edit, load, reseal

from uniconv_bench import bundles, examination
from uniconv_bench.boardpage import report
from uniconv_bench.examination import LONGEST_LINE, among_others, check, examine
from uniconv_bench.rendering import csv_cell, escape_latex, escape_markdown
from uniconv_bench.rescoring import NotAtHand, Tasks
from uniconv_bench.runs import read_answers

RUN, ANSWERS, SCORES = "toy.run.gz", "toy.answers.jsonl.gz", "toy.scores.jsonl.gz"
TAKEN = ("uniconv", "UniConv", "Gold passages", "BM25", "MiniLM + LLM")
OURS = Tasks(("toy", "toy2"), load, dict.fromkeys(TAKEN, "ours"))
Do = Callable[[Path], object]


def card(old: str, new: str) -> Do:
    """Another text on the card, the manifest mended."""

    def change(bundle: Path) -> None:
        path = bundle / "card.toml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        reseal(bundle)

    return change


def title(text: str) -> Do:
    return card("A good one", text)


def inside(name: str, change: Callable[[str], str]) -> Do:
    """Another text in a packed file, the manifest mended."""

    def do(bundle: Path) -> None:
        edit(bundle / name, change)
        reseal(bundle)

    return do


def swap(name: str, old: str, new: str) -> Do:
    return inside(name, lambda text: text.replace(old, new, 1))


def raw(name: str, content: bytes) -> Do:
    def do(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        reseal(bundle)

    return do


def manifest(change: Callable[[dict], object]) -> Do:  # type: ignore[type-arg]
    return lambda bundle: reseal(bundle, change)


def names(name: str) -> Do:
    return manifest(lambda m: m["files"].update({name: "0" * 64}))


def link(bundle: Path) -> None:
    (bundle / RUN).unlink()
    (bundle / RUN).symlink_to("/etc/passwd")


def loop(bundle: Path) -> None:
    (bundle / "loop").symlink_to(bundle)


def zipped(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / RUN, "w") as box:
        box.writestr("../../x", "x")
    reseal(bundle)


def extra(name: str) -> Do:
    return lambda bundle: (bundle / name).write_text("x")


GOLD = "c0_1\tQ0\tPage 00:0\t1\t2\t"
FIRST = '"answer": "the answer 0 1"'

HOSTILE: dict[str, tuple[Do, str]] = {
    # places
    "manifest: a path above": (names("../secret"), "a path outside the bundle"),
    "manifest: an absolute path": (names("/etc/passwd"), "a path outside the bundle"),
    "manifest: a path below": (names("a/b"), "a path outside the bundle"),
    "manifest: a path of Windows": (names("..\\x"), "a path outside the bundle"),
    "manifest: the folder itself": (names(".."), "a path outside the bundle"),
    "manifest: a null byte": (names("x\0y"), "a path outside the bundle"),
    "card: a task that is a path": (card('\ntasks = ["toy"]', '\ntasks = ["../toy"]'), "tasks"),
    "card: a name that is a path": (card("good-one", "../good-one"), "field name"),
    "a link out of the bundle": (link, "symbolic link"),
    "a link to itself": (loop, "symbolic link"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "toy2.run.gz"), "not a plain file"),
    "a folder inside": (lambda bundle: (bundle / ".git").mkdir(), "not a plain file"),
    "a hidden file": (extra(".gitattributes"), "unknown file"),
    "a program": (extra("setup.py"), "unknown file"),
    "a name that clashes by case": (extra("TOY.run.gz"), "unknown file"),
    "a name that clashes by Unicode form": (extra("toy．run.gz"), "unknown file"),
    "a name with control characters": (extra("a\x1b[31m\n"), "unknown file"),
    # packed files
    "a gzip file cut short": (
        lambda b: raw(RUN, (b / RUN).read_bytes()[:-9])(b),
        "no whole gzip file",
    ),
    "no gzip file": (raw(RUN, b"plain"), "no whole gzip file"),
    "a zip archive in its place": (zipped, "no whole gzip file"),
    "gzip within gzip": (lambda b: raw(RUN, gzip.compress((b / RUN).read_bytes()))(b), "toy: "),
    "an empty file": (raw(ANSWERS, b""), "no answer"),
    "a gzip bomb": (raw(RUN, gzip.compress(b"x\n" * (1 << 20))), "no whole gzip file"),
    "a giant line": (raw(RUN, gzip.compress(b"x" * (1 << 20 | 1))), "a line of more than"),
    "more lines than turns": (
        inside(ANSWERS, lambda s: s * 2),
        "more than the 12 lines that 12 turns need",
    ),
    "more lines than passages": (
        inside(RUN, lambda s: s + "x\n" * 1200),
        "more than the 1,200 lines that 12 turns need",
    ),
    "invalid UTF-8 in a run": (raw(RUN, gzip.compress(b"c0_1 Q0 \xff 1 1 x\n")), "valid UTF-8"),
    "invalid UTF-8 in answers": (raw(ANSWERS, gzip.compress(b'{"\xc3\x28"}\n')), "valid UTF-8"),
    # runs
    "score NaN": (swap(RUN, "\t2\t", "\tnan\t"), "not a finite number"),
    "score infinite": (swap(RUN, "\t2\t", "\tinf\t"), "not a finite number"),
    "score beyond float32": (swap(RUN, "\t2\t", "\t1e39\t"), "not a finite number"),
    "score of thousands of digits": (swap(RUN, "\t2\t", f"\t{'9' * 5000}\t"), "not a finite"),
    "score that is no number": (swap(RUN, "\t2\t", "\t__import__\t"), "not a finite number"),
    "a passage twice": (inside(RUN, lambda s: f"{s.splitlines()[0]}\n{s}"), "comes twice"),
    "an unknown passage": (swap(RUN, "Page 12:0", "Page 99:0"), "not in the corpus"),
    "faiss's passage -1": (swap(RUN, "Page 12:0", "-1"), "not in the corpus"),
    "an unknown turn in the run": (swap(RUN, "c0_2\t", "c9_9\t"), "not of this task"),
    "a missing turn in the run": (
        inside(RUN, lambda s: s.replace("c0_1\t", "c0_2\t", 1).split("\n", 2)[2]),
        "no ranking",
    ),
    "ranks out of order": (swap(RUN, GOLD, GOLD.replace("\t1\t", "\t2\t")), "where 1 is due"),
    "a rank that is no number": (swap(RUN, GOLD, GOLD.replace("\t1\t", "\t=1+1\t")), "1 is due"),
    "ranks against the scores": (swap(RUN, GOLD, GOLD.replace("\t2\t", "\t.5\t")), "a lower score"),
    "a column too few": (swap(RUN, "\tQ0\t", "\t"), "5 columns"),
    # answers
    "an unknown turn answered": (swap(ANSWERS, "c0_1", "c9_9"), "not of this task"),
    "a turn not answered": (inside(ANSWERS, lambda s: s.split("\n", 1)[1]), "no answer"),
    "a turn answered twice": (swap(ANSWERS, "c0_2", "c0_1"), "answered twice"),
    "an answer of megabytes": (
        swap(ANSWERS, FIRST, f'"answer": "{"x " * (1 << 20)}"'),
        "a line of more than",
    ),
    "an answer beyond any use": (
        swap(ANSWERS, FIRST, f'"answer": "{"x" * 20_001}"'),
        "20,001 characters",
    ),
    "an answer that is no text": (swap(ANSWERS, FIRST, '"answer": [1]'), "not a text"),
    "half a character": (swap(ANSWERS, FIRST, '"answer": "\\ud800"'), "lone surrogate"),
    "deep JSON in answers": (inside(ANSWERS, lambda s: "[" * 100_000), "not valid JSON"),
    "an endless number in answers": (
        swap(ANSWERS, FIRST, f'"answer": {"7" * 5000}'),
        "not valid JSON",
    ),
    "answers that are no objects": (inside(ANSWERS, lambda s: "[]\n"), "not a JSON object"),
    "a count that is no number": (swap(ANSWERS, '"tokens": 0', '"tokens": true'), "whole number"),
    # claims
    "a file edited after packing": (
        lambda b: edit(b / ANSWERS, lambda s: s.replace("no", "yes")),
        "sha256 differs",
    ),
    "a mean raised": (
        manifest(lambda m: m["tasks"]["toy"]["scores"].update(f1=1.0)),
        "claims a mean of 1.0",
    ),
    "a mean NaN": (
        lambda b: (b / "manifest.json").write_text(
            (b / "manifest.json").read_text().replace('"mrr": 0.5', '"mrr": NaN')
        ),
        "malformed manifest",
    ),
    "a metric invented": (
        manifest(lambda m: m["tasks"]["toy"]["scores"].update(best=1.0)),
        "claims best",
    ),
    "a turn's score raised": (swap(SCORES, '"f1": 0.0', '"f1": 1.0'), "claims 1.0 for turn"),
    "deep JSON in scores": (inside(SCORES, lambda s: "[" * 100_000), "not valid JSON"),
    "other data": (
        manifest(lambda m: m["tasks"]["toy"].update(data_digest="f" * 64)),
        "other data",
    ),
    "another schema": (manifest(lambda m: m.update(schema_version=9)), "schema_version"),
    "a field too many": (manifest(lambda m: m.update(rank=1)), "malformed manifest: rank"),
    "a deep manifest": (
        lambda b: (b / "manifest.json").write_text("[" * 100_000),
        "nested too deep",
    ),
    "a manifest of megabytes": (
        lambda b: (b / "manifest.json").write_text(" " * (1 << 20) + "{}"),
        "larger than 1 MiB",
    ),
    "ten thousand strange files": (
        manifest(lambda m: m["files"].update({f"x{i}": "" for i in range(10_000)})),
        "more problems",
    ),
    # cards
    "script in the title": (title("<script>alert(1)</script>"), "is markup"),
    "markup in an author": (card("B. Ob", "[B](x)"), "is markup"),
    "markup in the description": (card("Plain", "<img src=x onerror=alert(1)>"), "is markup"),
    "markup in the contact": (card("ann@example.org", "<a>"), "is markup"),
    "LaTeX in the backbone": (card("some-7b", "\\\\input{x}"), "is markup"),
    "an address that is code": (card("https://example.org/code", "javascript:alert(1)"), "code"),
    "an address that breaks out": (card("https://example.org/code", 'https://e.x/\\" x'), "code"),
    "an address that is a file": (card("https://example.org/code", "file:///etc/passwd"), "code"),
    "text turned around": (title("a\\u202eb"), "control characters"),
    "text isolated": (title("a\\u2066b"), "control characters"),
    "text of no width": (title("Uni\\u200bConv"), "control characters"),
    "colours for a terminal": (title("a\\u001b[31mb"), "is markup"),
    "a bell": (title("a\\u0007b"), "control characters"),
    "an endless title": (title("x" * 101), "longer than 100"),
    "an endless description": (card("Plain", "x" * 2001), "longer than 2,000"),
    "the name of ours": (title("UniConv"), "the name of another system"),
    "the name of ours, by case": (title("UNICONV"), "the name of another system"),
    "the name of ours, by blanks": (title(" Uni Conv "), "the name of another system"),
    "the name of ours, by Unicode form": (title("ＵｎｉConv"), "neither printable ASCII"),
    "the name of ours, by Cyrillic": (title("\\u0412\\u041c25"), "neither printable ASCII"),
    "the name of ours, by Cherokee": (title("\\u13f4M25"), "neither printable ASCII"),
    "the name of ours, by small capitals": (title("Uni\\u1d04onv"), "neither printable ASCII"),
    "the name of ours, by a dotless i": (title("Un\\u0131Conv"), "neither printable ASCII"),
    "the name of ours, by a variation": (title("UniConv\\ufe0f"), "neither printable ASCII"),
    "the name of ours, by a joiner": (title("Uni\\u034fConv"), "neither printable ASCII"),
    "the name of ours, by a filler": (title("UniConv\\u3164"), "neither printable ASCII"),
    "the name of ours, by an old filler": (title("UniConv\\u115f"), "neither printable ASCII"),
    "the name of ours, by blank Braille": (title("UniConv\\u2800"), "neither printable ASCII"),
    "the name of ours, by a line end": (title("Uni\\nConv"), "neither printable ASCII"),
    "the name of ours, by a nought": (title("UniC0nv"), "the name of another system, ours"),
    "the name of ours, by a one": (title("Un1Conv"), "the name of another system, ours"),
    "the name of ours, by a capital I": (title("MinlLM + LLM"), "the name of another system"),
    "the name of ours, by two letters": (title("MiniLRN + LLM"), "the name of another system"),
    "the name of ours, by a five": (title("BM2S"), "the name of another system, ours"),
    "the name of ours, by accents": (title("\u00dcniConv"), "the name of another system, ours"),
    "the name of ours, by a full stop": (title("UniConv."), "the name of another system, ours"),
    "no name at all": (title("..."), "holds no letter and no digit"),
    "the template's title": (title("My system"), "field title: as on the card to fill in"),
    "the template's author": (card("B. Ob", "B. Researcher"), "is of the card to fill in"),
    "the template's address": (
        card("https://example.org/code", "https://example.org/my-system"),
        "field code: as on the card to fill in",
    ),
    "weights that are code": (
        card("trained_on", 'weights = "javascript:alert(1)"\ntrained_on'),
        "field weights: 'javascript:alert(1)' is not a plain https address",
    ),
    "text not in NFC": (title("cafe\\u0301"), "not in Unicode's form NFC"),
    "another's folder": (card("good-one", "other-one"), "the card's name is 'other-one'"),
    "a card of bytes": (lambda b: (b / "card.toml").write_bytes(b"\xff\xfe\0"), "not valid TOML"),
    "a field of nobody": (card("title =", "admin = true\ntitle ="), "admin"),
    "a day to come": (card("2026-02-03", "9999-12-31"), "in the future"),
    "more parameters than there are": (card("7000000000", "9" * 30), "parameters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_caught_in_a_clear_line(
    bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do, expected = HOSTILE[name]
    if "bomb" in name:
        monkeypatch.setattr(bundles, "LARGEST_FILE", 1 << 20)
    assert check(bundle, OURS) == []
    do(bundle)
    around = sorted(bundle.parent.rglob("*"))
    problems = check(bundle, OURS)
    assert any(expected in problem for problem in problems), problems
    assert len(problems) <= examination.MOST_PROBLEMS + 1
    assert all(p.isprintable() and len(p) <= LONGEST_LINE + 1 for p in problems)
    assert sorted(bundle.parent.rglob("*")) == around


def test_a_title_may_have_accents(bundle: Path) -> None:
    title("Modèle de Lódź")(bundle)
    assert check(bundle, OURS) == []


def test_a_line_for_everything(bundle: Path) -> None:
    title("<>")(bundle)
    for name in ("a.sh", "b.sh"):
        extra(name)(bundle)
    (bundle / "loop").symlink_to(bundle)
    problems = check(bundle, OURS)
    assert [p.partition(";")[0] for p in problems] == [
        "'loop' is a symbolic link",
        "card field title: holds no letter and no digit",
        "card field title: '<' is markup",
        "unknown file 'a.sh'",
        "unknown file 'b.sh'",
    ]


@pytest.mark.parametrize(
    "touched",
    [
        lambda text: text,
        lambda text: f"{text}.",
        lambda text: text.upper(),
        lambda text: text.replace(" ", "  "),
    ],
)
def test_references_given_as_answers_are_flagged_not_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, touched: Callable[[str], str]
) -> None:
    assert examine(bundle, TASKS).flags == []  # references of four words may be met by chance
    answers = {t.turn_id: touched(t.references[0]) for t in TASK.turns()}

    def copy(share: float) -> Do:
        def answered(line: str) -> str:
            row = json.loads(line)
            copied = list(answers).index(row["turn_id"]) < share * len(answers)
            row["answer"] = answers[row["turn_id"]] if copied else "no"
            return json.dumps(row) + "\n"

        return inside(ANSWERS, lambda text: "".join(map(answered, text.splitlines())))

    def flags(share: float) -> list[str]:
        copy(share)(bundle)
        said = read_answers(bundle / ANSWERS)
        return [*examination._copied("toy", TASK.turns(), said)]

    assert flags(0.5) == []
    assert flags(0.75) == [
        "toy: 9 of 12 answers are references, word for word, first of turn 'c0_1'"
    ]
    monkeypatch.setattr(examination, "COPIED", {4: 0.2})
    assert flags(0.1) == []
    assert flags(0.25) == [
        "toy: 3 of 12 answers are references of 4 words or more, word for word, "
        "first of turn 'c0_1'"
    ]


def test_scores_of_other_turns_and_metrics_are_not_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler = '{"turn_id": "%s", "f1": 1.0, "more": [' + "[], " * 10_000 + "[]]}\n"
    inside(SCORES, lambda text: text + filler % "x")(bundle)
    (problem,) = check(bundle, TASKS)
    assert problem == f"toy: {SCORES!r} has more than the 12 lines that 12 turns need"
    inside(SCORES, lambda text: "".join(filler % f"c{c}_{n}" for c in range(4) for n in (1, 2, 3)))(
        bundle
    )
    claims = examination._claims(bundle / SCORES, {"c0_1"}, {"f1"})
    assert claims == {"c0_1": {"f1": 1.0}}


def test_a_bundle_too_large_for_this_machine_has_its_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(examination, "read_manifest", full)
    assert check(bundle, TASKS) == ["needs more memory to be looked at than there is"]


def test_data_that_is_not_at_hand_is_no_fault_of_a_bundle(bundle: Path) -> None:
    def absent(name: str, profile: str) -> None:
        raise NotAtHand(f"no {profile} data of {name} is prepared", mend="prepare it")

    found = examine(bundle, Tasks(("toy",), absent))  # type: ignore[arg-type]
    assert found.problems == [] and found.scores == {}
    assert found.lacking == ["no sample data of toy is prepared; prepare it"]
    assert report(found) == "- Not looked at: no sample data of toy is prepared; prepare it\n"


def test_a_bundle_may_not_be_called_as_the_one_beside_it(bundle: Path) -> None:
    other = bundle.parent / "goodone"
    shutil.copytree(bundle, other)
    assert check(bundle, among_others(bundle, TASKS)) == [
        "card field name: 'good-one' is the name of another system, submission 'goodone'",
        "card field title: 'A good one' is the name of another system, submission 'goodone'",
    ]
    (other / "card.toml").write_text("[" * 100_000)  # its own fault, and no one else's
    edit_title = title("G00d one")
    edit_title(bundle)
    assert check(bundle, among_others(bundle, TASKS))[1:] == [
        "card field title: 'G00d one' is the name of another system, submission 'goodone'"
    ]
    shutil.rmtree(other)
    assert check(bundle, among_others(bundle, TASKS)) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_text_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}" and csv_cell("plain") == "plain"


@pytest.mark.parametrize(
    "text",
    ["<script>x</script>", "![x](http://e.x)", "\\input{/etc/passwd}", "$x$ & %", "a|b\n# c"],
)
def test_markup_is_shown_as_it_is(text: str) -> None:
    shown = escape_markdown(text)
    assert (
        "<" not in shown
        and "\n" not in shown
        and not re.search(r"(?<!\\)\]", shown)
        and "://" not in shown
    )
    latex = escape_latex(text)
    assert "\\input{" not in latex and not {"$x", " & "} & {latex[:2], latex[3:6]}
