"""FaithDial: dialogues whose every wizard turn carries the knowledge it must be faithful to.

One dialogue of `test.json`; the history ends with the seeker's words and opens with either
speaker, and `original_response` (empty or null where it was kept) may say what is not so:

    [{"utterances": [
       {"history": ["My aunt keeps a lighthouse.", "How high is Harrow Point Light?"],
        "speaker": "Wizard", "knowledge": "Harrow Point Light stands 31 metres high.",
        "original_response": "It is 90 metres, the highest of all!",
        "response": "It is 31 metres high, I believe.",
        "BEGIN": ["Hallucination", "Entailment"], "VRM": ["Edification"]}]}]

The hub's rows are one for each wizard utterance, as JSON lines (`test.jsonl`) or an array; a
dialogue's rows stand together, and give the same turns:

    {"dialog_idx": 0, "history": ["My aunt keeps a lighthouse.", "How high is Harrow Point Light?"],
     "knowledge": "Harrow Point Light stands 31 metres high.",
     "original_response": "It is 90 metres, the highest of all!",
     "response": "It is 31 metres high, I believe.",
     "BEGIN": ["Hallucination", "Entailment"], "VRM": ["Edification"]}

There is no corpus in the release. The retrieval form here takes the distinct knowledge strings of
all splits as passages; each is named by its own digest, so that one split can be read alone. Fields
not read are not checked, and unknown ones are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from uniconv_bench.conversation import Conversation, Passage, Role, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import DOWNLOAD, locate, present, read_json, read_jsonl

FILES = {split: (f"{split}.json", f"{split}.jsonl") for split in ("train", "valid", "test")}
PREPARED = ("train", "test")
"""The splits that are trained and tested on; `valid` lends its knowledge to the pool."""
WIZARD = "Wizard"


class Response(NamedTuple):
    """One wizard utterance of any form of the release.

    Attributes:
        dialogue: its dialogue's position in the file, from 1.
        number: its position among the wizard's utterances there, from 1.
        row: the record: `history`, `knowledge`, `response`, and labels for who wants them.
        where: its place, for messages.
    """

    dialogue: str
    number: int
    row: Any
    where: str


def splits(raw: Path) -> tuple[str, ...]:
    """Those of train and test whose files are there."""
    return present(raw, {split: FILES[split] for split in PREPARED})


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Dialogues in file order; every wizard utterance is an example.

    Raises:
        UserError: a field is missing or of a wrong type; a history is empty; a turn occurs twice; a
            dialogue's rows do not stand together.
    """
    for dialogue, group in groupby(responses(raw, split), key=lambda r: r.dialogue):
        turns: list[Turn] = []
        for response in group:
            turn = turn_of(response)
            if any((t.history, t.query) == (turn.history, turn.query) for t in turns):
                what = "field history is that of an earlier turn of the dialogue"
                raise UserError(what, where=response.where, mend=DOWNLOAD)
            turns.append(turn)
        yield Conversation(dialogue, tuple(turns))


def passages(raw: Path) -> Iterator[Passage]:
    """The distinct knowledge strings of all splits, in order of first appearance."""
    seen: set[str] = set()
    for split in FILES:
        for response in responses(raw, split):
            knowledge = field(response.row, "knowledge", str, response.where)
            if knowledge and (name := knowledge_id(knowledge)) not in seen:
                seen.add(name)
                yield Passage(name, knowledge)


def responses(raw: Path, split: str) -> Iterator[Response]:
    """Every wizard utterance of a split (train, valid or test) in file order."""
    path = locate(raw, *FILES[split])
    if ".jsonl" in path.suffixes:
        records = [(f"line {line}", row) for line, row in read_jsonl(path)]
    else:
        content = read_json(path)
        if not isinstance(content, list):
            raise UserError("not a JSON array", where=path, mend=DOWNLOAD)
        records = [(f"record {number}", row) for number, row in enumerate(content, 1)]
    nested = any(isinstance(row, dict) and "utterances" in row for _, row in records)
    return (_of_dialogues if nested else _of_rows)(path, records)


def turn_of(response: Response) -> Turn:
    """The example of a wizard utterance, whose knowledge is its one relevant passage."""
    row, where = response.row, response.where
    history = texts(row, "history", where)
    if not history:
        raise UserError("field history is empty: no query", where=where, mend=DOWNLOAD)
    knowledge = field(row, "knowledge", str, where)
    answer = field(row, "response", str, where)
    before = history[:-1]
    # Speakers alternate and the seeker spoke last, whoever spoke first.
    roles: tuple[Role, Role] = ("assistant", "user")
    return Turn(
        turn_id=f"{response.dialogue}_{response.number}",
        conversation_id=response.dialogue,
        number=response.number,
        query=history[-1],
        history=tuple(
            Utterance(roles[(len(before) - 1 - i) % 2], text) for i, text in enumerate(before)
        ),
        references=(answer,) if answer.strip() else (),
        gold=(knowledge_id(knowledge),) if knowledge else (),
    )


def knowledge_id(knowledge: str) -> str:
    """The passage id of a knowledge string: equal strings are one passage."""
    return f"k{hashlib.sha256(knowledge.encode()).hexdigest()[:16]}"


def _of_dialogues(path: Path, records: list[tuple[str, Any]]) -> Iterator[Response]:
    for dialogue, (place, record) in enumerate(records, 1):
        number = 0
        utterances = field(record, "utterances", list, f"{path}, {place}")
        for position, row in enumerate(utterances, 1):
            where = f"{path}, {place}, utterance {position}"
            if field(row, "speaker", str, where) == WIZARD:
                number += 1
                yield Response(str(dialogue), number, row, where)


def _of_rows(path: Path, records: list[tuple[str, Any]]) -> Iterator[Response]:
    counts: dict[int, int] = {}
    last: int | None = None
    for place, row in records:
        where = f"{path}, {place}"
        dialogue = field(row, "dialog_idx", int, where)
        if dialogue in counts and dialogue != last:
            what = f"field dialog_idx is {dialogue} again, after rows of another dialogue"
            raise UserError(what, where=where, mend=DOWNLOAD)
        counts[dialogue] = counts.get(dialogue, 0) + 1
        last = dialogue
        yield Response(str(len(counts)), counts[dialogue], row, where)
