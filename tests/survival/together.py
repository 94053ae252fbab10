"""Two identical and two different pipelines in one cache, started together, and one that prunes.

    python -m survival.together --folder FOLDER

They have to end as the same pipelines one after another do, and no work is done twice. Before they
start, a dead process leaves its locks and its half-done work there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from survival.pipeline import Place, began, ended
from survival.remains import differences, outcome, unsound

PRUNE, PRUNES = ["cache", "prune", "--unfinished", "--yes"], 30
SEEDS = {"tiny": 13, "other": 14, "third": 15}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    alone = [Place(folder / "alone", system, seed) for system, seed in SEEDS.items()]
    codes = [ended(began(place)) for place in alone]
    together = [Place(folder / "together", system, seed) for system, seed in SEEDS.items()]
    ended(began(together[0], unit=5))
    together[0].units.unlink()
    left = sorted(path.name for path in together[0].cache.glob("*/*.lock"))
    children = [began(place) for place in (together[0], *together)]
    children.append(began(together[0], [PRUNE] * PRUNES))
    codes += [ended(child) for child in children]
    wrong = unsound(together[0]) + differences(together[0], outcome(alone[0]), deaths=0)
    wrong += [f"exit codes {codes}"] if any(codes) else []
    wrong += [] if left else ["the dead process left no lock"]
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
