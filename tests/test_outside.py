"""Code of third parties: what it leaves out scores 0, what it does wrong is one line naming it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import CODE, CUSTOM
from test_prepare import third_party

from uniconv_bench import assembly, cli, definitions, evaluate, metrics, task
from uniconv_bench.errors import UserError
from uniconv_bench.progress import Silent
from uniconv_bench.records import read_record
from uniconv_bench.registry import system_card, task_card
from uniconv_bench.runs import read_answers, read_run, write_run
from uniconv_bench.task import load_task
from uniconv_bench.turnscores import read_scores

YIELD = "            yield turn.turn_id, [(corpus.ids[i], float(-i)) for i in range(self.count)]"
ANSWER = "            yield Answer(turn.turn_id, evidence[turn.turn_id][0].text)"


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def test_a_metric_whose_package_is_absent_is_left_out_and_said(
    parrot: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "find_spec", lambda name: None)
    notes = Notes()
    given: dict[str, Any] = {"limit": 4, "results": None, "progress": notes}
    record, _ = evaluate.run("inscit", str(parrot()), "sample", **given)
    assert [s.metric for s in record.scores] == ["ndcg@3", "recall@10", "mrr", "f1"]
    told = "left out: metric 'f1_inscit' needs spacy, which is not installed; pip install"
    assert [line for line in notes.lines if line.startswith(told)]


def test_a_record_gets_the_metrics_that_its_card_has_got_since(
    parrot: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card, path = task_card("topiocqa")
    given: dict[str, Any] = {"results": tmp_path / "results", "progress": Notes()}
    before = card.model_copy(update={"metrics": ("mrr", "f1")})
    with monkeypatch.context() as earlier:
        earlier.setattr(task, "task_card", lambda name: (before, path))
        old, kept = evaluate.run("topiocqa", str(parrot()), "sample", **given)
    beside = read_scores(old, kept)
    assert {m: len(values) for m, values in beside.items()} == {s.metric: s.n for s in old.scores}
    monkeypatch.setattr(assembly, "system_card", lambda name: system_card(str(parrot())))
    command = ("rescore", "--results", str(tmp_path / "results"))
    assert cli.main(command) == 0 and capsys.readouterr().out == f"{kept}\n"
    new = read_record(kept)
    assert [s.metric for s in old.scores] == ["mrr", "f1"]
    assert [s.metric for s in new.scores] == list(card.metrics)
    assert new.score("f1") == old.score("f1") and new.provenance == old.provenance
    assert new.digests.answers == old.digests.answers and new.digests.scores != old.digests.scores
    assert list(read_scores(new, kept)) == list(card.metrics)  # the new ones, by turn
    assert new.task.card_digest == card.digest() != old.task.card_digest
    assert cli.main(command) == 0 and capsys.readouterr().out == ""  # nothing is left to do
    evaluate.outputs(new)["answers.jsonl"].unlink()
    assert cli.main(command) == 0 and "left as it is" in capsys.readouterr().err


@pytest.fixture
def parrot(tmp_path: Path, private_cache: Path) -> Callable[..., Path]:
    """Writes the parrot with a piece of its code replaced."""

    def write(old: str = "", new: str = "") -> Path:
        (tmp_path / "parrot.toml").write_text(CUSTOM)
        assert old in CODE
        (tmp_path / "parrot.py").write_text(CODE.replace(old, new))
        return tmp_path / "parrot.toml"

    return write


def refused(card: Path) -> str:
    with pytest.raises(UserError) as caught:
        evaluate.generate("qrecc", str(card), "sample", limit=4, progress=Silent())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("self.count = settings", "self.count = settings['no']", "First.__init__ failed: KeyError"),
        ('{"count": self.count}', "1 / 0", "First.fingerprint failed: ZeroDivisionError: division"),
        ('{"count": self.count}', "{'count': self}", "First.fingerprint failed: TypeError: Object"),
        (YIELD, "            raise RuntimeError('two\\nlines')", "failed: RuntimeError: two lines"),
        (YIELD, "            yield turn.turn_id", "First.retrieve failed: ValueError"),
        (
            YIELD,
            "            yield turn.turn_id, [('p', 'high')]",
            "First.retrieve failed: TypeError",
        ),
        (YIELD, "            yield 'a_9', []", "First.retrieve yielded turn 'a_9', which it was"),
        (YIELD, f"{YIELD}\n{YIELD}", "First.retrieve yielded turn '1_1' twice"),
        (ANSWER, "            raise OSError(28, 'No space')", "Echo.generate failed: OSError"),
        (ANSWER, "            yield turn.turn_id, 'text'", "it gave tuple, not Answer"),
        (ANSWER, "            yield Answer(turn.turn_id, None)", "is NoneType, not str"),
        (ANSWER, "            yield Answer('a_9', 'x')", "Echo.generate yielded turn 'a_9', which"),
        (ANSWER, f"{ANSWER}\n{ANSWER}", "twice"),
        ("class First:", "class First", "import of parrot.py failed: SyntaxError"),
        ("class First:", "print(nothing)\nclass First:", "import of parrot.py failed: NameError"),
    ],
)
def test_what_it_does_wrong_is_one_line(
    parrot: Callable[..., Path], old: str, new: str, told: str
) -> None:
    line = refused(parrot(old, new))
    assert told in line
    assert "parrot.py" in line


def test_the_line_at_fault_is_named(parrot: Callable[..., Path]) -> None:
    line = refused(parrot(YIELD, "            raise RuntimeError('no')"))
    number = CODE.splitlines().index(YIELD) + 1
    assert f"parrot.py, line {number}); mend it (--debug shows the traceback)" in line


def test_turns_left_out_are_told_and_the_others_kept(parrot: Callable[..., Path]) -> None:
    card = parrot("for turn in reversed(turns):", "for turn in turns[1:]:")
    notes = Notes()
    path = evaluate.generate("qrecc", str(card), "sample", limit=4, progress=notes)
    turns = [t.turn_id for t in load_task("qrecc", "sample", progress=Silent()).turns()[:4]]
    assert list(read_answers(path)) == turns[1:]
    assert notes.lines[-1] == "parrot has no answer for 1 of 4 turns, which score 0 if judged"


@pytest.mark.parametrize("new", ["            yield from ()", "            yield turn.turn_id, []"])
def test_a_retriever_that_finds_nothing_scores_zero(
    parrot: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    card = parrot(YIELD, new)
    source = card.with_suffix(".py")
    source.write_text(source.read_text().replace("evidence[turn.turn_id][0].text", '"so"'))

    def zero(references: Any, answers: Any, names: Any) -> dict[str, dict[str, float]]:
        return {name: dict.fromkeys(references, 0.0) for name in names}

    monkeypatch.setattr(metrics, "score_answers", zero)  # not looked at here
    notes = Notes()
    record, _ = evaluate.run("qrecc", str(card), "sample", limit=4, results=None, progress=notes)
    assert {s.metric: s.mean for s in record.scores if s.stage == "retrieval"} == {
        "ndcg@3": 0.0,
        "recall@10": 0.0,
        "mrr": 0.0,
    }
    assert record.counts.missing_run == record.counts.judged_retrieval > 0
    assert "parrot has no passages for 4 of 4 turns, which score 0 if judged" in notes.lines
    run_file = evaluate.outputs(record)["run.trec"]
    assert read_run(run_file) == {}


def test_energy_is_told_only_of_work_done_here(
    parrot: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench import machine

    counter = iter(range(1, 100))
    monkeypatch.setattr(machine, "energy_joules", lambda: float(next(counter)))
    monkeypatch.setattr(metrics, "score_run", lambda *args: {})
    monkeypatch.setattr(metrics, "score_answers", lambda *args: {})
    card, results = parrot(), tmp_path / "results"

    def energy(**options: Any) -> float | None:
        options = {"results": results, "progress": Silent()} | options
        return evaluate.run("qrecc", str(card), "sample", **options)[0].provenance.energy_joules

    assert energy() is not None
    evaluate.retrieve("qrecc", str(card), "sample", limit=3, progress=Silent())
    assert energy(limit=3) is None  # the ranking was there


def test_a_record_that_says_the_same_is_left_alone(
    parrot: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "score_run", lambda *args: {})
    monkeypatch.setattr(metrics, "score_answers", lambda *args: {})
    card, results, notes = parrot(), tmp_path / "results", Notes()

    def run(cache: str) -> tuple[Any, Path, bytes]:
        monkeypatch.setenv("UNICONV_BENCH_CACHE", str(tmp_path / cache))
        record, path = evaluate.run("qrecc", str(card), "sample", results=results, progress=notes)
        return record, path, path.read_bytes()

    first = run("one")
    assert not any("unchanged" in line for line in notes.lines)
    assert run("two") == first  # made anew, with other seconds
    assert notes.lines[-1].startswith("record unchanged")
    first[1].write_text("broken")
    assert run("two")[1] == first[1]
    assert first[1].read_bytes() != b"broken"
    card.write_text(CUSTOM.replace("Somebody else's", "My"))
    notes.lines.clear()
    assert run("two")[2] != first[2]
    assert not any("unchanged" in line for line in notes.lines)


@pytest.mark.parametrize("name", ["splits", "conversations", "passages"])
def test_a_task_module_without_a_function(name: str, tmp_path: Path, private_cache: Path) -> None:
    path = third_party(tmp_path)
    source = path.with_suffix(".py")
    source.write_text(source.read_text().replace(f"def {name}(", f"def other_{name}("))
    with pytest.raises(UserError, match=rf"no function {name} in this module \({source}\)"):
        load_task(str(path), "sample", progress=Silent())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('return ("test",)', "return 1 / 0", "mine.splits failed: ZeroDivisionError"),
        ("    yield Conversation", "    yield {}['a']", "mine.conversations failed: KeyError: 'a'"),
        ('Passage("p", "because")', '("p", "because")', "mine.passages failed: TypeError: it gave"),
        ("def passages", "def def", "import of mine.py failed: SyntaxError"),
    ],
)
def test_a_task_module_that_fails(
    old: str, new: str, told: str, tmp_path: Path, private_cache: Path
) -> None:
    path = third_party(tmp_path)
    source = path.with_suffix(".py")
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    with pytest.raises(UserError, match="mine.py") as caught:
        load_task(str(path), "sample", progress=Silent())
    assert told in str(caught.value)
    assert list((private_cache / "tasks").glob("*")) == []


def ranking_of(task: str, folder: Path) -> Path:
    turns = load_task(task, "sample", progress=Silent()).turns()
    rows = {turn.turn_id: [(p, 1.0) for p in turn.gold] for turn in turns if turn.gold}
    write_run(folder / f"{task}.trec", rows.items(), "x")
    return folder / f"{task}.trec"


def test_a_run_of_another_task_is_not_answered_from(
    parrot: Callable[..., Path], tmp_path: Path
) -> None:
    card, notes = str(parrot(ANSWER, '            yield Answer(turn.turn_id, "so")')), Notes()
    other = ranking_of("topiocqa", tmp_path)
    with pytest.raises(UserError, match=r"are not in the corpus of qrecc.*topiocqa\.trec.*--task"):
        evaluate.generate("qrecc", card, "sample", run=other, progress=notes)
    lines = ranking_of("qrecc", tmp_path).read_text().splitlines(keepends=True)
    mine = tmp_path / "mine.trec"
    mine.write_text(lines[0])
    evaluate.generate("qrecc", card, "sample", run=mine, progress=notes)
    assert "mine.trec ranks 1 of " in "".join(notes.lines)
    mine.write_text(lines[0].replace(lines[0].split("\t")[0], "elsewhere_1"))
    with pytest.raises(UserError, match="no turn to answer is ranked in this file"):
        evaluate.generate("qrecc", card, "sample", run=mine, progress=notes)
    mine.write_text("")
    with pytest.raises(UserError, match="no turn to answer is ranked in this file"):
        evaluate.generate("qrecc", card, "sample", run=mine, progress=notes)


def test_a_bug_of_our_own_keeps_its_traceback(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniconv_bench.baselines.bm25 import Bm25Retriever

    def broken(self: Any, *args: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Bm25Retriever, "retrieve", broken)
    with pytest.raises(ZeroDivisionError):
        evaluate.retrieve("qrecc", "bm25+llm", "sample", limit=2, progress=Silent())
