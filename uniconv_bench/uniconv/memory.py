"""What glibc's allocator keeps of freed memory; with another library nothing happens."""

from __future__ import annotations

import ctypes
import platform

import psutil


def keep_freed_memory() -> None:
    """Has glibc keep freed activations for the next pass in place of handing them to the kernel.

    They are gigabytes, freed and asked for again several times a step; faulting the pages in anew
    was seen to take longer than the arithmetic, and of encoding a fifth of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks from the heap too
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def give_back_memory(*, spare: float = 1.0) -> None:
    """Hands what `keep_freed_memory` has kept to the kernel.

    Steps are of unlike shapes, so what they leave free falls into pieces that fit nothing: by then
    30 steps were seen to take a process from 13 to 21 GB. Asking for it again takes seconds.

    Args:
        spare: nothing happens while more than this share of the machine's memory is available.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    memory = psutil.virtual_memory()
    if memory.available <= spare * memory.total:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
