"""Locks on folders of the cache and on parts of work, dropped by the kernel with their process.

So a lock of a dead process is none, whatever file it has left. Knows nothing of what is locked.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # a platform without it has no locks
    fcntl = None  # type: ignore[assignment]

LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a file system without locks says."""


@contextmanager
def held(folder: Path, *, shared: bool = False) -> Iterator[bool]:
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


class Claims:
    """Numbered parts of the work on one artefact, each done by one process at a time.

    A part is a byte of a file that is locked while its process lives and works on it. Where the
    file system has no locks every claim is granted: work is then done twice, to the same result.
    """

    def __init__(self, path: Path):
        self._stream = path.open("ab")

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


def wait_for(folder: Path) -> None:
    """Waits for a process that makes a folder, if there is one."""
    if fcntl is not None:
        with suppress(FileNotFoundError), _lock(folder).open() as stream:
            _wait(stream, fcntl.LOCK_SH, folder)


class Hold:
    """Keeps other processes from finding a folder `free` for as long as this object lives.

    Args:
        mark: a file in the folder.

    Raises:
        FileNotFoundError: the folder is gone.
    """

    def __init__(self, folder: Path, mark: Path):
        stream = mark.open()
        weakref.finalize(self, stream.close)
        if fcntl is not None:
            _wait(stream, fcntl.LOCK_SH, folder)
            if not _is_at(stream, mark):  # thrown away while it was waited for
                raise FileNotFoundError(mark)


@contextmanager
def free(folder: Path, mark: Path) -> Iterator[bool]:
    """Yields whether no process makes a folder or has it in use; none begins to meanwhile."""
    if fcntl is None:
        yield False
        return
    lock = _lock(folder)
    with ExitStack() as files:
        stream = files.enter_context(lock.open("a"))
        if not _taken(stream) or not _is_at(stream, lock):  # or passed on while it was asked for
            yield False
            return
        files.callback(lock.unlink, missing_ok=True)
        yield not mark.exists() or _taken(files.enter_context(mark.open()))


def is_held(folder: Path, mark: Path) -> bool:
    """Whether a process makes a folder or has it in use, right now. Writes nothing."""
    if fcntl is None:
        return True
    with ExitStack() as files:
        for path in (_lock(folder), mark):
            with suppress(FileNotFoundError):
                if not _taken(files.enter_context(path.open())):
                    return True
    return False


def _taken(stream: IO[str]) -> bool:
    """Takes a lock for this process alone, if no other has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno in LOCKLESS
    return True
