"""The command that gets the data, and what that would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    DataOption,
    JsonOption,
    Profile,
    ProfileOption,
    TaskOption,
    command_of,
    next_step,
    note,
    one_task_for,
    print_json,
    progress,
    tasks_of,
)

if TYPE_CHECKING:
    from uniconv_bench.cards import TaskCard
    from uniconv_bench.planning import IndexCost


def prepare(
    task: TaskOption,
    profile: ProfileOption = "sample",
    data_dir: DataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List files, licence, disk and time; do nothing.")
    ] = False,
    planned_for: Annotated[
        str, typer.Option("--system", help="--dry-run: whose index of the passages to plan.")
    ] = "uniconv",
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Accept terms that are non-commercial or unstated."),
    ] = False,
    allow_absent: Annotated[
        bool,
        typer.Option(
            "--allow-absent",
            help="mini: turns whose relevant passages the files lack stay, not judged.",
        ),
    ] = False,
    allow_part: Annotated[
        bool,
        typer.Option(
            "--allow-part",
            help="full: files that are not the whole dataset will do; every table says so.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option(help="Prepare anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Get raw files and read them into the cache: turns, passages and judgements, checked.

    The files come from --data-dir, else from the cache, else from the sources that the card names.
    """
    from uniconv_bench import display, fetch
    from uniconv_bench import prepare as stage
    from uniconv_bench.task import Task

    tasks = tasks_of(task, profile)
    one_task_for(data_dir, tasks, profile)
    stage.check_options(profile, allow_absent=allow_absent, allow_part=allow_part)
    if dry_run:
        _costs(tasks, profile, data_dir, accept_licence, planned_for, as_json)
        return
    found: dict[str, dict[str, Any]] = {}
    trainable = True
    for name in tasks:
        card, path = registry.task_card(name)
        raw = data_dir
        if profile != "sample":
            wanted = raw is None and (force or not stage.is_prepared(card, path, profile))
            note(fetch.licence_line(card, download=wanted and not accept_licence))
            if wanted:
                raw = fetch.fetch(
                    card,
                    profile,
                    accept_licence=accept_licence,
                    progress=progress(),
                )
        folder = stage.prepare(
            card,
            path,
            profile,
            raw,
            allow_absent=allow_absent,
            allow_part=allow_part,
            force=force,
            progress=progress(),
        )
        of = Task(card, profile, folder)
        found[card.name] = {"folder": str(folder), **of.counts}
        splits = of.counts["splits"].items()
        barren = [split for split, count in splits if not count["judged_retrieval"]]
        if barren and card.evidence != "given":
            what = f"no turn of {card.title}, split {' and '.join(barren)}, has a relevant passage"
            note(f"WARNING: {what}: retrieval can be neither trained nor scored on it")
            trainable = False
    if as_json:
        print_json([{"name": name, "profile": profile, **c} for name, c in found.items()])
        return
    for name, counts in found.items():
        display.show_counts(f"{name} ({profile})", counts)
        if counts.get("part"):
            note("to have the whole dataset, put all of its files there and prepare with --force")
        note(f"folder: {counts['folder']}")
    if trainable:
        words = ("run", "--task", tasks[0], "--system", "uniconv", "--profile", profile)
        next_step(command_of(*words))


def _costs(
    tasks: Sequence[str],
    profile: Profile,
    data_dir: Path | None,
    accept_licence: bool,
    system: str,
    as_json: bool,
) -> None:
    """What `prepare` would read and fetch, and what that and an index take; touches nothing."""
    from uniconv_bench import display, fetch, prepare

    found: list[dict[str, Any]] = []
    for name in tasks:
        card, path = registry.task_card(name)
        shipped = path.parent / "sample" / card.name if profile == "sample" else None
        plan = fetch.plan(card, profile, data_dir or shipped)
        ready = data_dir is None and prepare.is_prepared(card, path, profile)
        indexes = _indexes(card, profile, system)
        told = [cost.to_json() for cost in indexes]
        found.append({**plan.to_json(), "prepared": ready, "indexes": told})
        if not as_json:
            if plan.lines:
                rows = [line.to_row() for line in plan.lines]
                display.show_rows(rows, f"{card.title} ({profile})")
            waiting = not (ready or accept_licence or data_dir or shipped)
            note(fetch.licence_line(card, download=waiting))
            note("prepared already: nothing to do" if ready else plan.cost())
            for cost in indexes:
                note(f"index {cost.index} ({system}): {cost.told()}")
    if as_json:
        print_json(found)


def _indexes(card: TaskCard, profile: Profile, system: str) -> list[IndexCost]:
    """What each kind of index of a task's passages takes; nothing if their number is not known."""
    from uniconv_bench import planning

    passages = planning.passages_of(card, profile)
    dimension = planning.dimension_of(registry.system_card(system)[0], profile)
    if passages is None or dimension is None:
        return []
    rates = planning.measured()
    if math.isinf(rates.disk):
        note(planning.UNTIMED)
    return planning.index_costs(passages, dimension, rates)
