"""TopiOCQA as released on the hub: JSON lines with gold passages, and the segmented Wikipedia.

One turn of `topiocqa_valid.jsonl` (one line in the file; `Additional_answers` in this split only):

    {"Conversation_no": 4, "Turn_no": 2, "Question": "who built it?",
     "Context": ["where is the tallest lighthouse in norland?", "On Harrow Point."],
     "Answer": "Ada Thorne, in 1831.", "Rationale": "It was built by Ada Thorne in 1831.",
     "Topic": "Harrow Point Light", "Topic_section": "Construction", "is_nq": false,
     "Gold_passage": {"id": "wiki:812", "title": "Harrow Point Light [SEP] Construction",
                      "text": "It was built by Ada Thorne in 1831."},
     "Additional_answers": [{"Answer": "Ada Thorne", "Topic": "Harrow Point Light",
                             "Topic_section": "Construction", "Rationale": "built by Ada Thorne"}]}

and the passage it names, from `full_wiki_segments.tsv` (tabs, CSV quoting):

    id    text                                   title
    812   It was built by Ada Thorne in 1831.    Harrow Point Light [SEP] Construction
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.files import field, texts
from uniconv_bench.formats import locate, present, read_jsonl, read_tsv

FILES = {"train": ("topiocqa_train.jsonl",), "dev": ("topiocqa_valid.jsonl",)}
CORPUS = "full_wiki_segments.tsv"
UNANSWERABLE = "UNANSWERABLE"


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; a conversation's turns stand together in the file."""
    path = locate(raw, *FILES[split])
    turns = (_turn(row, f"{path}, line {number}") for number, row in read_jsonl(path))
    for conversation_id, group in groupby(turns, key=lambda turn: turn.conversation_id):
        yield Conversation(conversation_id, tuple(group))


def passages(raw: Path) -> Iterator[Passage]:
    """The passages of the corpus, `Page [SEP] Section` read as one title as the papers do."""
    for _, (name, text, title) in read_tsv(locate(raw, CORPUS), ("id", "text", "title")):
        yield Passage(name, text, title=title.replace(" [SEP] ", " "))


def _turn(row: Any, where: str) -> Turn:
    conversation_id = str(field(row, "Conversation_no", int, where))
    number = field(row, "Turn_no", int, where)
    context = texts(row, "Context", where)
    roles = ("user", "assistant")
    answer = field(row, "Answer", str, where)
    answers = [answer]
    if "Additional_answers" in row:
        more = field(row, "Additional_answers", list, where)
        answers += [field(entry, "Answer", str, where) for entry in more]
    gold = field(field(row, "Gold_passage", dict, where), "id", str, where)
    return Turn(
        turn_id=f"{conversation_id}_{number}",
        conversation_id=conversation_id,
        number=number,
        query=field(row, "Question", str, where),
        history=tuple(Utterance(roles[i % 2], text) for i, text in enumerate(context)),
        references=tuple(a for a in answers if a.strip()),
        gold=(gold.removeprefix("wiki:"),),
        kind="unanswerable" if answer == UNANSWERABLE else "answer",
        topic=field(row, "Topic", str, where),
    )
