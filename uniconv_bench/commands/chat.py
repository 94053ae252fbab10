"""The command `chat`: a person, or a script, talks to a system on a prepared task."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from uniconv_bench import stopping
from uniconv_bench.commands.shared import JsonOption, ProfileOption, note, progress
from uniconv_bench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from uniconv_bench.dialogue import Dialogue, Exchange
    from uniconv_bench.screen import Screen

COMMANDS = {
    "/why": "the prompt as the model got it",
    "/passages": "what the answer is from, in full",
    "/swap SYSTEM": "ask another system the same turn and go on with it",
    "/history": "what was said so far",
    "/reset": "begin anew",
    "/help": "this list",
    "/quit": "end; so does Ctrl-D. Ctrl-C stops an answer",
}


def chat(
    task: Annotated[str, typer.Option("--task", "-t", help="Name or card.")],
    system: Annotated[str, typer.Option("--system", "-s", help="Name or card.")],
    profile: ProfileOption = "sample",
    turn: Annotated[
        str | None, typer.Option(help="Go on from the history of this test turn.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Talk to a system on a task: answers as they come, with their passages. /help lists more.

    Questions may come from a pipe, one a line; then the first error ends it. Nothing is recorded.
    """
    from uniconv_bench.dialogue import Dialogue
    from uniconv_bench.estimate import estimate
    from uniconv_bench.progress import duration
    from uniconv_bench.screen import JsonLines, Terminal, typed

    told = progress()
    cost = estimate(task, system, profile, 1, progress=told)
    seconds = cost["train"] + cost["retrieve"]
    note(f"chat with {system} on {task} ({profile}); about {duration(seconds)} to load and encode")
    note("what is trained or encoded is kept: the next time it takes seconds")
    screen: Screen = JsonLines() if as_json else Terminal()
    dialogue = Dialogue(task, system, profile, told, turn)
    if dialogue.start:
        screen.history(dialogue.history)
        note(f"its own next question: {dialogue.start.query}")
    stopping.go_on()
    for line in typed("" if as_json else "> "):
        if line == "/quit":
            return
        try:
            _do(line, dialogue, screen)
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            note(f"error: {error}")


def _do(line: str, dialogue: Dialogue, screen: Screen) -> None:
    """What a line asks for."""
    if not line.startswith("/"):
        _answer(dialogue.ask(line), dialogue, screen)
        return
    command, _, name = line.partition(" ")
    if command == "/swap":
        if not name.strip():
            raise UserError("/swap names no system", mend="type /swap SYSTEM")
        exchange = dialogue.swap(name.strip())
        if exchange:
            _answer(exchange, dialogue, screen)
    elif command == "/history":
        screen.history(dialogue.history)
    elif command == "/reset":
        dialogue.reset()
        screen.told("reset", ["begun anew"])
    elif command == "/help":
        screen.told("help", [f"{name:<13} {what}" for name, what in COMMANDS.items()])
    elif command in ("/why", "/passages"):
        if dialogue.last is None:
            raise UserError(f"{command} is about an answer, and there is none yet")
        (screen.why if command == "/why" else screen.passages)(dialogue.last)
    else:
        raise unknown_name("command", command, [known.partition(" ")[0] for known in COMMANDS])


def _answer(exchange: Exchange, dialogue: Dialogue, screen: Screen) -> None:
    """An answer that is stopped stands as far as it got; one that never began does not."""
    try:
        screen.answer(exchange)
    except KeyboardInterrupt:
        note("stopped")
        if not exchange.answer:
            return
    dialogue.keep(exchange)
