"""One file over HTTP: continued where it broke off, tried again, checked.

Knows nothing of tasks, licences or archives. What a person reads of a failure is worded here: the
libraries' own messages may hold signed addresses.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uniconv_bench import __version__
from uniconv_bench.errors import UserError
from uniconv_bench.files import read_json, write_json
from uniconv_bench.offline import require_network
from uniconv_bench.replies import LATER, AgainError, extent, retry_after
from uniconv_bench.system import Progress

if TYPE_CHECKING:
    import requests

HUB = ("https://huggingface.co/", "https://hf.co/")
"""Addresses that a hub token may be sent to."""
CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download bears with a server.

    Attributes:
        tries: failures in a row that bring nothing new before it is given up.
        connect: seconds to wait for a connection.
        read: seconds to wait for the next bytes.
        longest: most seconds to wait at the server's own request.
        pause: waits a number of seconds.
    """

    tries: int = 6
    connect: float = 15.0
    read: float = 60.0
    longest: float = 600.0
    pause: Callable[[float], None] = time.sleep


def download(
    url: str,
    part: Path,
    *,
    size: int | None,
    checksum: str | None,
    by_hand: str,
    progress: Progress,
    patience: Patience,
) -> dict[str, Any]:
    """Brings the whole file to `part`, going on from the bytes that are there.

    Args:
        url: where it is.
        part: where it goes; what the server said of it is kept beside it.
        size: its bytes, where known.
        checksum: `md5:...` or `sha256:...`, where known.
        by_hand: ends an error line: how to do without this download.
        progress: told bytes, and why something is tried again.
        patience: limits.

    Returns:
        `bytes`, `sha256`, and the server's `etag` and `last_modified`.

    Raises:
        UserError: it cannot be had, or it is not what was expected.
    """
    name = urlsplit(url).path.rpartition("/")[2] or url
    require_network(f"the download of {name}", url)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _session() as session:
        one = _Transfer(session, url, part, name, size, checksum, by_hand, progress, patience)
        continued = one.have > 0
        one.complete()
        found = one.digests()
        if checksum and found != checksum and continued:
            progress.note(f"  {name}: the bytes of an earlier try do not fit; from the beginning")
            one.forget()
            one.complete()
            found = one.digests()
        if checksum and found != checksum:
            one.forget()
            what = f"wrong checksum: {found} instead of {checksum}"
            mend = "the file at the source is another one or was damaged on its way: run it again"
            raise UserError(what, where=url, mend=f"{mend}, or {by_hand}")
        return one.facts()


@dataclass
class _Transfer:
    """The state of one download between its tries; all of it is on disk."""

    session: requests.Session
    url: str
    part: Path
    name: str
    size: int | None
    checksum: str | None
    by_hand: str
    progress: Progress
    patience: Patience
    sha256: str = ""

    @property
    def beside(self) -> Path:
        return memo_of(self.part)

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def total(self) -> int | None:
        memo = self.memo()
        return memo["total"] if memo["total"] is not None else self.size

    def memo(self) -> dict[str, Any]:
        """What the server said of the file that `part` is the beginning of."""
        empty = {"url": self.url, "etag": None, "last_modified": None, "total": None}
        found = read_json(self.beside) if self.beside.exists() else empty
        return found if found.get("url") == self.url else empty

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.beside.unlink(missing_ok=True)

    def facts(self) -> dict[str, Any]:
        memo = self.memo()
        kept = {key: memo[key] for key in ("etag", "last_modified")}
        return {"bytes": self.have, "sha256": self.sha256, **kept}

    def digests(self) -> str:
        """Reads the file once; its digest in the form of `checksum`."""
        algorithm = (self.checksum or "sha256").partition(":")[0]
        sums = {algorithm: hashlib.new(algorithm), "sha256": hashlib.sha256()}
        with (
            self.part.open("rb") as stream,
            self.progress.track(f"check {self.name}", self.have, "B") as advance,
        ):
            while chunk := stream.read(1 << 20):
                for one in sums.values():
                    one.update(chunk)
                advance(len(chunk))
        self.sha256 = sums["sha256"].hexdigest()
        return f"{algorithm}:{sums[algorithm].hexdigest()}"

    def complete(self) -> None:
        """Tries until all bytes are there; only new bytes renew its patience."""
        failures, furthest = 0, self.have
        while True:
            try:
                self.attempt()
                return
            except AgainError as error:
                failures = 1 if self.have > furthest else failures + 1
                furthest = max(furthest, self.have)
                wait = 2.0 ** (failures - 1) if error.wait is None else error.wait
                if failures >= self.patience.tries or wait > self.patience.longest:
                    raise self.given_up(error, wait) from error
                self.progress.note(f"  {self.name}: {error}; again in {wait:.0f} s")
                self.patience.pause(wait)

    def given_up(self, error: AgainError, wait: float) -> UserError:
        asked = f", and asks to wait {wait:.0f} s" if wait > self.patience.longest else ""
        done = f"{self.have:,}" + (f" of {self.total:,}" if self.total else "")
        mend = f"run the same command again later to go on from {done} bytes, or {self.by_hand}"
        return UserError(f"download failed: {error}{asked}", where=self.url, mend=mend)

    def attempt(self) -> None:
        import requests
        import urllib3

        if self.have and self.have == self.total:
            return
        headers = {"Accept-Encoding": "identity", "User-Agent": f"uniconv-bench/{__version__}"}
        headers |= authorisation(self.url) | self.rest()
        wait = (self.patience.connect, self.patience.read)
        try:
            with self.answer(headers, wait) as answer:
                self.take(answer)
        except requests.exceptions.SSLError as error:
            raise self.refused("its certificate cannot be trusted") from error
        except requests.TooManyRedirects as error:
            raise self.refused("it redirects in a circle") from error
        except requests.exceptions.ProxyError as error:
            raise AgainError("the proxy cannot be reached") from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise AgainError("the server is silent") from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            what = "the connection broke" if self.have else "no connection, or it broke"
            raise AgainError(what) from error
        except requests.RequestException as error:
            raise self.refused(f"{type(error).__name__}") from error

    def answer(self, headers: dict[str, str], wait: tuple[float, float]) -> requests.Response:
        import requests

        try:
            return self.session.get(
                self.url, headers=headers, auth=_as_it_is, stream=True, timeout=wait
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # of a redirect that the library cannot read
            raise self.refused("it redirects to what is no address") from error

    def rest(self) -> dict[str, str]:
        """Headers that ask for the missing bytes, if they are sure to be of the same file."""
        memo = self.memo()
        etag = memo["etag"]
        validator = etag if etag and not etag.startswith("W/") else memo["last_modified"]
        if self.have and validator:
            return {"Range": f"bytes={self.have}-", "If-Range": validator}
        if self.have and self.checksum:
            return {"Range": f"bytes={self.have}-"}
        self.forget()
        return {}

    def take(self, answer: requests.Response) -> None:
        if answer.status_code in LATER:
            reason = f"the server answers {answer.status_code}"
            raise AgainError(reason, retry_after(answer.headers.get("Retry-After")))
        if answer.status_code == 416 and self.have:
            if answer.headers.get("Content-Range", "").strip() == f"bytes */{self.have}":
                return  # nothing is missing
            self.forget()
            raise AgainError("the file changed at its source", 0)
        if answer.status_code not in (200, 206):
            raise self.refused(f"the server answers {answer.status_code}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise self.refused("it answers with a web page instead of the file")
        start, total = extent(answer)
        if answer.status_code == 206 and (start != self.have or self.changed(answer, total)):
            self.forget()
            raise AgainError("the file changed at its source", 0)
        if None not in (total, self.size) and total != self.size:
            self.forget()
            raise self.refused(f"it has {total:,} bytes, and the card says {self.size:,}")
        if answer.status_code == 200:
            if self.have:
                self.progress.note(f"  {self.name}: the server starts from the first byte again")
            self.forget()
        # Written before the first byte: what is beside `part` is always about its own bytes.
        write_json(self.beside, {**self.memo(), **_known(answer, total)})
        self.write(answer)

    def changed(self, answer: requests.Response, total: int | None) -> bool:
        memo = self.memo()
        new = _known(answer, total)
        return any(memo[key] is not None and memo[key] != value for key, value in new.items())

    def write(self, answer: requests.Response) -> None:
        total, have = self.total, self.have
        missing = total - have if total is not None else 0
        label = f"{self.name} (from byte {self.have:,})" if self.have else self.name
        with (
            self.part.open("ab") as out,
            self.progress.track(label, missing, "B") as advance,
        ):
            # Bytes as they are stored: a .gz file stays one even if declared as an encoding.
            while chunk := answer.raw.read1(CHUNK, decode_content=False):
                have += len(chunk)
                if total is not None and have > total:
                    self.forget()
                    raise self.refused(f"it sends more than {total:,} bytes")
                out.write(chunk)
                advance(len(chunk))
            out.flush()
            if total is not None and have < total:
                raise AgainError("the connection broke")
        if total is None and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            self.progress.note(f"  {self.name}: the server did not say how many bytes it has")

    def refused(self, reason: str) -> UserError:
        mend = self.by_hand
        if reason.endswith(("401", "403")) and self.url.startswith(HUB):
            mend = f"accept its terms on the hub and set HF_TOKEN, or {mend}"
        return UserError(f"download refused: {reason}", where=self.url, mend=mend)


def memo_of(part: Path) -> Path:
    """Where the facts about an unfinished download stand."""
    return part.with_name(f"{part.name}.json")


def authorisation(url: str) -> dict[str, str]:
    """The hub's token, for the hub alone; a redirect to another host drops it."""
    if not url.startswith(HUB):
        return {}
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _session() -> requests.Session:
    """That looks for no credentials in a `.netrc`, also when it is redirected."""
    import requests

    class Session(requests.Session):
        def rebuild_auth(
            self, prepared_request: requests.PreparedRequest, response: requests.Response
        ) -> None:
            asked, now = response.request.url, prepared_request.url
            if asked is None or now is None or self.should_strip_auth(asked, now):
                prepared_request.headers.pop("Authorization", None)

    return Session()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """In place of the credentials that the library would look for."""
    return request


def _known(answer: requests.Response, total: int | None) -> dict[str, Any]:
    """What an answer says of the file beside its bytes."""
    etag, modified = (answer.headers.get(key) for key in ("ETag", "Last-Modified"))
    said = {"etag": etag, "last_modified": modified, "total": total}
    return {key: value for key, value in said.items() if value is not None}
