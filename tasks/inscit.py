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

Relevant is what any annotator gives as evidence, in order of first appearance; references are all
their responses. A file of `text_0420_processed/` is a list of articles:

    [{"title": "Harrow Point Light", "passages": [
       {"id": "Harrow Point Light:3", "titles": ["Harrow Point Light", "Tower"],
        "text": "The tower measures 31 metres."}]}]

In place of the folder there may be the table that the official code makes of it; it repeats the
header once for every file of the folder:

    id                       text                             title
    Harrow Point Light:3     The tower measures 31 metres.    Harrow Point Light [SEP] Tower

Titles are read as one line either way. Fields not named here are ignored: later files may have
more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Kind, Passage, Role, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.files import field, texts
from uniconv_bench.formats import DOWNLOAD, find, locate, present, read_json, read_tsv

FILES = {split: (f"{split}.json",) for split in ("train", "dev", "test")}
ARTICLES = "text_0420_processed"
TABLES = (
    "full_wiki_segments.tsv",
    "retrieval_data/wikipedia/full_wiki_segments.tsv",
    "dev_evidence_passages.tsv",
)
"""By preference; the last one is no official file, but what the labels of dev quote."""
HEADER = ["id", "text", "title"]
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
        raise UserError("not a JSON object of conversations", where=path, mend=DOWNLOAD)
    for name, body in content.items():
        if not name.strip():
            raise UserError("a conversation has an empty name", where=path, mend=DOWNLOAD)
        rows = field(body, "turns", list, f"{path}, {name}")
        turns = tuple(
            _turn(name, number, row, f"{path}, {name}, turn {number}")
            for number, row in enumerate(rows, 1)
        )
        yield Conversation(name, turns)


def passages(raw: Path) -> Iterator[Passage]:
    """Every passage of every article, or of the table; its titles joined into one."""
    paths = sorted(p for p in (raw / ARTICLES).rglob("*") if p.is_file())
    table = find(raw, *TABLES)
    found: Iterator[tuple[str, list[str], str]]
    if paths:
        found = (row for path in paths for row in _of_articles(path))
    elif table is not None:
        found = _of_table(table)
    else:
        what = f"no articles, and none of the files {', '.join(TABLES)}"
        raise UserError(what, where=raw / ARTICLES, mend="unpack the official wiki_corpus there")
    for name, titles, text in found:
        # The official code collapses the blanks of texts; ids keep theirs.
        yield Passage(name, " ".join(text.split()), title=" ".join(titles))


def _of_articles(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """(id, titles, text) of the passages of one file of articles."""
    articles = read_json(path)
    if not isinstance(articles, list):
        raise UserError("not a JSON array of articles", where=path, mend=DOWNLOAD)
    for number, article in enumerate(articles, 1):
        place = f"{path}, article {number}"
        for row in field(article, "passages", list, place):
            name = field(row, "id", str, place)
            where = f"{path}, passage {name}"
            yield name, texts(row, "titles", where), field(row, "text", str, where)


def _of_table(path: Path) -> Iterator[tuple[str, list[str], str]]:
    for _, row in read_tsv(path, HEADER):
        if row != HEADER:
            name, text, title = row
            yield name, title.split(" [SEP] "), text


def _turn(name: str, number: int, row: Any, where: str) -> Turn:
    context = texts(row, "context", where)
    if len(context) % 2 == 0:
        what = "field context does not end with the user's query"
        raise UserError(what, where=where, mend="an odd number of utterances, the user's first")
    if len(context) != 2 * number - 1:
        what = f"field context holds {len(context) // 2} exchanges, not {number - 1}"
        raise UserError(what, where=where, mend="a conversation has all its turns, in order")
    roles: tuple[Role, Role] = ("user", "assistant")
    labels = field(row, "labels", list, where)
    if not labels:
        mend = "every turn has one or two annotators' labels"
        raise UserError("field labels is empty", where=where, mend=mend)
    kinds = [_kind(label, where) for label in labels]
    evidence = [e for label in labels for e in field(label, "evidence", list, where)]
    responses = [field(label, "response", str, where) for label in labels]
    return Turn(
        turn_id=f"{name}_{number}",
        conversation_id=name,
        number=number,
        query=context[-1],
        history=tuple(Utterance(roles[i % 2], text) for i, text in enumerate(context[:-1])),
        references=tuple(r for r in responses if r.strip()),
        gold=tuple(dict.fromkeys(field(e, "passage_id", str, where) for e in evidence)),
        kind=kinds[0],
    )


def _kind(label: Any, where: str) -> Kind:
    said = field(label, "responseType", str, where)
    if said not in KINDS:
        what = f"field responseType is {said!r}"
        raise UserError(what, where=where, mend=f"known: {', '.join(KINDS)}")
    return KINDS[said]
