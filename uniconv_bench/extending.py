"""Cards laid on other cards: what one says, what it takes over, and what holds at a profile.

Knows TOML tables alone: no schema, and not where cards are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from uniconv_bench.errors import UserError, unknown_name
from uniconv_bench.files import read_toml

Find = Callable[[str, Path], Path]


def extended(path: Path, find: Find, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A system card's content laid on what it extends, and so each of its adapters.

    `extends = "<system>"` at the top of a card; `extends = "<system>:<adapter>"` in an adapter.

    Args:
        path: of the card.
        find: the path of another system's card, from what this one calls it and where this one is.
        seen: cards that extend this one.

    Raises:
        UserError: cards extend each other in a circle, or one that is not there.
    """
    content = read_toml(path)
    for key in ("name", "title", "description"):
        heading(content, key, path)
    seen = (*seen, path)
    base = content.pop("extends", None)
    if base is not None:
        content = merged(_base(base, path, find, "extends", seen), content)
    return with_adapters(content, path, find, seen)


def with_adapters(
    content: dict[str, Any], path: Path, find: Find, seen: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """A card's content with each of its adapters laid on what that extends; else as `extended`."""
    adapters = content.get("adapters")
    if not isinstance(adapters, dict):
        return content
    for name, adapter in adapters.items():
        if isinstance(adapter, dict) and "extends" in adapter:
            field = f"adapters.{name}.extends"
            system, _, other = str(adapter["extends"]).rpartition(":")
            above = _base(system, path, find, field, seen).get("adapters")
            known = above if isinstance(above, dict) else {}
            if not isinstance(known.get(other), dict):
                raise unknown_name(f"adapter of {system}", other, known)
            own = {key: value for key, value in adapter.items() if key != "extends"}
            adapters[name] = merged(known[other], own)
    return content


def _base(name: Any, path: Path, find: Find, field: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    if not isinstance(name, str) or not name:
        raise UserError(f"malformed card: field {field}: not a system's name", where=path)
    above = find(name, path)
    if above in seen:
        raise UserError(f"malformed card: field {field}: goes in a circle", where=path)
    return extended(above, find, seen)


def heading(content: dict[str, Any], key: str, path: Path) -> str:
    """A text that every card states itself, its name for one."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        mend = "every card states its own name, title and description"
        raise UserError(f"malformed card: field {key}: not a text", where=path, mend=mend)
    return value


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: tables merge key by key, everything else replaces.

    `false` takes a key away (no card has a field of that type). A table whose `kind` differs
    replaces the base's whole, since its fields mean something else. A field that `over` states
    holds at every profile for which `over` says nothing else, whatever `base` has there. A mixture
    goes with the tasks that it mixes. A value that `over` changes loses the source that `base`
    gives for it in `sources`, unless `over` gives one.
    """
    if "tasks" in over:
        over = {"mixture": False, **over}
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if value is False:
            result.pop(key, None)
        elif isinstance(old, dict) and isinstance(value, dict):
            same_kind = "kind" not in value or value["kind"] == old.get("kind")
            result[key] = merged(old, value) if same_kind else value
        else:
            result[key] = value
    if isinstance(base.get("profiles"), dict) and isinstance(result.get("profiles"), dict):
        result["profiles"] = _by_profile(base["profiles"], over)
    if isinstance(sources := result.get("sources"), dict):
        own = over.get("sources") or {}
        changed = {key for key in over if key != "sources" and result.get(key) != base.get(key)}
        result["sources"] = {k: v for k, v in sources.items() if k in own or k not in changed}
    return result


def _by_profile(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The tables of profiles: `over`'s own laid on `base`'s, these without what `over` states.

    `false` stays: it takes away at a profile what holds elsewhere.
    """
    stated = dict.fromkeys(over.keys() - {"sources", "profiles"}, False)
    own = over.get("profiles", {})
    result = {}
    for name in dict.fromkeys([*base, *own]):
        table, said = base.get(name, {}), own.get(name, {})
        if not (isinstance(table, dict) and isinstance(said, dict)):
            result[name] = said or table  # a fault of the card, of which its check tells
            continue
        taken = {key: False for key, value in said.items() if value is False}
        result[name] = merged(merged(table, stated), said) | taken
    return result
