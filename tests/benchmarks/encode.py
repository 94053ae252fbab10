"""Passages a second of our encoder against sentence-transformers: the same model and texts on CPU.

MiniLM in float32, mean pooling, texts of 20 to 380 tokens, batched as cards have it by default.
`ratio` is of passages a second, sides in turn in processes of their own; `distance` the largest of
two coordinates of an embedding.
`flops` is the share of the rate of bare matrix products, of the shapes that the layers have, that
all of encoding reaches: products of weights and states alone are counted. Goals: 1.3 and 0.7.

sentence-transformers is looked for in this environment, and else in the folder that
SENTENCE_TRANSFORMERS_FOLDER names: `pip install --no-deps --target FOLDER sentence-transformers
scikit-learn joblib threadpoolctl narwhals cloudpickle`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from uniconv_bench.system_cards import Inference

GOAL, GOAL_FLOPS, GOAL_DISTANCE = 1.3, 0.7, 1e-4
BATCH_TOKENS = Inference().encode_batch_tokens
THEIR_BATCH, LONGEST = 32, 384
FOLDER = "SENTENCE_TRANSFORMERS_FOLDER"
MEASURE = f"""
import json, random, sys, time
import numpy as np
import torch
side, count, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
draw = random.Random(0)
words = "the of harbour light keeper ice winter letter town river oil ship captain bread".split()
# A word is a token; two more are the model's own.
texts = [" ".join(draw.choices(words, k=draw.randint(18, 378))) for _ in range(count)]
from uniconv_bench.progress import Silent
from uniconv_bench.uniconv.backbone import checkpoint, find_backbone
if side == "ours":
    from uniconv_bench.baselines.encoder import EncoderRetriever
    from uniconv_bench.conversation import Passage
    from uniconv_bench.encode import encode_rows
    from uniconv_bench.registry import system_card
    from uniconv_bench.system import Context
    from uniconv_bench.system_cards import Inference
    card = system_card("minilm+llm")[0].retriever
    card = card.model_copy(update={{"passage_tokens": {LONGEST}}})
    inference = Inference(encode_batch_tokens={BATCH_TOKENS})
    encoder = EncoderRetriever(card, Context(None, "", inference, {{}})).encoder(Silent())
    def encode():
        rows = [encoder.passage(Passage("", text)) for text in texts]
        encode.tokens = sum(map(len, rows))
        return encode_rows(rows, encoder.embed_passages, {BATCH_TOKENS}, lambda done: None)
elif side == "theirs":
    from sentence_transformers import SentenceTransformer
    folder = checkpoint(find_backbone("minilm"), Silent())
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = {LONGEST}
    def encode():
        return model.encode(texts, batch_size={THEIR_BATCH}, show_progress_bar=False)
else:
    states = torch.randn({BATCH_TOKENS}, 384)
    layer = [torch.randn(n, m) for m, n in [(384, 384)] * 4 + [(384, 1536), (1536, 384)]]
    inner = torch.randn({BATCH_TOKENS}, 1536)
    def encode():
        with torch.inference_mode():
            for _ in range(count):
                for weight in layer:
                    (inner if weight.shape[1] == 1536 else states) @ weight.T
encode()
start = time.perf_counter()
found = encode()
seconds = time.perf_counter() - start
if found is not None:
    np.save(out, found)
sys.stdout.write(json.dumps({{"seconds": seconds, "tokens": getattr(encode, "tokens", 0)}}))
"""
LAYERS, WEIGHTS = 6, 4 * 384 * 384 + 2 * 384 * 1536
"""Of MiniLM: its layers, and the weights of one that states are multiplied with."""


def measured(side: str, count: int, out: Path) -> dict[str, float]:
    """Seconds of the second of two rounds in a process of its own."""
    paths = filter(None, (os.environ.get(FOLDER), os.environ.get("PYTHONPATH")))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, side, str(count), str(out)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        if "No module named" in done.stderr and side == "theirs":
            raise SystemExit(f"{done.stderr.splitlines()[-1]}; see the top of {__file__}")
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    sides = {"ours": options.texts, "theirs": options.texts, "products": 100}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeat):
            for side, count in sides.items():
                runs[side].append(measured(side, count, Path(folder) / f"{side}.npy"))
        ours, theirs = (np.load(Path(folder) / f"{side}.npy") for side in ("ours", "theirs"))
    seconds = {side: statistics.median(r["seconds"] for r in found) for side, found in runs.items()}
    tokens = runs["ours"][0]["tokens"]
    bare = 2 * WEIGHTS * BATCH_TOKENS * sides["products"] / seconds["products"]
    reached = 2 * WEIGHTS * LAYERS * tokens / seconds["ours"]
    rates: dict[str, Any] = {
        f"{side}_passages_a_second": round(options.texts / seconds[side], 2)
        for side in ("ours", "theirs")
    }
    line = {
        "benchmark": "encode",
        "ratio": round(seconds["theirs"] / seconds["ours"], 3),
        "goal": GOAL,
        "flops": round(reached / bare, 3),
        "goal_flops": GOAL_FLOPS,
        "distance": float(abs(ours - theirs).max()),
        "goal_distance": GOAL_DISTANCE,
        "gflops": round(reached / 1e9, 1),
        "bare_gflops": round(bare / 1e9, 1),
        "texts": options.texts,
        "tokens": int(tokens),
        **rates,
    }
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
