"""Commands that only look: list, show, doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    JsonOption,
    next_step,
    note,
    print_json,
    print_rows,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
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
    """A dataset's card, its counts where it is prepared, and a sample conversation."""
    from uniconv_bench import display
    from uniconv_bench.cards import PROFILES
    from uniconv_bench.prepare import is_prepared
    from uniconv_bench.task import load_task

    card, path = registry.task_card(name)
    prepared: dict[str, Task] = {}
    try:
        registry.task_source(card, path)
        profiles = PROFILES
    except UserError as error:  # a card alone can be shown
        note(str(error))
        profiles = ()
    for profile in profiles:
        shipped = profile == "sample" and (path.parent / "sample" / card.name).is_dir()
        if shipped or (profile != "sample" and is_prepared(card, path, profile)):
            prepared[profile] = load_task(name, profile, progress=progress())
    counts = {profile: task.counts for profile, task in prepared.items()}
    if as_json:
        print_json({**card.model_dump(mode="json"), "path": str(path), "counts": counts})
        return
    turns = next(iter(prepared.values())).turns() if prepared else []
    conversation = [t for t in turns if t.conversation_id == turns[0].conversation_id]
    display.show_task(card, counts, conversation)
    if profiles:
        next_step(f"uniconv-bench run --task {name} --system uniconv")


def show_system(name: str, as_json: JsonOption = False) -> None:
    """A system's card with everything it inherits, and the source of every choice."""
    from uniconv_bench import display

    card, path = registry.system_card(name)
    if as_json:
        print_json({**card.model_dump(mode="json"), "path": str(path)})
        return
    display.show_system(card)
    next_step(f"uniconv-bench run --task qrecc --system {name}")


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine; exit code 1 if the main command would fail here."""
    from uniconv_bench import display
    from uniconv_bench.doctor import examine

    checks = examine(progress())
    if as_json:
        print_json([check.to_json() for check in checks])
    else:
        display.show_checks(checks)
    if any(check.needed and check.state == "missing" for check in checks):
        raise typer.Exit(1)
    next_step("uniconv-bench run --task qrecc --system uniconv")
