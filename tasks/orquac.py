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
       {"text": "thirty-one years", "answer_start": 40}, {"text": "for thirty-one years"}],
      "orig_answer": {"text": "thirty-one years", "answer_start": 40}}]}]}]}
`all_blocks.txt`, a line a passage:
    {"id": "88@0", "title": "Harrow Point Light", "aid": "88", "bid": 0,
     "text": "The keeper was Ada Thorne, who stayed for thirty-one years."}

Each file may be gzipped, and the lines may lie beside `qrels.txt` instead of in `preprocessed/`
(the references may not: their files have the lines' names). The flattened form of the lines has
one line an evidence, with `unique_id`, `evidence` and `retrieval_label` in place of the two lists;
evidence is training material of the official code and is not read, so a question's further lines
say nothing new. Fields not named here are ignored: later files may have more.

CANARD (github aagohary/canard), from which the questions and rewrites come, makes no split: it has
neither passages nor judgements, and the last answer of each dialogue is missing. Its dev questions
serve as a cross-check in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from uniconv_bench.blocks import jsonl_passages
from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field
from uniconv_bench.formats import DOWNLOAD, locate, present, read_json, read_jsonl

FILES = {split: (f"preprocessed/{split}.txt", f"{split}.txt") for split in ("train", "dev", "test")}
CANNOTANSWER = "CANNOTANSWER"
NOTRECOVERED = "NOTRECOVERED"
"""Stands where the answer's paragraph could not be found again: not an answer."""


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; a dialogue's lines stand together in the file, in order.

    A question that `qrels.txt` does not name is not judged; it names those of all splits.
    """
    path = locate(raw, *FILES[split])
    judged = dict(_judgements(locate(raw, "qrels.txt")))
    # Training questions have the one answer of their line.
    several = None if split == "train" else locate(raw, f"quac_format/{split}.txt")
    references = dict(_references(several)) if several else None
    for dialogue, questions in groupby(_questions(path), key=itemgetter(0)):
        yield _conversation(dialogue, questions, judged, references)


def passages(raw: Path) -> Iterable[Passage]:
    """The blocks of `all_blocks.txt`."""
    return jsonl_passages(locate(raw, "all_blocks.txt"), title="title")


def _judgements(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(qid, its relevant passages) of every judged question."""
    qrels = read_json(path)
    if not isinstance(qrels, dict):
        raise UserError("not a JSON object of judgements", where=path, mend=DOWNLOAD)
    for qid in qrels:
        grades = field(qrels, qid, dict, path)
        where = f"{path}, question {qid}"
        yield qid, tuple(p for p in grades if field(grades, p, int, where) > 0)


def _references(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(qid, the answers of all annotators) of every question."""
    for article in field(read_json(path), "data", list, path):
        for paragraph in field(article, "paragraphs", list, path):
            for question in field(paragraph, "qas", list, path):
                qid = field(question, "id", str, path)
                where = f"{path}, question {qid}"
                answers = [
                    field(answer, "text", str, where)
                    for answer in field(question, "answers", list, where)
                ]
                yield qid, tuple(answers)


def _questions(path: Path) -> Iterator[tuple[str, int, Any, str]]:
    """(dialogue, number from 1, first line, its place) of every question."""
    lines = ((row, f"{path}, line {line}") for line, row in read_jsonl(path))
    for qid, group in groupby(lines, key=lambda item: field(item[0], "qid", str, item[1])):
        rows = list(group)
        row, where = rows[0]
        dialogue, _, number = qid.rpartition("_q#")
        if not dialogue.strip() or not number.isdecimal():
            what = f"field qid is {qid!r}, not <dialogue>_q#<number>"
            raise UserError(what, where=where, mend=DOWNLOAD)
        if len({str(r.get("unique_id")) for r, _ in rows}) < len(rows):
            mend = "only lines of different unique_id may share a question"
            raise UserError(f"question {qid!r} occurs twice", where=where, mend=mend)
        yield dialogue, int(number) + 1, row, where


def _conversation(
    dialogue: str,
    questions: Iterator[tuple[str, int, Any, str]],
    judged: Mapping[str, tuple[str, ...]],
    references: Mapping[str, tuple[str, ...]] | None,
) -> Conversation:
    turns: list[Turn] = []
    for due, (_, number, row, where) in enumerate(questions, 1):
        if number != due:
            what = f"field qid: question q#{number - 1} stands where q#{due - 1} is due"
            mend = f"a dialogue has its questions from q#0 on, in order: {DOWNLOAD}"
            raise UserError(what, where=where, mend=mend)
        qid, rewrite = field(row, "qid", str, where), field(row, "rewrite", str, where)
        question = field(row, "question", str, where)
        answer = field(field(row, "answer", dict, where), "text", str, where)
        answers: tuple[str, ...] = (answer,)
        if references is not None:
            if qid not in references:
                mend = "lines and references must be of one release"
                what = f"question {qid!r} has no answers in quac_format"
                raise UserError(what, where=where, mend=mend)
            answers = references[qid]
        opening = turns[0].query if turns else rewrite
        turns.append(
            Turn(
                turn_id=f"{dialogue}_{number}",
                conversation_id=dialogue,
                number=number,
                query=question if turns else opening,
                history=tuple(_history(row, due - 1, opening, where)),
                references=tuple(filter(_is_answer, answers)),
                gold=judged.get(qid, ()),
                rewrite=rewrite,
                kind="unanswerable" if answer == CANNOTANSWER else "answer",
            )
        )
    return Conversation(dialogue, tuple(turns))


def _history(row: Any, due: int, opening: str, where: str) -> Iterator[Utterance]:
    """What was said before; the first question as its rewrite, as it was asked."""
    entries = field(row, "history", list, where)
    if len(entries) != due:
        what = f"field history holds {len(entries)} exchanges, not the {due} before this question"
        raise UserError(what, where=where, mend=DOWNLOAD)
    for position, entry in enumerate(entries):
        question = field(entry, "question", str, where)
        yield Utterance("user", question if position else opening)
        answer = field(field(entry, "answer", dict, where), "text", str, where)
        if _is_answer(answer):
            yield Utterance("assistant", answer)


def _is_answer(text: str) -> bool:
    return bool(text.strip()) and text != NOTRECOVERED
