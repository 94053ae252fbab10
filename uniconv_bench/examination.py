"""Everything that can be wrong with a bundle of a submission, a line each.

Trusts nothing in it: every score is computed again from its run and answer files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uniconv_bench.bundles import (
    CARD,
    KINDS,
    MANIFEST,
    Manifest,
    check_files,
    check_folder,
    is_readable,
    names_beside,
    read_manifest,
    scored_files,
    unpacked,
)
from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.conversation import Turn
from uniconv_bench.definitions import computable, normalise
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_toml
from uniconv_bench.irmetadata import unfounded
from uniconv_bench.metrics import PerTurn, metric_score
from uniconv_bench.rescoring import LoadedTask, NotAtHand, Tasks, rescore
from uniconv_bench.runs import DEPTH, check_ranks, read_objects
from uniconv_bench.submission_cards import check_card
from uniconv_bench.system import Answer

COPIED = {8: 0.2, 0: 0.7}
"""Words that a reference has at least -> the share of them in answers from which it is flagged.

A system may well find short answers word for word, long ones hardly ever."""
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
        lacking: why a task could not be scored here, or a metric not computed, so that nothing is
            said of its claim.
    """

    problems: list[str]
    card: SubmissionCard | None = None
    scores: dict[str, dict[str, PerTurn]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def among_others(folder: Path, tasks: Tasks) -> Tasks:
    """Tasks that know what the bundles beside one are called, so that it may not be called so."""
    return replace(tasks, taken={**names_beside(folder), **tasks.taken})


def examine(folder: Path, tasks: Tasks) -> Examination:
    """Checks from the outside in; what lies further in is opened only if all before is well."""
    try:
        found = _examine(folder, tasks)
    except OSError as error:  # of a file that cannot be read, or that goes away meanwhile
        found = Examination([f"{error.filename or folder}: {error.strerror or error}"])
    except UserError as error:
        found = Examination([str(error)])
    except MemoryError:
        found = Examination(["needs more memory to be looked at than there is"])
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
    if not all(is_readable(folder / name) for name in (CARD, MANIFEST)):
        return Examination(problems)
    try:
        card = parse_card(SubmissionCard, read_toml(folder / CARD), folder / CARD)
        problems += check_card(card, folder.resolve().name, tasks)
        manifest = read_manifest(folder / MANIFEST)
        problems += check_files(folder, card, manifest)
    except UserError as error:
        return Examination([*problems, str(error)])
    except RecursionError:
        return Examination([*problems, f"{CARD} or {MANIFEST} is nested too deep"])
    found = Examination(problems, card)
    if problems:
        return found
    for name in card.tasks:
        try:
            task = tasks.load(name, card.profile)
        except NotAtHand as error:
            found.lacking.append(str(error))
            continue
        except UserError as error:
            problems.append(str(error))
            continue
        problems += _examine_task(folder, card, task, manifest, found)
    return found


def _examine_task(
    folder: Path, card: SubmissionCard, task: LoadedTask, manifest: Manifest, found: Examination
) -> Iterator[str]:
    name = task.card.name
    claim, package = manifest.tasks[name], manifest.package
    if claim.data_digest != task.digest:
        yield (
            f"{name}: made for other data (digest {claim.data_digest[:12]!r}, "
            f"this version has {task.digest[:12]!r}); it was packed by version {package[:20]!r}"
        )
        return
    metadata = folder / f"{name}{KINDS['metadata']}"
    wrong = unfounded(metadata.read_bytes(), card, name, task.digest, claim.scores)
    if wrong is not None:
        what = f"{metadata.name!r} is not what card and manifest give (field {wrong!r})"
        yield f"{what}: pack the bundle again"
    run, answers = scored_files(folder, name)
    turns = task.turns()
    scores = folder / f"{name}{KINDS['scores']}"
    long = [f"{name}: {fault}" for fault in _check_lines(len(turns), run, answers, scores)]
    if long:
        yield from long
        return
    names = computable(task.card.metrics, found.lacking.append if answers else None)
    found.scores[name], faults, said = rescore(task, run, answers, names=names)
    if faults := faults or [f"{name}: {fault}" for fault in _check_rows(run, said)]:
        yield from faults
        return
    unknown = set(task.card.metrics) - set(names)
    claimed = {metric: mean for metric, mean in claim.scores.items() if metric not in unknown}
    yield from _compare(scores, name, claimed, found.scores[name])
    found.flags += _copied(name, turns, said)


def _check_lines(turns: int, run: Path | None, answers: Path | None, scores: Path) -> Iterator[str]:
    """Files of more lines than a task can need are not read into memory."""
    for path, most in ((run, turns * DEPTH), (answers, turns), (scores, turns)):
        if path and path.exists() and unpacked(path).lines > most:
            yield f"{path.name!r} has more than the {most:,} lines that {turns:,} turns need"


def _check_rows(run: Path | None, said: Mapping[str, Answer]) -> Iterator[str]:
    if run and (fault := check_ranks(run)):
        yield fault
    for answer in said.values():
        if len(answer.text) > LONGEST_ANSWER:
            yield (
                f"the answer of turn {answer.turn_id!r} has {len(answer.text):,} characters, "
                f"more than {LONGEST_ANSWER:,}"
            )
            return


def _copied(name: str, turns: Sequence[Turn], said: Mapping[str, Answer]) -> Iterator[str]:
    """References given as answers, word for word as F1 sees words, more often than by chance."""
    told = {turn_id: normalise(answer.text) for turn_id, answer in said.items()}
    for words, share in COPIED.items():
        own = {
            turn.turn_id: {normalise(t) for t in turn.references if len(t.split()) >= words}
            for turn in turns
            if turn.turn_id in told
        }
        judged = [turn_id for turn_id, texts in own.items() if texts]
        same = [turn_id for turn_id in judged if told[turn_id] in own[turn_id]]
        if judged and len(same) >= share * len(judged):
            long = f" of {words} words or more" if words else ""
            yield (
                f"{name}: {len(same)} of {len(judged)} answers are references{long}, "
                f"word for word, first of turn {same[0]!r}"
            )
            return


def _compare(
    path: Path, name: str, claimed: Mapping[str, float], recomputed: Mapping[str, PerTurn]
) -> Iterator[str]:
    """Claimed against recomputed scores: the first turn that differs, else the mean."""
    if set(claimed) != set(recomputed):
        yield (
            f"{name}: claims {', '.join(sorted(claimed)) or 'nothing'}, its files give "
            f"{', '.join(sorted(recomputed)) or 'nothing'}"
        )
        return
    turn_ids = {turn_id for values in recomputed.values() for turn_id in values}
    try:
        rows = _claims(path, turn_ids, recomputed) if path.exists() else {}
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


def _claims(
    path: Path, turn_ids: Collection[str], metrics: Collection[str]
) -> dict[str, dict[str, float | None]]:
    """Turn -> metric -> claimed score; what else the rows hold is not kept."""
    found: dict[str, dict[str, float | None]] = {}
    for _, row in read_objects(path):
        turn_id = row.get("turn_id")
        if isinstance(turn_id, str) and turn_id in turn_ids:
            found[turn_id] = {metric: _number(row.get(metric)) for metric in metrics}
    return found


def _number(claimed: Any) -> float | None:
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        return None
    try:
        return float(claimed)
    except OverflowError:  # a whole number beyond any float
        return None


def _close(claimed: float | None, value: float) -> bool:
    return claimed is not None and abs(claimed - value) <= TOLERANCE
