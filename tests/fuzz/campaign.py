"""A long fuzzing campaign over every parser of outside input: bounded, counted, resumable.

    python tests/fuzz/campaign.py --inputs 1000000 --state FOLDER [--engine atheris] [--only NAME]

Each target runs in a process of its own, in which more than 5 seconds for an input, or 1 GiB of
memory beyond what it had at its start, is a fault like any exception but a `UserError`. What was
counted and what was found stand in FOLDER; the same command goes on from there. `hypothesis`
draws mutations of sound files; `atheris` (`pip install atheris`) is led by coverage. Exit code 1 if
there are faults, or if a target's process did not end well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzz.target import Target

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

LONGEST, MOST_MEMORY = 5.0, 1 << 30
BATCH = 500
NOTHING = {"inputs": 0, "taken": 0, "faults": 0, "seconds": 0.0}
MEMORY = Path("/dev/shm")


class HungError(BaseException):
    """No parser catches it."""


@contextmanager
def watched(longest: float = LONGEST) -> Iterator[None]:
    """Raises in what works for longer (a busy machine is no fault), or waits for ten times that."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise HungError(f"more than {longest:g} s")

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, ring) for number in timers}
    signal.setitimer(signal.ITIMER_PROF, longest)
    signal.setitimer(signal.ITIMER_REAL, 10 * longest)
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def counts_file(target: Target, state: Path, engine: str) -> Path:
    return state / "counts" / f"{target.name.replace('/', '__')}.{engine}.json"


def counted(target: Target, state: Path, engine: str) -> dict[str, Any]:
    """What earlier processes counted."""
    file = counts_file(target, state, engine)
    return json.loads(file.read_text()) if file.exists() else dict(NOTHING)


class Trial:
    """Throws inputs at a target; counts them, keeps those that it fails on."""

    def __init__(self, target: Target, folder: Path, state: Path, engine: str, wanted: int):
        self.target, self.folder, self.wanted = target, folder, wanted
        self.found = state / "found" / target.name
        self.file, self.counts = counts_file(target, state, engine), counted(target, state, engine)
        self.since = time.monotonic()
        target.lay(folder)

    def __call__(self, content: bytes) -> None:
        self.counts["inputs"] += 1
        try:
            with watched(LONGEST):
                self.counts["taken"] += self.target.takes(content, self.folder)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.keep(content, error)
        if self.counts["inputs"] % BATCH == 0 or self.counts["inputs"] == self.wanted:
            self.save()

    def keep(self, content: bytes, error: BaseException) -> None:
        """One input for each place that a fault comes from."""
        self.counts["faults"] += 1
        place = [(f.name, f.lineno) for f in traceback.extract_tb(error.__traceback__)][-3:]
        name = hashlib.sha256(repr((type(error).__name__, place)).encode()).hexdigest()[:12]
        if not (self.found / name).exists():
            self.found.mkdir(parents=True, exist_ok=True)
            (self.found / name).write_bytes(content)
            told = "".join(traceback.format_exception(error))[-6000:]
            (self.found / f"{name}.txt").write_text(told, errors="backslashreplace")
            self.target.lay(self.folder)

    def save(self) -> None:
        now = time.monotonic()
        self.counts["seconds"] += now - self.since
        self.since = now
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".new")
        aside.write_text(json.dumps(self.counts))
        aside.replace(self.file)


def by_hypothesis(trial: Trial) -> None:
    from fuzz.strategies import inputs
    from hypothesis import HealthCheck, Phase, given, seed, settings

    quiet = settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    def batch(content: bytes) -> None:
        trial(content)

    while (done := trial.counts["inputs"]) < trial.wanted:
        seed(done)(quiet(given(inputs(trial.target))(batch)))()
        trial.save()


def by_atheris(trial: Trial, state: Path) -> None:
    import atheris
    from fuzz.mutations import mutated

    corpus = state / "corpus" / trial.target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(trial.target.seeds):
        (corpus / f"seed-{number}").write_bytes(content)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return bytes(atheris.Mutate(data, most))
        return mutated(data, trial.target.mutator, Random(seed))[:most]

    left = trial.wanted - trial.counts["inputs"]
    flags = [f"-runs={left}", "-max_len=150000", "-len_control=0", "-print_final_stats=0"]
    flags += ["-verbosity=0", f"-seed={trial.counts['inputs'] + 1}"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], trial, custom_mutator=mutator)
    atheris.Fuzz()  # ends the process, not by way of Python


def one(target: Target, wanted: int, engine: str, state: Path) -> None:
    """Fuzzes a target in this process."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        folder = Path(place) / "in"
        os.environ["UNICONV_BENCH_CACHE"] = str(Path(place) / "cache")
        trial = Trial(target, folder, state, engine, wanted)
        assert target.takes(target.seeds[0], folder), f"{target.name}: its sound file is refused"
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        if engine == "atheris":
            by_atheris(trial, state)
        else:
            by_hypothesis(trial)


def forked(target: Target, wanted: int, engine: str, state: Path) -> bool:
    """Fuzzes a target in a process that has everything imported; whether all went well."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        one(target, wanted, engine, state)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def targets(start: str, engine: str) -> list[Target]:
    """Those whose names begin so; for atheris with the program's code instrumented."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["uniconv_bench"], enable_loader_override=False):
            import fuzz.targets
    import fuzz.targets

    return fuzz.targets.targets(start)


def summary(state: Path) -> dict[str, Any]:
    """Sums over all that was counted."""
    total, rates = dict(NOTHING), {}
    for file in sorted((state / "counts").glob("*.json")):
        counts = json.loads(file.read_text())
        for key in total:
            total[key] += counts[key]
        rates[file.stem] = round(counts["inputs"] / max(counts["seconds"], 1e-9))
    return {**total, "inputs_per_second": rates}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all")
    parser.add_argument("--state", type=Path, required=True, help="where to go on from")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    parser.add_argument("--only", default="", help="targets whose names begin so")
    asked = parser.parse_args()
    state = asked.state.absolute()
    chosen = targets(asked.only, asked.engine)
    whole = sum(target.share for target in chosen)
    died = []
    for target in chosen:
        wanted = round(asked.inputs * target.share / whole)
        if counted(target, state, asked.engine)["inputs"] >= wanted:
            continue
        if not forked(target, wanted, asked.engine, state):
            died.append(target.name)
    found = summary(state)
    sys.stdout.write(json.dumps({**found, "died": died}, indent=1) + "\n")
    return 1 if died or found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
