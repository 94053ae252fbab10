"""INSCIT: conversations with one or two annotators a turn, and Wikipedia as JSON articles.

One turn of `test.json`, where `lights_dial3` has had one exchange before it. `context` ends with
the current query; the annotators may disagree on what to do, and only one of them is followed:

    {"lights_dial3": {"seedArticle": {"title": "Harrow Point Light", "topic": "sea", "level": 1},
      "turns": [...,
       {"context": ["Who built it?", "Ada Thorne.", "How high is it?"],
        "prevEvidence": [[{"passage_id": "Harrow Point Light:2", ...}]],
        "labels": [
         {"responseType": "clarification", "response": "The tower, or the lamp?",
          "evidence": [{"passage_id": "Harrow Point Light:3", "passage_text": "The tower ...",
                        "passage_titles": ["Harrow Point Light", "Tower"]}]},
         {"responseType": "directAnswer", "response": "The tower measures 31 metres.",
          "evidence": [{"passage_id": "Harrow Point Light:3", ...}]}]}]}}

and a file of `text_0420_processed/`, a list of articles:

    [{"title": "Harrow Point Light", "passages": [
       {"id": "Harrow Point Light:3", "titles": ["Harrow Point Light", "Tower"],
        "text": "The tower measures 31 metres."}]}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Kind, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import locate, present, read_json

FILES = {split: (f"{split}.json",) for split in ("train", "test")}
CORPUS = "text_0420_processed"
KINDS: dict[str, Kind] = {
    "directAnswer": "answer",
    "clarification": "clarification",
    "noAnswerButRelevantInfo": "no_direct_answer",
    "noAnswerNoRelevantInfo": "unanswerable",
}


def splits(raw: Path) -> tuple[str, ...]:
    """The splits whose files are there."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """Conversations in file order, named as in the file."""
    path = locate(raw, *FILES[split])
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError("not a JSON object of conversations", where=path)
    for name, body in content.items():
        rows = field(body, "turns", list, f"{path}, {name}")
        turns = tuple(
            _turn(name, number, row, f"{path}, {name}, turn {number}")
            for number, row in enumerate(rows, 1)
        )
        yield Conversation(name, turns)


def passages(raw: Path) -> Iterator[Passage]:
    """Every passage of every article, its titles joined into one."""
    paths = sorted(p for p in (raw / CORPUS).rglob("*") if p.is_file())
    if not paths:
        raise UserError("no articles", where=raw / CORPUS, mend="unpack wiki_corpus there")
    for path in paths:
        articles = read_json(path)
        if not isinstance(articles, list):
            raise UserError("not a JSON array of articles", where=path)
        for number, article in enumerate(articles, 1):
            for row in field(article, "passages", list, f"{path}, article {number}"):
                passage_id = field(row, "id", str, f"{path}, article {number}")
                where = f"{path}, passage {passage_id}"
                # The official corpus collapses blanks; ids keep theirs.
                text = " ".join(field(row, "text", str, where).split())
                yield Passage(passage_id, text, title=" ".join(texts(row, "titles", where)))


def _turn(name: str, number: int, row: Any, where: str) -> Turn:
    context = texts(row, "context", where)
    if len(context) % 2 == 0:
        raise UserError("field context does not end with the user's query", where=where)
    roles = ("user", "assistant")
    labels = field(row, "labels", list, where)
    if not labels:
        raise UserError("field labels is empty", where=where)
    evidence = [e for label in labels for e in field(label, "evidence", list, where)]
    first = field(labels[0], "responseType", str, where)
    if first not in KINDS:
        raise UserError(f"field responseType is {first!r}, none of {', '.join(KINDS)}", where=where)
    responses = [field(label, "response", str, where) for label in labels]
    return Turn(
        turn_id=f"{name}_{number}",
        conversation_id=name,
        number=number,
        query=context[-1],
        history=tuple(Utterance(roles[i % 2], text) for i, text in enumerate(context[:-1])),
        references=tuple(r for r in responses if r.strip()),
        gold=tuple(dict.fromkeys(field(e, "passage_id", str, where) for e in evidence)),
        kind=KINDS[first],
    )
