"""The only module that turns conversations into token ids, for training and inference alike.

What is specific to an objective always comes *after* the session, so the session is a shared
prefix: retrieval closes it with the end token, answering goes on with evidence and the opening of
the assistant's reply. Knows tokenizers, no models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError

from uniconv_bench.conversation import (
    INSTRUCTION,
    REWRITING,
    Passage,
    SessionMask,
    Turn,
    Utterance,
)
from uniconv_bench.errors import UserError

History = Literal["session", "query"]

OPENING = Utterance("user", "Hello.")
"""Stands before a history that the assistant opens: chat templates want the user first."""
_MARK = "\u241eQUESTION\u241e"


class Prompt(NamedTuple):
    """What a generator goes on from.

    Attributes:
        ids: token ids.
        unseen: number of first tokens that those from `start` on do not attend to.
        start: see `unseen`.
    """

    ids: list[int]
    unseen: int = 0
    start: int = 0


class PromptFormat:
    """Token ids of every input of one backbone.

    Texts are rendered by the backbone's own chat template and tokenised without adding special
    tokens, so that none is doubled; the end token is appended as an id after truncation, so that
    none is lost.

    Args:
        tokenizer: a transformers tokenizer with a chat template and an `eos_token`.
        session_tokens: most tokens of a session; oldest exchanges are dropped whole beyond it.
        passage_tokens: most tokens of a passage, end token included.
        instruction: what stands before each session.

    Raises:
        UserError: the tokenizer is not of a chat model.
    """

    def __init__(
        self,
        tokenizer: Any,
        session_tokens: int,
        passage_tokens: int,
        instruction: str = INSTRUCTION,
    ):
        self.tokenizer = tokenizer
        self._instruction = instruction
        self.session_tokens = session_tokens
        self.passage_tokens = passage_tokens
        if not tokenizer.chat_template or tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template or end token",
                mend="name a chat model under [backbone] on the card",
            )
        self.end: int = tokenizer.eos_token_id
        self._system_role = self._knows_system_role()
        self._closing = self._render([Utterance("user", _MARK)]).rpartition(_MARK)[2]

    def session(self, turn: Turn, history: History = "session") -> list[int]:
        """The conversation up to and including the current query, left open.

        Exchanges are dropped from the oldest on until `session_tokens` hold; the current query is
        kept whole even when it is longer by itself.
        """
        past = list(turn.history) if history == "session" else []
        while True:
            opening = [OPENING] if past and past[0].role == "assistant" else []
            text = self._render([*opening, *past, Utterance("user", _MARK)])
            ids = self._ids(text.rpartition(_MARK)[0] + turn.query)
            if len(ids) <= self.session_tokens or not past:
                return ids
            del past[: _exchange(past)]

    def query(self, turn: Turn, history: History = "session") -> list[int]:
        """Input of the retriever for a turn: the session, closed by the end token."""
        return [*self.session(turn, history), self.end]

    def passage(self, passage: Passage) -> list[int]:
        """Input of the retriever for a passage, closed by the end token."""
        return self.text(f"Passage: {passage.contents}")

    def text(self, text: str) -> list[int]:
        """Any text to embed: cut to `passage_tokens - 1` tokens, closed by the end token."""
        return [*self._ids(text)[: self.passage_tokens - 1], self.end]

    def grounded(
        self, turn: Turn, passages: Sequence[Passage], history: History = "session"
    ) -> list[int]:
        """Session and passages, left open: the common prefix of answering and of L_CII."""
        return [*self.session(turn, history), *self.evidence(passages)]

    def evidence(self, passages: Sequence[Passage]) -> list[int]:
        """The passages as the generator reads them; empty for none."""
        if not passages:
            return []
        ids = self._ids("\n\nPassages:")
        for number, passage in enumerate(passages, 1):
            ids += self._ids(f"\n[{number}] {passage.contents}")[: self.passage_tokens]
        return ids

    def prompt(
        self,
        turn: Turn,
        passages: Sequence[Passage],
        session_mask: SessionMask = "none",
        history: History = "session",
    ) -> Prompt:
        """Input of the generator: session, passages, opening of the assistant's reply.

        Under a mask the end token closes the session, as for retrieval, and stands for it.
        """
        closing = self._ids(self._closing)
        if session_mask == "none":
            return Prompt([*self.grounded(turn, passages, history), *closing])
        session = self.session(turn, history)
        start = len(session) + (1 if session_mask == "strict" else 2)
        return Prompt([*session, self.end, *self.evidence(passages), *closing], len(session), start)

    def rewriting(self, turn: Turn, instruction: str = REWRITING) -> Prompt:
        """Input for a self-contained question: the conversation as one text, oldest first.

        Exchanges are dropped as in `session`.
        """
        past = list(turn.history)
        while True:
            said = [
                f"{u.role.capitalize()}: {u.text}" for u in [*past, Utterance("user", turn.query)]
            ]
            ids = self._ids(self._render([Utterance("user", "\n".join(said))], instruction))
            if len(ids) <= self.session_tokens or not past:
                return Prompt(ids)
            del past[: _exchange(past)]

    def chat(self, text: str) -> Prompt:
        """A text of a user by itself, with no instruction to answer as in a search."""
        said = [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(
            said, tokenize=False, add_generation_prompt=True
        )
        return Prompt(self._ids(rendered))

    def response(self, text: str) -> list[int]:
        """A response as the generator should write it, closed by the end token."""
        return [*self._ids(text), self.end]

    def _render(self, utterances: Sequence[Utterance], instruction: str | None = None) -> str:
        rendered: str = self.tokenizer.apply_chat_template(
            messages(utterances, instruction or self._instruction, system=self._system_role),
            tokenize=False,
            add_generation_prompt=True,
        )
        return rendered

    def _knows_system_role(self) -> bool:
        messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "?"}]
        try:
            return _MARK in self.tokenizer.apply_chat_template(messages, tokenize=False)
        except TemplateError:  # Mistral's template, for one, refuses the role
            return False

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def messages(
    utterances: Sequence[Utterance], instruction: str, *, system: bool
) -> list[dict[str, str]]:
    """What was said, as chat templates and chat servers take it.

    Args:
        system: whether the instruction has a message of its own or opens the first one.
    """
    found: list[dict[str, str]] = []
    for said in utterances:
        # A dataset's lost or empty answer leaves one side speaking twice, which strict chat
        # templates refuse.
        if found and found[-1]["role"] == said.role:
            found[-1]["content"] += f"\n{said.text}"
        else:
            found.append({"role": said.role, "content": said.text})
    if system:
        return [{"role": "system", "content": instruction}, *found]
    found[0]["content"] = f"{instruction}\n\n{found[0]['content']}"
    return found


def spoken(
    turn: Turn, passages: Sequence[Passage], session_words: int, passage_words: int
) -> list[Utterance]:
    """Session and passages as utterances, for a model whose tokenizer is not here.

    What `PromptFormat.prompt` has, with lengths in words.
    """
    past = list(turn.history)
    while past and sum(len(u.text.split()) for u in past) + len(turn.query.split()) > session_words:
        del past[: _exchange(past)]
    shown = [
        f"\n[{number}] {_words(passage.contents, passage_words)}"
        for number, passage in enumerate(passages, 1)
    ]
    evidence = f"\n\nPassages:{''.join(shown)}" if shown else ""
    opening = [OPENING] if past and past[0].role == "assistant" else []
    return [*opening, *past, Utterance("user", turn.query + evidence)]


def transcript(utterances: Sequence[Utterance], instruction: str) -> str:
    """A conversation as one text that a model goes on with, for one that knows no roles."""
    said = [f"{u.role.capitalize()}: {u.text}" for u in utterances]
    return "\n".join([instruction, "", *said, "Assistant:"])


def _words(text: str, most: int) -> str:
    """The first words, as they stand."""
    found = list(re.finditer(r"\S+", text))
    return text if len(found) <= most else text[: found[most - 1].end()]


def _exchange(history: Sequence[Utterance]) -> int:
    """Number of utterances in the oldest exchange: up to the next one by the user."""
    for position, utterance in enumerate(history[1:], 1):
        if utterance.role == "user":
            return position
    return len(history)
