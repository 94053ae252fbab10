"""How a dialogue is shown: streamed for people, or one JSON object a turn for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from uniconv_bench.conversation import Utterance
from uniconv_bench.dialogue import Exchange

SHORT = 60
"""Characters of a passage beside its score."""


class Screen(Protocol):
    """What a dialogue is shown on."""

    def answer(self, exchange: Exchange) -> None:
        """Retrieves and answers, showing it as it comes; a stop leaves what there is."""

    def why(self, exchange: Exchange) -> None:
        """The prompt as the model got it."""

    def passages(self, exchange: Exchange) -> None:
        """What the answer is from, in full."""

    def history(self, said: Sequence[Utterance]) -> None:
        """What was said so far."""

    def told(self, command: str, lines: Iterable[str]) -> None:
        """A command that has nothing else to show is done."""


def typed(prompt: str) -> Iterator[str]:
    """Lines from a person or a pipe, without empty ones, to the end of the input.

    At a terminal, an interrupt gives up the line that is being typed.
    """
    person = sys.stdin.isatty()
    if person:
        import readline  # noqa: F401  (arrow keys and earlier lines)
    while True:
        try:
            line = input(prompt if person else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not person:
                raise
            sys.stdout.write("\n")
            continue
        if line:
            yield line


class Terminal:
    """For people. Texts come from data and models: brackets in them are no markup."""

    def __init__(self) -> None:
        self._console = Console(markup=False, highlight=False, emoji=False)

    def answer(self, exchange: Exchange) -> None:
        """See `Screen`; the passages stand below the answer."""
        if not sys.stdin.isatty():  # else it stands there already
            self._console.print(Text(f"> {exchange.turn.query}", style="bold"), soft_wrap=True)
        begun = perf_counter()
        exchange.retrieve()
        found = perf_counter() - begun
        self._console.print(Text(f"{exchange.speaker.name}: ", style="cyan"), end="")
        try:
            for piece in exchange.say():
                self._console.print(Text(piece), end="", soft_wrap=True)
        finally:
            self._console.print()
        self._ranking(exchange)
        whole = perf_counter() - begun
        line = f"  retrieved in {found:.2f} s, answered in {whole - found:.2f} s"
        self._console.print(Text(line, style="dim"))

    def why(self, exchange: Exchange) -> None:
        """See `Screen`."""
        self._console.print(Text(exchange.shown()), soft_wrap=True)

    def passages(self, exchange: Exchange) -> None:
        """See `Screen`."""
        for number, (passage, (_, score)) in enumerate(
            zip(exchange.passages, exchange.ranking, strict=True), 1
        ):
            title = f"[{number}] {passage.passage_id}  {score:.4f}"
            self._console.print(Text(title, style="bold"), soft_wrap=True)
            self._console.print(Text(passage.contents), soft_wrap=True)

    def history(self, said: Sequence[Utterance]) -> None:
        """See `Screen`."""
        for one in said:
            line = Text.assemble((f"{one.role}: ", "bold"), one.text)
            self._console.print(line, soft_wrap=True)

    def told(self, command: str, lines: Iterable[str]) -> None:
        """See `Screen`."""
        for line in lines:
            self._console.print(Text(line, style="dim"), soft_wrap=True)

    def _ranking(self, exchange: Exchange) -> None:
        if not exchange.ranking:
            self._console.print(Text("  no passages", style="dim"))
            return
        table = Table(header_style="bold", box=SIMPLE_HEAD)
        table.add_column("", justify="right")
        table.add_column("score", justify="right")
        table.add_column("passage", overflow="fold")
        table.add_column("")
        for number, (passage, (_, score)) in enumerate(
            zip(exchange.passages, exchange.ranking, strict=True), 1
        ):
            gold = passage.passage_id in exchange.turn.gold
            start = " ".join(passage.contents.split())[:SHORT]
            cells = Text.assemble(start, "\n", (passage.passage_id, "dim"))
            table.add_row(f"{number}", f"{score:.4f}", cells, Text("relevant" if gold else ""))
        self._console.print(table)


class JsonLines:
    """For programs: an object a line, each with `turn_id` or `command`."""

    def answer(self, exchange: Exchange) -> None:
        """See `Screen`; `seconds` are counted from the question."""
        begun = perf_counter()
        exchange.retrieve()
        seconds = {"retrieved": perf_counter() - begun}
        try:
            for _ in exchange.say():
                seconds.setdefault("first_piece", perf_counter() - begun)
        finally:
            seconds["answered"] = perf_counter() - begun
            self._write(
                turn_id=exchange.turn.turn_id,
                system=exchange.speaker.name,
                query=exchange.turn.query,
                passages=_rows(exchange),
                answer=exchange.answer,
                seconds={name: round(value, 3) for name, value in seconds.items()},
            )

    def why(self, exchange: Exchange) -> None:
        """See `Screen`."""
        self._write(command="why", prompt=exchange.shown())

    def passages(self, exchange: Exchange) -> None:
        """See `Screen`."""
        texts = [{"title": p.title, "text": p.text} for p in exchange.passages]
        rows = [row | text for row, text in zip(_rows(exchange), texts, strict=True)]
        self._write(command="passages", passages=rows)

    def history(self, said: Sequence[Utterance]) -> None:
        """See `Screen`."""
        self._write(command="history", history=[{"role": u.role, "text": u.text} for u in said])

    def told(self, command: str, lines: Iterable[str]) -> None:
        """See `Screen`."""
        self._write(command=command, lines=list(lines))

    def _write(self, **row: Any) -> None:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _rows(exchange: Exchange) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "passage_id": passage_id,
            "score": score,
            "relevant": passage_id in exchange.turn.gold if exchange.turn.gold else None,
        }
        for rank, (passage_id, score) in enumerate(exchange.ranking, 1)
    ]
