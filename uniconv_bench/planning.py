"""What each kind of index of a corpus takes: bytes on disk, memory and time, by arithmetic.

Sizes are exact but for the product quantiser's and the graph's small change; times are estimates
from two rates of this machine. Loads no model and no corpus.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniconv_bench.approximate import ADDED, TRAINING, TRAINING_A_LIST
from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.dense import SAMPLE
from uniconv_bench.encode import SHARD
from uniconv_bench.files import cache_dir
from uniconv_bench.index import InNumpy
from uniconv_bench.system_cards import DenseRetriever, EncoderRetriever, SystemCard
from uniconv_bench.uniconv.backbone import find_backbone

ASKED = 1000
"""Queries that a search is timed for."""
PROGRAM = 350_000_000
"""Bytes of this program with torch and faiss in memory, without a model."""
CODES, ROUNDS = 256, 25
"""Of a product quantiser, each a byte; of k-means, as faiss has it."""
TABLES = 16
"""Coordinates a code from which on it files vectors by tables of all distances."""
LINKS, EXPLORED = 32, 40
"""Of HNSW32: links a passage (twice as many in the lowest layer), candidates while building."""
SCATTERED = 0.05
"""Share of the matrix products' rate at which single distances are computed."""
UNTIMED = "the disk's speed is not counted: nothing can be written there to measure it"
SUBVECTORS = (64, 48, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, slots=True)
class Rates:
    """Floating-point operations a second of matrix products, bytes a second read from disk.

    The disk's is infinite where it could not be measured: times are then those of the arithmetic.
    """

    flops: float
    disk: float


@dataclass(frozen=True, slots=True)
class IndexCost:
    """What one kind of index takes.

    Attributes:
        index: what cards say: `index`, and `embedding_dtype` where it is not float32.
        disk: bytes, the embeddings that it is built from included.
        memory: bytes while searching, or building if that is more.
        build_seconds: from embeddings to index.
        search_seconds: of `ASKED` queries, the reading of the index included, and where it is
            approximate the exact search that tells its recall on some of them.
    """

    index: str
    disk: int
    memory: int
    build_seconds: float
    search_seconds: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "index": self.index,
            "disk_bytes": self.disk,
            "memory_bytes": self.memory,
            "build_seconds": round(self.build_seconds, 1),
            "search_seconds": round(self.search_seconds, 1),
            "queries": ASKED,
            "lacks": self.lacks(),
        }

    def lacks(self) -> list[str]:
        """Of what this machine has too little: `memory`, and `disk` free beside the cache."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = shutil.disk_usage(_nearest_folder()).free
        sizes = {"memory": (self.memory, memory), "disk": (self.disk, free)}
        return [name for name, (needed, there) in sizes.items() if needed > there]

    def told(self) -> str:
        """In a line."""
        from rich.filesize import decimal

        from uniconv_bench.progress import duration

        built = f"about {duration(self.build_seconds)} to build, " if self.build_seconds else ""
        lacking = " and ".join(self.lacks())
        return (
            f"{lacking and f'more {lacking} than there is; '}"
            f"{decimal(self.disk)} of disk, {decimal(self.memory)} of memory, {built}"
            f"about {duration(self.search_seconds)} for {ASKED:,} queries"
        )


def index_costs(passages: int, dimension: int, rates: Rates) -> list[IndexCost]:
    """Of every kind of index, over that many embeddings of d dimensions."""
    vectors = passages * dimension
    products = 2 * ASKED * vectors / rates.flops
    recall = max(2 * SAMPLE * vectors / rates.flops, 4 * vectors / rates.disk)
    graph = passages * (4 * dimension + 4 * 2 * LINKS + 8)
    visits = 2 * dimension * LINKS / (rates.flops * SCATTERED)
    lists = lists_of(passages)
    codes = next(m for m in SUBVECTORS if dimension % m == 0)
    coarse = 4 * dimension * (lists + CODES)
    mapped = 4 * dimension * SHARD
    inverted = passages * (codes + 8) + coarse
    sample = min(passages, max(TRAINING, TRAINING_A_LIST * lists))
    # A quantiser learns from residuals, and has a table for every vector that it is given to file.
    learned_from = 4 * dimension * (sample + min(sample, TRAINING))
    tables = 4 * ADDED * codes * CODES if dimension >= TABLES * codes else 0
    codes_in_memory = inverted - coarse + tables
    learning = 2 * dimension * (ROUNDS * sample * lists + ROUNDS * min(sample, TRAINING) * CODES)
    filing = 2 * vectors * (lists + CODES)
    return [
        *(
            IndexCost(
                f"exact, {dtype}",
                width * vectors,
                PROGRAM + _streaming(dimension, width),
                0.0,
                max(products, width * vectors / rates.disk),
            )
            for dtype, width in (("float32", 4), ("float16", 2))
        ),
        IndexCost(
            "Flat",
            8 * vectors,
            PROGRAM + 4 * vectors + mapped,
            8 * vectors / rates.disk,
            products + 4 * vectors / rates.disk + recall,
        ),
        IndexCost(
            "HNSW32",
            4 * vectors + graph,
            PROGRAM + graph + mapped,
            passages * EXPLORED * visits + (4 * vectors + graph) / rates.disk,
            ASKED * EXPLORED * visits + graph / rates.disk + recall,
        ),
        IndexCost(
            f"IVF{lists},PQ{codes}",
            4 * vectors + inverted,
            PROGRAM + coarse + mapped + max(codes_in_memory, learned_from),
            (learning + filing) / rates.flops + 4 * vectors / rates.disk,
            2 * ASKED * dimension * lists / rates.flops + inverted / rates.disk + recall,
        ),
    ]


def lists_of(passages: int) -> int:
    """Lists of an inverted file: the power of two next to four times the root of the corpus."""
    return int(2 ** max(0, round(math.log2(4 * math.sqrt(passages)))))


def _streaming(dimension: int, width: int) -> int:
    """Bytes that exact search holds: two blocks in float32, one as it is read, and scores."""
    return InNumpy.block * (dimension * (2 * 4 + width) + 5 * ASKED)


def dimension_of(system: SystemCard, profile: Profile) -> int | None:
    """Of a system's embeddings at a profile; None if it makes none, or they are not known."""
    retriever = getattr(system.retriever, "retriever", system.retriever)
    if isinstance(retriever, EncoderRetriever):
        return find_backbone(retriever.model).dimension
    if isinstance(retriever, DenseRetriever) and profile in system.backbone:
        return find_backbone(system.backbone[profile]).dimension
    return None


def passages_of(card: TaskCard, profile: Profile) -> int | None:
    """Published size of a task's corpus; None where it is not known before it is prepared."""
    return card.size.passages if card.size and profile == "full" else None


def measured() -> Rates:
    """Of this machine, within a second; without the disk's where it is too full for the trial."""
    try:
        disk = _disk()
    except OSError:
        disk = math.inf
    return Rates(_flops(), disk)


def _flops() -> float:
    import numpy as np

    queries, passages = np.ones((ASKED, 512), np.float32), np.ones((2048, 512), np.float32)
    queries @ passages.T  # the first call starts threads
    start = time.perf_counter()
    for _ in range(5):
        queries @ passages.T
    return 5 * 2 * ASKED * 2048 * 512 / (time.perf_counter() - start)


def _nearest_folder() -> Path:
    """The cache, or what will hold it."""
    return next(path for path in (cache_dir(), *cache_dir().parents) if path.is_dir())


def _disk() -> float:
    """Reads back, past the system's cache, what was just written to the cache's disk."""
    there = _nearest_folder()
    if not os.access(there, os.W_OK):
        there = Path(tempfile.gettempdir())
    size = 1 << 26
    with tempfile.TemporaryFile(dir=there) as stream:
        stream.write(os.urandom(1 << 20) * (size >> 20))
        stream.flush()
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        stream.seek(0)
        while stream.read(1 << 22):
            pass
        return size / (time.perf_counter() - start)
