"""Seals: digests of the finished files of a working folder, until its manifest vouches for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from uniconv_bench.files import atomic_write, digest_of_file

PARTIAL = ".partial"
"""Ends the names of working folders, and of what in them is no part of the artefact."""
SEAL = f".sha256{PARTIAL}"
UNFINISHED = "corrupted file of unfinished work"
ALONE = "run it again: this file alone is made anew"


def seal(path: Path) -> None:
    """Vouches for a finished file of a working folder until the manifest does."""
    with atomic_write(_seal_of(path)) as stream:
        stream.write(digest_of_file(path))


def unlike_seals(working: Path) -> Iterator[Path]:
    """Files that are not what they were when they were sealed."""
    for sealed in sorted(working.rglob(f"*{SEAL}")):
        path = sealed.with_name(sealed.name.removesuffix(SEAL))
        with suppress(FileNotFoundError):  # another process may be at it
            if not is_as_sealed(path, digest_of_file(path)):
                yield path


def drop_rotten(working: Path) -> None:
    """Has what rotted since it was sealed made anew."""
    for path in unlike_seals(working):
        make_anew(path)


def make_anew(path: Path) -> None:
    """Removes a file that is not what it was, and says so: whoever goes on makes it anew."""
    sys.stderr.write(f"{UNFINISHED}, made anew: {path}\n")
    _seal_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def is_as_sealed(path: Path, sha256: str) -> bool:
    """Whether a file that has this digest has no seal, or one that says so."""
    sealed = _seal_of(path)
    return not sealed.exists() or sealed.read_text(errors="replace") == sha256


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{SEAL}")
