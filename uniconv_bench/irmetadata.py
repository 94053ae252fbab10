"""What a submission's card says of its runs, as ir_metadata (Breuer et al., SIGIR 2022) has it.

A file beside the run, not the commented header in it that ir_metadata also knows: trec_eval, ranx
and our own reader take every line of a run for a ranked passage. It is made of card and claim
alone, so that anybody can make it again and nobody has to believe it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from uniconv_bench.cards import Platform, SubmissionCard

SCHEMA = 0.1
TREC = {"ndcg": "ndcg_cut", "recall": "recall", "mrr": "recip_rank"}
"""Ours -> trec_eval's name of a measure, which ir_metadata asks for."""


def ir_metadata(card: SubmissionCard, task: str, digest: str, metrics: Iterable[str]) -> str:
    """The YAML of one task's run; fields that the card says nothing of are left out.

    Args:
        card: of the submission.
        task: its name.
        digest: of the task's data.
        metrics: that the submission is measured by.
    """
    import yaml

    described = {
        "schema-version": SCHEMA,
        "run-version": 1.0,
        "tag": card.name,
        "platform": _platform(card.platform or Platform()),
        "research goal": {
            "publication": {"url": card.paper},
            "evaluation": {
                "reported measures": [_measure(name) for name in sorted(metrics)],
                "significance test": [
                    {"name": "sign flips of conversations", "correction method": "holm"}
                ],
            },
        },
        "implementation": {
            "executable": {"cmd": card.command},
            "source": {"repository": card.code, "commit": card.commit},
        },
        "method": {
            "automatic": True,
            "score ties": "passage id ascending",
            "name": card.title,
            "description": card.description,
            "backbone": card.backbone,
        },
        "actor": {
            "name": ", ".join(card.authors),
            "mail": card.contact,
            "role": "experimenter",
        },
        "data": {
            "test collection": {
                "name": task,
                "source": f"uniconv-bench, profile {card.profile}",
                "sha256": digest,
            },
            "training data": [{"name": name} for name in card.trained_on],
        },
    }
    text: str = yaml.safe_dump(_said(described), sort_keys=False, allow_unicode=True, width=10**6)
    return text


def _platform(platform: Platform) -> dict[str, Any]:
    return {
        "hardware": {
            "cpu": {"model": platform.cpu},
            "gpu": {"model": platform.gpu},
            "ram": platform.ram,
        },
        "operating system": {"distribution": platform.system},
        "software": {"libraries": {"python": list(platform.libraries)}},
    }


def _measure(name: str) -> str:
    family, at, cutoff = name.partition("@")
    return f"{TREC.get(family, family)}{'_' if at else ''}{cutoff}"


def _said(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    inner = {k: _said(v) if isinstance(v, Mapping) else v for k, v in value.items()}
    return {key: item for key, item in inner.items() if item not in (None, {}, [])}
