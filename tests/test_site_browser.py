"""The site in a real browser, opened from a folder and from a server."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bundling import TASKS
from test_site import built_site

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory.mktemp("site"), TASKS)


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "file":
        yield folder.as_uri()
        return
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page on which nothing went wrong and from which nothing left."""
    shown = browser.new_page()
    faults: list[str] = []
    shown.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:")) else faults.append(r.url),
    )
    shown.on("requestfailed", lambda r: faults.append(f"{r.url}: {r.failure}"))
    yield shown
    shown.close()
    assert faults == []


def systems(page: Any) -> list[str]:
    rows = page.locator("table.sortable").first.locator("tbody tr:visible th")
    return [text.strip() for text in rows.all_inner_texts()]


def test_tables_sort_by_mouse_and_keyboard(page: Any, address: str) -> None:
    page.goto(f"{address}/sample/task-toy.html")
    table = page.locator("table.sortable").first
    header = table.locator("th", has_text="MRR")
    before = systems(page)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    best = systems(page)
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    worst = systems(page)
    assert best[0] == "Gold & <b>bound</b>" and best != worst and sorted(best) == sorted(before)
    scored = [row for row in best if row != "Silent"]
    assert worst == [*reversed(scored), "Silent"]  # what is not there comes last either way
    table.locator("th", has_text="System").locator("button").press("Space")
    assert header.get_attribute("aria-sort") is None and systems(page) == sorted(before)


def test_filters_hide_rows_of_every_table(page: Any, address: str) -> None:
    page.goto(f"{address}/sample/task-toy.html")
    everyone = systems(page)
    for name, value, left in [
        ("source", "submission", ["A good one"]),
        ("trained", "yes", ["A good one"]),
        ("open", "no", ["A good one"]),
        ("size", str(10**9), ["Gold & <b>bound</b>", "Silent", "Steady"]),
    ]:
        page.select_option(f"select[name={name}]", value)
        assert sorted(systems(page)) == left, name
        dots = page.locator(".plot").first.locator("li:visible")
        assert dots.count() == len(set(left) - {"Silent"}), name
        assert (
            page.locator("output").inner_text()
            == f"{3 * len(left) - ('Silent' in left)} of 11 rows"
        )
        page.locator("button[type=reset]").click()
        page.locator("output", has_text="11 of 11 rows").wait_for()
    assert systems(page) == everyone


def test_the_reading_room_is_linked_by_hash_and_walked_by_keyboard(page: Any, address: str) -> None:
    link = "reading.html#task=toy&a=submission-good-one&b=ours-gold&turn=c0_2"
    page.goto(f"{address}/sample/{link}")
    page.locator("#conversation h2", has_text="Turn c0_2").wait_for()
    assert page.locator("#a h2").inner_text() == "A good one"
    assert page.locator("#b h2").inner_text() == "Gold & <b>bound</b>"
    assert page.locator("#conversation b", has_text="bound").count() == 0
    assert "not in the ranking" in page.locator("#a").inner_text()
    page.locator("#previous").focus()
    page.keyboard.press("Enter")
    page.locator("#conversation h2", has_text="Turn c0_1").wait_for()
    assert "turn=c0_1" in page.url and page.locator("#a .gold strong").count() == 1
    assert page.locator("#a mark").all_inner_texts() == ["answer", "0", "1"]
    assert page.locator("#previous").get_attribute("aria-disabled") == "true"
    page.go_back()
    page.locator("#conversation h2", has_text="Turn c0_2").wait_for()
    page.select_option("select[name=by]", "f1")
    page.select_option("select[name=order]", "a")
    page.locator("#conversation h2", has_text="Turn c0_1").wait_for()
    page.goto(f"{address}/sample/reading.html#task=toy&turn=%3Cimg%20src%3Dx%3E")
    page.locator("#problem", has_text="toy has no turn <img src=x>").wait_for()
    for wrong, told in [
        ("task=toy&a=nosuch", "toy has no system nosuch"),
        ("task=toy&b=nosuch", "toy has no system nosuch"),
        ("task=nosuch", "there is no task nosuch here"),
    ]:
        page.goto(f"{address}/sample/reading.html#{wrong}")
        page.locator("#problem", has_text=told).wait_for()


def test_the_reading_room_opens_where_there_is_something_to_read(page: Any, address: str) -> None:
    page.goto(f"{address}/sample/reading.html")
    page.locator("#a h2", has_text="A good one").wait_for()
    assert page.locator("#b h2").inner_text() != "A good one"
    assert "Not at hand" not in page.locator("#a").inner_text()


def test_another_task_keeps_the_pair(page: Any, address: str) -> None:
    page.goto(f"{address}/sample/reading.html#task=toy&a=ours-silent&b=ours-steady&turn=c0_2")
    page.locator("#conversation h2", has_text="Turn c0_2").wait_for()
    page.locator("select[name=task]").dispatch_event("change")
    page.locator("#conversation h2", has_text="Turn c0_1").wait_for()
    assert page.locator("#a h2").inner_text() == "Silent"
    assert page.locator("#b h2").inner_text() == "Steady"


def test_a_table_that_goes_on_beyond_a_phone_has_a_shadow(page: Any, address: str) -> None:
    page.set_viewport_size(PHONE)
    page.goto(f"{address}/sample/task-toy.html")
    wide = page.locator(".wide").first
    assert wide.evaluate("(e) => e.scrollWidth > e.clientWidth")
    assert "scroll" in wide.evaluate("(e) => getComputedStyle(e).backgroundAttachment")
    assert wide.locator("tbody tr td[data-value]").first.bounding_box()["x"] < PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    [
        "index",
        "sample/index",
        "sample/task-toy",
        "sample/system-submission-good-one",
        "sample/reading",
    ],
)
def test_pages_fit_a_phone_and_are_accessible(
    page: Any, address: str, name: str, scheme: str
) -> None:
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/{name}.html")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    axe = os.environ.get("AXE_CORE")  # axe.min.js of the npm package axe-core
    if axe is None:
        pytest.skip("AXE_CORE names no axe.min.js: accessibility not looked at")
    found = page.evaluate(f"{Path(axe).read_text()}; axe.run({{preload: false}})")["violations"]
    assert [
        (v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")
    ] == []


def test_the_theme_is_switched_and_kept(page: Any, address: str) -> None:
    page.goto(f"{address}/index.html")
    dark = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(dark)
    page.locator("#theme").click()
    after = page.evaluate(dark)
    page.goto(f"{address}/sample/index.html")
    assert before != after == page.evaluate(dark)
