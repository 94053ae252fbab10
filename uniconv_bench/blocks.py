"""Large corpus files -> passages, in blocks of whole records that are decoded in bulk.

A block that is not plainly right is read again by the strict readers of `formats`: they name what
is wrong with it, or take what is odd and lawful. Knows no dataset.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from uniconv_bench.conversation import Passage
from uniconv_bench.errors import UserError
from uniconv_bench.files import field
from uniconv_bench.formats import DOWNLOAD, FIELD_LIMIT, decoded, opened, parsed, tsv_rows

BLOCK = 1 << 19
"""Bytes a block: its records stay in the processor's cache, twice as fast as blocks of 8 MiB."""
TSV_HEADER = ("id", "text", "title")


class Mark(NamedTuple):
    """A place between two records: number of the file, unpacked bytes and lines before it."""

    file: int = 0
    offset: int = 0
    line: int = 0


class Columns(NamedTuple):
    """Passages in columns, parallel.

    Attributes:
        ids: passage ids.
        titles: titles; empty where there is none.
        texts: texts.
        batch: the same as Arrow columns id, title, text, if reading made them.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    batch: Any = None


class PassageBlock(NamedTuple):
    """Passages that stand together in the raw files.

    Attributes:
        columns: the passages.
        where: the place of the passage at a position, for an error; may read the file again.
        end: where the next block begins, if it can be found again.
    """

    columns: Columns
    where: Callable[[int], str]
    end: Mark | None = None


def tsv_passages(*paths: Path, separator: str = "") -> PassageFiles:
    """Passages of TSV files with CSV quoting and the header id, text, title; plain or gzipped.

    Args:
        paths: the files, in corpus order.
        separator: what stands between the parts of a title and is read as one blank.
    """
    return PassageFiles(paths, _Tsv(separator))


def jsonl_passages(
    *paths: Path, id: str = "id", text: str = "text", title: str | None = None
) -> PassageFiles:
    """Passages of JSON-lines files, plain or gzipped.

    Args:
        paths: the files, in corpus order.
        id: field of the passage's id.
        text: field of its text.
        title: field of its title; None: passages have none.
    """
    return PassageFiles(paths, _JsonLines(id, text, title))


class PassageFiles:
    """The passages of large files, in order: one by one, or in blocks from a mark on.

    Blocks depend on the files and on the mark alone, so that work taken up again at the end of one
    goes through the same blocks as work that never stopped.
    """

    def __init__(self, paths: Sequence[Path], form: _Format):
        self._paths, self._form = paths, form

    def __iter__(self) -> Iterator[Passage]:
        for block in self.blocks():
            for passage_id, title, text in zip(*block.columns[:3], strict=True):
                yield Passage(passage_id, text, title)

    def blocks(self, start: Mark = Mark()) -> Iterator[PassageBlock]:  # noqa: B008  (immutable)
        """Blocks from a mark on.

        Raises:
            UserError: a record is wrong, naming file, line and field.
        """
        # Once that much has been freed, malloc keeps the memory of a block for the next one; given
        # back to the system each time, it would have to be cleared anew, for half as long again.
        bytes(1 << 24)
        for number in range(start.file, len(self._paths)):
            yield from self._file(start if number == start.file else Mark(number))

    def _file(self, mark: Mark) -> Iterator[PassageBlock]:
        path = self._paths[mark.file]
        with opened(path) as stream:
            stream.seek(mark.offset)
            if not mark.offset:
                lines = _Lines(stream, path, mark)
                self._form.skip_header(lines, path)
                mark = lines.mark
            data = b""
            while data := data + stream.read(BLOCK - len(data)):
                found = self._form.decode(data, last=len(data) < BLOCK)
                if found is not None:
                    size, count, columns = found
                    end = Mark(mark.file, mark.offset + size, mark.line + count)
                else:
                    lines = _Lines(stream, path, mark, data)
                    columns = self._strictly(lines, len(data), path)
                    end = lines.mark
                if columns.ids:
                    yield PassageBlock(columns, partial(self._place, mark), end)
                data, mark = data[end.offset - mark.offset :], end

    def _strictly(self, lines: _Lines, size: int, path: Path) -> Columns:
        """The records that begin within the next `size` bytes."""
        rows = []
        start = lines.mark.offset
        for _, *row in self._form.records(lines, path):
            rows.append(row)
            if lines.mark.offset - start >= size:
                break
        return Columns(*([row[column] for row in rows] for column in range(3)))

    def _place(self, mark: Mark, position: int) -> str:
        path = self._paths[mark.file]
        with opened(path) as stream:
            stream.seek(mark.offset)
            records = self._form.records(_Lines(stream, path, mark), path)
            line, *_ = next(islice(records, position, None))
        return f"{path}, line {line}"


class _Lines:
    """Numbered lines of a file from a mark on.

    Args:
        stream: the open file.
        path: its name, for errors.
        mark: the first line.
        read: what was read from the mark to the stream's position.
    """

    def __init__(self, stream: IO[bytes], path: Path, mark: Mark, read: bytes = b""):
        self._stream, self._path, self._read, self._position = stream, path, read, 0
        self.mark = mark
        """Behind the last line taken."""

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        end = self._read.find(b"\n", self._position) + 1
        raw = self._read[self._position : end or None]
        if not end:
            raw += self._stream.readline(FIELD_LIMIT)
        if not raw:
            raise StopIteration
        self._position += len(raw)
        file, offset, line = self.mark
        self.mark = Mark(file, offset + len(raw), line + 1)
        return line + 1, decoded(raw, f"{self._path}, line {line + 1}", first=not offset)


class _Format(Protocol):
    """How the records of a file are told apart."""

    def skip_header(self, lines: _Lines, path: Path) -> None:
        """Takes the lines before the first record."""

    def decode(self, data: bytes, *, last: bool) -> tuple[int, int, Columns] | None:
        """Bytes, line ends and columns of the whole records that a block opens with.

        None: they are not plainly right.

        Args:
            data: begins with a record.
            last: whether the file ends with it.
        """

    def records(self, lines: _Lines, path: Path) -> Iterator[tuple[int, str, str, str]]:
        """(line, id, title, text) of every record, strictly; no line is taken ahead of need."""


class _Tsv(NamedTuple):
    """Columns id, text, title between tabs, with CSV quoting."""

    separator: str

    def skip_header(self, lines: _Lines, path: Path) -> None:
        _, header = next(tsv_rows(lines, path), (0, []))
        if header != list(TSV_HEADER):
            what = f"the first line is not the header {', '.join(TSV_HEADER)}"
            raise UserError(what, where=path, mend=DOWNLOAD)

    def decode(self, data: bytes, *, last: bool) -> tuple[int, int, Columns] | None:
        import pyarrow as pa
        from pyarrow import csv

        size = _plain_rows(data, last=last)
        if not size:
            return None
        source = pa.BufferReader(pa.py_buffer(data)[:size])
        try:
            table = csv.read_csv(
                source,
                csv.ReadOptions(use_threads=False, block_size=size + 1, column_names=TSV_HEADER),
                csv.ParseOptions(delimiter="\t", newlines_in_values=True, ignore_empty_lines=False),
                csv.ConvertOptions(column_types=dict.fromkeys(TSV_HEADER, pa.string())),
                memory_pool=pa.system_memory_pool(),
            )
        except pa.ArrowInvalid:
            return None
        arrays = [column.chunk(0) for column in table.columns]
        ids, texts, titles = (array.to_numpy(zero_copy_only=False).tolist() for array in arrays)
        if self.separator:
            titles = [title.replace(self.separator, " ") for title in titles]
            arrays[2] = pa.array(titles, pa.string(), memory_pool=pa.system_memory_pool())
        batch = pa.RecordBatch.from_arrays(
            [arrays[0], arrays[2], arrays[1]], ["id", "title", "text"]
        )
        return size, _line_ends(data, size), Columns(ids, titles, texts, batch)

    def records(self, lines: _Lines, path: Path) -> Iterator[tuple[int, str, str, str]]:
        for line, (name, text, title) in tsv_rows(lines, path, len(TSV_HEADER)):
            if self.separator:
                title = title.replace(self.separator, " ")
            yield line, name, title, text


def _plain_rows(data: bytes, *, last: bool) -> int:
    """Bytes of the whole rows at the start of a block; 0 unless its quoting is beyond doubt.

    That is: every quote opens a column, closes one, or is doubled in between. Then a line end is a
    row's end just where the quotes before it are even in number.
    """
    if b"\0" in data or (b"\r" in data and _has_lone_return(data)):
        return 0
    quotes: list[int] = []
    while (at := data.find(b'"', quotes[-1] + 1 if quotes else 0)) >= 0:
        quotes.append(at)
    size = len(data) if last else data.rfind(b"\n") + 1
    while (before := bisect_left(quotes, size)) % 2:
        if last:
            return 0
        size = data.rfind(b"\n", 0, quotes[before - 1]) + 1
    openings, closings = quotes[:before:2], quotes[1:before:2]
    sound = all(at == 0 or data[at - 1] in b'\t\n"' for at in openings) and all(
        at + 1 == size or data[at + 1] in b'\t\n\r"' for at in closings
    )
    return size if sound else 0


def _has_lone_return(data: bytes) -> bool:
    import numpy as np

    signs = np.frombuffer(data, np.uint8)
    returns = np.flatnonzero(signs[:-1] == ord("\r"))
    return bool((signs[returns + 1] != ord("\n")).any())


def _line_ends(data: bytes, size: int) -> int:
    import numpy as np

    # Several times as fast as bytes.count where there is one every few hundred bytes.
    return int(np.count_nonzero(np.frombuffer(data, np.uint8, size) == ord("\n")))


class _JsonLines(NamedTuple):
    """One JSON object a line, with the names of its fields."""

    id: str
    text: str
    title: str | None

    def skip_header(self, lines: _Lines, path: Path) -> None:
        """There is none."""

    def decode(self, data: bytes, *, last: bool) -> tuple[int, int, Columns] | None:
        import orjson

        size = len(data) if last else data.rfind(b"\n") + 1
        names = (self.id, self.text) if self.title is None else (self.id, self.text, self.title)
        # Read as one array, a comma for each line end: no line end stands within a JSON string. Of
        # a field that occurs twice the last value counts.
        lines = data[: size - data.endswith(b"\n", 0, size)]
        try:
            rows = orjson.loads(b"[" + lines.replace(b"\n", b",") + b"]")
            found = list(zip(*map(itemgetter(*names), rows), strict=True))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
        count = _line_ends(data, size)
        if len(rows) != count + (len(lines) == size):
            return None
        if any(set(map(type, column)) != {str} for column in found):
            return None
        titles = found[2] if self.title else [""] * len(rows)
        return size, count, Columns(found[0], titles, found[1])

    def records(self, lines: _Lines, path: Path) -> Iterator[tuple[int, str, str, str]]:
        for line, content in lines:
            if not content.strip():
                continue
            where = f"{path}, line {line}"
            row = parsed(content, where)
            name, text = field(row, self.id, str, where), field(row, self.text, str, where)
            yield line, name, field(row, self.title, str, where) if self.title else "", text
