"""Errors that the user can fix, which the command line shows as one line, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that is the user's to fix: usage, input or surroundings.  The text is one line and names the fix."""


class UnsavedError(Exception):
    """Results were measured and could not be saved.  The text is one line and says why."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """The text of another library's error without line breaks, at most that many characters; its type without one."""
    return " ".join(str(error).split())[:most] or type(error).__name__
