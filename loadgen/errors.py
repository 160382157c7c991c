"""Errors that the user can fix, which the command line shows as one line, without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something that is the user's to fix: usage, input or surroundings.  The text is one line and names the fix."""


class UnsavedError(Exception):
    """Results were measured and could not be saved.  The text is one line and says why."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """The text of another library's error without line breaks, at most that many characters; its type without one."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error's own text may fail in any way
        text = ""
    return text[:most] or type(error).__name__


def described(error: BaseException) -> str:
    """An error as the last line of a traceback names it, without line breaks: its type and its text."""
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"


def printable(text: str) -> str:
    """``text`` for a terminal: white space is spaces, and what else has no form of its own is escaped, as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)
