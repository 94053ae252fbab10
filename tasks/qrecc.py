"""QReCC with the judgements of SCAI-QReCC-21, in its three schemas; the same turns come of each.

One turn of `scai-qrecc21-test-turns.json`, a JSON array. `Context` holds the earlier questions
REWRITTEN; what the user typed at turn 1 was "Who looked after it?", about a page that the reader
cannot see:

    {"Conversation_no": 7, "Turn_no": 2, "Question": "For how long?",
     "Context": ["Who looked after Harrow Point Light?", "Ada Thorne did."],
     "Truth_rewrite": "For how long did Ada Thorne look after Harrow Point Light?",
     "Truth_answer": "Thirty-one years.",
     "Truth_passages": ["http://web.archive.org/web/20190901id_/https://x.example/harrow_p3"],
     "Answer_URL": "https://x.example/harrow", "Conversation_source": "quac"}

and a line of `wayback/<any name>.jsonl` (likewise `commoncrawl/`, `wayback-backfill/`):

    {"id": "http://web.archive.org/web/20190901id_/https://x.example/harrow_p3",
     "contents": "Ada Thorne looked after the lamp for thirty-one years."}

Apple's `qrecc_test.json` says `Rewrite` and `Answer` and names no passages. The judgements are then
`qrels_test.txt`, one JSON object in which a turn without a relevant passage stands all the same:

    {"7_1": {"": 1},
     "7_2": {"http://web.archive.org/web/20190901id_/https://x.example/harrow_p3": 1}}

InfoCQR's `dev-sampled2k-modified.json` (split `dev`: turns cut from the training data, in no order
and without those around them) has SCAI's fields, but in place of `Context` a `NewContext` whose
questions are already the original ones, and turn 1 asks its rewrite.

Fields not named here are ignored. Turns with an empty answer or without a relevant passage are
kept: they are asked, and stand in histories, but are not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from uniconv_bench.blocks import jsonl_passages
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
)

FILES = {
    "train": ("scai-qrecc21-training-turns.json", "qrecc-training.json", "qrecc_train.json"),
    "dev": ("dev-sampled2k-modified.json",),
    "test": ("scai-qrecc21-test-turns.json", "qrecc-test.json", "qrecc_test.json"),
}
SCAI_FIELDS = ("Truth_rewrite", "Truth_answer")
QRELS = "qrels_{}.txt"
ONE_SPLIT = "take turns and judgements of one split"
SAMPLED = "dev"
"""The one split in which conversations lack turns."""
FOLDERS = ("commoncrawl", "wayback", "wayback-backfill")
EXCERPT = "scai_passages_excerpt.jsonl"
"""Passages of the collection in one file; read only where none of its folders is there."""

Judgements = dict[str, tuple[str, ...]]
"""turn_id -> ids of its relevant passages."""


class Exchange(NamedTuple):
    """A turn as the turns after it see it."""

    question: str
    rewrite: str
    answer: str


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in the order in which the file first names them, turns by number.

    Raises:
        UserError: a field is missing or of a wrong type; a turn occurs twice; a conversation of
            train or test lacks a turn; Context is not of the earlier turns; turns and `qrels_*.txt`
            do not match one to one.
    """
    path = locate(raw, *FILES[split])
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError("not a JSON array of turns", where=path, mend=DOWNLOAD)
    grouped: dict[int, dict[int, tuple[str, Any]]] = {}
    for position, row in enumerate(rows, 1):
        where = f"{path}, record {position}"
        conversation_no = field(row, "Conversation_no", int, where)
        turns = grouped.setdefault(conversation_no, {})
        number = field(row, "Turn_no", int, where)
        if number in turns:
            what = f"field Turn_no is {number}, which conversation {conversation_no} has already"
            raise UserError(what, where=where, mend=DOWNLOAD)
        turns[number] = where, row
    scai = not rows or any("Truth_rewrite" in row for row in rows)
    judged = None if scai else _judgements(raw, split)
    for conversation_no, turns in grouped.items():
        if split != SAMPLED:
            _check_complete(turns)
        yield _conversation(str(conversation_no), turns, judged)
    for turn_id in judged or ():
        what = f"turn {turn_id} is judged, but {path.name} lacks it"
        raise UserError(what, where=find(raw, QRELS.format(split)), mend=ONE_SPLIT)


def passages(raw: Path) -> Iterable[Passage]:
    """The web passages of every folder that is there; they have no titles."""
    paths = [path for folder in FOLDERS for path in sorted((raw / folder).glob("*.jsonl"))]
    if not paths and (excerpt := find(raw, EXCERPT)) is not None:
        paths = [excerpt]
    if not paths:
        mend = f"unpack the collection's folders {', '.join(FOLDERS)} there"
        raise UserError("no passages (*.jsonl)", where=raw, mend=mend)
    return jsonl_passages(*paths, text="contents")


def _check_complete(turns: dict[int, tuple[str, Any]]) -> None:
    for expected, number in enumerate(sorted(turns), 1):
        if number != expected:
            what = f"field Turn_no is {number}, but the conversation has no turn {expected}"
            mend = f"turns are numbered 1, 2, 3, ...; {DOWNLOAD}"
            raise UserError(what, where=turns[number][0], mend=mend)


def _conversation(
    conversation_id: str, rows: dict[int, tuple[str, Any]], judged: Judgements | None
) -> Conversation:
    """Takes its turns' judgements out of `judged`; None: each turn names its own passages."""
    rewrite_field, answer_field = ("Rewrite", "Answer") if judged is not None else SCAI_FIELDS
    turns: list[Turn] = []
    earlier: dict[int, Exchange] = {}
    for number, (where, row) in sorted(rows.items()):
        turn_id = f"{conversation_id}_{number}"
        question = field(row, "Question", str, where)
        rewrite = field(row, rewrite_field, str, where)
        answer = field(row, answer_field, str, where)
        # The first question often leans on a page that nobody sees; papers ask its rewrite.
        query = rewrite if number == 1 else question
        context = "NewContext" if "NewContext" in row else "Context"
        turns.append(
            Turn(
                turn_id=turn_id,
                conversation_id=conversation_id,
                number=number,
                query=query,
                history=_history(texts(row, context, where), number, earlier, where),
                references=(answer.strip(),) if answer.strip() else (),
                gold=_own_gold(row, where) if judged is None else _gold(judged, turn_id, where),
                rewrite=rewrite,
            )
        )
        earlier[number] = Exchange(query, rewrite, answer)
    return Conversation(conversation_id, tuple(turns))


def _history(
    context: list[str], number: int, earlier: dict[int, Exchange], where: str
) -> tuple[Utterance, ...]:
    """Context with its rewritten questions put back to what was asked.

    A question whose turn the file lacks stays as it is: nothing else is known of it. An empty
    answer says nothing and leaves no utterance.
    """
    if len(context) != 2 * (number - 1):
        what = f"field Context holds {len(context)} texts, not a question and an answer of each"
        raise UserError(f"{what} of {number - 1} earlier turns", where=where, mend=DOWNLOAD)
    history: list[Utterance] = []
    for n in range(1, number):
        question, answer = context[2 * n - 2], context[2 * n - 1]
        if n in earlier:
            was = earlier[n]
            # Either may have been edited since; both differ only if this is another exchange.
            if question not in (was.question, was.rewrite) and answer != was.answer:
                what = f"field Context does not have turn {n} as its exchange {n}"
                raise UserError(what, where=where, mend=DOWNLOAD)
            question = was.question
        history.append(Utterance("user", question))
        if answer.strip():
            history.append(Utterance("assistant", answer))
    return tuple(history)


def _own_gold(row: Any, where: str) -> tuple[str, ...]:
    return _relevant(texts(row, "Truth_passages", where), "Truth_passages", where)


def _gold(judged: Judgements, turn_id: str, where: str) -> tuple[str, ...]:
    if turn_id not in judged:
        raise UserError(f"turn {turn_id} has no judgement", where=where, mend=ONE_SPLIT)
    return judged.pop(turn_id)


def _judgements(raw: Path, split: str) -> Judgements:
    name = QRELS.format(split)
    path = find(raw, name)
    if path is None:
        what = f"no file {name}, and turns in Apple's schema name no passages"
        mend = f"put it there, or take {FILES[split][0]}"
        raise UserError(what, where=raw, mend=mend)
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError("not a JSON object of turns", where=path, mend=DOWNLOAD)
    judged: Judgements = {}
    for turn_id in content:
        where = f"{path}, key {turn_id}"
        grades = field(content, turn_id, dict, path)
        if any(grade != 1 for grade in grades.values()):
            raise UserError("a grade that is not 1", where=where, mend=DOWNLOAD)
        judged[turn_id] = _relevant(grades, turn_id, where)
    return judged


def _relevant(names: Iterable[str], name: str, where: str) -> tuple[str, ...]:
    """The ids without repetition; an empty one stands for none."""
    return tuple(dict.fromkeys(identifier(n, name, where) for n in names if n))
