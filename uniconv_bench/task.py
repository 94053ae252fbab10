"""Task: a card and its prepared files. Reads the cache only; knows no raw format and no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from uniconv_bench.cards import Profile, TaskCard
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.files import MANIFEST, digest_of, read_json, read_jsonl
from uniconv_bench.prepare import COUNTS, PASSAGES, prepare, turns_file
from uniconv_bench.registry import task_card
from uniconv_bench.system import Corpus, Progress


class ArrowCorpus:
    """The passages of a task as a memory-mapped Arrow file. Satisfies `system.Corpus`."""

    def __init__(self, path: Path, size: int, digest: str):
        self._path, self._size, self.digest = path, size, digest

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa

        return pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._table.column("id").to_pylist())}

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        return tuple(self._rows)

    @property
    def ids(self) -> Sequence[str]:
        """Passage ids, in corpus order."""
        return self._ids

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Passage]:
        for batch in self._table.to_batches():
            columns = [batch.column(name).to_pylist() for name in ("id", "text", "title")]
            for passage_id, text, title in zip(*columns, strict=True):
                yield Passage(passage_id, text, title)

    def __getitem__(self, passage_id: str) -> Passage:
        """Raises KeyError if there is no such passage."""
        row = self._rows[passage_id]
        text, title = (self._table.column(name)[row].as_py() for name in ("text", "title"))
        return Passage(passage_id, text, title)


@dataclass(frozen=True)
class Task:
    """One dataset at one profile.

    Attributes:
        card: its facts.
        profile: which data this is.
        folder: the prepared artefact.
    """

    card: TaskCard
    profile: Profile
    folder: Path

    @cached_property
    def counts(self) -> dict[str, Any]:
        """What `prepare` counted: `passages`, `corpus` (digest), `splits`."""
        counts: dict[str, Any] = read_json(self.folder / COUNTS)
        return counts

    @cached_property
    def digest(self) -> str:
        """sha256 over turns, judgements and corpus; loads none of them.

        The corpus enters by its contents, as Arrow's bytes may differ from version to version.
        """
        files = read_json(self.folder / MANIFEST)["files"]
        return digest_of({n: f["sha256"] for n, f in files.items() if n != PASSAGES})

    @cached_property
    def corpus(self) -> Corpus:
        """The passages."""
        counts = self.counts
        return ArrowCorpus(self.folder / PASSAGES, counts["passages"], counts["corpus"])

    def turns(self, split: str | None = None) -> list[Turn]:
        """Turns of a split (None: the card's test split), in file order."""
        path = self.folder / turns_file(split or self.card.test_split)
        return [Turn.from_json(row) for _, row in read_jsonl(path)]

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
    return Task(card, profile, prepare(card, path, profile, data_dir, progress=progress))
