"""Commands of the leaderboard: pages built and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    JsonOption,
    Profile,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.rescoring import Tasks
    from uniconv_bench.task import Task

HERE = Path()


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

    Exit code 1 if a submission is refused; the pages are made from the others. A profile whose data
    is not prepared keeps its page, and is left out of the site.
    """
    from uniconv_bench import leaderboard
    from uniconv_bench.uniconv.backbone import backbones

    if texts and site is None:
        raise UserError("--texts is of a site", mend="add --site FOLDER")
    sizes = {backbone.name: backbone.parameters for backbone in backbones().values()}
    built = leaderboard.build(root, tasks(), outputs, sizes)
    for path in built.skipped:
        note(f"{path}: a file, not a submission; skipped")
    for name, problems in built.refused.items():
        for problem in problems:
            note(f"submission {name} is refused: {problem}")
    for name, flags in built.flagged.items():
        for flag in flags:
            note(f"submission {name} is flagged: {flag}")
    for reason in sorted(built.lacking):
        note(reason)
    for profile, reason in built.kept.items():
        note(f"{profile} is not built, a page of it stays as it was: {reason}")
    for path in built.gone:
        note(f"{path}: deleted, as nothing is left on it")
    if built.recorded:
        note(
            f"{built.recorded} rows of ours are as recorded, not computed again: this cache lacks "
            "their runs and answers; uniconv-bench run --task TASK --system SYSTEM makes them"
        )
    pages = built.pages
    if not pages and not built.refused:
        what = "no profile can be built" if built.kept else "neither records nor submissions"
        mend = "; ".join(built.kept.values()) or "run a system first, or name another --root"
        raise UserError(what, where=root, mend=mend)
    if site is not None and built.boards:
        from uniconv_bench.site import write

        pages = [*pages, write(built.boards, site, texts=texts)]
    if as_json:
        print_json([{"name": page.stem, "page": str(page)} for page in pages])
    else:
        for page in pages:
            typer.echo(page)
        helped = command_of("submit", "pack", "--help")
        next_step(helped if site is None else command_of("leaderboard", "serve", site))
    if built.refused:
        raise typer.Exit(1)


def leaderboard_serve(
    site: Annotated[Path, typer.Argument(help="Folder that `leaderboard build --site` wrote.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
) -> None:
    """Show a built site on this machine alone, until Ctrl-C."""
    from uniconv_bench.serving import serve
    from uniconv_bench.site import is_site

    if not is_site(site) and is_site(whole := site.resolve().parent):
        mend = command_of("leaderboard", "serve", whole)
        raise UserError("only a part of a site, which needs the rest", where=site, mend=mend)
    serve(site, port, lambda address: typer.echo(address))


def tasks() -> Tasks:
    """Those of this installation, whole datasets alone."""
    from uniconv_bench.prepare import is_prepared
    from uniconv_bench.rescoring import NotAtHand, Tasks
    from uniconv_bench.task import load_task

    def load(name: str, profile: Profile) -> Task:
        try:
            task = load_task(name, profile, progress=progress())
        except UserError as error:
            if profile == "sample" or is_prepared(*registry.task_card(name), profile):
                raise
            raise NotAtHand(error.what, where=error.where, mend=error.mend) from error
        if task.part:
            what = f"what is prepared of {name} is only a part of the dataset: {task.part[0]}"
            mend = "a leaderboard takes whole datasets: prepare all of its official files"
            raise NotAtHand(what, where=task.folder, mend=mend)
        return task

    taken = {
        row[key]: f"{row['name']!r} of this project"
        for row in registry.headings("system")
        for key in ("name", "title")
    }
    return Tasks(registry.task_names(), load, taken)


def outputs(record: ResultRecord) -> dict[str, Path]:
    """The `run` and `answers` of a record that are still in the cache."""
    from uniconv_bench import evaluate
    from uniconv_bench.recording import ANSWERS, RUN

    kinds = {RUN: "run", ANSWERS: "answers"}
    return {kinds[name]: path for name, path in evaluate.outputs(record).items()}
