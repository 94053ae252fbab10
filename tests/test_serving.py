"""A folder on the loopback address, until interrupted."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

import pytest

from uniconv_bench.errors import UserError
from uniconv_bench.serving import serve


def interrupted(address: str) -> None:
    raise KeyboardInterrupt


def test_a_folder_is_served_on_loopback(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here")
    seen: list[str] = []

    def look(address: str) -> None:
        def get() -> None:
            with urllib.request.urlopen(address) as answer:
                seen.append(answer.read().decode())

        worker = threading.Thread(target=get)
        worker.start()
        threads.append(worker)

    threads: list[threading.Thread] = []
    server = threading.Thread(target=serve, args=(tmp_path, 0, look), daemon=True)
    server.start()
    while not threads:
        server.join(0.01)
    threads[0].join()
    assert seen == ["<p>here"]


def test_an_interrupt_is_no_error_and_a_missing_site_one(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("x")
    serve(tmp_path, 0, interrupted)
    with pytest.raises(UserError, match="no site in this folder"):
        serve(tmp_path / "absent", 0, interrupted)
