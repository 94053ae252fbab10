"""Work on batches that memory may not hold: halved and tried again, and said so.

Knows nothing of models; of errors, which ones mean that memory ran out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from uniconv_bench.errors import lacks_memory

T = TypeVar("T")
R = TypeVar("R")


class Fitting(Generic[T, R]):
    """Work on batches, each cut into as many pieces as memory has asked for so far.

    Args:
        work: what is done with a batch, or with a piece of it to the same end.
    """

    def __init__(self, work: Callable[[Sequence[T]], R]):
        self._work, self._pieces = work, 1

    def on(self, batch: Sequence[T]) -> Iterator[tuple[Sequence[T], R]]:
        """The pieces of a batch, in order, each with what was made of it.

        Raises:
            Exception: of the work; memory's only where a single item does not fit.
        """
        start = 0
        while start < len(batch):
            piece = batch[start : start + max(1, len(batch) // self._pieces)]
            try:
                done = self._work(piece)
            except Exception as error:
                if len(piece) == 1 or not lacks_memory(error):
                    raise
            else:
                yield piece, done
                start += len(piece)
                continue
            # Out here the error is gone, and with it all that its frames held.
            _give_back()
            self._pieces *= 2
            sys.stderr.write(f"a batch of {len(piece)} did not fit into memory; halved\n")


def _give_back() -> None:
    """Frees what torch keeps of a GPU's memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
