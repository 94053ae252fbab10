"""The command that conducts studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    JsonOption,
    Profile,
    ProfileOption,
    ResultsOption,
    command_of,
    expanded,
    next_step,
    note,
    print_json,
    print_rows,
    progress,
)
from uniconv_bench.errors import UserError
from uniconv_bench.files import require_writable


def list_studies(as_json: JsonOption = False) -> None:
    """List the studies: a question each, and the conditions that answer it."""
    rows = [{"name": row["name"], "title": row["title"]} for row in registry.headings("study")]
    print_rows(rows, "Studies", as_json, "uniconv-bench experiment reliability")


def experiment(
    name: Annotated[list[str], typer.Argument(help="Names or cards of studies, or 'all'.")],
    profile: ProfileOption = "sample",
    results: ResultsOption = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained and run, and for how long.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Conduct studies: run their conditions, compare them, draw a figure and say what was found.

    Every stage is kept in the cache, so a study that was stopped goes on where it was.
    """
    from uniconv_bench.experiments.pages import PAGE, kept
    from uniconv_bench.experiments.planning import Planner
    from uniconv_bench.experiments.study import conduct
    from uniconv_bench.outcomes import OUTCOME
    from uniconv_bench.progress import duration
    from uniconv_bench.records import STUDIES

    names = expanded("study", name)
    cards = {given: registry.study_card(given)[0] for given in names}
    if name == ["all"]:
        cards = {given: card for given, card in cards.items() if card.tasks.get(profile)}
    if not cards:
        raise UserError(f"no study has a task at profile {profile}", mend="list studies")
    if not dry_run:
        require_writable(results, "--results")
    planner = Planner(profile)
    plans = {name: planner.plan(card) for name, card in cards.items()}
    if name == ["all"]:  # what needs no training is there while the rest is still under way
        cards = dict(sorted(cards.items(), key=lambda item: plans[item[0]].trains))
    if len(cards) > 1:
        note(f"in all about {duration(sum(plan.seconds for plan in plans.values()))}")
    rows: list[dict[str, Any]] = []
    for given, card in cards.items():
        plan = plans[given]
        count = len(card.at(profile).conditions) * len(card.tasks.get(profile, ()))
        training = f"; adapters to be trained: {', '.join(plan.training)}" if plan.training else ""
        cost = f"about {duration(plan.seconds)}" if plan.seconds else "all cached"
        conditions = f"{count} condition{'s' * (count != 1)} on a task"
        note(f"{card.name} ({profile}): {conditions}, {cost}{training}")
        row = {
            "name": card.name,
            "conditions_times_tasks": count,
            "to_train": plan.training,
            "seconds": round(plan.seconds),
        }
        if not dry_run:
            outcome = conduct(card, profile, progress=progress())
            folder = results / STUDIES / profile / card.name
            outcome, written = kept(outcome, folder)
            row |= {"outcome": str(folder / OUTCOME), "reading": list(outcome.reading)}
            for sentence in outcome.reading:
                note(sentence)
            note(f"{card.name}: {folder / PAGE}" + ("" if written else " (as it was)"))
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    if dry_run:
        next_step(command_of("experiment", *names, profile=profile))
        return
    for row in rows:
        typer.echo(row["outcome"])
    next_step(_another(list(cards), profile))


def _another(done: list[str], profile: Profile) -> str:
    left = [name for name in registry.study_names() if name not in done]
    return command_of("experiment", left[0] if left else "all", profile=profile)
