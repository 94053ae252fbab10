"""Reading small files: whatever is in one, a fault is one line that says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench.errors import UserError
from uniconv_bench.files import read_json, read_jsonl, read_toml

ENDLESS = "7" * 5000


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, ENDLESS, "not valid JSON: a number of thousands of digits"),
        (read_json, "[" * 100_000, "not valid JSON: nested too deep"),
        (read_json, "{", "not valid JSON: .*line 1 column 2"),
        (read_jsonl, f"1\n{ENDLESS}", "a number of thousands of digits .*line 2"),
        (read_jsonl, "1\n" + "[" * 100_000, "nested too deep .*line 2"),
        (read_jsonl, "1\n{", "not valid JSON: Expecting [a-z ]* .*file, line 2"),
        (read_toml, f"a = {ENDLESS}", "not valid TOML: a number of thousands of digits"),
        (read_toml, "a = " + "[" * 5000, "not valid TOML: nested too deep"),
        (read_toml, "a = ?", "not valid TOML: Invalid value .*line 1"),
    ],
)
def test_a_broken_file_has_its_line(
    read: Callable[[Path], Any], content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read(tmp_path / "file"))
