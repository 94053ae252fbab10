"""CORAL: conversations made of Wikipedia's headings, with rewrites, judgements and long responses.

One conversation of `test/test_conversation.json`, a JSON array or JSON lines. The middle part of
its name says which of four ways it was sampled in, so slices are told by the conversation's name;
`topic` stays empty. Responses cite passages by number, which no system that reads texts can know:
the marks are taken out of references and history.

    [{"conv_id": "Test_SIDS_12", "turns": [
       {"turn_id": 1, "question": "Who kept the lamp at Harrow Point Light?",
        "response": "Ada Thorne kept it for thirty-one years [88].",
        "golden_rewrite": "Who kept the lamp at Harrow Point Light?",
        "golden_docs_pids": [88], "golden_docs_text": ["The keeper was Ada Thorne, who ..."]},
       {"turn_id": 2, "question": "Who came after her?", ...}]}]

`test/test_qrel.tsv`: turn, 0, passage and grade, blanks between; where it is absent,
`golden_docs_pids` are the judgements:

    Test_SIDS_12_1    0    88    1

`passage_corpus.json`, JSON lines or a JSON array:

    {"ref_id": 88, "ref_string": "The keeper was Ada Thorne, who stayed for thirty-one years."}

The second release (May 2025) has `new_test_conversation.json` and `new_test_qrel.trec` instead, and
is read where both are there. UNVERIFIED: no official file was at hand; names and forms are those
that public code reads. A turn may lack `golden_rewrite`; fields not named here are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field
from uniconv_bench.formats import DOWNLOAD, find, locate, present, read_json, read_jsonl, read_lines

RELEASES = (
    ("{0}/new_{0}_conversation.json", "{0}/new_{0}_qrel.trec"),
    ("{0}/{0}_conversation.json", "{0}/{0}_qrel.tsv"),
)
"""Conversations and their judgements, the later release first."""
FILES = {split: tuple(c.format(split) for c, _ in RELEASES) for split in ("train", "test")}
CORPUS = "passage_corpus.json"
IDS = ("ref_id", "pid", "id")
TEXTS = ("ref_string", "text", "contents")
MARK = re.compile(r"\s*\[\d+\]")
"""A citation in a response, with the blank before it."""


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order; retrieval is judged on the turns that the judgements name."""
    path = locate(raw, *FILES[split])
    qrels = [q.format(split) for c, q in RELEASES if find(raw, c.format(split)) == path]
    judgements = find(raw, *qrels)
    judged = None if judgements is None else _judgements(judgements)
    for where, row in _records(path):
        yield _conversation(row, where, judged)
    if judged:
        what = f"turn {next(iter(judged))!r} is in no conversation ({len(judged):,} such turns)"
        mend = "judgements and conversations must be of one release"
        raise UserError(what, where=judgements, mend=mend)


def passages(raw: Path) -> Iterator[Passage]:
    """The passages of the corpus file."""
    for where, row in _records(locate(raw, CORPUS)):
        text = field(row, _name(row, TEXTS), str, where)
        title = field(row, "title", str, where) if "title" in row else ""
        yield Passage(_id(row, _name(row, IDS), where), text, title)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of the records of a JSON array or of JSON lines."""
    opening = next((line.lstrip() for _, line in read_lines(path) if line.strip()), "")
    if opening.startswith("["):
        for number, value in enumerate(read_json(path), 1):
            yield f"{path}, record {number}", value
    else:
        for line, value in read_jsonl(path):
            yield f"{path}, line {line}", value


def _judgements(path: Path) -> dict[str, tuple[str, ...]]:
    """Turn -> its relevant passages."""
    found: dict[str, dict[str, None]] = {}
    for number, line in read_lines(path):
        match line.split():
            case []:
                pass
            case [turn_id, _, passage_id, grade] if grade.isdecimal():
                relevant = found.setdefault(turn_id, {})
                if int(grade) > 0:
                    relevant[passage_id] = None
            case _:
                what = "not a turn, 0, a passage and a grade"
                raise UserError(what, where=f"{path}, line {number}", mend=DOWNLOAD)
    return {turn_id: tuple(relevant) for turn_id, relevant in found.items()}


def _conversation(row: Any, place: str, judged: dict[str, tuple[str, ...]] | None) -> Conversation:
    """A conversation; takes its turns out of `judged`."""
    name = field(row, "conv_id", str, place)
    if not name.strip():
        raise UserError("field conv_id is empty", where=place, mend=DOWNLOAD)
    turns: list[Turn] = []
    history: tuple[Utterance, ...] = ()
    for due, entry in enumerate(field(row, "turns", list, place), 1):
        where = f"{place}, conversation {name}, turn {due}"
        number = field(entry, "turn_id", int, where)
        if number != due:
            mend = f"a conversation has its turns from 1 on, in order: {DOWNLOAD}"
            raise UserError(f"field turn_id is {number}, not {due}", where=where, mend=mend)
        turn_id = f"{name}_{number}"
        question = field(entry, "question", str, where)
        response = MARK.sub("", field(entry, "response", str, where)).strip()
        cited = field(entry, "golden_docs_pids", list, where)
        given = dict.fromkeys(_as_id(pid, "golden_docs_pids", where) for pid in cited)
        rewrite = field(entry, "golden_rewrite", str, where) if "golden_rewrite" in entry else ""
        turns.append(
            Turn(
                turn_id=turn_id,
                conversation_id=name,
                number=number,
                query=question,
                history=history,
                references=(response,) if response else (),
                gold=tuple(given) if judged is None else judged.pop(turn_id, ()),
                rewrite=rewrite.strip() or None,
            )
        )
        history = (*history, Utterance("user", question))
        if response:
            history = (*history, Utterance("assistant", response))
    return Conversation(name, tuple(turns))


def _name(row: Any, names: tuple[str, ...]) -> str:
    """The first of these fields that a record has; the first of all if it has none."""
    return next((n for n in names if isinstance(row, Mapping) and n in row), names[0])


def _id(row: Any, name: str, where: str) -> str:
    return _as_id(field(row, name, object, where), name, where)


def _as_id(value: object, name: str, where: str) -> str:
    """Numbers in some files are texts in others."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        what = f"field {name} holds {type(value).__name__}, not a number or text"
        raise UserError(what, where=where, mend=DOWNLOAD)
    return str(value)
