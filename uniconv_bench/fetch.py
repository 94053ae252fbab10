"""What it takes to have a task's raw files, and getting them: licence, disk, time, downloads.

Reads cards, never a dataset's format.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uniconv_bench import locks
from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.download import Patience
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, require_folder, write_json
from uniconv_bench.offline import is_offline
from uniconv_bench.rawfiles import Line, RawFiles, files_of
from uniconv_bench.system import Progress

DOWNLOAD_RATE, READ_RATE = 10_000_000, 30_000_000
"""Bytes a second of a middling line, and of reading, checking and writing raw text; assumed."""
MINI_READINGS, MINI_MEMORY = 3, 1_000_000_000
"""How often profile `mini` goes through a corpus, and the bytes of memory that it was seen to take
for 48,000 turns and a pool of 100,000 passages, however large the corpus is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes to have a task's raw files and to prepare them."""

    card: TaskCard
    profile: Profile
    lines: tuple[Line, ...]
    accepted: bool
    free: int

    @property
    def download(self) -> int:
        """Bytes to fetch, of files whose size is known."""
        waiting = [line for line in self.lines if line.state in ("partial", "to fetch")]
        return sum(line.bytes - line.done for line in waiting if line.bytes is not None)

    @property
    def unknown(self) -> int:
        """Number of files to fetch whose size is not known."""
        return sum(line.state != "there" and line.bytes is None for line in self.lines)

    @property
    def room(self) -> int:
        """Bytes of disk still needed; a reduced corpus takes next to nothing once prepared."""
        prepared = sum(line.text for line in self.lines) if self.profile == "full" else 0
        return sum(line.room for line in self.lines) + prepared

    @property
    def lacking(self) -> int:
        """Bytes of disk that have to be freed first."""
        return max(0, self.room - self.free)

    @property
    def seconds(self) -> float:
        """Time to download and to prepare, at the assumed rates."""
        text = sum(line.text for line in self.lines)
        text *= MINI_READINGS if self.profile == "mini" else 1
        return self.download / DOWNLOAD_RATE + text / READ_RATE

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.card.name,
            "profile": self.profile,
            "licence": self.card.licence,
            "terms": self.card.licence_terms,
            "accepted": self.accepted,
            "files": [line.to_json() for line in self.lines],
            "download_bytes": self.download,
            "unknown_sizes": self.unknown,
            "disk_bytes": self.room,
            "free_bytes": self.free,
            "lacking_bytes": self.lacking,
            "seconds": round(self.seconds),
            "assumed_rates": {"download": DOWNLOAD_RATE, "read": READ_RATE},
        }

    def cost(self) -> str:
        """Disk and time in a sentence; where the card names no source, how to get the files."""
        from rich.filesize import decimal

        if not self.lines:
            return f"{self.card.title} has no direct download; {by_hand(self.card)}"
        if self.unknown and not self.room:
            return (
                f"to get: {self.unknown} files of unknown size; disk and time: unknown; "
                f"{decimal(self.free)} of disk are free"
            )
        unknown = f" and {self.unknown} of unknown size" if self.unknown else ""
        about = "at least" if self.unknown else "about"
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        memory = f"memory: about {decimal(MINI_MEMORY)}; " if self.profile == "mini" else ""
        short = f"NOT ENOUGH, {decimal(self.lacking)} are lacking; " if self.lacking else ""
        return (
            f"to fetch: {decimal(self.download)}{unknown}; disk: {about} {decimal(self.room)} "
            f"more of {decimal(self.free)} free; {short}{memory}time: {about} {minutes}, assuming "
            f"{decimal(DOWNLOAD_RATE)}/s of download and {decimal(READ_RATE)}/s of reading"
        )


def plan(card: TaskCard, profile: Profile, raw: Path | None = None) -> Plan:
    """What it takes to prepare a task, from a folder or from the card's sources; asks no server."""
    store = RawFiles(card)
    if raw is None:
        lines = tuple(store.line(source) for source in card.sources)
    else:
        require_folder(raw, "--data-dir")
        sizes = [(p.relative_to(raw).as_posix(), p.stat().st_size) for p in files_of(raw)]
        lines = tuple(Line(name, str(raw), "there", n, True, n, n) for name, n in sizes)
    there = next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())
    return Plan(card, profile, lines, store.accepted(), shutil.disk_usage(there).free)


def by_hand(card: TaskCard) -> str:
    """How a person gets the files of a card that names no source."""
    return f"get its files from {card.homepage} and name their folder with --data-dir"


def licence_line(card: TaskCard, *, download: bool = False) -> str:
    """What a person may do with a dataset, in one line.

    Args:
        card: the task.
        download: nobody has accepted the terms just now, and the card's sources are needed.
    """
    can = any(source.url for source in card.sources)
    waiting = download and can and not RawFiles(card).accepted()
    needs = "; to download it, add --accept-licence" if waiting else ""
    return f"licence of {card.title} ({card.licence_terms}): {card.licence}; {card.homepage}{needs}"


def fetch(
    card: TaskCard,
    profile: Profile,
    *,
    accept_licence: bool = False,
    progress: Progress,
    patience: Patience | None = None,
) -> Path:
    """The task's raw folder in the cache, complete and checked; fetches what it lacks.

    Args:
        card: names the sources.
        profile: what the files are for; decides how much disk is needed.
        accept_licence: a person accepts terms that are not open; remembered.
        progress: told what is done.
        patience: limits of a download.

    Raises:
        UserError: something is missing that cannot or may not be fetched, or is not what it
            should be; the line says how to get it.
    """
    store = RawFiles(card)
    if not card.sources:
        raise UserError(f"the card of {card.title} names no source", mend=by_hand(card))
    whole = plan(card, profile)
    missing = [line for line in whole.lines if line.state != "there"]
    if missing:
        _allowed(whole, missing, store)
        _consent(card, store, accept_licence)
        _room(whole)
        progress.note(whole.cost())
    with locks.held(store.files):  # two would write into the same unfinished download
        for source in card.sources:
            if store.line(source).state == "there":
                store.check(source, progress)
            else:
                store.get(source, progress, patience or Patience())
    return store.files


def _allowed(whole: Plan, missing: list[Line], store: RawFiles) -> None:
    """Refuses before any work what cannot succeed."""
    title, files = whole.card.title, ", ".join(line.name for line in missing)
    if is_offline():
        what = f"offline, and the cache lacks {len(missing)} raw files of {title}: {files}"
        mend = "run once without --offline, or pass --data-dir FOLDER with the official files"
        raise UserError(what, where=store.files, mend=mend)
    by_hand = [line for line in missing if line.state == "by hand"]
    if by_hand:
        first, *others = by_hand
        what = f"{title} has no direct download for {first.file}"
        rest = f"; likewise {', '.join(line.file for line in others)}" if others else ""
        mend = f"{first.origin}, put it there{rest}, and run again, or pass --data-dir"
        raise UserError(what, where=store.files / first.file, mend=mend)


def _consent(card: TaskCard, store: RawFiles, accept: bool) -> None:
    if store.accepted():
        return
    if not accept:
        what = f"the licence of {card.title} is {card.licence_terms}: {card.licence}"
        mend = "read it, and add --accept-licence if you keep to it"
        raise UserError(what, where=card.homepage, mend=mend)
    today = datetime.now(UTC).date().isoformat()
    write_json(store.consent, {**store.terms(), "homepage": card.homepage, "accepted": today})


def _room(whole: Plan) -> None:
    from rich.filesize import decimal

    if whole.lacking:
        what = f"about {decimal(whole.room)} of disk are needed and {decimal(whole.free)} are free"
        mend = "make room, or point UNICONV_BENCH_CACHE to a larger disk"
        raise UserError(what, where=cache_dir(), mend=mend)
