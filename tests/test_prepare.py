"""Preparation: what it writes, what it refuses in one line, that it leaves nothing half done."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reading import prepared, unsized

from uniconv_bench import cli
from uniconv_bench.artefacts import MANIFEST
from uniconv_bench.cards import Mini, Profile, Size, SplitSize, TaskCard
from uniconv_bench.commands.board import tasks
from uniconv_bench.conversation import Conversation, Passage, Turn, Utterance
from uniconv_bench.errors import UserError
from uniconv_bench.prepare import is_prepared, prepare
from uniconv_bench.progress import Silent
from uniconv_bench.registry import task_card
from uniconv_bench.task import Task, load_task
from uniconv_bench.whole import unchecked

RAW = Path(__file__).parent / "data" / "raw"


def task_of(raw: Path, name: str = "qrecc", profile: Profile = "full") -> Task:
    return prepared(name, raw, profile)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    shutil.copytree(RAW / "qrecc", folder)
    return folder


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "tasks").glob("*")) if cache.exists() else []


TEST = "scai-qrecc21-test-turns.json"


def test_task_reads_back_what_was_prepared(raw: Path, private_cache: Path) -> None:
    task = task_of(raw)
    assert task.counts["passages"] == len(task.corpus) == len(task.corpus.ids) == 3
    assert task.counts["splits"] == {
        "train": {"conversations": 1, "turns": 1, "judged_retrieval": 1, "judged_generation": 1},
        "test": {"conversations": 2, "turns": 4, "judged_retrieval": 2, "judged_generation": 3},
    }
    turns = task.turns()
    assert [t.turn_id for t in turns] == ["1_1", "1_2", "1_3", "2_1"]
    assert turns == task.turns("test") and task.turns("train") != turns
    assert turns[1].history[0] == Utterance("user", "Who designed the bridge at Mossy Ford?")
    assert list(task.qrels()) == ["1_1", "2_1"]
    assert task.qrels()["1_1"] == dict.fromkeys(turns[0].gold, 1)
    assert list(task.references()) == ["1_1", "1_3", "2_1"]
    assert task.references()["1_3"] == ("No.",)


def test_corpus_gives_passages_by_id_and_in_order(private_cache: Path) -> None:
    corpus = task_of(RAW / "topiocqa", "topiocqa").corpus
    found = list(corpus)
    assert [p.passage_id for p in found] == list(corpus.ids) == ["3", "7", "8", "9"]
    assert corpus["9"] == found[3] and found[3].title == "Una Kell Life"
    with pytest.raises(KeyError):
        corpus["10"]


def test_qrels_file_is_tab_separated_trec(private_cache: Path) -> None:
    folder = task_of(RAW / "inscit", "inscit").folder
    first = (folder / "qrels.test.tsv").read_text().splitlines()[0]
    assert first == "fords_level2_dial9_1\t0\tMossy Ford:1\t1"


def test_turns_survive_json() -> None:
    turn = Turn("a_1", "a", 1, "why?", (Utterance("assistant", "é"),), ("x", "y"), ("p q",), "r")
    assert Turn.from_json(json.loads(json.dumps(turn.to_json()))) == turn


def test_preparing_twice_reads_the_cache(raw: Path, private_cache: Path) -> None:
    first = task_of(raw)
    stamp = (first.folder / MANIFEST).stat().st_mtime_ns
    assert (task_of(raw).folder / MANIFEST).stat().st_mtime_ns == stamp
    card, path = unsized("qrecc")
    assert is_prepared(card, path, "full", raw) and not is_prepared(card, path, "mini", raw)
    prepare(card, path, "full", raw, force=True, progress=Silent())
    assert (first.folder / MANIFEST).stat().st_mtime_ns > stamp


def test_digests_follow_the_contents(raw: Path, private_cache: Path) -> None:
    before = task_of(raw)
    # Other bytes, same meaning: another artefact, the same data.
    edit(raw / TEST, lambda rows: None)
    same = task_of(raw)
    assert same.folder != before.folder
    assert (same.digest, same.corpus.digest) == (before.digest, before.corpus.digest)
    edit(raw / TEST, lambda rows: rows[2].update(Truth_answer="Yes."))
    other = task_of(raw)
    assert other.digest != before.digest and other.corpus.digest == before.corpus.digest
    (raw / "wayback" / "more.jsonl").write_text('{"id": "z", "contents": "More."}\n')
    more = task_of(raw)
    assert more.corpus.digest != before.corpus.digest and more.digest != other.digest


def test_the_data_digest_knows_no_arrow_bytes(
    raw: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ between versions of Arrow; a leaderboard compares digests across machines."""
    from uniconv_bench import corpus

    first = task_of(raw)
    digest, shards = first.digest, sorted((first.folder / "passages").glob("*.arrow"))
    shutil.rmtree(first.folder)
    monkeypatch.setattr(corpus, "SHARD", 1)
    again = task_of(raw)
    assert len(list((again.folder / "passages").glob("*.arrow"))) > len(shards)
    assert again.digest == digest


def test_a_card_of_another_version_is_prepared_anew(raw: Path, private_cache: Path) -> None:
    card, path = unsized("qrecc")
    newer = card.model_copy(update={"version": card.version + 1})
    folders = {prepare(c, path, "full", raw, progress=Silent()) for c in (card, newer)}
    assert len(folders) == 2


def test_without_a_folder_the_last_prepared_set_is_used(raw: Path, private_cache: Path) -> None:
    card, path = unsized("qrecc")
    with pytest.raises(UserError, match="no full data of QReCC is prepared.*--data-dir"):
        prepare(card, path, "full", progress=Silent())
    task_of(raw)
    edit(raw / TEST, lambda rows: rows.pop())
    last = task_of(raw)
    shutil.rmtree(raw)
    assert prepare(card, path, "full", progress=Silent()) == last.folder
    with pytest.raises(UserError, match="no mini data"):
        prepare(card, path, "mini", progress=Silent())


def test_a_set_whose_manifest_rotted_is_not_passed_over_for_an_older_one(
    raw: Path, private_cache: Path
) -> None:
    card, path = unsized("qrecc")
    task_of(raw)
    edit(raw / TEST, lambda rows: rows.pop())
    last = task_of(raw)
    edit(last.folder / MANIFEST, lambda content: content["fingerprint"].update(task="other"))
    with pytest.raises(UserError, match="changed manifest.*delete the folder"):
        prepare(card, path, "full", progress=Silent())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: rows[3].update(Truth_passages=["lost"]),
            "field gold names passage 'lost'.*turn 2_1",
        ),
        (lambda rows: rows[1].update(Question=" "), "field query is empty.*turn 2"),
        (lambda rows: rows[0].pop("Truth_rewrite"), "field Truth_rewrite is missing.*record 1"),
        (lambda rows: rows.clear(), "no turns"),
    ],
)
def test_wrong_turns_are_refused(
    change: Callable[[Any], None], told: str, raw: Path, private_cache: Path
) -> None:
    edit(raw / TEST, change)
    refused(raw, told, private_cache)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([[1, 1]], "number occurs twice.*conversation 1, turn 1"),
        ([[1, 2], [3]], "conversation '1' occurs twice.*split"),
    ],
)
def test_a_reader_that_repeats_itself_is_refused(
    numbers: list[list[int]],
    told: str,
    raw: Path,
    private_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from uniconv_bench.tasks import qrecc

    def repeated(folder: Path, split: str) -> list[Conversation]:
        return [
            Conversation("1", tuple(Turn(f"1_{n}", "1", n, "why?") for n in c)) for c in numbers
        ]

    monkeypatch.setattr(qrecc, "conversations", repeated)
    refused(raw, told, private_cache)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '{"id": "https://fords.example/kell_p2", "contents": "Again."}',
            "'https://fords.example/kell_p2' occurs twice.*passage 4",
        ),
        ('{"id": " ", "contents": "Nameless."}', "field id is empty"),
        ('{"id": "a\\tb", "contents": "Torn."}', "no tab"),
        ('{"id": "x", "contents": "cut off', "not valid JSON.*line 3"),
    ],
)
def test_wrong_passages_are_refused(line: str, told: str, raw: Path, private_cache: Path) -> None:
    with (raw / "wayback" / "part.jsonl").open("a") as stream:
        stream.write(line + "\n")
    refused(raw, told, private_cache)


def refused(raw: Path, told: str, cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        task_of(raw)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(told, message), message
    assert leftovers(cache) == []


def test_an_interruption_leaves_no_data(
    raw: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.tasks import qrecc

    def interrupted(folder: Path) -> Any:
        yield Passage("p", "one passage")
        raise KeyboardInterrupt

    whole = qrecc.passages
    monkeypatch.setattr(qrecc, "passages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        task_of(raw)
    card, path = unsized("qrecc")
    assert not is_prepared(card, path, "full", raw)
    monkeypatch.setattr(qrecc, "passages", whole)
    assert "p" not in task_of(raw).corpus.ids
    assert [name for name in leftovers(private_cache) if name.endswith(".partial")] == []


def test_what_an_interrupted_run_left_is_not_used(raw: Path, private_cache: Path) -> None:
    """A process that was killed could not tidy up: its files must not enter the next artefact."""
    folder = task_of(raw).folder
    shutil.rmtree(folder)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir()
    (partial / "stale.txt").write_text("left over")
    assert not (task_of(raw).folder / "stale.txt").exists()


@pytest.mark.parametrize(
    "name", ["turns.test.jsonl", "passages/00000.arrow", "counts.json", MANIFEST]
)
def test_a_corrupted_cache_file_is_named(name: str, raw: Path, private_cache: Path) -> None:
    card, path = unsized("qrecc")
    folder = task_of(raw).folder
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    with pytest.raises(UserError, match="corrupted cache") as caught:
        task_of(raw)
    assert name in str(caught.value) and "delete the folder" in str(caught.value)
    prepare(card, path, "full", raw, force=True, progress=Silent())
    assert len(task_of(raw).turns()) == 4


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_a_wrong_data_folder_is_refused(kind: str, tmp_path: Path, private_cache: Path) -> None:
    folder = tmp_path / "there"
    if kind == "empty":
        folder.mkdir()
    elif kind == "file":
        folder.write_text("not a folder")
    with pytest.raises(UserError, match="--data-dir"):
        task_of(folder)


THIRD_PARTY = '''
"""A task by path."""
from uniconv_bench.conversation import Conversation, Passage, Turn
def splits(raw):
    return ("test",)
def conversations(raw, split):
    yield Conversation("a", (Turn({turn_id!r}, "a", 1, "why?", references=({reference!r},)),))
def passages(raw):
    yield Passage("p", "because")
'''


def third_party(tmp_path: Path, turn_id: str = "a_1", reference: str = "so") -> Path:
    card = task_card("qrecc")[0].model_dump(mode="json") | {"name": "mine"}
    lines = [f"{key} = {json.dumps(card[key])}" for key in PLAIN]
    (tmp_path / "mine.toml").write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.py").write_text(THIRD_PARTY.format(turn_id=turn_id, reference=reference))
    sample = tmp_path / "sample" / "mine"
    sample.mkdir(parents=True)
    (sample / "anything.txt").write_text("raw")
    return tmp_path / "mine.toml"


PLAIN = (
    *("name", "title", "version", "description", "homepage", "licence", "citation"),
    *("metrics", "retrieval_setting", "test_split"),
)


def test_a_task_by_path_brings_its_sample(tmp_path: Path, private_cache: Path) -> None:
    task = load_task(str(third_party(tmp_path)), "sample", progress=Silent())
    assert [t.turn_id for t in task.turns()] == ["a_1"]
    assert task.corpus["p"].text == "because"


def test_a_task_without_a_sample_says_so(tmp_path: Path, private_cache: Path) -> None:
    path = third_party(tmp_path)
    shutil.rmtree(tmp_path / "sample")
    with pytest.raises(UserError, match="ships no sample"):
        load_task(str(path), "sample", progress=Silent())


@pytest.mark.parametrize(
    ("options", "told"),
    [({"turn_id": "b_1"}, "field turn_id"), ({"reference": " "}, "field references")],
)
def test_a_task_that_breaks_the_shape_is_refused(
    options: dict[str, str], told: str, tmp_path: Path, private_cache: Path
) -> None:
    with pytest.raises(UserError, match=told):
        load_task(str(third_party(tmp_path, **options)), "sample", progress=Silent())


def test_a_test_split_that_is_none_is_refused(raw: Path, private_cache: Path) -> None:
    card, path = unsized("qrecc")
    with pytest.raises(UserError, match="no files of the split 'dev'"):
        prepare(card.model_copy(update={"test_split": "dev"}), path, "full", raw, progress=Silent())


def test_a_known_digest_loads_nothing_heavy(private_cache: Path) -> None:
    """A cached run compares digests: torch, pyarrow and their like stay out."""
    load_task("qrecc", "sample", progress=Silent())
    heavy = ["torch", "transformers", "datasets", "evaluate", "ranx", "pandas", "pyarrow", "numpy"]
    code = (
        "import sys\n"
        "from uniconv_bench.task import load_task\n"
        "from uniconv_bench.progress import Silent\n"
        "task = load_task('qrecc', 'sample', progress=Silent())\n"
        "task.digest, task.corpus.digest, len(task.corpus), task.qrels()\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_task_is_a_plain_value(raw: Path, private_cache: Path) -> None:
    task = task_of(raw)
    assert dataclasses.replace(task).digest == task.digest


def test_mini_cuts_a_lone_split_and_says_so(tmp_path: Path, private_cache: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(RAW / "inscit", raw)
    (raw / "test.json").rename(raw / "dev.json")
    (raw / "train.json").unlink()
    with pytest.raises(UserError, match="no files of the split 'test'"):
        load_task("inscit", "full", raw, progress=Silent())
    task = load_task("inscit", "mini", raw, progress=Silent())
    assert task.test_split == "dev-cut" and task.counts["mini"]["cut_from"] == "dev"
    ids = {name: {t.conversation_id for t in task.turns(name)} for name in ("train", "dev-cut")}
    assert ids["train"] and ids["dev-cut"] and not ids["train"] & ids["dev-cut"]
    assert task.turns() == task.turns("dev-cut")


def test_mini_keeps_only_the_reduced_corpus(raw: Path, private_cache: Path) -> None:
    lines = "".join(f'{{"id": "z{n}", "contents": "Stone {n}."}}\n' for n in range(50))
    (raw / "wayback" / "zz.jsonl").write_text(lines)
    card, path = unsized("qrecc")
    few = card.model_copy(update={"mini": Mini(neighbours=0, random=5, pool=5, bm25=0)})
    task = Task(few, "mini", prepare(few, path, "mini", raw, progress=Silent()))
    gold = {p for split in ("train", "test") for q in task.qrels(split).values() for p in q}
    assert gold < set(task.corpus.ids) and len(task.corpus) == len(gold) + 5
    assert len(task_of(raw, profile="mini").corpus) > len(task.corpus)
    assert len(task_of(raw).corpus) == 53


def test_absent_gold_at_mini_needs_a_word(raw: Path, private_cache: Path) -> None:
    edit(raw / TEST, lambda rows: rows[0].update(Truth_passages=["gone"]))
    with pytest.raises(UserError, match="--allow-absent"):
        task_of(raw, profile="mini")
    card, path = unsized("qrecc")
    folder = prepare(card, path, "mini", raw, allow_absent=True, progress=Silent())
    task = Task(card, "mini", folder)
    assert "1_1" not in task.qrels() and "1_1" in task.references()
    assert load_task("qrecc", "mini", progress=Silent()).folder == folder


def test_data_without_a_relevant_passage_offers_no_run(
    raw: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("prepare", "--task", "qrecc", "--profile", "mini", "--data-dir", str(raw))
    assert cli.main(given) == 0
    err = capsys.readouterr().err
    assert "WARNING" not in err and "next: uniconv-bench run" in err

    def lose(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["Truth_passages"] = ["gone"]

    for name in (TEST, "scai-qrecc21-training-turns.json"):
        edit(raw / name, lose)
    assert cli.main((*given, "--allow-absent")) == 0
    err = capsys.readouterr().err
    told = "no turn of QReCC, split train and test, has a relevant passage: retrieval can be"
    assert f"WARNING: {told} neither trained nor scored" in err and "next:" not in err


@pytest.mark.parametrize(("profile", "option"), [("full", "allow_absent"), ("mini", "allow_part")])
def test_what_is_allowed_has_its_profile(profile: Profile, option: str, raw: Path) -> None:
    card, path = task_card("qrecc")
    told = f"--{option.replace('_', '-')} is for --profile"
    with pytest.raises(UserError, match=told):
        prepare(card, path, profile, raw, **{option: True}, progress=Silent())  # type: ignore[arg-type]


SIZE = Size(
    source="these very files",
    passages=3,
    splits={
        "train": SplitSize(turns=1),
        "dev": SplitSize(turns=40),  # its file is not there, and need not be
        "test": SplitSize(conversations=2, turns=4, judged_retrieval=2),
    },
)


def sized(**changes: Any) -> tuple[TaskCard, Path]:
    card, path = task_card("qrecc")
    return card.model_copy(update={"size": SIZE.model_copy(update=changes)}), path


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"passages": 2}, r"found 3 passages where the whole of QReCC has 2 "),
        ({"passages": 54_573_064}, r"found 3 passages where .* has 54,573,064 "),
        ({"splits": {"train": SplitSize(turns=5)}}, "found 1 turns of train where .* has 5 "),
        (
            {"splits": {"test": SplitSize(conversations=9, turns=4, judged_retrieval=3)}},
            r"found 2 conversations of test where .* has 9 \(1 more counts differ\)",
        ),
        (
            {"splits": {"test": SplitSize(judged_retrieval=3)}},
            "found 2 turns with a relevant passage of test where .* has 3 ",
        ),
    ],
)
def test_a_part_of_a_dataset_is_refused(
    changes: dict[str, Any], found: str, raw: Path, private_cache: Path
) -> None:
    card, path = sized(**changes)
    with pytest.raises(UserError, match=f"^{found}.*--profile mini, or add --allow-part") as caught:
        prepare(card, path, "full", raw, progress=Silent())
    assert caught.value.where == raw and "\n" not in str(caught.value)
    assert leftovers(private_cache) == []
    assert prepare(card, path, "mini", raw, progress=Silent()).is_dir()


def test_a_part_that_is_allowed_says_in_what(raw: Path, private_cache: Path) -> None:
    card, path = sized(passages=9, splits={"test": SplitSize(turns=40)})
    folder = prepare(card, path, "full", raw, allow_part=True, progress=Silent())
    task = Task(card, "full", folder)
    assert task.part == ("4 of 40 turns of test", "3 of 9 passages")
    assert prepare(card, path, "full", progress=Silent()) == folder  # it is the one prepared last
    other, _ = sized(passages=8)
    with pytest.raises(UserError, match="no full data"):  # another size: other data
        prepare(other, path, "full", progress=Silent())


def test_the_whole_dataset_is_no_part_even_if_one_is_allowed(
    raw: Path, private_cache: Path
) -> None:
    card, path = sized()
    whole = Task(card, "full", prepare(card, path, "full", raw, progress=Silent()))
    allowed = prepare(card, path, "full", raw, allow_part=True, progress=Silent())
    assert whole.part == Task(card, "full", allowed).part == ()
    assert whole.digest == Task(card, "full", allowed).digest == task_of(raw).digest


def test_prepare_takes_a_part_and_every_word_of_it_says_so(
    raw: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("prepare", "--task", "qrecc", "--profile", "full", "--data-dir", str(raw))
    assert cli.main(given) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error")]
    assert "turns of train" in line or "conversations of train" in line
    assert cli.main((*given, "--allow-part")) == 0
    assert "part of the dataset: 3 of 54,573,064 passages" in capsys.readouterr().out
    with pytest.raises(UserError, match="only a part of the dataset.*takes whole datasets"):
        tasks().load("qrecc", "full")


def test_what_is_not_published_is_unchecked() -> None:
    def of(name: str) -> list[str]:
        card, _ = task_card(name)
        return unchecked(card, card.test_split)

    assert of("qrecc") == []
    assert of("orquac") == ["turns of test"]
    assert "passages" in of("inscit")
