"""How files are read and written: the cache folder, atomic writes, strict readers, digests.

Knows nothing of tasks, systems or scores.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from uniconv_bench.errors import UserError

CACHE = "UNICONV_BENCH_CACHE"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What writing says that finds no room."""
GONE = "something has removed it from the cache: run it again"
COMPARE = "compare the file with the layout shown at the top of the task's module"
LARGE = 1 << 24
"""Bytes from which a file's digest is worth keeping: some hundredths of a second's reading."""
DAY = 86_400
"""Seconds for which such a digest is believed: a disk that goes bad changes no time."""
SETTLED_NS = 2_000_000_000
TEMPORARY = re.compile(r"\..+\.\w+\.tmp")
"""Names of what `atomic_write` has not renamed yet, or never will if its process was killed."""
T = TypeVar("T")


def cache_dir() -> Path:
    """The cache root: `$UNICONV_BENCH_CACHE`, else `uniconv-bench` in the user's cache folder."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "uniconv-bench"


def is_cached(path: Path) -> bool:
    """Whether it is in the cache; where a user without a home has no cache, nothing is."""
    try:
        return cache_dir() in path.absolute().parents
    except RuntimeError:
        return False


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


def require_folder(folder: Path, option: str) -> None:
    """Refuses what is no folder, telling a file from what is not there at all.

    Raises:
        UserError: names the option that chose it.
    """
    if not folder.is_dir():
        what = "a file, not a folder" if folder.is_file() else "no such folder"
        raise UserError(what, where=folder, mend=f"point {option} to a folder that is there")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


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


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        try:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:  # of a disk that goes bad; the system's own names no file
            raise OSError(error.errno, error.strerror, str(path)) from error


def digest_once(path: Path) -> str:
    """As `digest_of_file`, but a large file that stays what it is, is read once a day.

    Its digest is kept in the cache under path, size, inode and times. The system sets one of the
    times whenever bytes or name change, and no program can set it otherwise.
    """
    facts = path.stat()
    if facts.st_size < LARGE:
        return digest_of_file(path)
    state = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    kept = cache_dir() / "digests" / f"{_name_of(path)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["state"] == state and abs(time.time() - kept.stat().st_mtime) < DAY:
            return str(known["sha256"])
    sha256 = digest_of_file(path)
    # Written to just now, it could be written to again within one tick of the file system's clock.
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > SETTLED_NS:
        with suppress(OSError, ValueError):  # only a saving of time; a path may be no text
            write_json(kept, {"path": str(path.absolute()), "state": state, "sha256": sha256})
    return sha256


def _name_of(path: Path) -> str:
    """A name for what is kept of a file, whatever bytes its path is of."""
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]


def digest_of_code(*modules: str) -> str:
    """sha256 over the source of modules of this package, as `prompts` or `uniconv/losses`.

    Part of every cache fingerprint: an edited module never serves results of its former self.
    """
    root = Path(__file__).parent
    return digest_of({m: digest_of_file(root / f"{m}.py") for m in sorted(modules)})


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary neighbour of `path` and renames it onto `path` once all is written."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        error.filename = str(path)  # what a person knows of
        raise
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno in NO_ROOM:
            error.filename = str(path)
        raise


def settle(path: Path) -> None:
    """Waits until a file's bytes would outlive the machine's going down."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def write_json(path: Path, value: Any) -> Path:
    """Writes indented JSON atomically."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
    return path


def _absent(path: Path) -> UserError:
    return UserError("no such file", where=path, mend=GONE if is_cached(path) else None)


def read_json(path: Path) -> Any:
    """Reads JSON; a UserError names the file and line if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark
    except FileNotFoundError as error:
        raise _absent(path) from error
    except ValueError as error:
        raise UserError(f"not valid JSON: {_fault(error)}", where=path) from error
    except RecursionError as error:
        raise UserError("not valid JSON: nested too deep", where=path) from error


def _fault(error: ValueError) -> str:
    """What JSON's and TOML's readers mean; of an endless number they only give Python's advice."""
    if isinstance(error, UnicodeDecodeError):
        return f"no text in UTF-8, from byte {error.start + 1:,} on"
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
        raise _absent(path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not valid UTF-8: {error.reason}", where=path) from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; a UserError names file and line of what is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise _absent(path) from error
    except IsADirectoryError as error:
        raise UserError("a folder, not a file", where=path, mend="name the .toml file") from error
    except ValueError as error:
        raise UserError(f"not valid TOML: {_fault(error)}", where=path) from error
    except RecursionError as error:
        raise UserError("not valid TOML: nested too deep", where=path) from error


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
