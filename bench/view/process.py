"""A live view's process: signals, priority, the sign that it is ready, and the terminal that it draws on.

Does not depend on what is drawn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from rich.console import Console
from rich.live import Live

from drumfire.loadgen import priority


def settle(*, idle: bool) -> None:
    """Leave Ctrl-C to the process that is watched, end in order on SIGTERM, and run at low priority."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # through the exits that put the cursor back
    priority.yield_to_others(idle=idle)


def say_ready(ready: int) -> int:
    """Write to the pipe ``ready`` that the view can be seen, and close it.

    Returns -1, with which a second call does nothing.
    """
    if ready >= 0:
        with contextlib.suppress(BrokenPipeError):  # the run has ended, and the end of the input will show it
            os.write(ready, b"r")
        os.close(ready)
    return -1


def screen(console: Console) -> Live:
    """A screen that is drawn only by ``update(..., refresh=True)`` and removed at the end."""
    return Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
