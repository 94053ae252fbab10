"""Texts appended to a file as they come, line by line: what a killed process wrote is gone on with.

Each line begins with its digest, so that one that is torn or rotten ends what is read, and so do
those after it. Knows nothing of what is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from uniconv_bench.files import atomic_write

DIGITS = 16


def line_of(text: str) -> str:
    """A text without line ends as a line of such a file."""
    return f"{_digest(text.encode())} {text}\n"


def read_texts(path: Path) -> list[str]:
    """The texts up to the first broken line; none where there is no file."""
    if not path.exists():
        return []
    texts = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        digest, _, text = line.partition(b" ")
        if digest != _digest(text).encode():
            break
        texts.append(text.decode())
    return texts


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Replaces a file by the lines of these texts, atomically."""
    with atomic_write(path) as stream:
        stream.writelines(map(line_of, texts))


def go_on(path: Path, batch: int = 1) -> list[str]:
    """The texts of whole batches, with which the file is gone on; all else is cut off.

    So the batches that are left are the same as if nothing had been interrupted.
    """
    texts = read_texts(path)
    del texts[len(texts) - len(texts) % batch :]
    write_texts(path, texts)
    return texts


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:DIGITS]
