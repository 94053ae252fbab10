"""Any folder in BEIR's layout, as an ad-hoc task named after it: passages, queries, judgements.

A folder `pottery/` holds `corpus.jsonl` and `queries.jsonl`, either of them plain or gzipped, with
lines like these (`title` may be absent, further fields are passed over):

    {"_id": "marks 12", "title": "Jonas Weltrup", "text": "His mark is an open pair of scissors.",
     "metadata": {}}
    {"_id": "q7", "text": "which potter signed with scissors", "metadata": {}}

and `qrels/test.tsv` (likewise `train.tsv`, `dev.tsv`), tab separated under this header:

    query-id	corpus-id	score
    q7	marks 12	2

The queries of a split are those that its judgements name. Each is a conversation of one turn,
unless its id is of MTRAG's form `<conversation><::><turn>`; a conversation that a data set wrote
into the text of a query stays there. A judgement is relevant or not: every score above 0 counts 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import field
from uniconv_bench.formats import find, identifier, locate, present, read_jsonl, read_tsv

FILES = {split: (f"qrels/{split}.tsv",) for split in ("train", "dev", "test")}
CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
HEADER = ("query-id", "corpus-id", "score")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Task names become parts of paths."""
MARK = "<::>"
CITATION = """
@inproceedings{thakur2021beir,
  title     = {{BEIR}: A Heterogeneous Benchmark for Zero-shot Evaluation of Information
               Retrieval Models},
  author    = {Thakur, Nandan and Reimers, Nils and R{\\"u}ckl{\\'e}, Andreas and
               Srivastava, Abhishek and Gurevych, Iryna},
  booktitle = {Proceedings of the Neural Information Processing Systems Track on Datasets and
               Benchmarks},
  year      = {2021},
}
"""


def card(folder: Path) -> dict[str, Any]:
    """The content of the card of a folder: it is tested on `test`, or on `dev` without that.

    Raises:
        UserError: the folder lacks a file of the layout, or its name cannot be a task's.
    """
    if not NAME.fullmatch(folder.name):
        what = f"the folder's name {folder.name!r} cannot name a task"
        mend = "rename it with letters, digits, dots, dashes and underscores"
        raise UserError(what, where=folder, mend=mend)
    mend = f"a folder named as a task is in BEIR layout: {CORPUS}, {QUERIES}, qrels/test.tsv"
    for name in (CORPUS, QUERIES):
        if find(folder, name) is None:
            raise UserError(f"no file {name}", where=folder, mend=mend)
    there = splits(folder)
    tested = next((split for split in ("test", "dev") if split in there), None)
    if tested is None:
        raise UserError("neither qrels/test.tsv nor qrels/dev.tsv", where=folder, mend=mend)
    return {
        "name": folder.name,
        "title": folder.name,
        "version": 1,
        "description": "An ad-hoc task: the queries and passages of a folder in BEIR layout.",
        "homepage": "https://github.com/beir-cellar/beir",
        "licence": "that of the data set, which the folder does not state",
        "citation": CITATION,
        "test_split": tested,
        "metrics": ["ndcg@3", "ndcg@10", "recall@10", "recall@100", "mrr"],
        "retrieval_setting": "Each query against all passages of the folder.",
        "traps": [
            "Scores above 0 all count 1, so ndcg differs from that of graded judgements.",
            "Turn ids are query ids followed by _1, since a query is a conversation of one turn.",
            "There are no references, so answers are not judged and none are written.",
            "A query without a relevant passage is not judged; BEIR's tools let it score 0.",
        ],
    }


def splits(raw: Path) -> tuple[str, ...]:
    """The splits that have judgements."""
    return present(raw, FILES)


def conversations(raw: Path, split: str) -> Iterator[Conversation]:
    """The queries that a split's judgements name, in the order of `queries.jsonl`."""
    judged = locate(raw, *FILES[split])
    gold, first = _judgements(judged)
    turns: dict[str, list[Turn]] = {}
    path = locate(raw, QUERIES)
    for line, row in read_jsonl(path):
        where = f"{path}, line {line}"
        query_id = identifier(field(row, "_id", str, where), "_id", where)
        if query_id not in gold:
            continue
        if first.pop(query_id, None) is None:
            mend = "give each query an id of its own"
            raise UserError(f"field _id {query_id!r} occurs twice", where=where, mend=mend)
        name, number = _placed(query_id)
        turn = Turn(
            turn_id=f"{name}_{number}",
            conversation_id=name,
            number=number,
            query=field(row, "text", str, where),
            gold=tuple(gold[query_id]),
        )
        turns.setdefault(name, []).append(turn)
    if first:
        query_id, line = next(iter(first.items()))
        what = f"field query-id is {query_id!r}, which {path.name} lacks"
        mend = f"add the query, or drop its judgements ({len(first):,} such ids in all)"
        raise UserError(what, where=f"{judged}, line {line}", mend=mend)
    for name, found in turns.items():
        yield Conversation(name, tuple(found))


def passages(raw: Path) -> Iterator[Passage]:
    """The corpus, one passage a line."""
    path = locate(raw, CORPUS)
    for line, row in read_jsonl(path):
        where = f"{path}, line {line}"
        passage_id = identifier(field(row, "_id", str, where), "_id", where)
        title = field(row, "title", str, where) if "title" in row else ""
        yield Passage(passage_id, field(row, "text", str, where), title)


def _judgements(path: Path) -> tuple[dict[str, dict[str, None]], dict[str, int]]:
    """Query -> relevant passages in file order, and query -> line that names it first."""
    gold: dict[str, dict[str, None]] = {}
    first: dict[str, int] = {}
    for line, (query_id, passage_id, score) in read_tsv(path, HEADER):
        where = f"{path}, line {line}"
        if not re.fullmatch(r"-?[0-9]+", score):
            mend = "write a whole number: 0 for irrelevant, 1 and above for relevant"
            raise UserError(f"field score is {score!r}", where=where, mend=mend)
        first.setdefault(query_id, line)
        relevant = gold.setdefault(query_id, {})
        if int(score) > 0:
            relevant[identifier(passage_id, "corpus-id", where)] = None
    return gold, first


def _placed(query_id: str) -> tuple[str, int]:
    """Conversation and number of a query: `a<::>3` is the third of `a`, all else stands alone."""
    name, mark, number = query_id.rpartition(MARK)
    if mark and name and re.fullmatch(r"[1-9][0-9]*", number):
        return name, int(number)
    return query_id, 1
