"""What is wrong with a submission's card, a line each. Reads no file of a submission."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path

from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.errors import unknown_name
from uniconv_bench.rescoring import Tasks

ADDRESS = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]{0,200}(/[A-Za-z0-9._~/-]{0,300})?")
MARKUP = re.compile(r"[<>\[\]|`\\]|https?://")
LONGEST = {"title": 100, "authors": 100, "contact": 200, "description": 2000, "backbone": 100}
LONGEST |= {"command": 500, "platform": 200}
"""Characters of each text."""
EARLIEST = 2025
"""The year of the paper: no submission is older."""
LOOKALIKES = (("rn", "m"), ("vv", "w"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s"), ("8", "b"))
"""What is read for what in many a typeface."""
OWN = (
    *("name", "title", "contact", "description", "backbone", "platform"),
    *("code", "commit", "command", "paper", "weights"),
)
"""Fields in which two submissions do not say the same by chance; and `authors`, each."""


def template() -> str:
    """A card to fill in."""
    path = resources.files("uniconv_bench") / "templates" / "submission.toml"
    return path.read_text(encoding="utf-8")


def check_card(card: SubmissionCard, folder: str, known: Tasks) -> Iterator[str]:
    """What is wrong with a card in a folder of this name, where these tasks are known."""
    taken = {skeleton(name): owner for name, owner in known.taken.items()}
    for place, value in (("name", card.name), ("title", card.title)):
        if (owner := taken.get(skeleton(value))) is not None:
            yield f"card field {place}: {value!r} is the name of another system, {owner}"
    yield from _check_title(card.title)
    yield from _check_filled_in(card)
    if card.name != folder:
        yield f"the card's name is {card.name!r}, the folder's {folder!r}"
    if not card.tasks or len(set(card.tasks)) < len(card.tasks):
        yield "card field tasks: name each task once, at least one"
    for place, names in (("tasks", card.tasks), ("trained_on", card.trained_on)):
        for name in names:
            if name not in known.names:
                yield f"card field {place}: {unknown_name('task', name, known.names)}"
    if len(set(card.trained_on)) < len(card.trained_on):
        yield "card field trained_on: name each task once"
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
    if day.year < EARLIEST:
        yield f"card field date: {text} is before there was such a leaderboard"
    if day > datetime.now(UTC).date() + timedelta(days=1):  # it may be tomorrow elsewhere
        yield f"card field date: {text} is in the future"


def _check_title(title: str) -> Iterator[str]:
    """Other letters would be needed to look like these; blanks of no width to look like nothing."""
    if strange := next((sign for sign in title if not _is_plain(sign)), None):
        yield (
            f"card field title: {ascii(strange)} is neither printable ASCII nor a Latin letter "
            "with an accent"
        )
    elif not skeleton(title):
        yield "card field title: holds no letter and no digit"


def _is_plain(sign: str) -> bool:
    if sign.isascii():
        return sign.isprintable()
    return sign.isalpha() and unicodedata.normalize("NFD", sign)[0].isascii()


def _check_filled_in(card: SubmissionCard) -> Iterator[str]:
    example = _example()
    for name in OWN:
        if (value := getattr(card, name)) is not None and value == getattr(example, name):
            yield f"card field {name}: as on the card to fill in; say your own, or leave it out"
    for author in card.authors:
        if author in example.authors:
            yield f"card field authors: {author!r} is of the card to fill in; name your own"


@cache
def _example() -> SubmissionCard:
    return parse_card(SubmissionCard, tomllib.loads(template()), Path("submission.toml"))


def skeleton(name: str) -> str:
    """Equal for names that a reader could take for one another.

    Letters and digits alone count, without case and accents, and those that look alike as one.
    """
    bare = unicodedata.normalize("NFD", name).casefold()
    looks = "".join(sign for sign in bare if sign.isascii() and sign.isalnum())
    for one, other in LOOKALIKES:
        looks = looks.replace(one, other)
    return looks


def _mixed(text: str) -> str | None:
    """The first word with letters that look like those of another script, as Cyrillic in Latin."""
    for word in re.finditer(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(letter, "?").split()[0] for letter in word[0]}
        if len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}) > 1:
            return word[0]
    return None
