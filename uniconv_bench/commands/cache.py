"""Commands on the cache: what is in it, what may go, and why a stage is not found there."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uniconv_bench.commands.shared import (
    JsonOption,
    Profile,
    ProfileOption,
    command_of,
    next_step,
    note,
    print_json,
    progress,
)
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.inventory import Holding

SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
AGES = {"h": 3600, "d": 86400, "w": 604800}
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def cache_list(as_json: JsonOption = False) -> None:
    """What the cache holds: size, when it was last used, and what was made from it."""
    from uniconv_bench import display, inventory

    found = inventory.holdings()
    if as_json:
        print_json([one.to_json() for one in found])
        return
    display.show_rows([_row(one) for one in found], "Cache")
    next_step("uniconv-bench cache prune --keep 10GB --dry-run")


def cache_prune(
    keep: Annotated[
        str | None, typer.Option(help="Least recently used goes until so much is left: 10GB.")
    ] = None,
    unused: Annotated[
        str | None, typer.Option(help="What nobody used for so long goes: 12h, 30d, 4w.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="What stopped processes left goes.")
    ] = False,
    broken: Annotated[
        bool, typer.Option("--broken", help="What rotted goes; reads all there is.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what can be made again; never what another process makes or uses."""
    from rich.filesize import decimal

    from uniconv_bench import deep, display, inventory

    if keep is None and unused is None and not unfinished and not broken:
        mend = "add --keep 10GB, --unused 30d, --unfinished or --broken"
        raise UserError("nothing says what should go", mend=mend)
    going = inventory.to_prune(
        inventory.holdings(),
        keep=None if keep is None else _amount(keep, SIZES, "--keep"),
        unused=None if unused is None else _amount(unused, AGES, "--unused"),
        unfinished=unfinished,
        now=time.time(),
        broken=deep.broken_folders() if broken else (),
    )
    if not as_json and going:
        display.show_rows([_row(one) for one in going], "To go")
    if going and not dry_run:
        size = decimal(sum(one.bytes for one in going))
        if not yes:
            if not sys.stdin.isatty():
                raise UserError(
                    "nobody is there to be asked", mend="add --yes, or --dry-run to see"
                )
            typer.confirm(f"remove these {len(going)} ({size})?", abort=True, err=True)
        gone = inventory.prune(going)
        if len(gone) < len(going):
            note(f"left, as another process has taken them up: {len(going) - len(gone)}")
        going = gone
    if as_json:
        print_json([one.to_json() for one in going])
        return
    size = decimal(sum(one.bytes for one in going))
    note(f"{'would remove' if dry_run else 'removed'}: {len(going)}, {size}")
    next_step("uniconv-bench cache list")


def _row(one: Holding) -> dict[str, str]:
    from rich.filesize import decimal

    from uniconv_bench.progress import duration

    others = f" and {len(one.used_by) - 1} more" if one.used_by[1:] else ""
    return {
        "what": one.name,
        "size": decimal(one.bytes),
        "unused for": duration(time.time() - one.used),
        "state": one.state,
        "used by": f"{one.used_by[0]}{others}" if one.used_by else "",
    }


def _amount(text: str, units: dict[str, int], option: str) -> int:
    pattern = rf"([0-9]{{1,15}}(?:\.[0-9]{{1,15}})?)\s*({'|'.join(units)})"
    found = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if found is None:
        known = ", ".join(f"10{unit}" for unit in units)
        raise UserError(f"{option} {text!r} is no amount", mend=f"write it as one of {known}")
    unit = {name.lower(): factor for name, factor in units.items()}[found[2].lower()]
    return int(float(found[1]) * unit)


def why(
    task: Annotated[str, typer.Option("--task", "-t", help="Name or card.")],
    system: Annotated[str, typer.Option("--system", "-s", help="Name or card.")],
    profile: ProfileOption = "sample",
    stage: Annotated[
        Literal["train", "encode", "retrieve", "generate", "score"] | None,
        typer.Option(help="Of this stage alone."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N test turns.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which stages are cached and, of the first that is not, in what the nearest differs."""
    from uniconv_bench import display
    from uniconv_bench.evaluation import Evaluation
    from uniconv_bench.reasons import reason, reasons

    evaluation = Evaluation.of(task, system, profile, limit, progress())
    found = list(reasons(evaluation)) if stage is None else reason(evaluation, stage)
    if as_json:
        print_json([one.to_json() for one in found])
        return
    for one in found:
        where = one.folder or "not cached" + ("" if one.nearest else ", and nothing like it")
        typer.echo(f"{one.stage} {one.what}: {where}")
        if one.nearest:
            rows = [{"field": f, "there": old, "here": new} for f, old, new in one.differing]
            display.show_rows(rows, f"nearest: {one.nearest}")
    _then(task, system, profile)


def _then(task: str, system: str, profile: Profile) -> None:
    next_step(command_of("run", "--task", task, "--system", system, profile=profile))
