"""The passages of a stored corpus, read through memory maps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Passage
from uniconv_bench.lookup import PassageIds


def shards_of(folder: Path) -> list[Path]:
    """The Arrow files of a corpus, in its order."""
    return sorted(folder.glob("*.arrow"))


def table_of(folder: Path) -> Any:
    """All of it as one Arrow table, of which nothing is read before it is asked for."""
    import pyarrow as pa

    maps = [pa.memory_map(str(path)) for path in shards_of(folder)]
    return pa.concat_tables([pa.ipc.open_file(shard).read_all() for shard in maps])


def _passages(rows: Any) -> Iterator[Passage]:
    columns = [rows.column(name).to_pylist() for name in ("id", "text", "title")]
    for passage_id, text, title in zip(*columns, strict=True):
        yield Passage(passage_id, text, title)


class ArrowCorpus:
    """The passages of a task in memory-mapped shards. Satisfies `system.Corpus`."""

    def __init__(self, folder: Path, size: int, digest: str):
        self._folder, self._size, self.digest = folder, size, digest

    @cached_property
    def _table(self) -> Any:
        return table_of(self._folder)

    @cached_property
    def ids(self) -> PassageIds:
        """Passage ids, in corpus order; none is held in memory."""
        return PassageIds(self._folder, self._table.column("id"))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Passage]:
        for batch in self._table.to_batches():
            yield from _passages(batch)

    def between(self, start: int, stop: int) -> list[Passage]:
        """The passages of these rows."""
        return list(_passages(self._table.slice(start, stop - start)))

    def __getitem__(self, passage_id: str) -> Passage:
        """Raises KeyError if there is no such passage."""
        row = self.ids.row(passage_id)
        text, title = (self._table.column(name)[row].as_py() for name in ("text", "title"))
        return Passage(passage_id, text, title)
