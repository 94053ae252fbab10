"""ChatRAG-Bench's rows, each with its own contexts: one reader for all of its configurations.

One row of `test.json` (`dev.json` for INSCIT and TopiOCQA), a JSON array in a folder of its own for
each configuration; further fields (`document`, `ground_truth_ctx`) are passed over:

    [{"messages": [{"role": "user", "content": "Who built Harrow Point Light?"},
                   {"role": "assistant", "content": "Ada Thorne built it."},
                   {"role": "user", "content": "When was she born?"}],
      "ctxs": [{"title": "Ada Thorne", "text": "Ada Thorne was born in 1801 in Port Ember."},
               {"title": "Harrow Point Light", "text": "The tower measures 31 metres."}],
      "answers": ["In 1801."], "document": "12"}]

The protocol gives a generator the first five of `ctxs`. They have no ids, so each passage is named
by its content. Rows have no conversation either: those that open with the same message are one,
until a turn number comes again, which opens another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Role, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import locate, present, read_json

FILES = {"dev": ("dev.json",), "test": ("test.json",)}
TOP = 5
"""Contexts that the benchmark's own scripts show a generator (`--num-ctx`)."""
NO_ANSWER = "Sorry. I cannot find the answer based on the context."
"""What stands for an unanswerable question: as the first answer it is the reference; behind others
it was added by the benchmark, whose own script takes it away again (for INSCIT)."""
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant"}


def splits(raw: Path) -> tuple[str, ...]:
    """The split whose file is there; every configuration has one."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in the order in which they open."""
    found: dict[str, dict[int, Turn]] = {}
    newest: dict[str, str] = {}
    for where, row in _rows(raw, split):
        history, query = _messages(row, where)
        opening = _digest(history[0].text if history else query)
        number = 1 + sum(utterance.role == "user" for utterance in history)
        name = newest.setdefault(opening, opening)
        if number in found.get(name, ()):
            name = newest[opening] = f"{opening}-{sum(n.startswith(opening) for n in found) + 1}"
        answers = texts(row, "answers", where)
        found.setdefault(name, {})[number] = Turn(
            turn_id=f"{name}_{number}",
            conversation_id=name,
            number=number,
            query=query,
            history=history,
            references=_references(answers),
            kind="unanswerable" if answers[:1] == [NO_ANSWER] else "answer",
            given=tuple(dict.fromkeys(passage.passage_id for passage in _contexts(row, where))),
        )
    for name, turns in found.items():
        yield Conversation(name, tuple(turns.values()))


def passages(raw: Path) -> Iterator[Passage]:
    """The distinct passages that are given, in order of first appearance."""
    seen: set[str] = set()
    for split in splits(raw):
        for where, row in _rows(raw, split):
            for passage in _contexts(row, where):
                if passage.passage_id not in seen:
                    seen.add(passage.passage_id)
                    yield passage


def _rows(raw: Path, split: str) -> Iterator[tuple[str, Any]]:
    path = locate(raw, *FILES[split])
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError("not a JSON array of rows", where=path)
    for number, row in enumerate(rows, 1):
        yield f"{path}, record {number}", row


def _messages(row: Any, where: str) -> tuple[tuple[Utterance, ...], str]:
    """What was said before, and the current query; an empty message says nothing."""
    said = []
    for message in field(row, "messages", list, where):
        role = field(message, "role", str, where)
        if role not in ROLES:
            raise UserError(f"field role is {role!r}, none of {', '.join(ROLES)}", where=where)
        said.append(Utterance(ROLES[role], field(message, "content", str, where)))
    if not said or said[-1].role != "user":
        raise UserError("field messages does not end with the user's query", where=where)
    return tuple(u for u in said[:-1] if u.text.strip()), said[-1].text


def _contexts(row: Any, where: str) -> list[Passage]:
    """The passages that are given with a row."""
    found = []
    for context in field(row, "ctxs", list, where)[:TOP]:
        title, text = field(context, "title", str, where), field(context, "text", str, where)
        found.append(Passage(f"c{_digest(f'{title}{chr(10)}{text}')}", text, title))
    if not found:
        raise UserError("field ctxs is empty: nothing is given", where=where)
    return found


def _references(answers: list[str]) -> tuple[str, ...]:
    known = [answer for answer in answers if answer.strip()]
    return tuple(dict.fromkeys(a for i, a in enumerate(known) if i == 0 or a != NO_ANSWER))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
