"""Ctrl-C ends a command soon, whatever library call it stands in.

Python tells the main thread of a signal between two of its own instructions, and a backward pass or
a request may last long. What is done survives being killed, so nobody has to wait for it.
"""

from __future__ import annotations

import os
import signal
import threading

GRACE = 1.0
"""Seconds that the main thread has to end in order."""


def end_soon(last: str, code: int) -> None:
    """Has Ctrl-C end this process after `GRACE` at the latest; called from the main thread.

    Args:
        last: what it prints if it did not end in order.
        code: its exit code then.
    """
    wake, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def watch() -> None:
        while os.read(wake, 1)[0] != signal.SIGINT:
            pass
        threading.Event().wait(GRACE)
        os.write(2, f"{last}\n".encode())
        os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


def go_on() -> None:
    """From here on the command itself decides what Ctrl-C means."""
    signal.set_wakeup_fd(-1)
