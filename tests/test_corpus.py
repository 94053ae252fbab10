"""Corpora: read in blocks as a plain reader reads them, stored, found again, gone on with."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uniconv_bench import appended, blocks, corpus, lookup
from uniconv_bench.blocks import Mark, PassageFiles, jsonl_passages, tsv_passages
from uniconv_bench.conversation import Passage
from uniconv_bench.corpus import store
from uniconv_bench.errors import UserError
from uniconv_bench.files import canonical_json
from uniconv_bench.passages import ArrowCorpus, shards_of

SIGNS = [
    '"',
    '""',
    "\t",
    "\n",
    "\r\n",
    " ",
    "'",
    ",",
    "\\",
    "a",
    "b c",
    "é",
    "東京",
    "\x7f",
    "\x01",
]


def rows(count: int, seed: int = 1) -> list[Passage]:
    """Passages of every sign that a file may hold, among plain ones."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        signs = SIGNS if number % 3 == 0 else ["word", " "]
        text = "".join(draw.choices(signs, k=draw.randrange(12)))
        title = "".join(draw.choices(signs, k=draw.randrange(4)))
        found.append(Passage(f"p {number}" if number % 4 else f"é{number}", text, title))
    return found


def write_tsv(path: Path, passages: list[Passage], end: str = "\n") -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator=end)
        writer.writerow(["id", "text", "title"])
        writer.writerows([p.passage_id, p.text, p.title] for p in passages)
    return path


def write_jsonl(path: Path, passages: list[Passage], end: str = "\n") -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        for number, p in enumerate(passages):
            row = {"id": p.passage_id, "contents": p.text, "aid": number, "t": p.title}
            stream.write(json.dumps(row, ensure_ascii=bool(number % 2)) + end)
    return path


def read_tsv(path: Path) -> PassageFiles:
    return tsv_passages(path)


def read_jsonl(path: Path) -> PassageFiles:
    return jsonl_passages(path, text="contents", title="t")


LINE = '{"id": "x", "contents": "y", "t": ""}'
FORMS = {"tsv": (write_tsv, read_tsv), "jsonl": (write_jsonl, read_jsonl)}


@pytest.fixture
def in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test whose file is not decoded in bulk from end to end."""

    def strictly(self: Any, *_: Any) -> Any:
        raise AssertionError("read one by one")

    monkeypatch.setattr(PassageFiles, "_strictly", strictly)


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("size", [700, 4096, 1 << 19])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["c.tsv", "c.tsv.gz", "c.jsonl", "c.jsonl.gz"])
def test_blocks_read_what_was_written(
    name: str, end: str, size: int, tmp_path: Path, in_bulk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", size)
    write, read = FORMS[name.split(".")[1]]
    passages = rows(500)
    found = read(write(tmp_path / name, passages, end))
    assert list(found) == passages
    assert (len(list(found.blocks())) > 1) == (size < 5000)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_may_end_without_a_line_end(form: str, tmp_path: Path, in_bulk: None) -> None:
    write, read = FORMS[form]
    path = write(tmp_path / "c", rows(10))
    path.write_bytes(path.read_bytes().rstrip())
    assert len(list(read(path))) == 10


@pytest.mark.parametrize("form", FORMS)
def test_records_longer_than_a_block(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 50)
    write, read = FORMS[form]
    passages = [Passage(str(n), f'{n} "lines"\n' * n * 3, "t") for n in range(1, 30)]
    assert list(read(write(tmp_path / "c", passages))) == passages


def test_odd_and_lawful_tsv_is_read_as_csv_readers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes within unquoted columns: two columns of a row hold one each, or one holds one."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
    odd = 'o1\tan inch is 1" long\tt\no2\ta"b\tc"d\no3\t"x""y\n"\tt\n'
    path = write_tsv(tmp_path / "c", rows(40))
    path.write_text(path.read_text() + odd + odd.replace("o", "q"), newline="")
    with path.open(encoding="utf-8", newline="") as stream:
        expected = [(r[0], r[1], r[2]) for r in csv.reader(stream, delimiter="\t")][1:]
    assert [(p.passage_id, p.text, p.title) for p in read_tsv(path)] == expected
    assert ("o2", 'a"b', 'c"d') in expected


def test_a_stray_quote_does_not_turn_quoting_inside_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it counted as an opening one, the line end in a title would end its row."""
    monkeypatch.setattr(blocks, "BLOCK", 64)
    path = tmp_path / "c"
    rows = "".join(f'{n}\tends"\t"\nx"\n' for n in range(40))
    path.write_text(f"id\ttext\ttitle\n{rows}", newline="")
    assert list(read_tsv(path)) == [Passage(str(n), 'ends"', "\nx") for n in range(40)]


def test_odd_and_lawful_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "c"
    lines = ["", '{"id": "1", "contents": "text", "t": "id", "x": NaN}', "  ", '{"contents": "b",']
    lines[-1] += '"id": "2", "t": "\\u0000"}'
    path.write_text("\n".join([*lines, "", ""]))
    assert list(read_jsonl(path)) == [Passage("1", "text", "id"), Passage("2", "b", "\0")]


def test_two_objects_on_one_line_are_no_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "c"
    one = '{"id": "1", "contents": "a", "t": ""}'
    path.write_text(f"{one},{one}\n{one}\n")
    with pytest.raises(UserError, match="line 1"):
        list(read_jsonl(path))


@pytest.mark.parametrize("value", ["7", "null", '["x"]'])
def test_a_field_of_another_type_is_no_text(value: str, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(f'{LINE}\n{{"id": "x", "contents": {value}, "t": ""}}\n')
    with pytest.raises(UserError, match="field contents is .*, not str.*line 2"):
        list(read_jsonl(tmp_path / "c"))


def test_titles_are_joined_and_absent_titles_are_empty(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "c", [Passage("1", "a [SEP] b", "A [SEP] B [SEP] C")])
    assert list(tsv_passages(path, separator=" [SEP] ")) == [Passage("1", "a [SEP] b", "A B C")]
    path = write_jsonl(tmp_path / "d", [Passage("1", "a", "A")])
    assert list(jsonl_passages(path, text="contents")) == [Passage("1", "a")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("form", "fault", "told"),
    [
        ("tsv", b"x\ty\n", "2 columns instead of 3"),
        ("tsv", b"\n", "0 columns instead of 3"),
        ("tsv", b'x\t"y"z\tt\n', "not valid TSV"),
        ("tsv", b'x\t"y\tt\n', "not valid TSV|NUL"),
        ("tsv", b"x\ty\rz\tt\n", "not valid TSV"),
        ("tsv", b"x\ty\tt\rz\ty\tt\n", "not valid TSV"),
        ("tsv", b"x\t\xff\tt\n", "not valid UTF-8"),
        ("tsv", b"x\ta\0b\tt\n", "NUL"),
        ("tsv", b"\ty\tt\n", "field id is empty"),
        ("tsv", b'"a\tb"\ty\tt\n', r"field id is 'a\\tb'"),
        ("jsonl", b'{"id": "x", "cont\n', "not valid JSON"),
        ("jsonl", b'{"id": "x", "t": "t"}\n', "field contents is missing"),
        ("jsonl", b'{"id": 7, "contents": "y", "t": ""}\n', "field id is int, not str"),
        ("jsonl", b'{"id": "x", "contents": null, "t": ""}\n', "field contents is NoneType"),
        ("jsonl", b'["x", "y"]\n', "not an object but list"),
        ("jsonl", b'{"id": "x", "contents": "\xff", "t": ""}\n', "not valid UTF-8"),
        ("jsonl", b'{"id": "x", "contents": "\\ud800", "t": ""}\n', "half of a character"),
        ("jsonl", b'{"id": "a\\nb", "contents": "y", "t": ""}\n', r"field id is 'a\\nb'"),
        ("jsonl", b'{"id": "\\u0000", "contents": "y", "t": ""}\n', r"field id is '\\x00'"),
    ],
)
def test_a_fault_is_named_with_its_line(
    form: str,
    fault: bytes,
    told: str,
    packed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    write, read = FORMS[form]
    plain = [
        Passage(str(n), "word " * (n % 20), "a\nb" if form == "tsv" else "") for n in range(90)
    ]
    path = write(tmp_path / "plain", plain)
    before, after = path.read_bytes(), path.read_bytes().partition(b"\n")[2]
    path = tmp_path / ("c.gz" if packed else "c")
    path.write_bytes(gzip.compress(before + fault + after) if packed else before + fault + after)
    with pytest.raises(UserError) as caught:
        store(read(path), tmp_path / "out", "raw")
    message = str(caught.value)
    assert re.search(told, message) and "; " in message, message
    if fault != b'x\t"y\tt\n':  # opens a quote that some later line closes
        line = before.count(b"\n") + fault.count(b"\n")
        assert f"{path}, line {line})" in message, message


@pytest.mark.parametrize("form", FORMS)
def test_a_byte_order_mark_is_refused(form: str, tmp_path: Path) -> None:
    write, read = FORMS[form]
    path = write(tmp_path / "c", rows(3))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(UserError, match="byte order mark.*line 1"):
        list(read(path))


@pytest.mark.parametrize("content", ["", "id\ttext\n", "1\tword\ttitle\n"])
def test_a_tsv_file_needs_its_header(content: str, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(content)
    with pytest.raises(UserError, match="not the header id, text, title"):
        list(read_tsv(tmp_path / "c"))


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "c.gz", rows(300))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="truncated or damaged archive"):
        list(read_tsv(path))


@pytest.mark.parametrize("name", ["c.tsv", "c.jsonl.gz"])
def test_every_mark_goes_on_with_the_same_blocks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 900)
    write, read = FORMS[name.split(".")[1]]
    paths = [write(tmp_path / f"{n}.{name}", rows(100, seed=n)) for n in range(3)]
    files = PassageFiles(paths, read(paths[0])._form)
    whole = list(files.blocks())
    assert {block.end.file for block in whole if block.end} == {0, 1, 2}
    for number, block in enumerate(whole):
        assert block.end is not None
        rest = list(files.blocks(block.end))
        assert [b.columns[:3] for b in rest] == [b.columns[:3] for b in whole[number + 1 :]]
        assert [b.end for b in rest] == [b.end for b in whole[number + 1 :]]


# ------------------------------------------------------------------------------------- storing


def stored(passages: Any, folder: Path) -> ArrowCorpus:
    return ArrowCorpus(folder, *store(passages, folder, "raw"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_digest_is_that_of_canonical_json() -> None:
    """Of every character there is, and of what JSON writers treat as they please."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(points[i : i + 997]) for i in range(0, len(points), 997)]
    texts += [*points[:0x180], "", "\u2028\u2029", "</script>", "\x7f\x80", "1e5", "\\u0041", "😀"]
    lines = corpus._lines(texts, texts[::-1], texts[1:] + [""])
    expected = zip(texts, texts[::-1], [*texts[1:], ""], strict=True)
    assert lines == b"".join(f"{canonical_json(list(row))}\n".encode() for row in expected)


def test_a_corpus_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BATCH", 7)
    monkeypatch.setattr(corpus, "SHARD", 30)
    passages = rows(100)
    found = stored(iter(passages), tmp_path / "out")
    names = sorted(contents(tmp_path / "out"))
    shards = [f"0000{n}.arrow" for n in range(3)]
    assert names == [*shards, "ids.hashes", "ids.rows", corpus.PROGRESS]
    assert list(found) == passages and len(found) == 100
    text = "".join(f"{canonical_json([p.passage_id, p.title, p.text])}\n" for p in passages)
    assert found.digest == hashlib.sha256(text.encode()).hexdigest()
    assert [found[p.passage_id] for p in passages] == passages
    with pytest.raises(KeyError):
        found["p 4"]


def test_ids_are_a_sequence_that_reads_no_text(tmp_path: Path) -> None:
    passages = rows(50)
    found = stored(passages, tmp_path / "out")
    ids = found.ids
    assert list(ids) == [p.passage_id for p in passages] and len(ids) == 50
    assert (ids[0], ids[-1], ids[3:5]) == ("é0", "p 49", ["p 3", "é4"])
    with pytest.raises(IndexError):
        ids[50]
    for texts in ("title", "text"):
        assert found._table.column(texts) is not None
    alone = lookup.PassageIds(tmp_path / "out", found._table.select(["id"]).column(0))
    assert [alone.row(name) for name in ids] == list(range(50))
    assert "é4" in alone and "é5" not in alone and "\ud800" not in alone and 3 not in alone


@pytest.mark.parametrize("spread", [1, 5, 1 << 62])
def test_equal_hashes_are_told_apart(
    spread: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few hashes, or those of one range, and with ranges of a few ids."""
    import numpy as np

    def hashes(ids: list[str]) -> Any:
        return np.array([int(name[1:]) % 3 * spread if name[1:].isdigit() else 0 for name in ids])

    monkeypatch.setattr(lookup, "RANGE", 7)
    monkeypatch.setattr(lookup, "_hashes", lambda ids: hashes(ids).astype(np.uint64))
    passages = [Passage(f"x{n}", "t") for n in range(40)]
    found = stored(passages, tmp_path / "out")
    assert [found[p.passage_id] for p in passages] == passages
    assert "x40" not in found.ids and "y1" not in found.ids
    with pytest.raises(UserError, match=r"'x7' occurs twice \(raw, passage 41 .* passage 8\)"):
        store([*passages, Passage("x7", "other")], tmp_path / "again", "raw")


def test_the_lookup_is_sorted_over_all_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setattr(lookup, "RANGE", 64)
    found = stored(rows(1000), tmp_path / "out")
    hashes = np.fromfile(tmp_path / "out" / lookup.HASHES, np.uint64)
    assert len(hashes) == 1000 and (hashes[1:] > hashes[:-1]).all()
    assert [found.ids.row(name) for name in found.ids] == list(range(1000))
    monkeypatch.setattr(lookup, "RANGE", 1 << 22)
    store(rows(1000), tmp_path / "at once", "raw")
    assert contents(tmp_path / "at once") == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("passage", "told"),
    [
        (Passage("x", None), "field text is NoneType, not str"),  # type: ignore[arg-type]
        (Passage(3, "t"), "field id is int, not str"),  # type: ignore[arg-type]
        (Passage("x", "t", "\udfff"), "field title holds half of a surrogate pair"),
        (Passage(" ", "t"), "field id is empty"),
        (Passage("a\rb", "t"), r"field id is 'a\\rb'"),
        (Passage("p 7", "t"), "field id 'p 7' occurs twice"),
    ],
)
def test_a_wrong_passage_is_counted_out(
    passage: Passage, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BATCH", 4)
    with pytest.raises(UserError, match=rf"{told}.*\(raw, passage 10 of the corpus.*; "):
        store([*rows(9), passage, *rows(30)[20:]], tmp_path / "out", "raw")


def test_ids_that_are_there_are_not_missing(tmp_path: Path) -> None:
    missing = {"p 7", "é8", "p 8", "other"}
    store(rows(20), tmp_path / "out", "raw", missing)
    assert missing == {"p 8", "other"}


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no passages.*raw"):
        store([], tmp_path / "out", "raw")


# ------------------------------------------------------------------------------- going on again


class Stop(Exception):
    """Stands for what ends a process."""


def stop_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    note, written = appended.write_texts, 0

    def stopping(*args: Any) -> None:
        nonlocal written
        note(*args)
        written += 1
        if written == shards:
            raise Stop

    monkeypatch.setattr(corpus, "write_texts", stopping)


def half_stored(
    count: int, form: str, after: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, tuple[int, str]]:
    """Passages, stored in `whole`, and in `stopped` until some shards were closed; the result."""
    passages: Any = rows(count)
    if form in FORMS:
        write, read = FORMS[form]
        passages = read(write(folder / "c", rows(count)))
    result = store(passages, folder / "whole", "raw")
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        with pytest.raises(Stop):
            store(passages, folder / "stopped", "raw")
    return passages, result


@pytest.mark.parametrize("form", [*FORMS, "plain"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stopped_store_goes_on(
    form: str, shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 512)
    monkeypatch.setattr(corpus, "BATCH", 16)
    monkeypatch.setattr(corpus, "SHARD", 64)
    passages, result = half_stored(600, form, shards, tmp_path, monkeypatch)
    out = tmp_path / "stopped"
    (out / f"0000{shards}.arrow.partial").write_bytes(b"half of a shard")
    (out / "00099.arrow").write_bytes(b"closed, but not noted")
    begun: list[Mark] = []
    blocks_from = PassageFiles.blocks

    def noted(self: PassageFiles, start: Mark) -> Iterator[blocks.PassageBlock]:
        begun.append(start)
        return blocks_from(self, start)

    monkeypatch.setattr(PassageFiles, "blocks", noted)
    kept = out / "00000.arrow"
    stamp = kept.stat().st_mtime_ns
    assert store(passages, out, "raw") == result
    assert contents(out) == contents(tmp_path / "whole")
    assert kept.stat().st_mtime_ns == stamp
    if form in FORMS:
        assert [mark.offset > 1000 * shards for mark in begun] == [True]


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_whose_maker_was_stopped_behind_it_is_not_stored_again(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 512)
    monkeypatch.setattr(corpus, "BATCH", 2)
    monkeypatch.setattr(corpus, "SHARD", 4)
    passages, result = half_stored(40, form, 2, tmp_path, monkeypatch)
    whole = tmp_path / "whole"
    before = {path: path.stat().st_mtime_ns for path in shards_of(whole)}
    assert len(before) > 1
    assert store(passages, whole, "raw") == result
    assert {path: path.stat().st_mtime_ns for path in shards_of(whole)} == before


@pytest.mark.parametrize("fault", ["changed", "cut", "gone"])
def test_a_damaged_shard_is_written_anew(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BATCH", 16)
    monkeypatch.setattr(corpus, "SHARD", 64)
    passages, result = half_stored(300, "plain", 3, tmp_path, monkeypatch)
    shard = tmp_path / "stopped" / "00001.arrow"
    content = shard.read_bytes()
    if fault == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content[:500] if fault == "cut" else content.replace(b"word", b"WORD"))
    assert store(passages, tmp_path / "stopped", "raw") == result
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("form", ["plain", "jsonl"])
def test_no_bit_of_what_is_noted_of_shards_loses_a_passage(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 512)
    monkeypatch.setattr(corpus, "BATCH", 2)
    monkeypatch.setattr(corpus, "SHARD", 4)
    passages, result = half_stored(40, form, 2, tmp_path, monkeypatch)
    noted = (tmp_path / "stopped" / corpus.PROGRESS).read_bytes()
    for place in range(0, len(noted), 3):
        out = tmp_path / f"out{place}"
        shutil.copytree(tmp_path / "stopped", out)
        rotten = bytearray(noted)
        rotten[place] ^= 1 << place % 7
        (out / corpus.PROGRESS).write_bytes(rotten)
        assert store(passages, out, "raw") == result, place
        assert contents(out) == contents(tmp_path / "whole")


def test_a_rotten_shard_is_not_given_to_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which trusts the offsets that it finds there."""
    monkeypatch.setattr(corpus, "BATCH", 2)
    monkeypatch.setattr(corpus, "SHARD", 4)
    passages, result = half_stored(10, "plain", 1, tmp_path, monkeypatch)
    shard = (tmp_path / "stopped" / "00000.arrow").read_bytes()
    for place in range(0, len(shard), 40):
        out = tmp_path / f"out{place}"
        shutil.copytree(tmp_path / "stopped", out)
        rotten = bytearray(shard)
        rotten[place + 3] ^= 1 << 7
        (out / "00000.arrow").write_bytes(rotten)
        assert store(passages, out, "raw") == result
        assert contents(out) == contents(tmp_path / "whole")


RAW = Path(__file__).parent / "data" / "raw" / "topiocqa"
KILLED = """
import os, signal, sys
from pathlib import Path
from uniconv_bench import blocks, corpus
from uniconv_bench.prepare import prepare
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card
blocks.BLOCK, corpus.BATCH, corpus.SHARD = 2048, 16, 100
note = corpus.write_texts
def kill(path, shards):
    note(path, shards)
    if len(shards) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
corpus.write_texts = kill
card, path = task_card("topiocqa")
small = card.model_copy(update={"size": None})
prepare(small, path, "full", Path(sys.argv[1]), progress=Silent())
"""


def prepared(raw: Path, cache: Path, kill_after: int = 0) -> int:
    command = [sys.executable, "-c", KILLED, str(raw), str(kill_after)]
    return subprocess.run(command, env={**os.environ, "UNICONV_BENCH_CACHE": str(cache)}).returncode


def artefact(cache: Path) -> dict[str, bytes]:
    (folder,) = (p for p in (cache / "tasks").iterdir() if p.suffix not in (".partial", ".lock"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_prepare_goes_on_after_a_kill(tmp_path: Path) -> None:
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    shutil.copytree(RAW, raw)
    tsv = raw / "full_wiki_segments.tsv"
    more = [Passage(f"{n}", "word " * (n % 30), "A [SEP] B") for n in range(100, 700)]
    write_tsv(tmp_path / "more", more)
    tsv.write_bytes(tsv.read_bytes() + (tmp_path / "more").read_bytes().partition(b"\n")[2])
    assert prepared(raw, tmp_path / "undisturbed") == 0
    assert prepared(raw, cache, kill_after=3) == -signal.SIGKILL
    (partial,) = (cache / "tasks").glob("*.partial")
    left = {p.name: p.stat().st_mtime_ns for p in (partial / "passages").glob("*.arrow")}
    assert sorted(left) == ["00000.arrow", "00001.arrow", "00002.arrow"]
    assert prepared(raw, cache) == 0
    assert artefact(cache) == artefact(tmp_path / "undisturbed")
    (folder,) = (p for p in (cache / "tasks").iterdir() if p.is_dir())
    kept = {name: (folder / "passages" / name).stat().st_mtime_ns for name in left}
    assert kept == left


def test_what_was_left_of_other_raw_files_is_not_used(tmp_path: Path) -> None:
    raw, cache = tmp_path / "raw", tmp_path / "cache"
    shutil.copytree(RAW, raw)
    tsv = raw / "full_wiki_segments.tsv"
    lines = "".join(f"{n}\tword\tA\n" for n in range(100, 500))
    tsv.write_text(tsv.read_text() + lines)
    assert prepared(raw, cache, kill_after=2) == -signal.SIGKILL
    tsv.write_text(tsv.read_text().replace("\tword\t", "\tWORD\t"))
    assert prepared(raw, cache) == 0
    assert prepared(raw, tmp_path / "undisturbed") == 0
    assert artefact(cache) == artefact(tmp_path / "undisturbed")
