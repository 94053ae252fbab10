"""Verdicts on claims in words: a line, notes, Markdown, and JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from uniconv_bench.claim_cards import StudyPart, SystemPart
from uniconv_bench.claims import Answer, Judged, says
from uniconv_bench.comparison import cautions
from uniconv_bench.rendering import escape_markdown, p_text, percent
from uniconv_bench.tables import PAPER_TASKS


def line_of(judged: Judged) -> str:
    """What was measured of a part, in one line."""
    evidence = judged.evidence
    found = evidence.difference
    low, high = map(percent, found.ci95)
    tasks = f"{len(evidence.by_task)} of {len(PAPER_TASKS)} tasks"
    if isinstance(evidence.part, StudyPart):
        tasks = ", ".join(evidence.by_task)
    return (
        f"{says(evidence.part)}: {100 * found.mean:+.1f} points, 95 % interval {low} to {high}, "
        f"{p_text(judged.p)}; {tasks}, {found.n:,} turns of {found.conversations} conversations, "
        f"backbone {', '.join(evidence.backbones)}"
    )


def notes(answers: Iterable[Answer]) -> list[str]:
    """What to mind when reading verdicts."""
    found = [judged.evidence for answer in answers for judged in answer.parts]
    margins = dict.fromkeys(
        f"Margin of {percent(evidence.part.margin)} points: {evidence.part.reason}."
        for evidence in found
        if isinstance(evidence.part, SystemPart) and evidence.part.margin
    )
    single = [
        "Each system is a single training run: intervals are over conversations, and what other "
        "seeds would do is not in them (--results of several seeds, repeated, pools them)."
    ]
    several = [
        "Of several trainings with other seeds the mean is compared: intervals and p are over "
        "conversations, and what yet other seeds would do is not in them."
    ]
    trainings = [evidence.trainings for evidence in found]
    return [
        *margins,
        *dict.fromkeys(line for evidence in found for line in evidence.cautions),
        *(single if 1 in trainings else ()),
        *(several if any(count > 1 for count in trainings) else ()),
        *cautions([d for evidence in found for d in evidence.by_task.values()]),
    ]


def markdown(answers: Sequence[Answer], level: int = 2) -> str:
    """The verdicts as headings of a level, each with what it rests on."""
    lines = []
    for answer in answers:
        claim = answer.claim
        lines += [f"{'#' * level} {answer.verdict}: {escape_markdown(claim.sentence)}", ""]
        lines += [f"`{claim.id}`; {escape_markdown(claim.source)}", ""]
        lines += [f"- **{p.verdict}**: {escape_markdown(line_of(p))}" for p in answer.parts]
        lines += [f"- {answer.to_settle}: {escape_markdown(line)}" for line in answer.settle]
        lines += [""]
    lines += [f"- {escape_markdown(note)}" for note in notes(answers)]
    return "\n".join(lines).rstrip() + "\n"


def plain(answer: Answer) -> dict[str, Any]:
    """A verdict for programs."""
    claim = answer.claim
    return {
        "name": claim.id,
        "sentence": claim.sentence,
        "source": claim.source,
        "family": claim.family,
        "verdict": answer.verdict,
        "parts": [_plain_part(judged) for judged in answer.parts],
        "settle": answer.settle,
    }


def _plain_part(judged: Judged) -> dict[str, Any]:
    evidence, found = judged.evidence, judged.evidence.difference
    return {
        **evidence.part.model_dump(),
        "verdict": judged.verdict,
        "tasks": list(evidence.by_task),
        "backbones": evidence.backbones,
        "difference": found.mean,
        "ci95": found.ci95,
        "p_holm": judged.p,
        "n": found.n,
        "conversations": found.conversations,
        "detectable": found.detectable,
        "by_task": {
            task: {"difference": d.mean, "ci95": d.ci95, "p_holm": judged.p_by_task[task]}
            for task, d in evidence.by_task.items()
        },
    }
