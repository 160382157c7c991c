"""A terminal of the tests' own: a pseudo-terminal, and a screen that does what programs write to it."""

from __future__ import annotations

import io
import pty
import re

import pytest
from rich.cells import get_character_cell_size

_PART = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([\s\S])")


def open_terminal() -> tuple[int, int]:
    """File descriptors of both ends: what programs write, and what they take for their terminal."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be opened ({error}): mount devpts at /dev/pts")


class Screen(io.StringIO):
    """A terminal's screen: printable characters, CR, LF, colours, and the cursor's moves that views use.

    Any other escape sequence raises ``ValueError``, so that what a program draws is what is seen here.
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.lines = [""]
        """All lines, those that have scrolled away included; the last ``height`` are on the screen."""
        self._row = self._column = 0

    def isatty(self) -> bool:
        return True

    @property
    def seen(self) -> list[str]:
        """The lines on the screen, without those that are empty at the end."""
        return "\n".join(line.rstrip() for line in self.lines[-self.height :]).rstrip().split("\n")

    def write(self, text: str) -> int:
        for found in _PART.finditer(text):
            numbers, letter, character = found.groups()
            if character is None:
                self._control(numbers, letter)
            elif character == "\n":
                self._down()
                self._column = 0  # as the terminal's driver does
            elif character == "\r":
                self._column = 0
            else:
                self._put(character)
        return len(text)

    def _put(self, character: str) -> None:
        if self._column + get_character_cell_size(character) > self.width:
            self._down()
            self._column = 0
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1

    def _erase_line(self) -> None:
        """From the cursor on."""
        self.lines[self._row] = self.lines[self._row][: self._column]

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.lines):
            self.lines.append("")

    def _control(self, numbers: str, letter: str) -> None:
        if letter == "m" or (letter in "hl" and numbers == "?25"):  # colours; the cursor is shown or hidden
            return
        if letter == "A":  # up, and no further than the top of the screen
            self._row = max(self._row - int(numbers or 1), len(self.lines) - self.height, 0)
        elif letter == "K" and not numbers:
            self._erase_line()
        elif letter == "J" and not numbers:  # down to the end of the screen
            self._erase_line()
            del self.lines[self._row + 1 :]
        else:
            raise ValueError(f"this screen does not know ESC [ {numbers} {letter}")
