"""Artefacts: folders of the cache, each complete, checked, and made by one process at a time.

Its manifest names the full fingerprint of what is in it and the sha256 of every file; it is written
beside its final place and renamed whole, so a folder that exists is complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of, digest_of_file, digest_once, write_json

try:
    import fcntl
except ImportError:  # a platform without it has no locks
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"


def folder_of(stage: str, name: str, fingerprint: Mapping[str, Any]) -> Path:
    """Where the cache keeps the artefact of a stage with this fingerprint."""
    return cache_dir() / stage / f"{name}-{digest_of(fingerprint)[:16]}"


@contextmanager
def missing_artefact(
    folder: Path, fingerprint: Mapping[str, Any], *, anew: bool = False
) -> Iterator[Path | None]:
    """Yields a working folder that becomes the artefact; None where that is there, by whomever.

    The working folder `<folder>.partial` outlives an interruption, so that a stage can go on with
    what is already in it; files it holds are the stage's own affair until the block ends well. No
    other process gets it meanwhile.

    Args:
        anew: make it even if it was there before; what another process made meanwhile will do.
    """
    if not anew and open_artefact(folder) is not None:
        yield None
        return
    with _alone(folder) as waited:
        if (waited or not anew) and _verified(folder) is not None:
            yield None
            return
        working = _working(folder)
        yield working
        _complete(working, folder, fingerprint)


def _working(folder: Path) -> Path:
    working = folder.with_name(f"{folder.name}.partial")
    working.mkdir(parents=True, exist_ok=True)
    return working


def _complete(working: Path, folder: Path, fingerprint: Mapping[str, Any]) -> None:
    files = {
        p.relative_to(working).as_posix(): {"sha256": digest_of_file(p), "bytes": p.stat().st_size}
        for p in sorted(working.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    write_json(working / MANIFEST, {"fingerprint": dict(fingerprint), "files": files})
    if folder.exists():
        shutil.rmtree(folder)
    working.replace(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One process at a time makes a folder; yields whether another had to be waited for.

    The kernel drops a lock with the process that holds it. The holder removes the lock's file, so
    whoever was waiting for that file begins again with a new one.
    """
    if fcntl is None:
        yield False
        return
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    waited, here = False, False
    while not here:
        stream = path.open("a")
        waited = _wait(stream, fcntl.LOCK_EX, folder) or waited
        with suppress(FileNotFoundError):
            here = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        if not here:
            stream.close()
    with stream:
        try:
            yield waited
        finally:
            path.unlink(missing_ok=True)


def _wait(stream: IO[str], how: int, folder: Path) -> bool:
    """Takes a lock; whether another process had it."""
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"another process is making {folder}; waiting for it\n")
        fcntl.flock(stream, how)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise  # else a file system without locks
    return False


def open_artefact(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of a complete artefact after checking every file's digest, or None if absent.

    Waits for a process that is making it just now.

    Raises:
        UserError: a file is missing or its bytes changed since it was written.
    """
    if fcntl is not None and not folder.exists():
        with suppress(FileNotFoundError), folder.with_name(f"{folder.name}.lock").open() as stream:
            _wait(stream, fcntl.LOCK_SH, folder)
    return _verified(folder)


def _verified(folder: Path) -> dict[str, Any] | None:
    if not folder.exists():
        return None
    mend = f"delete the folder {folder} and run again: it will be made anew"
    manifest = folder / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        fingerprint, files = dict(content["fingerprint"]), dict(content["files"])
        expected = {name: str(entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "corrupted cache: unreadable manifest", where=manifest, mend=mend
        ) from error
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file() or digest_once(path) != sha256:
            raise UserError("corrupted cache file", where=path, mend=mend)
    return fingerprint
