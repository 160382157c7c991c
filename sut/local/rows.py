"""The rows that wait for a worker, and when a batch of them starts: the queue of the generator's own process.

Rows are issued in order, so a queue of them, first in, first out, is two integers: the next row to take, and the end of
the rows issued.  ``shared_rows`` has the queue of other processes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from drumfire.loadgen.answers import Answers

_SHARES = 4
"""A worker that takes several batches takes at most this part of its share of what waits; to sort them, all of it."""
MAX_BATCH_SIZE = np.iinfo(np.uint16).max
"""The largest number that the column ``batch_size`` can hold."""


class BatchRule:
    """Decides when a batch starts and how large it is, for rows here and for requests in a server's queue.

    A batch starts when a preferred number of samples waits (by default ``max_size``), or when the oldest has waited
    for ``max_delay_ns``.  With a delay of 0 a free worker takes whatever waits.
    """

    def __init__(
        self, max_size: int, max_delay_ns: int = 0, preferred: Sequence[int] = (), *, sorts: bool = False
    ) -> None:
        """``sorts``: a worker that takes several batches sorts their rows, so the more it takes, the better."""
        if not 1 <= max_size <= MAX_BATCH_SIZE:
            raise ValueError(f"the batch size must be 1 to {MAX_BATCH_SIZE}, not {max_size}")
        self.max_size, self.max_delay_ns = max_size, max_delay_ns
        self.preferred = tuple(sorted(preferred))
        self._sorts = sorts
        self._sizes = self.preferred[::-1] or (max_size,)
        self.least = self._sizes[-1]
        """The number of waiting samples from which a batch starts at once."""

    def patience_ns(self, waiting: int) -> int:
        """How long after its arrival the oldest of ``waiting`` samples may be held back, ns."""
        return self.max_delay_ns if waiting < self.least else 0

    def size(self, waiting: int) -> int:
        """The batch size for ``waiting`` samples that are not held back any more."""
        for size in self._sizes:
            if size <= waiting:
                return size
        return waiting

    def run(self, waiting: int, workers: int, most: int, *, last: bool = False) -> int:
        """How many rows to hand to one of ``workers``: a batch, or up to ``most`` full ones where many more wait.

        ``last``: no row follows those that wait.  A worker that sorts them then takes its whole share, and a lone one
        all of them, so that the rest beyond full batches is sorted too.
        """
        size = self.size(waiting)
        if most == 1 or size < self.max_size:
            return size
        if self._sorts and last:
            batches = -(-waiting // size) if workers == 1 else -(-(waiting // size) // workers)
            return min(size * min(batches, most), waiting)
        shares = workers if self._sorts else _SHARES * workers
        return size * max(min(waiting // (shares * size), most), 1)


class Rows(Protocol):
    """A queue of rows.  The generator puts rows in, workers take batches."""

    @property
    def waiting(self) -> int:
        """How many rows wait."""

    def put(self, first: int, last: int) -> None:
        """Add rows [first, last), which follow those before."""

    def take(self, worker: int, most: int = 1) -> tuple[int, int] | None:
        """Wait for rows, and return those of a batch, or of at most ``most`` full ones; None when it is closed."""

    def flush(self) -> None:
        """No more rows follow in this phase: hold none back."""

    def close(self) -> None:
        """Let the workers end."""


class ThreadRows:
    """The queue of threads of the generator's process."""

    def __init__(self, rule: BatchRule, workers: int, answers: Answers) -> None:
        self._workers = workers
        self._rule, self._answers = rule, answers
        self._issued = answers.columns["issued"]
        self._rows = self._issued.size  # of the whole run
        self._next = self._end = self._idle = 0
        self._flushing = self._closed = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def waiting(self) -> int:
        return self._end - self._next

    def put(self, first: int, last: int) -> None:
        with self._lock:
            was_empty = self._next == self._end
            self._end = last
            if was_empty:
                self._next = first
            self._flushing = False
            # A worker that waits for a fuller batch is not woken for every row.
            if self._idle and (was_empty or last - self._next >= self._rule.least):
                self._changed.notify()

    def take(self, worker: int, most: int = 1) -> tuple[int, int] | None:
        with self._lock:
            while True:
                if self._closed:
                    return None
                waiting = self._end - self._next
                if waiting == 0:
                    self._wait(None)
                    continue
                patience_ns = self._rule.patience_ns(waiting)
                if patience_ns and not self._flushing:
                    left_ns = int(self._issued[self._next]) + patience_ns - self._answers.now()
                    if left_ns > 0:
                        self._wait(left_ns * 1e-9)
                        continue
                first = self._next
                ended = self._flushing or self._end == self._rows  # the flush may come a little later
                self._next = last = first + self._rule.run(waiting, self._workers, most, last=ended)
                if last < self._end and self._idle:
                    self._changed.notify()
                return first, last

    def flush(self) -> None:
        with self._changed:
            self._flushing = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self, seconds: float | None) -> None:
        """Wait for a change; the lock is held before and after."""
        self._idle += 1
        self._changed.wait(seconds)
        self._idle -= 1
