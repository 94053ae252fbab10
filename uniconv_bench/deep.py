"""Everything that carries a digest, read: what rotted on disk, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from uniconv_bench.artefacts import PARTIAL, check_unfinished, open_artefact
from uniconv_bench.bundles import MANIFEST, Manifest
from uniconv_bench.doctor import Check
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of_file
from uniconv_bench.inventory import holdings
from uniconv_bench.outcomes import OUTCOME, read_outcome
from uniconv_bench.records import STUDIES, read_record
from uniconv_bench.registry import adapter_folders
from uniconv_bench.turnscores import read_scores, scores_path

Look = Callable[[], object]
"""Reads something whole; raises UserError if it is not what was written."""


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
            try:
                look()
                whole += 1
            except UserError as error:
                broken += 1
                detail = f"{error.what} ({error.where})"
                yield Check(f"broken, {place}", "missing", detail, error.mend or "", needed=True)
        yield Check(f"digests, {place}", "ok", f"{whole} of {whole + broken} as they were written")


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
        if path.is_dir() and not (path / "manifest.json").exists():
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
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        yield partial(_bundle, path)


def _bundle(path: Path) -> None:
    mend = "get the bundle again, or pack it anew"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError("unreadable manifest", where=path, mend=mend) from error
    for name, sha256 in manifest.files.items():
        file = path.parent / name
        if not file.is_file() or digest_of_file(file) != sha256:
            raise UserError("not the file that its manifest names", where=file, mend=mend)
