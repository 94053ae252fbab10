"""Strict reading of official files: every reader on every way in which a file can be broken."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench.errors import UserError
from uniconv_bench.formats import (
    find,
    identifier,
    locate,
    present,
    read_json,
    read_jsonl,
    read_lines,
    read_tsv,
)

HEADER = ("id", "text")
READERS: dict[str, tuple[Callable[[Path], Any], bytes, Any]] = {
    "lines": (
        lambda path: list(read_lines(path)),
        b"one\ntwo\n",
        [(1, "one\n"), (2, "two\n")],
    ),
    "jsonl": (
        lambda path: list(read_jsonl(path)),
        b'{"a": 1}\n\n{"a": 2}\n',
        [(1, {"a": 1}), (3, {"a": 2})],
    ),
    "json": (
        read_json,
        b'[\n{"a": "1"},\n{"a": "2"}\n]\n',
        [{"a": "1"}, {"a": "2"}],
    ),
    "tsv": (
        lambda path: list(read_tsv(path, HEADER)),
        b'id\ttext\n1\t"said ""no"""\n2\t"two\nlines"\n',
        [(2, ["1", 'said "no"']), (4, ["2", "two\nlines"])],
    ),
}
"""name -> reader, a good file, what is read of it."""
JSON = ("json", "jsonl")


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def refused(name: str, content: bytes, tmp_path: Path, file: str = "official.txt") -> str:
    """The one line that refuses a file of this content."""
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        READERS[name][0](path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# ------------------------------------------------------------------------------- good files


def test_a_good_file_is_read_plain_and_gzipped(reader: str, tmp_path: Path) -> None:
    read, content, expected = READERS[reader]
    plain, packed = tmp_path / "official.txt", tmp_path / "official.txt.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert read(plain) == read(packed) == expected


def test_crlf_is_read_as_lf(reader: str, tmp_path: Path) -> None:
    read, content, expected = READERS[reader]
    path = tmp_path / "official.txt"
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    assert read(path) == expected


def test_the_last_line_needs_no_end(reader: str, tmp_path: Path) -> None:
    read, content, expected = READERS[reader]
    path = tmp_path / "official.txt"
    path.write_bytes(content.removesuffix(b"\n"))
    found = read(path)
    assert found == ([(1, "one\n"), (2, "two")] if reader == "lines" else expected)


def test_tsv_without_a_header_takes_any_number_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "map.tsv"
    path.write_text("1\n1\t2\t3\n", encoding="utf-8")
    assert list(read_tsv(path)) == [(1, ["1"]), (2, ["1", "2", "3"])]


def test_tsv_fields_may_be_longer_than_csv_allows(tmp_path: Path) -> None:
    path = tmp_path / "long.tsv"
    path.write_text(f"id\ttext\n1\t{'x' * 200_000}\n", encoding="utf-8")
    ((_, (_, text)),) = read_tsv(path, HEADER)
    assert len(text) == 200_000


def test_both_halves_of_a_character_may_be_escaped(tmp_path: Path) -> None:
    path = tmp_path / "wave.json"
    path.write_text('["\\ud83d\\udc4b"]', encoding="utf-8")
    assert read_json(path) == ["\N{WAVING HAND SIGN}"]


# -------------------------------------------------------------------------------- bad files


def test_an_absent_file(reader: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        READERS[reader][0](tmp_path / "official.txt")


def test_a_folder_is_no_file(reader: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        READERS[reader][0](tmp_path)


def test_a_truncated_archive(reader: str, tmp_path: Path) -> None:
    packed = gzip.compress(READERS[reader][1])
    message = refused(reader, packed[:-9], tmp_path, "official.txt.gz")
    assert "truncated or damaged archive" in message and "download" in message


def test_a_damaged_archive(reader: str, tmp_path: Path) -> None:
    for place in (10, -6):  # the kind of the first block; the checksum of the contents
        packed = bytearray(gzip.compress(READERS[reader][1]))
        packed[place] = 0xFF
        assert "damaged archive" in refused(reader, bytes(packed), tmp_path, "official.txt.gz")


def test_a_page_instead_of_an_archive(reader: str, tmp_path: Path) -> None:
    message = refused(reader, b"<html>Not found</html>", tmp_path, "official.txt.gz")
    assert "damaged archive" in message


def test_a_byte_order_mark(reader: str, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + READERS[reader][1]
    assert "byte order mark" in refused(reader, content, tmp_path)


@pytest.mark.parametrize(
    ("byte", "told"), [(b"\0", "holds a NUL byte"), (b"\xff", "not valid UTF-8")]
)
def test_a_wrong_byte_is_placed(byte: bytes, told: str, reader: str, tmp_path: Path) -> None:
    content = READERS[reader][1]
    position = content.index(b"two") if b"two" in content else content.rindex(b"a")
    line = content.count(b"\n", 0, position) + 1
    message = refused(reader, content[:position] + byte + content[position:], tmp_path)
    assert told in message and f"line {line})" in message and line > 1


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "field a occurs twice"),
        (b'{"a": [{"c": 1, "c": 1}]}', "field c occurs twice"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'["tail"] more', "not valid JSON"),
        (b'["\\ud83d"]', "half of a character"),
        (b"[" + b"7" * 5000 + b"]", "thousands of digits"),
    ],
    ids=["twice", "twice inside", "deep", "cut off", "quotes", "tail", "half", "digits"],
)
def test_bad_json(name: str, value: bytes, told: str, tmp_path: Path) -> None:
    assert told in refused(name, value, tmp_path)


def test_an_empty_file_is_no_json(tmp_path: Path) -> None:
    assert "not valid JSON" in refused("json", b"", tmp_path)


def test_a_bad_json_line_is_placed(tmp_path: Path) -> None:
    assert "line 2)" in refused("jsonl", b'{"a": 1}\n{"a": \n', tmp_path)
    assert "line 3)" in refused("json", b'[\n{"a": 1},\n{"a": ]\n', tmp_path)


@pytest.mark.parametrize(
    ("content", "told", "place"),
    [
        (b"", "not the header id, text", ""),
        (b"1\tone\n", "not the header id, text", ""),
        (b"id\ttext\n1\n", "1 columns instead of 2", ", line 2"),
        (b"id\ttext\n1\tone\tmore\n", "3 columns instead of 2", ", line 2"),
        (b"id\ttext\n\n1\tone\n", "0 columns instead of 2", ", line 2"),
        (b'id\ttext\n1\t"one" more\n', "not valid TSV", ", line 2"),
        (b'id\ttext\n1\t"one\n2\ttwo\n', "not valid TSV", ", line 3"),
    ],
    ids=["empty", "no header", "missing", "extra", "blank", "after quote", "open quote"],
)
def test_bad_tsv(content: bytes, told: str, place: str, tmp_path: Path) -> None:
    message = refused("tsv", content, tmp_path)
    assert told in message and f"official.txt{place})" in message


# ------------------------------------------------------------------------- names and ids


def test_find_takes_the_first_name_then_its_gzipped_form(tmp_path: Path) -> None:
    assert find(tmp_path, "a.json", "b.json") is None
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"{}"))
    assert find(tmp_path, "a.json", "b.json") == tmp_path / "b.json"
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"{}"))
    assert find(tmp_path, "a.json", "b.json") == tmp_path / "a.json.gz"
    (tmp_path / "a.json").mkdir()
    assert find(tmp_path, "a.json") == tmp_path / "a.json.gz"


def test_locate_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file a\.json .*as it is or gzipped"):
        locate(tmp_path, "a.json")
    with pytest.raises(UserError, match=r"none of the files a\.json, b\.json"):
        locate(tmp_path, "a.json", "b.json")


def test_present_keeps_the_order_of_the_splits(tmp_path: Path) -> None:
    files = {"train": ("t.json",), "dev": ("d.json", "v.json"), "test": ("x.json",)}
    for name in ("x.json", "v.json"):
        (tmp_path / name).write_text("[]")
    assert present(tmp_path, files) == ("dev", "test")


def test_a_folder_of_other_files_is_told_what_was_sought(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    told = r"sought t\.json, d\.json or v\.json, found README\.md \(.*as they are or gzipped"
    with pytest.raises(UserError, match=told):
        present(tmp_path, {"train": ("t.json",), "dev": ("d.json", "v.json")})


def test_an_id_may_hold_blanks() -> None:
    assert identifier("Mossy Ford:1", "id", "here") == "Mossy Ford:1"


@pytest.mark.parametrize("value", ["", " ", "a\tb", "a\nb", "a\rb", "a "])
def test_an_id_that_cannot_stand_in_a_run_file(value: str) -> None:
    with pytest.raises(UserError, match=r"field id is .*\(f\.json, record 3\); download"):
        identifier(value, "id", "f.json, record 3")
