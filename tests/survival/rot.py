"""Flips random bits in every kind of file that is kept, and looks what comes of it.

    python -m survival.rot --folder FOLDER --flips 500

A flip has to be harmless (the scores are those of before) or refused in one line, and what is
refused `doctor --deep` has to name. What was done is kept in the folder's `flips.jsonl`: a later
call goes on with the next flip. Exit code 1 if a broken file became a number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bundling import CARD, TASKS, files
from survival.ledger import Ledger
from survival.pipeline import REPOSITORY, SIGKILLED, Place, began, ended
from survival.remains import Wrong, outcome

from uniconv_bench.deep import read_all
from uniconv_bench.errors import UserError
from uniconv_bench.examination import check
from uniconv_bench.files import CACHE
from uniconv_bench.outcomes import read_outcome
from uniconv_bench.submission import pack
from uniconv_bench.uniconv.checkpoint import CHECKPOINT, OLD

PASSAGE_SHARDS = 4
"""Units of work of `prepare`."""
KINDS: dict[str, str] = {
    "turns and judgements": "whole/cache/tasks/*/*",
    "corpus": "whole/cache/tasks/*/passages/*",
    "backbone": "whole/cache/backbones/*/*",
    "adapter": "whole/cache/adapters/*/*",
    "shards": "whole/cache/embeddings/*/*",
    "index": "indexed/cache/indexes/*/*",
    "run": "whole/cache/retrieval/*/*",
    "answers": "whole/cache/answers/*/*",
    "scores": "whole/cache/scores/*/*",
    "cached record": "whole/cache/records/*/*",
    "results": "whole/results/sample/*/*",
    "study": "whole/results/studies/*/*/outcome.json",
    "submission": "whole/submissions/*/*",
    "corpus so far": "prepared/cache/tasks/*.partial/passages/*",
    "checkpoint": "trained/cache/adapters/*.partial/checkpoint.partial/*",
    "checkpoint before": "older/cache/adapters/*.partial/checkpoint.old.partial/*",
    "shards so far": "encoded/cache/embeddings/*.partial/*.npy",
    "seals": "encoded/cache/embeddings/*.partial/*.sha256.partial",
    "answers so far": "answered/cache/answers/*.partial/answers.partial",
    "cost so far": "answered/cache/answers/*.partial/cost.partial",
    "adapter, not renamed": "adapted/cache/adapters/*.partial/*",
    "shards, not renamed": "embedded/cache/embeddings/*.partial/*",
    "answers, not renamed": "said/cache/answers/*.partial/*",
}
"""Kind -> its files below the folder of a harness."""
STATES: dict[str, dict[str, Any]] = {
    "whole": {},
    "indexed": {},
    "prepared": {"unit": 3},
    "trained": {"unit": PASSAGE_SHARDS + 5},
    "older": {"unit": PASSAGE_SHARDS + 5},
    "encoded": {"unit": PASSAGE_SHARDS + 8},
    "answered": {"unit": PASSAGE_SHARDS + 12},
    "adapted": {"completed": "adapters"},
    "embedded": {"completed": "embeddings"},
    "said": {"completed": "answers"},
}
"""Folder -> where in its work the pipeline there was killed, if it was."""
INDEXED = (("top_k = 1", 'top_k = 1\nindex = "HNSW8"'),)
"""How the card of the one with an approximate index differs."""
UNNAMED = ("answers so far", "submission")
"""Kinds of which `--deep` may have nothing to say: a last line may be torn by a kill, and what the
manifest of a submission claims is computed again by `submit check`."""


class Harness:
    """States of the pipeline in one folder, and the ledger of the flips in copies of them."""

    def __init__(self, folder: Path, seed: int):
        self._folder, self._seed = folder, seed
        self._ledger = Ledger(folder / "flips.jsonl")
        self._victim = Place(folder / "victim")
        for state, death in STATES.items():
            place = self._place(state, state)
            if not (folder / f"{state}.done").exists():
                shutil.rmtree(place.folder, ignore_errors=True)
                if (code := ended(began(place, **death))) != (SIGKILLED if death else 0):
                    raise Wrong(f"exit code {code} before any flip: {place.log}")
                if state == "whole":
                    self._add_outsiders(place)
                if state == "older":  # as it is between two renamings
                    (last,) = place.cache.glob(f"adapters/*/{CHECKPOINT}")
                    last.rename(last.with_name(OLD))
                (folder / f"{state}.done").touch()
        ends = {state: "whole" if death else state for state, death in STATES.items()}
        self._expected = {s: _scores(self._place(end, end)) for s, end in ends.items()}
        self._table = self._printed(Place(folder / "whole"))

    def _place(self, folder: str, state: str) -> Place:
        """A folder in which the pipeline of a state works."""
        if state == "indexed":
            return Place(self._folder / folder, system="quick", changes=INDEXED)
        return Place(self._folder / folder)

    @staticmethod
    def _add_outsiders(place: Place) -> None:
        """What the pipeline itself does not make: a study's outcome and a submission."""
        studies = place.results / "studies"
        shutil.copytree(REPOSITORY / "results" / "studies", studies, dirs_exist_ok=True)
        (place.folder / "card.toml").write_text(CARD)
        made = files(place.folder / "in", hits=6)
        pack(place.folder / "card.toml", {"toy": made}, place.folder / "submissions", TASKS)

    @property
    def flips(self) -> list[dict[str, str]]:
        """All so far."""
        return self._ledger.rows()

    def flip(self) -> None:
        """Flips one bit; raises Wrong if that is neither refused nor harmless."""
        number = len(self.flips)
        chance = random.Random(f"{self._seed} {number}")
        kind = list(KINDS)[number % len(KINDS)]
        state, _, pattern = KINDS[kind].partition("/")
        self._victim = self._place("victim", state)
        victim = self._victim.folder
        shutil.rmtree(victim, ignore_errors=True)
        shutil.copytree(self._folder / state, victim)
        there = [p for p in sorted(victim.glob(pattern)) if p.is_file() and p.stat().st_size]
        path = chance.choice(there)
        content = bytearray(path.read_bytes())
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        where = f"{kind}: {path.relative_to(victim)}, byte {place}, bit {bit}"
        found = self._consequence(kind, state, path, where)
        self._ledger.add({"kind": kind, "where": where, "found": found})

    def _consequence(self, kind: str, state: str, path: Path, where: str) -> str:
        os.environ[CACHE] = str(self._victim.cache)
        submissions = self._victim.folder / "submissions"
        broken = [c for c in read_all(self._victim.results, submissions) if c.state == "broken"]
        if kind == "study":
            refused = self._refuses_study(path, where)
        elif kind == "submission":
            refused = bool(check(path.parent, TASKS))
        elif kind == "results":
            refused = self._refuses_table(where)
        else:
            refused = self._refuses_run(self._expected[state], where)
        if refused and not broken and kind not in UNNAMED:
            raise Wrong(f"{where}: refused, and doctor --deep does not name it")
        return "refused" if refused else "named, harmless" if broken else "harmless"

    def _refuses_run(self, expected: dict[str, str], where: str) -> bool:
        place = self._victim
        place.log.unlink(missing_ok=True)
        code = ended(began(place, place.commands()[-2:]))
        if code == 0 and _scores(place) != expected:
            raise Wrong(f"{where}: other scores")
        if code not in (0, 2) or "Traceback" in place.log.read_text():
            raise Wrong(f"{where}: exit code {code}, {place.log}")
        return code == 2

    def _refuses_table(self, where: str) -> bool:
        printed = self._printed(self._victim)
        if printed is not None and printed != self._table:
            raise Wrong(f"{where}: another table")
        return printed is None

    def _printed(self, place: Place) -> str | None:
        """What `table` says; None: it refuses."""
        place.log.unlink(missing_ok=True)
        code = ended(began(place, place.commands()[-1:]))
        said = place.log.read_text()
        if code not in (0, 2) or "Traceback" in said:
            raise Wrong(f"exit code {code} of table, {place.log}")
        return None if code else said.replace(str(place.folder), "")

    def _refuses_study(self, path: Path, where: str) -> bool:
        original = self._folder / "whole" / path.relative_to(self._victim.folder)
        try:
            if read_outcome(path) != read_outcome(original):
                raise Wrong(f"{where}: another outcome")
        except UserError:
            return True
        return False


def _scores(place: Place) -> dict[str, str]:
    return {name: digest for name, digest in outcome(place).items() if "/" not in name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    until = time.monotonic() + 60 * asked.minutes
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        harness = Harness(asked.folder.absolute(), asked.seed)
        while len(harness.flips) < asked.flips and time.monotonic() < until:
            harness.flip()
    except Wrong as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 1
    found = Counter(f"{row['kind']}: {row['found']}" for row in harness.flips)
    sys.stdout.write(json.dumps({"flips": found.total(), **dict(sorted(found.items()))}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
