"""What goes wrong with the answers of a run: how much of it, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SECOND_ANSWER = "a second answer to a row"
SECOND_FIRST_TOKEN = "a second first token of a row"
LATE_FIRST_TOKEN = "a first token after its row was answered"
"""Reasons to refuse an answer."""


@dataclass
class Faults:
    """What went wrong with the answers."""

    failed: Counter[str] = field(default_factory=Counter)
    """Failed rows, by the system's reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """Refused answers, by reason."""
    unanswered: int = 0
    """Rows without an answer when the run stopped waiting."""
    _good: int = -1
    _alone_since_ns: int = 0

    def add(self, others: Faults) -> None:
        """Count those of another process too; whoever waits for all answers knows the unanswered rows."""
        self.failed += others.failed
        self.refused += others.refused

    def forget_time(self) -> None:
        """A phase starts, with a clock of its own."""
        self._good = -1

    def alone_ns(self, good: int, now_ns: int) -> int:
        """How long rows have only failed, where a row fails now and there were ``good`` other answers before it."""
        if good != self._good:
            self._good, self._alone_since_ns = good, now_ns
        return now_ns - self._alone_since_ns
