"""The terminal that a run is watched on: its keys, read one by one and not shown, and its settings, put back after.

A view that is killed cannot put them back, so the run's process does it (``Saved``).
"""

from __future__ import annotations

import contextlib
import os
import re
import termios
from collections.abc import Sequence
from typing import Any

from drumfire.bench.view.process import signals_wait

_LOCAL = 3
"""Place of the local modes in what termios(3) returns."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What arrow and function keys send."""


def in_foreground(fd: int) -> bool:
    """Whether the terminal is this process's to write on and read from; True where it has no such notion."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True


class Saved:
    """The settings of a terminal; does nothing where ``fd`` is not a terminal, or not ours now."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._settings: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError):
            if in_foreground(fd):
                self._settings = termios.tcgetattr(fd)

    def restore(self) -> None:
        if self._settings is None or not in_foreground(self._fd):
            return
        with contextlib.suppress(termios.error, OSError):
            if termios.tcgetattr(self._fd) != self._settings:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._settings)


class Keys:
    """The keys of the terminal ``fd``; None: there are none."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._before: list[Any] | None = None
        self._ours: list[Any] | None = None

    @property
    def fds(self) -> Sequence[int]:
        """What to wait for."""
        return [self._fd] if self._fd is not None and self._before is not None else []

    def claim(self) -> None:
        """Let keys come one by one, and do not show them, once the terminal is ours."""
        if self._fd is None or self._before is not None or not in_foreground(self._fd):
            return
        try:
            with signals_wait():
                before, ours = termios.tcgetattr(self._fd), termios.tcgetattr(self._fd)
                ours[_LOCAL] &= ~(termios.ICANON | termios.ECHO)  # Ctrl-C and Ctrl-Z still are signals
                termios.tcsetattr(self._fd, termios.TCSANOW, ours)
                self._before, self._ours = before, termios.tcgetattr(self._fd)
        except (termios.error, OSError):
            self._fd = None

    def release(self) -> None:
        """Put the settings back, unless another program, such as the shell, has set its own."""
        if self._fd is None or self._before is None:
            return
        with contextlib.suppress(termios.error, OSError):
            if termios.tcgetattr(self._fd) == self._ours:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        self._before = None

    def read(self) -> str:
        """The keys that were pressed; empty for text that was pasted, and for arrows and the like."""
        assert self._fd is not None
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:  # another program has set the terminal so, and was quicker
            return ""
        except OSError:  # we are in the background, or the terminal is gone
            data = b""
        if not data:
            self.release()
            if in_foreground(self._fd):
                self._fd = None
        keys = _ESCAPE.sub("", data.decode(errors="replace")).lower()
        return keys if set(keys) <= set("qp?") else ""
