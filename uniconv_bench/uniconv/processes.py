"""The processes that train together, by torch.distributed: one without a launcher, else several.

Every process knows the whole batch and reads a share of its trees; it holds the whole model, or
all of it but the frozen layers, which are then spread over the processes (see `sharding`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from uniconv_bench.errors import UserError
from uniconv_bench.uniconv.backbone import device

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """`rank` of `count`; `sharded` if they spread the frozen layers among them."""

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @staticmethod
    def joined() -> Processes:
        """Those that torchrun or accelerate launched, once all have met; else this one alone.

        Raises:
            UserError: accelerate's configuration asks for what training does not do.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        asked = {name for name in ("DEEPSPEED", "FSDP") if _flag(f"ACCELERATE_USE_{name}")}
        if "DEEPSPEED" in asked or (asked and os.environ.get("FSDP_VERSION") != "2"):
            raise UserError(
                "training is spread over processes by FSDP 2 alone, not FSDP 1 or DeepSpeed",
                mend="launch it with uniconv_bench/uniconv/launch/fsdp2.yaml",
            )
        from accelerate import PartialState

        state = PartialState(cpu=device() == "cpu")
        return Processes(state.process_index, state.num_processes, bool(asked))

    @staticmethod
    def parted() -> None:
        """Ends what `joined` began, once nothing more is to be done together.

        A process that merely exits now and then dies of it: gloo's threads outlive the interpreter
        (pytorch issue 190489).
        """
        if distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks to people."""
        return self.rank == 0

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Which of some items are this process's: each goes to whoever has least so far."""
        load = [0] * self.count
        own = []
        for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
            least = load.index(min(load))
            load[least] += sizes[item]
            if least == self.rank:
                own.append(item)
        return own

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Sums tensors over all processes, in place; of one type and device."""
        parts = list(tensors)
        if self.count == 1 or not parts:
            return
        flat = torch.cat([part.detach().reshape(-1) for part in parts])
        distributed.all_reduce(flat)
        start = 0
        with torch.no_grad():
            for part in parts:
                part.copy_(flat[start : start + part.numel()].view_as(part))
                start += part.numel()

    def told(self, value: T) -> T:
        """In all of them what the first has to say."""
        said = [value]
        if self.count > 1:
            distributed.broadcast_object_list(said)
        return said[0]


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")
