"""A signal while the main thread stands in a library call that hears nothing of it, or imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uniconv_bench.stopping import STOPPED

DEAF = """
import ctypes, signal, sys
from uniconv_bench import stopping

def deaf():
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # the call below is not broken off
    print("deaf", flush=True)
    ctypes.CDLL(None).sleep(600)  # without the interpreter's lock, as a backward pass

sys.exit(stopping.run(deaf))
"""
FORKS = """
import os, signal, time
from uniconv_bench import stopping

def work():
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"!")
        time.sleep(600)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    time.sleep(2 * stopping.GRACE)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + signal.SIGTERM

raise SystemExit(stopping.run(work))
"""
SLOW_TYPER = "print('imports', flush=True)\nimport time\ntime.sleep(600)\n"


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals that whoever began the tests ignores are not ignored by what they begin."""
    before = {number: signal.getsignal(number) for number, _ in CODES}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def ended(number: signal.Signals, *arguments: str, folder: Path | None = None) -> tuple[int, str]:
    """Exit code and stderr of a program that gets a signal after its first line."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(folder)} if folder else None,
    )
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_ends_a_deaf_command_with_one_line(number: signal.Signals, code: int) -> None:
    assert ended(number, "-c", DEAF) == (code, f"{STOPPED}\n")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_during_the_imports_is_one_line(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text(SLOW_TYPER)
    assert ended(number, "-m", "uniconv_bench", folder=tmp_path) == (code, f"{STOPPED}\n")


def test_what_ends_a_forked_child_does_not_end_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
