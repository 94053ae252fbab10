"""Everything that carries a digest, read: what rotted on disk, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from uniconv_bench import bundles
from uniconv_bench.artefacts import check_unfinished, open_artefact
from uniconv_bench.doctor import Check
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_file
from uniconv_bench.inventory import holdings
from uniconv_bench.outcomes import OUTCOME, read_outcome
from uniconv_bench.records import STUDIES, read_record
from uniconv_bench.registry import adapter_folders
from uniconv_bench.seals import PARTIAL
from uniconv_bench.turnscores import read_scores, scores_path

CACHED = "in the cache"
ALL_AT_ONCE = "uniconv-bench cache prune --broken removes all of these, and a run makes them anew"
Look = Callable[[], object]
"""Reads something whole; raises UserError if it is not what was written, OSError if it cannot."""


def read_all(results: Path, submissions: Path) -> Iterator[Check]:
    """A check for everything that is broken, and one that says how much was read.

    Args:
        results: folder of records and of what studies found; need not be there.
        submissions: folder of bundles; likewise.
    """
    read = {CACHED: (look for _, look in _cached()), "shipped": _shipped()}
    read |= {"results": _results(results), "submissions": _bundles(submissions)}
    for place, looks in read.items():
        whole = broken = 0
        for look in looks:
            error = _fault(look)
            if error is None:
                whole += 1
                continue
            broken += 1
            detail = f"{error.what} ({error.where})"
            yield Check(f"file, {place}", "broken", detail, error.mend or "", needed=True)
        told = f"{whole} of {whole + broken} as they were written"
        mend = ALL_AT_ONCE if broken and place == CACHED else ""
        state: Literal["ok", "broken"] = "broken" if broken else "ok"
        yield Check(f"digests, {place}", state, told, mend, needed=bool(broken))


def broken_folders() -> set[Path]:
    """Folders of the cache in which something is not what was written."""
    return {folder for folder, look in _cached() if _fault(look)}


def _fault(look: Look) -> UserError | None:
    """What is wrong with something, so that all else is read too."""
    try:
        look()
    except UserError as error:
        return error
    except OSError as error:
        mend = "see that it can be read, or remove it and make it anew"
        return UserError(error.strerror or str(error), where=error.filename, mend=mend)
    return None


def _cached() -> Iterator[tuple[Path, Look]]:
    """Folder, and what reads it or a part of it."""
    from uniconv_bench.uniconv.checkpoint import CHECKPOINT, OLD, check

    for one in holdings():
        if one.state == "other":
            continue
        if not one.folder.name.endswith(PARTIAL):
            yield one.folder, partial(open_artefact, one.folder, deep=True)
        elif one.state == "unfinished":
            yield one.folder, partial(check_unfinished, one.folder)
            for kept in (CHECKPOINT, OLD):
                if (one.folder / kept).exists():
                    yield one.folder, partial(check, one.folder / kept)


def _shipped() -> Iterator[Look]:
    for root in adapter_folders():
        for folder in sorted(root.glob("*/")):
            yield partial(open_artefact, folder, deep=True)


def _results(folder: Path) -> Iterator[Look]:
    for path in sorted(folder.rglob("*.json")):
        if STUDIES not in path.relative_to(folder).parts:
            yield partial(_record, path)
        elif path.name == OUTCOME:
            yield partial(read_outcome, path)


def _record(path: Path) -> None:
    record = read_record(path)
    if scores_path(path).exists():
        read_scores(record, path)


def _bundles(folder: Path) -> Iterator[Look]:
    for path in sorted(folder.glob(f"*/{bundles.MANIFEST}")):
        yield partial(_bundle, path)


def _bundle(path: Path) -> None:
    mend = "get the bundle again, or pack it anew"
    for name, sha256 in bundles.read_manifest(path).files.items():
        file = path.parent / name
        if not file.is_file() or digest_of_file(file) != sha256:
            raise UserError("not the file that its manifest names", where=file, mend=mend)
