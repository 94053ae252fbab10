"""Everything that carries a digest, read: what rotted on disk, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from uniconv_bench import bundles
from uniconv_bench.artefacts import MANIFEST, PARTIAL, check_unfinished, open_artefact
from uniconv_bench.doctor import Check
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of_file
from uniconv_bench.inventory import holdings
from uniconv_bench.outcomes import OUTCOME, read_outcome
from uniconv_bench.records import STUDIES, read_record
from uniconv_bench.registry import adapter_folders
from uniconv_bench.turnscores import read_scores, scores_path

Look = Callable[[], object]
"""Reads something whole; raises UserError if it is not what was written, OSError if it cannot."""


def read_all(results: Path, submissions: Path) -> Iterator[Check]:
    """A check for everything that is broken, and one that says how much was read.

    Args:
        results: folder of records and of what studies found; need not be there.
        submissions: folder of bundles; likewise.
    """
    read = {"in the cache": _cached(), "shipped": _shipped()}
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
            yield Check(f"broken, {place}", "missing", detail, error.mend or "", needed=True)
        yield Check(f"digests, {place}", "ok", f"{whole} of {whole + broken} as they were written")


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


def _cached() -> Iterator[Look]:
    from uniconv_bench.uniconv.checkpoint import CHECKPOINT, check

    for one in holdings():
        if one.state == "other":
            continue
        if not one.folder.name.endswith(PARTIAL):
            yield partial(open_artefact, one.folder, deep=True)
        elif one.state == "unfinished":
            yield partial(check_unfinished, one.folder)
            if (one.folder / CHECKPOINT).exists():
                yield partial(check, one.folder / CHECKPOINT)
    folder = cache_dir()
    for path in folder.glob(f"*/*-{'[0-9a-f]' * 16}"):
        if path.is_dir() and not (path / MANIFEST).exists():
            yield partial(open_artefact, path)


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
