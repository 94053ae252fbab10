"""The short form of `fuzz/campaign.py`, the cases that it found, and proof that it finds any."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzz import campaign, mutations
from fuzz.strategies import inputs
from fuzz.target import Target, of_file
from fuzz.targets import GROUPS, targets
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FOUND = Path(__file__).parent / "fuzz" / "found"
SLOW = ("prepare", "bundle")
QUICK = [target for group in GROUPS if group not in SLOW for target in targets(group)]


def short(target: Target, folder: Path, examples: int) -> None:
    """The sound file is taken, and no other brings anything but a refusal."""
    target.lay(folder)
    assert target.takes(target.seeds[0], folder)

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def tried(content: bytes) -> None:
        with campaign.watched():
            target.takes(content, folder)

    tried()


@pytest.mark.parametrize("target", QUICK, ids=lambda target: target.name)
def test_parsers_of_outside_input(target: Target, tmp_path: Path, private_cache: Path) -> None:
    short(target, tmp_path, 8)


@pytest.mark.slow
@pytest.mark.parametrize("group", SLOW)
def test_slow_parsers_of_outside_input(group: str, tmp_path: Path, private_cache: Path) -> None:
    for number, target in enumerate(targets(group)):
        short(target, tmp_path / str(number), 4)


@pytest.mark.parametrize(
    "case", sorted(path for path in FOUND.rglob("*") if path.is_file()), ids=lambda path: path.name
)
def test_cases_that_a_campaign_found(case: Path, tmp_path: Path, private_cache: Path) -> None:
    name = case.parent.relative_to(FOUND).as_posix()
    (target,) = (target for target in targets(name) if target.name == name)
    target.lay(tmp_path)
    target.takes(case.read_bytes(), tmp_path)


def _wrong(path: Path) -> None:
    """A parser that raises what it should not, and hangs."""
    content = path.read_bytes()
    while len(content) % 7 == 0:
        pass
    json.loads(content)


def test_a_campaign_counts_keeps_what_it_finds_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "BATCH", 50)
    target = of_file("file/wrong", _wrong, mutations.json_file, b'{"key": {"a": 1}}')
    monkeypatch.setattr(campaign, "LONGEST", 0.05)
    for wanted in (50, 120):
        assert campaign.forked(target, wanted, "hypothesis", tmp_path)
        counts = campaign.counted(target, tmp_path, "hypothesis")
        assert counts["inputs"] >= wanted and 0 < counts["faults"] < counts["inputs"]
    found = [path.read_text() for path in (tmp_path / "found" / target.name).glob("*.txt")]
    for fault in ("JSONDecodeError", "HungError"):
        assert any(fault in text for text in found), fault
    total = campaign.summary(tmp_path)
    assert total["inputs"] == counts["inputs"] and list(total["inputs_per_second"])


@pytest.mark.parametrize(("read", "code"), [(_wrong, 1), (Path.read_bytes, 0)])
def test_a_campaign_fails_if_it_finds_anything(
    read: Callable[[Path], object], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = of_file("file/any", read, mutations.json_file, b'{"key": {"a": 1}}')
    monkeypatch.setattr(campaign, "LONGEST", 0.05)
    monkeypatch.setattr(campaign, "targets", lambda start, engine: [target])
    monkeypatch.setattr("sys.argv", ["campaign", "--inputs", "60", "--state", str(tmp_path)])
    assert campaign.main() == code


def test_what_hangs_is_seen() -> None:
    with pytest.raises(campaign.HungError), campaign.watched(0.05):
        while True:
            pass
    with pytest.raises(campaign.HungError), campaign.watched(0.01):
        time.sleep(60)


@given(st.integers(0, 2**32), st.sampled_from(QUICK))
@settings(max_examples=30, derandomize=True, deadline=None, database=None)
def test_the_mutator_repeats_itself(seed: int, target: Target) -> None:
    one, two = (mutations.mutated(target.seeds[0], target.mutator, Random(seed)) for _ in range(2))
    assert one == two
