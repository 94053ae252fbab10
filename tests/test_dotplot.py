"""What a dot plot shows of a ranking, and how the site puts it into a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bundling import TASKS
from test_records import make_score
from test_site import boards

from uniconv_bench.dotplot import plot_of
from uniconv_bench.ranking import Entry, Ranking, Row
from uniconv_bench.site import write


def row(name: str, mean: float | None = None, source: str = "ours", bound: bool = False) -> Row:
    entry = Entry(name, name, source, bound=bound)  # type: ignore[arg-type]
    if mean is None:
        return Row(entry, None, {}, printed={"f1": 0.3})
    return Row(entry, None, {"f1": make_score("f1", mean, 0.1)})


def ranking(*rows: Row) -> Ranking:
    return Ranking("toy", "generation", {"f1": "F1", "f1_quac": "F1 (QuAC)"}, rows, True)


def test_marks_are_shares_of_a_scale_that_holds_them_all() -> None:
    drawn = plot_of(
        ranking(
            row("top", 0.4, bound=True),
            row("mine", 0.2, source="submission"),
            row("printed", source="published"),
            Row(Entry("silent", "silent", "ours"), None, {}),
        )
    )
    assert (drawn.label, drawn.end) == ("F1", 0.5)
    assert [dot.shape for dot in drawn.dots] == ["bound", "submission", "published"]
    top, mine, printed = drawn.dots
    assert top.mean == pytest.approx(0.8) and top.ci95 == pytest.approx((0.6, 1.0))
    assert mine.text == "20.0 [10.0, 30.0]"
    assert printed.mean == pytest.approx(0.6) and printed.ci95 is None and printed.text == "30.0"


@pytest.mark.parametrize(("mean", "end"), [(0.15, 0.25), (0.16, 0.5), (0.4, 0.5), (0.41, 1.0)])
def test_scales_end_alike(mean: float, end: float) -> None:
    assert plot_of(ranking(row("one", mean))).end == end


def test_a_plot_says_in_words_what_it_draws(tmp_path: Path) -> None:
    site = write(boards(tmp_path, TASKS), tmp_path / "site").parent
    page = (site / "sample" / "task-toy.html").read_text()
    first = re.findall(r'<figure class="plot">.*?</figure>', page, re.S)[0]
    assert page.count('<figure class="plot">') == 3 == page.count("<table")
    told = re.findall(r'role="img" aria-label="([^"]+)"', first)
    cells = re.findall(r"<td[^>]*>([\d.]+) <small>(\[.*?\])</small>", page.partition("<figure")[0])
    assert told and set(told) <= {" ".join(cell) for cell in cells}
    assert "a submission" in first and "an oracle" in first and "printed" not in first
    assert first.count("<li ") == len(told) == first.count("data-source=")
