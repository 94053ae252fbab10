"""Task: a card and its prepared files. Reads the cache only; knows no raw format and no model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from uniconv_bench.artefacts import MANIFEST, hold
from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.conversation import Turn
from uniconv_bench.dataset import COUNTS, PASSAGES, turns_file
from uniconv_bench.files import digest_of, read_json, read_jsonl
from uniconv_bench.locks import Hold
from uniconv_bench.passages import ArrowCorpus
from uniconv_bench.prepare import prepare
from uniconv_bench.registry import task_card
from uniconv_bench.system import Corpus, Progress


@dataclass(frozen=True)
class Task:
    """One dataset at one profile.

    Attributes:
        card: its facts.
        profile: which data this is.
        folder: the prepared artefact.
        tested: the split that systems are tested on in place of its own.
        held: while it lives no other process throws the artefact away.
    """

    card: TaskCard
    profile: Profile
    folder: Path
    tested: str | None = None
    held: Hold | None = field(default=None, compare=False, repr=False)

    @cached_property
    def counts(self) -> dict[str, Any]:
        """What `prepare` counted: `passages`, `corpus` (digest), `splits`; how `mini` was made."""
        counts: dict[str, Any] = read_json(self.folder / COUNTS)
        return counts

    @property
    def part(self) -> tuple[str, ...]:
        """In what this is only a part of the dataset, as `12 of 2,514 turns of dev`."""
        return tuple(self.counts.get("part", ()))

    @property
    def test_split(self) -> str:
        """The split that systems are tested on: the card's, or what `mini` cut from one."""
        if self.tested is not None:
            return self.tested
        split: str = self.counts.get("mini", {}).get("test_split", self.card.test_split)
        return split

    @cached_property
    def digest(self) -> str:
        """sha256 over turns, judgements and corpus; loads none of them.

        The corpus enters by its contents, as Arrow's bytes may differ from version to version.
        """
        files = read_json(self.folder / MANIFEST)["files"]
        corpus = f"{PASSAGES}/"
        return digest_of({n: f["sha256"] for n, f in files.items() if not n.startswith(corpus)})

    @cached_property
    def corpus(self) -> Corpus:
        """The passages."""
        counts = self.counts
        return ArrowCorpus(self.folder / PASSAGES, counts["passages"], counts["corpus"])

    def turns(self, split: str | None = None) -> list[Turn]:
        """Turns of a split (None: the test split), in file order.

        On a task of given evidence, a turn that names none is given its gold passages: FaithDial's
        knowledge is both.
        """
        path = self.folder / turns_file(split or self.test_split)
        turns = [Turn.from_json(row) for _, row in read_jsonl(path)]
        if self.card.evidence == "given":
            return [replace(turn, given=turn.given or turn.gold) for turn in turns]
        return turns

    def qrels(self, split: str | None = None) -> dict[str, dict[str, int]]:
        """turn_id -> {passage_id: 1} of the turns that have relevant passages."""
        return {t.turn_id: dict.fromkeys(t.gold, 1) for t in self.turns(split) if t.gold}

    def references(self, split: str | None = None) -> dict[str, tuple[str, ...]]:
        """turn_id -> acceptable responses, of the turns that have some."""
        return {t.turn_id: t.references for t in self.turns(split) if t.references}


def load_task(
    name_or_path: str, profile: Profile, data_dir: Path | None = None, *, progress: Progress
) -> Task:
    """The task of a card, prepared if it is not yet."""
    card, path = task_card(name_or_path)
    while True:
        folder = prepare(card, path, profile, data_dir, progress=progress)
        if held := hold(folder):
            return Task(card, profile, folder, held=held)
