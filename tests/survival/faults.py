"""The pipeline on a disk that is full, read-only, forbidden or gone from some random change on.

    python -m survival.faults --folder FOLDER --times 40

Each has to end in one line and exit code 2, or well; run again on a disk that works, it has to end
as an undisturbed pipeline does, with no more work done twice than after a kill. Where the person
may mount (root), the full disk is one: a small tmpfs.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from survival.pipeline import Place, began, ended
from survival.remains import Wrong, differences, outcome, unsound

SMALL = 120, 420
"""kB of a disk that some stage fills, and some even leave room on."""


class Harness:
    """An undisturbed pipeline, and what becomes of others on broken disks."""

    def __init__(self, folder: Path, seed: int):
        self._reference, self._place = Place(folder / "reference"), Place(folder / "victim")
        self._chance = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        if code := ended(began(self._reference)):
            raise Wrong(f"exit code {code} undisturbed: {self._reference.log}")
        self._expected = outcome(self._reference)
        self._changes = int((self._reference.folder / "changes.txt").read_text())

    def once(self, kind: str) -> str:
        """One pipeline on a disk of some kind, then on one that works; what came of it."""
        shutil.rmtree(self._place.folder, ignore_errors=True)
        self._place.folder.mkdir(parents=True)
        code = KINDS[kind](self)
        said = self._place.log.read_text()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if code not in (0, 2) or "Traceback" in said or len(errors) != (code == 2):
            raise Wrong(f"{kind}: exit code {code}: {self._place.log}")
        if kind != "vanished" and (wrong := unsound(self._place)):
            raise Wrong(f"{kind}: {wrong[0]}")
        if again := ended(began(self._place)):
            raise Wrong(f"exit code {again} after {kind}: {self._place.log}")
        deaths = sys.maxsize if kind == "vanished" else 1  # what is gone has to be done again
        if wrong := differences(self._place, self._expected, deaths):
            raise Wrong(f"after {kind} {wrong[0]}")
        return errors[0] if errors else "ended well"

    def breaks(self, then: Callable[[], None]) -> int:
        """From some change on, `then` is what a change comes to."""
        return ended(began(self._place, at=self._chance.randint(1, self._changes), then=then))

    def vanishes(self) -> int:
        """Somebody removes the cache, once."""
        gone: list[bool] = []

        def remove() -> None:
            if not gone:
                gone.append(True)
                shutil.rmtree(self._place.cache, ignore_errors=True)

        return self.breaks(remove)

    def writes_little(self) -> int:
        """No file can grow beyond a few bytes; what is over is refused while it is written."""
        bytes_ = self._chance.randint(12_000, 200_000)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, limit[1]))
        try:
            return ended(began(self._place))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    def fills(self) -> int:
        """The cache is a small disk; it is moved to a large one afterwards."""
        small, cache = self._place.folder / "small", self._place.cache
        small.mkdir()
        size = f"size={self._chance.randint(*SMALL)}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", small], check=True)
        try:
            (small / "cache").mkdir()
            cache.symlink_to(small / "cache")
            code = ended(began(self._place))
            cache.unlink()
            shutil.copytree(small / "cache", cache)
        finally:
            subprocess.run(["umount", small], check=True)
        return code


def _refusing(number: int) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


KINDS: dict[str, Callable[[Harness], int]] = {
    "full": lambda harness: harness.breaks(_refusing(errno.ENOSPC)),
    "read-only": lambda harness: harness.breaks(_refusing(errno.EROFS)),
    "forbidden": lambda harness: harness.breaks(_refusing(errno.EACCES)),
    "vanished": Harness.vanishes,
    "short files": Harness.writes_little,
}
if os.geteuid() == 0:
    KINDS["small disk"] = Harness.fills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found: Counter[str] = Counter()
    try:
        harness = Harness(asked.folder.absolute(), asked.seed)
        for number in range(asked.times):
            kind = list(KINDS)[number % len(KINDS)]
            found[f"{kind}: {harness.once(kind)}".replace(str(asked.folder), "FOLDER")] += 1
    except Wrong as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
