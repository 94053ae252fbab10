"""Sound files made unsound: one mutator for hypothesis, which draws from it, and for atheris.

Works on the structure of a file (JSON, JSON lines, TOML, columns), then on its bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

TEXTS = (
    *("", " ", "\t", "\n", "\r", "\0", "a\tb", "a\nb", " x", "-1", "0", "NaN", "1e999", "²", "٣"),
    *("..", "../../x", "/etc/passwd", "a" * 70_000, "\ud800", "é", "e\u0301", "\u2028", "\x1b[31m"),
    *("[/red]", "[bold", "{text}", "{}", "%s", "$(id)", "<b>", "x:y", "uniconv", "gold+999999999"),
)
LITERALS = (
    *("NaN", "-Infinity", "1e999", "-0.0", "1" * 5000, "9" * 30, "1e-400", "[" * 3000, "{}" * 2),
    *('"\\ud800"', '"\\u0000"', "tru", "'", "1_000", "0x10", "2026-02-30", "{", "]"),
)
"""Put into a JSON or TOML text as they are: not all of them are values of either."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -1.5, 1e308, float("nan")),
    *([], {}, [[]], [None], [1, "a"], {"": ""}, {"a": {"b": []}}, ["x"] * 300),
    *TEXTS,
)
SIGNS = (b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b'"', b"\\", b"{", b"]", b"\xff", b"\xc3")
SIGNS += (b"\xef\xbb\xbf", b"\xed\xa0\x80", b"9" * 400, b"[" * 5000, b" ", b"-", b"\x1f\x8b")


def json_file(content: bytes, random: Random) -> bytes:
    """A JSON value with some of its parts changed."""
    return _json(content, random)


def json_lines(content: bytes, random: Random) -> bytes:
    """One line changed, dropped, doubled or moved."""
    return _lines(content, random, lambda line: _json(line, random))


def toml_file(content: bytes, random: Random) -> bytes:
    """One line's key or value changed, or a line dropped, doubled or moved."""

    def change(line: bytes) -> bytes:
        key, sign, value = line.partition(b"=")
        if not sign:
            return random.choice((b"[a]", b"[[a]]", b"[adapters.x]", line + b"]", b"a.b.c = 1"))
        if random.random() < 0.2:
            return random.choice((b"x", b"extends", b'"" ', key + b".x", b"kind")) + sign + value
        return key + sign + _literal(random).encode("utf-8", "surrogatepass")

    return _lines(content, random, change)


def columns(content: bytes, random: Random) -> bytes:
    """One column of a line changed, or a line dropped, doubled or moved."""

    def change(line: bytes) -> bytes:
        cells = re.split(rb"([\t ])", line)
        cells[random.randrange(len(cells))] = _text(random)
        return b"".join(cells)

    return _lines(content, random, change)


def any_bytes(content: bytes, random: Random) -> bytes:
    """Cut, spliced, overwritten: at random places, without regard to what they mean."""
    for _ in range(random.randint(1, 4)):
        start, end = sorted(random.randint(0, len(content)) for _ in range(2))
        put = random.choice(
            (b"", random.choice(SIGNS), content[start : start + 40], bytes([random.randrange(256)]))
        )
        end = random.choice((start, start + 1, end))
        content = content[:start] + put + content[end:]
    return content


def mutated(content: bytes, structured: Mutator, random: Random) -> bytes:
    """A few changes of structure, of bytes, or of both."""
    kind = random.randrange(8)
    if kind:
        for _ in range(random.choice((1, 1, 2, 4))):
            content = structured(content, random)
    return any_bytes(content, random) if kind < 2 else content


def _json(content: bytes, random: Random) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return any_bytes(content, random)
    raw = _literal(random) if random.random() < 0.15 else None
    value = _changed(value, random, "@literal@" if raw else _value(random))
    try:
        text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    except (ValueError, RecursionError):  # thousands of digits, nested too deep: put there before
        return any_bytes(content, random)
    if raw:
        text = text.replace('"@literal@"', raw)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, random: Random, new: Any) -> Any:
    """The value with one part of it replaced by `new`, taken away, doubled or renamed."""
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.05:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random.choice(keys)
    if random.random() < 0.75 and isinstance(value[key], (dict, list)):
        value[key] = _changed(value[key], random, new)
        return value
    what = random.randrange(6)
    if what < 3:
        value[key] = new
    elif what == 3:
        del value[key]
    elif isinstance(value, dict):
        value[random.choice((*map(str, keys), "x", ""))] = value.pop(key)
    else:
        value.insert(random.randrange(len(value)), value[key])
    return value


def _lines(content: bytes, random: Random, change: Callable[[bytes], bytes]) -> bytes:
    lines = content.split(b"\n")
    place, other = (random.randrange(len(lines)) for _ in range(2))
    what = random.randrange(8)
    if what == 0:
        del lines[place]
    elif what == 1:
        lines.insert(other, lines[place])
    elif what == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines[place] = change(lines[place])
    return b"\n".join(lines)


def _value(random: Random) -> Any:
    return random.choice(VALUES)


def _text(random: Random) -> bytes:
    return str(random.choice(VALUES)).encode("utf-8", "surrogatepass")


def _literal(random: Random) -> str:
    """A value as JSON and TOML write most of them."""
    if random.random() < 0.3:
        return random.choice(LITERALS)
    return json.dumps(_value(random), ensure_ascii=random.random() < 0.5)
