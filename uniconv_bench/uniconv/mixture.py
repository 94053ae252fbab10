"""Training data: turns of several tasks as batches, with hard negatives and data-discrepancy
mitigation (DDM). Knows tasks and prompts; nothing of models or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.metrics import normalise
from uniconv_bench.prompts import History, PromptFormat
from uniconv_bench.system import InMemory, Progress
from uniconv_bench.task import Task
from uniconv_bench.training_cards import SUPERVISED, CiiNegatives, Ddm, Training
from uniconv_bench.uniconv.losses import Anchor, Batch, Contrast
from uniconv_bench.uniconv.mining import Miner, Near, by_bm25, enough

T = TypeVar("T")
RESPONSE = "response:"
"""Begins the id of a response that stands in the place of a passage."""


@dataclass(frozen=True, slots=True)
class Example:
    """One turn's supervision, after DDM.

    Attributes:
        targets: texts that L_R pulls to the session, one of them at a time. May be empty.
        negatives: texts near the session that it pushes away.
        grounds: passages that L_G and L_CII ground the response on, one of them at a time: the
            targets themselves with DDM.
        distractors: passages near the session, shown beside the ground.
        wrong: passages near the session that L_CII may have in the ground's place.
        response: what to write; None without one.
        sampled: what the untrained backbone says in its place, where L_CII asks for that.
    """

    turn: Turn
    targets: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    grounds: tuple[Passage, ...]
    distractors: tuple[Passage, ...]
    response: str | None
    wrong: tuple[Passage, ...] = ()
    sampled: str | None = None


def supervised(task: Task) -> list[Turn]:
    """The training turns that have a gold passage or a response, whatever is weighted.

    So adapters that differ in their losses are trained on the same turns in the same order.
    """
    return [turn for turn in task.turns("train") if turn.gold or turn.references]


def examples(
    task: Task,
    turns: Sequence[Turn],
    training: Training,
    progress: Progress,
    mine: Miner = by_bm25,
) -> list[Example]:
    """Supervised turns of a task with what each learns from; nothing comes from its other turns.

    Hard negatives and distractors are what is mined, minus relevant passages and copies of these.
    """
    wanted = max(training.hard_negatives, training.generation_passages)
    rivals = (training.cii_rivals or 1) * (training.cii_negatives == "retrieved_wrong_passage")
    near: Near = _nothing
    near_responses: Near = _nothing
    if wanted or rivals:
        near = mine(task.corpus, task, turns, max(wanted, rivals), progress)
        if training.ddm == "response_as_passage":
            spoken = InMemory([_spoken(turn) for turn in turns if turn.references])
            near_responses = mine(spoken, task, turns, wanted, progress)
    found = []
    for number, turn in enumerate(turns):
        gold = tuple(task.corpus[passage_id] for passage_id in turn.gold)
        response = turn.references[0] if turn.references else None
        # What L_R and L_G get does not depend on what L_CII asks for.
        others = without(near(turn)[: enough(wanted) + len(gold)] if wanted else (), gold)
        if training.ddm in ("both", *SUPERVISED):
            shown = Example(turn, gold, others, gold, others, response)
            example = _supervised_by(shown, training.ddm, number)
        elif training.ddm == "passage_as_response":
            # The passage is what L_G writes: shown as evidence, it would only be copied.
            text = gold[0].text if gold else None
            example = Example(turn, gold, others, others[:1], others[1:], text)
        else:
            targets = (_spoken(turn),) if turn.references else ()
            negatives = without(near_responses(turn), targets)
            example = Example(turn, targets, negatives, gold, others, response)
        right = (*gold, *example.grounds)
        found.append(replace(example, wrong=without(near(turn), right) if rivals else ()))
    return found


def _supervised_by(example: Example, ddm: Ddm, number: int) -> Example:
    """What a regime leaves of the turn with this number among all, which has both."""
    if ddm == "different_turns":
        ddm = "response_only" if number % 2 else "passage_only"
    if ddm == "passage_only":
        return replace(example, response=None)
    if ddm == "response_only":
        return Example(example.turn, (), (), (), (), example.response)
    return example


def without(passages: Sequence[Passage], gold: Sequence[Passage]) -> tuple[Passage, ...]:
    """Those that are neither one of `gold` nor a copy of its text; responses are copies as L_CII
    has it, whatever their case, articles and punctuation.
    """
    relevant = {p.passage_id for p in gold} | {_text(p) for p in gold}
    return tuple(p for p in passages if p.passage_id not in relevant and _text(p) not in relevant)


def _spoken(turn: Turn) -> Passage:
    """A response in the place of a passage."""
    return Passage(f"{RESPONSE}{turn.turn_id}", turn.references[0])


def _text(passage: Passage) -> str:
    spoken = passage.passage_id.startswith(RESPONSE)
    return normalise(passage.text) if spoken else passage.text


def _nothing(turn: Turn) -> tuple[Passage, ...]:
    return ()


def groups(
    examples_by_task: dict[str, list[Example]], training: Training, epoch: int
) -> list[list[Example]]:
    """The turns of each optimiser step of an epoch: a function of its arguments alone.

    Each group holds turns of one task, so that its other passages are negatives of the same
    corpus; the order of groups mixes the tasks. A last group of one turn is dropped: it has no
    contrast.
    """
    shuffle = random.Random(f"{training.seed}:{epoch}")
    found: list[list[Example]] = []
    size = training.batch_size
    for name in sorted(examples_by_task):
        times = training.mixture.get(name, 1.0)
        while times > 0:
            order = list(examples_by_task[name])
            shuffle.shuffle(order)
            order = order[: round(len(order) * min(times, 1.0))]
            found += [order[i : i + size] for i in range(0, len(order), size)]
            times -= 1.0
    found = [group for group in found if len(group) > 1]
    shuffle.shuffle(found)
    return found


def make_batch(
    group: Sequence[Example], training: Training, form: PromptFormat, shuffle: random.Random
) -> Batch:
    """Examples as token ids, with false negatives marked; `shuffle` draws passages."""
    import torch

    # The text that supervises each turn, then hard negatives of all turns; each id once.
    grounds = [shuffle.choice(e.grounds) if e.grounds else None for e in group]
    chosen = [
        ground if ground in e.targets else e.targets[0] if e.targets else None
        for e, ground in zip(group, grounds, strict=True)
    ]
    candidates: dict[str, Passage] = {p.passage_id: p for p in chosen if p is not None}
    for example in group:
        if example.targets:
            hard = min(training.hard_negatives, len(example.negatives))
            for passage in shuffle.sample(example.negatives, hard):
                candidates.setdefault(passage.passage_id, passage)
    column = {passage_id: position for position, passage_id in enumerate(candidates)}
    allowed = torch.zeros(len(group), max(len(candidates), 1), dtype=torch.bool)
    for row, example in enumerate(group):
        for passage in without(tuple(candidates.values()), example.targets):
            allowed[row, column[passage.passage_id]] = True
    prompts = [
        form.prompt(e.turn, _evidence(e, p, training, shuffle), training.session_mask)
        for e, p in zip(group, grounds, strict=True)
    ]
    # Drawn last: whatever L_CII contrasts, the other losses read the same.
    anchors, targets, contrasts = _contrasts(group, grounds, training, form, shuffle)
    return Batch(
        queries=[form.query(e.turn, training.retrieval_input) for e in group],
        positives=[None if p is None else column[p.passage_id] for p in chosen],
        candidates=[form.passage(p) for p in candidates.values()],
        allowed=allowed,
        prompts=prompts,
        responses=[None if e.response is None else form.response(e.response) for e in group],
        anchors=anchors,
        targets=targets,
        contrasts=contrasts,
        passages=tuple(candidates.values()),
        masked=_masked(group, grounds, chosen, allowed.tolist()),
    )


def _masked(
    group: Sequence[Example],
    grounds: Sequence[Passage | None],
    chosen: Sequence[Passage | None],
    allowed: Sequence[Sequence[bool]],
) -> dict[str, float]:
    """Shares of false negatives: of pairs of a turn and a candidate other than its positive, and of
    pairs of two grounded turns' responses. Without any pair a share is left out.
    """
    both = [e.response for e, p in zip(group, grounds, strict=True) if p and e.response is not None]
    said = [normalise(response) for response in both]
    rows_of = {
        "masked_candidates": [
            [not kept for kept in row] for row, p in zip(allowed, chosen, strict=True) if p
        ],
        "masked_responses": [[a == b for b in said] for a in said],
    }
    found = {}
    for name, rows in rows_of.items():
        if pairs := sum(map(len, rows)) - len(rows):  # each row's own is no pair
            found[name] = (sum(map(sum, rows)) - len(rows)) / pairs
    return found


def _contrasts(
    group: Sequence[Example],
    grounds: Sequence[Passage | None],
    training: Training,
    form: PromptFormat,
    shuffle: random.Random,
) -> tuple[list[Anchor], list[list[int]], list[Contrast]]:
    """Anchors, targets and contrasts of L_CII, of the turns that have passage and response."""
    history: History = "session" if training.cii_input == "session+passage" else "query"
    embeds = training.cii_score == "embedding"
    anchors: list[Anchor] = []
    texts: list[str] = []

    def anchor(turn: int, passage: Passage) -> int:
        asked = group[turn].turn
        if embeds:
            ids = [*form.grounded(asked, [passage], history), form.end]
        else:
            ids = form.prompt(asked, [passage], history=history).ids
        anchors.append(Anchor(turn, ids))
        return len(anchors) - 1

    def target(text: str) -> int:
        texts.append(text)
        return len(texts) - 1

    paired = [
        (i, ground, example.response)
        for i, (example, ground) in enumerate(zip(group, grounds, strict=True))
        if ground is not None and example.response is not None
    ]
    right = [(anchor(i, ground), target(response)) for i, ground, response in paired]
    contrasts = []
    for (i, _, response), pair in zip(paired, right, strict=True):
        same = normalise(response)
        if training.cii_negatives == "in_batch":
            others = [(pair[0], t) for _, t in right if normalise(texts[t]) != same]
        elif training.cii_negatives == "retrieved_wrong_passage":
            near = _drawn(group[i].wrong, training, shuffle)
            others = [(anchor(i, passage), pair[1]) for passage in near]
        else:
            said = _unlike(group[i], training.cii_negatives)
            others = [(pair[0], target(text)) for text in said if normalise(text) != same]
        if wrong := _drawn(others, training, shuffle):
            contrasts.append(Contrast(pair, wrong))
    encode = (lambda text: form.text(f"Answer: {text}")) if embeds else form.response
    return anchors, [encode(text) for text in texts], contrasts


def _drawn(rivals: Sequence[T], training: Training, shuffle: random.Random) -> list[T]:
    if training.cii_rivals is None or len(rivals) <= training.cii_rivals:
        return list(rivals)
    return shuffle.sample(rivals, training.cii_rivals)


def _unlike(example: Example, negatives: CiiNegatives) -> list[str]:
    """Responses to something else, or by someone else."""
    if negatives == "sampled_generation":
        return [example.sampled] if example.sampled else []
    return [u.text for u in example.turn.history if u.role == "assistant"][-1:]


def _evidence(
    example: Example, ground: Passage | None, training: Training, shuffle: random.Random
) -> list[Passage]:
    """Passages shown to L_G, the ground among distractors."""
    if training.generation_input == "session":
        return []
    shown = shuffle.sample(
        example.distractors, min(training.generation_passages, len(example.distractors))
    )
    if ground is not None:
        shown.insert(shuffle.randint(0, len(shown)), ground)
    return shown
