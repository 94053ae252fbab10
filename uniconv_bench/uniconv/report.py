"""What a training tells: a line a step while it runs, trackers, and `training.json` at its end.

Knows nothing of losses or data.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uniconv_bench import __version__
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_code
from uniconv_bench.machine import peak_memory
from uniconv_bench.training_cards import TERMS
from uniconv_bench.training_cards import Guards as Bounds
from uniconv_bench.uniconv.checkpoint import Row, State
from uniconv_bench.uniconv.guards import warnings
from uniconv_bench.uniconv.validation import best

if TYPE_CHECKING:
    from uniconv_bench.uniconv.processes import Processes

Tracker = Literal["tensorboard", "trackio"]
LIVE = "log.jsonl"
LIBRARIES = ("accelerate", "peft", "tokenizers", "torch", "transformers")
CODE = (
    *("conversation", "decode", "definitions", "dense", "encode", "index", "prompts", "reader"),
    "training_cards",
    *("uniconv/adapter", "uniconv/backbone", "uniconv/checkpoint", "uniconv/distillation"),
    *("uniconv/embedding", "uniconv/guards", "uniconv/joint", "uniconv/loop", "uniconv/losses"),
    *("uniconv/mining", "uniconv/mixture", "uniconv/parts", "uniconv/processes"),
    *("uniconv/reading", "uniconv/samples", "uniconv/sharding", "uniconv/training"),
    *("uniconv/tree", "uniconv/validation"),
)
"""What training runs through."""


def check_tracker(tracker: Tracker | None) -> None:
    """Refuses a tracker that accelerate would pass over in silence.

    Raises:
        UserError: it is not installed.
    """
    if tracker and importlib.util.find_spec(tracker) is None:
        mend = f"pip install 'uniconv-bench[{tracker}]'"
        raise UserError(f"tracker {tracker} is not installed", mend=mend)


class Journal:
    """Keeps the rows of a training as they come, and tells them: to `log.jsonl` and to trackers.

    Args:
        state: gets the rows, and has those of a stopped training.
        working: where the file goes, until the training ends; None: no file.
        trackers: accelerate's, none in all processes but the first.
    """

    def __init__(self, state: State, working: Path | None, trackers: Sequence[Any]):
        self._state, self._trackers = state, trackers
        self._path = working / LIVE if working else None
        told = sorted(
            [*state.log, *state.points],
            key=lambda row: row["step"] + 1 if "step" in row else row["steps"] + 0.5,
        )
        if self._path:
            self._path.write_text("".join(map(_line, told)), encoding="utf-8")

    def step(self, row: Row) -> None:
        """An optimiser step."""
        self._state.log.append(row)
        self._tell(row, "training", row["step"] + 1)

    def point(self, row: Row) -> None:
        """A validation point."""
        self._state.points.append(row)
        self._tell(row, "validation", row["steps"])

    def end(self) -> None:
        """Nothing more comes: `training.json` holds it all."""
        for tracker in self._trackers:  # accelerate's own ending would part the processes too
            tracker.finish()
        if self._path:
            self._path.unlink()

    def _tell(self, row: Row, kind: str, steps: int) -> None:
        if self._path:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(_line(row))
        for tracker in self._trackers:
            tracker.log(_numbers(row, kind), step=steps)


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _numbers(row: Row, kind: str) -> dict[str, float]:
    """A row for trackers: names with their kind before them; guards are a kind of their own."""
    found = {f"{kind}/{name}": value for name, value in row.items() if name != "guards"}
    return found | {f"guards/{name}": value for name, value in row.get("guards", {}).items()}


def in_words(row: Row) -> str:
    """A step's loss terms and speed, for a progress bar."""
    terms = [f"{name} {row[name]:.3f}" for name in TERMS if name in row]
    return ", ".join([*terms, f"{row['tokens_per_second']:,.0f} tokens/s"])


def summary(state: State, processes: Processes, bounds: Bounds) -> Row:
    """What came of it all: sums over the steps, machine, code, rows; guards by themselves."""
    found: Row = {
        "device": _device_name(processes),
        "steps": len(state.log),
        "tokens": sum(row["tokens"] for row in state.log),
        "seconds": round(sum(row["seconds"] for row in (*state.log, *state.points)), 1),
        "peak_memory_bytes": _peak_memory(),
        "code": {"package": __version__, "sha256": digest_of_code(*CODE)},
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "log": state.log,
    }
    if state.points:
        points = [{k: v for k, v in row.items() if k != "guards"} for row in state.points]
        found["validation"] = {"chosen": best(state.points)["steps"], "points": points}
        found["guards"] = {
            "bounds": bounds.model_dump(),
            "points": [{"steps": row["steps"], **row["guards"]} for row in state.points],
            "warnings": [
                {"steps": row["steps"], "number": name, "meaning": meaning}
                for row in state.points[1:]
                for name, meaning in warnings(row["guards"], bounds).items()
            ],
        }
    return found


def _device_name(processes: Processes) -> str:
    import torch

    cpu = f"cpu, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return name if processes.count == 1 else f"{processes.count} processes, each: {name}"


def _peak_memory() -> int:
    """Of the device that trained: CUDA's allocator, else this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_memory()
