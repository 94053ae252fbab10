"""Ctrl-C ends a command soon, whatever library call it stands in.

Python tells the main thread of a signal between two of its own instructions, and a backward pass or
a request may last long. What is done survives being killed, so nobody has to wait for it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE = 0.8
"""Seconds that the main thread has to hear of it, and then once more to end in order."""
_heard = threading.Event()


def end_soon(last: str, code: int) -> None:
    """Has Ctrl-C end this process, whatever its main thread, which calls this, is at then.

    Args:
        last: what it prints if nobody else has.
        code: its exit code.
    """
    wake, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(wake, 1)[0] != signal.SIGINT:
            pass
        if _heard.wait(GRACE):
            time.sleep(GRACE)
        else:
            os.write(2, f"{last}\n".encode())
        os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


def heard() -> None:
    """The main thread says the rest."""
    _heard.set()


def go_on() -> None:
    """From here on the command itself decides what Ctrl-C means."""
    signal.set_wakeup_fd(-1)
