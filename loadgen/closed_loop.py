"""A closed loop of n queries under way: when each is due.

The answers free places, and it does not matter which answer freed whose place: query n + j is due at the j-th answer,
or the think time after it.  So nothing is noted of a row while the run goes on.
"""

from __future__ import annotations

import bisect

import numpy as np

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.record import Status
from drumfire.loadgen.traffic import Phase


class ThinkingUsers:
    """The users of a loop with a think time: those that wait for an answer, and when the others' queries are due."""

    def __init__(self, phase: Phase, answers: Answers) -> None:
        self._record, self._answers, self._think_ns = answers.record, answers, phase.think_time_ns
        self._waiting = np.empty(0, np.int64)
        self._dues = [0] * phase.concurrency  # ns after the start, rising

    def add(self, first: int, last: int) -> None:
        """Rows [first, last) were issued, for as many users that were ready."""
        self._waiting = np.concatenate([self._waiting, np.arange(first, last)])
        del self._dues[: last - first]

    async def ready(self, row: int, pacer: Pacer) -> tuple[int, int]:
        """How many users' next queries are due before ``row`` is issued, after waiting for the first; where all wait
        for an answer, 0, and the count of answered rows with which one does not."""
        settled = self._record.status[self._waiting] != Status.PENDING
        if settled.any():
            dues = self._record.completed[self._waiting[settled]] + self._think_ns
            self._dues = sorted(self._dues + dues.tolist())
            self._waiting = self._waiting[~settled]
        if not self._dues:
            return 0, row - self._waiting.size + 1
        # Who is answered during the wait is due later, so nothing is missed.
        now, due = self._answers.now(), self._dues[0]
        if due > now:
            now = await pacer.until(due + self._answers.origin_ns) - self._answers.origin_ns
        return bisect.bisect_right(self._dues, now), 0


def enter_dues(phase: Phase, answers: Answers) -> None:
    """Enter when each issued query of the phase was due, once the answers are there: the first n at the start."""
    record, first, last = answers.record, phase.first_row, answers.issued
    after = min(first + phase.concurrency, last)
    record.scheduled[first:after] = 0
    status = record.status[first:last]
    answered = record.completed[first:last][(status == Status.OK) | (status == Status.FAILED)]
    answered.sort()
    dues = answered[: last - after] + phase.think_time_ns
    record.scheduled[after : after + dues.size] = dues
