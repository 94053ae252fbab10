"""Archives: what is in them comes out whole, and nothing lands outside the folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from uniconv_bench import unpack as module
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.unpack import Kind, unpack

FILES = {"a.txt": b"one\n" * 500, "deep/er/b.txt": b"two", "empty": b""}


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as box:
        box.mkdir("deep")
        for name, body in files.items():
            box.writestr(name, body)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], *odd: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as pack:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        pack.addfile(folder)
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            pack.addfile(info, io.BytesIO(body))
        for info in odd:
            pack.addfile(info)
    return out.getvalue()


def odd(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def opened(archive: bytes, kind: Kind, tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(archive)
    folder = tmp_path / "out"
    found = unpack(path, kind, folder, "file.txt", Silent())
    assert found == {
        p.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "bytes": p.stat().st_size,
        }
        for p in folder.rglob("*")
        if p.is_file()
    }
    return folder


@pytest.mark.parametrize(("pack", "kind"), [(zipped, "zip"), (tarred, "tar.gz")])
def test_members_come_out_whole(
    pack: Callable[[Mapping[str, bytes]], bytes], kind: Kind, tmp_path: Path
) -> None:
    folder = opened(pack(FILES), kind, tmp_path)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert sum(p.is_file() for p in folder.rglob("*")) == len(FILES)


def test_gzip_is_one_file(tmp_path: Path) -> None:
    body = FILES["a.txt"]
    two = gzip.compress(body) + gzip.compress(b"end")
    assert (opened(two, "gzip", tmp_path) / "file.txt").read_bytes() == body + b"end"


def link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as box:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        box.writestr(info, "/etc/passwd")
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as box, pytest.warns(UserWarning):
        box.writestr("a", "1")
        box.writestr("a", "2")
    return out.getvalue()


def marked(flags: int, method: int) -> bytes:
    """A zip whose only member claims to be encrypted, or packed in some other way."""
    plain = bytearray(zipped({"a": b"text"}))
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = bytes(plain).rindex(sign)
        struct.pack_into("<HH", plain, start + place, flags, method)
    return bytes(plain)


def headed(kind: bytes, *bodies: bytes) -> bytes:
    """A tar file whose only member has such headers before it."""
    out = io.BytesIO()
    for body in bodies:
        info = odd("head", kind)
        info.size = len(body)
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512))
    member = tarfile.TarInfo("a")
    member.size = 2048
    out.write(member.tobuf(tarfile.USTAR_FORMAT) + b"0\n" * 1024 + bytes(1024))
    return gzip.compress(out.getvalue())


def record(key: str, value: str) -> bytes:
    """Of a pax header, with its own length before it."""
    rest = f" {key}={value}\n"
    return f"{len(rest) + 2}{rest}".encode()


SPARSE = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0")


def packed(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as box:
        box.writestr("a", "text")
    return out.getvalue()


@pytest.mark.parametrize(
    ("archive", "kind", "told"),
    [
        (headed(tarfile.XHDTYPE, b"0" * 20_000), "tar.gz", "headers of more than 8,192 bytes"),
        (headed(tarfile.XGLTYPE, b"0" * 20_000), "tar.gz", "headers of more than 8,192 bytes"),
        (headed(tarfile.GNUTYPE_LONGNAME, b"a" * 20_000), "tar.gz", "headers of more than"),
        (headed(tarfile.GNUTYPE_LONGLINK, b"a" * 20_000), "tar.gz", "headers of more than"),
        (headed(tarfile.GNUTYPE_LONGNAME, b"a" * 300), "tar.gz", "a name of more than 255 bytes"),
        (headed(tarfile.XHDTYPE, SPARSE), "tar.gz", "holds a sparse file"),
        (tarred({}, odd("hole", tarfile.GNUTYPE_SPARSE)), "tar.gz", "holds a sparse file"),
        (zipped({"a" * 300: b"x"}), "zip", "a name of more than 255 bytes"),
        (zipped({"a/../../evil": b"x"}), "zip", "is no path inside"),
        (zipped({"..\\evil": b"x"}), "zip", "is no path inside"),
        (link(), "zip", "member 'link' is a link"),
        (marked(1, 8), "zip", "member 'a' is encrypted"),
        (tarred({"../evil": b"x"}), "tar.gz", "is no path inside"),
        (tarred({}, odd("l", tarfile.SYMTYPE, "/etc")), "tar.gz", "'l' is a link or a device"),
        (tarred({}, odd("l", tarfile.LNKTYPE, "a")), "tar.gz", "'l' is a link or a device"),
        (tarred({}, odd("d", tarfile.CHRTYPE)), "tar.gz", "'d' is a link or a device"),
        (tarred({"a": b"1", "./a": b"2"}), "tar.gz", "holds 'a' twice"),
        (gzip.compress(bytes(1 << 25)), "gzip", "unpacks to more than 16,777,216 bytes"),
        (zipped({"a": bytes(1 << 25)}), "zip", "unpacks to more than"),
    ],
)
def test_unsafe_archives(archive: bytes, kind: Kind, told: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    line = refused(archive, kind, inside)
    assert line.startswith("unsafe archive: ") and told in line and len(line) < 600
    assert {p.name for p in tmp_path.iterdir()} == {"inside"}


@pytest.mark.parametrize(("pack", "kind"), [(zipped, "zip"), (tarred, "tar.gz")])
def test_members_are_counted(
    pack: Callable[[Mapping[str, bytes]], bytes],
    kind: Kind,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MEMBERS", 3)
    assert "more than 3 members" in refused(pack(FILES), kind, tmp_path)


def test_all_headers_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_LONG", 4000)
    archive = headed(tarfile.XHDTYPE, *[record("comment", "x" * 60)] * 60)
    assert "headers of more than" in refused(archive, "tar.gz", tmp_path)


def test_headers_before_headers_without_end(tmp_path: Path) -> None:
    archive = headed(tarfile.XHDTYPE, *[b""] * 2000)
    assert "truncated or damaged" in refused(archive, "tar.gz", tmp_path)


@pytest.mark.parametrize(("pack", "kind"), [(zipped, "zip"), (tarred, "tar.gz")])
def test_absolute_paths(
    pack: Callable[[Mapping[str, bytes]], bytes], kind: Kind, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    assert f"member '{evil}' is no path inside" in refused(pack({str(evil): b"x"}), kind, tmp_path)
    assert not evil.exists()


def refused(archive: bytes, kind: Kind, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(archive, kind, tmp_path)
    line = str(caught.value)
    assert "\n" not in line and str(tmp_path / "archive") in line
    return line


def test_a_name_twice_in_a_zip(tmp_path: Path) -> None:
    assert "holds 'a' twice" in refused(twice(), "zip", tmp_path)


@pytest.mark.parametrize(
    "archive", [marked(0, 9), packed(zipfile.ZIP_LZMA), packed(zipfile.ZIP_BZIP2)]
)
def test_packings_without_a_bound_of_their_own(archive: bytes, tmp_path: Path) -> None:
    line = refused(archive, "zip", tmp_path)
    assert re.search("cannot unpack: .*; unpack it by hand", line)


@pytest.mark.parametrize("kind", ["gzip", "zip", "tar.gz"])
@pytest.mark.parametrize("cut", [1, 9, 0.5, 0.97])
def test_truncated_archives(kind: Kind, cut: float, tmp_path: Path) -> None:
    """Wherever it ends too early, the last bytes (sums and lengths) included."""
    text = b" ".join(str(n).encode() for n in range(9_000))
    files = {"a": text, "b": text[::-1]}
    whole = {"gzip": gzip.compress(text), "zip": zipped(files), "tar.gz": tarred(files)}[kind]
    end = len(whole) - int(cut) if cut >= 1 else int(len(whole) * cut)
    assert "truncated or damaged" in refused(whole[:end], kind, tmp_path)


@pytest.mark.parametrize("kind", ["gzip", "zip", "tar.gz"])
def test_what_is_no_archive(kind: Kind, tmp_path: Path) -> None:
    assert "truncated or damaged" in refused(b"<p>not found</p>" * 99, kind, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_changed_byte_is_found(kind: Kind, tmp_path: Path) -> None:
    body = module.__doc__.encode() * 50 if module.__doc__ else b""
    whole = bytearray(zipped({"a": body}) if kind == "zip" else tarred({"a": body}))
    whole[len(whole) // 3] ^= 0xFF
    assert "truncated or damaged" in refused(bytes(whole), kind, tmp_path)


@pytest.mark.parametrize(("pack", "kind"), [(zipped, "zip"), (tarred, "tar.gz")])
def test_an_archive_without_a_file(
    pack: Callable[[Mapping[str, bytes]], bytes], kind: Kind, tmp_path: Path
) -> None:
    assert "an archive without a file" in refused(pack({}), kind, tmp_path)
