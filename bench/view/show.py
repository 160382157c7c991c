"""The live view on a screen: what the newest look shows, or what a key asked for.

Does not depend on where looks come from.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from drumfire.bench.view.process import Screen
from drumfire.bench.view.screen import Look, cut, draw
from drumfire.bench.view.terminal import Keys, in_foreground

_LEAST_HEIGHT = 8
"""Lines for the run: on a low terminal, what is drawn below it is cut."""


class Show:
    """Draws looks on the console's terminal: ``with Show(...)``.

    ``terminal``: the descriptor of the terminal that keys come from; ``end``: what q does.  Ctrl-Z stops the view with
    the run, and leaves the terminal as it was; in the background, it draws nothing.
    """

    def __init__(self, console: Console, terminal: int | None, end: Callable[[], object]) -> None:
        self._console, self._end = console, end
        self._keys, self._screen = Keys(terminal), Screen(console)
        self._newest: tuple[Look, Callable[[int], Text]] | None = None
        self._frozen: tuple[Look, Callable[[int], Text]] | None = None
        self._explained = False

    def __enter__(self) -> Show:
        signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.remove(leave=not self._is_ours())
        self._keys.release()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    @property
    def fds(self) -> Sequence[int]:
        """Where one of these can be read, ``press`` is to be called."""
        return self._keys.fds

    def show(self, look: Look, below: Callable[[int], Text] = lambda width: Text()) -> None:
        """Draw ``look``, and what ``below`` makes of a width below it, unless the picture is frozen."""
        self._keys.claim()
        self._newest = look, below
        self.draw()

    def press(self) -> None:
        """Do what the pressed keys ask for."""
        for key in self._keys.read():
            if key == "q":
                self._end()
            elif key == "?":
                self._explained = not self._explained
            else:
                self._frozen = None if self._frozen else copy.deepcopy(self._newest)
        self.draw()

    def draw(self) -> None:
        shown = self._frozen or self._newest
        if shown is None or not self._is_ours():
            return
        look, more = shown
        look = replace(look, keys=bool(self._keys.fds), frozen=self._frozen is not None)
        width, height = self._console.size
        most, below = height - 1, more(width)
        room = max(most - below.plain.count("\n"), min(_LEAST_HEIGHT, most))
        text = draw(look, width, room, self._explained)
        if not self._explained and below:
            text = cut(text.append("\n") + below, most)
        self._screen.draw(text)

    def _is_ours(self) -> bool:
        try:
            return in_foreground(self._console.file.fileno())
        except (OSError, ValueError):  # it is no file
            return True

    def _stop(self, number: int, frame: object) -> None:
        """Ctrl-Z: stop as the run does; what follows is done when both continue."""
        self._screen.remove(leave=not self._is_ours())  # the shell may be back before us
        self._keys.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)


def ending(run: int) -> Callable[[], None]:
    """End the run in process ``run``, our parent, as Ctrl-C does once."""

    def end() -> None:
        if os.getppid() == run:
            with contextlib.suppress(OSError):
                os.kill(run, signal.SIGINT)

    return end
