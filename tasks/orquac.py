"""OR-QuAC: preprocessed lines, qrels, QuAC-format references, and the blocks of Wikipedia.

One line of `preprocessed/test.txt`. Question 0 may lean on the page and section that a QuAC worker
saw ("Who was first?"), so its rewrite is asked instead:

    {"qid": "C_41_1_q#1", "question": "For how long?",
     "rewrite": "For how long did Ada Thorne keep the lamp at Harrow Point Light?",
     "history": [{"question": "Who kept the lamp?",
                  "answer": {"text": "Ada Thorne", "answer_start": 14, "bid": 0}}],
     "answer": {"text": "thirty-one years", "answer_start": 40, "bid": 0},
     "evidences": ["The keeper was Ada Thorne, who stayed for thirty-one years."],
     "retrieval_labels": [1], "followup": "n", "yesno": "x"}

`qrels.txt`, one object for all splits:    {"C_41_1_q#1": {"88@0": 1}}
`quac_format/test.txt`, all references:    {"data": [{"paragraphs": [{"id": "C_41_1", "qas": [
     {"id": "C_41_1_q#1", "question": "For how long?", "answers": [
       {"text": "thirty-one years", "answer_start": 40}, {"text": "for thirty-one years"}]}]}]}]}
`all_blocks.txt`, a line a passage:
    {"id": "88@0", "title": "Harrow Point Light", "aid": "88", "bid": 0,
     "text": "The keeper was Ada Thorne, who stayed for thirty-one years."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field
from uniconv_bench.formats import locate, present, read_json, read_jsonl

FILES = {split: (f"preprocessed/{split}.txt",) for split in ("train", "test")}
CANNOTANSWER = "CANNOTANSWER"
NOTRECOVERED = "NOTRECOVERED"
"""Stands where the answer's paragraph could not be found again: not an answer."""


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; a dialogue's lines stand together in the file."""
    path = locate(raw, *FILES[split])
    qrels = read_json(locate(raw, "qrels.txt"))
    if not isinstance(qrels, dict):
        raise UserError("not a JSON object of judgements", where=raw / "qrels.txt")
    # Training questions have the one answer of their line.
    several = None if split == "train" else locate(raw, f"quac_format/{split}.txt")
    references = dict(_references(several)) if several else {}

    def rows() -> Iterator[tuple[str, int, Any, str]]:
        for line, row in read_jsonl(path):
            where = f"{path}, line {line}"
            dialogue, _, number = field(row, "qid", str, where).rpartition("_q#")
            if not dialogue or not number.isdigit():
                raise UserError("field qid is not <dialogue>_q#<number>", where=where)
            yield dialogue, int(number) + 1, row, where

    for dialogue, group in groupby(rows(), key=lambda item: item[0]):
        yield _conversation(dialogue, group, qrels, references)


def passages(raw: Path) -> Iterator[Passage]:
    """The blocks of `all_blocks.txt`."""
    path = locate(raw, "all_blocks.txt")
    for line, row in read_jsonl(path):
        where = f"{path}, line {line}"
        passage_id, text = field(row, "id", str, where), field(row, "text", str, where)
        yield Passage(passage_id, text, title=field(row, "title", str, where))


def _references(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    for article in field(read_json(path), "data", list, path):
        for paragraph in field(article, "paragraphs", list, path):
            for question in field(paragraph, "qas", list, path):
                qid = field(question, "id", str, path)
                where = f"{path}, question {qid}"
                answers = [
                    field(answer, "text", str, where)
                    for answer in field(question, "answers", list, where)
                ]
                yield qid, tuple(a for a in answers if a.strip())


def _conversation(
    dialogue: str,
    rows: Iterator[tuple[str, int, Any, str]],
    qrels: Mapping[str, Mapping[str, int]],
    references: Mapping[str, tuple[str, ...]],
) -> Conversation:
    turns: list[Turn] = []
    opening = ""
    for _, number, row, where in rows:
        qid, rewrite = field(row, "qid", str, where), field(row, "rewrite", str, where)
        query = field(row, "question", str, where)
        if number == 1:
            query = opening = rewrite
        answer = field(field(row, "answer", dict, where), "text", str, where)
        answers = tuple(a for a in references.get(qid, (answer,)) if a != NOTRECOVERED)
        turns.append(
            Turn(
                turn_id=f"{dialogue}_{number}",
                conversation_id=dialogue,
                number=number,
                query=query,
                history=tuple(_history(field(row, "history", list, where), opening, where)),
                references=answers,
                gold=tuple(qrels.get(qid, {})),
                rewrite=rewrite,
                kind="unanswerable" if answer == CANNOTANSWER else "answer",
            )
        )
    return Conversation(dialogue, tuple(turns))


def _history(entries: list[Any], opening: str, where: str) -> Iterator[Utterance]:
    for position, entry in enumerate(entries):
        question = field(entry, "question", str, where)
        yield Utterance("user", opening if position == 0 and opening else question)
        answer = field(field(entry, "answer", dict, where), "text", str, where)
        if answer != NOTRECOVERED:
            yield Utterance("assistant", answer)
