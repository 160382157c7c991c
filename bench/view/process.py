"""A live view's process: signals, priority, what it writes to the run's process, and the terminal that it draws on.

Does not depend on what is drawn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from drumfire.loadgen import priority

READY, END = b"r", b"q"
"""What a view's process writes to the run's: the view can be seen; its user ends the run."""


def settle(*, idle: bool) -> None:
    """Leave Ctrl-C to the process that is watched, end in order on SIGTERM, and run at low priority."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # through the exits that put the cursor back
    for number in (signal.SIGTTIN, signal.SIGTTOU):  # else a view in the background would stop the run too
        signal.signal(number, signal.SIG_IGN)
    priority.yield_to_others(idle=idle)


def write(line: int, what: bytes) -> None:
    """Write ``READY`` or ``END`` to the run's process; ``line``: the descriptor of the pipe to it."""
    with contextlib.suppress(BrokenPipeError):  # the run has ended, and the end of the input will show it
        os.write(line, what)


class Screen:
    """Lines at the bottom of a terminal, drawn over the ones before and removed at the end: ``with Screen(...)``.

    Each frame is one write, and nothing is erased before it is drawn anew, so nothing flickers.  A frame must not be
    higher than the terminal: what scrolls away cannot be taken back.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[int] = []
        """The columns of each line drawn."""
        self._hidden = False

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self, *, leave: bool = False) -> None:
        """Take the lines away, and put the cursor back; they can be drawn again.

        ``leave``: let the lines be, as others have written below them.
        """
        if self._hidden:
            self._hidden = False
            self._write("\x1b[?25h" if leave else f"{self._home()}\x1b[J\x1b[?25h")
            self._lines = []

    def draw(self, text: Text) -> None:
        with self._console.capture() as captured:
            self._console.print(text, end="", no_wrap=True, overflow="crop")
        frame = "\x1b[K\n".join(captured.get().split("\n"))
        home = ("" if self._hidden else "\x1b[?25l") + self._home()
        self._hidden = True
        columns = self._console.width
        self._lines = [min(cell_len(line), columns) for line in text.plain.split("\n")]
        with signals_wait():
            self._write(f"{home}{frame}\x1b[J")  # erases what is left of each line, and of a higher frame

    def _home(self) -> str:
        """To the first line drawn; where the terminal is narrower now, it has wrapped the longer ones."""
        columns = max(self._console.width, 1)
        rows = sum(max(-(-line // columns), 1) for line in self._lines)
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "")

    def _write(self, text: str) -> None:
        if not self._console.is_dumb_terminal:
            self._console.file.write(text)
            self._console.file.flush()


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let no handler, which writes too, come in the midst of a frame."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
