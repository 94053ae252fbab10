"""The command that hands a task out as files, for systems that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from uniconv_bench.commands.shared import (
    JsonOption,
    ProfileOption,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)


def export(
    task: Annotated[str, typer.Option("--task", "-t", help="Name or card.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    profile: ProfileOption = "sample",
    judgements: Annotated[
        bool, typer.Option("--judgements", help="Also what is right, as `score` reads it.")
    ] = False,
    packed: Annotated[
        bool | None,
        typer.Option("--gzip/--no-gzip", help="Passages gzipped; by default if a million or more."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a task's test turns and passages as JSON lines, for a system of your own."""
    from uniconv_bench import export as stage
    from uniconv_bench import fetch
    from uniconv_bench.task import load_task

    of = load_task(task, profile, progress=progress())
    if profile == "sample":
        note("licence: the sample was written by this project, Apache-2.0")
    else:
        note(fetch.licence_line(of.card))
    files = stage.export(of, out, judgements=judgements, packed=packed, progress=progress())
    if as_json:
        rows = {what: str(path) for what, path in files.items()}
        print_json({"name": of.card.name, "profile": profile, **rows})
        return
    for path in files.values():
        typer.echo(path)
    handed_over = of.card.evidence == "given"  # there is no retrieval to score
    run = () if handed_over else ("--run", "my.trec")
    wanted = "" if handed_over else "a TREC run, and "
    note(f"write {wanted}answers as JSON lines (turn_id, answer), for every turn in topics")
    next_step(command_of("score", "--task", task, *run, "--answers", "my.jsonl", profile=profile))
    next_step("uniconv-bench submit card > card.toml")
