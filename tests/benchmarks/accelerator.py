"""Encoding at true size, and search streamed from host memory: shares of what the device can do.

`encode` has a decoder of the given size (Mistral-7B's, if nothing else is said) with random weights
in bfloat16 embed passages of 20 to 380 tokens. `ratio` is its model-FLOPs utilisation: operations
of weights and causal attention a second, over the data sheet's rate where the device is known here,
else over that of bare products in this run, which stands beside it. Goal: 0.55.
`search` reads one shard again and again, so from memory and not from disk; `ratio` is of bytes a
second that are searched, over those that bare copies to the device reach. Goal: 0.6.

Without a GPU it says so and measures nothing, unless it is told --device cpu.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniconv_bench.encode import encode_rows
from uniconv_bench.index import ExactIndex
from uniconv_bench.system_cards import Inference
from uniconv_bench.uniconv.embedding import embed

GOAL_ENCODE, GOAL_SEARCH = 0.55, 0.6
SHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second by NVIDIA's data sheets."""
QUERIES, DEPTH, END = 1000, 100, 2


def seconds(work: Callable[[], Any], where: str) -> float:
    """Of the second of two calls."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if where == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return taken


def operations(config: Any, weights: int, rows: list[list[int]]) -> float:
    """Of reading rows once: two a weight and token, and four a coordinate and earlier token."""
    width = config.num_attention_heads * config.head_dim
    attention = sum(4 * width * len(row) * (len(row) + 1) / 2 for row in rows)
    return 2.0 * weights * sum(map(len, rows)) + config.num_hidden_layers * attention


def encoding(given: argparse.Namespace) -> dict[str, Any]:
    """The line of `encode`."""
    from transformers import AutoModel, MistralConfig

    config = MistralConfig(
        hidden_size=given.hidden,
        intermediate_size=given.hidden * 7 // 2,
        num_hidden_layers=given.layers,
        num_attention_heads=max(1, given.hidden // 128),
        num_key_value_heads=max(1, given.hidden // 512),
        head_dim=min(128, given.hidden),
    )
    with torch.device(given.device):
        model = AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    draw = random.Random(0)
    rows = [
        [*(draw.randrange(10, 32_000) for _ in range(draw.randint(20, 380))), END]
        for _ in range(given.texts)
    ]

    @torch.inference_mode()
    def embedded(batch: Any) -> Any:
        return embed(model, batch, END).float().cpu().numpy()

    def work() -> None:
        encode_rows(rows, embedded, given.batch_tokens, lambda done: None)

    taken = seconds(work, given.device)
    weights = sum(p.numel() for p in model.parameters()) - model.embed_tokens.weight.numel()
    reached = operations(config, weights, rows) / taken
    left = torch.randn(given.batch_tokens, given.hidden, dtype=torch.bfloat16, device=given.device)
    right = torch.randn(given.hidden, 4 * given.hidden, dtype=torch.bfloat16, device=given.device)

    def products() -> None:
        for _ in range(20):
            left @ right

    bare = 20 * 2 * left.numel() * right.shape[1] / seconds(products, given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    sheet = next((rate for part, rate in SHEET.items() if part in name), None)
    tokens = sum(map(len, rows))
    return {
        "benchmark": "accelerator",
        "of": "encode",
        "ratio": round(reached / (sheet or bare), 3),
        "goal": GOAL_ENCODE,
        "peak": "data sheet" if sheet else "bare products",
        "of_bare_products": round(reached / bare, 3),
        "tflops": round(reached / 1e12, 3),
        "bare_tflops": round(bare / 1e12, 3),
        "tokens_a_second": round(tokens / taken, 1),
        "passages_a_second": round(len(rows) / taken, 2),
        "weights": weights,
        "batch_tokens": given.batch_tokens,
        "peak_mib": torch.cuda.max_memory_allocated() >> 20 if given.device == "cuda" else None,
        "device": name,
    }


def searching(given: argparse.Namespace) -> dict[str, Any]:
    """The line of `search`."""
    repeats = max(1, given.passages // given.shard)
    draw = np.random.default_rng(0)
    queries = draw.standard_normal((QUERIES, given.hidden), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.npy"
        stored = draw.standard_normal((given.shard, given.hidden), dtype=np.float32)
        np.save(path, stored.astype(np.float16))
        ids = [f"p{i:09d}" for i in range(repeats * given.shard)]
        index = ExactIndex(ids, [path] * repeats, given.device)
        taken = seconds(lambda: list(index.search(queries, DEPTH)), given.device)
        host = torch.from_numpy(np.load(path))
    host = host.pin_memory() if given.device == "cuda" else host
    there = torch.empty_like(host, device=given.device)

    def copies() -> None:
        for _ in range(10):
            there.copy_(host, non_blocking=True)

    bus = 10 * host.nbytes / seconds(copies, given.device)
    reached = repeats * host.nbytes / taken
    return {
        "benchmark": "accelerator",
        "of": "search",
        "ratio": round(reached / bus, 3),
        "goal": GOAL_SEARCH,
        "gigabytes_a_second": round(reached / 1e9, 2),
        "bus_gigabytes_a_second": round(bus / 1e9, 2),
        "passages": len(ids),
        "dimension": given.hidden,
        "queries": QUERIES,
        "seconds": round(taken, 3),
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=4 * Inference().encode_batch_tokens)
    parser.add_argument("--passages", type=int, default=10_000_000)
    parser.add_argument("--shard", type=int, default=1 << 17)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("accelerator: no GPU here, so nothing is measured of one\n")
        return
    for measured in (encoding, searching):
        sys.stdout.write(json.dumps(measured(given)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
