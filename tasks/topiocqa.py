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

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, read_jsonl, texts

SPLITS = ("train", "dev")
FILES = {"train": "topiocqa_train.jsonl", "dev": "topiocqa_valid.jsonl"}
CORPUS = "full_wiki_segments.tsv"
UNANSWERABLE = "UNANSWERABLE"


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; a conversation's turns stand together in the file."""
    path = raw / FILES[split]
    turns = (_turn(row, f"{path}, line {number}") for number, row in read_jsonl(path))
    for conversation_id, group in groupby(turns, key=lambda turn: turn.conversation_id):
        yield Conversation(conversation_id, tuple(group))


def passages(raw: Path) -> Iterator[Passage]:
    """The passages of the corpus, `Page [SEP] Section` read as one title as the papers do."""
    path = raw / CORPUS
    if not path.is_file():
        raise UserError("no such file", where=path)
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t")
        if next(rows, None) != ["id", "text", "title"]:
            raise UserError("the first line is not the header id, text, title", where=path)
        for row in rows:
            if len(row) != 3:
                what = f"{len(row)} columns instead of 3"
                raise UserError(what, where=f"{path}, line {rows.line_num}")
            yield Passage(row[0], row[1], title=row[2].replace(" [SEP] ", " "))


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
        references=tuple(dict.fromkeys(a for a in answers if a.strip())),
        gold=(gold.removeprefix("wiki:"),),
        kind="unanswerable" if answer == UNANSWERABLE else "answer",
        topic=field(row, "Topic", str, where),
    )
