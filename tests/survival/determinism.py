"""What is equal, and what is not, when the same pipeline is run in another way.

    python -m survival.determinism --folder FOLDER

Prints a table: each way, and by how much weights, embeddings, scores of the run and answers differ
from those of one process with the card as it is. `=` means byte for byte.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from survival.pipeline import SHARD, Place, began, ended
from survival.remains import outcome

from uniconv_bench.runs import read_answers, read_run

NO_DROPOUT = (("lora = { r = 2", "lora = { dropout = 0.0, r = 2"),)
WAYS: dict[str, dict[str, Any]] = {
    "the same again, cold cache": {},
    "encode in 2 processes": {"launched": ("encode",)},
    "train in 2 processes, no dropout": {
        "launched": ("train",),
        "changes": NO_DROPOUT,
        "against": "no dropout",
    },
    "train in 2 processes": {"launched": ("train",)},
    "shards of 40 passages for 10": {"shard": 4 * SHARD},
    "decode_batch_size 7 for 2": {"changes": (("decode_batch_size = 2", "decode_batch_size = 7"),)},
    "encode_batch_tokens 100 for the default": {
        "changes": (("[inference]", "[inference]\nencode_batch_tokens = 100"),)
    },
    "tokens_at_once 200 for all, no dropout": {
        "changes": (("lora = { r = 2", "tokens_at_once = 200\nlora = { dropout = 0.0, r = 2"),),
        "against": "no dropout",
    },
    "dtype bfloat16 for float32, the same adapter": {
        "changes": (("[inference]", '[inference]\ndtype = "bfloat16"'),)
    },
}


def ran(
    folder: Path, *, launched: Sequence[str] = (), shard: int = SHARD, changes: Any = ()
) -> Place:
    """A pipeline that ended well, with some of its stages in two processes."""
    place = Place(folder / "place", changes=changes)
    commands = place.commands()
    for command in commands:
        if command[0] not in launched:
            if code := ended(began(place, [command], shard=shard)):
                sys.exit(f"exit code {code}: {place.log}")
            continue
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        ranks = [{**world, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]
        children = [began(place, [command], environment=r, shard=shard) for r in ranks]
        if any(codes := [ended(child) for child in children]):
            sys.exit(f"exit codes {codes}: {place.log}")
    return place


def _weights(place: Place) -> Any:
    (path,) = place.cache.glob("adapters/*/adapter_model.safetensors")
    tensors = load_file(path)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)]).astype(np.float64)


def _embeddings(place: Place) -> Any:
    shards = sorted(place.cache.glob("embeddings/*/*.npy"))
    return np.concatenate([np.load(path) for path in shards]).astype(np.float64)


def _run(place: Place) -> Any:
    (path,) = place.cache.glob("retrieval/*/run.trec")
    return {turn: dict(ranking) for turn, ranking in read_run(path).items()}


def _texts(place: Place) -> dict[str, str]:
    (path,) = place.cache.glob("answers/*/*.jsonl")
    return {turn: answer.text for turn, answer in read_answers(path).items()}


def _largest(of: Callable[[Place], Any], one: Place, other: Place) -> str:
    gap = float(np.abs(of(one) - of(other)).max())
    return f"{gap:.0e}" if gap else "="


def _rankings(one: Place, other: Place) -> str:
    first, second = _run(one), _run(other)
    same = sum(list(first[turn]) == list(second[turn]) for turn in first)
    shared = [(t, p) for t in first for p in first[t] if p in second[t]]
    gap = max(abs(first[turn][p] - second[turn][p]) for turn, p in shared)
    return "=" if not gap and same == len(first) else f"{same} of {len(first)} alike, {gap:.0e}"


def _answers(one: Place, other: Place) -> str:
    first, second = _texts(one), _texts(other)
    same = sum(first[turn] == second[turn] for turn in first)
    return "=" if same == len(first) else f"{same} of {len(first)} alike"


def _scores(one: Place, other: Place) -> str:
    first, second = (
        {n: d for n, d in outcome(p).items() if " by turn of " in n} for p in (one, other)
    )
    return "=" if first == second else "differ"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    plain = {"": ran(folder / "plain"), "no dropout": ran(folder / "no", changes=NO_DROPOUT)}
    print("| way | weights | embeddings | run | answers | scores by turn |")  # noqa: T201
    print("| :-- | :-- | :-- | :-- | :-- | :-- |")  # noqa: T201
    for number, (name, way) in enumerate(WAYS.items()):
        base = plain[way.pop("against", "")]
        other = ran(folder / str(number), **way)
        cells = [_largest(_weights, base, other), _largest(_embeddings, base, other)]
        cells += [_rankings(base, other), _answers(base, other), _scores(base, other)]
        print("|", " | ".join([name, *cells]), "|", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
