"""Training data: turns of several tasks as batches, with hard negatives and data-discrepancy
mitigation (DDM). Knows tasks and prompts; nothing of models or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from uniconv_bench.cards import Training
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.index import Bm25Index
from uniconv_bench.metrics import normalise
from uniconv_bench.prompts import History, PromptFormat
from uniconv_bench.system import Progress
from uniconv_bench.task import Task
from uniconv_bench.uniconv.losses import Batch


@dataclass(frozen=True, slots=True)
class Example:
    """One turn's supervision, after DDM.

    Attributes:
        gold: passages that count as relevant; the first of a shuffle supervises. May be empty.
        negatives: passages near the session that are not relevant.
        response: what to write; None without one.
    """

    turn: Turn
    gold: tuple[Passage, ...]
    negatives: tuple[Passage, ...]
    response: str | None


def examples(task: Task, training: Training, progress: Progress) -> list[Example]:
    """The training turns of a task that supervise at least one of the weighted losses.

    Hard negatives are the BM25 neighbours of the self-contained query (the session where the
    dataset has no rewrite), minus relevant passages and copies of their text.
    """
    turns = task.turns("train")
    wanted = max(training.hard_negatives, training.generation_passages)
    neighbours: dict[str, list[Passage]] = {}
    if wanted and training.ddm == "both":
        index = Bm25Index(task.corpus, task.card.bm25)
        pool = 4 * wanted + 4
        with progress.track(f"{task.card.name}: hard negatives", len(turns)) as advance:
            for turn in turns:
                query = turn.rewrite or " ".join([u.text for u in turn.history] + [turn.query])
                ranking = index.search(query, pool + len(turn.gold))
                neighbours[turn.turn_id] = [task.corpus[pid] for pid, _ in ranking]
                advance(1)
    found = []
    for turn in turns:
        gold = tuple(task.corpus[pid] for pid in turn.gold)
        response = turn.references[0] if turn.references else None
        relevant = {p.passage_id for p in gold} | {p.text for p in gold}
        near = tuple(
            p
            for p in neighbours.get(turn.turn_id, ())
            if p.passage_id not in relevant and p.text not in relevant
        )
        example = _discrepancy(Example(turn, gold, near, response), training)
        if _supervises(example, training):
            found.append(example)
    return found


def _discrepancy(example: Example, training: Training) -> Example:
    """Without DDM one text serves both objectives: the other one's text is replaced by it."""
    if training.ddm == "both":
        return example
    if training.ddm == "response_as_passage":
        text = example.response
        gold = () if text is None else (Passage(f"response:{example.turn.turn_id}", text),)
        return Example(example.turn, gold, (), text)
    text = example.gold[0].text if example.gold else None
    return Example(example.turn, example.gold, example.negatives, text)


def _supervises(example: Example, training: Training) -> bool:
    losses = training.losses
    retrieves = bool(losses.retrieval or losses.cii) and bool(example.gold)
    return retrieves or bool(losses.generation and example.response is not None)


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
        order = list(examples_by_task[name])
        shuffle.shuffle(order)
        found += [order[i : i + size] for i in range(0, len(order), size)]
    found = [group for group in found if len(group) > 1]
    shuffle.shuffle(found)
    return found


def make_batch(
    group: Sequence[Example], training: Training, form: PromptFormat, shuffle: random.Random
) -> Batch:
    """Examples as token ids, with false negatives marked; `shuffle` draws passages."""
    import torch

    # The passage that supervises each turn, then hard negatives of all turns; each id once.
    chosen = [shuffle.choice(e.gold) if e.gold else None for e in group]
    candidates: dict[str, Passage] = {p.passage_id: p for p in chosen if p is not None}
    for example in group:
        if example.gold:
            hard = min(training.hard_negatives, len(example.negatives))
            for passage in shuffle.sample(example.negatives, hard):
                candidates.setdefault(passage.passage_id, passage)
    column = {pid: position for position, pid in enumerate(candidates)}
    allowed = torch.ones(len(group), max(len(candidates), 1), dtype=torch.bool)
    for row, example in enumerate(group):
        relevant = {p.passage_id for p in example.gold} | {p.text for p in example.gold}
        for pid, passage in candidates.items():
            allowed[row, column[pid]] = pid not in relevant and passage.text not in relevant
    responses = [None if e.response is None else form.response(e.response) for e in group]
    said = [None if e.response is None else normalise(e.response) for e in group]
    distinct = torch.tensor([[a != b for b in said] for a in said])
    history: History = "session" if training.cii_input == "session+passage" else "query"
    paired = [p is not None and e.response is not None for p, e in zip(chosen, group, strict=True)]
    return Batch(
        queries=[form.query(e.turn) for e in group],
        positives=[None if p is None else column[p.passage_id] for p in chosen],
        candidates=[form.passage(p) for p in candidates.values()],
        allowed=allowed,
        prompts=[
            form.prompt(e.turn, _evidence(e, p, training, shuffle))
            for e, p in zip(group, chosen, strict=True)
        ],
        responses=responses,
        anchors=[
            [*form.grounded(e.turn, [p], history), form.end] if both and p else None
            for e, p, both in zip(group, chosen, paired, strict=True)
        ],
        targets=[
            form.text(f"Answer: {e.response}") if both else None
            for e, both in zip(group, paired, strict=True)
        ],
        distinct=distinct,
    )


def _evidence(
    example: Example, gold: Passage | None, training: Training, shuffle: random.Random
) -> list[Passage]:
    """Passages shown to L_G. A response that stands in for its passage is not: it is the answer."""
    if training.generation_input == "session" or training.ddm == "response_as_passage":
        return []
    near = min(training.generation_passages, len(example.negatives))
    shown = shuffle.sample(example.negatives, near)
    if gold is not None:
        shown.insert(shuffle.randint(0, len(shown)), gold)
    return shown
