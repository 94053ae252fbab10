"""The report of a folder of records: whole, self-contained, and no text of a card is markup."""

from __future__ import annotations

import errno
import resource
import signal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evidence import put, steady

from uniconv_bench import cli, plots, report

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags in order, those left open, and what is fetched from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.fetched.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    put(folder, "qrecc", "uniconv", {"ndcg@3": steady(0.6), "f1": steady(0.4)}, title=EVIL)
    put(folder, "qrecc", "separate", {"ndcg@3": steady(0.3), "f1": steady(0.4)})
    return folder


def test_a_report_holds_claims_tables_cost_and_provenance(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "can_plot", lambda: False)
    html, markdown = report.write("sample", results, {}, tmp_path / "out")
    text = html.read_text()
    page = Page(text)
    assert page.open == [] and page.fetched == []
    assert "script" not in page.seen and "&lt;script&gt;" in text
    assert "img" not in page.seen and not (tmp_path / "out" / "figures").exists()
    for said in ("unified", "written by this project", "<b>60.0</b>", "Provenance", "Holm over"):
        assert said in text, said
    told = markdown.read_text()
    assert EVIL not in told and "## Cost" in told and "| separate | qrecc |" in told
    assert "### inconclusive: One model for both" in told and "NDCG@3 of uniconv above sep" in told
    report.write("sample", results, {}, tmp_path / "again")
    assert (tmp_path / "again" / "report.html").read_text() == text


def test_figures_are_inside_the_page_and_beside_it(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    html, markdown = report.write("sample", results, {}, tmp_path)
    page = Page(html.read_text())
    assert page.seen.count("img") == 2 and page.fetched == []
    for name in ("ndcg_at_3", "f1"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert f"(figures/{name}.png)" in markdown.read_text()


def test_a_figure_that_cannot_be_written_is_the_systems_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            plots.save(figure, tmp_path / "figure")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_goes_without(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    command = ["report", "--results", str(results), "--output", str(tmp_path / "out")]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path / "out" / f"report.{end}") for end in ("html", "md")]
    assert "pip install 'uniconv-bench[plots]'" in err
    assert cli.main([*command, "--profile", "full"]) == 2
    assert "no such folder" in capsys.readouterr().err
