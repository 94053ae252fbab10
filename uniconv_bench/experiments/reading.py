"""What a study found, in a few plain sentences: what was expected first, then what else is told
apart, and what cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence

from uniconv_bench.outcomes import Gap, Mean, Watched
from uniconv_bench.rendering import metric_label, p_text
from uniconv_bench.statistics.intervals import LEVEL
from uniconv_bench.study_cards import Expectation, Goal, StudyCard

MEASURES = {
    "grounding": "Grounding",
    "same_passages": "Same passages",
    "same_answer": "Same answer",
    "same_ranking": "Same ranking",
    "same_text": "Same text",
    "verbatim": "To the letter",
}


def label_of(measure: str) -> str:
    """A measure as people read it."""
    return MEASURES.get(measure) or metric_label(measure)


def reading(
    card: StudyCard, means: Sequence[Mean], gaps: Sequence[Gap], watched: Sequence[Watched]
) -> list[str]:
    """Two sentences or three; the means on the turns compared stand beside what was expected."""
    sentences = [_reached(goal, means) for goal in card.goals]
    sentences += [_expected(e, gaps) for e in card.expectations]
    if not card.expectations and not card.goals:
        sentences.append(_apart(card, gaps))
    if card.interaction:
        sentences += [_interaction(gap) for gap in gaps if gap.condition is None]
    warned = [w for w in watched if w.warned]
    if watched:
        sentences.append(
            "; ".join(f"{w.condition}: {w.warned} ({w.number} {w.after:.3f})" for w in warned) + "."
            if warned
            else "No number that is watched in training was beyond its bound at the end."
        )
    sentences.append(_open(gaps))
    return [sentence for sentence in sentences if sentence]


def difference(gap: Gap) -> str:
    """As `-3.1 [-5.0, -1.2], p = 0.004`, times 100."""
    low, high = (100 * end for end in gap.ci95)
    return f"{100 * gap.mean:+.1f} [{low:+.1f}, {high:+.1f}], {p_text(gap.p_holm)}"


def _reached(goal: Goal, means: Sequence[Mean]) -> str:
    wanted = (goal.condition, goal.metric, None)
    said = []
    for mean in means:
        if (mean.condition, mean.measure, mean.part) == wanted:
            verdict = "reached" if mean.mean >= goal.least else "missed"
            said.append(f"{mean.task} {100 * mean.mean:.1f} (n = {mean.n}: {verdict})")
    return (
        f"{goal.source} demands {label_of(goal.metric)} of at least {100 * goal.least:.1f} for "
        f"{goal.condition}: {'; '.join(said)}."
    )


def _expected(expected: Expectation, gaps: Sequence[Gap]) -> str:
    label = f"{expected.condition} - {expected.against}"
    own = [g for g in gaps if g.label == label and g.measure == expected.metric]
    if not own:
        return ""
    said, parts = [], {"as expected": 0, "the opposite": 0, "not told apart": 0}
    for gap in own:
        sign = 1 if expected.direction == "higher" else -1
        verdict = "not told apart"
        if gap.p_holm < LEVEL:
            verdict = "as expected" if sign * gap.mean > 0 else "the opposite"
        parts[verdict] += 1
        assert gap.sides is not None
        one, other = gap.sides
        said.append(
            f"{gap.task} {100 * one:.1f} against {100 * other:.1f} ({difference(gap)}, "
            f"n = {gap.n}: {verdict})"
        )
    return (
        f"{expected.source} leads one to expect {label_of(expected.metric)} to be "
        f"{expected.direction} for {expected.condition} than for {expected.against}: "
        f"{'; '.join(said)}."
    )


def _apart(card: StudyCard, gaps: Sequence[Gap]) -> str:
    told = [g for g in gaps if g.condition is not None and g.p_holm < LEVEL]
    if not told:
        return f"No condition can be told apart from {card.baseline}."
    told.sort(key=lambda gap: -abs(gap.mean))
    said = [
        f"{g.condition} on {g.task} in {label_of(g.measure)} ({difference(g)})" for g in told[:4]
    ]
    more = f", and {len(told) - 4} more differences" if len(told) > 4 else ""
    return f"Told apart from {card.baseline}: {'; '.join(said)}{more}."


def _interaction(gap: Gap) -> str:
    verdict = "they interact" if gap.p_holm < LEVEL else "no interaction is told apart from none"
    return f"{label_of(gap.measure)} on {gap.task}: {gap.label} = {difference(gap)}, so {verdict}."


def _open(gaps: Sequence[Gap]) -> str:
    """How large a difference would have to be to be seen."""
    least = [gap.detectable for gap in gaps if gap.detectable is not None]
    if not least:
        return ""
    unseen = sum(gap.p_holm >= LEVEL for gap in gaps)
    return (
        f"{unseen} of {len(gaps)} differences are not told apart after Holm's correction; before "
        f"it, with these turns a true difference of {100 * min(least):.1f} to "
        f"{100 * max(least):.1f} points would show in four of five cases."
    )
