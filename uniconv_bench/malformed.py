"""What is wrong with a card, in plain words: pydantic's errors as the fields and kinds of cards."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from uniconv_bench.errors import UserError

TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
Place = tuple[str | int, ...]


def malformed(model: type[BaseModel], error: ValidationError, where: Path) -> UserError:
    """The first fault of a card as an error that names file, field and how to mend it."""
    what, mend = first_fault(model, error)
    return UserError(f"malformed card: {what}", where=where, mend=mend)


def first_fault(model: type[BaseModel], error: ValidationError) -> tuple[str, str | None]:
    """The field that is wrong and in what; how to mend it."""
    faults = error.errors()
    # A misspelt field is both missing and unknown: the second says more.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    table, names = _reached(model, fault["loc"])
    what, mend = _told(fault, names, table)
    return (f"field {'.'.join(names)}: " if names else "") + what, mend


def _told(fault: Any, names: Sequence[str], table: type[BaseModel]) -> tuple[str, str | None]:
    """What is wrong, and how to mend it."""
    kind, context, given = fault["type"], fault.get("ctx", {}), fault.get("input")
    if kind == "extra_forbidden":
        return "no such field", _near(names[-1], table.model_fields) + _fields(names[:-1], table)
    if kind == "missing":
        return "is missing", _fields(names[:-1], table)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = [tag for tag, _ in _tagged(table.model_fields[names[-1]].annotation)]
        listed = f"kinds of {names[-1]}: {', '.join(known)}"
        chosen = given.get("kind") if isinstance(given, dict) else None
        if chosen is None:
            return "has no kind" if isinstance(given, dict) else "is not a table", listed
        return f"no kind {chosen!r}", _near(str(chosen), known) + listed
    if kind == "literal_error":
        known = [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"{given!r} cannot be chosen", _near(str(given), known) + "it is one of: " + (
            ", ".join(known)
        )
    if kind in TYPES:
        quotable = kind == "string_type" and not isinstance(given, (dict, list, tuple))
        return f"is {_type(given)}, not {TYPES[kind]}", "put it in quotes" if quotable else None
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return f"is {_shown(given)}; it has to be {words} {context[key]:g}", None
    if kind == "string_pattern_mismatch":
        field = table.model_fields.get(names[-1])
        examples = field.examples if field else None
        return f"{given!r} is not of the right form", (
            f"write it as {examples[0]!r}" if examples else f"it has to match {context['pattern']}"
        )
    if kind == "value_error":
        return str(context["error"]), None
    return str(fault["msg"]), None


def _shown(number: Any) -> str:
    """A number as it was written; Python writes none of thousands of digits."""
    return repr(number) if abs(number) < 10**30 else "a number of more than 30 digits"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def _fields(names: Sequence[str], table: type[BaseModel]) -> str:
    place = f"[{'.'.join(names)}]" if names else "the card"
    own = [name for name in table.model_fields if name in table.__annotations__]
    shared = [name for name in table.model_fields if name not in table.__annotations__]
    return f"{place} takes {', '.join([*own, *shared])}"


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = (
        *((str, "a text"), (int, "a whole number"), (float, "a number")),
        *((dict, "a table"), (date, "a date")),
    )
    known = next((words for kind, words in kinds if isinstance(value, kind)), None)
    return known or ("a list" if isinstance(value, (list, tuple)) else type(value).__name__)


def _reached(model: type[BaseModel], place: Place) -> tuple[type[BaseModel], list[str]]:
    """Of pydantic's place: the innermost table on the way there, and the path without tags."""
    table = model
    here: Any = model
    names: list[str] = []
    for part in place:
        here = _bare(here)
        tagged = dict(_tagged(here))
        if part in tagged:  # the kind that was chosen, no field
            here = table = tagged[str(part)]
            continue
        if get_origin(here) in (Union, types.UnionType):  # one of several forms of a value
            break
        if part == "[key]":  # the key itself is at fault
            break
        names.append(str(part))
        if isinstance(here, type) and issubclass(here, BaseModel):
            table = here
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        else:  # into a list or a table of any keys
            arguments = [a for a in get_args(here) if a is not Ellipsis]
            here = arguments[-1] if arguments else None
    return table, names


def _bare(annotation: Any) -> Any:
    """Without `Annotated` and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType) and not _tagged(annotation):
        some = [a for a in get_args(annotation) if a is not type(None)]
        return _bare(some[0]) if len(some) == 1 else annotation
    return annotation


def _tagged(annotation: Any) -> list[tuple[str, Any]]:
    """(kind, table) of a union that a kind decides; nothing for any other."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    found = []
    for member in get_args(annotation):
        tags = [m.tag for m in getattr(member, "__metadata__", ()) if isinstance(m, Tag)]
        found += [(tag, get_args(member)[0]) for tag in tags]
    return found
