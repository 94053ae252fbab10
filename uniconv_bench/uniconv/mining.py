"""Where hard negatives come from: a corpus's texts nearest to each training turn, by BM25 or by a
decoder's embeddings. Which of them are false negatives is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from uniconv_bench.artefacts import folder_of, missing_artefact
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.files import digest_of, read_jsonl, write_jsonl
from uniconv_bench.index import Bm25Index
from uniconv_bench.system import Context, Corpus, Progress
from uniconv_bench.system_cards import DenseRetriever as DenseCard
from uniconv_bench.system_cards import Inference
from uniconv_bench.task import Task
from uniconv_bench.training_cards import Training
from uniconv_bench.uniconv.backbone import Backbone
from uniconv_bench.uniconv.parts import DenseRetriever

Near = Callable[[Turn], tuple[Passage, ...]]
"""Turn -> texts, the nearest first."""
Miner = Callable[[Corpus, Task, Sequence[Turn], int, Progress], Near]
"""(corpus, task, its turns, negatives wanted a turn, progress) -> enough texts to lose relevant
ones."""
NEAREST = "nearest.jsonl"


def by_bm25(
    corpus: Corpus, task: Task, turns: Sequence[Turn], wanted: int, progress: Progress
) -> Near:
    """By BM25, asked the self-contained query, or the session where the dataset has none."""
    index = Bm25Index(corpus, task.card.bm25)
    found: dict[str, tuple[Passage, ...]] = {}
    with progress.track(f"{task.card.name}: hard negatives", len(turns)) as advance:
        for turn in turns:
            query = " ".join(turn.asked("rewrite" if turn.rewrite else "session"))
            ranking = index.search(query, enough(wanted) + len(turn.gold))
            found[turn.turn_id] = tuple(corpus[passage_id] for passage_id, _ in ranking)
            advance(1)
    return lambda turn: found[turn.turn_id]


def by_embedding(
    backbone: Backbone, adapter: Path | None, training: Training, inference: Inference
) -> Miner:
    """By the cosine of embeddings, as a dense retriever has them; what it finds is an artefact.

    Args:
        backbone: the decoder.
        adapter: what it was trained to; None: nothing.
        training: of whom the negatives are for; says what of a turn is asked.
        inference: lengths and precision.
    """
    card = DenseCard(
        kind="dense", adapter="miner" if adapter else None, query=training.retrieval_input
    )
    adapters = {"miner": adapter} if adapter else {}

    def mine(
        corpus: Corpus, task: Task, turns: Sequence[Turn], wanted: int, progress: Progress
    ) -> Near:
        retriever = DenseRetriever(card, Context(task.card, backbone.name, inference, adapters))
        depth = enough(wanted) + max(len(turn.gold) for turn in turns)
        fingerprint = {
            "retriever": dict(retriever.fingerprint()),
            "corpus": corpus.digest,
            "turns": digest_of([turn.to_json() for turn in turns]),
            "depth": depth,
        }
        folder = folder_of("negatives", task.card.name, fingerprint)
        with missing_artefact(folder, fingerprint) as working:
            if working is not None:
                rankings = retriever.retrieve(turns, corpus, depth, progress)
                rows = ([turn_id, [p for p, _ in ranking]] for turn_id, ranking in rankings)
                write_jsonl(working / NEAREST, rows)
        found = dict(row for _, row in read_jsonl(folder / NEAREST))
        return lambda turn: tuple(corpus[passage_id] for passage_id in found[turn.turn_id])

    return mine


def enough(wanted: int) -> int:
    """Texts to look at for so many negatives: some are copies of relevant ones."""
    return 4 * wanted + 4
