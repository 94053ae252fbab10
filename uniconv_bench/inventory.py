"""What the cache holds, what uses what, what came nearest to what is missing, and what may go."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uniconv_bench.artefacts import MANIFEST, is_held, throw_away
from uniconv_bench.files import cache_dir, differences, digest_of
from uniconv_bench.seals import PARTIAL

NAMED = re.compile(rf".+-[0-9a-f]{{16}}|.+{re.escape(PARTIAL)}")
"""Folders of artefacts, whatever is left in them."""
State = Literal["whole", "unfinished", "in use", "other"]


@dataclass(frozen=True, slots=True)
class Holding:
    """One folder of the cache.

    Attributes:
        folder: where it is.
        bytes: of its files.
        used: when it was last made or opened, in seconds since the epoch.
        state: `unfinished` was left by a process that is gone; `in use` is held by one that is
            not; `other` is no artefact, and stays.
        used_by: names of artefacts that were made from it.
    """

    folder: Path
    bytes: int
    used: float
    state: State
    used_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`<stage>/<folder>`."""
        return _name(self.folder)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        told = {"name": self.name, "bytes": self.bytes, "used": round(self.used)}
        return {**told, "state": self.state, "used_by": list(self.used_by)}


def holdings() -> list[Holding]:
    """All there is, the largest first."""
    root = cache_dir()
    stages = list(root.iterdir()) if root.exists() else []
    manifests = {path.parent: _manifest(path) for path in cache_dir().glob(f"*/*/{MANIFEST}")}
    used_by = _used_by({f: m for f, m in manifests.items() if not f.name.endswith(PARTIAL)})
    found = [
        _holding(folder, used_by.get(folder, ()))
        for stage in stages
        if stage.is_dir()
        for folder in (_artefacts(stage) or [stage])
    ]
    there = [one for one in found if one is not None]
    return sorted(there, key=lambda one: (-one.bytes, one.name))


def to_prune(
    found: Sequence[Holding],
    *,
    keep: int | None,
    unused: float | None,
    unfinished: bool,
    now: float,
    broken: Collection[Path] = (),
) -> list[Holding]:
    """What goes, never anything that a process holds.

    Args:
        found: all holdings.
        keep: bytes that may stay; what was used longest ago goes first, adapters, which cost most,
            last.
        unused: seconds after which what nobody opened goes.
        unfinished: whether leftovers of processes that are gone go.
        now: seconds since the epoch.
        broken: folders that go, as something in them is not what was written.
    """
    free = [one for one in found if one.state in ("whole", "unfinished")]
    going = [
        one
        for one in free
        if one.folder in broken
        or (unfinished and one.state == "unfinished")
        or (unused is not None and now - one.used > unused)
    ]
    left = sum(one.bytes for one in found) - sum(one.bytes for one in going)
    for one in sorted(free, key=lambda one: (one.folder.parent.name == "adapters", one.used)):
        if keep is None or left <= keep:
            break
        if one not in going:
            going.append(one)
            left -= one.bytes
    return going


def prune(going: Sequence[Holding]) -> list[Holding]:
    """Removes holdings; those that were free to go."""
    return [one for one in going if throw_away(one.folder)]


def nearest(
    folder: Path, fingerprint: Mapping[str, Any]
) -> tuple[Path, list[tuple[str, str, str]]] | None:
    """The artefact that differs in the fewest fields from one that is not there, and these fields.

    Args:
        folder: where the missing one would be; its neighbours of the same name are looked at.
        fingerprint: what it would have.
    """
    name = folder.name.rpartition("-")[0]
    found = [
        (path.parent, differences(_manifest(path)["fingerprint"], fingerprint))
        for path in sorted(folder.parent.glob(f"{name}-*/{MANIFEST}"))
        if path.parent.name.rpartition("-")[0] == name
    ]
    return min(found, key=lambda one: len(one[1]), default=None)


def _name(folder: Path) -> str:
    return folder.relative_to(cache_dir()).as_posix()


def _artefacts(stage: Path) -> list[Path]:
    return [
        folder
        for folder in stage.iterdir()
        if folder.is_dir() and ((folder / MANIFEST).is_file() or NAMED.fullmatch(folder.name))
    ]


def _holding(folder: Path, used_by: tuple[str, ...]) -> Holding | None:
    """None: a process has renamed or removed it meanwhile."""
    try:
        used = folder.stat().st_mtime
    except FileNotFoundError:
        return None
    if folder.parent == cache_dir():
        state: State = "other"
    elif is_held(folder):
        state = "in use"
    else:
        state = "whole" if _is_whole(folder) else "unfinished"
    return Holding(folder, _size(folder), used, state, used_by)


def _is_whole(folder: Path) -> bool:
    return not folder.name.endswith(PARTIAL) and (folder / MANIFEST).is_file()


def _size(folder: Path) -> int:
    """Bytes of its files; processes may be at work there."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(parent, name).lstat().st_size
    return size


def _manifest(path: Path) -> dict[str, Any]:
    """What a manifest says; nothing if it is broken, which whoever opens the artefact is told."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"fingerprint": dict(content["fingerprint"]), "files": dict(content["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"fingerprint": {}, "files": {}}


def _used_by(manifests: Mapping[Path, Mapping[str, Any]]) -> dict[Path, tuple[str, ...]]:
    """Artefact -> names of those whose fingerprints name it, by whatever they name it."""
    named = {folder: set(_strings(m["fingerprint"])) for folder, m in manifests.items()}
    return {
        folder: tuple(
            sorted(
                _name(other)
                for other in manifests
                if other != folder
                and (
                    not named[other].isdisjoint(_marks(folder, manifest))
                    or _embeds(manifest["fingerprint"], manifests[other]["fingerprint"])
                )
            )
        )
        for folder, manifest in manifests.items()
    }


def _marks(folder: Path, manifest: Mapping[str, Any]) -> set[str]:
    """How fingerprints name an artefact: by its folder, a file's digest, or the data's digest."""
    digests = {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
    data = {name: sha256 for name, sha256 in digests.items() if not name.startswith("passages/")}
    return {folder.name, digest_of(data), *digests.values()}


def _embeds(embeddings: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a ranking or an index is of these embeddings, which it describes field by field."""
    if "corpus" not in embeddings:
        return False
    if other.get("embeddings") == embeddings:
        return True
    part = other.get("part", {})
    return all(part.get(name) == value for name, value in embeddings.items() if name != "corpus")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
