"""Leaderboards as a static site: pages per profile, task and system, and a reading room.

No server, no external request, no build step. Every text is escaped by the templates, or put in as
text by the scripts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from uniconv_bench import __version__
from uniconv_bench.boardpage import BY_INTERVALS, HOW_RANKED, MADE_UP, MARK, RECORDED, source_of
from uniconv_bench.dotplot import plot_of
from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.leaderboard import Board
from uniconv_bench.ranking import Entry
from uniconv_bench.readingroom import can_be_read, script, system_data, task_data
from uniconv_bench.rendering import GAP, interval, percent

MARKER = ".uniconv-bench-site"
"""Lies in a site, and says that it may be written anew."""
TEMPLATES = "templates"
ASSETS = {"look.css": "look.css"} | {
    name: f"site/{name}" for name in ("site.css", "theme.js", "tables.js", "reading.js")
}
"""Name in the site -> file among the templates."""
SIZES = {"1 B": 10**9, "4 B": 4 * 10**9, "8 B": 8 * 10**9, "16 B": 16 * 10**9}
"""What backbones are filtered by: at most so many parameters."""


def write(boards: Sequence[Board], folder: Path, *, texts: bool = False) -> Path:
    """Writes a site in place of the one that was there and returns its first page.

    Args:
        boards: by profile.
        folder: of the site; new, empty, or a site already.
        texts: put conversations, passages and answers in at every profile. Without it only
            `sample` has them, whose data this project wrote: others have licences of their own.

    Raises:
        UserError: the folder holds something else.
    """
    if folder.exists() and not _replaceable(folder):
        what = "holds something else than a site of this program"
        raise UserError(what, where=folder, mend="name a new folder with --site")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".site-") as name:
        made = Path(name) / "site"
        _write(boards, _Pages(made), texts)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    return folder / "index.html"


def is_site(folder: Path) -> bool:
    """Whether `write` made this folder."""
    return (folder / MARKER).is_file()


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and (is_site(folder) or not any(folder.iterdir()))


def task_page(task: str) -> str:
    """File name of a task's page."""
    return f"task-{task}.html"


def system_page(entry: Entry) -> str:
    """File name of a system's page."""
    return f"system-{entry.key}.html"


def reading_link(task: str, *entries: Entry) -> str:
    """The reading room, open at a task and at most two systems."""
    chosen = dict(zip("ab", (entry.key for entry in entries), strict=False))
    return f"reading.html#{urlencode({'task': task, **chosen})}"


class _Pages:
    """Writes pages from templates, and other files, into a folder."""

    def __init__(self, folder: Path) -> None:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        self._folder = folder
        self._environment = Environment(
            loader=PackageLoader("uniconv_bench", f"{TEMPLATES}/site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        shared = (percent, interval, source_of, task_page, system_page, reading_link, plot_of)
        self._environment.globals |= {helper.__name__: helper for helper in shared}
        self._environment.globals |= {"can_be_read": can_be_read, "quote": quote, "GAP": GAP}
        self._environment.globals |= {"MADE_UP": MADE_UP, "BY_INTERVALS": BY_INTERVALS}
        self._environment.globals |= {"HOW_RANKED": HOW_RANKED}
        self._environment.globals |= {"MARK": MARK, "RECORDED": RECORDED}
        self._environment.globals |= {"SIZES": SIZES, "version": __version__}

    def page(self, template: str, name: str, **values: Any) -> None:
        self.text(name, self._environment.get_template(template).render(**values))

    def text(self, name: str, text: str) -> None:
        with atomic_write(self._folder / name) as stream:
            stream.write(text)


def _write(boards: Sequence[Board], pages: _Pages, texts: bool) -> None:
    pages.text(MARKER, "")
    pages.page("index.html", "index.html", root="", boards=boards)
    for board in boards:
        shown = texts or board.profile == "sample"
        _write_pages(board, pages, shown)
        _write_data(board, pages, shown)
    templates = resources.files("uniconv_bench") / TEMPLATES
    for name, source in ASSETS.items():
        pages.text(f"assets/{name}", (templates / source).read_text(encoding="utf-8"))


def _write_pages(board: Board, pages: _Pages, texts: bool) -> None:
    common = {"root": "../", "board": board, "texts": texts}
    places = [(table, row) for table in board.rankings for row in table.rows if row.scores]
    pages.page("profile.html", f"{board.profile}/index.html", **common)
    pages.page("reading.html", f"{board.profile}/reading.html", **common)
    for task in board.tasks:
        tables = [ranking for ranking in board.rankings if ranking.task == task]
        name = f"{board.profile}/{task_page(task)}"
        pages.page("task.html", name, task=task, tables=tables, **common)
    for entry in board.systems:
        own = [(table, row) for table, row in places if row.entry is entry]
        name = f"{board.profile}/{system_page(entry)}"
        pages.page("system.html", name, entry=entry, own=own, **common)


def _write_data(board: Board, pages: _Pages, texts: bool) -> None:
    """A file per task and one per system and task, which the reading room loads as needed."""

    def put(name: str, value: dict[str, Any]) -> None:
        pages.text(f"{board.profile}/data/{name}.js", script(name, value))

    systems = {entry.key: entry for entry in board.systems}
    readable = {
        key: [task for task in board.tasks if can_be_read(entry, task)]
        for key, entry in systems.items()
    }
    put(
        "index",
        {
            key: [
                systems[key].title,
                tasks,
                [task for task in tasks if systems[key].files.get(task)],
            ]
            for key, tasks in readable.items()
        },
    )
    for name, task in board.tasks.items():
        put(name, task_data(task, texts=texts))
        for key, entry in systems.items():
            if name in readable[key]:
                put(f"{name}.{key}", system_data(task, entry, texts=texts))
