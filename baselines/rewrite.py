"""A retriever in front of which a decoder rewrites the question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uniconv_bench.baselines.bm25 import Bm25Retriever
from uniconv_bench.baselines.encoder import EncoderRetriever

from uniconv_bench.conversation import Turn
from uniconv_bench.files import digest_of_file
from uniconv_bench.system import Context, Corpus, Progress, Ranking, Retriever
from uniconv_bench.system_cards import Bm25Retriever as Bm25Card
from uniconv_bench.system_cards import RewriteRetriever as RewriteCard
from uniconv_bench.uniconv.rewriting import Rewriter


class RewriteRetriever:
    """Asks the retriever of its card the rewrites alone."""

    def __init__(self, card: RewriteCard, context: Context):
        self._rewriter = Rewriter(card.adapter, card.rewrite_tokens, card.instruction, context)
        self.asked: Retriever = (
            Bm25Retriever(card.retriever, context)
            if isinstance(card.retriever, Bm25Card)
            else EncoderRetriever(card.retriever, context)
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Retriever`."""
        return {
            "retriever": "rewrite",
            "rewriter": dict(self._rewriter.fingerprint()),
            "asked": dict(self.asked.fingerprint()),
            "code": [
                digest_of_file(Path(__file__).with_name(f"{n}.py")) for n in ("bm25", "encoder")
            ],
        }

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""
        rewritten = self._rewriter.rewritten(turns, progress)
        return self.asked.retrieve(rewritten, corpus, depth, progress)
