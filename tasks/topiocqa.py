"""TopiOCQA in every form in which it was released; all of them give the same turns.

One turn of the hub's `topiocqa_valid.jsonl` (one line in the file; `Additional_answers` in this
split only):

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

The later release (`topiocqa_dev.json`) is a JSON array of the same without `Gold_passage`. What is
relevant then stands in a retriever file, `retriever/<form of the question>/dev.json`, or in TREC
judgements, `dev_qrel_gold.trec` (`4_2 0 812 1`; train writes `4-2`):

    [{"question": "...", "answers": ["..."], "conv_id": 4, "turn_id": 2,
      "positive_ctxs": [{"title": "...", "text": "...", "passage_id": "812"}]}]

The release of 2021 lacks `Rationale` and `Additional_answers` too, leaves `Topic` empty where the
answer is UNANSWERABLE, and numbers conversations otherwise: `dev_conversation_no_map.tsv` leads
from its numbers to the later ones, which every other file uses and so do the turns here.

Fields not named here are ignored: each release added some. Machine rewrites are not read: a turn's
`rewrite` is a person's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.blocks import tsv_passages
from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import (
    DOWNLOAD,
    find,
    identifier,
    locate,
    present,
    read_json,
    read_jsonl,
    read_lines,
    read_tsv,
)

# The names in folders are those of the official download script.
FILES = {
    "train": ("topiocqa_train.jsonl", "topiocqa_train.json", "topiocqa_dataset/train.json"),
    "dev": ("topiocqa_valid.jsonl", "topiocqa_dev.json", "topiocqa_dataset/dev.json"),
}
CORPUS = (
    "full_wiki_segments.tsv",
    "wikipedia_split/full_wiki_segments.tsv",
    "dev_gold_passages.tsv",
)
"""The last one holds relevant passages alone and is read only where there is no other."""
QUESTION_FORMS = ("original", "all_history", "rewrites_t5_qrecc")
MAP_HEADER = ("zip_2021_Conversation_no", "release_conv_id")
UNANSWERABLE = "UNANSWERABLE"
ONE_RELEASE = "take turns, judgements and map of one release and one split"

Judgements = dict[str, tuple[str, tuple[str, ...]]]
"""turn_id -> where it is judged, ids of its relevant passages."""


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations by number (that of the later releases), whatever their order in the file.

    Raises:
        UserError: a field is missing or of a wrong type; turn numbers with a gap or twice; Context
            is not what was said before; turns and judgements, or conversations and their later
            numbers, do not match one to one.
    """
    path = locate(raw, *FILES[split])
    records = list(_records(path))
    fields = {name for _, row in records if isinstance(row, dict) for name in row}
    if not records:
        raise UserError("no turns", where=path, mend=DOWNLOAD)
    of_2021 = fields.isdisjoint({"Rationale", "Gold_passage"})
    later = _later_numbers(raw, split) if of_2021 else None
    judged = None if "Gold_passage" in fields else _judgements(raw, split)
    grouped: dict[int, list[tuple[str, Any]]] = {}
    for where, row in records:
        number = field(row, "Conversation_no", int, where)
        if later is not None:
            if number not in later:
                what = f"field Conversation_no is {number}, which the map of numbers lacks"
                raise UserError(what, where=where, mend=ONE_RELEASE)
            number = later[number]
        grouped.setdefault(number, []).append((where, row))
    for number in sorted(grouped):
        yield _conversation(str(number), grouped[number], judged)
    for turn_id, (where, _) in (judged or {}).items():
        what = f"turn {turn_id} is judged, but {path.name} lacks it"
        raise UserError(what, where=where, mend=ONE_RELEASE)


def passages(raw: Path) -> Iterable[Passage]:
    """The passages of the corpus, `Page [SEP] Section` read as one title as the papers do."""
    return tsv_passages(locate(raw, *CORPUS), separator=" [SEP] ")


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, record) of a file of JSON lines or of one JSON array, by its name."""
    if ".jsonl" in path.suffixes:
        for line, row in read_jsonl(path):
            yield f"{path}, line {line}", row
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError("not a JSON array", where=path, mend=DOWNLOAD)
    for number, row in enumerate(rows, 1):
        yield f"{path}, record {number}", row


def _conversation(
    conversation_id: str, records: list[tuple[str, Any]], judged: Judgements | None
) -> Conversation:
    """Takes its turns' judgements out of `judged`; None: each turn carries its own."""
    turns: list[Turn] = []
    history: tuple[Utterance, ...] = ()
    for expected, (where, row) in enumerate(records, 1):
        number = field(row, "Turn_no", int, where)
        if number != expected:
            mend = f"a conversation's turns are numbered 1, 2, 3, ...; {DOWNLOAD}"
            raise UserError(f"field Turn_no is {number}, not {expected}", where=where, mend=mend)
        if texts(row, "Context", where) != [utterance.text for utterance in history]:
            what = "field Context is not what the turns before it asked and answered"
            raise UserError(what, where=where, mend=DOWNLOAD)
        turn_id = f"{conversation_id}_{number}"
        question, answer = field(row, "Question", str, where), field(row, "Answer", str, where)
        answers = [answer]
        if "Additional_answers" in row:
            more = field(row, "Additional_answers", list, where)
            answers += [field(entry, "Answer", str, where) for entry in more]
        turns.append(
            Turn(
                turn_id=turn_id,
                conversation_id=conversation_id,
                number=number,
                query=question,
                history=history,
                references=tuple(a for a in answers if a.strip()),
                gold=_own_gold(row, where) if judged is None else _gold(judged, turn_id, where),
                kind="unanswerable" if answer == UNANSWERABLE else "answer",
                topic=field(row, "Topic", str, where),
            )
        )
        history += (Utterance("user", question), Utterance("assistant", answer))
    return Conversation(conversation_id, tuple(turns))


def _own_gold(row: Any, where: str) -> tuple[str, ...]:
    name = field(field(row, "Gold_passage", dict, where), "id", str, where)
    return (identifier(name.removeprefix("wiki:"), "Gold_passage.id", where),)


def _gold(judged: Judgements, turn_id: str, where: str) -> tuple[str, ...]:
    if turn_id not in judged:
        raise UserError(f"turn {turn_id} has no judgement", where=where, mend=ONE_RELEASE)
    return judged.pop(turn_id)[1]


def _judgements(raw: Path, split: str) -> Judgements:
    """Every turn's relevant passages; every form of the question has the same in its file."""
    retriever = [f"retriever/{form}/{split}.json" for form in QUESTION_FORMS]
    path = locate(raw, *retriever, f"{split}_qrel_gold.trec")
    found: Judgements = {}
    for where, turn_id, ids in (_trec if ".trec" in path.suffixes else _retriever)(path):
        if turn_id in found:
            raise UserError(f"turn {turn_id} is judged twice", where=where, mend=DOWNLOAD)
        found[turn_id] = where, ids
    return found


def _retriever(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for where, row in _records(path):
        turn_id = f"{field(row, 'conv_id', int, where)}_{field(row, 'turn_id', int, where)}"
        contexts = field(row, "positive_ctxs", list, where)
        names = [field(context, "passage_id", str, where) for context in contexts]
        if not names:
            raise UserError("field positive_ctxs is empty", where=where, mend=DOWNLOAD)
        yield where, turn_id, tuple(identifier(n, "passage_id", where) for n in names)


def _trec(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for number, line in read_lines(path):
        found = re.fullmatch(r"(\d+)[-_](\d+)\s+Q?0\s+(\S+)\s+1\s*", line)
        where = f"{path}, line {number}"
        if found is None:
            mend = "a line is conversation_turn, 0, passage, 1"
            raise UserError(f"not a judgement: {line.strip()!r}", where=where, mend=mend)
        yield where, f"{found[1]}_{found[2]}", (found[3],)


def _later_numbers(raw: Path, split: str) -> dict[int, int]:
    """Conversation number of 2021 -> that of the later releases."""
    name = f"{split}_conversation_no_map.tsv"
    path = find(raw, name)
    if path is None:
        what = f"no file {name}: the release of 2021 numbers conversations unlike its judgements"
        mend = "take the later release, or put the map of numbers there"
        raise UserError(what, where=raw, mend=mend)
    later: dict[int, int] = {}
    for line, columns in read_tsv(path, MAP_HEADER):
        where = f"{path}, line {line}"
        if not all(column.isdecimal() for column in columns):
            what = f"not two conversation numbers: {', '.join(columns)}"
            raise UserError(what, where=where, mend=ONE_RELEASE)
        before, after = map(int, columns)
        if before in later or after in later.values():
            what = f"conversation {before} or {after} stands in two lines"
            raise UserError(what, where=where, mend=ONE_RELEASE)
        later[before] = after
    return later
