"""What a submission's card says of its runs, as ir_metadata (Breuer et al., SIGIR 2022) has it.

A file beside the run, not the commented header in it that ir_metadata also knows: trec_eval, ranx
and our own reader take every line of a run for a ranked passage. It is made of card and claim
alone, so that nobody has to believe it: what another version wrote is held against these by field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from uniconv_bench.cards import Platform, SubmissionCard

SCHEMA = 0.1
TREC = {"ndcg": "ndcg_cut", "recall": "recall", "mrr": "recip_rank"}
"""Ours -> trec_eval's name of a measure, which ir_metadata asks for."""
WORDED = {"schema-version", "run-version", "evaluation"}
"""Fields in words of this package and not of a card: another version may have chosen others."""
PLAIN = re.compile(r"[\w .@-]{1,60}", re.ASCII)
"""What such a word may be."""


def ir_metadata(card: SubmissionCard, task: str, digest: str, metrics: Iterable[str]) -> str:
    """The YAML of one task's run; fields that the card says nothing of are left out.

    Args:
        card: of the submission.
        task: its name.
        digest: of the task's data.
        metrics: that the submission is measured by.
    """
    import yaml

    described = _described(card, task, digest, metrics)
    text: str = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=10**6)
    return text


def unfounded(
    content: bytes, card: SubmissionCard, task: str, digest: str, metrics: Iterable[str]
) -> str | None:
    """The first field of a run's metadata that card and claim do not give; None: there is none.

    Fields may be lacking, as in what a version wrote that had fewer, but not the tag.

    Args:
        content: of the file, trusted in nothing.
        card, task, digest, metrics: as of `ir_metadata`.
    """
    import yaml

    try:
        # Aliases make a short file a huge one, and none is written here.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content)):
            return "with an alias"
        stated = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return "of no YAML"
    if not isinstance(stated, Mapping) or "tag" not in stated:
        return "tag"
    return _unfounded(stated, _described(card, task, digest, metrics))


def _unfounded(stated: Any, given: Any, path: str = "", worded: bool = False) -> str | None:
    if isinstance(given, Mapping) and isinstance(stated, Mapping):
        for key, value in stated.items():
            below = f"{path}.{key}".lstrip(".")
            if key not in given:
                return below
            found = _unfounded(value, given[key], below, worded or key in WORDED)
            if found is not None:
                return found
        return None
    if worded and isinstance(given, list) and isinstance(stated, list):
        pairs = zip(stated, given, strict=False)
        faults = (_unfounded(one, other, path, worded) for one, other in pairs)
        return path if len(stated) != len(given) else next(filter(None, faults), None)
    same = type(stated) is type(given) and PLAIN.fullmatch(str(stated)) if worded else None
    return None if same or stated == given else path


def _described(
    card: SubmissionCard, task: str, digest: str, metrics: Iterable[str]
) -> dict[str, Any]:
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
    return _said(described)


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
