"""One OpenAI-compatible server, asked over HTTP: patient with what may pass, wary of what it says.

The key is read from the environment, sent in a header, and never written anywhere.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from uniconv_bench.errors import UserError
from uniconv_bench.offline import require_network
from uniconv_bench.progress import Silent
from uniconv_bench.replies import LATER, AgainError, retry_after
from uniconv_bench.system import Progress
from uniconv_bench.system_cards import EndpointGenerator

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
CONNECT, BACKOFF, LONGEST = 15.0, 1.0, 600.0
"""Seconds: to wait for a connection, before the second try, and at most at the server's request."""
LARGEST, LONGEST_LINE = 1 << 24, 1 << 20
"""Bytes of an answer, and of a line of one that is streamed."""
PATHS = {"chat": "chat/completions", "completion": "completions"}
TEXTS = {"chat": "content", "completion": "text"}
UNLISTED = frozenset({404, 405, 500, 501})
"""What servers answer that list no models; `transformers serve` fails without a hub cache."""
KEYLESS = "name the environment variable that holds a key as `key` under [generator] on the card"


class _RefusedError(UserError):
    """An answer that another try would not change."""

    def __init__(self, code: int, what: str, where: str, mend: str):
        super().__init__(what, where=where, mend=mend)
        self.code = code


class Server:
    """One server, and how its failures are borne with. What it is asked at once, threads ask."""

    def __init__(self, card: EndpointGenerator):
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
        models = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        found: dict[str, Any] = next((m for m in models if m.get("id") == self._card.model), {})
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
                for line in _lines(response):
                    content = line.removeprefix(b"data:").strip()
                    if not line.startswith(b"data:"):
                        continue
                    if content == b"[DONE]":
                        return
                    yield _text(_object(content), "delta", TEXTS[self._card.form]) or ""
        except AgainError as error:
            raise self._failed(f"its answer broke off: {error}") from error

    def give_up(self) -> None:
        """Ends all waiting: nobody wants the answers any more."""
        self._given_up.set()

    def _answer(self, request: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
        found = self._json("POST", PATHS[self._card.form], request)
        named = found.get("model")
        if self._named not in (None, named):
            before, now = f"{self._named!r:.100}", f"{named!r:.100}"
            raise self._failed(f"its model was {before} and is now {now}")
        self._named = named
        text = _text(found, "message", TEXTS[self._card.form])
        if text is None:
            raise AgainError("its answer holds no text")
        usage = found.get("usage")
        counts = usage.items() if isinstance(usage, dict) else ()
        return text, {name: count for name, count in counts if type(count) is int}

    def _patiently(self, ask: Callable[[], T], progress: Progress) -> T:
        """Tries again after what may pass, each time after a longer wait."""
        for left in reversed(range(self._card.tries)):
            try:
                return ask()
            except AgainError as error:
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
        with self._watched(), self._asked(method, path, body) as response:
            return _object(b"".join(_chunks(response)))

    def _asked(self, method: str, path: str, body: Any = None) -> requests.Response:
        """An answer whose content is still to be read."""
        import requests

        require_network(f"an answer of {self._card.model}", self._url)
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
            with response:
                told = "" if response.status_code in (401, 403) else self._told(response)
        code = response.status_code
        if code in (LATER if method == "POST" else LATER - UNLISTED):
            reason = f"it answers {code}{told}"
            raise AgainError(reason, retry_after(response.headers.get("Retry-After")))
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
            raise AgainError("it is silent") from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise AgainError("no connection, or it broke") from error
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
            found = _object(b"".join(_chunks(response)))
        except AgainError:
            return ""
        error = found.get("error", found)
        words = error.get("message", "") if isinstance(error, dict) else error
        text = " ".join(str(words).split())[:200]
        return f" ({text.replace(self._key, '***') if self._key else text})" if text else ""

    def _failed(self, reason: str) -> UserError:
        mend = "see that it runs, and run the same command again: answers that are there are kept"
        return UserError(f"the server failed: {reason}", where=self._url, mend=mend)


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """An answer's bytes as they come."""
    size = 0
    for chunk in response.iter_content(512):
        size += len(chunk)
        if size > LARGEST:
            raise AgainError(f"its answer has more than {LARGEST >> 20} MiB")
        yield chunk


def _lines(response: requests.Response) -> Iterator[bytes]:
    """The same, line by line."""
    rest = b""
    for chunk in _chunks(response):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise AgainError(f"a line of its answer has more than {LONGEST_LINE >> 20} MiB")
        yield from whole
    yield rest


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AgainError("its answer is no whole JSON") from error
    if not isinstance(found, dict):
        raise AgainError("its answer is no JSON object")
    return found


def _text(answer: Mapping[str, Any], holder: str, name: str) -> str | None:
    """What the first choice of an answer says; None: it has no such field.

    Args:
        holder: where some servers put it.
        name: of the field.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = (choice.get(holder) or choice) if isinstance(choice, dict) else None
    if not isinstance(said, dict) or name not in said:
        return None
    text = said[name] if said[name] is not None else ""
    if not isinstance(text, str):
        return None
    return text.encode(errors="replace").decode()  # no file can hold half a character
