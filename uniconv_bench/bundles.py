"""What a bundle of a submission holds, and everything that can be wrong with one, a line each.

Trusts nothing in it: every score is computed again from its run and answer files.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.conversation import Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json, digest_of_file, read_json, read_toml
from uniconv_bench.metrics import PerTurn, metric_score
from uniconv_bench.rescoring import LoadedTask, Tasks, rescore
from uniconv_bench.runs import DEPTH, check_ranks, read_answers, read_objects
from uniconv_bench.submission_cards import check_card

CARD, MANIFEST = "card.toml", "manifest.json"
KINDS = {"run": ".run.gz", "answers": ".answers.jsonl.gz", "scores": ".scores.jsonl.gz"}
"""What a bundle may hold of a task -> how the file's name ends."""
COPIED, WORDS = 0.2, 8
"""From what share of verbatim references a submission is flagged, of those with so many words."""
TOLERANCE = 1e-9
"""How far a claimed score may be from the recomputed one."""
LARGEST_FILE = 1 << 30
"""Bytes that a run, answer or score file of a bundle may have once unpacked."""
LARGEST_TEXT = 1 << 20
"""Bytes that its card and manifest may have."""
LONGEST_ROW = 1 << 20
"""Bytes that a line of those files may have."""
LONGEST_ANSWER = 20_000
"""Characters that an answer may have."""
MOST_PROBLEMS = 20
"""Problems of a bundle that are told."""
LONGEST_LINE = 400
"""Characters of a problem's line; what a bundle holds may be quoted in it."""


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
    told = [_line(problem) for problem in found.problems[:MOST_PROBLEMS]]
    if len(found.problems) > len(told):
        told.append(f"and {len(found.problems) - len(told)} more problems")
    found.problems = told
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
        problems += _examine_task(folder, task, claim, found)
    return found


def _examine_task(
    folder: Path, task: LoadedTask, claim: Claim, found: Examination
) -> Iterator[str]:
    name = task.card.name
    if claim.data_digest != task.digest:
        yield (
            f"{name}: made for other data (digest {claim.data_digest[:12]!r}, "
            f"this version has {task.digest[:12]!r})"
        )
        return
    run, answers = scored_files(folder, name)
    turns = task.turns()
    wrong = list(_check_lines(len(turns), run, answers))
    if not wrong:
        found.scores[name], wrong = rescore(task, run, answers)
    wrong = wrong or list(_check_rows(run, answers))
    if wrong:
        yield from (p if p.startswith(f"{name}: ") else f"{name}: {p}" for p in wrong)
        return
    yield from _compare(folder, name, claim, found.scores[name])
    if answers:
        found.flags += _copied(name, turns, answers)


def _check_lines(turns: int, run: Path | None, answers: Path | None) -> Iterator[str]:
    """Files of more lines than a task can need are not read into memory."""
    for path, most in ((run, turns * DEPTH), (answers, turns)):
        if path and _unpacked(path).lines > most:
            yield f"{path.name!r} has more than the {most:,} lines that {turns:,} turns need"


def _check_rows(run: Path | None, answers: Path | None) -> Iterator[str]:
    if run and (fault := check_ranks(run)):
        yield fault
    for answer in read_answers(answers).values() if answers else ():
        if len(answer.text) > LONGEST_ANSWER:
            yield (
                f"the answer of turn {answer.turn_id!r} has {len(answer.text):,} characters, "
                f"more than {LONGEST_ANSWER:,}"
            )
            return


def _copied(name: str, turns: Sequence[Turn], answers: Path) -> Iterator[str]:
    """Long references given as answers word for word: by chance some are, not a fifth of them."""
    said = read_answers(answers)
    long = {
        turn.turn_id: [text for text in turn.references if len(text.split()) >= WORDS]
        for turn in turns
    }
    judged = [turn_id for turn_id, texts in long.items() if texts]
    same = [t for t in judged if t in said and said[t].text.strip() in map(str.strip, long[t])]
    if judged and len(same) >= COPIED * len(judged):
        yield (
            f"{name}: {len(same)} of {len(judged)} answers are references of {WORDS} words or "
            f"more, word for word, first of turn {same[0]!r}"
        )


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
        elif name.endswith(".gz"):
            yield from _check_gzip(folder / name)
    if set(manifest.tasks) != set(card.tasks):
        yield (
            f"manifest has the tasks {', '.join(sorted(manifest.tasks)) or 'none'}, "
            f"the card {', '.join(sorted(card.tasks))}"
        )
    for task in card.tasks:
        if not {f"{task}{KINDS[kind]}" for kind in ("run", "answers")} & present:
            yield f"{task}: neither a run nor answers"


class _Unpacked(NamedTuple):
    size: int
    lines: int
    longest: int


def _unpacked(path: Path) -> _Unpacked:
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
    return _Unpacked(size, lines + bool(row), longest)


def _check_gzip(path: Path) -> Iterator[str]:
    try:
        found = _unpacked(path)
    except (OSError, EOFError, zlib.error):
        found = _Unpacked(LARGEST_FILE + 1, 0, 0)
    if found.size > LARGEST_FILE:
        yield f"{path.name!r} is no whole gzip file of at most {LARGEST_FILE >> 20} MiB"
    elif found.longest > LONGEST_ROW:
        yield f"{path.name!r} has a line of more than {LONGEST_ROW >> 20} MiB"


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
