"""Training data: turns of several tasks as batches, with hard negatives and data-discrepancy
mitigation (DDM). Knows tasks and prompts; nothing of models or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.index import Bm25Index
from uniconv_bench.metrics import normalise
from uniconv_bench.prompts import History, PromptFormat
from uniconv_bench.system import Corpus, InMemory, Progress
from uniconv_bench.system_cards import Training
from uniconv_bench.task import Task
from uniconv_bench.uniconv.losses import Batch

Near = Callable[[Turn], tuple[Passage, ...]]


@dataclass(frozen=True, slots=True)
class Example:
    """One turn's supervision, after DDM.

    Attributes:
        targets: texts that L_R pulls to the session, one of them at a time. May be empty.
        negatives: texts near the session that it pushes away.
        grounds: passages that L_G and L_CII ground the response on, one of them at a time: the
            targets themselves with DDM.
        distractors: passages near the session, shown beside the ground.
        response: what to write; None without one.
    """

    turn: Turn
    targets: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    grounds: tuple[Passage, ...]
    distractors: tuple[Passage, ...]
    response: str | None


def examples(task: Task, training: Training, progress: Progress) -> list[Example]:
    """The training turns of a task that have a gold passage or a response, whatever is weighted.

    So adapters that differ in their losses are trained on the same turns in the same order.

    Hard negatives and distractors are the BM25 neighbours of the self-contained query (the session
    where the dataset has no rewrite), minus relevant passages and copies of their text.
    """
    turns = task.turns("train")
    wanted = max(training.hard_negatives, training.generation_passages)
    near: Near = _nothing
    near_responses: Near = _nothing
    if wanted:
        near = _neighbours(task.corpus, task, turns, wanted, progress)
        if training.ddm == "response_as_passage":
            spoken = InMemory([_spoken(turn) for turn in turns if turn.references])
            near_responses = _neighbours(spoken, task, turns, wanted, progress)
    found = []
    for turn in turns:
        gold = tuple(task.corpus[passage_id] for passage_id in turn.gold)
        response = turn.references[0] if turn.references else None
        others = without(near(turn), gold)
        if training.ddm == "both":
            example = Example(turn, gold, others, gold, others, response)
        elif training.ddm == "passage_as_response":
            # The passage is what L_G writes: shown as evidence, it would only be copied.
            text = gold[0].text if gold else None
            example = Example(turn, gold, others, others[:1], others[1:], text)
        else:
            targets = (_spoken(turn),) if turn.references else ()
            rivals = without(near_responses(turn), targets)
            example = Example(turn, targets, rivals, gold, others, response)
        if turn.gold or turn.references:
            found.append(example)
    return found


def without(passages: Sequence[Passage], gold: Sequence[Passage]) -> tuple[Passage, ...]:
    """Those that are neither one of `gold` nor a copy of its text."""
    relevant = {p.passage_id for p in gold} | {p.text for p in gold}
    return tuple(p for p in passages if p.passage_id not in relevant and p.text not in relevant)


def _spoken(turn: Turn) -> Passage:
    """A response in the place of a passage."""
    return Passage(f"response:{turn.turn_id}", turn.references[0])


def _nothing(turn: Turn) -> tuple[Passage, ...]:
    return ()


def _neighbours(
    corpus: Corpus, task: Task, turns: Sequence[Turn], wanted: int, progress: Progress
) -> Near:
    """Turn -> its best texts of a corpus by BM25, enough to lose the relevant ones."""
    index = Bm25Index(corpus, task.card.bm25)
    found: dict[str, tuple[Passage, ...]] = {}
    with progress.track(f"{task.card.name}: hard negatives", len(turns)) as advance:
        for turn in turns:
            query = " ".join(turn.asked("rewrite" if turn.rewrite else "session"))
            ranking = index.search(query, 4 * wanted + 4 + len(turn.gold))
            found[turn.turn_id] = tuple(corpus[passage_id] for passage_id, _ in ranking)
            advance(1)
    return lambda turn: found[turn.turn_id]


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
    responses = [None if e.response is None else form.response(e.response) for e in group]
    said = [None if e.response is None else normalise(e.response) for e in group]
    distinct = torch.tensor([[a != b for b in said] for a in said])
    history: History = "session" if training.cii_input == "session+passage" else "query"
    paired = [p is not None and e.response is not None for p, e in zip(grounds, group, strict=True)]
    return Batch(
        queries=[form.query(e.turn, training.retrieval_input) for e in group],
        positives=[None if p is None else column[p.passage_id] for p in chosen],
        candidates=[form.passage(p) for p in candidates.values()],
        allowed=allowed,
        prompts=[
            form.prompt(e.turn, _evidence(e, p, training, shuffle), training.session_mask)
            for e, p in zip(group, grounds, strict=True)
        ],
        responses=responses,
        anchors=[
            [*form.grounded(e.turn, [p], history), form.end] if both and p else None
            for e, p, both in zip(group, grounds, paired, strict=True)
        ],
        targets=[
            form.text(f"Answer: {e.response}") if both else None
            for e, both in zip(group, paired, strict=True)
        ],
        distinct=distinct,
    )


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
