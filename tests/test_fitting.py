"""Batches that do not fit into memory: halved, said aloud, with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from uniconv_bench import decode as decoding
from uniconv_bench.decode import Decoding, decode
from uniconv_bench.encode import encode_rows
from uniconv_bench.faults import explain
from uniconv_bench.fitting import Fitting
from uniconv_bench.prompts import Prompt
from uniconv_bench.uniconv.embedding import embed

FAULTS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to"),
)
PROMPTS = [Prompt(list(range(10, 14 + n))) for n in (0, 5, 2, 3, 1)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_batch_is_halved_until_it_fits(fault: Exception, capsys: Any) -> None:
    tried: list[int] = []

    def work(piece: Sequence[int]) -> int:
        tried.append(len(piece))
        if len(piece) > 2:
            raise fault
        return sum(piece)

    fitting = Fitting(work)
    assert list(fitting.on([1, 2, 3, 4, 5, 6, 7, 8])) == [
        *(([1, 2], 3), ([3, 4], 7), ([5, 6], 11), ([7, 8], 15))
    ]
    assert list(fitting.on([1, 2, 3, 4])) == [([i], i) for i in (1, 2, 3, 4)]
    assert tried == [8, 4, 2, 2, 2, 2, 1, 1, 1, 1]  # what did not fit once is not tried again
    told = capsys.readouterr().err
    assert told.count("did not fit into memory; halved") == 2


def test_what_does_not_fit_alone_is_one_line_and_other_errors_stay() -> None:
    for fault in (*FAULTS, RuntimeError("shapes"), ValueError("out of memory")):

        def work(piece: Sequence[int], fault: Exception = fault) -> None:
            raise fault

        with pytest.raises(type(fault)):
            list(Fitting(work).on([1, 2]))
        assert (explain(fault) is not None) == (fault in FAULTS)


def test_answers_of_halved_batches_are_the_same(tiny_model: Any, monkeypatch: Any) -> None:
    how = Decoding(ends=(2,), max_new_tokens=6)
    whole = dict(decode(tiny_model, PROMPTS, how, batch_size=5))
    write = decoding._write

    def starved(model: Any, answers: Any, how: Any) -> None:
        write(model, answers, how)
        if len(answers) > 2:
            raise FAULTS[1]  # when its answers have begun

    monkeypatch.setattr(decoding, "_write", starved)
    assert dict(decode(tiny_model, PROMPTS, how, batch_size=5)) == whole


def test_embeddings_of_halved_batches_are_the_same(tiny_model: Any) -> None:
    rows = [prompt.ids for prompt in PROMPTS]

    def of(rows: Sequence[Sequence[int]]) -> Any:
        if len(rows) > 1:
            raise FAULTS[2]
        with torch.inference_mode():
            return embed(tiny_model, rows, 2).numpy()

    def free(rows: Sequence[Sequence[int]]) -> Any:
        with torch.inference_mode():
            return embed(tiny_model, rows, 2).numpy()

    counted: list[int] = []
    found = encode_rows(rows, of, 1000, counted.append)
    assert counted == [1] * 5
    assert abs(found - encode_rows(rows, free, 1000, counted.append)).max() < 1e-6
