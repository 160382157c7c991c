"""What can go wrong, as exceptions whose text is one line that names the fix, and the exit statuses."""

from __future__ import annotations

from drumfire.loadgen.errors import printable

REACHED, NOT_REACHED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses: the target was reached, it was not, wrong usage or input, interrupted."""


class InputError(Exception):
    """Wrong usage or input: exit status 2 on every rank."""

    def __init__(self, text: str, *, local: bool = False) -> None:
        """``local``: the other ranks may not know of the error."""
        super().__init__(text)
        self.local = local


class LostRank(Exception):
    """Another rank ended or does not answer, so this one cannot continue."""


class Diverged(Exception):
    """The loss or the gradients are no longer finite numbers."""


def one_line(error: BaseException) -> str:
    """The text of a library's error without line breaks; an ``OSError`` as its file and what happened to it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return printable(" ".join(str(error).split())) or type(error).__name__
