"""The two halves of a decoder as parts of a system: dense retriever and answering generator.

With the same adapter on both, they are UniConv: one set of weights that retrieves and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.decode import Decoding, decode, stream
from uniconv_bench.dense import EmbeddingRetriever, Encoder
from uniconv_bench.encode import Embed, encode_rows
from uniconv_bench.files import digest_of_code, digest_of_file
from uniconv_bench.system import Answer, Context, Progress
from uniconv_bench.system_cards import DenseRetriever as DenseCard
from uniconv_bench.system_cards import LlmGenerator as LlmCard
from uniconv_bench.uniconv.backbone import ATTENTION, find_backbone, load_decoder
from uniconv_bench.uniconv.memory import keep_freed_memory

if TYPE_CHECKING:
    from uniconv_bench.prompts import Prompt, PromptFormat
    from uniconv_bench.reader import Memories

WEIGHTS = "adapter_model.safetensors"
LIBRARIES = ("peft", "tokenizers", "torch", "transformers")
CODE = (
    *("conversation", "encode", "prompts"),
    *("uniconv/backbone", "uniconv/embedding", "uniconv/parts"),
)
"""What embeddings depend on; rankings and answers depend on more."""
DECODING = ("decode", "reader")
"""What answers depend on beside that."""


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
            "instruction": self.inference.instruction,
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
        return model, PromptFormat(tokenizer, *limits, self.inference.instruction)


class DenseRetriever(EmbeddingRetriever):
    """Cosine of EOS embeddings of session and passage."""

    def __init__(self, card: DenseCard, context: Context):
        super().__init__(context)
        self._decoder = Decoder(card.adapter, context)
        self._query = card.query

    def of_passages(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        found = self._decoder.fingerprint()
        del found["session_tokens"], found["instruction"]
        return found

    def of_queries(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        read = self.inference.model_dump(include={"session_tokens", "instruction"})
        return {"retriever": "dense", "query": self._query, **read}

    def encoder(self, progress: Progress) -> Encoder:
        """See `dense.EmbeddingRetriever`."""
        keep_freed_memory()
        model, form = self._decoder.load(progress)
        embed = _embedder(model, form.end)
        size = model.config.hidden_size
        return Encoder(size, form.passage, lambda t: form.query(t, self._query), embed, embed)

    def remembered(
        self, turn: Turn, encoder: Encoder, memories: Memories, progress: Progress
    ) -> Any:
        """See `dense.EmbeddingRetriever`."""
        from uniconv_bench.uniconv.embedding import unit

        model, _ = self._decoder.load(progress)
        return unit(memories.of(model).state(encoder.query(turn))[None]).cpu().numpy()

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
    """Answers from session and passages, at most `answer_tokens` of the task long."""

    def __init__(self, card: LlmCard, context: Context):
        self._decoder = Decoder(card.adapter, context)
        self._card = card

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Generator`."""
        drawing = self._card.model_dump(include={"temperature", "top_p", "seed"})
        stop = {"stop": list(self._card.stop)} if self._card.stop else {}
        return {
            "generator": "llm",
            "session_mask": self._card.session_mask,
            "decoding": drawing if self._card.temperature else "greedy",
            **stop,
            "answer_tokens": self._decoder.task.answer_tokens,
            "batch_size": self._decoder.inference.decode_batch_size,
            **self._decoder.fingerprint(),
            "code_decode": digest_of_code(*DECODING),
        }

    def generate(
        self, turns: Sequence[Turn], evidence: Mapping[str, Sequence[Passage]], progress: Progress
    ) -> Iterator[Answer]:
        """See `system.Generator`."""
        if not turns:
            return
        model, form = self._decoder.load(progress)
        rows = [self._prompt(form, t, evidence[t.turn_id]) for t in turns]
        said = self._said(form)
        with progress.track("answer", len(rows)) as advance:
            for index, ids in decode(
                model,
                rows,
                self._how(model, form),
                batch_size=self._decoder.inference.decode_batch_size,
                names=[turn.turn_id for turn in turns],
            ):
                turn = turns[index]
                shown = tuple(p.passage_id for p in evidence[turn.turn_id])
                yield Answer(turn.turn_id, said(ids), len(rows[index].ids), len(ids), shown)
                advance(1)

    def stream(
        self, turn: Turn, passages: Sequence[Passage], memories: Memories, progress: Progress
    ) -> Iterator[str]:
        """See `system.Streams`."""
        model, form = self._decoder.load(progress)
        prompt = self._prompt(form, turn, passages)
        ids = stream(memories.of(model), prompt, self._how(model, form), turn.turn_id)
        held = max((len(text) for text in self._card.stop), default=0)
        return _pieces(ids, self._said(form), held)

    def shown(self, turn: Turn, passages: Sequence[Passage], progress: Progress) -> str:
        """See `system.Streams`."""
        _, form = self._decoder.load(progress)
        text: str = form.tokenizer.decode(self._prompt(form, turn, passages).ids)
        return text

    def _prompt(self, form: PromptFormat, turn: Turn, passages: Sequence[Passage]) -> Prompt:
        return form.prompt(turn, passages, self._card.session_mask)

    def _how(self, model: Any, form: PromptFormat) -> Decoding:
        spoken = partial(form.tokenizer.decode, skip_special_tokens=True)
        stop = self._card.stop
        return Decoding(
            ends=ends(model, form),
            max_new_tokens=self._decoder.task.answer_tokens,
            temperature=self._card.temperature,
            top_p=self._card.top_p,
            seed=self._card.seed,
            stopped=(lambda ids: any(text in spoken(ids) for text in stop)) if stop else None,
        )

    def _said(self, form: PromptFormat) -> Callable[[list[int]], str]:
        """Tokens to the text of an answer."""

        def said(ids: list[int]) -> str:
            text: str = form.tokenizer.decode(ids, skip_special_tokens=True)
            for stop in self._card.stop:
                text = text.partition(stop)[0]
            return text.strip()

        return said


def ends(model: Any, form: PromptFormat) -> frozenset[int]:
    """The tokens that end an answer: the prompt format's, and what the model's makers name."""
    named = model.generation_config.eos_token_id
    return frozenset([form.end, *([named] if isinstance(named, int) else named or ())])


def _pieces(ids: Iterator[int], said: Callable[[list[int]], str], held: int) -> Iterator[str]:
    """An answer's text as its tokens come, but for what a later token may change.

    Args:
        ids: the tokens.
        said: the text of the first tokens.
        held: characters at its end that may turn out to be no part of it.
    """
    tokens: list[int] = []
    told = ""
    for token in ids:
        tokens.append(token)
        text = said(tokens).rstrip("\ufffd")  # a character whose bytes are not all there
        text = text[: len(text) - held].rstrip()
        if len(text) > len(told):
            yield text[len(told) :]
            told = text
    yield said(tokens)[len(told) :]


def _embedder(model: Any, pad: int) -> Embed:
    import torch

    from uniconv_bench.uniconv.embedding import embed

    def of(rows: Sequence[Sequence[int]]) -> Any:
        with torch.inference_mode():
            return embed(model, rows, pad).cpu().numpy()

    return of
