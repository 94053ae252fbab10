"""Grids of scores as Markdown or LaTeX.

Scores times 100 and rounding happen here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uniconv_bench.definitions import parse_metric
from uniconv_bench.errors import UserError
from uniconv_bench.records import Score

if TYPE_CHECKING:
    from uniconv_bench.statistics.intervals import MetricSummary

Column = tuple[str, str]
"""(task, metric)"""
CELL = r"$\vcenter{{\hbox{{\shortstack{{{}\\{{\tiny {}}}}}}}}}$"
"""A mean above its interval in LaTeX, both beside the middle of the row's label."""
GAP = "-"
"""Stands where nothing was measured. Never 0."""


@dataclass(frozen=True)
class Row:
    """One system: its measured scores, or figures printed elsewhere.

    Attributes:
        label: as shown.
        scores: measured.
        bound: it is given gold passages or human rewrites, so it competes with nobody.
        reported: printed elsewhere, as fractions.
    """

    label: str
    scores: Mapping[Column, Score]
    bound: bool
    reported: Mapping[Column, float]


@dataclass(frozen=True)
class Grid:
    """A table before it takes a format."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    best: frozenset[tuple[str, Column]]
    """(row label, column) in bold."""
    notes: tuple[str, ...]


def markdown(grid: Grid) -> str:
    """A pipe table, its notes as a list."""
    header = ["System", *(f"{escape_markdown(t)} {metric_label(m)}" for t, m in grid.columns)]
    lines = [_pipes(header), _pipes([":--", *["--:"] * len(grid.columns)])]
    for row in grid.rows:
        cells = _cells(row, grid, "**{}**", "*{}*", "{} {}")
        lines.append(_pipes([escape_markdown(row.label), *cells]))
    return "\n".join([*lines, "", *(f"- {escape_markdown(note)}" for note in grid.notes)]) + "\n"


def markdown_rows(rows: Sequence[Mapping[str, str]]) -> str:
    """Equal rows of text as a pipe table; the keys of the first are the columns."""
    lines = [_pipes([*map(escape_markdown, rows[0])]), _pipes([":--"] * len(rows[0]))]
    return "\n".join([*lines, *(_pipes([*map(escape_markdown, row.values())]) for row in rows)])


def html_cells(row: Row, grid: Grid) -> list[str]:
    """A row's figures as HTML, which holds nothing but numbers and marks of ours."""
    return _cells(row, grid, "<b>{}</b>", "<i>{}</i>", "{} <small>{}</small>")


def latex(grid: Grid) -> str:
    """A table over two columns, no wider than they, its notes as the caption; for booktabs and
    graphicx.
    """
    tasks = dict.fromkeys(task for task, _ in grid.columns)
    heads, rules, start = [], [], 2
    for task in tasks:
        width = sum(t == task for t, _ in grid.columns)
        heads.append(f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(task)}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    names = ["System", *(escape_latex(metric_label(m)) for _, m in grid.columns)]
    body: list[str] = []
    elsewhere: list[str] = []
    for row in grid.rows:
        cells = _cells(row, grid, r"\textbf{{{}}}", r"\textit{{{}}}", CELL)
        line = f"{' & '.join([escape_latex(row.label), *cells])} \\\\ \\addlinespace[2pt]"
        (elsewhere if row.reported else body).append(line)
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table*}[t]",
        r"\centering\scriptsize\setlength{\tabcolsep}{2pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'c' * len(grid.columns)}}}",
        r"\toprule",
        f" & {' & '.join(heads)} \\\\",
        *rules,
        f"{' & '.join(names)} \\\\",
        r"\midrule",
        *body,
        *([r"\midrule", *elsewhere] if elsewhere else []),
        r"\bottomrule",
        r"\end{tabular}}",
        f"\\caption{{{' '.join(escape_latex(note) for note in grid.notes)}}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def latex_document(grid: Grid) -> str:
    """The same table as a document of its own."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[landscape,margin=1cm]{geometry}",
        r"\usepackage{booktabs}",
        r"\usepackage{graphicx}",
        r"\begin{document}",
        latex(grid).rstrip(),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row, grid: Grid, bold: str, italic: str, score: str) -> list[str]:
    """A row's figures.

    Args:
        bold: a format, for the best of a column.
        italic: for what was printed elsewhere.
        score: for a mean and its interval.
    """
    found = []
    for column in grid.columns:
        if (own := row.scores.get(column)) is not None:
            mean = percent(own.mean)
            best = (row.label, column) in grid.best
            found.append(score.format(bold.format(mean) if best else mean, interval(own)))
        elif column in row.reported:
            found.append(italic.format(percent(row.reported[column])))
        else:
            found.append(GAP)
    return found


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def percent(fraction: float) -> str:
    """A fraction x 100, one decimal."""
    return f"{fraction * 100:.1f}"


def interval(score: Score | MetricSummary) -> str:
    """`[lo, hi]` x 100."""
    return f"[{percent(score.ci95[0])}, {percent(score.ci95[1])}]"


def p_text(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def metric_label(metric: str) -> str:
    """`ndcg@3` as `NDCG@3`; the name itself of a metric that this version does not know."""
    try:
        return parse_metric(metric).label
    except UserError:
        return metric


def escape_markdown(text: str) -> str:
    """Any text as one line of Markdown that shows as it is: no markup, HTML, link or image."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", text)
    # Bare addresses become links by themselves; the cutoff of a metric is none.
    text = re.sub(r"@(?!\d+(?![\w.-]))", "&#64;", text).replace("://", "&#58;//")
    return re.sub(r"(?i)(www|mailto|xmpp)([.:])", lambda m: f"{m[1]}&#{ord(m[2])};", text)


def csv_cell(text: str) -> str:
    """Any text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def escape_latex(text: str) -> str:
    """Any text as LaTeX that prints it."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # an argument of the line end before it, otherwise
        "*": "{*}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
    return "".join(special.get(c, c) for c in text)
