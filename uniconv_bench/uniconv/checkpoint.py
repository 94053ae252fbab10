"""Checkpoints of a training, in safetensors and JSON. Knows nothing of losses or data."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_file, read_json, settle, write_json
from uniconv_bench.seals import PARTIAL

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT, NEW, OLD = (f"checkpoint{age}{PARTIAL}" for age in ("", ".new", ".old"))
STATE, LOG, POINTS = "state.safetensors", "log.json", "points.json"
DIGESTS = "sha256.json"
"""Of the other files; written last."""
Row = dict[str, Any]
Tensors = dict[str, Any]


@dataclass
class State:
    """How far a training has come, beside its weights and its optimiser.

    Attributes:
        log: a row a step.
        points: a row a validation point.
        best: trainable weights at the point of least loss; empty without validation.
    """

    log: list[Row] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)
    best: Tensors = field(default_factory=dict)


def write_checkpoint(
    working: Path, parameters: dict[str, Tensor], optimiser: Any, state: State
) -> None:
    """Replaces the last checkpoint, whole."""
    from safetensors.torch import save_file

    fresh = working / NEW
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"{name}|best": tensor for name, tensor in state.best.items()}
    for name, parameter in parameters.items():
        moments = optimiser.state[parameter]
        tensors[f"{name}|value"] = parameter.detach().contiguous()
        tensors[f"{name}|first"] = moments["exp_avg"].contiguous()
        tensors[f"{name}|second"] = moments["exp_avg_sq"].contiguous()
    save_file(tensors, fresh / STATE)
    settle(fresh / STATE)
    write_json(fresh / LOG, state.log)
    write_json(fresh / POINTS, state.points)
    write_json(fresh / DIGESTS, {n: digest_of_file(fresh / n) for n in (STATE, LOG, POINTS)})
    old = working / OLD
    if (working / CHECKPOINT).exists():  # else the old one is all there is
        shutil.rmtree(old, ignore_errors=True)
        (working / CHECKPOINT).replace(old)
    fresh.replace(working / CHECKPOINT)
    shutil.rmtree(old, ignore_errors=True)


def last_checkpoint(working: Path | None) -> tuple[State, Tensors]:
    """State and tensors of the last checkpoint; a fresh state and no tensors without one.

    Raises:
        UserError: its bytes changed since it was written.
    """
    from safetensors.torch import load_file

    # Killed between two renamings, the one before is still there.
    kept = (working / name for name in (CHECKPOINT, OLD)) if working else ()
    folder = next((path for path in kept if path.exists()), None)
    if folder is None:
        return State(), {}
    check(folder)
    tensors = load_file(folder / STATE)
    best = {n.removesuffix("|best"): tensors.pop(n) for n in list(tensors) if n.endswith("|best")}
    return State(read_json(folder / LOG), read_json(folder / POINTS), best), tensors


def check(folder: Path) -> None:
    """Refuses a checkpoint whose bytes changed since it was written; raises UserError."""
    mend = f"delete the folder {folder} and run again: the training begins anew"
    try:
        digests = dict(read_json(folder / DIGESTS))
        whole = digests == {n: digest_of_file(folder / n) for n in (STATE, LOG, POINTS)}
    except (UserError, OSError, ValueError, TypeError) as error:
        raise UserError("corrupted checkpoint: unreadable", where=folder, mend=mend) from error
    if not whole:
        raise UserError("corrupted checkpoint: changed", where=folder, mend=mend)


def restore(tensors: Tensors, steps: int, parameters: dict[str, Tensor], optimiser: Any) -> None:
    """Gives parameters and optimiser what they had after so many steps."""
    import torch

    if not tensors:
        return
    put({name: tensors[f"{name}|value"] for name in parameters}, parameters)
    for name, parameter in parameters.items():
        optimiser.state[parameter] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": tensors[f"{name}|first"].to(parameter.device),
            "exp_avg_sq": tensors[f"{name}|second"].to(parameter.device),
        }


def put(weights: Tensors, parameters: dict[str, Tensor]) -> None:
    """Gives parameters these values; those without one stay as they are."""
    import torch

    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
