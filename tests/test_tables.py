"""Tables: what is shown, what is bold, what is refused; texts that mean something to a format."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from evidence import put, steady
from test_records import FIXED, make_record, make_score

from uniconv_bench.cards import Reported
from uniconv_bench.errors import UserError
from uniconv_bench.records import ResultRecord
from uniconv_bench.rendering import escape_latex, escape_markdown
from uniconv_bench.tables import of_paper, table
from uniconv_bench.turnscores import scores_at_hand


def changed(record: ResultRecord, part: str, **fields: Any) -> ResultRecord:
    return record.model_copy(update={part: getattr(record, part).model_copy(update=fields)})


def three_systems() -> list[ResultRecord]:
    """`b` is best on ndcg@3 with `a` within its interval; `c` is far below and has no answers."""
    return [
        make_record("qrecc", "b", (make_score("ndcg@3", 0.5), make_score("f1", 0.30, 0.01))),
        make_record("qrecc", "a", (make_score("ndcg@3", 0.41), make_score("f1", 0.20, 0.01))),
        make_record("qrecc", "c", (make_score("ndcg@3", 0.1),)),
        make_record("inscit", "b", (make_score("f1", 0.123456),)),
    ]


def cells(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_markdown_rows_columns_and_bold() -> None:
    assert cells(table(three_systems())) == [
        ["System", "qrecc NDCG@3", "qrecc F1", "inscit F1"],
        [":--", "--:", "--:", "--:"],
        ["B", "**50.0** [45.0, 55.0]", "**30.0** [29.0, 31.0]", "12.3 [7.3, 17.3]"],
        ["A", "**41.0** [36.0, 46.0]", "20.0 [19.0, 21.0]", "-"],
        ["C", "10.0 [5.0, 15.0]", "-", "-"],
    ]


def test_a_bound_is_named_and_never_bold() -> None:
    oracle = make_record(
        "qrecc", "oracle", (make_score("f1", 0.9),), settings={"retriever": {"kind": "gold"}}
    )
    text = table([oracle, *three_systems()[:2]], metrics=["f1"])
    assert cells(text)[2:] == [
        ["Oracle", "90.0 [85.0, 95.0]"],
        ["B", "**30.0** [29.0, 31.0]"],
        ["A", "20.0 [19.0, 21.0]"],
    ]
    assert "- Oracle: given what no system has" in text


def test_notes_say_what_the_figures_rest_on() -> None:
    records = three_systems()
    records[1] = changed(
        changed(records[1], "system", backbone=None, backbone_revision=None),
        "provenance",
        dirty=True,
        hardware="Other CPU, 8 cores",
    )
    text = table(records)
    assert "qrecc (test split, version 1): NDCG@3, F1 n = 20 turns of 5 conversations" in text
    assert "B on qrecc: 20 of 20 judged turns not ranked and 20 of 20 judged turns not" in text
    assert "C on qrecc: 20 of 20 judged turns not ranked (each counted as 0)" in text
    assert "Backbones: smollm2-135m (0.1.2): B, C; none: A." in text
    assert "0.1.0, commit 0123456789ab; 0.1.0, commit 0123456789ab with changes" in text
    assert "Hardware: Test CPU, 2 cores; Other CPU, 8 cores." in text
    assert "written by this project" in text and "no figure here is comparable" in text
    alone = make_record("qrecc", "b", (make_score("f1", 0.3),))
    assert "not ranked" not in table([alone])


FIGURES = {
    "qrecc": [
        Reported(
            system="b", metric="f1", value=26.2, scale="percent", source="a_paper", kind="paper"
        ),
        Reported(
            system="peer", metric="f1", value=0.31, scale="fraction", source="x", kind="reuse"
        ),
        Reported(system="b", metric="mrr", value=50, scale="percent", source="x", kind="reuse"),
    ]
}


@pytest.mark.parametrize("profile", ["sample", "mini"])
def test_published_figures_never_stand_beside_other_data(profile: str) -> None:
    record = make_record("qrecc", "b", (make_score("f1", 0.3),), profile=profile)
    for kind in ("markdown", "latex"):
        text = table([record], FIGURES, format=kind)
        assert "26.2" not in text and "reported (" not in text
        assert "comparable with a published one" in " ".join(text.split())


def test_published_figures_at_full_name_their_source_and_are_never_bold() -> None:
    record = make_record("qrecc", "b", (make_score("f1", 0.3),), profile="full")
    text = table([record], FIGURES)
    assert cells(text)[2:] == [
        ["B", "30.0 [25.0, 35.0]"],
        ["B, reported (a)", "*26.2*"],
        ["peer, reported (b)", "*31.0*"],
    ]
    assert r"- (a) a\_paper (paper)." in text and "- (b) x (reuse)." in text
    assert "comparable" not in text and "written by this project" not in text
    assert r"\textit{26.2}" in table([record], FIGURES, format="latex")


def test_a_part_of_a_dataset_is_called_so_and_stands_beside_no_published_figure() -> None:
    record = make_record("qrecc", "b", (make_score("f1", 0.3),), profile="full")
    other = make_record("inscit", "b", (make_score("f1", 0.2),), profile="full")
    task = record.task.model_copy(update={"part": ("4 of 16,451 turns of test",)})
    part = record.model_copy(update={"task": task})
    text = table([part, other], FIGURES)
    told = "qrecc: part of the dataset, 4 of 16,451 turns of test, so no figure of it is comparable"
    assert told in text and "but part of the dataset of qrecc." in text
    assert "26.2" not in text and "reported (" not in text
    rows = list(csv.DictReader(io.StringIO(table([part, other], format="csv"))))
    assert [row["profile"] for row in rows] == ["full, part of the dataset", "full"]


def test_what_no_published_count_vouches_for_is_not_called_whole() -> None:
    record = make_record("qrecc", "b", (make_score("f1", 0.3),), profile="full")
    task = record.task.model_copy(update={"unchecked": ("passages", "turns of test")})
    text = table([record.model_copy(update={"task": task})], FIGURES)
    assert "not held against a published count: passages of qrecc, turns of test of qrecc" in text
    assert "26.2" not in text


def test_refusals() -> None:
    one = make_record("qrecc", "b")
    for records, message in [
        ([], "no record"),
        ([one, make_record("inscit", "b", profile="mini")], "sample, mini: no table mixes"),
        ([make_record("qrecc", "b", limit=5)], "b on qrecc was run on the first 5 turns"),
        ([one, changed(one, "provenance", commit=None)], "cannot be pooled without their ndcg@3"),
        ([one, changed(make_record("qrecc", "a"), "task", data_digest="f" * 64)], "different data"),
        ([one, changed(make_record("qrecc", "a"), "task", split="dev")], "different data"),
        ([make_record("qrecc", "b", (make_score("mrr", 0.5),))], "no record has any"),
        ([one, make_record("qrecc", "a", (make_score("f1", 0.2, n=19),))], "different turns"),
    ]:
        with pytest.raises(UserError, match=message):
            table(records)
    with pytest.raises(UserError, match="did you mean 'latex'"):
        table([one], format="latx")


def test_csv_has_one_unrounded_row_per_system_task_and_metric() -> None:
    rows = list(csv.DictReader(io.StringIO(table(three_systems(), format="csv"))))
    assert len(rows) == 6
    assert rows[-1] == {
        "profile": "sample",
        "system": "b",
        "task": "inscit",
        "metric": "f1",
        "mean": "0.123456",
        "lo": str(0.123456 - 0.05),
        "hi": str(0.123456 + 0.05),
        "n": "20",
    }


def test_latex_is_whole_and_needs_booktabs_and_graphicx_only() -> None:
    records = three_systems()
    records[2] = changed(records[2], "system", title="50% of_A & #1 ~ {x} ^ \\ $")
    text = table(records, format="latex")
    lines = text.splitlines()
    assert text.isascii()
    bare = re.sub(r"\\[{}]", "", text.replace(r"\\", ""))
    assert bare.count("{") == bare.count("}") > 20
    opened = re.findall(r"\\(begin|end)\{([\w*]+)\}", text)
    assert opened == [
        ("begin", "table*"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table*"),
    ]
    assert r"\begin{tabular}{lccc}" in text
    assert r" & \multicolumn{2}{c}{qrecc} & \multicolumn{1}{c}{inscit} \\" in lines
    assert [line for line in lines if line.startswith(r"\cmidrule")] == [
        r"\cmidrule(lr){2-3}",
        r"\cmidrule(lr){4-4}",
    ]
    inside = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert inside[0] == (
        r"B & $\vcenter{\hbox{\shortstack{\textbf{50.0}\\{\tiny [45.0, 55.0]}}}}$ & "
        r"$\vcenter{\hbox{\shortstack{\textbf{30.0}\\{\tiny [29.0, 31.0]}}}}$ & "
        r"$\vcenter{\hbox{\shortstack{12.3\\{\tiny [7.3, 17.3]}}}}$ \\ \addlinespace[2pt]"
    )
    assert inside[2].startswith(
        r"50\% of\_A \& \#1 \textasciitilde{} \{x\} \textasciicircum{} \textbackslash{} \$ & "
    )
    for line in inside:
        assert len(re.findall(r"(?<!\\)&", line)) == 3 and line.endswith(r" \\ \addlinespace[2pt]")
    commands = set(re.findall(r"\\([a-zA-Z]+)", "\n".join(lines[1:])))
    assert commands <= {
        *("begin", "end", "centering", "scriptsize", "setlength", "tabcolsep", "multicolumn"),
        *("toprule", "cmidrule", "midrule", "bottomrule", "shortstack", "textbf", "tiny"),
        *("ifdim", "width", "linewidth", "else", "fi", "resizebox"),
        *("addlinespace", "vcenter", "hbox"),
        *("caption", "textbackslash", "textasciitilde", "textasciicircum", "textless"),
    }
    # The figures' percent sign is no comment.
    assert r"95 \% interval" in text


def test_systems_of_one_title_are_told_apart() -> None:
    records = [changed(r, "system", title="Same") for r in three_systems()[:2]]
    assert [row[0] for row in cells(table(records))[2:]] == ["Same (b)", "Same (a)"]
    assert table(records).count("**") == 3 * 2


def test_escapes() -> None:
    hostile = "a|b\n# <img src=x> [x](javascript:1) ![i](http://e.x) `c` *b* _u_ www.e.x a@b.c \\"
    shown = escape_markdown(hostile)
    assert "\n" not in shown and "<" not in shown and "://" not in shown and "@" not in shown
    assert "www." not in shown
    for character in "|[]*_`#!":
        assert re.search(rf"(?<!\\)\{character}", re.sub(r"&#\d+;", "", shown)) is None, character
    assert shown.endswith(r"\\")
    assert escape_markdown("right\u202eleft\x00\u2028x") == "right left x"
    assert escape_markdown("Ünï 100 %, a-b (c) + d.") == "Ünï 100 %, a-b (c) + d."
    assert escape_markdown("NDCG@3, a@3.org @3x @team") == "NDCG@3, a&#64;3.org &#64;3x &#64;team"
    assert escape_latex("[x]*") == "{[}x]{*}"
    assert escape_latex("a<b|c>") == r"a\textless{}b\textbar{}c\textgreater{}"


def test_the_fixed_provenance_is_what_the_notes_quote() -> None:
    assert FIXED.hardware in table([make_record()])


def shaken(value: float, by: float) -> dict[str, float]:
    """About a value, every other conversation up and down."""
    return {t: v + (by if int(t[1:3]) % 2 else -by) for t, v in steady(value).items()}


def test_bold_is_what_a_paired_test_does_not_tell_apart_from_the_best(tmp_path: Path) -> None:
    """`near` is as far below as `b` but sways, `steady` is so close that intervals overlap."""
    best = steady(0.5, wave=0.4)
    close = {turn: v - 0.04 for turn, v in best.items()}
    systems = {"a": best, "b": close, "c": shaken(0.45, 0.3), "d": steady(0.1)}
    records = [put(tmp_path, "qrecc", name, {"f1": values}) for name, values in systems.items()]
    at_hand = scores_at_hand(records, tmp_path)
    text = table(records, turn_scores=at_hand)
    assert [row[1].startswith("**") for row in cells(text)[2:]] == [True, False, True, False]
    assert "Holm over the table's 3 comparisons" in text and "overlaps" not in text
    # Without its scores by turn a column goes by intervals, and says so.
    put(tmp_path, "inscit", "a", {"f1": best})
    of_inscit = [put(tmp_path, "inscit", n, {"f1": systems[n]}) for n in ("a", "b", "d")]
    text = table([*records, *of_inscit], turn_scores=at_hand)
    assert [row[2].startswith("**") for row in cells(text)[2:]] == [True, True, False, False]
    assert "for lack of scores by turn, in inscit F1 the best of a column and all whose" in text
    assert "Holm" not in table(records)


def test_systems_scored_on_other_turns_share_no_column(tmp_path: Path) -> None:
    moved = {f"x{turn}": value for turn, value in steady(0.5).items()}
    records = [
        put(tmp_path, "qrecc", name, {"f1": v}) for name, v in (("a", steady(0.5)), ("b", moved))
    ]
    with pytest.raises(UserError, match="A and B were averaged over different turns of qrecc f1"):
        table(records, turn_scores=scores_at_hand(records, tmp_path))


def test_the_papers_tables_take_their_rows_and_columns() -> None:
    names = ("uniconv-no-ddm", "separate", "uniconv")
    records = [make_record(t, n) for t in ("faithdial", "coral", "qrecc") for n in names]
    records.append(make_record("qrecc", "no-passages", (make_score("f1", 0.1),)))
    found = [(r.task.name, r.system.name) for r in of_paper("ablation", records)]
    assert found == [(t, n) for t in ("qrecc", "faithdial") for n in ("uniconv", "uniconv-no-ddm")]
    assert {r.system.name for r in of_paper("retrieval", records)} == set(names)
    assert len(of_paper("generation", records)) == 7
    assert of_paper("retrieval", records[-1:]) == []


def test_a_latex_document_is_whole_and_holds_the_table() -> None:
    document = table(three_systems(), format="latex-document")
    assert document.startswith(r"\documentclass") and document.endswith("\\end{document}\n")
    assert table(three_systems(), format="latex").strip() in document
    assert document.count("{") == document.count("}")
    begun, ended = (re.findall(rf"\\{w}{{(\w+\*?)}}", document) for w in ("begin", "end"))
    assert begun == ended[::-1] and r"\usepackage{booktabs}" in document


def test_no_cell_of_a_csv_is_a_formula() -> None:
    record = make_record("qrecc", "=HYPERLINK(1)", (make_score("f1", 0.3),))
    (row,) = list(csv.DictReader(io.StringIO(table([record], format="csv"))))
    assert row["system"] == "'=HYPERLINK(1)"


HOSTILE = r"50% of $x_1$ & {all} #1 ~ ^ \\ <b> |a| [x] *"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("inside", [False, True])
def test_latex_compiles_alone_and_inside_a_paper(inside: bool, tmp_path: Path) -> None:
    records = [changed(record, "system", title=HOSTILE) for record in three_systems()[:1]]
    records += three_systems()[1:]
    text = table(records, format="latex" if inside else "latex-document")
    if inside:
        (tmp_path / "table.tex").write_text(text)
        packages = "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs,graphicx}\n"
        text = f"{packages}\\begin{{document}}\nText.\n\\input{{table}}\n\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert "Overfull" not in done.stdout
