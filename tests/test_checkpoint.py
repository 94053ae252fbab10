"""Checkpoints of a training: rotten ones are refused, and a kill between renamings loses none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from uniconv_bench.errors import UserError  # noqa: E402
from uniconv_bench.uniconv import checkpoint  # noqa: E402
from uniconv_bench.uniconv.checkpoint import (  # noqa: E402
    CHECKPOINT,
    OLD,
    State,
    last_checkpoint,
    write_checkpoint,
)


def write(working: Path, step: int) -> None:
    """A training of one weight that has come so far."""
    weight = torch.nn.Parameter(torch.full((2,), float(step)))
    optimiser = torch.optim.AdamW([weight])
    weight.grad = torch.ones(2)
    optimiser.step()
    write_checkpoint(working, {"weight": weight}, optimiser, State(log=[{"step": step}] * step))


def steps(working: Path) -> int:
    return len(last_checkpoint(working)[0].log)


@pytest.mark.parametrize("name", ["state.safetensors", "log.json", "points.json", "sha256.json"])
def test_a_changed_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, 3)
    assert steps(tmp_path) == 3
    path = tmp_path / CHECKPOINT / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="corrupted checkpoint"):
        last_checkpoint(tmp_path)


def test_a_log_that_reads_well_and_is_another_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 3)
    log = tmp_path / CHECKPOINT / "log.json"
    log.write_text(json.dumps(json.loads(log.read_text())[:2]))
    with pytest.raises(UserError, match="corrupted checkpoint: changed"):
        last_checkpoint(tmp_path)


def test_the_one_before_counts_until_the_next_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if target.name == CHECKPOINT:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2)
    assert (tmp_path / OLD).is_dir() and not (tmp_path / CHECKPOINT).exists()
    assert steps(tmp_path) == 1
    write(tmp_path, 2)
    assert steps(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT]
    (tmp_path / CHECKPOINT).replace(tmp_path / OLD)
    with (tmp_path / OLD / checkpoint.LOG).open("a") as stream:
        stream.write(" ")
    with pytest.raises(UserError, match="corrupted checkpoint"):
        last_checkpoint(tmp_path)
