"""The two halves of a decoder as parts of a system: dense retriever and answering generator.

With the same adapter on both, they are UniConv: one set of weights that retrieves and answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.decode import greedy
from uniconv_bench.dense import EmbeddingRetriever, Encoder
from uniconv_bench.encode import Embed, encode_rows
from uniconv_bench.files import digest_of_code, digest_of_file
from uniconv_bench.system import Answer, Context, Progress
from uniconv_bench.system_cards import DenseRetriever as DenseCard
from uniconv_bench.system_cards import LlmGenerator as LlmCard
from uniconv_bench.uniconv.backbone import ATTENTION, find_backbone, load_decoder
from uniconv_bench.uniconv.memory import keep_freed_memory

WEIGHTS = "adapter_model.safetensors"
LIBRARIES = ("peft", "tokenizers", "torch", "transformers")
CODE = (
    *("conversation", "encode", "prompts"),
    *("uniconv/backbone", "uniconv/embedding", "uniconv/parts"),
)
"""What embeddings depend on; rankings and answers depend on more."""


class Decoder:
    """What all that a decoder does shares: weights, prompt format, fingerprint."""

    def __init__(self, adapter: str | None, context: Context):
        self.backbone = find_backbone(context.backbone)
        self.adapter: Path | None = context.adapters[adapter] if adapter else None
        self.inference = context.inference
        self.task = context.task

    def fingerprint(self) -> dict[str, Any]:
        """Weights, precision, limits, libraries, code."""
        return {
            "backbone": self.backbone.revision,
            "adapter": digest_of_file(self.adapter / WEIGHTS) if self.adapter else None,
            "dtype": self.inference.dtype,
            "lora": self.inference.lora,
            "attention": ATTENTION,
            "session_tokens": self.inference.session_tokens,
            "passage_tokens": self.inference.passage_tokens,
            "batch_tokens": self.inference.encode_batch_tokens,
            "libraries": {name: metadata.version(name) for name in LIBRARIES},
            "code": digest_of_code(*CODE),
        }

    def load(self, progress: Progress) -> tuple[Any, Any]:
        """(model, prompt format)."""
        from uniconv_bench.prompts import PromptFormat

        how = self.inference.dtype, self.inference.lora == "merged"
        model, tokenizer = load_decoder(self.backbone, self.adapter, *how, progress)
        limits = (self.inference.session_tokens, self.inference.passage_tokens)
        return model, PromptFormat(tokenizer, *limits)


class DenseRetriever(EmbeddingRetriever):
    """Cosine of EOS embeddings of session and passage."""

    def __init__(self, card: DenseCard, context: Context):
        super().__init__(context)
        self._decoder = Decoder(card.adapter, context)
        self._query = card.query

    def of_passages(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        found = self._decoder.fingerprint()
        del found["session_tokens"]
        return found

    def of_queries(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        tokens = self.inference.session_tokens
        return {"retriever": "dense", "query": self._query, "session_tokens": tokens}

    def encoder(self, progress: Progress) -> Encoder:
        """See `dense.EmbeddingRetriever`."""
        keep_freed_memory()
        model, form = self._decoder.load(progress)
        embed = _embedder(model, form.end)
        size = model.config.hidden_size
        return Encoder(size, form.passage, lambda t: form.query(t, self._query), embed, embed)

    def similarities(
        self, turns: Sequence[Turn], passages: Sequence[Passage], progress: Progress
    ) -> Any:
        """(turns, passages) float32 cosines."""
        encoder = self.encoder(progress)
        rows = [encoder.query(turn) for turn in turns]
        rows += [encoder.passage(passage) for passage in passages]
        batch_tokens = self.inference.encode_batch_tokens
        vectors = encode_rows(rows, encoder.embed_queries, batch_tokens, lambda count: None)
        return vectors[: len(turns)] @ vectors[len(turns) :].T


class LlmGenerator:
    """Greedy answers from session and passages, at most `answer_tokens` of the task long."""

    def __init__(self, card: LlmCard, context: Context):
        self._decoder = Decoder(card.adapter, context)
        self._session_mask = card.session_mask

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Generator`."""
        return {
            "generator": "llm",
            "session_mask": self._session_mask,
            "decoding": "greedy",
            "answer_tokens": self._decoder.task.answer_tokens,
            "batch_size": self._decoder.inference.decode_batch_size,
            **self._decoder.fingerprint(),
            "code_decode": digest_of_code("decode"),
        }

    def generate(
        self, turns: Sequence[Turn], evidence: Mapping[str, Sequence[Passage]], progress: Progress
    ) -> Iterator[Answer]:
        """See `system.Generator`."""
        if not turns:
            return
        model, form = self._decoder.load(progress)
        rows = [form.prompt(t, evidence[t.turn_id], self._session_mask) for t in turns]
        with progress.track("answer", len(rows)) as advance:
            for index, ids in greedy(
                model,
                rows,
                end=form.end,
                max_new_tokens=self._decoder.task.answer_tokens,
                batch_size=self._decoder.inference.decode_batch_size,
            ):
                turn = turns[index]
                text = form.tokenizer.decode(ids, skip_special_tokens=True).strip()
                shown = tuple(p.passage_id for p in evidence[turn.turn_id])
                yield Answer(turn.turn_id, text, len(rows[index].ids), len(ids), shown)
                advance(1)


def _embedder(model: Any, pad: int) -> Embed:
    import torch

    from uniconv_bench.uniconv.embedding import embed

    def of(rows: Sequence[Sequence[int]]) -> Any:
        with torch.inference_mode():
            return embed(model, rows, pad).cpu().numpy()

    return of
