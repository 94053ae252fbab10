"""Conversation, Turn, Passage: the one shape every dataset takes. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Role = Literal["user", "assistant"]
SessionMask = Literal["none", "strict", "chatretriever"]
"""What answers see of the session: all of it, or its closing end token alone. ChatRetriever's own
code lets the first token after that one see all, and later ones see that first one."""
QueryForm = Literal["session", "user_turns", "opening+query", "query", "rewrite"]
Kind = Literal["answer", "unanswerable", "clarification", "no_direct_answer"]


INSTRUCTION = "Answer the last question briefly. Use the passages if any are given."
REWRITING = (
    "Rewrite the last question of the conversation so that it can be understood without the "
    "conversation. Write the rewritten question only."
)
"""Both by default: cards may word them otherwise."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable unit of a corpus."""

    passage_id: str
    text: str
    title: str = ""

    @property
    def contents(self) -> str:
        """Title and text as every retriever and generator reads them: one line each."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Utterance:
    """One side's contribution to a history."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One current query with what came before it and what is known to be right.

    Attributes:
        turn_id: `<conversation_id>_<number>`; the query id of qrels, runs and answers.
        conversation_id: the cluster that statistics resample.
        number: position in the conversation, from 1.
        query: the current user utterance, as asked.
        history: earlier utterances, oldest first. A history may open with either speaker.
        references: acceptable responses, one an annotator, equal ones repeated (official metrics
            count them); the first one supervises training. Empty: not judged.
        gold: ids of the relevant passages (grade 1). Empty: not judged for retrieval.
        rewrite: a self-contained form of the query, where the dataset has one.
        kind: what the reference response does.
        topic: the dataset's topic label, if any (slices: topic switch).
        given: ids of the passages that the dataset hands to every system, best first; for tasks
            whose card says `evidence = "given"`.
    """

    turn_id: str
    conversation_id: str
    number: int
    query: str
    history: tuple[Utterance, ...] = ()
    references: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    rewrite: str | None = None
    kind: Kind = "answer"
    topic: str = ""
    given: tuple[str, ...] = ()

    def asked(self, form: QueryForm) -> list[str]:
        """The texts of `utterances`."""
        return [said.text for said in self.utterances(form)]

    def utterances(self, form: QueryForm) -> list[Utterance]:
        """What a retriever without a prompt format is asked, oldest first.

        Args:
            form: `session`, all that was said; `user_turns`, the user's side of it;
                `opening+query`, the first and the current query; `query`, the current one;
                `rewrite`, its self-contained form, or the current one where there is none.
        """
        user = [said for said in self.history if said.role == "user"]
        before = {"session": self.history, "user_turns": user, "opening+query": user[:1]}
        current = (self.rewrite if form == "rewrite" else None) or self.query
        return [*before.get(form, ()), Utterance("user", current)]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; `given` only where there are some."""
        row = asdict(self)
        if not self.given:
            del row["given"]
        return row

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Turn:
        """Inverse of `to_json`; KeyError or TypeError on a row of another shape."""
        fields = dict(row)
        fields["history"] = tuple(Utterance(**u) for u in fields.get("history", ()))
        fields["references"] = tuple(fields.get("references", ()))
        fields["gold"] = tuple(fields.get("gold", ()))
        fields["given"] = tuple(fields.get("given", ()))
        return Turn(**fields)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue whose turns statistics treat as dependent."""

    conversation_id: str
    turns: tuple[Turn, ...]

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)
