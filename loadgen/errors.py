"""Errors that the user can fix, which the command line shows as one line, without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """Something that is the user's to fix: usage, input or surroundings.  The text is one line and names the fix."""


class UnsavedError(Exception):
    """Results were measured and could not be saved.  The text is one line and says why."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """The text of another library's error as a line for a terminal, at most that many characters; its type
    without one."""
    try:
        text = printable(" ".join(str(error).split()))
    except Exception:  # an error's own text may fail in any way
        text = ""
    return text[:most] or type(error).__name__


def described(error: BaseException) -> str:
    """An error as the last line of a traceback names it, without line breaks: its type and its text.

    Of a ``UserError`` only the text, which is written for the user.
    """
    name, text = type(error).__name__, one_line(error)
    return text if isinstance(error, UserError) or text == name else f"{name}: {text}"


def printable(text: str) -> str:
    """``text`` for a terminal: white space is spaces, and what else has no form of its own is escaped, as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean …?)`` with the most similar of the words; empty where none is.

    A word in which only digits are others is not similar: v3.1 is no slip of v6.1.
    """
    asked = word.casefold()
    by_any_case = {one.casefold(): one for one in words}
    numbered = {one for one in by_any_case if one != asked and re.sub(r"\d", "0", one) == re.sub(r"\d", "0", asked)}
    found = difflib.get_close_matches(asked, by_any_case.keys() - numbered, 1)
    return f" (did you mean {by_any_case[found[0]]}?)" if found else ""
