"""Commands that do the work, one a stage, and `run`, which does all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uniconv_bench import registry
from uniconv_bench.commands.shared import (
    DataOption,
    JsonOption,
    LimitOption,
    ProfileOption,
    ResultsOption,
    RetrainOption,
    SystemOption,
    TaskOption,
    announce,
    announce_all,
    command_of,
    first_process,
    next_step,
    note,
    one_task_for,
    pairs_of,
    print_json,
    print_paths,
    progress,
    several_processes,
    systems_of,
)
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_json, require_folder, require_writable

if TYPE_CHECKING:
    from uniconv_bench.records import ResultRecord


def train(
    system: SystemOption,
    profile: ProfileOption = "sample",
    retrain: RetrainOption = False,
    tracker: Annotated[
        Literal["tensorboard", "trackio"] | None,
        typer.Option(help="Tell this tracker of every step too; its files go into the cache."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Folder for a figure of the loss terms of each adapter, step by step."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the adapters of a system; nothing to do where fitting ones are shipped or cached."""
    from uniconv_bench import evaluate, plots
    from uniconv_bench.training_cards import TERMS

    if plot is not None:
        plots.require_matplotlib()

    rows = []
    trained: set[str] | None = set() if retrain else None
    for name in systems_of(system, profile):
        card, _ = registry.system_card(name)
        tasks = [t for training in card.on(profile).adapters.values() for t in training.tasks]
        if tasks:
            announce("train", tasks[0], name, profile, None, stages=("train",), retrain=trained)
        found = evaluate.train(name, profile, retrain=trained, tracker=tracker, progress=progress())
        rows += [{"name": name, "adapter": a, "folder": str(f)} for a, f in found.items()]
        if plot is not None and first_process():
            for adapter, folder in found.items():
                report = read_json(folder / "training.json")
                note(f"  {plots.training(report, TERMS, plot / f'{name}.{adapter}')}")
    if several_processes():
        from uniconv_bench.uniconv.processes import Processes

        Processes.parted()
    command = command_of("run", "--task", "all", "--system", system[0], profile=profile)
    print_paths(rows, "folder", as_json, command)


def encode(
    task: TaskOption,
    system: SystemOption,
    profile: ProfileOption = "sample",
    as_json: JsonOption = False,
) -> None:
    """Embed the passages of a task; several processes at once share the work.

    Start it as often as there are GPUs, by hand or as `accelerate launch -m uniconv_bench encode`.
    """
    from uniconv_bench import evaluate

    rows = []
    for one, other in pairs_of(task, system, profile, None):
        path = evaluate.encode(one, other, profile, progress=progress())
        rows.append({"task": one, "system": other, "index": str(path)})
    command = command_of("retrieve", "--task", one, "--system", other, profile=profile)
    print_paths(rows, "index", as_json, command)


def retrieve(
    task: TaskOption,
    system: SystemOption,
    profile: ProfileOption = "sample",
    limit: LimitOption = None,
    index: Annotated[
        Path | None,
        typer.Option(help="Folder of embeddings that `encode` made, perhaps elsewhere."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank passages for every test turn; writes TREC run files."""
    from uniconv_bench import evaluate

    rows = []
    pairs = pairs_of(task, system, profile, limit)
    if index is not None:
        if len(pairs) > 1:
            what = "--index holds the embeddings of one task by one system"
            raise UserError(what, mend="name one --task and one --system")
        require_folder(index, "--index")
    for one, other in pairs:
        announce("retrieve", one, other, profile, limit, stages=("train", "retrieve"))
        path = evaluate.retrieve(one, other, profile, limit=limit, index=index, progress=progress())
        rows.append({"task": one, "system": other, "run": str(path)})
    print_paths(
        rows, "run", as_json, command_of("score", "--task", one, "--run", path, profile=profile)
    )


def generate(
    task: TaskOption,
    system: SystemOption,
    profile: ProfileOption = "sample",
    limit: LimitOption = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Answer from this run file's passages.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer every test turn from its session and retrieved passages; writes JSON lines."""
    from uniconv_bench import evaluate

    pairs = pairs_of(task, system, profile, limit)
    if run_file is not None and len({one for one, _ in pairs}) > 1:
        raise UserError("--run holds the passages of one task", mend="name one --task")
    stages = ("train", "generate") if run_file else ("train", "retrieve", "generate")
    rows = []
    for one, other in pairs:
        announce("generate", one, other, profile, limit, stages=stages)
        path = evaluate.generate(
            one, other, profile, limit=limit, run=run_file, progress=progress()
        )
        rows.append({"task": one, "system": other, "answers": str(path)})
    command = command_of("score", "--task", one, "--answers", path, profile=profile)
    print_paths(rows, "answers", as_json, command)


def run(
    task: TaskOption,
    system: SystemOption,
    profile: ProfileOption = "sample",
    limit: LimitOption = None,
    retrain: RetrainOption = False,
    data_dir: DataOption = None,
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
) -> None:
    """All stages in order: prepare, train if no adapter fits, retrieve, answer, score, record."""
    from uniconv_bench import display, evaluate

    pairs = pairs_of(task, system, profile, limit)
    one_task_for(data_dir, sorted({one for one, _ in pairs}), profile)
    if limit is None:  # a limited record stays in the cache
        for name in sorted({registry.name_of("system", other) for _, other in pairs}):
            require_writable(results / profile / name, "--results")
    records: list[ResultRecord] = []
    trained: set[str] | None = set() if retrain else None
    if len(pairs) > 1:
        announce_all(pairs, profile, limit, trained)
    for one, other in pairs:
        announce("run", one, other, profile, limit, data_dir=data_dir, retrain=trained)
        record, path = evaluate.run(
            one,
            other,
            profile,
            limit=limit,
            data_dir=data_dir,
            retrain=trained,
            results=results,
            progress=progress(),
        )
        records.append(record)
        if not as_json:
            display.show_record(record)
        note(f"record: {path}")
    if as_json:
        rows = [record.model_dump(mode="json") for record in records]
        print_json(rows[0] if len(rows) == 1 else rows)
    if records[-1].limit is None:
        next_step(command_of("table", "--profile", profile, "--results", results))
    else:  # a limited record enters no table
        next_step(command_of("run", "--task", one, "--system", other, "--profile", profile))
