"""FaithDial: dialogues whose every wizard turn carries the knowledge it must be faithful to.

One dialogue of `test.json`; the history ends with the seeker's words and opens with either
speaker, and `original_response` (empty or null where it was kept) may say what is not so:

    [{"utterances": [
       {"history": ["My aunt keeps a lighthouse.", "How high is Harrow Point Light?"],
        "speaker": "Wizard", "knowledge": "Harrow Point Light stands 31 metres high.",
        "original_response": "It is 90 metres, the highest of all!",
        "response": "It is 31 metres high, I believe.",
        "BEGIN": ["Hallucination", "Entailment"], "VRM": ["Edification"]}]}]

There is no corpus in the release. The retrieval form here takes the distinct knowledge strings of
all splits as passages; each is named by its own digest, so that one split can be read alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import locate, present, read_json

FILES = {split: (f"{split}.json",) for split in ("train", "test")}
POOL = ("train", "valid", "test")
WIZARD = "Wizard"


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Dialogues in file order, numbered from 1; every wizard turn is an example."""
    for dialogue, utterances in _dialogues(raw, split):
        turns = tuple(
            _turn(str(dialogue), number, row, where)
            for number, (where, row) in enumerate(utterances, 1)
        )
        yield Conversation(str(dialogue), turns)


def passages(raw: Path) -> Iterator[Passage]:
    """The distinct knowledge strings of all splits, in order of first appearance."""
    seen: set[str] = set()
    for split in POOL:
        for _, utterances in _dialogues(raw, split):
            for where, row in utterances:
                knowledge = field(row, "knowledge", str, where)
                if knowledge and (name := _name(knowledge)) not in seen:
                    seen.add(name)
                    yield Passage(name, knowledge)


def _dialogues(raw: Path, split: str) -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    path = locate(raw, f"{split}.json")
    dialogues = read_json(path)
    if not isinstance(dialogues, list):
        raise UserError("not a JSON array of dialogues", where=path)
    for number, dialogue in enumerate(dialogues, 1):
        place = f"{path}, dialogue {number}"
        placed = [
            (f"{place}, utterance {position}", row)
            for position, row in enumerate(field(dialogue, "utterances", list, place), 1)
        ]
        yield number, [p for p in placed if field(p[1], "speaker", str, p[0]) == WIZARD]


def _name(knowledge: str) -> str:
    return f"k{hashlib.sha256(knowledge.encode()).hexdigest()[:16]}"


def _turn(dialogue: str, number: int, row: Any, where: str) -> Turn:
    history = texts(row, "history", where)
    if not history:
        raise UserError("field history is empty: no query", where=where)
    knowledge = field(row, "knowledge", str, where)
    response = field(row, "response", str, where)
    before = history[:-1]
    # Speakers alternate and the seeker spoke last, whoever spoke first.
    roles = ("assistant", "user")
    return Turn(
        turn_id=f"{dialogue}_{number}",
        conversation_id=dialogue,
        number=number,
        query=history[-1],
        history=tuple(
            Utterance(roles[(len(before) - 1 - i) % 2], text) for i, text in enumerate(before)
        ),
        references=(response,) if response.strip() else (),
        gold=(_name(knowledge),) if knowledge else (),
    )
