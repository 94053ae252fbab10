"""Answers from a model behind an OpenAI-compatible server, asked over HTTP.

The key is read from the environment, sent in a header, and never written anywhere.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from uniconv_bench.conversation import Passage, Turn
from uniconv_bench.download import LATER, retry_after
from uniconv_bench.errors import UserError
from uniconv_bench.files import digest_of_code
from uniconv_bench.progress import Silent
from uniconv_bench.prompts import messages, spoken, transcript
from uniconv_bench.system import Answer, Context, Progress
from uniconv_bench.system_cards import EndpointGenerator as EndpointCard

if TYPE_CHECKING:
    import requests

    from uniconv_bench.reader import Memories

T = TypeVar("T")
CONNECT, BACKOFF, LONGEST = 15.0, 1.0, 600.0
"""Seconds: to wait for a connection, before the second try, and at most at the server's request."""
PATHS = {"chat": "chat/completions", "completion": "completions"}
TEXTS = {"chat": "content", "completion": "text"}
UNLISTED = frozenset({404, 405, 500, 501})
"""What servers answer that list no models; `transformers serve` fails without a hub cache."""
KEYLESS = "name the environment variable that holds a key as `key` under [generator] on the card"


class EndpointGenerator:
    """Asks the server of its card, several turns at a time."""

    def __init__(self, card: EndpointCard, context: Context):
        self._card, self._limits = card, context.inference
        self._answer_tokens = context.task.answer_tokens
        self._server = _Server(card)

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
        said = spoken(turn, passages, *limits)
        asked: dict[str, Any] = (
            {"messages": messages(said, system=card.instruction == "system")}
            if card.form == "chat"
            else {"prompt": transcript(said)}
        )
        settings = card.model_dump(mode="json", include={"model", "temperature", "top_p", "seed"})
        stop = {"stop": list(card.stop)} if card.stop else {}
        return {**settings, **asked, **stop, "max_tokens": self._answer_tokens}


class _AgainError(Exception):
    """A failure that another try may not meet."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class _RefusedError(UserError):
    """An answer that another try would not change."""

    def __init__(self, code: int, what: str, where: str, mend: str):
        super().__init__(what, where=where, mend=mend)
        self.code = code


class _Server:
    """One server, and how its failures are borne with. What it is asked at once, threads ask."""

    def __init__(self, card: EndpointCard):
        self._card = card
        self._url = card.url.rstrip("/")
        self._named: str | None = None
        self._given_up = Event()

    @cached_property
    def model(self) -> dict[str, Any]:
        """What the server's list says of the model; empty where it is in none.

        Raises:
            UserError: no server, or it refuses.
        """
        try:
            listed = self._patiently(lambda: self._json("GET", "models"), Silent())
        except _RefusedError as error:
            if error.code in UNLISTED:
                return {}
            raise
        rows = listed.get("data")
        found: dict[str, Any] = next((r for r in rows or () if r.get("id") == self._card.model), {})
        # The moment of loading, which some servers tell too, is no part of what a model is.
        return {name: found[name] for name in ("id", "root", "owned_by") if name in found}

    def answer(self, request: Mapping[str, Any], progress: Progress) -> tuple[str, dict[str, int]]:
        """(text, counts of tokens)."""
        return self._patiently(lambda: self._answer(request), progress)

    def pieces(self, request: Mapping[str, Any], progress: Progress) -> Iterator[str]:
        """The text as the server writes it; what has begun is not asked for again."""
        path, asked = PATHS[self._card.form], {**request, "stream": True}
        response = self._patiently(lambda: self._asked("POST", path, asked), progress)
        try:
            with response, self._watched():
                for line in response.iter_lines():
                    content = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:"):
                        continue
                    if content == b"[DONE]":
                        return
                    for choice in json.loads(content).get("choices", ())[:1]:
                        yield (choice.get("delta") or choice).get(TEXTS[self._card.form]) or ""
        except (_AgainError, ValueError) as error:
            raise self._failed(f"its answer broke off: {error}") from error

    def give_up(self) -> None:
        """Ends all waiting: nobody wants the answers any more."""
        self._given_up.set()

    def _answer(self, request: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
        found = self._json("POST", PATHS[self._card.form], request)
        named = found.get("model")
        if self._named not in (None, named):
            raise self._failed(f"its model was {self._named!r} and is now {named!r}")
        self._named = named
        try:
            choice = found["choices"][0]
            text = choice.get("message", choice)[TEXTS[self._card.form]]
            return str(text or ""), dict(found.get("usage") or {})
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _AgainError("its answer holds no text") from error

    def _patiently(self, ask: Callable[[], T], progress: Progress) -> T:
        """Tries again after what may pass, each time after a longer wait."""
        for left in reversed(range(self._card.tries)):
            try:
                return ask()
            except _AgainError as error:
                wait = BACKOFF * 2.0 ** (self._card.tries - 1 - left) * random.uniform(0.75, 1.25)
                wait = wait if error.wait is None else error.wait
                if not left or wait > LONGEST:
                    asked = f", and asks to wait {wait:.0f} s" if wait > LONGEST else ""
                    raise self._failed(f"{error}{asked}") from error
                progress.note(f"  {self._url}: {error}; again in {wait:.0f} s")
                if self._given_up.wait(wait):
                    raise self._failed(str(error)) from error
        raise AssertionError("tries is positive")

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        with self._watched():
            response = self._asked(method, path, body)
            content = response.content
        try:
            found = json.loads(content)
        except ValueError as error:
            raise _AgainError("its answer is no whole JSON") from error
        if not isinstance(found, dict):
            raise _AgainError("its answer is no JSON object")
        return found

    def _asked(self, method: str, path: str, body: Any = None) -> requests.Response:
        """An answer whose content is still to be read."""
        import requests

        with self._watched():
            response = requests.request(
                method,
                f"{self._url}/{path}",
                json=body,
                auth=self._signed,
                timeout=(CONNECT, self._card.timeout),
                allow_redirects=False,  # a redirected question would arrive without its body
                stream=True,
            )
            if response.ok and not response.is_redirect:
                return response
            told = "" if response.status_code in (401, 403) else self._told(response)
        code = response.status_code
        if code in (LATER if method == "POST" else LATER - UNLISTED):
            reason = f"it answers {code}{told}"
            raise _AgainError(reason, retry_after(response.headers.get("Retry-After")))
        mend = "mend url or model under [generator] on the card"
        if code in (401, 403):
            mend = f"put a valid key into {self._card.key}" if self._card.key else KEYLESS
        raise _RefusedError(code, f"the server answers {code}{told}", self._url, mend)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Words for what the library raises, whose own may hold what was sent."""
        import requests

        try:
            yield
        except requests.exceptions.SSLError as error:
            raise self._failed("its certificate cannot be trusted") from error
        except requests.Timeout as error:
            raise _AgainError("it is silent") from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _AgainError("no connection, or it broke") from error
        except requests.RequestException as error:
            raise self._failed(type(error).__name__) from error

    def _signed(self, request: Any) -> Any:
        """Adds the key; nothing that is in a `.netrc` is sent."""
        if self._card.key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    @property
    def _key(self) -> str:
        key = os.environ.get(self._card.key or "", "").strip()
        if self._card.key and not key:
            what = f"the environment variable {self._card.key} holds no key"
            raise UserError(what, where=self._url, mend=f"export {self._card.key}=...")
        return key

    def _told(self, response: requests.Response) -> str:
        """The server's own words, in so far as they can be shown."""
        try:
            found = json.loads(response.content)
            error = found.get("error", found) if isinstance(found, dict) else found
            words = error.get("message", "") if isinstance(error, dict) else error
        except ValueError:
            return ""
        text = " ".join(str(words).split())[:200]
        return f" ({text.replace(self._key, '***') if self._key else text})" if text else ""

    def _failed(self, reason: str) -> UserError:
        mend = "see that it runs, and run the same command again: answers that are there are kept"
        return UserError(f"the server failed: {reason}", where=self._url, mend=mend)
