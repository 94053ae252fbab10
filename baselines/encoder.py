"""An off-the-shelf sentence encoder as retriever: mean pooling, cosine, exact search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Turn
from uniconv_bench.encode import Embed, encode_corpus, encode_rows
from uniconv_bench.files import digest_of_code, digest_of_file
from uniconv_bench.index import DenseIndex
from uniconv_bench.system import Context, Corpus, Progress, Ranking
from uniconv_bench.system_cards import EncoderRetriever as EncoderCard
from uniconv_bench.uniconv.backbone import device, find_backbone, load_model, load_tokenizer

LIBRARIES = ("tokenizers", "torch", "transformers")
CODE = ("conversation", "encode", "index", "uniconv/backbone", "uniconv/embedding")
LENGTH = 256
"""Tokens that all-MiniLM-L6-v2 reads, its special tokens included (its model card)."""


class EncoderRetriever:
    """Any encoder by backbone name; longer sessions lose their oldest utterances."""

    def __init__(self, card: EncoderCard, context: Context):
        self._backbone = find_backbone(card.model)
        self._query = card.query
        self._inference = context.inference

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Retriever`."""
        return {"query": self._query, **self._encoder()}

    def _encoder(self) -> dict[str, Any]:
        return {
            "retriever": "encoder",
            "model": self._backbone.revision,
            "length": LENGTH,
            "pooling": "mean",
            "dtype": self._inference.dtype,
            "batch_tokens": self._inference.encode_batch_tokens,
            "libraries": {name: metadata.version(name) for name in LIBRARIES},
            "code": digest_of_code(*CODE),
            "code_pooling": digest_of_file(Path(__file__)),
        }

    def retrieve(
        self, turns: Sequence[Turn], corpus: Corpus, depth: int, progress: Progress
    ) -> Iterator[tuple[str, Ranking]]:
        """See `system.Retriever`."""
        tokenizer = load_tokenizer(self._backbone, progress)
        embed = _embedder(load_model(self._backbone, self._inference.dtype, progress), tokenizer)

        def tokens(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
            return ids

        batch_tokens = self._inference.encode_batch_tokens
        vectors = encode_corpus(
            corpus,
            {**self._encoder(), "corpus": corpus.digest},
            lambda passage: tokens(passage.contents),
            lambda: embed,
            batch_tokens,
            progress,
        )
        rows = [
            tokens(self._text(turn, lambda t: len(tokenizer(t)["input_ids"]))) for turn in turns
        ]
        with progress.track("encode queries", len(rows)) as advance:
            queries = encode_rows(rows, embed, batch_tokens, advance)
        rankings = DenseIndex(corpus.ids, vectors).search(queries, depth)
        for turn, ranking in zip(turns, rankings, strict=True):
            yield turn.turn_id, ranking

    def _text(self, turn: Turn, length: Callable[[str], int]) -> str:
        texts = turn.asked(self._query)
        while len(texts) > 1 and length("\n".join(texts)) > LENGTH:
            del texts[0]
        return "\n".join(texts)


def _embedder(model: Any, tokenizer: Any) -> Embed:
    import torch

    from uniconv_bench.uniconv.embedding import padded

    def of(rows: Sequence[Sequence[int]]) -> Any:
        ids, mask = padded(rows, tokenizer.pad_token_id, device())
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1)
            pooled = (states * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()

    return of
