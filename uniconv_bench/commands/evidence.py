"""Commands on what records say together: systems compared, claims judged, figures reproduced."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    JsonOption,
    ProfileOption,
    command_of,
    next_step,
    note,
    print_json,
)

if TYPE_CHECKING:
    from uniconv_bench.comparison import Comparison

RESULTS = Path("results")
RunsOption = Annotated[
    list[Path],
    typer.Option("--results", help="Folder of records; repeat to pool runs of other seeds."),
]


def compare(
    one: Annotated[str, typer.Argument(help="A system.")],
    other: Annotated[str, typer.Argument(help="The one to compare it with.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Name or card.")],
    profile: ProfileOption = "sample",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="The first orders the turns.")
    ] = None,
    results: RunsOption = [RESULTS],  # noqa: B006  (typer copies it)
    as_json: JsonOption = False,
) -> None:
    """Two systems on the same turns: differences, how sure they are, and the turns that moved."""
    from uniconv_bench import comparison

    name = registry.name_of("task", task)
    first, second = (
        comparison.measured(registry.name_of("system", system), name, profile, results)
        for system in (one, other)
    )
    found = comparison.compare(first, second, metric or ())
    if as_json:
        print_json(_plain(found))
        return
    from uniconv_bench.display import show_comparison

    show_comparison(found)
    next_step(command_of("claims", profile=profile))


def _plain(found: Comparison) -> dict[str, Any]:
    record = found.one.record
    return {
        "task": record.task.name,
        "profile": record.task.profile,
        "backbones": [side.record.system.backbone for side in (found.one, found.other)],
        "systems": [side.record.system.name for side in (found.one, found.other)],
        "seeds": [
            {"runs": len(side.records), "spread": dict(side.seeds)}
            for side in (found.one, found.other)
        ],
        "metrics": [
            {
                "name": row.metric,
                "means": row.means,
                **asdict(row.difference),
                "p": row.difference.p,
                "p_holm": row.p,
                "told_apart": row.told_apart,
            }
            for row in found.metrics
        ],
        "moved": [asdict(turn) for turn in found.moved],
    }


def claims(
    profile: ProfileOption = "sample",
    results: RunsOption = [RESULTS],  # noqa: B006  (typer copies it)
    file: Annotated[
        Path | None, typer.Option(help="Claims of your own (uniconv_bench/claims.toml).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write a Markdown page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge the paper's claims by the records of one profile, and say what would settle each."""
    from uniconv_bench import claims as of
    from uniconv_bench.files import atomic_write, require_folder

    for folder in results:
        require_folder(folder / profile, "--results")
    answers = of.judge(of.read_claims(file), profile, results)
    if output is not None:
        with atomic_write(output) as stream:
            stream.write(of.markdown(answers, profile))
        note(f"claims: {output}")
    if as_json:
        print_json([{"profile": profile, **of.plain(answer)} for answer in answers])
        return
    from uniconv_bench.display import show_claims

    show_claims(answers, profile)
    next_step(command_of("report", profile=profile))
