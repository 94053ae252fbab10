"""Commands of submissions: a card printed, bundles packed, checked, made again in part."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uniconv_bench import registry
from uniconv_bench.commands.board import outputs, tasks
from uniconv_bench.commands.shared import (
    RESULTS,
    SUBMISSIONS,
    JsonOption,
    ResultsOption,
    announce,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)
from uniconv_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from uniconv_bench.verification import Repeated

UNSEEN = 3
"""Exit code of a check that found nothing wrong and could not look at everything."""


def submit_card() -> None:
    """Print a submission card to fill in; every field has an example."""
    from uniconv_bench.submission_cards import template

    typer.echo(template(), nl=False)
    next_step("uniconv-bench submit pack CARD --run TASK=FILE --answers TASK=FILE")


def submit_pack(
    card: Annotated[Path, typer.Argument(help="Your submission card: submit card prints one.")],
    run_file: Annotated[
        list[str] | None, typer.Option("--run", help="TASK=FILE, a TREC run file; repeatable.")
    ] = None,
    answers_file: Annotated[
        list[str] | None, typer.Option("--answers", help="TASK=FILE, JSON lines; repeatable.")
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", "-s", help="Take the files of `run` with this system.")
    ] = None,
    results: ResultsOption = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder of submissions.")] = SUBMISSIONS,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle from a card and run and answer files; refuses what `check` would refuse."""
    from uniconv_bench.submission import pack

    files: dict[str, dict[str, Path]] = {}
    for kind, pairs in (("run", run_file), ("answers", answers_file)):
        for pair in pairs or ():
            name, sign, path = pair.partition("=")
            if not (name and sign and path):
                raise UserError(f"--{kind} {pair!r} is not TASK=FILE")
            if kind in files.setdefault(name, {}):
                raise UserError(f"two times --{kind} for {name}", mend="give one file a task")
            files[name][kind] = Path(path)
    if system is not None:
        files = {**_files_of(system, card, results), **files}
    bundle = pack(card, files, output, tasks())
    if as_json:
        print_json({"name": bundle.name, "folder": str(bundle)})
    else:
        typer.echo(bundle)
    next_step(command_of("submit", "check", bundle))


def submit_check(
    bundle: Path,
    table: Annotated[
        bool, typer.Option("--table", help="Print what was found as Markdown, with all scores.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say everything that is wrong with a bundle; exit code 1 if anything is.

    Exit code 3 if nothing is, but this machine lacks data or packages to look at all of it.
    """
    from uniconv_bench.boardpage import report
    from uniconv_bench.examination import among_others, examine

    _require_bundle(bundle)
    found = examine(bundle, among_others(bundle, tasks()))
    if as_json:
        shown = {"problems": found.problems, "flags": found.flags, "lacking": found.lacking}
        print_json({"name": bundle.resolve().name, **shown})
    elif table:
        typer.echo(report(found), nl=False)
    else:
        sound = "nothing wrong, but not all could be checked" if found.lacking else "nothing wrong"
        typer.echo("\n".join(found.problems) or f"{bundle}: {sound}")
        for flag in found.flags:
            note(f"for a maintainer to look at: {flag}")
    for reason in found.lacking:
        note(f"not checked: {reason}")
    if found.problems:
        raise typer.Exit(1)
    if found.lacking:
        raise typer.Exit(UNSEEN)
    next_step("uniconv-bench leaderboard build")


def submit_verify(
    bundle: Path,
    system: Annotated[
        str,
        typer.Option(
            "--system", "-s", help="Name or card of what it was made with; its code runs."
        ),
    ],
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of a task's turns; 10 turns at least.")
    ] = 0.02,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw the same turns again; otherwise new ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank and answer a random share of a bundle's turns again, with the weights, and compare.

    Adapters are those in the cache, of installed packages, or in adapters/ beside the card; none
    is trained. Exit code 1 if too many turns differ, or if the bundle is not sound.
    """
    import secrets

    from uniconv_bench.examination import among_others, examine
    from uniconv_bench.task import load_task
    from uniconv_bench.verification import FORGED, again, drawn, setup_of

    _require_bundle(bundle)
    found = examine(bundle, among_others(bundle, tasks()))
    if found.problems or found.card is None:
        for problem in found.problems:
            note(problem)
        raise typer.Exit(1)
    card, seed = found.card, secrets.randbelow(10**6) if seed is None else seed
    note(f"turns drawn with --seed {seed}")
    setup = setup_of(system, card, progress())
    stages: list[Repeated] = []
    for name in card.tasks:
        task = load_task(name, card.profile, progress=progress())
        count = len(drawn([turn.turn_id for turn in task.turns()], share, seed))
        announce("verify", name, system, card.profile, count, stages=("retrieve", "generate"))
        stages += again(bundle, setup, task, share, seed, progress())
    agrees = all(stage.holds for stage in stages)
    if as_json:
        told = [
            asdict(stage)
            | {"holds": stage.holds, "passes": {str(f): stage.passes(f) for f in FORGED}}
            for stage in stages
        ]
        print_json({"name": card.name, "seed": seed, "agrees": agrees, "stages": told})
    else:
        _show_repeated(bundle, stages, seed, agrees)
    if not agrees:
        raise typer.Exit(1)


def _show_repeated(bundle: Path, stages: Sequence[Repeated], seed: int, agrees: bool) -> None:
    from uniconv_bench.display import show_rows
    from uniconv_bench.verification import FORGED

    rows = [
        {"task": s.task, "stage": s.stage, "turns": s.turns, "agree": s.agree, "needed": s.needed}
        | {f"passes with {f:.0%} forged".replace("%", " %"): f"{s.passes(f):.2f}" for f in FORGED}
        for s in stages
    ]
    show_rows(rows, f"{bundle.resolve().name}, made again (--seed {seed})")
    for stage in stages:
        if stage.first:
            turn_id, fault = stage.first
            typer.echo(f"{stage.task} {stage.stage}, first turn that differs, {turn_id!r}: {fault}")
    typer.echo(f"{bundle}: {'as made again' if agrees else 'NOT what its system makes'}")


def _require_bundle(given: Path) -> None:
    """Names the nearest bundles beside a path that is none, and in the folder of submissions."""
    from uniconv_bench.bundles import CARD, MANIFEST

    if any((given / name).exists() for name in (CARD, MANIFEST)):
        return
    folders = [p for p in (given.resolve().parent, SUBMISSIONS) if p.is_dir()]
    known = {path.parent.name: path.parent for f in folders for path in f.glob("*/card.toml")}
    near = [known[name] for name in nearest(given.name, known)]
    mend = f"a bundle is {SUBMISSIONS}/NAME, made by uniconv-bench submit pack"
    if near:
        mend = f"did you mean {' or '.join(shlex.quote(os.path.relpath(path)) for path in near)}?"
    what = "no such folder"
    if given.exists():
        what = "a file, not a bundle" if given.is_file() else "a folder, not a bundle"
    raise UserError(what, where=given, mend=mend)


def _files_of(system: str, card: Path, results: Path) -> dict[str, dict[str, Path]]:
    """Task -> run and answer file of our own records, for the tasks of a submission card."""
    from uniconv_bench.cards import SubmissionCard, parse_card
    from uniconv_bench.files import read_toml
    from uniconv_bench.records import read_record

    submission = parse_card(SubmissionCard, read_toml(card), card)
    files = {}
    for task in submission.tasks:
        command = f"uniconv-bench run --task {task} --system {system}"
        command += f" --profile {submission.profile}"
        path = results / submission.profile / system / f"{task}.json"
        if not path.is_file():
            registry.system_card(system)  # a name that there is not is the likelier fault
            raise UserError(f"no record of {system} on {task}", where=path, mend=command)
        found = outputs(read_record(path))
        if not found:
            raise UserError("its run and answers are not in the cache", where=path, mend=command)
        files[task] = found
    return files
