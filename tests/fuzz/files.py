"""Targets: datasets' raw files, cards, runs, answers, records and submissions."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bundling import CARD, TASKS, reseal
from bundling import files as scored
from fuzz.mutations import Mutator, any_bytes, columns, json_file, json_lines, toml_file
from fuzz.target import Target, of_file
from reading import RAW, everything, unsized
from test_records import make_record, make_score

from uniconv_bench import runs
from uniconv_bench.cards import SubmissionCard, parse_card
from uniconv_bench.claim_cards import read_claims
from uniconv_bench.examination import examine
from uniconv_bench.files import cache_dir, digest_of, read_toml
from uniconv_bench.prepare import prepare
from uniconv_bench.progress import Silent
from uniconv_bench.records import read_record
from uniconv_bench.registry import study_card, system_card, task_card
from uniconv_bench.submission import pack
from uniconv_bench.submission_cards import check_card
from uniconv_bench.tables import PAPER_TASKS, table

ROOT = Path(__file__).parents[2]
RUN = (
    b"c0_1\tQ0\tPage 00:0\t1\t2\tx\nc0_1\tQ0\tPage 01:0\t2\t1.5\tx\nc0_2\tQ0\tPage 02:0\t1\t2\tx\n"
)
BLANKS = b"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 1e-3 tag\n"
ANSWERS = b"""{"turn_id": "c0_1", "answer": "a lamp", "tokens": 2, "evidence": ["Page 00:0"]}
{"turn_id": "c0_2", "text": "no"}
"""
QRELS = b"c0_1\t0\tPage 00:0\t1\nc0_1\t0\tPage 01:0\t0\n"
REFERENCES = b'{"turn_id": "c0_1", "references": ["a lamp", "lamp"]}\n'


def raw_files() -> Iterator[Target]:
    """Each file of each dataset's raw files, in every form that a reader knows, as it is read."""
    for folder in sorted(RAW.iterdir()):
        family = folder.name.partition("-")[0]
        root = folder / "mossy-ford" if family == "beir" else folder
        task = {"beir": str(root), "chatrag": "chatrag-qrecc"}.get(family, family)
        yield from _folder(f"raw/{folder.name}", root, partial(everything, task), 0.2)


def prepared() -> Iterator[Target]:
    """The same of the paper's tasks, up to what is in the cache."""
    for task in PAPER_TASKS:
        yield from _folder(f"prepare/{task}", RAW / task, partial(_prepare, task), 0.004)


def _folder(
    name: str, root: Path, read: Callable[[Path], object], share: float
) -> Iterator[Target]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    sound = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    for file, content in sound.items():
        others = {other: sound[other] for other in sound if other != file}
        form = _form(file, content)
        yield Target(f"{name}/{file}", read, file, (content,), form, others, share)


def _form(name: str, content: bytes) -> Mutator:
    if name.endswith((".tsv", ".trec")):
        return columns
    try:
        json.loads(content)
    except ValueError:
        return json_lines
    return json_file


def _prepare(task: str, folder: Path) -> None:
    try:
        prepare(*unsized(task), "full", folder, progress=Silent())
    finally:
        shutil.rmtree(cache_dir() / "tasks", ignore_errors=True)


def cards() -> Iterator[Target]:
    """Every kind of card, from the shipped ones."""
    kinds: dict[str, tuple[Callable[[Path], object], str]] = {
        "system": (_system, "baselines"),
        "task": (_task, "tasks"),
        "study": (_study, "uniconv_bench/experiments"),
    }
    for kind, (read, folder) in kinds.items():
        # A card given by path may not have the name of a shipped one.
        seeds = [
            re.sub(rb'(?m)^name = ".*"$', b'name = "another"', path.read_bytes())
            for path in sorted((ROOT / folder).glob("*.toml"))
        ]
        yield of_file(f"card/{kind}", read, toml_file, *seeds, end=".toml", share=0.5)
    yield of_file("card/submission", _submission, toml_file, CARD.encode(), end=".toml")
    shipped = (ROOT / "uniconv_bench" / "claims.toml").read_bytes()
    yield of_file("card/claims", read_claims, toml_file, shipped, end=".toml", share=0.1)


def _system(path: Path) -> None:
    system_card(str(path))[0].digest()


def _task(path: Path) -> None:
    task_card(str(path))[0].digest()


def _study(path: Path) -> None:
    study_card(str(path))[0].digest()


def _submission(path: Path) -> None:
    list(check_card(parse_card(SubmissionCard, read_toml(path), path), "good-one", TASKS))


def results() -> Iterator[Target]:
    """Runs, answers, judgements, references and records; what is taken can be written again."""
    yield of_file("file/run", _run, columns, RUN, BLANKS, share=4)
    yield of_file("file/run.gz", runs.read_run, any_bytes, gzip.compress(RUN), end=".gz", share=2)
    yield of_file("file/answers", _answers, json_lines, ANSWERS, share=4)
    yield of_file("file/qrels", runs.read_qrels, columns, QRELS, share=4)
    yield of_file("file/references", runs.read_references, json_lines, REFERENCES, share=4)
    scores = (make_score("ndcg@3", 0.4), make_score("f1", 0.25))
    record = json.dumps(make_record(scores=scores).model_dump(mode="json")).encode()
    yield of_file("file/record", read_record, json_file, record, share=2)
    yield of_file("file/record-sealed", _sealed, json_file, record)


def _run(path: Path) -> None:
    run = runs.read_run(path)
    runs.check_ranks(path)
    runs.write_run(path.with_name("again"), run.items(), "x")


def _answers(path: Path) -> None:
    runs.write_answers(path.with_name("again"), runs.read_answers(path).values())


def _sealed(path: Path) -> None:
    """By somebody who knows how records are sealed; what is read can be shown."""
    try:
        content = json.loads(path.read_bytes())
        rest = {key: value for key, value in content.items() if key != "digest"}
        path.write_text(json.dumps({**rest, "digest": digest_of(rest)}), encoding="utf-8")
    except (ValueError, AttributeError, RecursionError):
        pass  # for `read_record` to refuse
    record = read_record(path)
    for form in ("markdown", "latex", "csv"):
        table([record], format=form, metrics=[score.metric for score in record.scores])


def submissions() -> Iterator[Target]:
    """Each file of a bundle, as it is or packed again by somebody who mends the manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "card.toml").write_text(CARD)
        packed = pack(folder / "card.toml", {"toy": scored(folder / "in", hits=6)}, folder, TASKS)
        sound = {path.name: path.read_bytes() for path in sorted(packed.iterdir())}
    forms = {"card.toml": toml_file, "manifest.json": json_file}
    for name, content in sound.items():
        others = {other: sound[other] for other in sound if other != name}
        target = partial(Target, others=others, share=0.1)
        form = forms.get(name, any_bytes)
        yield target(
            f"bundle/as-it-is/{name}", _examined, fuzzed=name, seeds=(content,), mutator=form
        )
        if name.endswith(".gz"):
            inner = gzip.decompress(content)
            form = columns if ".run" in name else json_lines
            yield target(
                f"bundle/repacked/{name}",
                partial(_examined, pack=name),
                fuzzed="plain",
                seeds=(inner,),
                mutator=form,
            )


def _examined(folder: Path, pack: str | None = None) -> None:
    bundle = folder / "good-one"
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != "plain":
            shutil.copy(path, bundle)
    if pack:
        (bundle / pack).write_bytes(gzip.compress((folder / "plain").read_bytes(), 1))
        reseal(bundle)
    for line in examine(bundle, TASKS).problems:
        assert line.isprintable(), f"not a line: {line!r}"
