"""What a bundle of a submission holds, and what can be wrong with its files before they are read.

Knows no task. Trusts nothing in it: no file is unpacked further than it may be large.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json, digest_of_file, read_json, read_toml

CARD, MANIFEST = "card.toml", "manifest.json"
KINDS = {"run": ".run.gz", "answers": ".answers.jsonl.gz", "scores": ".scores.jsonl.gz"}
KINDS |= {"metadata": ".ir-metadata.yml"}
"""What a bundle may hold of a task -> how the file's name ends."""
LARGEST_FILE = 1 << 30
"""Bytes that a run, answer or score file of a bundle may have once unpacked."""
LARGEST_TEXT = 1 << 20
"""Bytes that its card, manifest and metadata may have."""
LONGEST_ROW = 1 << 20
"""Bytes that a line of those files may have."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Claim(_Strict):
    """What a bundle says of one task."""

    data_digest: str
    scores: dict[str, float]
    """Metric -> mean, a fraction."""


class Manifest(_Strict):
    """What a bundle holds and claims."""

    schema_version: int = Field(ge=1, le=1)
    package: str
    files: dict[str, str]
    """File name -> sha256."""
    tasks: dict[str, Claim]


def names_beside(folder: Path) -> dict[str, str]:
    """Name or title of another bundle in the same folder -> whose it is."""
    found = {}
    for path in sorted(folder.resolve().parent.glob("[!.]*/")):
        if path.is_symlink() or path == folder.resolve() or not (path / MANIFEST).is_file():
            continue
        found[path.name] = owner = f"submission {path.name!r}"
        with suppress(UserError, OSError, RecursionError):  # its own check tells of these
            if is_readable(path / CARD):
                found[parse_card(SubmissionCard, read_toml(path / CARD), path).title] = owner
    return found


def is_readable(path: Path) -> bool:
    """Whether a file may be opened: a plain one, and a text no larger than any need be."""
    if path.is_symlink() or not path.is_file():
        return False
    return path.suffix == ".gz" or path.stat().st_size <= LARGEST_TEXT


def scored_files(folder: Path, task: str) -> tuple[Path | None, Path | None]:
    """The run and the answer file of a task that a bundle holds."""
    run, answers = (folder / f"{task}{KINDS[kind]}" for kind in ("run", "answers"))
    return run if run.exists() else None, answers if answers.exists() else None


def check_folder(folder: Path) -> Iterator[str]:
    """What is wrong with a bundle before any file of it is opened."""
    if folder.is_symlink() or not folder.is_dir():
        yield f"{folder} is not a folder"
        return
    names = set()
    for path in sorted(folder.iterdir()):
        names.add(path.name)
        if path.is_symlink():
            yield f"{path.name!r} is a symbolic link; put the file itself into the bundle"
        elif not path.is_file():
            yield f"{path.name!r} is not a plain file"
        elif not is_readable(path):
            yield f"{path.name!r} is larger than {LARGEST_TEXT >> 20} MiB"
    for needed in (CARD, MANIFEST):
        if needed not in names:
            yield f"{needed} is missing"


def read_manifest(path: Path) -> Manifest:
    """A manifest; a UserError names its first wrong field."""
    content = read_json(path)
    try:
        return Manifest.model_validate_json(canonical_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise UserError(f"malformed manifest: {place}: {first['msg']}", where=path) from error


def check_files(folder: Path, card: SubmissionCard, manifest: Manifest) -> Iterator[str]:
    """What is wrong between card, manifest and files, none of which is read for its content."""
    allowed = {CARD, *(f"{task}{end}" for task in card.tasks for end in KINDS.values())}
    names = {path.name for path in folder.iterdir()}
    readable = {name for name in names if is_readable(folder / name)}
    present = readable - {MANIFEST}
    for name in sorted(set(manifest.files) - allowed):
        plain = name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)
        yield f"manifest names {name!r}, " + (
            "which no bundle of these tasks has" if plain else "a path outside the bundle"
        )
    for name in sorted(present - allowed):
        yield f"unknown file {name!r}"
    for name in sorted(present & allowed - set(manifest.files)):
        yield f"{name!r} is not in the manifest"
    for name in sorted(allowed & set(manifest.files)):
        if name not in names:
            yield f"{name!r} is in the manifest but not in the bundle"
        elif name not in readable:
            continue  # of which `check_folder` has told
        elif digest_of_file(folder / name) != manifest.files[name]:
            yield f"{name!r} is not the file that the manifest names (sha256 differs)"
        elif name.endswith(".gz"):
            yield from _check_gzip(folder / name)
    if set(manifest.tasks) != set(card.tasks):
        yield (
            f"manifest has the tasks {', '.join(sorted(manifest.tasks)) or 'none'}, "
            f"the card {', '.join(sorted(card.tasks))}"
        )
    for task in card.tasks:
        if not {f"{task}{KINDS[kind]}" for kind in ("run", "answers")} & names:
            yield f"{task}: neither a run nor answers"
        if f"{task}{KINDS['metadata']}" not in names:
            yield f"{task}{KINDS['metadata']} is missing"


class Unpacked(NamedTuple):
    """What a gzip file holds, as far as it was read."""

    size: int
    lines: int
    longest: int


def unpacked(path: Path) -> Unpacked:
    """Bytes, lines and longest line of a gzip file; reads no further than the limits.

    Raises:
        OSError, EOFError, zlib.error: it is not a whole gzip file.
    """
    size = lines = longest = row = 0
    with gzip.open(path, "rb") as stream:
        while size <= LARGEST_FILE and longest <= LONGEST_ROW and (block := stream.read(1 << 20)):
            size += len(block)
            lines += block.count(b"\n")
            first, *others = block.split(b"\n")
            row += len(first)
            longest = max(longest, row, *map(len, others))
            row = len(others[-1]) if others else row
    return Unpacked(size, lines + bool(row), longest)


def _check_gzip(path: Path) -> Iterator[str]:
    try:
        found = unpacked(path)
    except (OSError, EOFError, zlib.error):
        found = Unpacked(LARGEST_FILE + 1, 0, 0)
    if found.size > LARGEST_FILE:
        yield f"{path.name!r} is no whole gzip file of at most {LARGEST_FILE >> 20} MiB"
    elif found.longest > LONGEST_ROW:
        yield f"{path.name!r} has a line of more than {LONGEST_ROW >> 20} MiB"
