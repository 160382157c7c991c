"""A live view's process: signals, priority, the sign that it is ready, and the terminal that it draws on.

Does not depend on what is drawn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from rich.console import Console
from rich.text import Text

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


class Screen:
    """Lines at the bottom of a terminal, drawn over the ones before and removed at the end: ``with Screen(...)``.

    Each frame is one write, and nothing is erased before it is drawn anew, so nothing flickers.  A frame must not be
    higher than the terminal: what scrolls away cannot be taken back.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._up = 0
        """Lines from the first one drawn to the cursor."""

    def __enter__(self) -> Screen:
        self._write("\x1b[?25l")  # hides the cursor
        return self

    def __exit__(self, *_: object) -> None:
        self._write(f"{self._home()}\x1b[J\x1b[?25h")

    def draw(self, text: Text) -> None:
        with self._console.capture() as captured:
            self._console.print(text, end="", no_wrap=True, overflow="crop")
        lines = captured.get().split("\n")
        frame = "\x1b[K\n".join(lines)
        home, self._up = self._home(), len(lines) - 1
        self._write(f"{home}{frame}\x1b[J")  # erases what is left of each line, and of a higher frame

    def _home(self) -> str:
        return "\r" + (f"\x1b[{self._up}A" if self._up else "")

    def _write(self, text: str) -> None:
        if not self._console.is_dumb_terminal:
            self._console.file.write(text)
            self._console.file.flush()
