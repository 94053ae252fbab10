"""Archives into a folder, safely: no member leaves it, none is a link, all they hold is bounded.

Knows nothing of where an archive comes from.
"""

from __future__ import annotations

import gzip
import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Self, cast

from uniconv_bench.errors import UserError
from uniconv_bench.system import Progress

Kind = Literal["gzip", "zip", "tar.gz"]
AHEAD = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
"""Types of headers that say more of the member behind them, a long name for one."""
RATIO, FLOOR = 50, 1 << 24
"""Text is packed to a tenth, seldom to a thirtieth; beyond this an archive is a trap."""
MEMBERS = 100_000
"""A dump of Wikipedia in files of a megabyte has some 20,000."""
LONG, ALL_LONG = 1 << 13, 1 << 20
"""Bytes of a header that goes before a member of a tar file, and of all of them: Python reads each
whole, and its older releases take a time that grows with the square of its length."""
NAME = 255
"""Bytes of a file's name, as file systems have it."""
SPARSE = "it holds a sparse file"
CHUNK = 1 << 20
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile),
    RecursionError,  # of headers before headers
    UnicodeDecodeError,  # a name that is not in the encoding that its flag states
)


def unpack(
    archive: Path, kind: Kind, folder: Path, label: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Unpacks into an empty folder; member -> `sha256` and `bytes`.

    A gzip file's one member is called `label`.

    Raises:
        UserError: the archive is damaged, or a member of it is not plain data inside `folder`.
    """
    limit = max(FLOOR, RATIO * archive.stat().st_size)
    found: dict[str, dict[str, Any]] = {}
    written = read = 0
    try:
        with (
            archive.open("rb") as raw,
            progress.track(f"unpack {label}", archive.stat().st_size, "B") as advance,
        ):
            for member, stream in _members(raw, kind, label):
                name = _checked(member, archive)
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                digest, start = hashlib.sha256(), written
                with target.open("xb") as out:
                    while chunk := stream.read(CHUNK):
                        written += len(chunk)
                        if written > limit:
                            raise _unsafe(archive, f"unpacks to more than {limit:,} bytes")
                        out.write(chunk)
                        digest.update(chunk)
                        advance(raw.tell() - read)
                        read = raw.tell()
                found[name] = {"sha256": digest.hexdigest(), "bytes": written - start}
    except FileExistsError as error:
        raise _unsafe(archive, f"holds {_told(name)} twice") from error
    except DAMAGED as error:
        mend = "fetch it again"
        raise UserError(f"truncated or damaged {kind} archive", where=archive, mend=mend) from error
    except NotImplementedError as error:
        mend = "unpack it by hand and name the folder with --data-dir"
        raise UserError(f"cannot unpack: {error}", where=archive, mend=mend) from error
    if not found:
        raise UserError("an archive without a file", where=archive, mend="fetch it again")
    return found


def _members(raw: IO[bytes], kind: Kind, label: str) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, contents) of every file, in the archive's order."""
    if kind == "gzip":
        with gzip.open(raw) as packed:
            yield label, cast(IO[bytes], packed)
    elif kind == "zip":
        with zipfile.ZipFile(raw) as box:
            if len(box.infolist()) > MEMBERS:
                raise _unsafe(raw.name, f"more than {MEMBERS:,} members")
            for info in box.infolist():
                if info.filename.endswith("/"):
                    continue
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise NotImplementedError(f"member {_told(info.filename)} is not deflated")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise _unsafe(raw.name, f"member {_told(info.filename)} is a link")
                if info.flag_bits & 1:
                    raise _unsafe(raw.name, f"member {_told(info.filename)} is encrypted")
                with box.open(info) as stream:
                    yield info.filename, stream
    else:
        with gzip.open(raw) as packed:
            headers = _bounded_headers(raw.name)
            with tarfile.open(fileobj=packed, mode="r|", tarinfo=headers) as pack:
                for member in pack:
                    if member.isdir():
                        continue
                    contents = pack.extractfile(member) if member.isreg() else None
                    if contents is None:
                        raise _unsafe(
                            raw.name, f"member {_told(member.name)} is a link or a device"
                        )
                    yield member.name, contents
            # A tar file may end early unnoticed; gzip checks length and sum at its own end.
            while packed.read(CHUNK):
                pass


def _bounded_headers(archive: str) -> type[tarfile.TarInfo]:
    """The headers of one tar file: few, short, and none with a map of holes, which has no bound."""
    count = total = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            nonlocal count, total
            header = super().frombuf(buf, encoding, errors)
            count += 1
            if count > MEMBERS:
                raise _unsafe(archive, f"more than {MEMBERS:,} members")
            if header.type in AHEAD:
                total += header.size
                if header.size > LONG or total > ALL_LONG:
                    raise _unsafe(archive, f"headers of more than {LONG:,} bytes")
            elif header.type == tarfile.GNUTYPE_SPARSE:
                raise _unsafe(archive, SPARSE)
            return header

        def _proc_gnusparse_10(self, *_: object) -> None:  # a newer form that only tarfile sees
            raise _unsafe(archive, SPARSE)

    return Header


def _checked(name: str, archive: Path) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or set(name) & {"\\", "\0"}:
        raise _unsafe(archive, f"member {_told(name)} is no path inside a folder")
    if max(len(part.encode(errors="surrogateescape")) for part in path.parts) > NAME:
        raise _unsafe(archive, f"member {_told(name)} has a name of more than {NAME} bytes")
    return path.as_posix()


def _told(name: str) -> str:
    return repr(name if len(name) <= NAME else f"{name[:40]}…{name[-40:]}")


def _unsafe(archive: Path | str, what: str) -> UserError:
    return UserError(f"unsafe archive: {what}", where=archive, mend="do not use it; tell its owner")
