"""What broken official files meet: one line with place and mend, exit code 2, nothing half done.

A wrong checksum, which only a download can have, is in test_fetch.py and test_download.py.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from reading import copied, everything

from uniconv_bench import cli

Change = Callable[[bytes], bytes]


def put(old: str, new: str | bytes) -> Change:
    """Replaces what must be there, once."""
    there, instead = old.encode(), new if isinstance(new, bytes) else new.encode()

    def change(content: bytes) -> bytes:
        assert there in content
        return content.replace(there, instead, 1)

    return change


def end(more: str) -> Change:
    return lambda content: content + more.encode()


def before(more: bytes) -> Change:
    return lambda content: more + content


QRECC, WEB = "scai-qrecc21-test-turns.json", "wayback/part.jsonl"
TOPIOCQA, WIKI = "topiocqa_valid.jsonl", "full_wiki_segments.tsv"
ORQUAC, BLOCKS = "preprocessed/test.txt", "all_blocks.txt"
DIALOGUES, KNOWN = "test.json", "text_0420_processed/wiki_00"
CASES: list[tuple[str, str, str, Change, str]] = [
    ("missing field", "qrecc", QRECC, put('"Question"', '"question"'), "field Question is missing"),
    ("missing field", "qrecc", WEB, put('"contents"', '"text"'), "field contents is mis.*line 1"),
    (
        "missing field",
        "topiocqa",
        TOPIOCQA,
        put('"Topic":', '"topic":'),
        "Topic is mis.*line 1",
    ),
    ("missing column", "topiocqa", WIKI, put("\tMossy Ford [SEP] Bridge", ""), "2 columns"),
    ("other header", "topiocqa", WIKI, put("id\ttext", "pid\ttext"), "not the header id, text"),
    (
        "missing field",
        "orquac",
        ORQUAC,
        put('"rewrite"', '"r"'),
        "field rewrite is missing.*line 1",
    ),
    ("missing field", "inscit", DIALOGUES, put('"labels"', '"label"'), "field labels is missing"),
    (
        "wrong type",
        "qrecc",
        QRECC,
        put('"Turn_no": 1', '"Turn_no": "1"'),
        "Turn_no is str",
    ),
    ("wrong type", "topiocqa", TOPIOCQA, put('"Context": []', '"Context": ""'), "Context is str"),
    ("wrong type", "orquac", BLOCKS, put('"id": "31@0"', '"id": 31'), "field id is int, not str"),
    ("wrong type", "inscit", DIALOGUES, put('"turns": [', '"turns": 1, "x": ['), "turns is int"),
    (
        "duplicate turn",
        "qrecc",
        QRECC,
        put('"Turn_no": 2', '"Turn_no": 1'),
        "has already",
    ),
    ("duplicate turn", "topiocqa", TOPIOCQA, put('"Turn_no": 2', '"Turn_no": 1'), "is 1, not 2"),
    ("duplicate field", "qrecc", QRECC, put('"Turn_no": 1', '"Turn_no": 1, "Turn_no": 1'), "twice"),
    ("duplicate passage", "topiocqa", WIKI, end("7\tagain\tA\n"), "'7' occurs twice"),
    ("duplicate passage", "orquac", BLOCKS, end('{"id":"31@0","text":"","title":""}\n'), "twice"),
    ("empty id", "topiocqa", TOPIOCQA, put('"id": "wiki:7"', '"id": "wiki:"'), "an empty id"),
    ("empty id", "topiocqa", WIKI, end("\tnameless\tA\n"), "field id is empty.*line 7"),
    ("empty id", "orquac", BLOCKS, put('"id": "31@0"', '"id": " "'), "field id is empty.*line 1"),
    ("empty id", "inscit", DIALOGUES, put('"fords_level2_dial9"', '""'), "an empty name"),
    ("invalid UTF-8", "qrecc", QRECC, put("Una", b"Un\xe9"), "not valid UTF-8.*line "),
    ("invalid UTF-8", "topiocqa", WIKI, put("Una", b"Un\xe9"), "not valid UTF-8.*line 3"),
    ("invalid UTF-8", "orquac", BLOCKS, put("Una", b"Un\xe9"), "not valid UTF-8.*line 2"),
    ("byte order mark", "qrecc", QRECC, before(b"\xef\xbb\xbf"), "byte order mark"),
    ("byte order mark", "topiocqa", TOPIOCQA, before(b"\xef\xbb\xbf"), "byte order mark.*line 1"),
    ("byte order mark", "topiocqa", WIKI, before(b"\xef\xbb\xbf"), "byte order mark.*line 1"),
    ("NUL", "qrecc", QRECC, put("Una", b"U\0a"), "NUL byte"),
    ("NUL", "topiocqa", WIKI, put("Una", b"U\0a"), "NUL byte.*line 3"),
    ("NUL", "orquac", BLOCKS, put("Una", b"U\0a"), "NUL byte.*line 2"),
    (
        "id with a tab",
        "qrecc",
        WEB,
        put('"id": "http', '"id": "a\\thttp'),
        "line 1.*holds no tab",
    ),
    ("id with a tab", "qrecc", QRECC, put('"https://fords', '"a\\tb'), "an id has no tab"),
    ("id with a tab", "topiocqa", WIKI, end('"1\t2"\ttorn\tA\n'), "line 7.*holds no tab"),
    ("id with a tab", "inscit", KNOWN, put("Mossy Ford:", "Mossy\\tFord:"), "no tab"),
    ("absent passage", "qrecc", QRECC, put("kell_p2", "kell_p9"), "which the corpus lacks"),
    ("absent passage", "topiocqa", TOPIOCQA, put("wiki:7", "wiki:70"), "'70', which the corpus"),
    ("absent passage", "orquac", "qrels.txt", put('"31@1"', '"31@7"'), "'31@7', which the corpus"),
    ("gap in turns", "qrecc", QRECC, put('"Turn_no": 2', '"Turn_no": 4'), "has no turn 2"),
    ("gap in turns", "topiocqa", TOPIOCQA, put('"Turn_no": 2', '"Turn_no": 3'), "is 3, not 2"),
    ("gap in turns", "orquac", ORQUAC, put("C_a_1_q#0", "C_a_1_q#8"), "q#8 stands where q#0 is"),
    ("cut off", "qrecc", QRECC, lambda content: content[:-40], "not valid JSON"),
    ("cut off", "orquac", BLOCKS, lambda content: content[:-9], "not valid JSON"),
]


def prepare(task: str, raw: Path) -> int:
    given = ("--profile", "full", "--allow-part", "--data-dir", str(raw))
    return cli.main(("prepare", "--task", task, *given))


@pytest.mark.parametrize(
    ("task", "file", "change", "told"),
    [case[1:] for case in CASES],
    ids=[f"{fault}, {file}" for fault, _, file, _, _ in CASES],
)
def test_it_is_refused(
    task: str,
    file: str,
    change: Change,
    told: str,
    tmp_path: Path,
    private_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = copied(task, tmp_path)
    path = raw / file
    path.write_bytes(change(path.read_bytes()))
    refused(task, raw, told, private_cache, capsys)


@pytest.mark.parametrize(
    ("task", "file"),
    [("qrecc", QRECC), ("topiocqa", TOPIOCQA), ("topiocqa", WIKI), ("orquac", BLOCKS)],
)
def test_a_truncated_archive_is_refused(
    task: str, file: str, tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = copied(task, tmp_path)
    path = raw / file
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()
    refused(task, raw, f"truncated or damaged archive .*{path.name}.gz", private_cache, capsys)


def refused(
    task: str, raw: Path, told: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(task, raw) == 2
    printed = capsys.readouterr()
    (line,) = (text for text in printed.err.splitlines() if text.startswith("error: "))
    assert printed.err.endswith(f"{line}\n") and not printed.out
    assert re.search(told, line), line
    assert str(raw) in line and "; " in line  # the place, and how to mend it
    assert sorted(p.name for p in (cache / "tasks").glob("*")) == []


@pytest.mark.parametrize("task", ["faithdial", "inscit", "orquac", "qrecc", "topiocqa"])
def test_line_ends_of_either_kind_are_read_alike(task: str, tmp_path: Path) -> None:
    """csv writers ended the lines of some official files with CRLF."""
    raw = copied(task, tmp_path)
    for path in (p for p in raw.rglob("*") if p.is_file()):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (turns, passages), (wanted, of_old) = everything(task, raw), everything(task)
    assert turns == wanted
    # Within a quoted text a line end is a sign like any other, and stays what it is.
    assert [replace(p, text=p.text.replace("\r\n", "\n")) for p in passages] == of_old


@pytest.mark.parametrize(
    ("task", "file", "change"),
    [
        ("qrecc", QRECC, put('"Turn_no"', '"Transformer_rewrite": "x", "Turn_no"')),
        ("topiocqa", TOPIOCQA, put('"Turn_no"', '"x": null, "Turn_no"')),
        ("orquac", BLOCKS, put('"title"', '"url": "x", "title"')),
        ("inscit", DIALOGUES, put('"labels"', '"x": [], "labels"')),
    ],
)
def test_fields_that_nobody_reads_are_ignored(
    task: str, file: str, change: Change, tmp_path: Path
) -> None:
    """Releases of these datasets added fields; what is read did not change."""
    raw = copied(task, tmp_path)
    (raw / file).write_bytes(change((raw / file).read_bytes()))
    assert everything(task, raw) == everything(task)
