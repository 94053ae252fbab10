"""Ctrl-C while the main thread stands in a library call that hears nothing of it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DEAF = """
import ctypes, signal, sys
from uniconv_bench import cli

def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the call below is not broken off
    print("deaf", flush=True)
    ctypes.CDLL(None).sleep(600)  # without the interpreter's lock, as a backward pass

cli.app.command("deaf")(deaf)
sys.argv = ["uniconv-bench", "deaf"]
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_an_interrupt_ends_a_deaf_command_with_one_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told == "stopped; run the same command again to go on\n"
