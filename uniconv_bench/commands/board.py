"""Commands of the leaderboard: bundles packed and checked, pages built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    JsonOption,
    Profile,
    ResultsOption,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)
from uniconv_bench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.rescoring import Tasks
    from uniconv_bench.task import Task

SUBMISSIONS = Path("leaderboards/submissions")
HERE = Path()
RESULTS = Path("results")


def submit_pack(
    card: Annotated[Path, typer.Argument(help="Your submission card (CONTRIBUTING.md).")],
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
    bundle = pack(card, files, output, _tasks())
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
    """Say everything that is wrong with a bundle; exit code 1 if anything is."""
    from uniconv_bench.boardpage import report
    from uniconv_bench.bundles import CARD, MANIFEST, examine

    if not any((bundle / name).exists() for name in (CARD, MANIFEST)):
        raise _no_bundle(bundle)
    found = examine(bundle, _tasks())
    if as_json:
        shown = {"name": bundle.resolve().name, "problems": found.problems, "flags": found.flags}
        print_json(shown)
    elif table:
        typer.echo(report(found), nl=False)
    else:
        typer.echo("\n".join(found.problems) or f"{bundle}: nothing wrong")
        for flag in found.flags:
            note(f"for a maintainer to look at: {flag}")
    if found.problems:
        raise typer.Exit(1)
    next_step("uniconv-bench leaderboard build")


def leaderboard_build(
    root: Annotated[Path, typer.Option(help="Folder with results/ and leaderboards/.")] = HERE,
    site: Annotated[
        Path | None, typer.Option(help="Also write a static site, with a reading room, there.")
    ] = None,
    texts: Annotated[
        bool,
        typer.Option(
            "--texts", help="Put texts of mini and full into the site; mind the data's licences."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Recompute every score from run and answer files and write the pages.

    Exit code 1 if a submission is refused; the pages are made from the others.
    """
    from uniconv_bench import leaderboard
    from uniconv_bench.uniconv.backbone import backbones

    if texts and site is None:
        raise UserError("--texts is of a site", mend="add --site FOLDER")
    sizes = {backbone.name: backbone.parameters for backbone in backbones().values()}
    built = leaderboard.build(root, _tasks(), _outputs, sizes)
    for path in built.skipped:
        note(f"{path}: a file, not a submission; skipped")
    for name, problems in built.refused.items():
        for problem in problems:
            note(f"submission {name} is refused: {problem}")
    for name, flags in built.flagged.items():
        for flag in flags:
            note(f"submission {name} is flagged: {flag}")
    if built.recorded:
        note(
            f"{built.recorded} rows of ours are as recorded, not computed again: this cache lacks "
            "their runs and answers; uniconv-bench run --task TASK --system SYSTEM makes them"
        )
    pages = built.pages
    if not pages and not built.refused:
        what = "neither records nor submissions"
        raise UserError(what, where=root, mend="run a system first, or name another --root")
    if site is not None:
        from uniconv_bench.site import write

        pages = [*pages, write(built.boards, site, texts=texts)]
    if as_json:
        print_json([{"name": page.stem, "page": str(page)} for page in pages])
    else:
        for page in pages:
            typer.echo(page)
        served = f"uniconv-bench leaderboard serve {site}"
        next_step("uniconv-bench submit pack --help" if site is None else served)
    if built.refused:
        raise typer.Exit(1)


def leaderboard_serve(
    site: Annotated[Path, typer.Argument(help="Folder that `leaderboard build --site` wrote.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
) -> None:
    """Show a built site on this machine alone, until Ctrl-C."""
    from uniconv_bench.serving import serve

    serve(site, port, lambda address: typer.echo(address))


def _tasks() -> Tasks:
    from uniconv_bench.rescoring import Tasks
    from uniconv_bench.task import load_task

    def load(name: str, profile: Profile) -> Task:
        task = load_task(name, profile, progress=progress())
        if task.part:
            what = f"what is prepared of {name} is only a part of the dataset: {task.part[0]}"
            mend = "a leaderboard takes whole datasets: prepare all of its official files"
            raise UserError(what, where=task.folder, mend=mend)
        return task

    taken = [row[key] for row in registry.headings("system") for key in ("name", "title")]
    return Tasks(registry.task_names(), load, taken)


def _no_bundle(given: Path) -> UserError:
    """Names the nearest bundles beside a path that is none, and in the folder of submissions."""
    folders = [p for p in (given.resolve().parent, SUBMISSIONS) if p.is_dir()]
    known = {path.parent.name: path.parent for f in folders for path in f.glob("*/card.toml")}
    mend = unknown_name("bundle", given.name, known).mend if known else None
    mend = mend or f"a bundle is {SUBMISSIONS}/NAME, made by uniconv-bench submit pack"
    what = "no such folder"
    if given.exists():
        what = "a file, not a bundle" if given.is_file() else "a folder, not a bundle"
    return UserError(what, where=given, mend=mend)


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
        found = _outputs(read_record(path))
        if not found:
            raise UserError("its run and answers are not in the cache", where=path, mend=command)
        files[task] = found
    return files


def _outputs(record: ResultRecord) -> dict[str, Path]:
    """The `run` and `answers` of a record that are still in the cache."""
    from uniconv_bench.evaluate import outputs
    from uniconv_bench.recording import ANSWERS, RUN

    kinds = {RUN: "run", ANSWERS: "answers"}
    return {kinds[name]: path for name, path in outputs(record).items()}
