"""What a condition took, and what was watched while its adapters were trained."""

from __future__ import annotations

from collections.abc import Iterator

from uniconv_bench.assembly import WEIGHTS, Setup
from uniconv_bench.costs import COST
from uniconv_bench.experiments.measures import Measured
from uniconv_bench.files import read_json
from uniconv_bench.outcomes import Cost, Watched
from uniconv_bench.system_cards import EncoderRetriever, SystemCard
from uniconv_bench.uniconv.backbone import find_backbone

DECODERS = ("dense", "llm", "rewrite")
"""Kinds of parts that read with the system's backbone."""


def cost_of(label: str, task: str, measured: Measured) -> Cost:
    """Seconds, tokens and bytes of a condition on a task."""
    setup = measured.evaluation.setup
    costs = {stage: read_json(folder / COST) for stage, folder in measured.folders.items()}
    reports = [read_json(folder / "training.json") for folder in setup.adapters.values()]
    memory = [cost["peak_memory_bytes"] for cost in costs.values()]
    seconds = {stage: cost["seconds"] for stage, cost in costs.items()}
    return Cost(
        condition=label,
        task=task,
        turns=len(measured.turns),
        retrieval_seconds=seconds.get("retrieval"),
        answer_seconds=seconds.get("answers"),
        training_seconds=float(sum(report["seconds"] for report in reports)),
        training_tokens=sum(report["tokens"] for report in reports),
        peak_memory_bytes=max(memory, default=0),
        weights_bytes=_weights(setup.card, setup),
    )


def _weights(card: SystemCard, setup: Setup) -> int:
    """Bytes in memory: a backbone for each set of weights that is needed, and the adapters."""
    size = sum((folder / WEIGHTS).stat().st_size for folder in setup.adapters.values())
    if isinstance(card.retriever, EncoderRetriever):
        size += 4 * find_backbone(card.retriever.model).parameters
    if setup.backbone is not None:
        parts = [p for p in (card.retriever, card.generator) if p.kind in DECODERS]
        models = {getattr(part, "adapter", None) for part in parts}
        bytes_each = 2 if card.inference.dtype == "bfloat16" else 4
        size += len(models) * setup.backbone.parameters * bytes_each
    return size


def watched_of(label: str, setup: Setup) -> Iterator[Watched]:
    """The guards' numbers of a condition's adapters, where their training had validation."""
    for name, folder in setup.adapters.items():
        report = read_json(folder / "training.json").get("guards")
        if report is None:
            continue
        first, last = report["points"][0], report["points"][-1]
        told = {
            w["number"]: w["meaning"] for w in report["warnings"] if w["steps"] == last["steps"]
        }
        for number in (key for key in last if key != "steps"):
            yield Watched(
                condition=label,
                adapter=name,
                number=number,
                before=first[number],
                after=last[number],
                warned=told.get(number),
            )
