"""Run, answer, qrels and reference files: written, read, in order. Knows no task and no score.

One order holds everywhere: scores as float32, best first, equal scores by passage id ascending.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from operator import neg
from pathlib import Path
from typing import Any, NoReturn

from uniconv_bench.errors import UserError
from uniconv_bench.files import atomic_write
from uniconv_bench.system import Answer, Ranking

Run = dict[str, list[tuple[str, float]]]
"""turn_id -> (passage_id, score), best first."""

Qrels = dict[str, dict[str, int]]
"""turn_id -> passage_id -> grade; relevant from grade 1."""

DEPTH = 100
"""Most passages a turn that a run file may hold."""
QUOTED = 40
"""Characters of a wrong number that are quoted."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""What other programs read as a number, too: `float` takes `1_0` and digits of any script."""


def float32(score: float) -> float:
    """The nearest float32, as a Python float; infinite beyond its range."""
    return array("f", (score,))[0]


def ordered(ranking: Iterable[tuple[str, float]], where: str = "") -> Ranking:
    """A ranking in the one order of this project.

    Raises:
        UserError: a score is not a finite float32, or a passage comes twice.
    """
    rows = list(ranking)
    ids = [passage_id for passage_id, _ in rows]
    scores = array("f", [score for _, score in rows])
    for passage_id, score in zip(ids, scores, strict=True):
        if not math.isfinite(score):
            raise UserError(f"score of passage {passage_id!r} is not a finite number", where=where)
    if len(set(ids)) < len(ids):
        twice = next(passage_id for passage_id in ids if ids.count(passage_id) > 1)
        raise UserError(f"passage {twice!r} is ranked twice", where=where)
    # As many rankings as a run has make a key for each passage costly; plain tuples are not.
    best_first = sorted(zip(map(neg, scores), ids, strict=True))
    return [(passage_id, -score) for score, passage_id in best_first]


def write_run(path: Path, run: Iterable[tuple[str, Ranking]], tag: str) -> None:
    """Writes a TREC run file: turn, Q0, passage, rank, score, tag; tab separated, gzip by suffix.

    Tabs, because passage ids may hold blanks. Nine digits bring every float32 back unchanged.
    """
    lines = []
    for turn_id, ranking in run:
        rows = ordered(ranking, where=f"turn {turn_id!r}")
        for rank, (passage_id, score) in enumerate(rows, 1):
            row = (turn_id, "Q0", passage_id, str(rank), f"{score:.9g}", tag)
            for field in row:
                if not field or field != field.strip() or any(c in field for c in "\t\r\n"):
                    raise UserError(
                        f"{field!r} cannot be written to a run file",
                        where=path,
                        mend="ids may not be empty, hold tabs or line ends, or end in a blank",
                    )
            lines.append("\t".join(row) + "\n")
    _write_text(path, "".join(lines))


def read_run(path: Path) -> Run:
    """Reads a TREC run file, separated by tabs or blanks, in any line order; ranks are ignored.

    Raises:
        UserError: naming file, line and field: columns, a score that is no finite number, a
            passage ranked twice for a turn.
    """
    rankings: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        turn_id, _, passage_id, _, text, _ = _columns(line, 6, path, number)
        score = _score(text)
        if not math.isfinite(score):
            _refuse(f"field score: {text[:QUOTED]!r} is not a finite number", path, number)
        ranking = rankings.setdefault(turn_id, {})
        if passage_id in ranking:
            _refuse(f"passage {passage_id!r} comes twice for turn {turn_id!r}", path, number)
        ranking[passage_id] = score
    return {turn_id: ordered(ranking.items()) for turn_id, ranking in rankings.items()}


def check_ranks(path: Path) -> str | None:
    """The first line of a run file whose rank is not that of its score, if there is one.

    Turns are expected together, their ranks from 1, their scores in the one order.

    Raises:
        UserError: a line of other columns.
    """
    turn, due, above, seen = "", 1, (math.inf, ""), set()
    for number, line in _lines(path):
        turn_id, _, passage_id, rank, text, _ = _columns(line, 6, path, number)
        if turn_id != turn:
            if turn_id in seen:
                return f"line {number}: turn {turn_id!r} goes on after another's lines"
            turn, due, above = turn_id, 1, (math.inf, "")
            seen.add(turn_id)
        score = _score(text)
        if math.isnan(score):
            continue  # for `read_run` to refuse
        if rank != str(due):
            return f"line {number}: rank {rank!r} where {due} is due"
        if (-score, passage_id) < (-above[0], above[1]):
            return f"line {number}: {passage_id!r} is ranked below a lower score, or a later id"
        due, above = due + 1, (score, passage_id)
    return None


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Writes one JSON object a line, gzip by suffix."""
    _write_text(path, "".join(answer_line(answer) for answer in answers))


def answer_line(answer: Answer) -> str:
    """An answer as its line of an answer file."""
    row = {
        "turn_id": answer.turn_id,
        "answer": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "evidence": list(answer.evidence),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_answers(path: Path) -> dict[str, Answer]:
    """Reads an answer file: `turn_id` and `answer` (or `text`) a line, the other fields optional.

    Raises:
        UserError: naming file, line and field.
    """
    answers: dict[str, Answer] = {}
    for number, row in read_objects(path):
        answer = parse_answer(row, path, number)
        if answer.turn_id in answers:
            _refuse(f"turn {answer.turn_id!r} is answered twice", path, number)
        answers[answer.turn_id] = answer
    return answers


def parse_answer(row: Mapping[str, Any], path: Path, number: int) -> Answer:
    """One line of an answer file.

    Raises:
        UserError: naming file, line and field.
    """
    turn_id = _string(row, "turn_id", path, number)
    if "text" in row and "answer" in row:
        _refuse("both field text and field answer", path, number)
    text = _string(row, "text" if "text" in row else "answer", path, number)
    counts = {}
    for name in ("prompt_tokens", "tokens"):
        counts[name] = row.get(name, 0)
        if type(counts[name]) is not int or counts[name] < 0:
            _refuse(f"field {name}: not a whole number of 0 or more", path, number)
    evidence = _strings(row.get("evidence", []), "evidence", path, number)
    return Answer(turn_id, text, evidence=evidence, **counts)


def read_qrels(path: Path) -> Qrels:
    """Reads TREC qrels: turn, anything, passage, grade; separated by tabs or blanks."""
    qrels: Qrels = {}
    for number, line in _lines(path):
        turn_id, _, passage_id, text = _columns(line, 4, path, number)
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            _refuse(f"field grade: {text[:QUOTED]!r} is not a whole number", path, number)
        grades = qrels.setdefault(turn_id, {})
        if passage_id in grades:
            _refuse(f"passage {passage_id!r} is judged twice for turn {turn_id!r}", path, number)
        grades[passage_id] = int(text)
    if not qrels:
        raise UserError("no judgement in this file", where=path)
    return qrels


def read_references(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads one `{"turn_id": ..., "references": [...]}` a line."""
    references: dict[str, tuple[str, ...]] = {}
    for number, row in read_objects(path):
        turn_id = _string(row, "turn_id", path, number)
        texts = _strings(row.get("references"), "references", path, number)
        if not texts:
            _refuse("field references: empty", path, number)
        if turn_id in references:
            _refuse(f"turn {turn_id!r} comes twice", path, number)
        references[turn_id] = texts
    if not references:
        raise UserError("no reference in this file", where=path)
    return references


def write_objects(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, gzip by suffix."""
    _write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, JSON object) of every line that is not blank; gzip by suffix."""
    for number, line in _lines(path):
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, too
            raise UserError(f"not valid JSON: {error}", where=f"{path}, line {number}") from error
        if not isinstance(row, dict):
            _refuse("not a JSON object", path, number)
        yield number, row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs: of a name that comes twice, readers differ on which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names a field twice")
    return found


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path, "wb") as stream:
        if path.suffix == ".gz":
            # No name and no time in the header: equal content, equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:
                packed.write(text.encode())
        else:
            stream.write(text.encode())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of every line that is not blank."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    _refuse("not valid UTF-8", path, number)
                if text.strip():
                    yield number, text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"not a whole gzip file: {error}", where=path) from error
    except FileNotFoundError as error:
        raise UserError("no such file", where=path) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error


def _columns(line: str, count: int, path: Path, number: int) -> list[str]:
    columns = [c.strip() for c in (line.split("\t") if "\t" in line else line.split())]
    if len(columns) != count:
        _refuse(
            f"{len(columns)} columns where {count} are expected",
            path,
            number,
            mend="separate the columns by tabs if ids hold blanks",
        )
    if not all(columns):
        _refuse(f"column {columns.index('') + 1} is empty", path, number)
    return columns


def _score(text: str) -> float:
    """As float32; NaN if it is no number in plain digits."""
    return float32(float(text)) if NUMBER.fullmatch(text) else math.nan


def _string(row: Mapping[str, Any], name: str, path: Path, number: int) -> str:
    if name not in row:
        _refuse(f"field {name} is missing", path, number)
    if not isinstance(value := row[name], str):
        _refuse(f"field {name}: not a text", path, number)
    return _encodable(value, name, path, number)


def _encodable(value: str, name: str, path: Path, number: int) -> str:
    """JSON can spell half a character, which no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(f"field {name}: holds half a character (a lone surrogate)", path, number)
    return value


def _strings(value: Any, name: str, path: Path, number: int) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        _refuse(f"field {name}: not a list of texts", path, number)
    return tuple(_encodable(item, name, path, number) for item in value)


def _refuse(what: str, path: Path, number: int, mend: str | None = None) -> NoReturn:
    raise UserError(what, where=f"{path}, line {number}", mend=mend)
