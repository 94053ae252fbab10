"""Result records: round trip, strictness, the seal, provenance without heavy imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from uniconv_bench import machine
from uniconv_bench.errors import UserError
from uniconv_bench.machine import energy_joules, provenance
from uniconv_bench.metrics import metric_score
from uniconv_bench.records import (
    Provenance,
    ResultRecord,
    Score,
    read_record,
    read_records,
    record_path,
    write_record,
)


def make_score(metric: str, mean: float, half: float = 0.05, n: int = 20) -> Score:
    stage = "generation" if metric.startswith("f1") else "retrieval"
    ci95 = (max(mean - half, 0.0), min(mean + half, 1.0))
    return Score(metric=metric, stage=stage, mean=mean, ci95=ci95, n=n, conversations=5)  # type: ignore[arg-type]


def make_record(
    task: str = "qrecc",
    system: str = "uniconv",
    scores: tuple[Score, ...] = (make_score("ndcg@3", 0.4), make_score("f1", 0.25)),
    *,
    profile: str = "sample",
    limit: int | None = None,
    **system_fields: Any,
) -> ResultRecord:
    counts = dict.fromkeys(
        ("turns", "judged_retrieval", "judged_generation", "missing_run", "missing_answers"), 20
    )
    content = {
        "task": {
            "name": task,
            "version": 1,
            "profile": profile,
            "split": "test",
            "card_digest": "a" * 64,
            "data_digest": "b" * 64,
        },
        "system": {
            "name": system,
            "title": system.title(),
            "backbone": "smollm2-135m",
            "backbone_revision": "0.1.2",
            "adapters": {"unified": "c" * 64},
            "settings": {"inference": {"top_k": 3, "depth": 100}},
            **system_fields,
        },
        "scores": [score.model_dump(mode="json") for score in scores],
        "counts": {**counts, "empty_answers": 0},
        "limit": limit,
        "digests": {"run": "d" * 64, "answers": "e" * 64, "scores": None},
        "provenance": FIXED.model_dump(mode="json"),
    }
    return ResultRecord.model_validate_json(json.dumps(content))


FIXED = Provenance(
    package="0.1.0",
    commit="0123456789abcdef",
    dirty=False,
    python="3.11.7",
    packages={"torch": "2.13.0"},
    hardware="Test CPU, 2 cores",
    platform="Linux",
    training={},
    seconds={"retrieve": 1.25},
    peak_memory_bytes=1 << 30,
    energy_joules=None,
    created="2026-01-02T03:04:05Z",
)


def test_a_record_comes_back_equal_from_its_place(tmp_path: Path) -> None:
    record = make_record(scores=(make_score("ndcg@3", 0.1 + 0.2), make_score("f1", 1 / 3)))
    path = record_path(tmp_path, record)
    assert path == tmp_path / "sample" / "uniconv" / "qrecc.json"
    write_record(record, path)
    assert read_record(path) == record and read_records(tmp_path) == [record]
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "outcome.json").write_text("{}")
    (tmp_path / "benchmarks.json").write_text("{}")
    assert read_records(tmp_path) == [record]  # what a study found is no record
    on_disk = json.loads(path.read_text())
    assert on_disk["digest"] == record.digest == record.model_dump(mode="json")["digest"]
    assert record.score("f1") == record.scores[1] and record.score("mrr") is None


def test_of_a_part_of_a_dataset_a_record_says_in_what_and_of_a_whole_one_nothing(
    tmp_path: Path,
) -> None:
    """So that records from before there were parts keep their digests."""
    record, whole = make_record(), make_record()
    assert "part" not in whole.model_dump(mode="json")["task"]
    task = record.task.model_copy(update={"part": ("4 of 40 turns of test",)})
    record = record.model_copy(update={"task": task})
    write_record(record, tmp_path / "r.json")
    assert read_record(tmp_path / "r.json").task.part == ("4 of 40 turns of test",)
    assert record.digest != whole.digest


def test_the_digest_covers_every_other_field() -> None:
    record = make_record()

    def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if isinstance(value, (dict, list)) and value:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return [leaf for key, item in items for leaf in leaves(item, (*path, key))]
        return [path]

    content = record.model_dump(mode="json", exclude={"digest"})
    changed = 0
    for path in leaves(content):
        copy = json.loads(json.dumps(content))
        place = copy
        for key in path[:-1]:
            place = place[key]
        old = place[path[-1]]
        place[path[-1]] = old + "x" if isinstance(old, str) else 0.41 if old != 0.41 else 0.42
        try:
            other = ResultRecord.model_validate_json(json.dumps(copy))
        except ValidationError:
            continue
        changed += 1
        assert other.digest != record.digest, path
    assert changed > 10


def test_a_record_edited_by_hand_is_refused(tmp_path: Path) -> None:
    path = write_record(make_record(), tmp_path / "r.json")
    path.write_text(path.read_text().replace('"mean": 0.25', '"mean": 0.26'))
    with pytest.raises(UserError, match=r"digest does not fit.*r\.json"):
        read_record(path)
    content = make_record().model_dump(mode="json")
    del content["digest"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="digest does not fit"):
        read_record(path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("scores", 0, "mean"), "0.4", "field scores.0.mean"),
        (("scores", 0, "mean"), 40.0, "field scores.0.mean"),
        (("scores", 0, "ci95"), [0.6, 0.4], "lower end"),
        (("scores", 0, "ci95"), [0.4], "field scores.0.ci95"),
        (("scores", 0, "n"), 0, "field scores.0.n"),
        (("scores", 1, "metric"), "ndcg@3", "comes twice"),
        (("task", "profile"), "tiny", "field task.profile"),
        (("system", "speed"), 1, "field system.speed"),
        (("digests", "run"), "abc", "field digests.run"),
        (("provenance", "energy_joules"), -1, "field provenance.energy_joules"),
        (("provenance", "created"), "yesterday", "field provenance.created"),
        (("schema_version",), 1, "schema version 1"),
    ],
)
def test_a_malformed_record_names_the_field(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    content = make_record().model_dump(mode="json")
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "r.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_record(file)


def test_nan_never_enters_a_record(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        make_score("f1", float("nan"))
    file = write_record(make_record(), tmp_path / "r.json")
    file.write_text(file.read_text().replace('"mean": 0.25', '"mean": NaN'))
    with pytest.raises(UserError, match=r"r\.json"):
        read_record(file)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_records(tmp_path / "absent")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match=r"list\.json"):
        read_records(tmp_path)


def test_scores_of_a_record_come_from_the_per_turn_values() -> None:
    score = metric_score("ndcg@3", {"a_1": 1.0, "a_2": 0.0, "b_1": 0.5})
    assert (score.stage, score.mean, score.n, score.conversations) == ("retrieval", 0.5, 3, 2)
    assert score.ci95[0] <= 0.5 <= score.ci95[1]


def test_provenance_tells_the_truth_about_this_checkout() -> None:
    root = Path(machine.__file__).resolve().parents[1]
    found = provenance({"retrieve": 1.23456}, {})
    if (root / ".git").exists():
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True
        )
        assert found.commit == head.stdout.strip() and isinstance(found.dirty, bool)
    else:
        assert found.commit is None and found.dirty is None
    assert found.seconds == {"retrieve": 1.235} and found.training == {}
    assert found.packages["ranx"] and found.peak_memory_bytes > 1 << 20
    assert "cores" in found.hardware


def test_outside_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment inside somebody's repository must not report that repository."""
    inside = tmp_path / "venv" / "site-packages" / "uniconv_bench" / "machine.py"
    inside.parent.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(machine, "__file__", str(inside))
    found = provenance({}, {})
    assert found.commit is None and found.dirty is None


def test_energy_is_the_difference_of_the_counters_or_none(tmp_path: Path) -> None:
    assert energy_joules(tmp_path) is None
    for i, value in enumerate((1_500_000, 500_000)):
        (tmp_path / f"intel-rapl:{i}").mkdir()
        (tmp_path / f"intel-rapl:{i}" / "energy_uj").write_text(f"{value}\n")
    assert energy_joules(tmp_path) == 2.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("locked")
    assert energy_joules(tmp_path) is None
    assert machine._since(2.0, 5.5) == 3.5
    assert machine._since(None, 5.5) is machine._since(2.0, None) is machine._since(6, 5) is None


def test_provenance_imports_no_torch() -> None:
    code = (
        "import sys; from uniconv_bench.machine import provenance; provenance({}, {}); "
        "print([m for m in ('torch', 'numpy', 'numba', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
