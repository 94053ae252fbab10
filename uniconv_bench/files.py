"""Where files live and how they are written: the cache folder, atomic writes, digests, artefacts.

Knows nothing of tasks, systems or scores. An *artefact* is a cache folder with a manifest that
names the full fingerprint of what is in it and the sha256 of every file; it is written beside its
final place and renamed whole, so a folder that exists is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from uniconv_bench.errors import UserError

try:
    import fcntl
except ImportError:  # a platform without it has no locks
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
CACHE = "UNICONV_BENCH_CACHE"
LAYOUT = "compare the file with the layout shown at the top of the task's module"
T = TypeVar("T")


def cache_dir() -> Path:
    """The cache root: `$UNICONV_BENCH_CACHE`, else `uniconv-bench` in the user's cache folder."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "uniconv-bench"


def require_writable(folder: Path, option: str) -> None:
    """Makes a folder if it is not there.

    Raises:
        UserError: nothing can be written there; names the option that chose the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        mend = f"point {option} to a folder that can be written"
        raise UserError(f"cannot be written: {error.strerror}", where=folder, mend=mend) from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_code(*modules: str) -> str:
    """sha256 over the source of modules of this package, as `prompts` or `uniconv/losses`.

    Part of every cache fingerprint: an edited module never serves results of its former self.
    """
    root = Path(__file__).parent
    return digest_of({m: digest_of_file(root / f"{m}.py") for m in sorted(modules)})


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary neighbour of `path` and renames it onto `path` once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> Path:
    """Writes indented JSON atomically."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
    return path


def read_json(path: Path) -> Any:
    """Reads JSON; a UserError names the file and line if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark
    except FileNotFoundError as error:
        raise UserError("no such file", where=path) from error
    except ValueError as error:
        raise UserError(f"not valid JSON: {_fault(error)}", where=path) from error
    except RecursionError as error:
        raise UserError("not valid JSON: nested too deep", where=path) from error


def _fault(error: ValueError) -> str:
    """What JSON's and TOML's readers mean; of an endless number they only give Python's advice."""
    endless = type(error) is ValueError
    return "a number of thousands of digits" if endless else str(error)


def write_jsonl(path: Path, rows: Iterator[Any] | list[Any]) -> Path:
    """Writes one compact JSON value a line, atomically."""
    with atomic_write(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every non-blank line; a UserError names a broken line."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        # A broken line's own "line 1" would only mislead.
                        what = f"not valid JSON: {_fault(error).partition(': line ')[0]}"
                        raise UserError(what, where=f"{path}, line {number}") from error
                    except RecursionError as error:
                        what = "not valid JSON: nested too deep"
                        raise UserError(what, where=f"{path}, line {number}") from error
    except FileNotFoundError as error:
        raise UserError("no such file", where=path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not valid UTF-8: {error.reason}", where=path) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; a UserError names file and line of what is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=path) from error
    except IsADirectoryError as error:
        raise UserError("a folder, not a file", where=path, mend="name the .toml file") from error
    except ValueError as error:
        raise UserError(f"not valid TOML: {_fault(error)}", where=path) from error
    except RecursionError as error:
        raise UserError("not valid TOML: nested too deep", where=path) from error


def folder_of(stage: str, name: str, fingerprint: Mapping[str, Any]) -> Path:
    """Where the cache keeps the artefact of a stage with this fingerprint."""
    return cache_dir() / stage / f"{name}-{digest_of(fingerprint)[:16]}"


@contextmanager
def new_artefact(folder: Path, fingerprint: Mapping[str, Any]) -> Iterator[Path]:
    """Yields a working folder; when the block ends well it becomes the artefact `folder`.

    The working folder `<folder>.partial` outlives an interruption, so that a stage can go on with
    what is already in it; files it holds are the stage's own affair until then. No other process
    gets it meanwhile.
    """
    with _alone(folder) as waited:
        working = _working(folder)
        yield working
        if waited and folder.exists():  # made by the process waited for, and perhaps in use by now
            shutil.rmtree(working)
        else:
            _complete(working, folder, fingerprint)


@contextmanager
def missing_artefact(
    folder: Path, fingerprint: Mapping[str, Any], *, anew: bool = False
) -> Iterator[Path | None]:
    """As `new_artefact`, but yields None where the artefact is there, made by whomever.

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
        if not path.is_file() or digest_of_file(path) != sha256:
            raise UserError("corrupted cache file", where=path, mend=mend)
    return fingerprint


COMPARE = "compare the file with the layout shown at the top of the task's module"


def field(record: Any, name: str, kind: type[T], where: str | Path) -> T:
    """`record[name]`, checked to be of a type; a UserError names the place and the field."""
    if not isinstance(record, dict):
        raise UserError(f"not an object but {type(record).__name__}", where=where, mend=COMPARE)
    if name not in record:
        raise UserError(f"field {name} is missing", where=where, mend=COMPARE)
    value = record[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        what = f"field {name} is {type(value).__name__}, not {kind.__name__}"
        raise UserError(what, where=where, mend=COMPARE)
    return value


def texts(record: Any, name: str, where: str | Path) -> list[str]:
    """`record[name]`, checked to be a list of strings."""
    values = field(record, name, list, where)
    for value in values:
        if not isinstance(value, str):
            what = f"field {name} holds {type(value).__name__}, not str"
            raise UserError(what, where=where, mend=COMPARE)
    return values
