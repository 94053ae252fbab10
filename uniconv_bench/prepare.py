"""Raw files -> checked turns, passages and judgements in the cache. Knows no dataset by name.

Needs no model and no network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import (
    MANIFEST,
    fingerprint_of,
    folder_of,
    missing_artefact,
    open_artefact,
)
from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.dataset import PASSAGES, read, write
from uniconv_bench.errors import UserError
from uniconv_bench.files import (
    cache_dir,
    digest_of_code,
    digest_of_file,
    digest_once,
    require_folder,
)
from uniconv_bench.outside import functions_of
from uniconv_bench.registry import task_module, task_source
from uniconv_bench.system import Progress
from uniconv_bench.whole import part_of

STAGE = "tasks"
CODE = ("blocks", "conversation", "corpus", "dataset", "formats", "lookup", "prepare", "whole")

OPTIONS: dict[str, Profile] = {"allow_absent": "mini", "allow_part": "full"}
"""What a person allows -> the profile that it is for."""


def prepare(
    card: TaskCard,
    card_path: Path,
    profile: Profile,
    data_dir: Path | None = None,
    *,
    allow_absent: bool = False,
    allow_part: bool = False,
    force: bool = False,
    progress: Progress,
) -> Path:
    """Reads a task's raw files into the cache, unless they are there; returns the folder.

    Args:
        card: the task.
        card_path: its card; the module beside it reads the raw files.
        profile: `sample` has its raw files beside the card, the others need `data_dir`.
        data_dir: folder of raw files. Without it the set prepared last is used for `mini`, `full`.
        allow_absent: at `mini`, turns whose gold passages the raw files lack stay, unjudged.
        allow_part: at `full`, raw files that are not the whole dataset will do; `counts.json` then
            says in what they differ from it.
        force: prepare anew even if the cache holds it.
        progress: told what is done.

    Raises:
        UserError: raw files are missing or wrong, naming file, record and field.
    """
    allowed = check_options(profile, allow_absent=allow_absent, allow_part=allow_part)
    raw = data_dir if data_dir is not None else own_data(card, card_path, profile)
    if raw is None:
        return _latest(card, card_path, profile, progress)
    fingerprint = {**_identity(card, card_path, profile), "raw": _digests(raw)}
    fingerprint |= dict.fromkeys(allowed, True)
    folder = folder_of(STAGE, f"{card.name}-{profile}", fingerprint)
    with missing_artefact(folder, fingerprint, anew=force) as working:
        if working is not None:
            if force:
                shutil.rmtree(working)
                working.mkdir()
            progress.note(f"preparing {card.title} ({profile}) from {raw}")
            try:
                _make(card, card_path, raw, profile, allowed, working, progress)
            except UserError:
                shutil.rmtree(working, ignore_errors=True)
                raise
    return folder


def check_options(profile: Profile, *, allow_absent: bool, allow_part: bool) -> frozenset[str]:
    """The options of `prepare` that are set; refuses one that says nothing at this profile."""
    chosen = {"allow_absent": allow_absent, "allow_part": allow_part}
    for option in (name for name, is_set in chosen.items() if is_set):
        if profile != OPTIONS[option]:
            what = f"--{option.replace('_', '-')} is for --profile {OPTIONS[option]}"
            raise UserError(what, mend="leave it out")
    return frozenset(name for name, is_set in chosen.items() if is_set)


def _make(
    card: TaskCard,
    card_path: Path,
    raw: Path,
    profile: Profile,
    allowed: frozenset[str],
    folder: Path,
    progress: Progress,
) -> None:
    """Goes on with the corpus of a preparation that was stopped; all else is made anew."""
    module = task_module(card, card_path)
    functions_of(module)
    for left in folder.iterdir():
        if left.name != PASSAGES:
            left.unlink()
    absent = "allow_absent" in allowed
    data = read(card, module, raw, profile, allow_absent=absent, progress=progress)

    def part(counts: Mapping[str, Any]) -> list[str]:
        if profile != "full":
            return []
        return part_of(card, counts, allowed="allow_part" in allowed, where=raw)

    write(data, raw, folder, profile, part, progress)


def is_prepared(
    card: TaskCard, card_path: Path, profile: Profile, data_dir: Path | None = None
) -> bool:
    """Whether `prepare` would find its work done. Does not check the files' digests."""
    raw = data_dir if data_dir is not None else own_data(card, card_path, profile)
    if raw is None:
        return any(True for _ in _prepared(card, card_path, profile))
    fingerprint = {**_identity(card, card_path, profile), "raw": _digests(raw)}
    return folder_of(STAGE, f"{card.name}-{profile}", fingerprint).exists()


def own_data(card: TaskCard, card_path: Path, profile: Profile) -> Path | None:
    """The raw files that a task brings with it: a sample, or an ad-hoc task's folder; or None.

    Raises:
        UserError: the sample is asked for, and neither the task nor that of its reader ships one.
    """
    if card_path.is_dir():
        return card_path
    if profile != "sample":
        return None
    folder = sample_of(card, card_path)
    if folder is None:
        command = f"uniconv-bench prepare --task {card.name} --profile mini --data-dir FOLDER"
        mend = f"first run {command} (of its official files), then choose --profile mini"
        raise UserError(f"task {card.name!r} ships no sample", where=card_path, mend=mend)
    return folder


def sample_of(card: TaskCard, card_path: Path) -> Path | None:
    """The sample that a task ships, or else that of the task whose module reads its files."""
    source = task_source(card, card_path)
    own, readers = card_path.parent / "sample" / card.name, source.parent / "sample" / source.stem
    return next((folder for folder in (own, readers) if folder.is_dir()), None)


def _identity(card: TaskCard, card_path: Path, profile: Profile) -> dict[str, Any]:
    identity = {
        "task": card.name,
        "version": card.version,
        "profile": profile,
        "code": digest_of_code(*CODE),
        "module": digest_of_file(task_source(card, card_path)),
    }
    if profile == "mini":
        identity["code"] = digest_of_code(*CODE, "index", "mini")
        identity |= {"mini": card.mini.model_dump(), "bm25": card.bm25.model_dump()}
    if profile == "full" and card.size is not None:
        identity["size"] = card.size.model_dump(exclude={"source"})
    return identity


def _digests(raw: Path) -> dict[str, str]:
    require_folder(raw, "--data-dir")
    files = sorted(path for path in raw.rglob("*") if path.is_file())
    if not files:
        raise UserError("an empty folder", where=raw, mend="--data-dir names the raw files' folder")
    return {path.relative_to(raw).as_posix(): _digest(path, path.stat()) for path in files}


def _digest(path: Path, facts: os.stat_result) -> str:
    """Raw files may be large, and a command asks for their digests more than once."""
    key = (path.absolute(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    if key not in _DIGESTS:
        _DIGESTS[key] = digest_once(path)
    return _DIGESTS[key]


_DIGESTS: dict[tuple[Any, ...], str] = {}


def _prepared(card: TaskCard, card_path: Path, profile: Profile) -> Iterator[Path]:
    """Artefacts of this card and code, whatever raw files they were made from."""
    identity = _identity(card, card_path, profile)
    for manifest in (cache_dir() / STAGE).glob(f"{card.name}-{profile}-*/{MANIFEST}"):
        if manifest.parent.suffix == ".partial":
            continue
        found = fingerprint_of(manifest.parent)
        free = {key: found[key] for key in ("raw", *OPTIONS) if key in found}
        if found == {**identity, **free}:
            yield manifest.parent


def _latest(card: TaskCard, card_path: Path, profile: Profile, progress: Progress) -> Path:
    folders = sorted(
        _prepared(card, card_path, profile), key=lambda f: (f / MANIFEST).stat().st_mtime_ns
    )
    if not folders:
        command = f"uniconv-bench prepare --task {card.name} --profile {profile}"
        mend = f"first run {command} (with --data-dir FOLDER if you have the official files)"
        raise UserError(f"no {profile} data of {card.title} is prepared", mend=mend)
    if len(folders) > 1:
        count = f"{len(folders)} {profile} sets of {card.title} are prepared"
        progress.note(f"{count}; taking the last, {folders[-1]} (--data-dir chooses another)")
    open_artefact(folders[-1])
    return folders[-1]
