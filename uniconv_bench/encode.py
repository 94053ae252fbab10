"""Passages -> embeddings on disk, in shards; each is written whole, so work goes on after a stop.

Knows how to batch and store; what an embedding is, the caller's `embed` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.conversation import Passage
from uniconv_bench.files import atomic_write
from uniconv_bench.system import Corpus, Progress

SHARD = 8192
"""Passages a shard."""

Embed = Callable[[Sequence[Sequence[int]]], Any]
"""Rows of token ids -> (rows, d) float32 array of unit-length embeddings."""


def encode_rows(
    rows: Sequence[Sequence[int]], embed: Embed, batch_tokens: int, advance: Callable[[int], None]
) -> Any:
    """(rows, d) float32, in the order given; batches of like length hold about `batch_tokens`."""
    import numpy as np

    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    parts = []
    start = 0
    while start < len(order):
        longest = len(rows[order[start]])
        batch = order[start : start + max(1, batch_tokens // longest)]
        parts.append(embed([rows[i] for i in batch]))
        advance(len(batch))
        start += len(batch)
    stacked = np.concatenate(parts).astype(np.float32)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result


def encode_corpus(
    corpus: Corpus,
    fingerprint: Mapping[str, Any],
    tokens: Callable[[Passage], list[int]],
    embed: Callable[[], Embed],
    batch_tokens: int,
    progress: Progress,
) -> Any:
    """The embeddings of a corpus, (N, d) float32 in the order of `corpus.ids`; from cache if there.

    Args:
        fingerprint: everything the embeddings depend on, the corpus included.
        tokens: a passage's token ids.
        embed: called once, and only if something has to be encoded.
    """
    import numpy as np

    folder = folder_of("embeddings", "corpus", fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working is not None:
            with progress.track("encode passages", len(corpus)) as advance:
                _encode(corpus, working, tokens, embed, batch_tokens, advance)
    shards = sorted(folder.glob("*.npy"))
    return np.concatenate([np.load(path, allow_pickle=False) for path in shards])


def _encode(
    corpus: Corpus,
    working: Path,
    tokens: Callable[[Passage], list[int]],
    embed: Callable[[], Embed],
    batch_tokens: int,
    advance: Callable[[int], None],
) -> None:
    """Writes the shards that are not there yet."""
    import numpy as np

    encoder: Embed | None = None
    for path, passages in _shards(corpus, working):
        if path.exists():  # renamed into place when complete, before a stop
            advance(len(passages))
            continue
        encoder = encoder or embed()
        vectors = encode_rows([tokens(p) for p in passages], encoder, batch_tokens, advance)
        with atomic_write(path, "wb") as stream:
            np.save(stream, vectors, allow_pickle=False)


def _shards(corpus: Corpus, folder: Path) -> Iterator[tuple[Path, list[Passage]]]:
    passages = iter(corpus)
    for number in range((len(corpus) + SHARD - 1) // SHARD):
        yield folder / f"{number:05d}.npy", list(islice(passages, SHARD))
