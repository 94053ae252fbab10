"""The command line: which commands there are, and how each ends.

Results go to stdout, progress and notes to stderr. Anything a person can cause ends in one line
that begins with `error:` and exit code 2; `--debug` shows where it came from.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from uniconv_bench import __version__
from uniconv_bench.commands import (
    board,
    cache,
    chat,
    evidence,
    files,
    look,
    prepare,
    results,
    stages,
    studies,
    submit,
)
from uniconv_bench.commands.shared import first_process, note, several_processes
from uniconv_bench.errors import UserError
from uniconv_bench.faults import explain
from uniconv_bench.offline import go_offline, is_offline
from uniconv_bench.stopping import STOPPED

ANYWHERE = ("--debug", "--offline")

COMMANDS: tuple[Callable[..., Any], ...] = (
    stages.run,
    prepare.prepare,
    files.export,
    stages.train,
    stages.encode,
    stages.retrieve,
    stages.generate,
    chat.chat,
    results.score,
    results.rescore,
    results.table,
    studies.experiment,
    evidence.compare,
    evidence.claims,
    evidence.reproduce,
    evidence.explain,
    evidence.report,
    look.doctor,
    cache.why,
)
GROUPS: Mapping[str, tuple[str, Mapping[str, Callable[..., Any]]]] = {
    "list": (
        "List tasks, systems, metrics or studies.",
        {
            "tasks": look.list_tasks,
            "systems": look.list_systems,
            "metrics": look.list_metrics,
            "studies": studies.list_studies,
        },
    ),
    "show": (
        "Show one task's or system's card.",
        {"task": look.show_task, "system": look.show_system},
    ),
    "submit": (
        "Describe, pack, check and verify a leaderboard submission.",
        {
            "card": submit.submit_card,
            "pack": submit.submit_pack,
            "check": submit.submit_check,
            "verify": submit.submit_verify,
        },
    ),
    "cache": (
        "What the cache holds, and what of it may go.",
        {"list": cache.cache_list, "prune": cache.cache_prune},
    ),
    "leaderboard": (
        "Recompute and render the leaderboard.",
        {"build": board.leaderboard_build, "serve": board.leaderboard_serve},
    ),
}

app = typer.Typer(
    name="uniconv-bench",
    help="Conversational search with one LLM: data, training, retrieval, answers, scores, tables.",
    epilog="Start with: uniconv-bench run --task qrecc --system uniconv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _command in COMMANDS:
    app.command()(_command)
for _name, (_help, _commands) in GROUPS.items():
    _group = typer.Typer(no_args_is_help=True, help=_help)
    for _under, _command in _commands.items():
        _group.command(_under)(_command)
    app.add_typer(_group, name=_name)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"uniconv-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, show the traceback. Works anywhere.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Make no connection at all. Works anywhere.")
    ] = False,
) -> None:
    if several_processes() and context.invoked_subcommand not in ("train", "encode"):
        what = f"{context.invoked_subcommand} runs in one process; a launcher started several"
        raise UserError(what, mend="launch train or encode alone, everything else goes without")
    if not first_process():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (for as long as the process lives)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code. Only a bug, or `--debug`, gets a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if "--offline" in given or is_offline():
        go_offline()
    if not debug:
        _quieten_libraries()
    _bear_any_sign()
    command = typer.main.get_command(app)
    try:
        code = command.main(
            [argument for argument in given if argument not in ANYWHERE],
            prog_name="uniconv-bench",
            standalone_mode=False,
        )
    except (Exception, KeyboardInterrupt) as error:
        if debug and explain(error) != "":  # as a group alone, which has shown its help
            raise
        if isinstance(error, (KeyboardInterrupt, typer.Abort)):
            code = 130
        elif isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        else:
            line = explain(error)
            if line is None:
                raise
            if not line:  # a group alone, which has shown its help
                return 0
            typer.echo(f"error: {line}", err=True)
            return 2
    if code == 130:
        note(STOPPED)
    return code or 0


def _nobody_reads() -> bool:
    """Whether whoever read our output had enough of it, as `head` has."""
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
        return bool(waiting.poll(0))
    except (OSError, ValueError):  # closed, or no pipe at all
        return True


def _bear_any_sign() -> None:
    """What a terminal or a pipe of another encoding cannot show, or sends, is no reason to stop."""
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


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
