"""All targets, by the groups that their names begin with."""

from __future__ import annotations

from fuzz.files import cards, prepared, raw_files, results, submissions
from fuzz.outside import archives, servers
from fuzz.target import Target

GROUPS = {
    "file": results,
    "card": cards,
    "server": servers,
    "archive": archives,
    "raw": raw_files,
    "prepare": prepared,
    "bundle": submissions,
}


def targets(start: str = "") -> list[Target]:
    """Those whose names begin so; a group is made only if one of them may be in it."""
    groups = [make for name, make in GROUPS.items() if name.startswith(start.partition("/")[0])]
    return [target for make in groups for target in make() if target.name.startswith(start)]
