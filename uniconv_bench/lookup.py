"""Passage id -> row of a stored corpus, through sorted hashes on disk: no id is held in memory.

Equal hashes are told apart by the ids themselves. Knows nothing of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from uniconv_bench.errors import UserError

HASHES, ROWS = "ids.hashes", "ids.rows"
"""64-bit hashes of all ids in order, and the row of each as 32 bits."""
RANGE = 1 << 22
"""Hashes that are sorted at a time."""


def write_lookup(
    folder: Path, ids: Iterable[Sequence[str]], column: Any, where: str | Path
) -> None:
    """Writes the lookup of a corpus; memory does not grow with it.

    The hashes go to a file as they come, then range by range into memory to be sorted.

    Args:
        folder: where its files go.
        ids: all ids in order, in batches.
        column: the same as a chunked Arrow array that need not be in memory.
        where: where the corpus comes from, for errors.

    Raises:
        UserError: an id occurs twice.
    """
    import numpy as np

    unsorted = folder / f"{HASHES}.unsorted"
    with unsorted.open("wb") as stream:
        for batch in ids:
            _hashes(batch).tofile(stream)
    total = unsorted.stat().st_size // 8
    ranges = -(-total // RANGE)
    with (folder / HASHES).open("wb") as hashes, (folder / ROWS).open("wb") as rows:
        for number in range(ranges):
            found = []
            for start in range(0, total, RANGE):
                part = np.fromfile(unsorted, np.uint64, RANGE, offset=8 * start)
                here = np.flatnonzero((part >> 32) * ranges >> 32 == number)
                found.append((part[here], (here + start).astype(np.uint32)))
            key, row = (np.concatenate(parts) for parts in zip(*found, strict=True))
            order = np.argsort(key, kind="stable")
            key, row = key[order], row[order]
            _check_unique(key, row, column, where)
            key.tofile(hashes)
            row.tofile(rows)
    unsorted.unlink()


class PassageIds(Sequence[str]):
    """The ids of a stored corpus in its order, each read when it is asked for.

    Args:
        folder: where `write_lookup` wrote.
        column: all ids as a chunked Arrow array.
    """

    def __init__(self, folder: Path, column: Any):
        self._folder, self._column = folder, column

    @cached_property
    def _lookup(self) -> tuple[Any, Any]:
        import numpy as np

        hashes = np.memmap(self._folder / HASHES, np.uint64, "r")
        rows = np.memmap(self._folder / ROWS, np.uint32, "r")
        return np.asarray(hashes), np.asarray(rows)

    def row(self, passage_id: str) -> int:
        """Position of an id; KeyError if there is no such id."""
        import numpy as np

        hashes, rows = self._lookup
        sought = _hashes([passage_id])[0]
        for place in range(int(np.searchsorted(hashes, sought)), len(hashes)):
            if hashes[place] != sought:
                break
            row = int(rows[place])
            if self._column[row].as_py() == passage_id:
                return row
        raise KeyError(passage_id)

    def __contains__(self, passage_id: object) -> bool:
        try:
            return isinstance(passage_id, str) and self.row(passage_id) >= 0
        except KeyError:
            return False

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.iterchunks():
            yield from chunk.to_pylist()

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._column[index]
        ids: str | list[str] = found.to_pylist() if isinstance(index, slice) else found.as_py()
        return ids


def _hashes(ids: Sequence[str]) -> Any:
    import numpy as np
    from xxhash import xxh3_64_intdigest

    # An id asked for may be no valid Unicode; it is just not there.
    encoded = (passage_id.encode("utf-8", "surrogatepass") for passage_id in ids)
    return np.fromiter(map(xxh3_64_intdigest, encoded), np.uint64, len(ids))


def _check_unique(key: Any, row: Any, column: Any, where: str | Path) -> None:
    """Refuses equal ids among hashes in order; equal hashes of different ids may be."""
    import numpy as np

    equal = np.flatnonzero(key[1:] == key[:-1]) + 1
    for position in equal[np.argsort(row[equal])].tolist():
        second = int(row[position])
        passage_id = column[second].as_py()
        start = int(np.searchsorted(key, key[position]))
        for first in row[start:position].tolist():
            if column[first].as_py() == passage_id:
                place = f"{where}, passage {second + 1:,} of the corpus and passage {first + 1:,}"
                what = f"field id {passage_id!r} occurs twice"
                raise UserError(what, where=place, mend="ids must be unique")
