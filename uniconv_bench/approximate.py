"""Approximate search: an index of faiss by its factory string, built over embeddings on disk.

Knows nothing of models or tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.encode import Embeddings
from uniconv_bench.errors import UserError, lacks_memory
from uniconv_bench.files import digest_of_code
from uniconv_bench.system import Progress, Ranking

FILE = "index.faiss"
TRAINING = 65_536
"""Vectors that an index learns from: 256 for each code of a product quantiser, as faiss has it."""
TRAINING_A_LIST = 64
"""At least, for each list of an inverted file."""
ADDED = 1024
"""Vectors that an index is given at once; a product quantiser takes a table for each meanwhile."""
QUERIES = 512
"""That are searched for at once."""
REASON = re.compile(r"(?:failed: |\.(?:cpp|h):\d+: (?!Error:))(.+)")
"""What a person can use of an error of faiss, behind its function, file and line."""


class FactoryIndex:
    """Inner-product search by an index of faiss.

    Args:
        ids: passage ids, in the order the index was built in.
        path: the index as faiss writes it.
        settings: of its search, as `nprobe=32`; empty: its own.
    """

    def __init__(self, ids: Sequence[str], path: Path, settings: str = ""):
        faiss = _faiss()
        self._ids, self._index = ids, faiss.read_index(str(path))
        if settings:
            with _explained(f"index_search = {settings!r}", "write it as in nprobe=32"):
                faiss.ParameterSpace().set_index_parameters(self._index, settings)
        self._index = _on_gpus(self._index)

    def search(
        self, queries: Any, depth: int, advance: Callable[[int], None] = lambda count: None
    ) -> Iterator[Ranking]:
        """At most `depth` passages for each row of `queries`, (Q, d) float32.

        Where fewer were found faiss fills up with -1, which is no passage. How the scores of whole
        vectors are rounded may depend on how many queries there are.

        Args:
            queries: of which many are searched for at once.
            depth: passages a ranking.
            advance: told how many more queries are done.
        """
        for start in range(0, len(queries), QUERIES):
            batch = queries[start : start + QUERIES]
            scores, rows = self._index.search(batch, min(depth, len(self._ids)))
            for values, places in zip(scores, rows, strict=True):
                found = zip(values.tolist(), places.tolist(), strict=True)
                ranked = sorted((-score, self._ids[row]) for score, row in found if row >= 0)
                yield [(passage_id, -score) for score, passage_id in ranked]
            advance(len(batch))


def version() -> str | None:
    """The distribution of faiss and its version; None if it is not installed."""
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def check(factory: str, dimension: int, passages: int) -> None:
    """Refuses, before anything is encoded for it, an index that cannot be built.

    Raises:
        UserError: faiss knows no such index, or it has more lists than there are passages.
    """
    index = _empty(factory, dimension)
    if _lists(index) > passages:
        what = f"index = {factory!r} has {_lists(index):,} lists for {passages:,} passages"
        raise UserError(what, mend="take fewer, about 4 to 16 times the root of their number")


def built(
    embeddings: Embeddings, factory: str, fingerprint: Mapping[str, Any], progress: Progress
) -> Path:
    """The file of an index over embeddings, from cache if there.

    Args:
        embeddings: what is indexed; some of it, evenly spread, is what the index learns from.
        factory: the factory string.
        fingerprint: of the embeddings.

    Raises:
        UserError: it cannot be built, or there are too few embeddings to learn from.
    """
    import numpy as np

    whole = {
        "embeddings": dict(fingerprint),
        "index": factory,
        "faiss": version(),
        "code": digest_of_code("approximate"),
    }
    folder = folder_of("indexes", "corpus", whole)
    with missing_artefact(folder, whole) as working:
        if working is not None:
            index = _on_gpus(_empty(factory, embeddings.shape[1]))
            if not index.is_trained:
                wanted = max(TRAINING, TRAINING_A_LIST * _lists(index))
                with _explained(f"index = {factory!r}", "take fewer lists or codes, or exact"):
                    index.train(embeddings.spread(wanted))
            _make_room(index, embeddings.shape[0])
            with progress.track(f"index {factory}", embeddings.shape[0]) as advance:
                for shard in embeddings.shards:
                    stored = np.load(shard, mmap_mode="r", allow_pickle=False)
                    for start in range(0, len(stored), ADDED):
                        vectors = stored[start : start + ADDED]
                        index.add(vectors.astype(np.float32, copy=False))
                        advance(len(vectors))
            faiss = _faiss()
            on_cpu = getattr(faiss, "index_gpu_to_cpu", lambda same: same)
            faiss.write_index(on_cpu(index), str(working / FILE))
    return folder / FILE


def recall(found: Sequence[Ranking], exact: Sequence[Ranking]) -> float:
    """Share of the exactly nearest passages that were found, averaged over queries."""
    shares = [
        len({p for p, _ in ranking} & {p for p, _ in wanted}) / len(wanted)
        for ranking, wanted in zip(found, exact, strict=True)
    ]
    return sum(shares) / len(shares)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "faiss is not installed, which every index but exact needs",
            mend="pip install 'uniconv-bench[cpu]' (or [gpu])",
        ) from error
    return faiss


def _empty(factory: str, dimension: int) -> Any:
    faiss = _faiss()
    mend = "write exact, Flat, HNSW32, IVF4096,PQ64 or another factory string of faiss"
    with _explained(f"index = {factory!r} over {dimension} dimensions", mend):
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)


def _lists(index: Any) -> int:
    """Lists of an inverted file, 0 of anything else."""
    inverted = _faiss().try_extract_index_ivf(index)
    return int(inverted.nlist) if inverted is not None else 0


def _make_room(index: Any, count: int) -> None:
    """Has memory for whole vectors taken once; it would grow by doubling, with a copy each time."""
    faiss = _faiss()
    stored = getattr(index, "storage", index)  # a graph has its vectors there
    if isinstance(stored := faiss.downcast_index(stored), faiss.IndexFlatCodes):
        stored.codes.resize(count * stored.code_size)
        stored.codes.resize(0)  # keeps the room


def _on_gpus(index: Any) -> Any:
    """The index on all GPUs, where faiss has any and can have this kind of index there.

    Raises:
        RuntimeError: it can, but their memory is too small.
    """
    faiss = _faiss()
    if not getattr(faiss, "get_num_gpus", int)():
        return index
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        return index


@contextmanager
def _explained(what: str, mend: str) -> Iterator[None]:
    """Makes one line of what faiss raises."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = REASON.search(str(error))
        told = reason[1] if reason else "faiss refuses it"
        raise UserError(f"{what}: {told}", mend=mend) from error
