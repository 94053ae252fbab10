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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import (
    cache_dir,
    canonical_json,
    digest_of,
    digest_of_file,
    digest_once,
    write_json,
)

try:
    import fcntl
except ImportError:  # a platform without it has no locks
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
PARTIAL = ".partial"
CLAIMS = "claims"
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a file system without locks says."""


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
    with _held(folder) as waited:
        if (waited or not anew) and _verified(folder) is not None:
            yield None
            return
        working = _working(folder)
        yield working
        _complete(working, folder, fingerprint)


def make_together(
    folder: Path, fingerprint: Mapping[str, Any], work: Callable[[Path], None]
) -> None:
    """Makes an artefact that any number of processes may work on at once, if it is not there.

    Args:
        work: called with the working folder; does what no other process does (see `Claims`), and
            returns when all of it is there, by whomever.
    """
    if open_artefact(folder) is not None:
        return
    with _held(folder, shared=True):
        if not folder.exists():
            work(_working(folder))
    with _held(folder):
        if not folder.exists():
            working = _working(folder)
            work(working)  # nothing is left of it, unless it was thrown away between the locks
            (working / CLAIMS).unlink(missing_ok=True)
            _complete(working, folder, fingerprint)


class Claims:
    """Numbered parts of the work on one artefact, each done by one process at a time.

    A part is a byte of a file that is locked while its process lives and works on it. Where the
    file system has no locks every claim is granted: work is then done twice, to the same result.
    """

    def __init__(self, working: Path):
        self._stream = (working / CLAIMS).open("ab")

    @contextmanager
    def of(self, part: int, *, wait: bool) -> Iterator[bool]:
        """Yields whether the part is this process's; with `wait` it is, as soon as it is free."""
        if fcntl is None:
            yield True
            return
        try:
            how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(self._stream, how, 1, part)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, *LOCKLESS):
                raise
            yield error.errno in LOCKLESS
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._stream, fcntl.LOCK_UN, 1, part)

    def close(self) -> None:
        """Gives up what is still claimed."""
        self._stream.close()


def _working(folder: Path) -> Path:
    working = folder.with_name(f"{folder.name}{PARTIAL}")
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
def _held(folder: Path, *, shared: bool = False) -> Iterator[bool]:
    """One process at a time makes a folder, or several do that share it; yields whether another
    had to be waited for.

    The kernel drops a lock with the process that holds it. Who holds it alone removes the lock's
    file, so whoever was waiting for that file begins again with a new one.
    """
    if fcntl is None:
        yield False
        return
    path = _lock(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    waited, here = False, False
    while not here:
        stream = path.open("a")
        waited = _wait(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, folder) or waited
        here = _is_at(stream, path)
        if not here:
            stream.close()
    with stream:
        try:
            yield waited
        finally:
            if not shared:
                path.unlink(missing_ok=True)


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_at(stream: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait(stream: IO[str], how: int, folder: Path) -> bool:
    """Takes a lock; whether another process had it."""
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"another process is making {folder}; waiting for it\n")
        fcntl.flock(stream, how)
        return True
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise  # else a file system without locks
    return False


def open_artefact(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of a complete artefact after checking every file's digest, or None if absent.

    Waits for a process that is making it just now.

    Raises:
        UserError: a file is missing or its bytes changed since it was written.
    """
    if fcntl is not None and not folder.exists():
        with suppress(FileNotFoundError), _lock(folder).open() as stream:
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
    with suppress(OSError):  # a cache that is only read
        os.utime(folder)  # when it was last used; the manifest's time is when it was made
    return fingerprint


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keeps other processes from throwing an artefact away."""
    with (folder / MANIFEST).open() as stream:
        if fcntl is not None:
            _wait(stream, fcntl.LOCK_SH, folder)
        yield


def is_held(folder: Path) -> bool:
    """Whether some process makes or uses an artefact."""
    with _free(folder) as free:
        return not free


def throw_away(folder: Path) -> bool:
    """Removes an artefact, or what a process that is gone left of one; not one that is held.

    It vanishes at once, so that nobody finds half of it.
    """
    with _free(folder) as free:
        if not free or not folder.exists():
            return False
        doomed = folder.with_name(f"{folder.name}.{os.getpid()}{PARTIAL}")
        folder.replace(doomed)
    shutil.rmtree(doomed)
    return True


@contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Yields whether no process makes or uses an artefact; none begins to meanwhile."""
    if fcntl is None:
        yield False
        return
    lock = _lock(folder.with_name(folder.name.removesuffix(PARTIAL)))
    with ExitStack() as files:
        if not _taken(files.enter_context(lock.open("a"))):
            yield False
            return
        files.callback(lock.unlink, missing_ok=True)
        manifest = folder / MANIFEST
        yield not manifest.exists() or _taken(files.enter_context(manifest.open("a")))


def _taken(stream: IO[str]) -> bool:
    """Takes a lock for this process alone, if no other has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, what was found, what is wanted) of two fingerprints, nested fields as `a.b`.

    A field that one of them lacks is `absent` there.
    """
    ours, theirs = dict(_leaves(wanted)), dict(_leaves(found))
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        (name, theirs.get(name, "absent"), ours.get(name, "absent"))
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, canonical_json(value)
