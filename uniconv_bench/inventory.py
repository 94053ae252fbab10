"""What the cache holds, what uses what, what came nearest to what is missing, and what may go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uniconv_bench.artefacts import (
    MANIFEST,
    PARTIAL,
    differences,
    is_held,
    throw_away,
)
from uniconv_bench.files import cache_dir, digest_of

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
    manifests = {path.parent: _manifest(path) for path in cache_dir().glob(f"*/*/{MANIFEST}")}
    used_by = _used_by({f: m for f, m in manifests.items() if not f.name.endswith(PARTIAL)})
    found = [
        _holding(folder, used_by.get(folder, ()))
        for stage in cache_dir().glob("*")
        if stage.is_dir()
        for folder in (_artefacts(stage) or [stage])
    ]
    return sorted(found, key=lambda one: (-one.bytes, one.name))


def to_prune(
    found: Sequence[Holding],
    *,
    keep: int | None,
    unused: float | None,
    unfinished: bool,
    now: float,
) -> list[Holding]:
    """What goes, never anything that a process holds.

    Args:
        found: all holdings.
        keep: bytes that may stay; what was used longest ago goes first, adapters, which cost most,
            last.
        unused: seconds after which what nobody opened goes.
        unfinished: whether leftovers of processes that are gone go.
        now: seconds since the epoch.
    """
    free = [one for one in found if one.state in ("whole", "unfinished")]
    going = [
        one
        for one in free
        if (unfinished and one.state == "unfinished")
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
        if folder.is_dir() and (folder.name.endswith(PARTIAL) or (folder / MANIFEST).is_file())
    ]


def _holding(folder: Path, used_by: tuple[str, ...]) -> Holding:
    facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
    used = folder.stat().st_mtime
    if folder.parent == cache_dir():
        state: State = "other"
    elif is_held(folder):
        state = "in use"
    else:
        state = "unfinished" if folder.name.endswith(PARTIAL) else "whole"
    return Holding(folder, sum(fact.st_size for fact in facts), used, state, used_by)


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
