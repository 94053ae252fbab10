"""Artefacts: folders of the cache, each complete, checked, and made by one process at a time.

A manifest names the full fingerprint of what is in the folder and the sha256 of every file, and
vouches for itself. It is written last, beside the final place, and the folder is then renamed: so
what exists is complete, and what is complete is never made twice.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from uniconv_bench import locks
from uniconv_bench.errors import UserError
from uniconv_bench.files import (
    TEMPORARY,
    cache_dir,
    digest_of,
    digest_of_file,
    digest_once,
    settle,
    write_json,
)
from uniconv_bench.seals import (
    ALONE,
    PARTIAL,
    UNFINISHED,
    drop_rotten,
    is_as_sealed,
    make_anew,
    unlike_seals,
)

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
    other process gets it meanwhile. What in it ends in `.partial` is thrown away in the end.

    Args:
        anew: make it even if it was there before; what another process made meanwhile will do.
    """
    if not anew and open_artefact(folder) is not None:
        yield None
        return
    with locks.held(folder) as waited:
        if (waited or not anew) and _verified(folder) is not None:
            yield None
            return
        working = _working(folder)
        # A process may have completed it and been killed right then.
        if (working / MANIFEST).exists() and _is_still_whole(working):
            _put(working, folder)
            yield None
            return
        yield _working(folder)
        _complete(working, fingerprint)
        _put(working, folder)


def make_together(
    folder: Path, fingerprint: Mapping[str, Any], work: Callable[[Path], None]
) -> None:
    """Makes an artefact that any number of processes may work on at once, if it is not there.

    Args:
        work: called with the working folder; does what no other process does (see `locks.Claims`),
            and returns when all of it is there, by whomever.
    """
    if open_artefact(folder) is not None:
        return
    with locks.held(folder, shared=True):
        if not folder.exists():
            working = _working(folder)
            drop_rotten(working)
            work(working)
    with missing_artefact(folder, fingerprint) as left:
        if left is not None:
            work(left)  # nothing is left of it, unless it was thrown away between the locks


def check_unfinished(working: Path) -> None:
    """Refuses a working folder in which a finished file is not what it was.

    Raises:
        UserError: names the first.
    """
    if (working / MANIFEST).exists():
        _, expected = _manifest(working)
        if rotten := next(_rotten(working, expected, deep=True), None):
            raise UserError(UNFINISHED, where=rotten, mend=ALONE)
    for path in unlike_seals(working):
        raise UserError(UNFINISHED, where=path, mend=ALONE)


def _working(folder: Path) -> Path:
    working = folder.with_name(f"{folder.name}{PARTIAL}")
    working.mkdir(parents=True, exist_ok=True)
    return working


def _complete(working: Path, fingerprint: Mapping[str, Any]) -> None:
    """Writes the manifest, once all that it names is on disk."""
    files = {}
    for path in sorted(working.rglob("*")):
        inside = path.relative_to(working)
        if path.is_file() and not any(map(_is_left_over, inside.parts)):
            settle(path)
            sha256 = digest_of_file(path)
            if not is_as_sealed(path, sha256):
                path.unlink()
                raise UserError(f"{UNFINISHED}, removed", where=path, mend=ALONE)
            files[inside.as_posix()] = {"sha256": sha256, "bytes": path.stat().st_size}
    content = {"fingerprint": dict(fingerprint), "files": files}
    write_json(working / MANIFEST, {**content, "digest": digest_of(content)})


def _is_still_whole(working: Path) -> bool:
    """Whether what lay there complete, for however long, still is; what rotted is removed."""
    try:
        _, expected = _manifest(working)
    except UserError:
        _clear(_aside(working))  # nothing else vouches for what is in it
        return False
    rotten = list(_rotten(working, expected, deep=True))
    if rotten:
        (working / MANIFEST).unlink()
    for path in rotten:
        make_anew(path)
    return not rotten


def _is_left_over(name: str) -> bool:
    """Whether something in a working folder is scaffolding, or of a process that was killed."""
    return name.endswith(PARTIAL) or TEMPORARY.fullmatch(name) is not None


def _put(working: Path, folder: Path) -> None:
    """Moves a complete working folder to its place; every step of it can be the last."""
    for path in sorted(working.rglob("*"), reverse=True):
        if _is_left_over(path.name):
            _remove(path)
    if folder.exists():
        doomed = _aside(folder)
        working.replace(folder)
        _clear(doomed)
    else:
        working.replace(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside(folder: Path) -> Path:
    """Has an artefact vanish at once, so that nobody finds half of it."""
    made = tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=PARTIAL)
    return folder.replace(made)


def _clear(doomed: Path) -> None:
    shutil.rmtree(doomed, ignore_errors=True)  # `cache prune` may be at it too


def open_artefact(folder: Path, *, deep: bool = False) -> dict[str, Any] | None:
    """The fingerprint of a complete artefact after checking every file's digest, or None if absent.

    Waits for a process that is making it just now.

    Args:
        deep: read every file, be it known since when it has not been written to or not.

    Raises:
        UserError: a file is missing or its bytes changed since it was written.
    """
    if not folder.exists():
        locks.wait_for(folder)
    return _verified(folder, deep=deep)


def _verified(folder: Path, *, deep: bool = False) -> dict[str, Any] | None:
    if not folder.exists():
        return None
    try:
        fingerprint, expected = _manifest(folder)
        if rotten := next(_rotten(folder, expected, deep=deep), None):
            raise UserError("corrupted cache file", where=rotten, mend=_anew(folder))
    except (UserError, OSError):
        if folder.exists():
            raise
        return None  # thrown away meanwhile, which is no rot
    with suppress(OSError):  # a cache that is only read
        os.utime(folder)  # when it was last used; the manifest's time is when it was made
    return fingerprint


def fingerprint_of(folder: Path) -> dict[str, Any]:
    """What an artefact says it is; raises UserError if that is not as it was written."""
    return _manifest(folder)[0]


def _manifest(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The fingerprint of an artefact and the sha256 of each of its files."""
    manifest = folder / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        fingerprint, files = dict(content["fingerprint"]), dict(content["files"])
        expected = {name: str(entry["sha256"]) for name, entry in files.items()}
        # Those written before manifests vouched for themselves have no digest.
        digest = content.pop("digest", None)
        whole = len(content) == 2 and digest in (None, digest_of(content))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        what = "corrupted cache: unreadable manifest"
        raise UserError(what, where=manifest, mend=_anew(folder)) from error
    if not whole:
        what = "corrupted cache: changed manifest"
        raise UserError(what, where=manifest, mend=_anew(folder))
    return fingerprint, expected


def _anew(folder: Path) -> str:
    return f"delete the folder {folder} and run again: it will be made anew"


def _rotten(folder: Path, expected: Mapping[str, str], *, deep: bool) -> Iterator[Path]:
    """Files that are gone or have another digest."""
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file() or not _is(path, sha256, deep):
            yield path


def _is(path: Path, sha256: str, deep: bool) -> bool:
    """Whether a file has a digest; what is remembered of a large one may itself be broken."""
    return (not deep and digest_once(path) == sha256) or digest_of_file(path) == sha256


def hold(folder: Path) -> locks.Hold | None:
    """Keeps other processes from throwing an artefact away while what is returned lives.

    None: it is not there, or has just been thrown away.
    """
    try:
        return locks.Hold(folder, folder / MANIFEST)
    except FileNotFoundError:
        return None


def is_held(folder: Path) -> bool:
    """Whether some process makes or uses an artefact."""
    return locks.is_held(_final(folder), folder / MANIFEST)


def throw_away(folder: Path) -> bool:
    """Removes an artefact, or what a process that is gone left of one; not one that is held."""
    with locks.free(_final(folder), folder / MANIFEST) as free:
        if not free or not folder.exists():
            return False
        doomed = _aside(folder)
    _clear(doomed)
    return True


def _final(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix(PARTIAL))
