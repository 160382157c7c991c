"""Priorities: real-time for the issuing thread, while it is not busy most of the time, and low for what looks on.

On a busy core, a thread that sleeps until a query is due wakes milliseconds late; a real-time thread wakes at once.
But the kernel stops a real-time thread that never leaves its core (by default for 50 ms each second), so a busy
thread does better with ordinary priority.
"""

from __future__ import annotations

import contextlib
import os
import time

_REVIEW_NS = 50_000_000
_FIRST_REVIEW_NS = 5_000_000
_RAISE_BELOW, _LOWER_ABOVE = 0.8, 0.9
"""Shares of a core's time, apart so that a thread in between does not switch back and forth."""


def yield_to_others(*, idle: bool, niceness: int = 10) -> None:
    """Run this thread, and those that it starts, at low priority.

    ``idle``: it takes only processor time that nobody else wants, where the system has such a class.
    """
    with contextlib.suppress(OSError):
        os.nice(niceness)
    if idle and hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Priority:
    """The priority of the calling thread, which must make all calls.  Does nothing where the system forbids it."""

    def __init__(self) -> None:
        # On a single core, the system under test could not answer.
        self.permitted = hasattr(os, "sched_setscheduler") and len(os.sched_getaffinity(0)) > 1
        self.raised = False
        self.raised_ns = 0
        """Total time at raised priority, ns."""
        self._interval_ns = _FIRST_REVIEW_NS
        self._reviewed_ns = time.monotonic_ns()
        self._rested_ns = 0

    def review(self, now_ns: int, rested_ns: int = 0) -> None:
        """Raise or lower the priority by how busy the thread is; cheap to call often, and acts every 50 ms.

        ``now_ns``: the monotonic clock.  ``rested_ns``: how long the thread slept on purpose since the last call.
        (CPU time would mislead: a thread that is kept waiting gets little of it.)
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
                # Threads and processes that this thread starts have ordinary priority.
                os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
                self.raised = True
            except PermissionError:
                self.permitted = False

    def lower(self) -> None:
        """Return to ordinary priority."""
        if self.raised:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            self.raised = False
