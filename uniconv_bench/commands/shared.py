"""What the commands share: their common options, where output goes, which pairs are meant."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from uniconv_bench import registry
from uniconv_bench.errors import UserError
from uniconv_bench.files import require_folder

if TYPE_CHECKING:
    from uniconv_bench.system import Progress

Profile = Literal["sample", "mini", "full"]
ProfileOption = Annotated[
    Profile,
    typer.Option(
        help="sample: shipped data, no network. mini: real turns, reduced corpus. "
        "full: the paper's setting."
    ),
]
TaskOption = Annotated[
    list[str], typer.Option("--task", "-t", help="Name or card; repeat for several, or 'all'.")
]
SystemOption = Annotated[
    list[str], typer.Option("--system", "-s", help="Name or card; repeat for several, or 'all'.")
]
LimitOption = Annotated[int | None, typer.Option(help="Only the first N test turns.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
RunsOption = Annotated[
    list[Path],
    typer.Option("--results", help="Folder of records; repeat to pool runs of other seeds."),
]
RESULTS = Path("results")
SUBMISSIONS = Path("leaderboards/submissions")
ResultsOption = Annotated[Path, typer.Option(help="Folder of result records.")]
RetrainOption = Annotated[bool, typer.Option(help="Train anew even if a fitting adapter is there.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder with the dataset's official files.")]


def note(line: str) -> None:
    """A line for the person, on stderr."""
    if first_process():
        typer.echo(line, err=True)


def next_step(command: str) -> None:
    """The command to try next."""
    note(f"next: {command}")


def print_json(value: Any) -> None:
    """A result for programs; where stdout cannot take every sign, with escapes for the others."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(value, indent=1, ensure_ascii=not unicode))


def print_rows(rows: Sequence[Mapping[str, Any]], title: str, as_json: bool, then: str) -> None:
    """Equal rows as JSON or as a table, then the command to try next."""
    if as_json:
        print_json(list(rows))
        return
    from uniconv_bench.display import show_rows

    show_rows(rows, title)
    next_step(then)


def progress() -> Progress:
    """Bars on stderr; of several processes the first alone shows them."""
    from uniconv_bench.progress import Bars, Silent

    return Bars() if first_process() else Silent()


def first_process() -> bool:
    """Whether this is the first, or the only one, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def several_processes() -> bool:
    """Whether a launcher started this one together with others."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def expanded(kind: registry.Kind, given: Sequence[str]) -> list[str]:
    """Names with `all` spelt out, each card opened: a wrong one stops before any work."""
    names: Callable[[], list[str]]
    card: Callable[[str], object]
    names, card = {
        "task": (registry.task_names, registry.task_card),
        "system": (registry.system_names, registry.system_card),
        "study": (registry.study_names, registry.study_card),
    }[kind]
    chosen: dict[str, None] = {}
    for name in given:
        chosen.update(dict.fromkeys(names() if name == "all" else [name]))
    for name in chosen:
        card(name)
    return list(chosen)


def tasks_of(given: Sequence[str], profile: Profile) -> list[str]:
    """As `expanded`; in profile `sample`, `all` leaves out tasks that ship none, and says which."""
    tasks = expanded("task", given)
    left_out = [n for n in tasks if profile == "sample" and n not in given and not _has_sample(n)]
    if left_out:
        note(f"left out of 'all', as they ship no sample: {', '.join(left_out)}")
    return [name for name in tasks if name not in left_out]


def systems_of(given: Sequence[str], profile: Profile) -> list[str]:
    """As `expanded`; `all` leaves out systems with no backbone at a profile, and says which."""
    systems = expanded("system", given)
    backbones = {name: registry.system_card(name)[0].backbone for name in systems}
    left_out = [n for n, b in backbones.items() if b and profile not in b and n not in given]
    if left_out:
        note(f"left out of 'all', as they have no backbone at {profile}: {', '.join(left_out)}")
    return [name for name in systems if name not in left_out]


def _has_sample(name: str) -> bool:
    from uniconv_bench.prepare import sample_of

    return sample_of(*registry.task_card(name)) is not None


def pairs_of(
    tasks: Sequence[str], systems: Sequence[str], profile: Profile, limit: int | None
) -> list[tuple[str, str]]:
    """(task, system) of everything asked for, system by system."""
    if limit is not None and limit < 1:
        mend = "give 1 or more, or leave --limit out for all turns"
        raise UserError(f"--limit {limit} leaves no turn", mend=mend)
    ones, others = tasks_of(tasks, profile), systems_of(systems, profile)
    pairs = [(one, other) for other in others for one in ones]
    if len(pairs) > 1:
        note(f"{len(ones)} tasks x {len(others)} systems: {len(pairs)} pairs")
    return pairs


def one_task_for(data_dir: Path | None, tasks: Sequence[str], profile: Profile) -> None:
    """Refuses to read one dataset's files as several datasets, as the shipped sample, or at all."""
    if data_dir is not None and len(tasks) > 1:
        raise UserError("--data-dir holds the files of one task", mend="name one --task")
    if data_dir is not None and profile == "sample":
        what = "--data-dir has no place in profile sample, which is the data shipped with a task"
        raise UserError(what, where=data_dir, mend="add --profile mini or full")
    if data_dir is not None:
        require_folder(data_dir, "--data-dir")


def announce(
    stage: str,
    task: str,
    system: str,
    profile: Profile,
    limit: int | None,
    *,
    stages: Collection[str] = ("train", "retrieve", "generate", "score"),
    data_dir: Path | None = None,
    retrain: Collection[str] | None = None,
) -> None:
    """Says what is about to be done and how long it may take on this machine."""
    from uniconv_bench.estimate import estimate
    from uniconv_bench.progress import Silent, duration

    told = Silent() if data_dir is None else progress()  # reading official files takes long
    seconds = estimate(
        task, system, profile, limit, data_dir=data_dir, retrain=retrain, progress=told
    )
    parts = [f"{name} {duration(s)}" for name, s in seconds.items() if s and name in stages]
    cost = ", ".join(parts) or "all cached"
    note(f"{stage} {system} on {task} ({profile}); to do, about: {cost}")


def announce_all(
    pairs: Sequence[tuple[str, str]],
    profile: Profile,
    limit: int | None,
    retrain: Collection[str] | None,
) -> None:
    """Says what several pairs take together, before the first of them begins."""
    from uniconv_bench.estimate import plan
    from uniconv_bench.progress import duration

    whole = plan(pairs, profile, limit, retrain=retrain, progress=progress())
    if not whole.seconds:
        note("in all: nothing to do, all cached")
        return
    training = f"; adapters to be trained: {', '.join(whole.adapters)}" if whole.adapters else ""
    memory = f" ({'; '.join(whole.memory)})" if whole.memory else ""
    note(f"in all about {duration(whole.seconds)}{training}{memory}")


def print_paths(rows: Sequence[Mapping[str, Any]], key: str, as_json: bool, then: str) -> None:
    """Equal rows as JSON, or the path in each, bare and whole: a table would fold it."""
    if as_json:
        print_json(list(rows))
        return
    for row in rows:
        typer.echo(row[key])
    next_step(then)


def command_of(*words: str | Path, profile: Profile = "sample") -> str:
    """A command line that can be pasted."""
    line = shlex.join(["uniconv-bench", *map(str, words)])
    return line if profile == "sample" else f"{line} --profile {profile}"
