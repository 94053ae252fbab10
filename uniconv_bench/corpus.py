"""How a corpus is stored, however large: Arrow shards and the lookup of their ids.

Holds some thousand passages while writing. Knows no dataset; `passages` reads what is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from uniconv_bench.appended import read_texts, write_texts
from uniconv_bench.blocks import Columns, Mark, PassageBlock, PassageFiles
from uniconv_bench.conversation import Passage
from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json, digest_of_file
from uniconv_bench.lookup import write_lookup
from uniconv_bench.passages import shards_of, table_of

SHARD = 1 << 20
"""Passages after which a shard is closed; a stopped preparation goes on behind the last one."""
BATCH = 1 << 14
"""Passages of an Arrow record batch."""
COLUMNS = ("id", "title", "text")
PROGRESS = "progress.partial"
"""A line for each closed shard, with a digest of its own."""


def store(
    passages: Iterable[Passage],
    folder: Path,
    where: str | Path,
    missing: set[str] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[int, str]:
    """Writes a corpus into a folder; returns the number of passages and the corpus digest.

    Goes on behind the complete shards of an earlier call that was stopped, with the same result as
    if it had not been; the folder must be of the same passages. What it notes for that stays there,
    since its caller may be stopped too; it goes when the artefact is complete.

    Args:
        passages: the corpus; `PassageFiles` are read in blocks and not read again after a stop.
        folder: where the shards go.
        where: where the passages come from, for errors.
        missing: ids that should be there; those that are, are taken out.
        advance: told how many more passages are stored.

    Raises:
        UserError: a passage is wrong, or two have one id, or there is none.
    """
    folder.mkdir(exist_ok=True)
    writer = _Writer(folder)
    advance(writer.rows)
    with ThreadPoolExecutor(max_workers=1) as helper:
        for block in _blocks(passages, writer.rows, writer.mark, where):
            writer.add(block, helper)
            advance(len(block.columns.ids))
        writer.close_shard()
    if not writer.rows:
        raise UserError("no passages", where=where, mend="the corpus file is empty")
    write_lookup(folder, _ids(folder, missing or set()), table_of(folder).column("id"), where)
    return writer.rows, writer.digest.hexdigest()


def check_id(value: str, name: str, where: str) -> None:
    """Refuses an id that a run file could not hold."""
    if not value.strip():
        raise UserError(f"field {name} is empty", where=where, mend="give it one")
    if any(sign in value for sign in "\t\n\r\0"):
        mend = "run files are tab separated: an id holds no tab, no line end and no NUL"
        raise UserError(f"field {name} is {value!r}", where=where, mend=mend)


def _blocks(
    passages: Iterable[Passage], done: int, mark: Mark | None, where: str | Path
) -> Iterator[PassageBlock]:
    """The passages after the first `done`, which end at `mark`."""
    if isinstance(passages, PassageFiles):
        yield from passages.blocks(mark or Mark())
        return
    rest = islice(passages, done, None)
    while batch := list(islice(rest, BATCH)):

        def place(position: int, first: int = done + 1) -> str:
            return f"{where}, passage {first + position:,} of the corpus"

        columns = Columns(
            [p.passage_id for p in batch], [p.title for p in batch], [p.text for p in batch]
        )
        yield PassageBlock(columns, place)
        done += len(batch)


class _Writer:
    """Appends blocks to shards; a helper thread hashes and writes some while the next are read."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.digest, self.rows, self._shards = _complete(folder)
        self._closed = self.rows
        self._waiting: list[tuple[Any, bytes]] = []
        self._file: Any = None
        self._writing: Future[None] | None = None
        self._end: Mark | None = None

    @property
    def mark(self) -> Mark | None:
        """Where the complete shards end in the raw files."""
        end = self._shards[-1]["end"] if self._shards else None
        return Mark(*end) if end else None

    def add(self, block: PassageBlock, helper: ThreadPoolExecutor) -> None:
        """Appends a block; its shard is closed behind it if that is full."""
        batch, lines = _encoded(block)
        self._waiting.append((batch, lines))
        self.rows += batch.num_rows
        self._end = block.end
        if sum(batch.num_rows for batch, _ in self._waiting) >= BATCH:
            self._settle()
            self._writing = helper.submit(self._write, self._waiting)
            self._waiting = []
        if self.rows - self._closed >= SHARD:
            self.close_shard()

    def close_shard(self) -> None:
        """Makes the open shard, if any, one that a later call keeps."""
        if self.rows == self._closed:
            return
        self._settle()
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []
        self._file.close()
        self._file = None
        closed = self._partial.replace(self._folder / _shard_name(len(self._shards)))
        self._shards.append({"sha256": digest_of_file(closed), "end": self._end})
        write_texts(self._folder / PROGRESS, [canonical_json(s) for s in self._shards])
        self._closed = self.rows

    @property
    def _partial(self) -> Path:
        return self._folder / f"{_shard_name(len(self._shards))}.partial"

    def _settle(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, parts: Sequence[tuple[Any, bytes]]) -> None:
        import pyarrow as pa

        for _, lines in parts:
            self.digest.update(lines)
        table = pa.Table.from_batches([batch for batch, _ in parts])
        if self._file is None:
            self._file = pa.ipc.new_file(self._partial, table.schema)
        self._file.write_table(table.combine_chunks(pa.system_memory_pool()))


def _shard_name(number: int) -> str:
    return f"{number:05d}.arrow"


def _complete(folder: Path) -> tuple[Any, int, list[dict[str, Any]]]:
    """Digest, passages and description of the shards that an earlier call completed; removes all
    else.

    A shard counts if it still has the sha256 that was written down when it was closed.
    """
    digest, rows, shards = hashlib.sha256(), 0, []
    for number, shard in enumerate(map(json.loads, read_texts(folder / PROGRESS))):
        path = folder / _shard_name(number)
        if not path.is_file() or digest_of_file(path) != shard["sha256"]:
            break
        for batch in _batches(path, COLUMNS):
            digest.update(_lines(*(column.to_pylist() for column in batch.columns)))
            rows += batch.num_rows
        shards.append(shard)
    kept = {PROGRESS, *(_shard_name(number) for number in range(len(shards)))}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return digest, rows, shards


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Record batches of a shard with some of their columns, one at a time in memory."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(included_fields=[COLUMNS.index(name) for name in columns])
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source, options=options)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _ids(folder: Path, missing: set[str]) -> Iterator[list[str]]:
    """Ids in batches. To look the missing ones up later would map most of a large corpus."""
    for path in shards_of(folder):
        for batch in _batches(path, ["id"]):
            ids: list[str] = batch.column(0).to_pylist()
            missing.difference_update(ids)
            yield ids


def _lines(ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> bytes:
    """What the corpus digest is taken over: `files.canonical_json` of each row, and a line end."""
    import orjson

    return b"\n".join(map(orjson.dumps, zip(ids, titles, texts, strict=True))) + b"\n"


def _encoded(block: PassageBlock) -> tuple[Any, bytes]:
    """A block as a record batch and as lines for the digest."""
    import pyarrow as pa

    *columns, batch = block.columns
    fault: Exception | None = None
    try:
        if batch is None:
            # Like Python's memory, malloc's keeps what the last block gave back.
            pool = pa.system_memory_pool()
            arrays = [pa.array(column, pa.string(), memory_pool=pool) for column in columns]
            batch = pa.RecordBatch.from_arrays(arrays, list(COLUMNS))
        if _all_sound(block.columns.ids) and not any(c.null_count for c in batch.columns):
            return batch, _lines(*columns)
    except (TypeError, ValueError) as error:
        fault = error
    _check_rows(block)
    raise UserError(f"passages cannot be stored: {fault}", where=block.where(0)) from fault


def _all_sound(ids: Sequence[str]) -> bool:
    """What `check_id` says of every one, without a call for each."""
    joined = "\n".join(ids)
    return (
        all(map(str.strip, ids))
        and joined.count("\n") == len(ids) - 1
        and not any(sign in joined for sign in "\t\r\0")
    )


def _check_rows(block: PassageBlock) -> None:
    """Refuses the first wrong passage."""
    for position, row in enumerate(zip(*block.columns[:3], strict=True)):
        for name, value in zip(COLUMNS, row, strict=True):
            what = ""
            if not isinstance(value, str):
                what = f"field {name} is {type(value).__name__}, not str"
            elif any("\ud800" <= sign <= "\udfff" for sign in value):
                what = f"field {name} holds half of a surrogate pair, which is no character"
            if what:
                raise UserError(what, where=block.where(position), mend="mend it in the raw file")
        if not _all_sound(row[:1]):
            check_id(row[0], "id", block.where(position))
