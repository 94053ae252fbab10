"""What a bundle of a submission holds, and everything that can be wrong with one, a line each.

Trusts nothing in it: every score is computed again from its run and answer files.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import canonical_json, digest_of_file, read_json, read_toml
from uniconv_bench.metrics import PerTurn, metric_score
from uniconv_bench.rescoring import Tasks, rescore
from uniconv_bench.runs import read_objects

CARD, MANIFEST = "card.toml", "manifest.json"
KINDS = {"run": ".run.gz", "answers": ".answers.jsonl.gz", "scores": ".scores.jsonl.gz"}
"""What a bundle may hold of a task -> how the file's name ends."""
TOLERANCE = 1e-9
"""How far a claimed score may be from the recomputed one."""
LARGEST_FILE = 1 << 30
"""Bytes that a run, answer or score file of a bundle may have once unpacked."""
LARGEST_TEXT = 1 << 20
"""Bytes that its card and manifest may have."""
LONGEST_LINE = 400
"""Characters of a problem's line; what a bundle holds may be quoted in it."""
CODE_ADDRESS = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9._~/-]*)?")
MARKUP = re.compile(r"[<>\[\]|`\\]|https?://")


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


def check(folder: Path, tasks: Tasks) -> list[str]:
    """What is wrong with a bundle, one clear line each; empty if it can be published."""
    return examine(folder, tasks).problems


@dataclass
class Examination:
    """What came out of looking at a bundle; scores only where its files are sound.

    Attributes:
        problems: one clear line each.
        card: if it could be read.
        scores: task -> metric -> turn -> recomputed value.
        flags: what breaks no rule, and yet a maintainer should look at.
    """

    problems: list[str]
    card: SubmissionCard | None = None
    scores: dict[str, dict[str, PerTurn]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


def examine(folder: Path, tasks: Tasks) -> Examination:
    """Checks from the outside in; what lies further in is opened only if all before is well."""
    try:
        found = _examine(folder, tasks)
    except OSError as error:  # of a file that cannot be read, or that goes away meanwhile
        found = Examination([f"{error.filename or folder}: {error.strerror or error}"])
    found.problems = [_line(problem) for problem in found.problems]
    return found


def _line(problem: str) -> str:
    """A problem as one line that any terminal can show, whatever it quotes of a bundle."""
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in problem)
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]}…"


def _examine(folder: Path, tasks: Tasks) -> Examination:
    problems = list(_check_folder(folder))
    if problems:
        return Examination(problems)
    try:
        card = parse_card(SubmissionCard, read_toml(folder / CARD), folder / CARD)
        manifest = _read_manifest(folder / MANIFEST)
    except UserError as error:
        return Examination([str(error)])
    except RecursionError:
        return Examination([f"{CARD} or {MANIFEST} is nested too deep"])
    problems = [
        *check_card(card, folder.resolve().name, tasks),
        *_check_files(folder, card, manifest),
    ]
    found = Examination(problems, card)
    if problems:
        return found
    for name in card.tasks:
        try:
            task = tasks.load(name, card.profile)
        except UserError as error:
            problems.append(str(error))
            continue
        claim = manifest.tasks[name]
        if claim.data_digest != task.digest:
            problems.append(
                f"{name}: made for other data (digest {claim.data_digest[:12]!r}, "
                f"this version has {task.digest[:12]!r})"
            )
            continue
        found.scores[name], wrong = rescore(task, *scored_files(folder, name))
        problems += wrong or _compare(folder, name, claim, found.scores[name])
    return found


def scored_files(folder: Path, task: str) -> tuple[Path | None, Path | None]:
    """The run and the answer file of a task that a bundle holds."""
    run, answers = (folder / f"{task}{KINDS[kind]}" for kind in ("run", "answers"))
    return run if run.exists() else None, answers if answers.exists() else None


def _check_folder(folder: Path) -> Iterator[str]:
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
        elif path.name in (CARD, MANIFEST) and path.stat().st_size > LARGEST_TEXT:
            yield f"{path.name!r} is larger than {LARGEST_TEXT >> 20} MiB"
    for needed in (CARD, MANIFEST):
        if needed not in names:
            yield f"{needed} is missing"


def _read_manifest(path: Path) -> Manifest:
    content = read_json(path)
    try:
        return Manifest.model_validate_json(canonical_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise UserError(f"malformed manifest: {place}: {first['msg']}", where=path) from error


def check_card(card: SubmissionCard, folder: str, known: Tasks) -> Iterator[str]:
    """What is wrong with a card in a folder of this name, where these tasks are known."""
    taken = {name.casefold() for name in known.taken}
    for place, value in (("name", card.name), ("title", card.title)):
        if value.strip().casefold() in taken:
            yield f"card field {place}: {value!r} is one of the project's own systems"
    if card.name != folder:
        yield f"the card's name is {card.name!r}, the folder's {folder!r}"
    if not card.tasks or len(set(card.tasks)) < len(card.tasks):
        yield "card field tasks: name each task once, at least one"
    for place, names in (("tasks", card.tasks), ("trained_on", card.trained_on)):
        for name in names:
            if name not in known.names:
                yield f"card field {place}: {unknown_name('task', name, known.names)}"
    if not card.authors:
        yield "card field authors: name at least one"
    yield from _check_date(card.date)
    texts = {
        "title": [card.title],
        "authors": card.authors,
        "contact": [card.contact],
        "description": [card.description],
        "backbone": [card.backbone or "-"],
    }
    for name, values in texts.items():
        for value in values:
            found = MARKUP.search(value)
            if found:
                yield f"card field {name}: {found[0]!r} is markup; write plain text"
            elif not value.strip():
                yield f"card field {name}: empty"
            elif not value.replace("\n", "").isprintable():
                yield f"card field {name}: holds control characters"
    if card.code is not None and not CODE_ADDRESS.fullmatch(card.code):
        yield f"card field code: {card.code!r} is not a plain https address"


def _check_date(text: str) -> Iterator[str]:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        yield f"card field date: {text!r} is no day of the calendar"
        return
    if day > datetime.now(UTC).date() + timedelta(days=1):  # it may be tomorrow elsewhere
        yield f"card field date: {text} is in the future"


def _check_files(folder: Path, card: SubmissionCard, manifest: Manifest) -> Iterator[str]:
    allowed = {CARD, *(f"{task}{end}" for task in card.tasks for end in KINDS.values())}
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
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
        if name not in present:
            yield f"{name!r} is in the manifest but not in the bundle"
        elif digest_of_file(folder / name) != manifest.files[name]:
            yield f"{name!r} is not the file that the manifest names (sha256 differs)"
        elif name.endswith(".gz") and not _small_enough(folder / name):
            yield f"{name!r} is no whole gzip file of at most {LARGEST_FILE >> 20} MiB"
    if set(manifest.tasks) != set(card.tasks):
        yield (
            f"manifest has the tasks {', '.join(sorted(manifest.tasks)) or 'none'}, "
            f"the card {', '.join(sorted(card.tasks))}"
        )
    for task in card.tasks:
        if not {f"{task}{KINDS[kind]}" for kind in ("run", "answers")} & present:
            yield f"{task}: neither a run nor answers"


def _small_enough(path: Path) -> bool:
    size = 0
    try:
        with gzip.open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                size += len(block)
                if size > LARGEST_FILE:
                    return False
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _compare(
    folder: Path, name: str, claim: Claim, recomputed: Mapping[str, PerTurn]
) -> Iterator[str]:
    """Claimed against recomputed scores: the first turn that differs, else the mean."""
    if set(claim.scores) != set(recomputed):
        yield (
            f"{name}: claims {', '.join(sorted(claim.scores)) or 'nothing'}, its files give "
            f"{', '.join(sorted(recomputed)) or 'nothing'}"
        )
        return
    path = folder / f"{name}{KINDS['scores']}"
    try:
        claims = read_objects(path) if path.exists() else ()
        rows = {row["turn_id"]: row for _, row in claims if isinstance(row.get("turn_id"), str)}
    except UserError as error:
        yield f"{name}: {error}"
        return
    for metric, values in recomputed.items():
        for turn_id, value in values.items():
            claimed = rows.get(turn_id, {}).get(metric)
            if path.exists() and not _close(claimed, value):
                yield f"{name} {metric}: claims {claimed!r} for turn {turn_id!r}, it is {value!r}"
                break
        mean = metric_score(metric, values).mean
        if not _close(claim.scores[metric], mean):
            yield f"{name} {metric}: claims a mean of {claim.scores[metric]!r}, it is {mean!r}"


def _close(claimed: Any, value: float) -> bool:
    # Comparing holds for whole numbers beyond any float, too; subtracting does not.
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        return False
    return value - TOLERANCE <= claimed <= value + TOLERANCE
