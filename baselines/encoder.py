"""A published embedding model as retriever: its own prompts and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uniconv_bench.conversation import Passage, Turn, Utterance
from uniconv_bench.dense import EmbeddingRetriever, Encoder
from uniconv_bench.encode import Embed
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_code, digest_of_file
from uniconv_bench.system import Context, Progress
from uniconv_bench.system_cards import EncoderRetriever as EncoderCard
from uniconv_bench.uniconv.backbone import find_backbone, load_encoder, load_tokenizer
from uniconv_bench.uniconv.memory import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor

LIBRARIES = ("peft", "tokenizers", "torch", "transformers")
CODE = ("conversation", "encode", "uniconv/backbone", "uniconv/embedding")
TEXT = "{text}"
OF_QUERIES = ("query", "user", "assistant", "separator", "order", "query_prompt", "query_tokens")
"""Fields of the card that the embeddings of passages do not depend on."""


class EncoderRetriever(EmbeddingRetriever):
    """Any encoder or decoder by backbone name; longer sessions lose their oldest utterances."""

    def __init__(self, card: EncoderCard, context: Context):
        super().__init__(context)
        self._card = card
        self._backbone = find_backbone(card.model)
        self._lora = find_backbone(card.lora) if card.lora else None

    def of_queries(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        return self._card.model_dump(mode="json", include=set(OF_QUERIES))

    def of_passages(self) -> dict[str, Any]:
        """See `dense.EmbeddingRetriever`."""
        settings = self._card.model_dump(mode="json", exclude={"sources", *OF_QUERIES})
        return {
            **settings,
            "model": self._backbone.revision,
            "lora": [self._lora.revision, self.inference.lora] if self._lora else None,
            "dtype": self.inference.dtype,
            "batch_tokens": self.inference.encode_batch_tokens,
            "libraries": {name: metadata.version(name) for name in LIBRARIES},
            "code": digest_of_code(*CODE),
            "code_pooling": digest_of_file(Path(__file__)),
        }

    def encoder(self, progress: Progress) -> Encoder:
        """See `dense.EmbeddingRetriever`."""
        keep_freed_memory()
        tokenizer = load_tokenizer(self._backbone, progress)
        merge = self.inference.lora == "merged"
        model = load_encoder(self._backbone, self._lora, self.inference.dtype, merge, progress)
        inputs = Inputs(self._card, tokenizer)
        _check_lengths(self._card, model)
        if self._card.attention == "bidirectional":
            _check_reads_ahead(model)
        return Encoder(
            model.config.hidden_size,
            inputs.passage,
            inputs.query,
            embedder(model, self._card, inputs.pad, inputs.before_passage),
            embedder(model, self._card, inputs.pad, inputs.before_query),
        )


class Inputs:
    """Token ids of queries and passages as the card says.

    Args:
        card: prompts, closing tokens and lengths.
        tokenizer: the model's; what it adds at the beginning stays.

    Raises:
        UserError: a closing token is not one token, or no room is left for text.
    """

    def __init__(self, card: EncoderCard, tokenizer: Any):
        self._card, self._tokenizer = card, tokenizer
        self._closing = [_token(tokenizer, text) for text in card.closing]
        self._added = {tokenizer.eos_token_id, tokenizer.sep_token_id, *self._closing} - {None}
        ends = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        self.pad: int = next((token for token in ends if token is not None), 0)
        self.before_query = self._before(card.query_prompt)
        """Number of tokens before a query's text; `before_passage` likewise."""
        self.before_passage = self._before(card.passage_prompt)
        for field, before in (("query", self.before_query), ("passage", self.before_passage)):
            room = getattr(card, f"{field}_tokens") - before - len(self._closing)
            if room < 1:
                what = f"{field}_prompt and closing leave no room for text"
                raise UserError(what, mend=f"raise {field}_tokens on the card")

    def query(self, turn: Turn) -> list[int]:
        """The oldest utterances are dropped until the rest fits; the last one may be cut."""
        said = turn.utterances(self._card.query)
        while True:
            text = _filled(self._card.query_prompt, self._session(said))
            ids = self._ids(text)
            if len(said) == 1 or len(ids) <= self._card.query_tokens:
                return self._cut(text, ids, self._card.query_tokens)
            del said[0]

    def passage(self, passage: Passage) -> list[int]:
        """Title and text, cut at the end."""
        text = _filled(self._card.passage_prompt, passage.contents)
        return self._cut(text, self._ids(text), self._card.passage_tokens)

    def _session(self, said: Sequence[Utterance]) -> str:
        templates = {"user": self._card.user, "assistant": self._card.assistant}
        texts = [_filled(templates[one.role], one.text) for one in said]
        if self._card.order == "newest_first":
            texts.reverse()
        return self._card.separator.join(texts)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return [*self._open(ids), *self._closing] if self._closing else ids

    def _cut(self, text: str, ids: list[int], tokens: int) -> list[int]:
        if len(ids) <= tokens:
            return ids
        if self._closing:
            return [*ids[: tokens - len(self._closing)], *self._closing]
        cut: list[int] = self._tokenizer(text, truncation=True, max_length=tokens)["input_ids"]
        return cut

    def _open(self, ids: list[int]) -> list[int]:
        """Without the end token that the tokenizer may have added."""
        return ids[:-1] if len(ids) > 1 and ids[-1] in self._added else ids

    def _before(self, prompt: str) -> int:
        opening = prompt.partition(TEXT)[0]
        return len(self._open(self._tokenizer(opening)["input_ids"])) if opening else 0


def _filled(template: str, text: str) -> str:
    before, _, after = template.partition(TEXT)
    return f"{before}{text}{after}"


def _token(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        mend = "name special tokens that it has"
        raise UserError(f"{text!r} is not one token of this tokenizer", where="closing", mend=mend)
    return int(ids[0])


def embedder(model: Any, card: EncoderCard, pad: int, before: int) -> Embed:
    """Rows of token ids -> (rows, d) embeddings.

    Args:
        model: gives `last_hidden_state`.
        card: says how it attends, what is pooled and whether it is scaled to unit length.
        pad: id that fills rows up.
        before: tokens of the prompt before the text.
    """
    import torch

    from uniconv_bench.uniconv.embedding import padded

    def of(rows: Sequence[Sequence[int]]) -> Any:
        ids, mask = padded(rows, pad, model.device)
        seen = _all_in_view(mask, model.dtype) if card.attention == "bidirectional" else mask
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=seen).last_hidden_state.float()
            pooled = _pooled(states, mask, card, before)
            if card.similarity == "cosine":
                pooled = torch.nn.functional.normalize(pooled, dim=-1)
            return pooled.cpu().numpy()

    return of


def _pooled(states: Tensor, mask: Tensor, card: EncoderCard, before: int) -> Tensor:
    """(B, d) of states (B, longest, d); rows are padded on the right."""
    import torch

    if card.pooling == "cls":
        return states[:, 0]
    if card.pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weights = mask.clone()
    if card.pooled == "text":
        weights[:, :before] = 0
    total = weights.sum(1, keepdim=True).clamp(min=1)
    pooled: Tensor = (states * weights.unsqueeze(-1)).sum(1) / total
    return pooled


def _all_in_view(mask: Tensor, dtype: Any) -> Tensor:
    """(B, 1, longest, longest), added to scores: whatever is no padding is seen by all.

    A mask of four dimensions is taken as it is, in place of the causal one.
    """
    import torch

    longest = mask.shape[1]
    hidden = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    hidden.masked_fill_(mask == 0, torch.finfo(dtype).min)
    return hidden[:, None, None, :].expand(-1, 1, longest, longest)


def _check_reads_ahead(model: Any) -> None:
    """Refuses a model whose first state does not depend on the last token, whatever the mask."""
    import torch

    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=model.device)
    seen = _all_in_view(torch.ones_like(ids), model.dtype)
    with torch.inference_mode():
        one, other = model(input_ids=ids, attention_mask=seen).last_hidden_state[:, 0]
    if torch.equal(one, other):
        mend = 'leave attention = "bidirectional" out, or take a model that can'
        raise UserError(f"{type(model).__name__} reads only forwards", mend=mend)


def _check_lengths(card: EncoderCard, model: Any) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    for field in ("query_tokens", "passage_tokens"):
        if most is not None and getattr(card, field) > most:
            what = f"{field} is {getattr(card, field)}, but {card.model} has {most} positions"
            raise UserError(what, mend=f"lower {field} on the card")
