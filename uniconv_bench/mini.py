"""The `mini` profile: a dataset's real turns over a reduced corpus, the same from the same files.

All gold passages stay, and as distractors: their neighbours in the corpus (parts of one article
stand together in all these datasets), BM25's best for the test questions, and random ones. Where
the files hold one split only, its conversations are cut into a training and a test part, for
engineering: that is no paper's split. Knows no dataset by name.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import islice
from typing import Any

from uniconv_bench.cards import CUT, Bm25Settings, Mini
from uniconv_bench.conversation import Conversation, Passage
from uniconv_bench.errors import UserError
from uniconv_bench.index import Bm25Index
from uniconv_bench.system import InMemory, Progress

BATCH = 1 << 12


@dataclass(frozen=True)
class Reduced:
    """What is left of a dataset.

    Attributes:
        splits: split -> its conversations; the test split comes last.
        test_split: the one that systems are tested on.
        keep: ids of the passages of the reduced corpus.
        facts: what was done, for counts and tables.
    """

    splits: Mapping[str, Sequence[Conversation]]
    test_split: str
    keep: frozenset[str]
    facts: Mapping[str, Any]


def reduce(
    splits: Mapping[str, Sequence[Conversation]],
    passages: Callable[[], Iterable[Passage]],
    test_split: str,
    settings: Mini,
    bm25: Bm25Settings,
    *,
    allow_absent: bool = False,
    progress: Progress,
) -> Reduced:
    """Chooses turns and passages; reads the corpus once, or twice if it is larger than the pool.

    Holds the turns, the pool with its BM25 index and ids around gold passages, however large the
    corpus is.

    Args:
        splits: split -> conversations, of every split whose files are there.
        passages: opens the full corpus anew.
        test_split: the dataset's own; if its files are absent, the last split there is.
        settings: how many distractors of which kind.
        bm25: constants for BM25 neighbours.
        allow_absent: gold passages that the corpus lacks leave their turn unjudged.
        progress: told of passages read and questions searched for.

    Raises:
        UserError: the test split's gold passages are not in the corpus.
    """
    everything = frozenset().union(*(_gold(found) for found in splits.values()))
    with progress.track("mini: corpus", 0) as advance:
        corpus = _Scan.of(_told(passages(), advance), everything, settings)

    def again() -> Iterator[Passage]:
        with progress.track("mini: pool", corpus.count) as advance:
            yield from _told(passages(), advance)

    absent = {name: _gold(found) - corpus.gold for name, found in splits.items()}
    test = test_split if test_split in splits else list(splits)[-1]
    facts: dict[str, Any] = {"passages_in_source": corpus.count}
    if absent[test] and not allow_absent:
        what = f"{len(absent[test]):,} gold passages of split {test} are not in the corpus"
        mend = "add them, or pass --allow-absent: their turns are then not judged for retrieval"
        raise UserError(what, where=f"first: {min(absent[test])}", mend=mend)
    kept = {n: s for n, s in splits.items() if n == test or allow_absent or not absent[n]}
    if left_out := sorted(set(splits) - set(kept)):
        facts["left_out"] = left_out
    if lost := sorted(set().union(*(absent[name] for name in kept))):
        facts["absent_passages"] = len(lost)
        kept = {name: _without(found, frozenset(lost)) for name, found in kept.items()}
    if "train" not in kept:
        facts["cut_from"], facts["test_share"] = test, settings.test_share
        kept, test = _cut(kept, test, settings.test_share)
    ordered = {name: kept[name] for name in sorted(kept, key=lambda name: name == test)}
    gold = frozenset(p for found in ordered.values() for p in _gold(found))
    keep, counted = _choose(corpus, gold, again, ordered[test], settings, bm25, progress)
    return Reduced(ordered, test, keep, facts | counted)


@dataclass(frozen=True)
class _Scan:
    """What one reading of a corpus tells; holds no more than the pool.

    Attributes:
        count: passages.
        gold: those of the wanted ids that are there.
        near: gold id -> ids of its neighbours.
        pool: ids of others, drawn at random.
    """

    count: int
    gold: frozenset[str]
    near: Mapping[str, Sequence[str]]
    pool: frozenset[str]

    @staticmethod
    def of(passages: Iterable[Passage], wanted: frozenset[str], settings: Mini) -> _Scan:
        count, near = 0, defaultdict[str, list[str]](list)
        before, after = deque[str](maxlen=settings.neighbours), dict[str, int]()

        def others() -> Iterator[str]:
            nonlocal count, after
            for count, passage in enumerate(passages, 1):  # noqa: B007 (told when all are read)
                name = passage.passage_id
                for gold in after:
                    near[gold].append(name)
                after = {gold: left - 1 for gold, left in after.items() if left > 1}
                if name in wanted:
                    near[name] += before
                    after |= {name: settings.neighbours} if settings.neighbours else {}
                else:
                    yield name
                before.append(name)

        rest = others()
        pool = frozenset(nsmallest(settings.pool, rest, key=lambda name: _rank("pool", name)))
        deque(rest, maxlen=0)  # a draw of none leaves them unread
        return _Scan(count, frozenset(near), near, pool)


def _told(passages: Iterable[Passage], advance: Callable[[int], None]) -> Iterator[Passage]:
    """Passes passages on and tells of them in batches: a corpus may have millions."""
    waiting = iter(passages)
    while batch := list(islice(waiting, BATCH)):
        yield from batch
        advance(len(batch))


def _gold(conversations: Sequence[Conversation]) -> set[str]:
    return {p for c in conversations for turn in c for p in (*turn.gold, *turn.given)}


def _without(
    conversations: Sequence[Conversation], lost: frozenset[str]
) -> tuple[Conversation, ...]:
    """A turn with any gold passage lost is unjudged: part of its judgements would mislead."""
    return tuple(
        replace(c, turns=tuple(replace(t, gold=()) if lost & set(t.gold) else t for t in c))
        for c in conversations
    )


def _rank(seed: str, name: str) -> int:
    """A number in [0, 2**64) that looks random and depends on the name alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest())


def _cut(
    splits: Mapping[str, Sequence[Conversation]], name: str, share: float
) -> tuple[dict[str, Sequence[Conversation]], str]:
    """One split's conversations as `train` and `<name>-cut`: the lowest ranks are the test."""
    found = splits[name]
    test = set(
        nsmallest(
            max(1, round(share * len(found))),
            (conversation.conversation_id for conversation in found),
            key=lambda conversation_id: _rank("cut", conversation_id),
        )
    )
    parts = {
        "train": tuple(c for c in found if c.conversation_id not in test),
        f"{name}{CUT}": tuple(c for c in found if c.conversation_id in test),
    }
    return {**{n: s for n, s in splits.items() if n != name}, **parts}, f"{name}{CUT}"


def _choose(
    corpus: _Scan,
    gold: frozenset[str],
    passages: Callable[[], Iterable[Passage]],
    test: Sequence[Conversation],
    settings: Mini,
    bm25: Bm25Settings,
    progress: Progress,
) -> tuple[frozenset[str], dict[str, int]]:
    """Ids of the reduced corpus, and how many there are of each kind."""
    near = frozenset(name for g in gold for name in corpus.near[g]) - gold
    random = frozenset(
        nsmallest(settings.random, corpus.pool, key=lambda name: _rank("random", name))
    )
    alike = frozenset[str]()
    if len(random) < len(corpus.pool):
        pool = [p for p in passages() if p.passage_id in corpus.pool]
        alike = frozenset(_alike(pool, test, settings.bm25, bm25, progress))
    return gold | near | alike | random, {
        "gold": len(gold),
        "neighbours": len(near),
        "bm25": len(alike - near),
        "random": len(random - alike - near),
    }


def _alike(
    pool: Sequence[Passage],
    test: Sequence[Conversation],
    depth: int,
    bm25: Bm25Settings,
    progress: Progress,
) -> Iterator[str]:
    """BM25's best in the pool for what the test turns ask."""
    progress.note(f"  mini: indexing {len(pool):,} passages for BM25")
    index = Bm25Index(InMemory(pool), bm25)
    asked = [turn for conversation in test for turn in conversation]
    with progress.track("mini: BM25 neighbours of questions", len(asked)) as advance:
        for turn in asked:
            for name, _ in index.search(" ".join(turn.asked("rewrite")), depth):
                yield name
            advance(1)
