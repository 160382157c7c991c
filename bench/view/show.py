"""The forms of a live view: a screen with keys, a line from time to time, or nothing.

Does not depend on where looks come from.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self, TextIO

from rich.console import Console

from drumfire.bench.view.lines import draw_rows
from drumfire.bench.view.process import Screen
from drumfire.bench.view.screen import Look, cut, draw, plain_line
from drumfire.bench.view.terminal import Keys, in_foreground

_LEAST_HEIGHT = 7
"""Lines for the run: on a low terminal, not every generator has a row below it."""
_FIRST_LINE_S = 2.0


class Form:
    """Shows nothing: ``with Form(): ...``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors of keys: where one of these can be read, ``press`` is to be called."""
        return ()

    def show(self, look: Look) -> None:
        """Show the newest look."""

    def press(self) -> None:
        """Do what the pressed keys ask for."""


class Lines(Form):
    """Prints the newest look as a line from time to time, without escape codes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._began_s, self._due_s = stream, time.monotonic(), _FIRST_LINE_S

    def show(self, look: Look) -> None:
        elapsed_s = time.monotonic() - self._began_s
        if elapsed_s >= self._due_s:
            print(plain_line(look), file=self._stream, flush=True)
            self._due_s = next_line_s(elapsed_s)


def next_line_s(elapsed_s: float) -> float:
    """When the plain line after that at ``elapsed_s`` is due, s: every 5 s, and every 30 s after 2 minutes."""
    return elapsed_s + (5.0 if elapsed_s < 120.0 else 30.0)


class Show(Form):
    """Draws looks on the console's terminal.

    ``terminal``: the descriptor of the terminal that keys come from; ``end``: what q does.  Ctrl-Z stops the view with
    the run, and leaves the terminal as it was; in the background, it draws nothing.
    """

    def __init__(self, console: Console, terminal: int | None, end: Callable[[], object]) -> None:
        self._console, self._end = console, end
        self._keys, self._screen = Keys(terminal), Screen(console)
        self._newest: Look | None = None
        self._frozen: Look | None = None
        self._explained = False

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.remove(leave=not self._is_ours())
        self._keys.release()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    @property
    def fds(self) -> Sequence[int]:
        return self._keys.fds

    def show(self, look: Look) -> None:
        """Draw ``look``, unless the picture is frozen."""
        self._keys.claim()
        self._newest = look
        self.draw()

    def press(self) -> None:
        for key in self._keys.read():
            if key == "q":
                self._end()
            elif key == "?":
                self._explained = not self._explained
            else:
                self._frozen = None if self._frozen else copy.deepcopy(self._newest)
        self.draw()

    def draw(self) -> None:
        look = self._frozen or self._newest
        if look is None or not self._is_ours():
            return
        look = replace(look, keys=bool(self._keys.fds), frozen=self._frozen is not None)
        width, height = self._console.size
        most = height - 1
        below = draw_rows(look.rows, width, most - _LEAST_HEIGHT)
        room = max(most - below.plain.count("\n"), min(_LEAST_HEIGHT, most))
        text = draw(look, width, room, self._explained)
        if not self._explained and below:
            text = cut(text.append("\n") + below, most)
        self._screen.draw(text)

    def _is_ours(self) -> bool:
        try:
            return in_foreground(self._console.file.fileno())
        except (OSError, ValueError):  # it has no descriptor
            return True

    def _stop(self, number: int, frame: object) -> None:
        """Ctrl-Z: stop as the run does; what follows is done when both continue."""
        self._screen.remove(leave=not self._is_ours())  # the shell may be back before us
        self._keys.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
