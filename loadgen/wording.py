"""Words for people that fit their numbers."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 query``, ``2,000 queries``; ``noun`` is the singular."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        noun = f"{noun[:-1]}ie"
    elif noun.endswith(("s", "x", "ch", "sh")):
        noun = f"{noun}e"
    return f"{count:,} {noun}s"


def each_is(count: int, was: str = "are") -> str:
    """The verb after ``count`` things: ``are`` or ``were`` for several, else its singular."""
    return was if count != 1 else {"are": "is", "were": "was"}[was]
