"""What is wrong with a submission's card, a line each. Reads no file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from uniconv_bench.cards import SubmissionCard
from uniconv_bench.errors import unknown_name
from uniconv_bench.rescoring import Tasks

ADDRESS = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]{0,200}(/[A-Za-z0-9._~/-]{0,300})?")
MARKUP = re.compile(r"[<>\[\]|`\\]|https?://")
LONGEST = {"title": 100, "authors": 100, "contact": 200, "description": 2000, "backbone": 100}
LONGEST |= {"command": 500, "platform": 200}
"""Characters of each text."""


def check_card(card: SubmissionCard, folder: str, known: Tasks) -> Iterator[str]:
    """What is wrong with a card in a folder of this name, where these tasks are known."""
    taken = {_looks(name) for name in known.taken}
    for place, value in (("name", card.name), ("title", card.title)):
        if _looks(value) in taken:
            yield f"card field {place}: {value!r} is the name of another system"
    if card.name != folder:
        yield f"the card's name is {card.name!r}, the folder's {folder!r}"
    if not card.tasks or len(set(card.tasks)) < len(card.tasks):
        yield "card field tasks: name each task once, at least one"
    for place, names in (("tasks", card.tasks), ("trained_on", card.trained_on)):
        for name in names:
            if name not in known.names:
                yield f"card field {place}: {unknown_name('task', name, known.names)}"
    if not card.authors:
        yield "card field authors: name at least one"
    yield from _check_date(card.date)
    texts = {
        "title": [card.title],
        "authors": card.authors,
        "contact": [card.contact],
        "description": [card.description],
        "backbone": [card.backbone or "-"],
        "command": [card.command or "-"],
        "platform": card.platform.said if card.platform else (),
    }
    for name, values in texts.items():
        faults = (_fault(value, LONGEST[name]) for value in values)
        yield from (f"card field {name}: {fault}" for fault in faults if fault)
    for name, address in (("code", card.code), ("paper", card.paper), ("weights", card.weights)):
        if address is not None and not ADDRESS.fullmatch(address):
            yield f"card field {name}: {address!r} is not a plain https address"


def _fault(text: str, longest: int) -> str | None:
    """What is first wrong with one of a card's texts."""
    if found := MARKUP.search(text):
        return f"{found[0]!r} is markup; write plain text"
    if not text.strip():
        return "empty"
    if not text.replace("\n", "").isprintable():
        return "holds control characters"
    if len(text) > longest:
        return f"longer than {longest:,} characters"
    if not unicodedata.is_normalized("NFC", text):
        return "not in Unicode's form NFC"
    mixed = _mixed(text)
    return f"{mixed!r} mixes letters of several scripts" if mixed else None


def _check_date(text: str) -> Iterator[str]:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        yield f"card field date: {text!r} is no day of the calendar"
        return
    if day > datetime.now(UTC).date() + timedelta(days=1):  # it may be tomorrow elsewhere
        yield f"card field date: {text} is in the future"


def _looks(name: str) -> str:
    """Equal for names that a reader would take for one another."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _mixed(text: str) -> str | None:
    """The first word with letters that look like those of another script, as Cyrillic in Latin."""
    for word in re.finditer(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(letter, "?").split()[0] for letter in word[0]}
        if len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}) > 1:
            return word[0]
    return None
