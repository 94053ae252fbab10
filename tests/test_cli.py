"""The command line: results on stdout, notes on stderr, every error one line and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from test_records import make_record

from uniconv_bench import cli, estimate, evaluate, plots
from uniconv_bench.cards import PROFILES
from uniconv_bench.commands import shared
from uniconv_bench.errors import UserError
from uniconv_bench.files import cache_dir, digest_of_file
from uniconv_bench.records import record_path, write_record

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "numba", "ranx", "evaluate", "datasets", "pandas", "pyarrow"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(cli, "_quieten_libraries", lambda: None)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(command: Run) -> Callable[..., str]:
    """Runs a command that must fail in the one way there is; returns its line."""

    def call(*arguments: str | Path) -> str:
        code, out, err = command(*arguments)
        *notes, last = err.splitlines()
        assert (code, out) == (2, "")
        assert last.startswith("error: ")
        # Before it only what was about to be done.
        assert all(
            note.startswith(("preparing ", "run ", "train ", "licence ")) for note in notes
        ), err
        return last

    return call


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("run --task qrec --system uniconv", "unknown task 'qrec'; did you mean 'qrecc'"),
        ("run --task qrecc --system uniconf", "unknown system 'uniconf'; did you mean 'uniconv'"),
        ("run --task qrecc --system uniconv --limit 0", "leave --limit out for all turns"),
        ("retrieve --task qrecc --system uniconv --limit -3", "--limit -3 leaves no turn"),
        ("run --task qrecc --system uniconv --limit some", "'--limit': not a whole number"),
        ("run -t qrecc -s uniconv --profile smaple", "'full'. Did you mean 'sample'?"),
        ("prepare -t qrecc --profile mini --data-dir {file}", "a file, not a folder"),
        (
            "export -t coral --out cor",
            "first run uniconv-bench prepare --task coral --profile mini",
        ),
        ("score -t qrecc --run a --qrels b", "go without --task"),
        (f"score --run {{file}} --qrels {{file}} -m ndcg@{10**20}", "has a cutoff above 1,000,000"),
        ("reproduce a b --tolerance nan --reason x", "--tolerance nan is no fraction"),
        (f"cache prune --dry-run --keep {'9' * 400}GB", "is no amount; write it as one of"),
        ("show system ~nobody-at-all/x.toml", "there is no home folder for ~"),
        ("score -t faithdial-given --run a", "retrieval is not scored; give --answers alone"),
        ("score --run {file} --qrels {file}", "--qrels takes lines as turn 0 passage grade"),
        ("table --results {file}", "a file, not a folder ({file}); point --results"),
        ("submit check {file}", "a file, not a bundle ({file})"),
        ("submit check .", "a folder, not a bundle (.); "),
        ("run --task qrecc", "--system"),
        ("run --task qrecc --system uniconv --profile huge", "'sample', 'mini', 'full'"),
        ("run --task qrecc --system uniconv --colour", "--colour"),
        ("runn", "No such command 'runn'"),
        ("show task nowhere/mine.toml", "no such file"),
        ("show system ./absent.toml", "absent.toml"),
        ("prepare --task qrecc --profile full --offline", "pass --data-dir"),
        ("prepare --task qrecc --task inscit --data-dir .", "--data-dir holds the files of one"),
        ("run --task qrecc --system uniconv --data-dir .", "--data-dir has no place in profile"),
        ("prepare --task qrecc --data-dir .", "shipped with a task (.); add --profile mini or"),
        ("score", "nothing to score; give --run with --qrels"),
        ("score --run a.trec", "give --qrels or --task"),
        ("score --run absent.trec --qrels absent.txt", "no such file (absent.txt)"),
        ("score --metric ndgc@3", "unknown metric 'ndgc@3'; did you mean 'ndcg@3'"),
        ("score --task qrecc --metric f1", "nothing to score for f1"),
        ("table --results absent", "no such folder (absent); point --results to a folder that is"),
        ("table", "no such folder (results/sample); run a system on a task first"),
    ],
)
def test_wrong_arguments(
    refused: Callable[..., str],
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "plain"
    file.write_text('{"a": 1}\n')
    assert expected.format(file=file) in refused(*arguments.format(file=file).split())


def test_malformed_card_names_file_and_field(refused: Callable[..., str], tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text(
        'extends = "uniconv"\nname = "mine"\ntitle = "T"\ndescription = "d"\n'
        "[inference]\ndepth = 0\n"
    )
    line = refused("run", "--task", "qrecc", "--system", card)
    assert "field inference.depth: is 0; it has to be more than 0" in line
    assert str(card) in line
    card.write_text("name = mine\n")
    line = refused("show", "system", card)
    assert "not valid TOML" in line
    assert str(card) in line


def test_missing_adapter(refused: Callable[..., str], tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text(
        'extends = "uniconv"\nname = "mine"\ntitle = "T"\ndescription = "d"\n'
        '[retriever]\nadapter = "twin"\n'
    )
    line = refused("run", "--task", "qrecc", "--system", card)
    assert "adapter 'twin' is used but not declared under [adapters]" in line
    assert str(card) in line


def test_corrupted_cache_file(
    command: Run, refused: Callable[..., str], private_cache: Path
) -> None:
    code, out, _ = command("prepare", "--task", "qrecc", "--json")
    assert code == 0
    turns = Path(json.loads(out)[0]["folder"]) / "turns.test.jsonl"
    turns.write_bytes(turns.read_bytes().replace(b"a", b"b", 1))
    line = refused("prepare", "--task", "qrecc")
    assert f"corrupted cache file ({turns}); delete the folder {turns.parent}" in line
    assert refused("run", "--task", "qrecc", "--system", "no-passages") == line


def test_what_is_there_but_no_card_is_told_from_a_name(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    line = refused("show", "system", "mine")
    assert line.startswith("error: unknown system 'mine', and no card, whose name ends in .toml;")


def test_full_disk_where_the_write_fails(
    refused: Callable[..., str], private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    line = refused("prepare", "--task", "qrecc")
    assert line.startswith(f"error: the disk is full ({private_cache}")
    assert "; make room (or point UNICONV_BENCH_CACHE to" in line and ".tmp" not in line
    monkeypatch.undo()
    assert not list(private_cache.rglob("*.tmp"))


def test_full_disk_for_real(
    command: Run,
    refused: Callable[..., str],
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        monkeypatch.setenv("UNICONV_BENCH_CACHE", str(small))
        assert "the disk is full" in refused("prepare", "--task", "qrecc")
        monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / "large"))
        for number in range(100):  # until nothing goes in
            try:
                (small / f"{number}").write_bytes(bytes(4096))
            except OSError:
                break
        line = refused("table", "--results", results, "--output", small / "table.md")
        assert f"full ({small / 'table.md'}); make room there, or name another place" in line
        assert command("prepare", "--task", "qrecc")[0] == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("line", ["list tasks", "list tasks --json", "table --results {}"])
def test_full_disk_behind_stdout(line: str, results: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "uniconv_bench", *line.format(results).split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the disk is full")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `train` fail with an exception."""

    def plant(error: BaseException) -> None:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        monkeypatch.setattr(estimate, "estimate", lambda *args, **kwargs: {})
        monkeypatch.setattr(evaluate, "train", fail)

    return plant


TRAIN = ("train", "--system", "no-passages")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x", "/cache/f"), "the disk is full (/cache/f); make room"),
        (RuntimeError("I/O: No space left on device (os error 28)"), "the disk is full"),
        (OSError("4096 requested and 16 written"), "the disk is full"),
        (Exception("I/O error: File too large (os error 27)"), "a file grew beyond what this disk"),
        (Exception("I/O error: Permission denied (os error 13)"), "no permission"),
        (MemoryError(), "memory ran out; end what else needs it"),
        (PermissionError(errno.EACCES, "x", "/cache/f"), "no permission (/cache/f)"),
        (OSError(errno.EMFILE, "x", "/cache/f"), "too many files are open (/cache/f); raise"),
        (OSError(errno.EIO, "x", "/cache/f"), "the disk fails to read or write (/cache/f); check"),
        (OSError(errno.ELOOP, "x", "/cache/f"), "links that lead in a circle (/cache/f); name"),
        (IsADirectoryError(errno.EISDIR, "x", "/cache"), "a folder, not a file (/cache); name a"),
        (OSError(errno.EROFS, "x", "/cache/f"), "the file system is read-only (/cache/f); point"),
        (FileNotFoundError(errno.ENOENT, "x", "/cache/f"), "no such file (/cache/f)"),
        (FileNotFoundError(errno.ENOENT, "x", str(cache_dir() / "a" / "f")), "run it again"),
        (OSError("can't find it\nlong advice"), "can't find it"),
        (ModuleNotFoundError("x", name="faiss"), "'faiss' is not installed; pip install"),
        (ModuleNotFoundError("x", name="faiss"), "uniconv-bench[cpu]"),
        (ModuleNotFoundError("x", name="faiss.contrib"), "package 'faiss' is not installed"),
        (UserError("broken\nin two", where="f", mend="mend it"), "broken in two (f); mend it"),
    ],
)
def test_an_error_from_below_is_one_line(
    refused: Callable[..., str],
    failing: Callable[[BaseException], None],
    error: BaseException,
    expected: str,
) -> None:
    failing(error)
    assert expected in refused(*TRAIN)


def test_absent_optional_package(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_faiss(*args: Any, **kwargs: Any) -> Any:
        import faiss

        return faiss

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(evaluate, "train", needs_faiss)
    assert "pip install 'uniconv-bench[cpu]'" in refused(*TRAIN)


def test_a_bug_keeps_its_traceback(command: Run, failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        command(*TRAIN)
    failing(ModuleNotFoundError("x", name="uniconv_bench.absent"))
    with pytest.raises(ModuleNotFoundError):
        command(*TRAIN)


def test_debug_shows_where_an_error_came_from(command: Run) -> None:
    with pytest.raises(UserError, match="unknown task"):
        command("run", "--task", "qrec", "--system", "uniconv", "--debug")


def test_stopped_by_hand(command: Run, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    code, out, err = command(*TRAIN)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in err


# ------------------------------------------------------------------- what listing imports


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )


@pytest.mark.parametrize("line", ["--help", "list tasks", "list systems --json", "list metrics"])
def test_listing_imports_nothing_heavy(line: str) -> None:
    code = (
        "import sys\nfrom uniconv_bench.cli import main\n"
        f"code = main({line.split()!r})\n"
        f"found = sorted({HEAVY!r} & set(sys.modules))\n"
        "print('HEAVY', code, found, file=sys.stderr)"
    )
    assert python("-c", code).stderr.splitlines()[-1] == "HEAVY 0 []"


@pytest.mark.parametrize("line", ["list systems --json", "list studies", "show task inscit"])
def test_a_terminal_of_another_encoding_is_no_reason_to_stop(line: str) -> None:
    done = python("-m", "uniconv_bench", *line.split(), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii(), done.stderr
    if "--json" in line:
        assert json.loads(done.stdout)


def test_a_path_that_the_locale_cannot_spell_is_named(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    cache = {"UNICONV_BENCH_CACHE": str(tmp_path / "kä"), **ascii_only}
    done = subprocess.run(
        [sys.executable, "-m", "uniconv_bench", "prepare", "--task", "qrecc"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **cache},
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("error: a path that is no text in this locale's encoding, ascii")
    assert "PYTHONUTF8=1" in last


def test_a_path_that_is_no_text_at_all_is_named_without_what_is_in_it(tmp_path: Path) -> None:
    utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    cache = {b"UNICONV_BENCH_CACHE": os.fsencode(tmp_path) + b"/k\xff"}
    done = subprocess.run(
        [sys.executable, "-m", "uniconv_bench", "prepare", "--task", "qrecc"],
        capture_output=True,
        encoding="utf-8",
        env={os.fsencode(n): os.fsencode(v) for n, v in {**os.environ, **utf8}.items()} | cache,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.endswith("k\\udcff); choose a path in plain letters"), last


def test_a_reader_that_had_enough_is_no_error_but_a_broken_connection_is() -> None:
    code = (
        "import sys\nfrom uniconv_bench import cli\n"
        "class Group:\n"
        "    def main(self, *arguments, **options):\n"
        "        raise BrokenPipeError(32, 'Broken pipe')\n"
        "cli.typer.main.get_command = lambda app: Group()\n"
        "sys.exit(cli.main(['list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: Broken pipe\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait() == 1 and process.stderr.read() == b""


def test_json_is_all_that_stdout_carries() -> None:
    for kind, known in (("tasks", "qrecc"), ("systems", "uniconv"), ("metrics", "ndcg@3")):
        done = python("-m", "uniconv_bench", "list", kind, "--json")
        rows = json.loads(done.stdout)
        assert known in [row["name"] for row in rows]
        assert done.stderr == ""


def test_libraries_are_kept_quiet() -> None:
    code = (
        "import warnings, logging\nfrom uniconv_bench.cli import main\nmain(['list', 'tasks'])\n"
        "warnings.warn('noise')\nlogging.getLogger('transformers').warning('noise')\n"
        "import os\nprint(os.environ['TRANSFORMERS_VERBOSITY'], os.environ['TQDM_DISABLE'])"
    )
    done = python("-c", code)
    assert "noise" not in done.stderr
    assert done.stdout.splitlines()[-1] == "error 1"


def test_profiles_are_those_of_the_cards() -> None:
    assert get_args(shared.Profile) == PROFILES


def test_version_and_help(command: Run) -> None:
    assert command("--version")[1].startswith("uniconv-bench ")
    code, out, _ = command("--help")
    assert code == 0
    names = "list show prepare train encode retrieve generate score run table submit leaderboard"
    names += " doctor why cache"
    for name in names.split():
        assert f" {name} " in out
        assert command(name, "--help")[0] == 0
    for alone in ((), ("list",)):
        code, out, err = command(*alone)
        assert code == 0 and "Usage: " in out + err


# ------------------------------------------------------------------------- list, show


def test_tables_for_people(command: Run) -> None:
    code, out, err = command("list", "systems")
    assert code == 0
    assert "uniconv-no-cii" in out
    assert err == "next: uniconv-bench show system NAME\n"


def test_show_system_gives_every_choice_its_source(command: Run, tmp_path: Path) -> None:
    code, out, _ = command("show", "system", "uniconv")
    assert code == 0
    assert "temperature" in out
    assert re.search(r"session_tokens +1024 +peer:ChatRetriever", out)
    changed = 'extends = "uniconv"\nname = "w"\ntitle = "W"\ndescription = "d"\n'
    changed += "adapters.joint.temperature = 0.05\ninference.depth = 50\n"
    (tmp_path / "w.toml").write_text(changed)
    out = command("show", "system", tmp_path / "w.toml")[1]
    assert re.search(r" temperature +0.05 +this card", out)
    assert re.search(r" depth +50 +this card", out)
    assert re.search(r" checkpoint_steps +50 +default", out)
    assert re.search(r" cii_temperature +0.01 +ours", out)
    card = json.loads(command("show", "system", "uniconv-no-cii", "--json")[1])
    assert card["adapters"]["joint"]["losses"]["cii"] == 0.0
    assert card["path"].endswith("uniconv-no-cii.toml")


def test_show_task_needs_the_card_alone(
    command: Run, refused: Callable[..., str], tmp_path: Path
) -> None:
    card = tmp_path / "mine.toml"
    card.write_bytes(
        b"\xef\xbb\xbf"  # as some editors begin a file
        b'name = "mine"\ntitle = "Mine"\nversion = 1\ndescription = "d"\nhomepage = "h"\n'
        b'licence = "l"\ncitation = "c"\nmetrics = ["f1"]\nretrieval_setting = "r"\n'
    )
    code, out, err = command("show", "task", card)
    assert code == 0
    assert "Mine  (mine, version 1)" in out
    assert err.startswith("no module beside the card (")
    assert json.loads(command("show", "task", card, "--json")[1])["counts"] == {}
    line = refused("prepare", "--task", card, "--data-dir", tmp_path, "--profile", "mini")
    assert "no module beside the card" in line and "mine.py" in line


def test_show_task(command: Run) -> None:
    code, out, _ = command("show", "task", "qrecc")
    assert code == 0
    assert "of a test conversation (sample)" in out
    shown = json.loads(command("show", "task", "qrecc", "--json")[1])
    assert shown["name"] == "qrecc"
    assert shown["counts"]["sample"]["splits"]["test"]["conversations"] >= 20


# ------------------------------------------------------------------- stages, with fakes


class FakeRecord(SimpleNamespace):
    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"task": self.task.name, "system": self.system.name}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Replaces the stages by fakes that note how they were called."""
    noted: list[dict[str, Any]] = []

    def fake(stage: str) -> Callable[..., Any]:
        def call(*args: str, **kwargs: Any) -> Any:
            kwargs.pop("progress")
            noted.append({"stage": stage, "args": args, **kwargs})
            if stage == "train":
                return {"joint": tmp_path / "joint"}
            if stage != "run":
                return tmp_path / stage
            score = SimpleNamespace(
                metric="f1",
                model_dump=lambda: {
                    **{"mean": 0.25, "ci95": (0.2, 0.3), "n": 12, "stage": "x"},
                    "conversations": 4,
                },
            )
            task = SimpleNamespace(name=args[0], profile=args[2], part=())
            system = SimpleNamespace(name=args[1], title=args[1].upper())
            limit = kwargs["limit"]
            record = FakeRecord(task=task, system=system, limit=limit, scores=[score])
            return record, tmp_path / "record.json"

        return call

    for stage in ("train", "retrieve", "generate", "run"):
        monkeypatch.setattr(evaluate, stage, fake(stage))
    seconds = {"train": 0.0, "retrieve": 20.0, "generate": 300.0}
    monkeypatch.setattr(estimate, "estimate", lambda *args, **kwargs: seconds)
    whole = estimate.Plan(9000.0, ("joint of a", "joint of b"), ("about 14 GB of memory with x",))
    monkeypatch.setattr(estimate, "plan", lambda *args, **kwargs: whole)
    return noted


def test_run_says_the_cost_then_the_scores_then_what_is_next(
    command: Run, calls: list[dict[str, Any]]
) -> None:
    code, out, err = command("run", "-t", "qrecc", "-s", "uniconv", "--limit", "3")
    assert code == 0
    assert calls == [
        {
            "stage": "run",
            "args": ("qrecc", "uniconv", "sample"),
            "limit": 3,
            "data_dir": None,
            "retrain": None,
            "results": Path("results"),
        }
    ]
    assert "f1" in out
    assert "0.250" in out
    assert "0.200 to 0.300" in out
    assert "only the first 3 turns" in out
    lines = err.splitlines()
    assert lines[0] == "run uniconv on qrecc (sample); to do, about: retrieve 20 s, generate 5 min"
    assert lines[1].startswith("record: ")
    # A limited record enters no table.
    assert lines[-1] == "next: uniconv-bench run --task qrecc --system uniconv --profile sample"
    err = command("run", "-t", "qrecc", "-s", "uniconv")[2]
    last = "next: uniconv-bench table --profile sample --results results"
    assert err.splitlines()[-1] == last


def test_run_json(command: Run, calls: list[dict[str, Any]]) -> None:
    out = command("run", "--task", "qrecc", "--system", "uniconv", "--json")[1]
    assert json.loads(out) == {"task": "qrecc", "system": "uniconv"}
    arguments = "run -t qrecc -t inscit -s uniconv -s separate -s uniconv --retrain --json"
    rows = json.loads(command(*arguments.split())[1])
    assert [(row["system"], row["task"]) for row in rows] == [
        ("uniconv", "qrecc"),
        ("uniconv", "inscit"),
        ("separate", "qrecc"),
        ("separate", "inscit"),
    ]
    err = command(*arguments.split())[2]
    assert err.splitlines()[:2] == [
        "2 tasks x 2 systems: 4 pairs",
        "in all about 2.5 h; adapters to be trained: joint of a, joint of b "
        "(about 14 GB of memory with x)",
    ]
    # What was trained anew is known to all that follow.
    assert calls[1]["retrain"] == set()
    assert len({id(call["retrain"]) for call in calls[1:5]}) == 1


def test_all_names_everything(command: Run, calls: list[dict[str, Any]]) -> None:
    command("run", "--task", "all", "--system", "oracle", "--profile", "mini", "--json")
    assert [call["args"][0] for call in calls] == [
        row["name"] for row in json.loads(command("list", "tasks", "--json")[1])
    ]


def test_all_leaves_out_tasks_without_a_sample(command: Run, calls: list[dict[str, Any]]) -> None:
    err = command("run", "--task", "all", "--system", "oracle")[2]
    done = [call["args"][0] for call in calls]
    assert {"qrecc", "faithdial-given"} <= set(done)
    first = err.splitlines()[0]
    assert first.startswith("left out of 'all', as they ship no sample: ")
    for name in ("coral", "chatrag-quac"):
        assert name in first and name not in done
    # Who asks for it by name is told how to get it.
    command("run", "--task", "coral", "--task", "all", "--system", "oracle")
    assert [call["args"][0] for call in calls[len(done) :]] == ["coral", *done]


def test_a_task_without_a_sample_says_what_to_choose(refused: Callable[..., str]) -> None:
    message = refused("prepare", "--task", "coral")
    assert "'coral' ships no sample" in message and "then choose --profile mini" in message


def test_a_wrong_name_stops_before_any_work(
    refused: Callable[..., str], calls: list[dict[str, Any]]
) -> None:
    refused("run", "--task", "qrecc", "--system", "uniconv", "--system", "uniconf")
    assert calls == []


def test_training_is_drawn(
    command: Run,
    refused: Callable[..., str],
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "joint").mkdir()
    rows = [{"step": step, "retrieval": 2 / (step + 1), "gradient_norm": 1.0} for step in range(12)]
    report = {"adapter": "joint", "backbone": "tiny", "turns": {"qrecc": 96}, "log": rows}
    points = [{"steps": 0, "retrieval": 2.5}, {"steps": 12, "retrieval": 0.4}]
    report["validation"] = {"points": points}
    (tmp_path / "joint" / "training.json").write_text(json.dumps(report))
    arguments = "train", "-s", "uniconv", "--plot", str(tmp_path / "curves.of")
    with monkeypatch.context() as patch:
        patch.setattr(plots, "find_spec", lambda name: None)
        assert "pip install 'uniconv-bench[plots]'" in refused(*arguments) and calls == []
    pytest.importorskip("matplotlib")
    assert command(*arguments)[0] == 0
    written = sorted(path.name for path in (tmp_path / "curves.of").iterdir())
    assert written == ["uniconv.joint.pdf", "uniconv.joint.png"]


def test_stages_one_by_one(command: Run, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = json.loads(command("train", "-s", "uniconv", "--json")[1])
    assert rows == [{"name": "uniconv", "adapter": "joint", "folder": str(tmp_path / "joint")}]
    rows = json.loads(command("retrieve", "-t", "qrecc", "-s", "uniconv", "--json")[1])
    assert rows[0]["run"] == str(tmp_path / "retrieve")
    assert rows == [{"task": "qrecc", "system": "uniconv", "run": str(tmp_path / "retrieve")}]
    code, out, err = command("retrieve", "-t", "qrecc", "-t", "inscit", "-s", "uniconv")
    assert out.splitlines() == [str(tmp_path / "retrieve")] * 2  # nothing else, and never folded
    # What is announced is what will be done: no answers.
    assert "retrieve uniconv on qrecc (sample); to do, about: retrieve 20 s\n" in err
    assert f"next: uniconv-bench score --task inscit --run {tmp_path / 'retrieve'}" in err
    out = command("generate", "-t", "qrecc", "-s", "uniconv", "--run", "mine.trec", "--json")[1]
    assert json.loads(out)[0]["answers"] == str(tmp_path / "generate")
    assert calls[-1]["run"] == Path("mine.trec")


# ------------------------------------------------------------------------------- score


@pytest.fixture
def answer_files(tmp_path: Path) -> tuple[Path, Path]:
    references, answers = tmp_path / "references.jsonl", tmp_path / "answers.jsonl"
    references.write_text(
        '{"turn_id": "a_1", "references": ["the red house", "a blue boat"]}\n'
        '{"turn_id": "a_2", "references": ["no"]}\n'
        '{"turn_id": "b_1", "references": ["seven days"]}\n'
    )
    answers.write_text(
        '{"turn_id": "a_1", "answer": "blue boat"}\n{"turn_id": "a_2", "text": "x"}\n'
    )
    return references, answers


def test_score_bare_answers(command: Run, answer_files: tuple[Path, Path]) -> None:
    references, answers = answer_files
    code, out, err = command("score", "--references", references, "--answers", answers, "--json")
    assert code == 0
    found = json.loads(out)["scores"]["f1"]
    assert found["mean"] == pytest.approx(1 / 3)
    assert found["n"] == 3
    assert len(found["ci95"]) == 2
    assert "1 of 3 judged turns are missing and score 0" in err


def test_score_bare_run(command: Run, tmp_path: Path) -> None:
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.txt"
    qrels.write_text("a_1 0 p1 1\na_2 0 p2 1\n")
    run.write_text("a_1 Q0 p9 1 2.0 x\na_1 Q0 p1 2 1.0 x\na_2 Q0 p2 1 5 x\n")
    out = command("score", "--qrels", qrels, "--run", run, "-m", "mrr", "--json")[1]
    assert list(json.loads(out)["scores"]) == ["mrr"]
    assert json.loads(out)["scores"]["mrr"]["mean"] == pytest.approx(0.75)
    out = command("score", "--qrels", qrels, "--run", run)[1]
    # Two turns of one conversation: a mean, and no interval.
    assert re.search(r"mrr +0.750 +- +2 +1 ", out)
    for path in (run, qrels):
        path.write_text(path.read_text().replace("a_1", "q1").replace("a_2", "q2"))
    out = command("score", "--qrels", qrels, "--run", run)[1]
    assert re.search(r"mrr +0.750 +0.500 to 1.000 +2 +2 ", out)
    assert "bootstrap over turns, each a conversation of its own" in " ".join(out.split())


def test_score_refuses_files_of_another_task(
    refused: Callable[..., str], answer_files: tuple[Path, Path]
) -> None:
    _, answers = answer_files
    line = refused("score", "--task", "qrecc", "--answers", answers)
    assert "no judged turn is in this file" in line
    assert "'a_1'" in line


def test_score_refuses_passages_of_another_task(
    command: Run, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turn ids of different tasks are alike; their passages are not."""
    from uniconv_bench import metrics
    from uniconv_bench.progress import Silent
    from uniconv_bench.runs import write_answers, write_run
    from uniconv_bench.system import Answer
    from uniconv_bench.task import load_task

    task = load_task("qrecc", "sample", progress=Silent())
    turns, here = list(task.references()), task.corpus.ids[:2]
    run, answers = tmp_path / "x.trec", tmp_path / "x.jsonl"
    write_run(run, [(turns[0], [("far:1", 2.0), ("far:2", 1.5), (here[0], 1.0)])], "x")
    line = refused("score", "--task", "qrecc", "--run", run)
    assert (
        f"2 of the 3 passages in this file are not in the corpus of qrecc, first 'far:1' ({run})"
        in line
    )
    write_answers(answers, [Answer(turns[0], "a", evidence=("far:1",)), Answer("no_1", "b")])
    line = refused("score", "--task", "qrecc", "--answers", answers)
    assert "1 of the 1 passages in this file are not in the corpus" in line
    monkeypatch.setattr(metrics, "score_answers", lambda *args: {"f1": dict.fromkeys(turns, 0.5)})
    write_answers(answers, [Answer(turns[0], "a", evidence=here), Answer("no_1", "b")])
    code, _, err = command("score", "--task", "qrecc", "--answers", answers)
    assert code == 0
    assert "1 turns are not of this task, first 'no_1'" in err


def test_score_says_what_a_file_should_be(
    refused: Callable[..., str], answer_files: tuple[Path, Path], tmp_path: Path
) -> None:
    references, answers = answer_files
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.txt"
    qrels.write_text("a_1 0 p1 1\n")
    run.write_text("a_1 Q0 p1 1 2.0 x\n")
    line = refused("score", "--qrels", qrels, "--run", answers)
    assert "this looks like JSON lines, but --run takes lines as turn Q0" in line
    line = refused("score", "--references", references, "--answers", run)
    assert "this looks like columns, but --answers takes lines as {" in line
    line = refused("score", "--qrels", qrels, "--run", tmp_path)
    assert "a folder, not a file" in line and "--run takes one file" in line
    line = refused("score", "--qrels", qrels, "--run", tmp_path / "absent")
    assert "no such file" in line and "point --run to a file that is there" in line
    run.write_bytes(b"\xff\xfe\n")
    assert "convert the file to UTF-8" in refused("score", "--qrels", qrels, "--run", run)


def test_score_of_a_task(command: Run, tmp_path: Path) -> None:
    from uniconv_bench.progress import Silent
    from uniconv_bench.task import load_task

    answers = tmp_path / "answers.jsonl"
    gold = load_task("qrecc", "sample", progress=Silent()).references()
    answers.write_text(
        "".join(json.dumps({"turn_id": t, "answer": r[0]}) + "\n" for t, r in gold.items())
    )
    out = command("score", "--task", "qrecc", "--answers", answers, "--json")[1]
    assert json.loads(out)["scores"]["f1"]["mean"] == 1.0
    pack = f"next: uniconv-bench submit pack CARD --answers qrecc={answers}\n"
    assert command("score", "--task", "qrecc", "--answers", answers)[2] == pack
    answers.write_text(answers.read_text().partition("\n")[2])  # what `submit pack` refuses
    err = command("score", "--task", "qrecc", "--answers", answers)[2]
    assert err.splitlines()[-1] == "next: uniconv-bench export --task qrecc --out FOLDER"


# ------------------------------------------------------------------------------ doctor


def test_doctor_names_what_is_missing(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from uniconv_bench import doctor

    missing = doctor.Check("faiss", "missing", "not installed", "pip install it", needed=True)
    monkeypatch.setattr(doctor, "examine", lambda progress: [missing])
    code, out, _ = command("doctor")
    assert code == 1
    assert "pip install it" in out
    monkeypatch.setattr(doctor, "examine", lambda progress: [])
    assert command("doctor", "--json")[:2] == (0, "[]\n")


@pytest.mark.parametrize("cache", ["/proc/x", "{}/file", "{}/file/below"])
def test_a_cache_that_cannot_be_written_is_one_line(
    command: Run,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cache: str,
) -> None:
    from uniconv_bench import doctor

    (tmp_path / "file").write_text("")
    folder = cache.format(tmp_path)
    monkeypatch.setenv("UNICONV_BENCH_CACHE", folder)
    for line in ("prepare -t qrecc", "run -t qrecc -s oracle --limit 2", "show task qrecc"):
        told = refused(*line.split())
        assert told.startswith("error: the cache cannot be written: ")
        assert told.endswith(
            f"({folder}); point UNICONV_BENCH_CACHE to a folder that can be written"
        )
    # doctor looks at it first, and lives on.
    monkeypatch.setattr(doctor, "LOOKS", (doctor.LOOKS[0], doctor._machine))
    code, out, _ = command("doctor", "--json")
    first, *others = json.loads(out)
    assert (code, first["name"], first["state"]) == (1, "cache", "missing")
    assert "UNICONV_BENCH_CACHE" in first["mend"]
    assert [check["name"] for check in others] == ["cores", "memory"]


def test_results_that_cannot_be_written_are_noticed_first(
    command: Run, refused: Callable[..., str], calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("/proc/x", tmp_path / "file"):
        line = refused("run", "-t", "qrecc", "-s", "uniconv", "--results", folder)
        assert line.startswith("error: cannot be written: ")
        assert line.endswith(
            f"({folder}/sample/uniconv); point --results to a folder that can be written"
        )
    assert calls == []
    arguments = ("run", "-t", "qrecc", "-s", "uniconv", "--results", "/proc/x", "--limit", "2")
    assert command(*arguments)[0] == 0  # a limited record stays in the cache


def test_doctor_sees_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from uniconv_bench import doctor

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / "file" / "below"))
    (check,) = doctor._cache()
    assert (check.state, check.needed) == ("missing", True)
    assert str(tmp_path / "file" / "below") in check.detail


# ------------------------------------------------------------- table, leaderboard


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records of two systems on one task and of one on another."""
    folder = tmp_path / "results"
    for task, system in (("qrecc", "uniconv"), ("qrecc", "oracle"), ("inscit", "uniconv")):
        record = make_record(task, system)
        write_record(record, record_path(folder, record))
    return folder


def test_table(command: Run, results: Path) -> None:
    code, out, _ = command("table", "--results", results)
    assert code == 0
    assert out.startswith("| System | qrecc NDCG@3 | qrecc F1 | inscit")
    assert "no figure here is comparable" in out
    out = command("table", "--results", results, "-s", "uniconv", "-t", "qrecc", "-m", "f1")[1]
    assert "Oracle" not in out
    assert "inscit" not in out
    assert "NDCG" not in out
    rows = json.loads(command("table", "--results", results, "-m", "f1", "--json")[1])
    assert [(row["name"], row["task"], row["metric"]) for row in rows] == [
        ("oracle", "qrecc", "f1"),
        ("uniconv", "inscit", "f1"),
        ("uniconv", "qrecc", "f1"),
    ]


def test_table_takes_cards_and_says_what_it_leaves_out(
    command: Run, refused: Callable[..., str], results: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.toml"
    card.write_text('name = "qrecc"\ntitle = "T"\ndescription = "d"\n')
    code, out, err = command("table", "--results", results, "-t", card, "-m", "f1", "-m", "ndcg@7")
    assert code == 0
    assert out.startswith("| System | qrecc F1 |\n")
    assert err.splitlines() == [
        "no record has ndcg@7: it is left out",
        "next: uniconv-bench leaderboard build",
    ]
    line = refused("table", "--results", results, "-m", "f1", "-m", "ndgc@3")
    assert "unknown metric 'ndgc@3'" in line


def test_table_to_a_file(command: Run, refused: Callable[..., str], results: Path) -> None:
    output = results / "table.tex"
    code, out, err = command("table", "--results", results, "--format", "latex", "--output", output)
    assert (code, out) == (0, "")
    assert err == f"table: {output}\nnext: uniconv-bench leaderboard build\n"
    assert r"\toprule" in output.read_text()
    assert "no record of 'separate'" in refused("table", "--results", results, "-s", "separate")
    record = results / "sample" / "uniconv" / "qrecc.json"
    record.write_text(record.read_text().replace("0.4", "0.9", 1))
    assert str(record) in refused("table", "--results", results)


@pytest.fixture
def submission(tmp_path: Path) -> list[str | Path]:
    """The arguments of `submit pack` for a run and answers made from what is right."""
    from uniconv_bench.progress import Silent
    from uniconv_bench.runs import write_answers, write_run
    from uniconv_bench.system import Answer
    from uniconv_bench.task import load_task

    task = load_task("qrecc", "sample", progress=Silent())
    run, answers, card = (tmp_path / name for name in ("run.trec", "answers.jsonl", "card.toml"))
    gold = {t: [(p, 1.0) for p in passages] for t, passages in task.qrels().items()}
    write_run(run, gold.items(), "mine")
    write_answers(answers, (Answer(t, r[0]) for t, r in task.references().items()))
    card.write_text(
        'name = "mine"\ntitle = "Mine"\nauthors = ["A"]\ncontact = "a"\ndate = "2026-01-31"\n'
        'description = "d"\ntrained_on = []\ntasks = ["qrecc"]\nprofile = "sample"\n'
    )
    bundles = tmp_path / "leaderboards" / "submissions"
    files = ["--run", f"qrecc={run}", "--answers", f"qrecc={answers}"]
    return ["submit", "pack", card, *files, "--output", bundles]


def test_a_submission_from_files_to_the_page(
    command: Run, submission: list[str | Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "leaderboards" / "submissions" / "mine"
    code, out, err = command(*submission)
    assert (code, out) == (0, f"{bundle}\n")
    assert f"next: uniconv-bench submit check {bundle}" in err
    assert json.loads(command("submit", "check", bundle, "--json")[1])["problems"] == []
    assert "| task | metric | mean |" in command("submit", "check", bundle, "--table")[1]
    pages = json.loads(command("leaderboard", "build", "--root", tmp_path, "--json")[1])
    page = tmp_path / "leaderboards" / "sample.md"
    assert pages == [{"name": "sample", "page": str(page)}]
    assert "Mine" in page.read_text()
    (bundle / "qrecc.run.gz").write_bytes(b"")
    code, out, err = command("submit", "check", bundle)
    assert (code, err) == (1, "")
    assert "qrecc.run.gz" in out
    (bundle.parent / "README.md").write_text("Bundles.")
    code, out, err = command("leaderboard", "build", "--root", tmp_path)
    assert (code, out) == (1, "")  # nothing is left to show
    assert f"{bundle.parent / 'README.md'}: a file, not a submission; skipped\n" in err
    assert "submission mine is refused: 'qrecc.run.gz' is not the file" in err


def test_a_submission_that_is_refused(
    refused: Callable[..., str], submission: list[str | Path], tmp_path: Path, results: Path
) -> None:
    card = submission[2]
    assert "'qrecc' is not TASK=FILE" in refused("submit", "pack", card, "--run", "qrecc")
    line = refused("submit", "pack", card, "--system", "oracle", "--results", results)
    assert "not in the cache" in line
    assert "uniconv-bench run --task qrecc --system oracle --profile sample" in line
    line = refused("submit", "pack", card, "--system", "separate", "--results", results)
    assert "no record of separate on qrecc" in line
    line = refused("submit", "pack", card, "--system", "uniconvv", "--results", results)
    assert "unknown system 'uniconvv'; did you mean 'uniconv'" in line
    assert "this looks like a submission card" in refused("show", "system", card)
    plain = card.read_text()
    card.write_text(plain.replace('"2026-01-31"', "2026-01-31"))
    assert "field date: is a date, not a text" in (line := refused(*submission))
    assert line.endswith("put it in quotes")
    card.write_text(plain.replace('"mine"', '"uniconv"').replace('"Mine"', '"UniConv"'))
    line = refused(*submission)
    assert "card field name: 'uniconv' is the name of another system" in line
    assert "(and 1 more)" in line  # and so is the title
    card.write_text(plain)
    pair = submission[4]
    line = refused(*submission, "--run", pair)
    assert "two times --run for qrecc" in line
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "neither records nor" in refused("leaderboard", "build", "--root", empty)


def test_a_bundle_that_is_not_there(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absent = Path("leaderboards/submissions/my-sistem")
    assert "no such folder (leaderboards/sub" in refused("submit", "check", absent)
    card = tmp_path / "leaderboards" / "submissions" / "my-system" / "card.toml"
    card.parent.mkdir(parents=True)
    card.write_text("")
    for given in (absent, Path("my-sistem")):
        line = refused("submit", "check", given)
        assert (
            line
            == f"error: no such folder ({given}); did you mean {card.parent.relative_to(tmp_path)}?"
        )
    assert "a file" in refused("submit", "check", card)


def test_a_check_that_lacks_the_data_is_no_refusal(
    command: Run, submission: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "leaderboards" / "submissions" / "mine"
    assert command(*submission)[0] == 0
    card = bundle / "card.toml"
    card.write_text(card.read_text().replace('"sample"', '"mini"'))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["card.toml"] = digest_of_file(card)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = command("submit", "check", bundle)
    assert code == 3 and out == f"{bundle}: nothing wrong, but not all could be checked\n"
    assert "not checked: no mini data of QReCC is prepared; first run uniconv-bench prepare" in err
    code, out, _ = command("submit", "check", bundle, "--table")
    assert code == 3 and out.startswith("- Not looked at: no mini data of QReCC")
    page = tmp_path / "leaderboards" / "mini.md"
    page.write_text("as it was")
    code, out, err = command("leaderboard", "build", "--root", tmp_path)
    assert code == 2 and "no profile can be built" in err and "uniconv-bench prepare" in err
    assert page.read_text() == "as it was"


def test_a_part_of_a_site_is_not_served(refused: Callable[..., str], tmp_path: Path) -> None:
    site = tmp_path / "a site"
    (site / "sample").mkdir(parents=True)
    (site / ".uniconv-bench-site").touch()
    (site / "sample" / "index.html").touch()
    line = refused("leaderboard", "serve", site / "sample")
    assert line.endswith(f"uniconv-bench leaderboard serve '{site}'")
    line = refused("leaderboard", "serve", tmp_path / "no site")
    assert line.endswith(f"uniconv-bench leaderboard build --site '{tmp_path / 'no site'}'")


def test_a_command_to_type_next_bears_blanks(
    command: Run, submission: list[str | Path], tmp_path: Path
) -> None:
    assert command(*submission)[0] == 0
    site = tmp_path / "a site"
    _, _, err = command("leaderboard", "build", "--root", tmp_path, "--site", site)
    assert f"next: uniconv-bench leaderboard serve '{site}'" in err
