"""What a condition changes: the history that a system sees, and the passages that it reads.

Everything random is drawn from the turn's id, so a condition is the same on every machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.evaluation import View
from uniconv_bench.index import Bm25Index
from uniconv_bench.study_cards import History
from uniconv_bench.task import Task

NAME = re.compile(r"(?!(?:The|A|An|In|On|At) )[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+)+")
"""Several capitalised words in a row: a name, in languages that write names so."""
NUMBER = re.compile(r"\d+")


def view_of(history: History, task: Task) -> View | None:
    """How a condition shows the turns of a task; None: as they are."""
    if history == "full":
        return None
    if history == "none":
        return View(history, lambda turn: replace(turn, history=()))
    if history == "last":
        return View(history, lambda turn: replace(turn, history=turn.history[-2:]))
    names = _names_by_conversation(task.turns())
    return View(history, lambda turn: _renamed(turn, names))


def evidence_of(
    kind: str, turns: Sequence[Turn], task: Task, count: int
) -> dict[str, list[Passage]]:
    """Turn -> passages to read, of the turns that the condition can be made for.

    Args:
        kind: of `Condition.evidence`, where that names passages of the task.
        turns: that are to be answered.
        task: their task.
        count: passages that a system reads, where `kind` does not say.
    """
    if kind == "none":
        return {turn.turn_id: [] for turn in turns}
    judged = [turn for turn in turns if turn.gold]
    if kind == "irrelevant":
        ids = list(task.corpus.ids)
        return {t.turn_id: _random(t, ids, task, count) for t in judged}
    if kind == "previous_turn":
        return _of_the_turn_before(judged, task)
    gold = {t.turn_id: [task.corpus[name] for name in sorted(t.gold)] for t in judged}
    if kind == "contradictory":
        return _contradicted(judged, gold)
    more = int(kind.partition("+")[2] or 0)
    return _with_distractors(judged, gold, task, more) if more else gold


def _random(turn: Turn, ids: Sequence[str], task: Task, count: int) -> list[Passage]:
    drawn = random.Random(f"irrelevant:{turn.turn_id}").sample(
        range(len(ids)), min(len(ids), count + len(turn.gold))
    )
    names = [ids[i] for i in drawn if ids[i] not in turn.gold]
    return [task.corpus[name] for name in names[:count]]


def _of_the_turn_before(turns: Sequence[Turn], task: Task) -> dict[str, list[Passage]]:
    gold = {(t.conversation_id, t.number): t.gold for t in task.turns()}
    found = {}
    for turn in turns:
        before = gold.get((turn.conversation_id, turn.number - 1), ())
        if names := sorted(set(before) - set(turn.gold)):
            found[turn.turn_id] = [task.corpus[name] for name in names]
    return found


def _with_distractors(
    turns: Sequence[Turn], gold: Mapping[str, list[Passage]], task: Task, more: int
) -> dict[str, list[Passage]]:
    """Gold passages among BM25's best others, in an order drawn by turn."""
    index = Bm25Index(task.corpus, task.card.bm25)
    found = {}
    for turn in turns:
        asked = " ".join(turn.asked("opening+query"))
        near = [name for name, _ in index.search(asked, more + len(turn.gold))]
        others = [name for name in near if name not in turn.gold][:more]
        passages = [*gold[turn.turn_id], *(task.corpus[name] for name in others)]
        random.Random(f"order:{turn.turn_id}").shuffle(passages)
        found[turn.turn_id] = passages
    return found


def _contradicted(
    turns: Sequence[Turn], gold: Mapping[str, list[Passage]]
) -> dict[str, list[Passage]]:
    """Gold passages with a number or name in them replaced that the reference has and the session
    does not: the answer, as far as a pattern can tell.
    """
    names = sorted({name for t in turns for r in t.references for name in NAME.findall(r)})
    found = {}
    for turn in turns:
        text = "\n".join(p.contents for p in gold[turn.turn_id])
        session = "\n".join(turn.asked("session"))
        said = {s for r in turn.references for s in (*NAME.findall(r), *NUMBER.findall(r))}
        spans = [s for s in said if s not in session and _put(text, s, "") != text]
        if not spans:
            continue
        span = min(spans, key=lambda s: (-len(s), s))
        draw = random.Random(f"contradictory:{turn.turn_id}")
        others = [name for name in names if not set(name.split()) & set(text.split())]
        instead = _another(span, others, draw)
        if instead is not None:
            found[turn.turn_id] = [
                replace(p, title=_put(p.title, span, instead), text=_put(p.text, span, instead))
                for p in gold[turn.turn_id]
            ]
    return found


def _another(span: str, names: Sequence[str], draw: random.Random) -> str | None:
    if span.isdigit():
        return str(int(span) + draw.randrange(1, 10))
    return draw.choice(names) if names else None


def _put(text: str, span: str, instead: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(span)}(?!\w)", lambda _: instead, text)


def _names_by_conversation(turns: Sequence[Turn]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for turn in turns:
        names = (name for said in turn.history for name in NAME.findall(said.text))
        found.setdefault(turn.conversation_id, set()).update(names)
    return {conversation: sorted(names) for conversation, names in found.items()}


def _renamed(turn: Turn, names: Mapping[str, Sequence[str]]) -> Turn | None:
    """With the name that its history says most often changed for another conversation's."""
    counts: dict[str, int] = {}
    for said in turn.history:
        for name in NAME.findall(said.text):
            counts[name] = counts.get(name, 0) + 1
    asked = {name for name in counts if name not in turn.query}
    own = set(names.get(turn.conversation_id, ()))
    others = sorted(
        {n for c, found in names.items() if c != turn.conversation_id for n in found} - own
    )
    if not asked or not others:
        return None
    changed = min(asked, key=lambda name: (-counts[name], name))
    instead = random.Random(f"renamed:{turn.turn_id}").choice(others)
    history = tuple(Utterance(u.role, _put(u.text, changed, instead)) for u in turn.history)
    return replace(turn, history=history)
