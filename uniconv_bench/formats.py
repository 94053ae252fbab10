"""Reading datasets' official files: found under any of their names, plain or gzipped, each record
with its place. Strict: a file that an editor or a broken download changed is refused, not mended;
only line ends may be of either kind, since csv writers made some of the official files.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uniconv_bench.errors import UserError

DOWNLOAD = "download the official file again"
FIELD_LIMIT = 1 << 27
"""Longest TSV field in characters; csv's own limit is shorter than some passages."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of half a character; without its other half no file in UTF-8 can hold it."""


def find(raw: Path, *names: str) -> Path | None:
    """The first of these files that is in the folder, as it is or gzipped; None: none is."""
    for name in names:
        for path in (raw / name, raw / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def locate(raw: Path, *names: str) -> Path:
    """As `find`; a UserError lists the names looked for if none is there."""
    path = find(raw, *names)
    if path is None:
        what = f"none of the files {', '.join(names)}" if len(names) > 1 else f"no file {names[0]}"
        raise UserError(what, where=raw, mend="put the official file there, as it is or gzipped")
    return path


def present(raw: Path, files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The splits of which a file is there, in the mapping's order.

    Raises:
        UserError: there is none of any split; lists what was looked for and what is there instead.
    """
    found = tuple(split for split, names in files.items() if find(raw, *names) is not None)
    if not found:
        sought = ", ".join(" or ".join(names) for names in files.values())
        others = sorted(path.name for path in raw.iterdir())
        there = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if others[3:] else "")
        what = f"no file of any split; sought {sought}, found {there or 'nothing'}"
        raise UserError(
            what, where=raw, mend="put the official files there, as they are or gzipped"
        )
    return found


def identifier(value: str, name: str, where: str | Path) -> str:
    """The value of field `name`, if it can stand as an id in tab-separated run files.

    Raises:
        UserError: it is empty, holds a tab or a line end, or has a blank at an end.
    """
    if not value.strip():
        raise UserError(f"field {name} is an empty id", where=where, mend=DOWNLOAD)
    if value != value.strip() or any(sign in value for sign in "\t\n\r"):
        what = f"field {name} is {value!r}: an id has no tab, line end or outer blank"
        raise UserError(what, where=where, mend=DOWNLOAD)
    return value


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end, LF for CRLF too) of a text file in UTF-8.

    Raises:
        UserError: invalid UTF-8, a byte order mark, a NUL or a broken archive.
    """
    with opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw[:-2] + b"\n" if raw.endswith(b"\r\n") else raw
            yield number, decoded(line, f"{path}, line {number}", first=number == 1)


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line that is not blank."""
    for number, line in read_lines(path):
        if line.strip():
            yield number, parsed(line, f"{path}, line {number}")


def read_json(path: Path) -> Any:
    """The one JSON value of a file."""
    with opened(path) as stream:
        content = stream.read()
    return parsed(decoded(content, path, first=True), path)


def read_tsv(path: Path, header: Sequence[str] | None = None) -> Iterator[tuple[int, list[str]]]:
    """(number of a record's last line, its columns): tabs between, CSV quoting.

    Args:
        path: the file.
        header: the names that its first line must be; None: there is no such line, and any number
            of columns is taken.
    """
    lines = read_lines(path)
    if header is not None:
        _, first = next(tsv_rows(lines, path), (0, []))
        if first != list(header):
            what = f"the first line is not the header {', '.join(header)}"
            raise UserError(what, where=path, mend=DOWNLOAD)
    yield from tsv_rows(lines, path, None if header is None else len(header))


def tsv_rows(
    lines: Iterator[tuple[int, str]], path: Path, columns: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """As `read_tsv`, from numbered lines anywhere in the file; takes no line ahead of its record.

    Args:
        lines: as `read_lines` gives them.
        path: where they come from.
        columns: how many every record must have.
    """
    line = 0

    def texts() -> Iterator[str]:
        nonlocal line
        for number, text in lines:
            line = number
            yield text

    csv.field_size_limit(FIELD_LIMIT)
    try:
        for row in csv.reader(texts(), delimiter="\t", strict=True):
            if columns is not None and len(row) != columns:
                what = f"{len(row)} columns instead of {columns}"
                raise UserError(what, where=f"{path}, line {line}", mend=DOWNLOAD)
            yield line, row
    except csv.Error as error:
        where = f"{path}, line {line}"
        raise UserError(f"not valid TSV: {error}", where=where, mend=DOWNLOAD) from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A binary stream; whatever a broken file or archive raises becomes a UserError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise UserError("no such file", where=path) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"truncated or damaged archive ({error})"
        raise UserError(what, where=path, mend=DOWNLOAD) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path) from error


def decoded(raw: bytes, where: str | Path, *, first: bool) -> str:
    """Bytes as text; a UserError names what is wrong with them. `first`: they open the file."""
    if b"\0" in raw:
        raise UserError("holds a NUL byte", where=_line_of(raw, raw.index(0), where), mend=DOWNLOAD)
    if first and raw.startswith(b"\xef\xbb\xbf"):
        mend = f"an editor put it there: {DOWNLOAD}"
        raise UserError("opens with a byte order mark", where=where, mend=mend)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _line_of(raw, error.start, where)
        raise UserError(f"not valid UTF-8: {error.reason}", where=place, mend=DOWNLOAD) from error


def _line_of(raw: bytes, position: int, where: str | Path) -> str:
    """The place of a byte, with its line where a whole file was read at once."""
    if ", line " in str(where):
        return str(where)
    return f"{where}, line {raw.count(10, 0, position) + 1}"


def parsed(text: str, where: str | Path) -> Any:
    """The JSON value of a text; a UserError names the place of a broken one."""
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, where))
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = where if ", line " in str(where) else f"{where}, line {error.lineno}"
        raise UserError(f"not valid JSON: {error.msg}", where=place, mend=DOWNLOAD) from error
    except UnicodeEncodeError as error:
        what = "not valid JSON: an escape is half of a character"
        raise UserError(what, where=where, mend=DOWNLOAD) from error
    except ValueError as error:
        what = "not valid JSON: a number of thousands of digits"
        raise UserError(what, where=where, mend=DOWNLOAD) from error
    except RecursionError as error:
        raise UserError("not valid JSON: nested too deep", where=where, mend=DOWNLOAD) from error


def _unique(pairs: list[tuple[str, Any]], where: str | Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(f"field {double} occurs twice in one object", where=where, mend=DOWNLOAD)
    return found
