"""Everything that can be wrong with a bundle of a submission, a line each.

Trusts nothing in it: every score is computed again from its run and answer files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniconv_bench.bundles import (
    CARD,
    KINDS,
    MANIFEST,
    Claim,
    check_files,
    check_folder,
    read_manifest,
    scored_files,
    unpacked,
)
from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.conversation import Turn
from uniconv_bench.definitions import computable
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_toml
from uniconv_bench.irmetadata import unfounded
from uniconv_bench.metrics import PerTurn, metric_score
from uniconv_bench.rescoring import LoadedTask, Tasks, rescore
from uniconv_bench.runs import DEPTH, check_ranks, read_answers, read_objects
from uniconv_bench.submission_cards import check_card

COPIED, WORDS = 0.2, 8
"""From what share of verbatim references a submission is flagged, of those with so many words."""
TOLERANCE = 1e-9
"""How far a claimed score may be from the recomputed one."""
LONGEST_ANSWER = 20_000
"""Characters that an answer may have."""
MOST_PROBLEMS = 20
"""Problems of a bundle that are told."""
LONGEST_LINE = 400
"""Characters of a problem's line; what a bundle holds may be quoted in it."""


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
        lacking: why a metric could not be computed here, so that nothing is said of its claim.
    """

    problems: list[str]
    card: SubmissionCard | None = None
    scores: dict[str, dict[str, PerTurn]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def examine(folder: Path, tasks: Tasks) -> Examination:
    """Checks from the outside in; what lies further in is opened only if all before is well."""
    try:
        found = _examine(folder, tasks)
    except OSError as error:  # of a file that cannot be read, or that goes away meanwhile
        found = Examination([f"{error.filename or folder}: {error.strerror or error}"])
    except UserError as error:
        found = Examination([str(error)])
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
    problems = list(check_folder(folder))
    if problems:
        return Examination(problems)
    try:
        card = parse_card(SubmissionCard, read_toml(folder / CARD), folder / CARD)
        manifest = read_manifest(folder / MANIFEST)
    except RecursionError:
        return Examination([f"{CARD} or {MANIFEST} is nested too deep"])
    problems = [
        *check_card(card, folder.resolve().name, tasks),
        *check_files(folder, card, manifest),
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
        problems += _examine_task(folder, card, task, claim, found)
    return found


def _examine_task(
    folder: Path, card: SubmissionCard, task: LoadedTask, claim: Claim, found: Examination
) -> Iterator[str]:
    name = task.card.name
    if claim.data_digest != task.digest:
        yield (
            f"{name}: made for other data (digest {claim.data_digest[:12]!r}, "
            f"this version has {task.digest[:12]!r})"
        )
        return
    metadata = folder / f"{name}{KINDS['metadata']}"
    field = unfounded(metadata.read_bytes(), card, name, task.digest, claim.scores)
    if field is not None:
        what = f"{metadata.name!r} is not what card and manifest give (field {field!r})"
        yield f"{what}: pack the bundle again"
    run, answers = scored_files(folder, name)
    turns = task.turns()
    wrong = [f"{name}: {fault}" for fault in _check_lines(len(turns), run, answers)]
    if not wrong:
        names = computable(task.card.metrics, found.lacking.append if answers else None)
        found.scores[name], wrong = rescore(task, run, answers, names=names)
    wrong = wrong or [f"{name}: {fault}" for fault in _check_rows(run, answers)]
    if wrong:
        yield from wrong
        return
    unknown = set(task.card.metrics) - set(names)
    claimed = {metric: mean for metric, mean in claim.scores.items() if metric not in unknown}
    yield from _compare(folder, name, claimed, found.scores[name])
    if answers:
        found.flags += _copied(name, turns, answers)


def _check_lines(turns: int, run: Path | None, answers: Path | None) -> Iterator[str]:
    """Files of more lines than a task can need are not read into memory."""
    for path, most in ((run, turns * DEPTH), (answers, turns)):
        if path and unpacked(path).lines > most:
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


def _compare(
    folder: Path, name: str, claimed: Mapping[str, float], recomputed: Mapping[str, PerTurn]
) -> Iterator[str]:
    """Claimed against recomputed scores: the first turn that differs, else the mean."""
    if set(claimed) != set(recomputed):
        yield (
            f"{name}: claims {', '.join(sorted(claimed)) or 'nothing'}, its files give "
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
            of_turn = rows.get(turn_id, {}).get(metric)
            if path.exists() and not _close(of_turn, value):
                yield f"{name} {metric}: claims {of_turn!r} for turn {turn_id!r}, it is {value!r}"
                break
        mean = metric_score(metric, values).mean
        if not _close(claimed[metric], mean):
            yield f"{name} {metric}: claims a mean of {claimed[metric]!r}, it is {mean!r}"


def _close(claimed: Any, value: float) -> bool:
    # Comparing holds for whole numbers beyond any float, too; subtracting does not.
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        return False
    return value - TOLERANCE <= claimed <= value + TOLERANCE
