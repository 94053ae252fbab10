"""A toy task and sound bundles of it, for the tests of submissions and of the leaderboard."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniconv_bench.cards import SubmissionCard, TaskCard, parse_card
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of, digest_of_file, read_toml
from uniconv_bench.irmetadata import ir_metadata
from uniconv_bench.rescoring import Tasks
from uniconv_bench.runs import write_answers, write_run
from uniconv_bench.system import Answer


class FakeCorpus:
    """Thirteen passages, the last relevant to no turn; ids with blanks, as INSCIT's."""

    ids = tuple(f"Page {i:02d}:0" for i in range(13))
    digest = "0" * 64

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Passage]:
        return (self[name] for name in self.ids)

    def __getitem__(self, passage_id: str) -> Passage:
        if passage_id not in self.ids:
            raise KeyError(passage_id)
        return Passage(passage_id, "text")


@dataclass
class FakeTask:
    """Four conversations of three turns; the second of each is not judged for retrieval."""

    name: str = "toy"
    digest: str = digest_of("toy data")
    corpus: FakeCorpus = field(default_factory=FakeCorpus)

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            **dict.fromkeys(
                ("title", "description", "homepage", "licence", "citation", "retrieval_setting"),
                "x",
            ),
            name=self.name,
            version=1,
            metrics=("ndcg@3", "mrr", "f1"),
        )

    def turns(self) -> list[Turn]:
        return [
            Turn(f"c{c}_{n}", f"c{c}", n, "q", (), (f"the answer {c} {n}",), self.gold(c, n))
            for c in range(4)
            for n in (1, 2, 3)
        ]

    def gold(self, conversation: int, number: int) -> tuple[str, ...]:
        return () if number == 2 else (self.corpus.ids[conversation * 3 + number - 1],)

    def qrels(self) -> dict[str, dict[str, int]]:
        return {t.turn_id: dict.fromkeys(t.gold, 1) for t in self.turns() if t.gold}

    def references(self) -> dict[str, tuple[str, ...]]:
        return {t.turn_id: t.references for t in self.turns()}


TASK = FakeTask()


def load(name: str, profile: str) -> FakeTask:
    return FakeTask(name)


TASKS = Tasks(("toy", "toy2"), load)


CARD = """
name = "good-one"
title = "A good | one"
authors = ["Ann O'Nym", "B. Ob"]
contact = "ann@example.org"
date = "2026-02-03"
description = "Plain text, 100 % of it."
code = "https://example.org/code"
backbone = "some-7b"
parameters = 7000000000
trained_on = ["toy"]
tasks = ["toy"]
profile = "sample"
""".replace(" | ", " ")


def files(folder: Path, *, hits: int = 12) -> dict[str, Path]:
    """A run that finds the gold passage of the first `hits` turns, and answers, half right."""
    folder.mkdir(parents=True, exist_ok=True)
    other = TASK.corpus.ids[-1]
    run = []
    for i, turn in enumerate(TASK.turns()):
        gold = [(p, 2.0) for p in turn.gold] if i < hits else []
        run.append((turn.turn_id, [*gold, (other, 1.0)]))
    answers = [Answer(t.turn_id, t.references[0] if t.number == 1 else "no") for t in TASK.turns()]
    write_run(folder / "run.trec", run, "x")
    write_answers(folder / "answers.jsonl", answers)
    return {"run": folder / "run.trec", "answers": folder / "answers.jsonl"}


def reseal(
    bundle: Path,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
    *,
    described: bool = True,
) -> None:
    """A cheat who knows the format mends metadata and every sha256 after editing a file."""
    text = (bundle / "manifest.json").read_text()
    if described:
        changed = json.loads(text)
        change(changed)
        describe(bundle, changed)
    manifest = json.loads(text)
    manifest["files"] = {
        p.name: digest_of_file(p) for p in bundle.iterdir() if p.name != "manifest.json"
    }
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def describe(bundle: Path, manifest: dict[str, Any]) -> None:
    """Makes the metadata of the toy task anew, where card and manifest still allow it."""
    with suppress(UserError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        card = parse_card(SubmissionCard, read_toml(bundle / "card.toml"), bundle)
        text = ir_metadata(card, "toy", TASK.digest, manifest["tasks"]["toy"]["scores"])
        (bundle / "toy.ir-metadata.yml").write_text(text, encoding="utf-8")


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode()))
