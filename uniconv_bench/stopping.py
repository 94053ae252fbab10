"""Ctrl-C, SIGTERM and SIGHUP end the program soon and with one line, whatever call it stands in.

Python tells the main thread of a signal between two of its own instructions, and a backward pass or
a request may last long. What is done survives being killed, so nobody has to wait for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

STOPPED = "stopped; run the same command again to go on"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 0.8
"""Seconds that the main thread has to end in order."""


class StopError(SystemExit):
    """Another program, or a terminal that was closed, ends this one."""


def run(work: Callable[[], int]) -> int:
    """Does the program's whole work, its imports included; returns its exit code.

    Where a signal stopped it this ends the process itself: the interpreter's own end takes seconds
    once torch is loaded.
    """
    _listen()
    try:
        code = work()
    except (KeyboardInterrupt, StopError) as stop:  # left alone by `work`, or too soon for it
        if "--debug" in sys.argv:
            traceback.print_exc()
        _tell()
        code = int(stop.code or 0) if isinstance(stop, StopError) else 128 + signal.SIGINT
    if code <= 128:
        return code
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def go_on() -> None:
    """From here on the command itself decides what Ctrl-C means."""
    signal.set_wakeup_fd(-1)


def _listen() -> None:
    """Has a thread watch over the main one, which calls this."""
    wake, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in SIGNALS[1:]:
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is not
            signal.signal(number, _stop)
    os.register_at_fork(after_in_child=_leave)
    threading.Thread(target=_watch, args=(wake,), daemon=True).start()


def _watch(wake: int) -> None:
    while (number := os.read(wake, 1)[0]) not in SIGNALS:
        pass
    time.sleep(GRACE)
    _tell()
    os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopError(128 + number)


def _leave() -> None:
    """A forked child neither wakes its parent's watch nor words its own end."""
    go_on()
    for number in SIGNALS[1:]:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


def _tell() -> None:
    with suppress(OSError):
        os.write(2, f"{STOPPED}\n".encode())
