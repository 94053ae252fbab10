"""The one exception that a person can cause and mend; any other is a bug."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory|_ALLOC_FAILED")


class UserError(Exception):
    """What went wrong, where, and how to mend it; the command line prints it as one line, exit 2.

    Args:
        what: the fault, as a short sentence without a full stop.
        where: the file (and line or field) at fault.
        mend: what the person can do about it.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None):
        self.what, self.where, self.mend = what, where, mend
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        remedy = f"; {self.mend}" if self.mend else ""
        return " ".join(f"{self.what}{place}{remedy}".split())


@contextmanager
def blamed(what: str, source: str | Path | None, *, ours: bool = False) -> Iterator[None]:
    """Turns what a third party's code raises into one line.

    Args:
        what: what of it is at work, as `First.retrieve`.
        source: its file.
        ours: it is a part of this package, whose errors are bugs and keep their tracebacks.
    """
    try:
        yield
    except (UserError, ModuleNotFoundError):  # each has its own line already
        raise
    except Exception as error:
        if ours:
            raise
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(source)
        ]
        where = f"{source}, line {lines[-1]}" if lines else source
        mend = "mend it (--debug shows the traceback)"
        told = f"{what} failed: {type(error).__name__}: {error}"
        raise UserError(told, where=where, mend=mend) from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, numpy's, or torch's on any device."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None
    )


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names, two at most, that may have been meant."""
    return difflib.get_close_matches(name.lower(), sorted(known), n=2, cutoff=0.5)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a list, with the nearest known names."""
    if near := nearest(name, known := sorted(known)):
        mend = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    else:
        mend = "known: " + ", ".join(known)
    return UserError(f"unknown {kind} {name!r}", mend=mend)
