"""Answers from a model behind an OpenAI-compatible server: what it is asked, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from uniconv_bench.chatserver import Server
from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.files import digest_of_code
from uniconv_bench.prompts import messages, spoken, transcript
from uniconv_bench.system import Answer, Context, Progress
from uniconv_bench.system_cards import EndpointGenerator as EndpointCard

if TYPE_CHECKING:
    from uniconv_bench.reader import Memories


class EndpointGenerator:
    """Asks the server of its card, several turns at a time."""

    def __init__(self, card: EndpointCard, context: Context):
        self._card, self._limits = card, context.inference
        self._answer_tokens = context.task.answer_tokens
        self._server = Server(card)

    def fingerprint(self) -> Mapping[str, Any]:
        """See `system.Generator`; asks the server what its model is."""
        settings = self._card.model_dump(
            mode="json", exclude={"kind", "key", "concurrency", "timeout", "tries"}
        )
        return {
            "generator": "endpoint",
            **settings,
            "served": self._server.model,
            "session_words": self._limits.session_tokens,
            "passage_words": self._limits.passage_tokens,
            "instructed": self._limits.instruction,
            "answer_tokens": self._answer_tokens,
            "code": digest_of_code("conversation", "prompts"),
        }

    def generate(
        self, turns: Sequence[Turn], evidence: Mapping[str, Sequence[Passage]], progress: Progress
    ) -> Iterator[Answer]:
        """See `system.Generator`; answers come in the order in which the server gives them."""
        with (
            progress.track("answer", len(turns)) as advance,
            ThreadPoolExecutor(self._card.concurrency) as pool,
        ):
            waiting = [
                pool.submit(self._answer, turn, evidence[turn.turn_id], progress) for turn in turns
            ]
            try:
                for done in as_completed(waiting):
                    yield done.result()
                    advance(1)
            finally:  # what went wrong once need not be seen on every turn
                self._server.give_up()
                pool.shutdown(cancel_futures=True)

    def stream(
        self, turn: Turn, passages: Sequence[Passage], memories: Memories, progress: Progress
    ) -> Iterator[str]:
        """See `system.Streams`."""
        held = ""  # white space that may turn out to be the end
        started = False
        for piece in self._server.pieces(self._request(turn, passages), progress):
            text = held + piece if started else piece.lstrip()
            shown = text.rstrip()
            held = text[len(shown) :]
            if shown:
                started = True
                yield shown

    def shown(self, turn: Turn, passages: Sequence[Passage], progress: Progress) -> str:
        """See `system.Streams`: the request."""
        return json.dumps(self._request(turn, passages), indent=1, ensure_ascii=False)

    def _answer(self, turn: Turn, passages: Sequence[Passage], progress: Progress) -> Answer:
        text, usage = self._server.answer(self._request(turn, passages), progress)
        shown = tuple(passage.passage_id for passage in passages)
        read, written = (usage.get(f"{n}_tokens") for n in ("prompt", "completion"))
        return Answer(turn.turn_id, text.strip(), int(read or 0), int(written or 0), shown)

    def _request(self, turn: Turn, passages: Sequence[Passage]) -> dict[str, Any]:
        card = self._card
        limits = self._limits.session_tokens, self._limits.passage_tokens
        said, told = spoken(turn, passages, *limits), self._limits.instruction
        asked: dict[str, Any] = (
            {"messages": messages(said, told, system=card.instruction == "system")}
            if card.form == "chat"
            else {"prompt": transcript(said, told)}
        )
        settings = card.model_dump(mode="json", include={"model", "temperature", "top_p", "seed"})
        stop = {"stop": list(card.stop)} if card.stop else {}
        return {**settings, **asked, **stop, "max_tokens": self._answer_tokens}
