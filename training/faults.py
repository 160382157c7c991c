"""What can go wrong, as exceptions whose text is one line that names the mend."""

from __future__ import annotations


class InputError(Exception):
    """Wrong usage or input: exit status 2 on every rank."""

    def __init__(self, text: str, *, local: bool = False) -> None:
        """``local``: other ranks may not know of it."""
        super().__init__(text)
        self.local = local


class LostRank(Exception):
    """Another rank ended, or does not answer: this one can not go on."""


class Diverged(Exception):
    """The loss or the gradients are no longer finite numbers."""


def one_line(error: BaseException) -> str:
    """An error of somebody else's, without its line breaks; an OSError by what happened to which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
