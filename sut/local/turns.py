"""Which thread of an instance takes the next batch, and when, where several share it: one computes, another gathers.

A full batch is taken as soon as it waits.  One that is not full is taken when its samples can be ready just as what is
under way has been computed: any sooner, and rows that come meanwhile could not join it; any later, and the instance
would wait.  Does not depend on where rows or requests wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from drumfire.loadgen.system import Batch

Taken = TypeVar("Taken")
Given = TypeVar("Given")

_LOOK_S = 0.5e-3
"""How long samples that come may be overlooked while a batch is under way."""


class Turns:
    """Of the threads of one instance.  What the last batches took tells when the next should be taken."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._door = threading.Lock()
        self._clock = clock
        self._changed = threading.Condition()
        self._under_way = 0
        self._gathering_since_ns = 0
        """0: no thread gathers a batch."""
        self._gather_ns = 0
        self._begun: deque[int] = deque()
        """The sizes of the batches that were begun: the instance computes the first."""
        self._first_since_ns = 0
        self._computed_ns: dict[int, int] = {}
        """How long it last took to compute a batch, by size."""
        self._last_ns = 0

    def next(self, take: Callable[[], Taken | None], waiting: Callable[[], float], least: int) -> Taken | None:
        """What ``take`` gives, called when a batch should be taken: by one thread at a time.

        ``waiting`` gives how many samples wait (infinity: go), ``least`` are a full batch.  While another thread has a
        batch, this one does not even wait in ``take`` for samples: it may look for them there without sleeping.
        """
        with self._door:
            self._wait(waiting, least)
            taken = take()
            if taken is not None:
                with self._changed:
                    self._under_way += 1
                    self._gathering_since_ns = self._clock()
            return taken

    def _wait(self, waiting: Callable[[], float], least: int) -> None:
        with self._changed:
            while self._under_way and (count := waiting()) < least:
                left_ns = self._free_ns() - self._gather_ns - self._clock()
                if count and left_ns <= 0:
                    return
                self._changed.wait(min(left_ns * 1e-9, _LOOK_S) if count else _LOOK_S)

    def _free_ns(self) -> int:
        """When all that is under way should have been computed."""
        at_ns = self._first_since_ns + sum([self._expected_ns(size) for size in self._begun]) if self._begun else 0
        if self._gathering_since_ns:
            at_ns = max(at_ns, self._gathering_since_ns + self._gather_ns) + self._last_ns
        return at_ns

    def _expected_ns(self, size: int) -> int:
        return self._computed_ns.get(size, self._last_ns)

    def begin(self, size: int) -> None:
        """The thread that took a batch of this size has gathered it, and gives it to the instance."""
        with self._changed:
            now_ns = self._clock()
            if self._gathering_since_ns:
                self._gather_ns, self._gathering_since_ns = now_ns - self._gathering_since_ns, 0
            if not self._begun:
                self._first_since_ns = now_ns
            self._begun.append(size)

    def end(self) -> None:
        """The first batch that was begun is computed, or has failed."""
        with self._changed:
            now_ns = self._clock()
            self._computed_ns[self._begun.popleft()] = self._last_ns = now_ns - self._first_since_ns
            self._first_since_ns = now_ns
            self._changed.notify_all()

    def leave(self) -> None:
        """The thread is done with what it took, whether it began it or not."""
        with self._changed:
            self._under_way -= 1
            if len(self._begun) == self._under_way:
                self._gathering_since_ns = 0
            self._changed.notify_all()


class Turn:
    """One thread's part in ``Turns``."""

    def __init__(self, turns: Turns) -> None:
        self.begin, self.end = turns.begin, turns.end
        self._turns, self._has_batch = turns, False

    def next(self, take: Callable[[], Taken | None], waiting: Callable[[], float], least: int) -> Taken | None:
        """As ``Turns.next``; the thread is done with what it took before."""
        self.leave()
        taken = self._turns.next(take, waiting, least)
        self._has_batch = taken is not None
        return taken

    def announced(self, run: Callable[[Batch], Given]) -> Callable[[Batch], Given]:
        """``run`` with ``begin`` before each batch and ``end`` after it."""

        def runs(batch: Batch) -> Given:
            self.begin(len(next(iter(batch.values()))))
            try:
                return run(batch)
            finally:
                self.end()

        return runs

    def leave(self) -> None:
        """The thread takes nothing for now."""
        if self._has_batch:
            self._has_batch = False
            self._turns.leave()
