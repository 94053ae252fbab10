"""What the untrained backbone says to training turns with no passage to read: rivals for L_CII."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.decode import Decoding, decode
from uniconv_bench.files import digest_of, digest_of_code, read_json, write_json
from uniconv_bench.prompts import PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.uniconv.backbone import Backbone
from uniconv_bench.uniconv.mixture import Example

SAMPLES = "samples.json"
BATCH = 16
CODE = ("conversation", "decode", "prompts", "reader", "uniconv/samples")
LIBRARIES = ("tokenizers", "torch", "transformers")


def with_samples(
    groups: Sequence[Sequence[Example]],
    backbone: Backbone,
    model: Any,
    form: PromptFormat,
    how: Decoding,
    progress: Progress,
) -> list[list[Example]]:
    """Groups of examples, each with a sampled answer; drawn once and kept in the cache.

    Args:
        groups: of training turns.
        backbone: says what the model is.
        model: it, untrained.
        form: prompts and their lengths.
        how: they are drawn.
        progress: told of every answer.
    """
    turns = list(dict.fromkeys(example.turn for group in groups for example in group))
    prompts = [form.prompt(turn, []) for turn in turns]
    fingerprint = {
        "backbone": backbone.revision,
        "prompts": digest_of({"ids": [prompt.ids for prompt in prompts]}),
        "dtype": str(model.dtype),
        "drawn": asdict(how),
        "code": digest_of_code(*CODE),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }
    folder = folder_of("samples", Path(backbone.name).name, fingerprint)
    with missing_artefact(folder, fingerprint) as working:
        if working is not None:
            said = [""] * len(turns)
            with progress.track("sampled answers", len(turns)) as advance:
                for i, ids in decode(model, prompts, how, batch_size=BATCH):
                    said[i] = form.tokenizer.decode(ids, skip_special_tokens=True).strip()
                    advance(1)
            write_json(working / SAMPLES, said)
    answers = dict(zip(turns, read_json(folder / SAMPLES), strict=True))
    return [[replace(e, sampled=answers[e.turn]) for e in group] for group in groups]
