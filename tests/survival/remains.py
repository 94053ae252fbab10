"""What a pipeline has left on disk: whether it is sound, and what has to be equal in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from survival.pipeline import CHECKPOINT_STEPS, Place

from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_file
from uniconv_bench.records import read_record, read_records, record_path
from uniconv_bench.turnscores import read_scores

UNLIKE = {"cost.json", "manifest.json", "record.json", "training.json", "log.jsonl"}
"""Files of artefacts that hold times."""
AT_MOST = {"passages": 1, "shard": 1, "batch": 1, "step": CHECKPOINT_STEPS}
"""Units that one death may cause to be begun again."""


class Wrong(Exception):
    """What was done to a pipeline shows in what it leaves, or it did not say so in one line."""


def repeated(place: Place) -> dict[str, int]:
    """Kind of unit -> how many were begun again."""
    began = Counter(place.units.read_text().splitlines())
    again: Counter[str] = Counter()
    for unit, times in began.items():
        again[unit.split()[1]] += times - 1
    return dict(again)


def outcome(place: Place) -> dict[str, str]:
    """Everything that has to be equal, whatever happened on the way: name -> digest.

    Not what a stage cost, and not when.
    """
    found = {}
    for path in sorted(place.cache.glob("*/*/**/*")):
        name = path.relative_to(place.cache).as_posix()
        if path.is_file() and path.name not in UNLIKE:
            found[name] = digest_of_file(path)
    for record in read_records(place.results):
        said = record.model_dump(mode="json", include={"scores", "counts", "digests"})
        found[f"record of {record.system.name}"] = digest_of(said)
        for name, values in read_scores(record, record_path(place.results, record)).items():
            found[f"{name} by turn of {record.system.name}"] = digest_of(values)
    return found


def differences(place: Place, expected: Mapping[str, str], deaths: int) -> list[str]:
    """What is not as an undisturbed pipeline leaves it, and what was lost on the way.

    Args:
        place: where a pipeline has ended well.
        expected: the undisturbed one's outcome.
        deaths: lives that were cut short on the way to this end.
    """
    unlike = sorted({name for name, _ in outcome(place).items() ^ expected.items()})
    wrong = [f"unlike an undisturbed pipeline: {unlike}"] if unlike else []
    return wrong + [
        f"{times} times a {unit} was begun again"
        for unit, times in repeated(place).items()
        if times > AT_MOST[unit] * deaths
    ]


def unsound(place: Place) -> list[str]:
    """What looks whole and is not: artefacts by their manifests, and result records."""
    wrong = []
    for manifest in place.cache.glob("*/*/manifest.json"):
        folder = manifest.parent
        if folder.name.endswith(".partial"):
            continue
        files = json.loads(manifest.read_text())["files"]
        there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        if there != {*files, manifest.name}:
            wrong.append(f"{folder} does not hold what its manifest names")
        wrong += [
            f"{folder / name} is not what was written"
            for name in {*files} & there
            if digest_of_file(folder / name) != files[name]["sha256"]
        ]
    whole = [p.parent for p in place.cache.glob("*/*/manifest.json")]
    for folder in place.cache.glob("*/*-*"):
        if folder.is_dir() and not folder.name.endswith(".partial") and folder not in whole:
            wrong.append(f"{folder} has no manifest")
    for path in place.results.rglob("*.json"):
        try:
            read_record(path)
        except UserError as error:
            wrong.append(str(error))
    return wrong
