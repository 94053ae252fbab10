"""System cards: a retriever, a generator, and how the adapters that they use are trained.

Facts only, no behaviour. Every choice of the method that the paper does not publish is a field
here, and `sources` says where its value comes from.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from uniconv_bench.cards import Card, Fraction, Name, Positive, Profile, merged
from uniconv_bench.conversation import QueryForm, SessionMask
from uniconv_bench.malformed import first_fault


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
    """`gold`: the relevant passages, as an upper bound. `none`: nothing, as a lower bound."""

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
    Annotated[LlmGenerator, Tag("llm")] | Annotated[CustomPart, Tag("module:Class")],
    Discriminator(_part),
]


CiiScore = Literal["embedding", "loglik", "pairwise"]
"""What L_CII compares: cosines of EOS embeddings, by softmax; a response's mean log-likelihood a
token given session and passage, by softmax; the same, by its margin over each wrong one."""
CiiNegatives = Literal["in_batch", "retrieved_wrong_passage", "sampled_generation", "previous_turn"]
"""Wrong pairs of L_CII: the right passage with other turns' responses, or the right response with
neighbouring passages, or the right passage with what the untrained backbone says without it, or
with what was said the turn before."""
Ddm = Literal[
    "both",
    "different_turns",
    "passage_only",
    "response_only",
    "response_as_passage",
    "passage_as_response",
]
"""Data-discrepancy mitigation: what supervises a turn. `both`: its passage and its response, as the
paper has it. `different_turns`: of half the turns the passage alone, of the others the response
alone; `passage_only`, `response_only`: of all. The last two have no mitigation, as in earlier work
one text serves both objectives: the response is what L_R pulls to the session, or the passage is
what L_G writes (which then grounds on BM25's best)."""
SUPERVISED: dict[Ddm, tuple[str, ...]] = {
    "different_turns": ("retrieval", "generation"),
    "passage_only": ("retrieval",),
    "response_only": ("generation",),
}
"""The losses that have anything to learn from, where those are not all."""


class Losses(Card):
    """Weights of L = retrieval * L_R + generation * L_G + cii * L_CII (alpha in the paper)."""

    retrieval: float = Field(default=1.0, ge=0)
    generation: float = Field(default=1.0, ge=0)
    cii: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Losses:
        if not self.retrieval + self.generation + self.cii:
            raise ValueError("all loss weights are 0")
        return self


class Lora(Card):
    """Low-rank adapters through peft."""

    r: Positive = 16
    alpha: Positive = 64
    dropout: Fraction = 0.1
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class ByProfile(Card):
    """A table whose fields may be otherwise at a profile: its data, its backbone's size, its
    machine.
    """

    sources: dict[str, str] = {}
    """Field name -> `paper`, `peer:<name>` or `ours`; part of no fingerprint."""
    profiles: dict[Profile, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _profiles_fit(self) -> Self:
        for profile in self.profiles:
            self.on(profile)
        return self

    def on(self, profile: Profile) -> Self:
        """What holds at a profile.

        Raises:
            ValueError: what the card says for the profile fits no field.
        """
        base = self.model_dump(exclude={"profiles"}, exclude_defaults=True)
        changed = self.profiles.get(profile, {})
        try:
            return self.model_validate(merged(base, changed))
        except ValidationError as error:
            what, mend = first_fault(type(self), error)
            raise ValueError(
                "; ".join(filter(None, (f"profiles.{profile}: {what}", mend)))
            ) from error


class Distillation(Card):
    """What an adapter learns from another system at the same profile, beside its data."""

    teacher: str
    """The system, by name or by the path of its card."""
    similarity: float = Field(default=1.0, ge=0)
    """Weight of KL(teacher || adapter) over the similarities of a turn and a step's candidates."""
    temperature: float = Field(default=0.05, gt=0)
    """Of both sides' similarities."""
    responses: Literal["data", "teacher"] = "teacher"
    """Whose response to a training turn is its response; the teacher sees the gold passages."""


class Validation(Card):
    """Conversations of the training sets held out, and the joint loss on them while training."""

    share: float = Field(default=0.1, gt=0, lt=1)
    """Of each task's training turns, in whole conversations."""
    turns: Positive = 48
    """About how many turns are held out at most, of all tasks together: each point reads them."""
    every: Positive = 20
    """Optimiser steps from point to point; the first is before training, the last at its end. The
    weights of the point of least loss are the adapter."""
    patience: Positive | None = None
    """Points without a lower loss after which training stops; none: it runs to its end."""


class Guards(Card):
    """Bounds of what is measured at the validation points; a number beyond its bound is warned of.

    `uniconv/guards.py` defines the numbers. On 23 turns of the sample SmolLM2-135M has, before
    `uniconv` is trained and after: variances of 0.02 to 0.05, and 0.2 to 0.3; an alignment gap of
    0.001, and 0.26; a passage gain of 2.5, and 2.9; a forgetting of 0, and 0.08.
    """

    least_variance: Fraction = 0.05
    least_alignment_gap: float = 0.01
    most_text_for_end: Fraction = 1.0
    """1: never warned of, as prompts place the end token, whatever the decoder would write."""
    least_passage_gain: float = 0.05
    most_forgetting: float = 0.5


class Training(ByProfile):
    """How one adapter is trained. Defaults follow the closest peers where the paper is silent."""

    tasks: tuple[str, ...]
    """Training sets mixed, each turn once an epoch."""
    mixture: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Task -> how many times an epoch reads its turns, where that is not once: 0.5 is half of them,
    drawn anew every epoch."""
    losses: Losses = Losses()
    ddm: Ddm = "both"
    retrieval_input: Literal["session", "query"] = "session"
    """What L_R pulls to its passage; the retriever that uses the adapter has to ask the same."""
    generation_input: Literal["session", "session+passage"] = "session"
    """What L_G's response is conditioned on."""
    session_mask: SessionMask = "none"
    """What L_G's response sees of the session."""
    generation_passages: int = Field(default=0, ge=0)
    """Distractor passages shown beside the gold one when `generation_input` has passages."""
    cii_input: Literal["session+passage", "query+passage"] = "session+passage"
    cii_score: CiiScore = "embedding"
    cii_negatives: CiiNegatives = "in_batch"
    cii_rivals: Positive | None = None
    """Most wrong pairs a turn, drawn anew each step; none: all there are."""
    cii_temperature: float = Field(default=0.01, gt=0)
    """Of L_CII's scores: cosines want it far smaller than log-likelihoods do."""
    temperature: float = Field(default=0.01, gt=0)
    """Of L_R's cosine similarities."""
    hard_negatives: int = Field(default=1, ge=0)
    """Passages per turn drawn from its nearest ones that are not gold."""
    hard_negatives_from: Literal["bm25", "dense"] = "bm25"
    """By what they are nearest: BM25, or embeddings of this backbone."""
    hard_negatives_adapter: str | None = None
    """Adapter of the same card that `dense` embeds with, trained first; none: no adapter."""
    start: str | None = None
    """Another of the card's adapters, with whose weights training begins; none: at random."""
    distillation: Distillation | None = None
    lora: Lora = Lora()
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Fraction = 0.1
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    batch_size: Positive = 16
    """Turns per optimiser step; also the number of in-batch candidates."""
    epochs: Positive = 3
    max_steps: Positive | None = None
    """Optimiser steps after which training ends, its schedule included; none: all epochs."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the frozen backbone and the activations; adapters and losses stay in float32."""
    checkpoint_steps: Positive = 50
    tokens_at_once: Positive | None = None
    """Tokens of a step whose activations are held at a time, for a second forward pass over all;
    none: all of them, in one pass. The batch of the contrasts is the same."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass rather than their activations held."""
    validation: Validation | None = None
    guards: Guards = Guards()
    """Watched where there is `validation`."""
    seed: int = 13

    @property
    def needs(self) -> list[str]:
        """Adapters of the same card that are trained before this one."""
        return [name for name in (self.start, self.hard_negatives_adapter) if name is not None]

    @model_validator(mode="after")
    def _supervised(self) -> Training:
        learns = SUPERVISED.get(self.ddm, ("retrieval", "generation", "cii"))
        for name in ("retrieval", "generation", "cii"):
            if getattr(self.losses, name) and name not in learns:
                raise ValueError(f"ddm {self.ddm!r} leaves losses.{name} nothing: make it 0")
        return self

    @model_validator(mode="after")
    def _miner_is_dense(self) -> Training:
        if self.hard_negatives_adapter and self.hard_negatives_from != "dense":
            raise ValueError('hard_negatives_adapter needs hard_negatives_from = "dense"')
        return self

    @model_validator(mode="after")
    def _mixed_tasks(self) -> Training:
        if absent := sorted(set(self.mixture) - set(self.tasks)):
            raise ValueError(f"mixture names {absent[0]!r}, which is none of tasks")
        return self


class Inference(ByProfile):
    """What retrieval and answering share."""

    session_tokens: Positive = 1024
    passage_tokens: Positive = 384
    depth: Positive = 100
    """Passages per turn in a run file."""
    top_k: Annotated[int, Field(ge=0)] = 3
    """Passages that the generator reads."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: Literal["merged", "beside"] = "merged"
    """`merged`: adapters are added to the weights, in float32, before those are rounded to `dtype`:
    faster, but a large model passes through memory in float32. `beside`: they stay apart."""
    encode_batch_tokens: Positive = 4096
    decode_batch_size: Positive = 16


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
        try:
            needs = {name: training.needs for name, training in self.adapters.items()}
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            names = " -> ".join(reversed(error.args[1]))
            raise ValueError(f"adapters.{names}: goes in a circle") from error
