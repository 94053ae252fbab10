"""The reduced corpus: what stays, that it is the same every time, and the cut of a lone split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pytest

from uniconv_bench.cards import Bm25Settings, Mini
from uniconv_bench.conversation import Conversation, Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.mini import Reduced, reduce
from uniconv_bench.progress import Silent
from uniconv_bench.system import Progress

SMALL = Mini(neighbours=1, random=3, pool=20, bm25=2, test_share=0.3)
FAR = 90
"""The corpus names this passage alone after the herons that turn b asks about."""


def passages(count: int = 100) -> Iterator[Passage]:
    for number in range(count):
        text = "a heron stands in the reeds" if number == FAR else f"stone {number} of the wall"
        yield Passage(f"p{number}", text)


def talk(name: str, *gold: str, query: str = "which stone") -> Conversation:
    turns = [
        Turn(f"{name}_{n}", name, n, query, references=("yes",), gold=(g,))
        for n, g in enumerate(gold, 1)
    ]
    return Conversation(name, tuple(turns))


SPLITS = {"train": (talk("t", "p10"),), "test": (talk("a", "p50"), talk("b", "p70", query="heron"))}


def reduced(
    splits: dict[str, Sequence[Conversation]] | None = None,
    settings: Mini = SMALL,
    *,
    test_split: str = "test",
    allow_absent: bool = False,
    progress: Progress = Silent(),  # noqa: B008  (it holds nothing)
) -> Reduced:
    return reduce(
        splits or dict(SPLITS),
        passages,
        test_split,
        settings,
        Bm25Settings(),
        allow_absent=allow_absent,
        progress=progress,
    )


def test_gold_and_its_neighbours_stay() -> None:
    kept = reduced(settings=Mini(neighbours=2, random=0, pool=0, bm25=0))
    around = {10: 2, 50: 2, 70: 2}
    assert kept.keep == {f"p{g + d}" for g, n in around.items() for d in range(-n, n + 1)}
    assert kept.facts == {
        "passages_in_source": 100,
        "gold": 3,
        "neighbours": 12,
        "bm25": 0,
        "random": 0,
    }
    assert list(kept.splits) == ["train", "test"] and kept.test_split == "test"


def test_neighbours_stop_at_the_ends() -> None:
    ends = {"train": (talk("t", "p0"),), "test": (talk("a", "p99"),)}
    kept = reduced(ends, Mini(neighbours=2, random=0, pool=0, bm25=0))
    assert kept.keep == {"p0", "p1", "p2", "p97", "p98", "p99"}


def test_bm25_neighbours_come_from_the_pool() -> None:
    kept = reduced(settings=Mini(neighbours=0, random=0, pool=97, bm25=1))
    # The only passage with a heron is found for the question that has one.
    assert f"p{FAR}" in kept.keep
    assert kept.facts["bm25"] == 2  # one for "which stone", one for "heron"


def test_random_passages_are_the_same_every_time() -> None:
    first, again = reduced(), reduced()
    assert first == again
    assert first.facts["random"] <= 3 and len(first.keep) >= 3 + 6
    more = reduced(settings=Mini(neighbours=1, random=6, pool=20, bm25=2))
    assert first.keep < more.keep  # a larger draw holds the smaller one


def test_a_small_corpus_stays_whole() -> None:
    kept = reduced(settings=Mini(random=200, pool=200))
    assert len(kept.keep) == 100


def test_a_lone_split_is_cut_by_conversation() -> None:
    lone = {"dev": tuple(talk(f"c{n}", f"p{n}", f"p{n + 1}") for n in range(20))}
    kept = reduced(lone, test_split="test")
    assert list(kept.splits) == ["train", "dev-cut"] and kept.test_split == "dev-cut"
    ids = [{c.conversation_id for c in kept.splits[n]} for n in kept.splits]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 20 and len(ids[1]) == 6
    assert kept.facts["cut_from"] == "dev" and kept.facts["test_share"] == 0.3
    assert reduced(lone, test_split="test") == kept
    # The cut depends on a conversation's name, not on its place.
    turned = {"dev": tuple(reversed(lone["dev"]))}
    assert {c.conversation_id for c in reduced(turned).splits["dev-cut"]} == ids[1]


def test_a_train_split_over_another_corpus_is_left_out() -> None:
    away = {"train": (talk("t", "elsewhere"),), "test": SPLITS["test"]}
    kept = reduced(away)
    assert kept.facts["left_out"] == ["train"] and kept.test_split == "test-cut"
    assert {t.conversation_id for c in kept.splits["train"] for t in c} < {"a", "b"}


def test_absent_gold_of_the_test_split_is_refused() -> None:
    away = {"train": SPLITS["train"], "test": (talk("a", "p50", "gone"),)}
    with pytest.raises(UserError, match=r"1 gold passages of split test .*gone.*--allow-absent"):
        reduced(away)


def test_absent_gold_leaves_its_turn_unjudged_if_allowed() -> None:
    away = {"train": SPLITS["train"], "test": (talk("a", "p50", "gone"),)}
    kept = reduced(away, allow_absent=True)
    first, second = kept.splits["test"][0].turns
    assert first.gold == ("p50",) and second.gold == () and second.references == ("yes",)
    assert kept.facts["absent_passages"] == 1 and "gone" not in kept.keep


class Counting(Silent):
    """Adds up what each bar was told."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}

    @contextmanager
    def track(
        self, label: str, total: int, unit: Literal["", "B"] = ""
    ) -> Iterator[Callable[[int], None]]:
        self.totals[label] = total

        def advance(count: int) -> None:
            self.done[label] = self.done.get(label, 0) + count

        yield advance


def test_every_long_step_tells_how_far_it_is() -> None:
    bars = Counting()
    reduced(progress=bars)
    assert bars.done == {
        "mini: corpus": 100,
        "mini: pool": 100,
        "mini: BM25 neighbours of questions": 2,
    }
    assert bars.totals == bars.done | {"mini: corpus": 0}  # how many there are is not known then
