"""Exit statuses of the commands; other programs rely on them."""

from __future__ import annotations

VALID = DONE = 0
INVALID = FAILED = 1
USAGE = 2
UNMET = 3
UNDECIDED = 4
CRASH = 70
UNSAVED = 74
INTERRUPTED = 130

MEANINGS = {
    INTERRUPTED: "interrupted (what was measured is saved)",
    CRASH: "a fault of drumfire itself (what was measured is saved)",
    UNSAVED: "measured and shown but not saved as a whole, or output that could not be written",
    USAGE: "wrong usage or input",
    INVALID: "INVALID, or the task failed",
    UNMET: "an expectation is not met, or B is slower",
    UNDECIDED: "cannot tell",
    VALID: "VALID, or the task succeeded",
}
"""The most severe first: where several hold, the first of them is the status."""


def worst(*held: int) -> int:
    """The status of a command for which all of these hold."""
    return min(held, key=list(MEANINGS).index)
