"""The raw files of one task in the cache: which are there, whether they are whole, getting one.

The raw folder holds what the task's reader expects and nothing else; what is known about its
files, and unfinished downloads, stand in a folder beside it.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from uniconv_bench.cards import Source, TaskCard
from uniconv_bench.download import Patience, download, memo_of
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of_file, read_json, write_json
from uniconv_bench.system import Progress
from uniconv_bench.unpack import unpack

State = Literal["there", "partial", "to fetch", "by hand"]
EXPANSION = 4
"""Bytes of text in a packed byte, for estimates: English text packs to a quarter or so."""


@dataclass(frozen=True, slots=True)
class Line:
    """One raw file, or archive, of a plan.

    Attributes:
        file: path in the raw folder.
        origin: address, or how a person gets it.
        state: whether it is there.
        bytes: size of the download; None: unknown.
        exact: whether that is more than a rounded figure.
        done: bytes of it that are there.
        text: bytes of raw text that it comes to, estimated for what is packed.
    """

    file: str
    origin: str
    state: State
    bytes: int | None
    exact: bool
    done: int
    text: int

    @property
    def name(self) -> str:
        """For people: an archive of several files has the name that it is downloaded by."""
        return self.file if self.file != "." else urlsplit(self.origin).path.rpartition("/")[2]

    @property
    def room(self) -> int:
        """Bytes of disk that it still takes: the download, and its contents if they are packed."""
        if self.state == "there" or self.bytes is None:
            return 0
        return self.bytes - self.done + (self.text if self.text > self.bytes else 0)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        named = {"file": self.file, "from": self.origin, "state": self.state}
        return {**named, "bytes": self.bytes, "exact": self.exact, "done": self.done}

    def to_row(self) -> dict[str, str]:
        """For people."""
        from rich.filesize import decimal

        size = "unknown" if self.bytes is None else decimal(self.bytes)
        part = f", {100 * self.done // self.bytes} %" if self.bytes else f", {decimal(self.done)}"
        return {
            "file": self.name,
            "from": urlsplit(self.origin).hostname or self.origin,
            "bytes": size if self.exact or self.bytes is None else f"about {size}",
            "state": self.state + (part if self.state == "partial" else ""),
        }


class RawFiles:
    """The raw files of one task in the cache, and what is known about them."""

    def __init__(self, card: TaskCard):
        root = cache_dir() / "raw" / card.name
        self.card, self.files, self.facts = card, root / "files", root / "facts"
        self.consent = self.facts / "accepted-licence.json"

    def terms(self) -> dict[str, str]:
        """What a person accepts; other words have to be accepted anew."""
        return {"licence": self.card.licence, "terms": self.card.licence_terms}

    def accepted(self) -> bool:
        """Whether nobody has to accept anything, or somebody did."""
        if self.card.licence_terms == "open":
            return True
        return self.consent.exists() and self.terms().items() <= read_json(self.consent).items()

    def beside(self, source: Source, suffix: str) -> Path:
        """`json`: what is known of it; `part`: its unfinished download; `unpacked`: in between."""
        name = "root" if source.file == "." else quote(source.file, safe="")
        return self.facts / f"{name}.{suffix}"

    def record(self, source: Source) -> dict[str, Any] | None:
        """What was noted when the source was fetched, if it was this very source."""
        path = self.beside(source, "json")
        found: dict[str, Any] = read_json(path) if path.exists() else {}
        return found if found.get("url") == source.url and found else None

    def line(self, source: Source) -> Line:
        """A source as it stands now."""
        record = self.record(source)
        size = source.bytes or source.about_bytes
        exact, done = source.bytes is not None, 0
        state: State = "to fetch"
        text = (size or 0) * (EXPANSION if source.unpack else 1)
        path = self.files / source.file
        if record and record["checksum"] == source.checksum and self.is_whole(record):
            state, exact, size = "there", True, record["download"]["bytes"]
            done, text = size, sum(entry["bytes"] for entry in record["files"].values())
        elif not self.beside(source, "json").exists() and self.put_there(source):
            state, exact, size = "there", True, sum(p.stat().st_size for p in files_of(path))
            done = text = size
        elif source.manual:
            state = "by hand"
        elif (part := self.beside(source, "part")).exists() and memo_of(part).exists():
            memo = read_json(memo_of(part))
            if memo["url"] == source.url:
                state, done = "partial", part.stat().st_size
                exact = exact or memo["total"] is not None
                size = memo["total"] or size
        origin = source.url or source.manual or ""
        return Line(source.file, origin, state, size, exact, done, text)

    def is_whole(self, record: dict[str, Any]) -> bool:
        """Whether every file of a source is there, whatever is in it."""
        return all((self.files / name).is_file() for name in record["files"])

    def put_there(self, source: Source) -> bool:
        """Whether a person put a file (a folder, if got by hand) there; not for archives."""
        path = self.files / source.file
        if source.unpack in ("zip", "tar.gz"):
            return False
        return path.is_file() or (source.manual is not None and any(files_of(path)))

    def check(self, source: Source, progress: Progress) -> None:
        """Reads all files of a source: they are what they were when they came."""
        record = self.record(source)
        if record is None:
            self.adopt(source, progress)
            return
        note = self.beside(source, "json")
        self.beside(source, "part").unlink(missing_ok=True)
        total = sum(entry["bytes"] for entry in record["files"].values())
        with progress.track(f"check {self.line(source).name}", total, "B") as advance:
            for name, entry in record["files"].items():
                path = self.files / name
                if path.stat().st_size != entry["bytes"] or digest_of_file(path) != entry["sha256"]:
                    mend = "delete it and run again: it will be fetched anew"
                    if source.manual:
                        mend = f"put the right one there, or delete {note} if this is the right one"
                    raise UserError("corrupted raw file in the cache", where=path, mend=mend)
                advance(entry["bytes"])

    def adopt(self, source: Source, progress: Progress) -> None:
        """Takes what a person put there: checked where a digest is published, else trusted."""
        path = self.files / source.file
        found: dict[str, dict[str, Any]] = {
            p.relative_to(self.files).as_posix(): {
                "sha256": digest_of_file(p),
                "bytes": p.stat().st_size,
            }
            for p in files_of(path)
        }
        if source.checksum and not source.unpack:
            digest = _digest(path, source.checksum.partition(":")[0])
            if digest != source.checksum:
                what = f"wrong checksum: {digest} instead of {source.checksum}"
                raise UserError(what, where=path, mend="delete it and run again")
        else:
            progress.note(f"  {source.file}: put there by hand, no checksum to hold it against")
        size = sum(entry["bytes"] for entry in found.values())
        self.keep(source, found, {"bytes": size})

    def keep(self, source: Source, files: dict[str, Any], got: dict[str, Any]) -> None:
        """Notes what came, so that a later check finds what has changed."""
        today = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"url": source.url, "checksum": source.checksum, "since": today}
        write_json(self.beside(source, "json"), {**facts, "download": got, "files": files})

    def get(self, source: Source, progress: Progress, patience: Patience) -> None:
        """Downloads a source, checks it and puts it in its place."""
        assert source.url is not None
        part, target = self.beside(source, "part"), self.files / source.file
        record = self.record(source)
        # Without a published digest, what came first is what has to come again.
        first = record["download"].get("sha256") if record else None
        trusted = source.checksum or (f"sha256:{first}" if first else None)
        by_hand = f"get it by hand and put it at {target}"
        if source.unpack in ("zip", "tar.gz"):
            by_hand = "get and unpack it by hand and pass --data-dir"
        if first and not source.checksum:
            by_hand = f"delete {self.beside(source, 'json')} to trust the new file"
        got = download(
            source.url,
            part,
            size=source.bytes,
            checksum=trusted,
            by_hand=by_hand,
            progress=progress,
            patience=patience,
        )
        if trusted is None:
            kept = f"sha256 {got['sha256']} is kept, and a later download must agree"
            progress.note(f"  {self.line(source).name}: no checksum is published; {kept}")
        if source.unpack is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            entry = {key: got[key] for key in ("sha256", "bytes")}
            self.keep(source, {source.file: entry}, got)
        else:
            self.keep(source, self.unpacked(source, part, progress), got)
            part.unlink()
        memo_of(part).unlink(missing_ok=True)

    def unpacked(self, source: Source, part: Path, progress: Progress) -> dict[str, Any]:
        """Unpacks aside, then moves the files to their places, so that none is half written."""
        assert source.unpack is not None
        aside = self.beside(source, "unpacked")
        shutil.rmtree(aside, ignore_errors=True)
        path = Path(source.file)
        into = path.parent if source.unpack == "gzip" else path
        try:
            members = unpack(part, source.unpack, aside, path.name or self.card.name, progress)
        except UserError:
            # A damaged archive is fetched again; one with a checksum is as its owner made it.
            part.unlink(missing_ok=True)
            memo_of(part).unlink(missing_ok=True)
            raise
        finally_at = {name: (into / name).as_posix() for name in members}
        for name, place in finally_at.items():
            target = self.files / place
            target.parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(target)
        shutil.rmtree(aside)
        return {place: members[name] for name, place in finally_at.items()}


def files_of(path: Path) -> list[Path]:
    """A file itself, or all files below a folder, in order."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file())


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
