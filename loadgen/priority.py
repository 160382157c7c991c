"""Real-time priority for the issuing thread, for as long as that leaves most of its core to others.

A thread that sleeps until a query is due is woken late, by milliseconds, when its core is busy; a real-time thread is
woken at once.  But the kernel stops a real-time thread that will not leave its core (by default for 50 ms each
second), so one that is busy most of the time is better off as an ordinary one.
"""

from __future__ import annotations

import os
import time

_REVIEW_NS = 50_000_000
_FIRST_REVIEW_NS = 5_000_000
_RAISE_BELOW, _LOWER_ABOVE = 0.8, 0.9
"""Shares of a core's time: apart, so that a thread in between does not go back and forth."""


class Priority:
    """The priority of the calling thread; all calls come from that one.  Does nothing where the system forbids it."""

    def __init__(self) -> None:
        # On a lone core it would keep the system under test from answering.
        self.permitted = hasattr(os, "sched_setscheduler") and len(os.sched_getaffinity(0)) > 1
        self.raised = False
        self.raised_ns = 0
        """How long it has been raised so far, ns."""
        self._interval_ns = _FIRST_REVIEW_NS
        self._reviewed_ns = time.monotonic_ns()
        self._rested_ns = 0

    def review(self, now_ns: int, rested_ns: int = 0) -> None:
        """Raise or lower by how busy the thread has been; cheap to call often, looks every 50 ms.

        ``now_ns``: the monotonic clock.  ``rested_ns``: how long the thread has slept on purpose since the last call.
        (The processor time that it got would not do: a thread that is kept waiting gets little and wants much.)
        """
        self._rested_ns += rested_ns
        passed_ns = now_ns - self._reviewed_ns
        if passed_ns < self._interval_ns or not self.permitted:
            return
        self._interval_ns = _REVIEW_NS
        share = 1 - self._rested_ns / passed_ns
        self._reviewed_ns, self._rested_ns = now_ns, 0
        if self.raised:
            self.raised_ns += passed_ns
            if share > _LOWER_ABOVE:
                self.lower()
        elif share < _RAISE_BELOW:
            try:
                # Threads and processes that this one starts are ordinary again.
                os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
                self.raised = True
            except PermissionError:
                self.permitted = False

    def lower(self) -> None:
        """An ordinary thread again."""
        if self.raised:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            self.raised = False
