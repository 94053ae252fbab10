"""QReCC with the judgements of SCAI-QReCC-21: JSON arrays of turns, JSON lines of web passages.

One turn of `scai-qrecc21-test-turns.json`. `Context` holds the earlier questions REWRITTEN; what
the user typed at turn 1 was "Who looked after it?", about a page that the reader cannot see:

    {"Conversation_no": 7, "Turn_no": 2, "Question": "For how long?",
     "Context": ["Who looked after Harrow Point Light?", "Ada Thorne did."],
     "Truth_rewrite": "For how long did Ada Thorne look after Harrow Point Light?",
     "Truth_answer": "Thirty-one years.",
     "Truth_passages": ["http://web.archive.org/web/20190901id_/https://x.example/harrow_p3"],
     "Answer_URL": "https://x.example/harrow", "Conversation_source": "quac"}

and a line of `wayback/<any name>.jsonl` (likewise `commoncrawl/`, `wayback-backfill/`):

    {"id": "http://web.archive.org/web/20190901id_/https://x.example/harrow_p3",
     "contents": "Ada Thorne looked after the lamp for thirty-one years."}
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import locate, present, read_json, read_jsonl

FILES = {
    "train": ("scai-qrecc21-training-turns.json",),
    "test": ("scai-qrecc21-test-turns.json",),
}
FOLDERS = ("commoncrawl", "wayback", "wayback-backfill")


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; a conversation's turns stand together in the file."""
    path = locate(raw, *FILES[split])
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError("not a JSON array of turns", where=path)
    placed = [(f"{path}, record {number}", row) for number, row in enumerate(rows, 1)]
    for number, group in groupby(
        placed, key=lambda item: field(item[1], "Conversation_no", int, item[0])
    ):
        yield _conversation(str(number), group)


def passages(raw: Path) -> Iterator[Passage]:
    """The web passages of every folder that is there; they have no titles."""
    paths = [path for folder in FOLDERS for path in sorted((raw / folder).glob("*.jsonl"))]
    if not paths:
        mend = f"unpack the collection's folders {', '.join(FOLDERS)} there"
        raise UserError("no passages (*.jsonl)", where=raw, mend=mend)
    for path in paths:
        for line, row in read_jsonl(path):
            where = f"{path}, line {line}"
            yield Passage(field(row, "id", str, where), field(row, "contents", str, where))


def _conversation(conversation_id: str, rows: Iterator[tuple[str, Any]]) -> Conversation:
    turns: list[Turn] = []
    asked: dict[int, str] = {}
    for where, row in rows:
        number = field(row, "Turn_no", int, where)
        rewrite = field(row, "Truth_rewrite", str, where)
        # The first question often leans on a page that nobody sees; papers ask its rewrite.
        query = rewrite if number == 1 else field(row, "Question", str, where)
        asked[number] = query
        answer = field(row, "Truth_answer", str, where).strip()
        turns.append(
            Turn(
                turn_id=f"{conversation_id}_{number}",
                conversation_id=conversation_id,
                number=number,
                query=query,
                history=_history(texts(row, "Context", where), asked, where),
                references=(answer,) if answer else (),
                gold=tuple(dict.fromkeys(p for p in texts(row, "Truth_passages", where) if p)),
                rewrite=rewrite,
            )
        )
    return Conversation(conversation_id, tuple(turns))


def _history(context: list[str], asked: dict[int, str], where: str) -> tuple[Utterance, ...]:
    """Context with its rewritten questions put back to what was asked.

    A question whose turn the file lacks keeps its rewritten form: nothing else is known of it.
    An empty answer says nothing and leaves no utterance.
    """
    if len(context) % 2:
        raise UserError("field Context does not alternate question and answer", where=where)
    history = []
    for i in range(0, len(context), 2):
        history.append(Utterance("user", asked.get(i // 2 + 1, context[i])))
        if context[i + 1].strip():
            history.append(Utterance("assistant", context[i + 1]))
    return tuple(history)
