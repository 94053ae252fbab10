"""Retrievers, generators and task modules held to their contracts: what third parties wrote may
raise, or give what was not asked for, and then one line names file, class and method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import getfile
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from uniconv_bench.blocks import PassageFiles
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError, blamed
from uniconv_bench.files import canonical_json
from uniconv_bench.runs import Run, answer_line, ordered
from uniconv_bench.system import Answer, Context, Corpus, Generator, Progress, Retriever

OURS = "uniconv_bench."
T = TypeVar("T")


def source_of(part: Any) -> Path:
    """The file of a retriever's or generator's class."""
    return Path(getfile(type(part)))


def built(target: Any, table: Any, context: Context) -> Any:
    """A retriever or generator from its table on the card."""
    with _watched(target, "__init__"):
        return target(table, context)


def fingerprint_of(part: Retriever | Generator) -> dict[str, Any]:
    """What a part says its results depend on."""
    with _watched(type(part), "fingerprint"):
        found = dict(part.fingerprint())
        canonical_json(found)
    return found


def rankings(
    retriever: Retriever, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
) -> Run:
    """The turns' rankings, without empty ones.

    Raises:
        UserError: the retriever failed, or ranked a turn twice or one it was not given.
    """
    code, run, seen = type(retriever), Run(), set[str]()
    known = frozenset(turn.turn_id for turn in turns)
    rows = each(
        code, "retrieve", lambda: retriever.retrieve(turns, corpus, depth, progress), object
    )
    for row in rows:
        with _watched(code, "retrieve"):
            turn_id, ranking = row
            _once(turn_id, known, seen, code, "retrieve")
            found = ordered(ranking, where=f"{code.__name__}.retrieve, turn {turn_id!r}")
        if found:
            run[turn_id] = found
    return run


def answers(
    generator: Generator,
    turns: Sequence[Turn],
    evidence: Mapping[str, Sequence[Passage]],
    progress: Progress,
) -> Iterator[Answer]:
    """Answers as they come.

    Raises:
        UserError: the generator failed, or answered a turn twice or one it was not given.
    """
    code, seen = type(generator), set[str]()
    known = frozenset(turn.turn_id for turn in turns)
    for answer in each(
        code, "generate", lambda: generator.generate(turns, evidence, progress), Answer
    ):
        with _watched(code, "generate"):
            _once(answer.turn_id, known, seen, code, "generate")
            if not isinstance(answer.text, str):
                raise TypeError(f"the text of an Answer is {type(answer.text).__name__}, not str")
            answer_line(answer).encode()
        yield answer


def functions_of(module: ModuleType) -> None:
    """Refuses a task's module that lacks one of its functions."""
    for name in ("splits", "conversations", "passages"):
        if not callable(getattr(module, name, None)):
            mend = "see CONTRIBUTING.md for what a task's module has"
            raise UserError(f"no function {name} in this module", where=module.__file__, mend=mend)


def passages_of(module: ModuleType, raw: Path) -> Iterable[Passage]:
    """A corpus from a task's module; the library's own readers of large files as they are."""
    with _watched(module, "passages"):
        found = module.passages(raw)
    if isinstance(found, PassageFiles):
        return found
    return each(module, "passages", lambda: found, Passage)


def each(code: Any, method: str, call: Callable[[], Iterable[T]], kind: type) -> Iterator[T]:
    """What third-party code yields, one by one; who takes them is not blamed on it.

    Args:
        code: the class or module.
        method: its name in the code.
        call: calls it.
        kind: type of everything that it has to yield.
    """
    with _watched(code, method):
        rows = iter(call())
    while True:
        with _watched(code, method):
            try:
                row = next(rows)
            except StopIteration:
                return
            if not isinstance(row, kind):
                raise TypeError(f"it gave {type(row).__name__}, not {kind.__name__}")
        yield row


def _watched(code: Any, method: str) -> AbstractContextManager[None]:
    try:
        source: str | None = getfile(code)
    except TypeError:  # a built-in
        source = None
    if isinstance(code, ModuleType):
        module, label = code.__name__, Path(source or code.__name__).stem
    else:
        module, label = str(code.__module__), code.__name__
    return blamed(f"{label}.{method}", source, ours=module.startswith(OURS))


def _once(turn_id: str, known: Collection[str], seen: set[str], code: type, method: str) -> None:
    fault = None
    if turn_id not in known:
        fault = f"turn {turn_id!r}, which it was not given"
    elif turn_id in seen:
        fault = f"turn {turn_id!r} twice"
    if fault:
        mend = "each turn that it is given may come once"
        what = f"{code.__name__}.{method} yielded {fault}"
        raise UserError(what, where=getfile(code), mend=mend)
    seen.add(turn_id)
