"""Commands that only look: list, show, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    RESULTS,
    SUBMISSIONS,
    JsonOption,
    ResultsOption,
    command_of,
    next_step,
    note,
    print_json,
    print_rows,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.cards import Profile
    from uniconv_bench.task import Task


def list_tasks(as_json: JsonOption = False) -> None:
    """The datasets that can be run."""
    print_rows(registry.headings("task"), "Tasks", as_json, "uniconv-bench show task NAME")


def list_systems(as_json: JsonOption = False) -> None:
    """The systems that can be run."""
    print_rows(registry.headings("system"), "Systems", as_json, "uniconv-bench show system NAME")


def list_metrics(as_json: JsonOption = False) -> None:
    """The metrics, each with its definition."""
    from uniconv_bench.metrics import METRICS

    rows = [asdict(metric) for metric in METRICS]
    if not as_json:
        rows = [{k: row[k] for k in ("name", "stage", "definition")} for row in rows]
    print_rows(rows, "Metrics", as_json, "uniconv-bench score --help")


def show_task(name: str, as_json: JsonOption = False) -> None:
    """A dataset's card: what it is, a turn that shows it, sizes, licence, citation, traps."""
    from uniconv_bench import cardview
    from uniconv_bench.cards import PROFILES
    from uniconv_bench.commands.example import example_of
    from uniconv_bench.prepare import is_prepared, sample_of
    from uniconv_bench.task import load_task

    card, path = registry.task_card(name)
    try:
        registry.task_source(card, path)
    except UserError as error:  # a card alone can be shown
        note(str(error))
        there, shipped = [], False
    else:
        # A shipped sample is prepared in a second; whatever else may be there is only looked for.
        shipped = not path.is_dir() and sample_of(card, path) is not None
        looked_for = [p for p in PROFILES if p != "sample" or path.is_dir()]
        there = [p for p in looked_for if is_prepared(card, path, p)]
    prepared: dict[Profile, Task] = {
        profile: load_task(name, profile, progress=progress())
        for profile in PROFILES
        if profile in there or (profile == "sample" and shipped)
    }
    counts: dict[str, Any] = {name: _counts(task) for name, task in prepared.items()}
    example = example_of(next(iter(prepared.values()))) if prepared else None
    if as_json:
        told = example.turn.to_json() if example else None
        print_json(
            {**card.model_dump(mode="json"), "path": str(path), "counts": counts, "example": told}
        )
        return
    cardview.show_task(card, counts, example)
    if prepared:
        profile = next(iter(prepared))
        next_step(command_of("run", "--task", name, "--system", "uniconv", profile=profile))
    else:
        source = () if path.is_dir() else ("--profile", "mini", "--data-dir", "FOLDER")
        next_step(command_of("prepare", "--task", name, *source))


def _counts(task: Task) -> dict[str, Any]:
    """What was counted at preparation, and the unanswerable turns of each split."""
    splits = {
        split: numbers | {"unanswerable": sum(t.kind == "unanswerable" for t in task.turns(split))}
        for split, numbers in task.counts["splits"].items()
    }
    return task.counts | {"splits": splits}


def show_system(name: str, as_json: JsonOption = False) -> None:
    """A system's card with everything it inherits, and the source of every choice."""
    from uniconv_bench import cardview

    card, path = registry.system_card(name)
    if as_json:
        print_json({**card.model_dump(mode="json"), "path": str(path)})
        return
    cardview.show_system(card)
    next_step(command_of("run", "--task", "qrecc", "--system", name))


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every file that carries a digest.")
    ] = False,
    results: ResultsOption = RESULTS,
    submissions: Annotated[Path, typer.Option(help="Folder of submissions.")] = SUBMISSIONS,
    as_json: JsonOption = False,
) -> None:
    """Check this machine; exit code 1 if the main command would fail here or a file is broken."""
    from uniconv_bench import display
    from uniconv_bench.doctor import examine

    checks = examine(progress())
    if deep:
        from uniconv_bench.deep import read_all

        checks += read_all(results, submissions)
    if as_json:
        print_json([check.to_json() for check in checks])
    else:
        display.show_checks(checks)
    if any(check.needed and check.state in ("missing", "broken") for check in checks):
        raise typer.Exit(1)
    next_step("uniconv-bench run --task qrecc --system uniconv")
