"""System cards: a retriever, a generator, and the adapters that they use (see `training_cards`).

Facts only, no behaviour. Every choice of the method that the paper does not publish is a field
here, and `sources` says where its value comes from.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from uniconv_bench.cards import Card, Name, Positive, Profile
from uniconv_bench.conversation import INSTRUCTION, REWRITING, QueryForm, SessionMask
from uniconv_bench.training_cards import ByProfile, Training

NonEmpty = Annotated[str, Field(min_length=1)]


class DenseRetriever(Card):
    """A decoder's EOS embedding as query and passage encoder."""

    kind: Literal["dense"]
    adapter: str | None = None
    """Name of one of the card's `adapters`; none: the backbone untrained."""
    query: Literal["session", "query"] = "session"


Template = Annotated[str, Field(pattern=r"\{text\}", examples=["query: {text}"])]
"""A text with `{text}` where what is meant goes."""


class EncoderRetriever(Card):
    """A published embedding model, encoder or decoder, with its own prompts and pooling."""

    kind: Literal["encoder"]
    model: str
    """Name of `backbones.toml`, `hub:<owner>/<name>@<commit>`, or a local folder."""
    lora: str | None = None
    """A peft adapter on it, likewise."""
    query: QueryForm = "session"
    user: Template = "{text}"
    """An utterance of the user in a session; `assistant` likewise."""
    assistant: Template = "{text}"
    separator: str = "\n"
    """Between the utterances of a session."""
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    query_prompt: Template = "{text}"
    passage_prompt: Template = "{text}"
    closing: tuple[str, ...] = ()
    """Special tokens at the end, in place of what the tokenizer adds there; never cut off."""
    query_tokens: Positive = 256
    """Most tokens of a query, special ones included; its oldest utterances go first."""
    passage_tokens: Positive = 256
    pooling: Literal["mean", "last", "cls"] = "mean"
    """Of the last layer's states: their mean, that at the last token, or that at the first."""
    pooled: Literal["all", "text"] = "all"
    """Whether a mean counts the prompt's tokens before the text."""
    attention: Literal["own", "bidirectional"] = "own"
    """`bidirectional`: a decoder reads every token with all others in view."""
    similarity: Literal["cosine", "dot"] = "cosine"
    sources: dict[str, str] = {}
    """As of an adapter's fields; part of no fingerprint."""


class Bm25Retriever(Card):
    """Okapi BM25 with the constants of the task card."""

    kind: Literal["bm25"]
    query: QueryForm = "session"


class BoundRetriever(Card):
    """`gold`: handed the relevant passages (an oracle). `none`: nothing (closed book)."""

    kind: Literal["gold", "none"]


def _part(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "module:Class" if isinstance(kind, str) and ":" in kind else str(kind)


class RewriteRetriever(Card):
    """Another retriever, asked nothing but the question as a decoder rewrites it from the session.

    The decoder is the system's backbone.
    """

    kind: Literal["rewrite"]
    adapter: str | None = None
    """Of the decoder; one of the card's `adapters`."""
    rewrite_tokens: Positive = 64
    """Most tokens of a rewrite."""
    instruction: NonEmpty = REWRITING
    """What the decoder is told."""
    retriever: Annotated[
        Annotated[Bm25Retriever, Tag("bm25")] | Annotated[EncoderRetriever, Tag("encoder")],
        Discriminator(_part),
    ]


class LlmGenerator(Card):
    """A decoder that answers from session and evidence."""

    kind: Literal["llm"]
    adapter: str | None = None
    session_mask: SessionMask = "none"
    """What answers see of the session, as the adapter's training has it."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the likeliest token each time; else tokens are drawn."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest that have this probability together."""
    seed: int = 0
    """Of the drawing; each turn draws by itself."""
    stop: tuple[NonEmpty, ...] = ()
    """Texts before which an answer ends."""


class EndpointGenerator(Card):
    """A model behind an OpenAI-compatible server: vLLM, llama.cpp, transformers serve, any API.

    Its tokenizer is not here, so `session_tokens` and `passage_tokens` count words.
    """

    kind: Literal["endpoint"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$")]
    """Where its interface begins, as `http://localhost:8000/v1`."""
    model: NonEmpty
    """As the server names it."""
    form: Literal["chat", "completion"] = "chat"
    """`completion`: the conversation as one text, for models that are not tuned to chat."""
    instruction: Literal["system", "user"] = "system"
    """Whose words the instruction is; some models' templates refuse a system's."""
    key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """The environment variable that holds the key; never the key itself."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    stop: tuple[NonEmpty, ...] = ()
    concurrency: Positive = 4
    """Requests at a time."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without a byte after which a request is given up and made again."""
    tries: Positive = 6
    """How often a request is made before the run stops; waits double in between."""


class CustomPart(Card):
    """A third party's retriever or generator: `module:Class`, built with its settings."""

    kind: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", examples=["module:Class"])]
    settings: dict[str, Any] = {}


RetrieverCard = Annotated[
    Annotated[DenseRetriever, Tag("dense")]
    | Annotated[EncoderRetriever, Tag("encoder")]
    | Annotated[Bm25Retriever, Tag("bm25")]
    | Annotated[RewriteRetriever, Tag("rewrite")]
    | Annotated[BoundRetriever, Tag("gold")]
    | Annotated[BoundRetriever, Tag("none")]
    | Annotated[CustomPart, Tag("module:Class")],
    Discriminator(_part),
]
GeneratorCard = Annotated[
    Annotated[LlmGenerator, Tag("llm")]
    | Annotated[EndpointGenerator, Tag("endpoint")]
    | Annotated[CustomPart, Tag("module:Class")],
    Discriminator(_part),
]


class Inference(ByProfile):
    """What retrieval and answering share."""

    session_tokens: Positive = 1024
    passage_tokens: Positive = 384
    instruction: NonEmpty = INSTRUCTION
    """What stands before each session, for retrieval and answering alike."""
    depth: Positive = 100
    """Passages per turn in a run file."""
    top_k: Annotated[int, Field(ge=0)] = 3
    """Passages that the generator reads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: Literal["merged", "beside"] = "merged"
    """`merged`: adapters are added to the weights, in float32, before those are rounded to `dtype`:
    faster, but a large model passes through memory in float32. `beside`: they stay apart."""
    encode_batch_tokens: Positive = 4096
    embedding_dtype: Literal["float32", "float16"] = "float32"
    """Of passages' embeddings on disk; queries and scores are float32."""
    index: Annotated[str, Field(min_length=1)] = "exact"
    """`exact`, or a factory string of faiss: `Flat`, `HNSW32`, `IVF4096,PQ64`, ..."""
    index_search: str = ""
    """Its search settings, as faiss writes them: `nprobe=32`, `efSearch=128`."""
    decode_batch_size: Positive = 16


def _holds_out_alike(training: Training, needed: Training) -> bool:
    """Whether what one adapter's training holds out, that of the one it needs does too."""
    for profile in get_args(Profile):
        one, other = training.on(profile), needed.on(profile)
        if one.validation is None:
            continue
        if other.validation is None:
            return False
        parts = [
            (set(card.tasks), card.seed, held.share, held.turns)
            for card, held in ((one, one.validation), (other, other.validation))
        ]
        if parts[0] != parts[1]:
            return False
    return True


class SystemCard(Card):
    """One runnable system: a retriever, a generator, and the adapters they use."""

    name: Name
    title: str
    description: str
    backbone: dict[Profile, str] = {}
    """Which backbone serves each profile; empty for systems with their own code only."""
    retriever: RetrieverCard
    generator: GeneratorCard
    adapters: dict[Name, Training] = {}
    inference: Inference = Inference()

    def on(self, profile: Profile) -> SystemCard:
        """The card of one profile: what its tables say for profiles is settled."""
        adapters = {name: training.on(profile) for name, training in self.adapters.items()}
        inference = self.inference.on(profile)
        return self.model_copy(update={"adapters": adapters, "inference": inference})

    @model_validator(mode="after")
    def _adapters_exist(self) -> SystemCard:
        for part in (self.retriever, self.generator):
            name = getattr(part, "adapter", None)
            if name is not None and name not in self.adapters:
                raise ValueError(f"adapter {name!r} is used but not declared under [adapters]")
        self._check_origins()
        for part, asked, field in (
            (self.retriever, "query", "retrieval_input"),
            (self.generator, "session_mask", "session_mask"),
        ):
            if (name := getattr(part, "adapter", None)) is not None and hasattr(part, asked):
                used, trained = getattr(part, asked), getattr(self.adapters[name], field)
                if used != trained:
                    raise ValueError(
                        f"{asked} is {used!r}, but adapter {name!r} is trained with {field} "
                        f"{trained!r}: make them the same"
                    )
        return self

    def _check_origins(self) -> None:
        """Refuses adapters that need others which are not there, of another shape, or need them."""
        for name, training in self.adapters.items():
            for field in ("start", "hard_negatives_adapter"):
                other, where = getattr(training, field), f"adapters.{name}.{field}"
                if other is not None and other not in self.adapters:
                    raise ValueError(f"{where}: {other!r} is not declared under [adapters]")
            if training.start is not None:
                shapes = [
                    one.lora.model_dump(include={"r", "alpha", "targets"})
                    for one in (training, self.adapters[training.start])
                ]
                if shapes[0] != shapes[1]:
                    where = f"adapters.{name}.start"
                    raise ValueError(f"{where}: make the lora of {training.start!r} the same")
            for other in filter(self.adapters.__contains__, training.needs):
                if not _holds_out_alike(training, self.adapters[other]):
                    raise ValueError(
                        f"adapters.{name}.validation: {other!r}, which it needs, is trained on "
                        "turns held out here: give both the same validation, tasks and seed"
                    )
        try:
            needs = {name: training.needs for name, training in self.adapters.items()}
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            names = " -> ".join(reversed(error.args[1]))
            raise ValueError(f"adapters.{names}: goes in a circle") from error
