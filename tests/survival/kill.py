"""Kills the pipeline at random moments, as often as asked, and compares what it ends with.

    python -m survival.kill --folder FOLDER --kills 200

Half of the kills come from outside after a random time, half before a random change of the disk,
where the windows between two renamings are. What was done is kept in the folder's `ledger.jsonl`: a
later call goes on with the next kill. Exit code 1, and the folder as it is, if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

from survival.ledger import Ledger
from survival.pipeline import SIGKILLED, Place, began, ended, killed
from survival.remains import Wrong, differences, outcome, unsound


class Harness:
    """Lives and deaths of pipelines in one folder, and the ledger of them."""

    def __init__(self, folder: Path, seed: int):
        self._folder, self._seed = folder, seed
        self._ledger = Ledger(folder / "ledger.jsonl")
        self._reference = Place(folder / "reference")
        self._place = Place(folder / "victim")

    @property
    def kills(self) -> list[dict[str, Any]]:
        """All so far."""
        return self._ledger.rows()

    def undisturbed(self) -> None:
        """What every other pipeline is compared with; takes its time."""
        seconds = self._folder / "seconds.txt"
        if not seconds.exists():
            shutil.rmtree(self._reference.folder, ignore_errors=True)
            start = time.monotonic()
            if code := ended(began(self._reference)):
                raise Wrong(f"exit code {code} undisturbed: {self._reference.log}")
            seconds.write_text(str(time.monotonic() - start))
        self._seconds = float(seconds.read_text())
        self._changes = int((self._reference.folder / "changes.txt").read_text())
        self._expected = outcome(self._reference)

    def life(self) -> bool:
        """One life of the victim; whether it was killed. If not, it is compared and begun anew.

        Raises:
            Wrong: something half-written looks whole, or the end is another one.
        """
        number = len(self.kills)
        chance = random.Random(f"{self._seed} {number}")
        if number % 2:
            kill = {"at": chance.randint(1, self._changes)}
            code = ended(began(self._place, at=kill["at"]))
        else:
            kill = {"after": chance.uniform(0, self._seconds)}
            code = killed(began(self._place), kill["after"])
        if wrong := unsound(self._place):
            raise Wrong(f"kill {number} {kill}: {wrong[0]}")
        if code not in (0, SIGKILLED):
            raise Wrong(f"exit code {code} after kill {number - 1}: {self._place.log}")
        if not code:
            self._compare()
        self._ledger.add({"number": number, **kill, "survived": not code})
        return bool(code)

    def finish(self) -> None:
        """Lets the last victim live."""
        if self._place.folder.exists():
            if code := ended(began(self._place)):
                raise Wrong(f"exit code {code} in the end: {self._place.log}")
            self._compare()

    def _compare(self) -> None:
        deaths = len(list(takewhile(lambda kill: not kill["survived"], reversed(self.kills))))
        if wrong := differences(self._place, self._expected, deaths):
            raise Wrong(f"after {deaths} kills {wrong[0]}")
        shutil.rmtree(self._place.folder)


def survive(folder: Path, kills: int, seed: int = 0, seconds: float = float("inf")) -> int:
    """Kills so often, or as often as there is time for; how often in all calls on this folder.

    Raises:
        Wrong: see `Harness.life`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    harness = Harness(folder, seed)
    harness.undisturbed()
    while (done := sum(not k["survived"] for k in harness.kills)) < kills:
        if time.monotonic() > until:
            return done
        harness.life()
    harness.finish()
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    try:
        done = survive(asked.folder.absolute(), asked.kills, asked.seed, 60 * asked.minutes)
    except Wrong as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 1
    sys.stdout.write(json.dumps({"kills": done, "of": asked.kills}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
