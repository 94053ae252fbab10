"""Passages -> embeddings on disk, in shards; each is written whole, so work goes on after a stop.

Knows how to batch, store and share the work; what an embedding is, the caller's `embed` decides.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, hold, make_together
from uniconv_bench.conversation import Passage
from uniconv_bench.errors import UserError
from uniconv_bench.files import CACHE, atomic_write
from uniconv_bench.fitting import Fitting
from uniconv_bench.locks import Claims, Hold
from uniconv_bench.seals import PARTIAL, seal
from uniconv_bench.system import Corpus, Progress

SHARD = 8192
"""Passages a shard, and the window in which they are sorted by length."""

Embed = Callable[[Sequence[Sequence[int]]], Any]
"""Rows of token ids -> (rows, d) float32 array of unit-length embeddings."""


class Embeddings:
    """The embeddings of a corpus: (N, d) in shards of `SHARD` rows, in corpus order.

    The folder is an artefact: its manifest is the header, with all that the embeddings depend on.

    Args:
        held: keeps it from being thrown away for as long as this object lives.
    """

    def __init__(self, folder: Path, held: Hold | None = None):
        self.folder, self._held = folder, held

    @cached_property
    def shards(self) -> list[Path]:
        """`.npy` files of float16 or float32."""
        return sorted(self.folder.glob("*.npy"))

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        import numpy as np

        shapes = [np.load(path, mmap_mode="r", allow_pickle=False).shape for path in self.shards]
        return sum(rows for rows, _ in shapes), shapes[0][1]

    def spread(self, count: int) -> Any:
        """At most `count` embeddings, evenly spread over the corpus; (rows, d) float32."""
        import numpy as np

        rows, dimension = self.shape
        wanted = np.arange(min(count, rows)) * rows // min(count, rows)
        found = np.empty((len(wanted), dimension), np.float32)  # never twice in memory
        first = 0
        for path in self.shards:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            start, end = np.searchsorted(wanted, (first, first + len(stored)))
            found[start:end] = stored[wanted[start:end] - first]
            first += len(stored)
        return found


def encode_rows(
    rows: Sequence[Sequence[int]], embed: Embed, batch_tokens: int, advance: Callable[[int], None]
) -> Any:
    """(rows, d) float32, in the order given; batches of like length hold about `batch_tokens`, or
    as many as memory does.
    """
    import numpy as np

    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))

    def embedded(piece: Sequence[int]) -> Any:
        return embed([rows[i] for i in piece])

    fitting = Fitting(embedded)
    parts = []
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        batch = order[start : start + max(1, batch_tokens // longest)]
        for piece, vectors in fitting.on(batch):
            parts.append(vectors)
            advance(len(piece))
        start += len(batch)
    stacked = np.concatenate(parts).astype(np.float32)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result


def embeddings_folder(fingerprint: Mapping[str, Any]) -> Path:
    """Where the embeddings with this fingerprint are, or will be."""
    return folder_of("embeddings", "corpus", fingerprint)


def encode_corpus(
    corpus: Corpus,
    fingerprint: Mapping[str, Any],
    tokens: Callable[[Passage], list[int]],
    embed: Embed,
    batch_tokens: int,
    progress: Progress,
    *,
    dimension: int,
    dtype: str = "float32",
) -> Embeddings:
    """The embeddings of a corpus, from cache if there.

    Processes that are at it at once, on one machine or on several that share the cache, each take
    the next shard that no other has.

    Args:
        fingerprint: everything the embeddings depend on, the corpus included.
        tokens: a passage's token ids.
        dimension: d.
        dtype: of what is stored.

    Raises:
        UserError: the disk is too small, or an embedding is too large for the dtype.
    """

    def encode(passages: Sequence[Passage], advance: Callable[[int], None]) -> Any:
        return encode_rows([tokens(p) for p in passages], embed, batch_tokens, advance)

    def work(working: Path) -> None:
        with closing(_Work(corpus, working, dtype, progress)) as shards:
            if shards.left:
                shards.check_room(dimension)
                shards.do(encode)

    folder = embeddings_folder(fingerprint)
    while True:
        make_together(folder, fingerprint, work)
        if held := hold(folder):
            return Embeddings(folder, held)


_Encode = Callable[[Sequence[Passage], Callable[[int], None]], Any]
"""(passages, told of every batch) -> (passages, d) float32."""


class _Work:
    """The shards of one corpus, as far as this process has seen them done."""

    def __init__(self, corpus: Corpus, working: Path, dtype: str, progress: Progress):
        self._corpus, self._working, self._dtype = corpus, working, dtype
        self._progress = progress
        self._left = set(range(-(-len(corpus) // SHARD)))
        self._claims = Claims(working / f"claims{PARTIAL}")
        self._seen()

    @property
    def left(self) -> int:
        """Passages whose embeddings are not known to be there."""
        return self._count(self._left)

    def close(self) -> None:
        """Lets other processes have what is left."""
        self._claims.close()

    def check_room(self, dimension: int) -> None:
        """Says what the shards that are not there yet take, and refuses what the disk cannot hold.

        Raises:
            UserError: too little is free.
        """
        import numpy as np
        from rich.filesize import decimal

        needed = self.left * dimension * np.dtype(self._dtype).itemsize
        free = shutil.disk_usage(self._working).free
        what = f"{self.left:,} x {dimension:,} in {self._dtype} take {decimal(needed)} of disk"
        if needed > free:
            mend = f"make room, point {CACHE} to a larger disk, or embedding_dtype = 'float16'"
            raise UserError(f"{what}, {decimal(free)} are free", where=self._working, mend=mend)
        self._progress.note(f"  embeddings: {what}; {decimal(free)} are free")

    def do(self, encode: _Encode) -> None:
        """Encodes what no other process does, and what one has begun and died over."""
        with self._progress.track("encode passages", len(self._corpus)) as advance:
            advance(len(self._corpus) - self.left)
            for wait in (False, True):
                for shard in _in_turn(self._left):
                    with self._claims.of(shard, wait=wait) as mine:
                        # Renamed into place when complete, perhaps while it was waited for.
                        if mine and not self._path(shard).exists():
                            self._write(shard, encode, advance)
                    advance(self._seen())

    def _path(self, shard: int) -> Path:
        return self._working / f"{shard:05d}.npy"

    def _rows(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, len(self._corpus)))

    def _count(self, shards: set[int]) -> int:
        return sum(len(self._rows(shard)) for shard in shards)

    def _seen(self) -> int:
        """How many more passages others, or an earlier process, turn out to have done."""
        there = {path.name for path in self._working.iterdir()}
        done = {shard for shard in self._left if self._path(shard).name in there}
        self._left -= done
        return self._count(done)

    def _write(self, shard: int, encode: _Encode, advance: Callable[[int], None]) -> None:
        import numpy as np

        rows = self._rows(shard)
        vectors = encode(self._corpus.between(rows.start, rows.stop), advance)
        with np.errstate(over="ignore"):  # said below, with what to do
            stored = vectors.astype(self._dtype)
        if not np.isfinite(stored).all():
            what = f"an embedding of passages {rows.start + 1:,} to {rows.stop:,} is not finite"
            mend = "set embedding_dtype or dtype to float32 on the card"
            raise UserError(f"{what} in {self._dtype}", mend=mend)
        with atomic_write(self._path(shard), "wb") as stream:
            np.save(stream, stored, allow_pickle=False)
        seal(self._path(shard))
        self._left.discard(shard)


RANKS = (("RANK", "0"), ("WORLD_SIZE", "1"))
"""What launchers set, and what it is without one."""


def _in_turn(shards: set[int]) -> list[int]:
    """In order, but processes that a launcher started together begin with different ones.

    It saves them asking for each other's; and where the file system has no locks, it is what keeps
    them apart.
    """
    rank, count = (int(os.environ.get(name, alone)) for name, alone in RANKS)
    return sorted(shards, key=lambda shard: ((shard - rank) % count, shard))
