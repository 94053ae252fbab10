"""What a harness has done in a folder, a JSON line each: a later call goes on after the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uniconv_bench.files import read_jsonl


class Ledger:
    """Rows that are only ever added to."""

    def __init__(self, path: Path):
        self._path = path

    def rows(self) -> list[dict[str, Any]]:
        """All so far."""
        return [row for _, row in read_jsonl(self._path)] if self._path.exists() else []

    def add(self, row: dict[str, Any]) -> None:
        """Writes one more."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
