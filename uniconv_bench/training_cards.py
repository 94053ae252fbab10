"""How an adapter is trained: the tables under `[adapters]` of a system's card.

Facts only, no behaviour. Every choice of the method that the paper does not publish is a field
here, and `sources` says where its value comes from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from uniconv_bench.cards import Card, Fraction, Positive, Profile
from uniconv_bench.conversation import SessionMask
from uniconv_bench.extending import merged
from uniconv_bench.malformed import first_fault

Decay = Annotated[float, Field(ge=0, lt=1)]
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
alone; `passage_only`, `response_only`: of all; without its passage, L_G reads none. The last two
have no mitigation, as in earlier work one text serves both objectives: the response is what L_R
pulls to the session, or the passage is what L_G writes (which then grounds on BM25's best)."""
SUPERVISED: dict[Ddm, tuple[str, ...]] = {
    "different_turns": ("retrieval", "generation"),
    "passage_only": ("retrieval",),
    "response_only": ("generation",),
}
"""The losses that have anything to learn from, where those are not all."""


TERMS = ("retrieval", "distillation", "generation", "cii")
"""Names of the terms of the loss, in the order in which they are shown."""


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
        if self.profiles:  # a fault of the table itself is none of a profile's
            type(self).model_validate(self.model_dump(exclude={"profiles"}, exclude_defaults=True))
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

    @model_validator(mode="after")
    def _teaches(self) -> Distillation:
        if not self.similarity and self.responses == "data":
            raise ValueError('similarity 0 with responses "data" teaches nothing')
        return self


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
    turns: Positive | None = None
    """The first so many training turns of each task; none: all of them."""
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
    sampling_temperature: float = Field(default=1.0, gt=0)
    """Of the wrong responses that `sampled_generation` draws."""
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
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's: how fast its means of gradients, and of their squares, forget."""
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
