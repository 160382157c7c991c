"""The dynamic batcher: rows wait in one queue, workers take batches off its front.

The queue is first in, first out over the rows of the run's table, so it is two integers: the next row to take and
the end of the rows issued.  Reads samples from the library; does not depend on what computes a batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers, Responses, as_bytes
from drumfire.loadgen.pacer import precise_timers
from drumfire.loadgen.record import Column, Record, Status
from drumfire.loadgen.results import distribution
from drumfire.loadgen.settings import percentile_name
from drumfire.loadgen.system import Answer, Batch, SampleLibrary
from drumfire.sut.data.library import with_names
from drumfire.sut.local.responses import check_count

RunBatch = Callable[[Batch], Responses]
"""Takes n samples: for each input an array of shape (n, *sample_shape).  Returns n responses.

Called from one thread at a time.
"""

MAX_BATCH_SIZE = np.iinfo(np.uint16).max
"""The largest number that the column ``batch_size`` can hold."""


class BatchRule:
    """Decides when a batch starts and how large it is, for rows here and for requests in a server's queue.

    A batch starts when a preferred number of samples waits (by default ``max_size``), or when the oldest has waited
    for ``max_delay_ns``.  With a delay of 0 a free worker takes whatever waits.
    """

    def __init__(self, max_size: int, max_delay_ns: int = 0, preferred: Sequence[int] = ()) -> None:
        if not 1 <= max_size <= MAX_BATCH_SIZE:
            raise ValueError(f"the batch size must be 1 to {MAX_BATCH_SIZE}, not {max_size}")
        self.max_size, self.max_delay_ns = max_size, max_delay_ns
        self.preferred = tuple(sorted(preferred))
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


class BatchedSystem:
    """A system in this process: each of ``workers`` runs batches in its own thread.

    A batch starts when ``max_batch_size`` rows wait, or when the oldest row was issued ``max_queue_delay_s`` ago,
    whichever is first; with a delay of 0, and in closed-loop scenarios, a free worker takes whatever waits.  There a
    single worker runs in the caller's thread, which would be idle meanwhile.
    """

    columns: Mapping[str, npt.DTypeLike] = {"begun": np.int64, "batch_size": np.uint16}
    """When the computation of the row's batch began (ns), and how many rows the batch had."""

    def __init__(
        self,
        name: str,
        workers: Sequence[RunBatch],
        library: SampleLibrary,
        *,
        max_batch_size: int,
        max_queue_delay_s: float = 0.0,
    ) -> None:
        self._open_loop = self._rule = BatchRule(max_batch_size, round(max_queue_delay_s * 1e9))
        self._closed_loop = BatchRule(max_batch_size)  # all that can come waits already
        self.name = name
        self.answer: Answer | None = None
        self._workers, self._library = workers, with_names(library)
        self._max_batch_size = max_batch_size
        self._next_row = 0
        self._end_row = 0
        self._flushing = False
        self._closed = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._idle = 0
        self._threads: list[threading.Thread] = []

    async def open(self, answers: Answers) -> None:
        self._answers = answers
        self._rule = self._closed_loop if answers.closed_loop else self._open_loop
        self._sample_index = answers.sample_index
        self._issued = answers.columns["issued"]
        self._begun = answers.columns["begun"]
        self._batch_size = answers.columns["batch_size"]
        self.answer = None
        if any(thread.is_alive() for thread in self._threads):
            raise RuntimeError(f"{self.name} is still busy with a batch of the previous run")
        self._closed, self._next_row, self._end_row, self._idle, self._threads = False, 0, 0, 0, []
        if answers.closed_loop and len(self._workers) == 1:
            self.answer = self._answer
            return
        for number, run in enumerate(self._workers):
            # A daemon, so that a model that never returns cannot keep the program from ending.
            thread = threading.Thread(target=self._work, args=(run,), name=f"sut-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def issue(self, first: int, last: int) -> None:
        with self._lock:
            was_empty = self._next_row == self._end_row
            self._end_row = last
            if was_empty:
                self._next_row = first
            self._flushing = False
            # A worker that waits for a fuller batch is not woken for every row.
            if self._idle and (was_empty or last - self._next_row >= self._max_batch_size):
                self._changed.notify()

    def flush(self) -> None:
        with self._changed:
            self._flushing = True
            self._changed.notify_all()

    async def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _work(self, run: RunBatch) -> None:
        precise_timers()
        while (batch := self._take()) is not None:
            self._run(run, *batch)

    def _take(self) -> tuple[int, int] | None:
        """Wait for the next batch and return its rows; None when the system is closed."""
        with self._lock:
            while True:
                if self._closed:
                    return None
                waiting = self._end_row - self._next_row
                if waiting == 0:
                    self._wait(None)
                    continue
                patience_ns = self._rule.patience_ns(waiting)
                if patience_ns and not self._flushing:
                    left_ns = int(self._issued[self._next_row]) + patience_ns - self._answers.now()
                    if left_ns > 0:
                        self._wait(left_ns * 1e-9)
                        continue
                first = self._next_row
                self._next_row = last = first + self._rule.size(waiting)
                if last < self._end_row and self._idle:
                    self._changed.notify()
                return first, last

    def _wait(self, seconds: float | None) -> None:
        """Wait for a change; the lock is held before and after."""
        self._idle += 1
        self._changed.wait(seconds)
        self._idle -= 1

    def _answer(self, first: int, last: int) -> Responses:
        size, run = self._max_batch_size, self._workers[0]
        if last - first <= size:
            return self._compute(run, first, last)
        parts = [self._compute(run, row, min(row + size, last)) for row in range(first, last, size)]
        return [response for part in parts for response in as_bytes(part)]

    def _compute(self, run: RunBatch, first: int, last: int) -> Responses:
        self._begun[first:last] = self._answers.now()
        self._batch_size[first:last] = last - first
        responses = run(self._library.batch(self._sample_index[first:last]))
        check_count(responses, last - first)
        return responses

    def _run(self, run: RunBatch, first: int, last: int) -> None:
        try:
            responses = self._compute(run, first, last)
        except BaseException as error:  # models raise anything: these rows fail, and the run continues
            self._answers.fail(first, last, error)
        else:
            self._answers.complete(first, last, responses)


def batch_sizes(batch_size: Column) -> dict[int, int]:
    """The number of batches by batch size, from the column ``batch_size``."""
    rows = np.bincount(batch_size)
    return {size: int(count) // size for size, count in enumerate(rows) if size and count}


def batching(record: Record) -> dict[str, Any]:
    """How the batcher worked, from its columns: batches by size, queueing and computing times in ns."""
    columns = record.columns
    if "batch_size" not in columns:
        return {"batch_sizes": None, "queue_ns": None, "service_ns": None}
    issued = slice(0, record.issued_rows)
    good = columns["status"][issued] == Status.OK
    begun = columns["begun"][issued][good]
    percentiles = (0.5, 0.99)

    def figures(values: Any) -> dict[str, int]:
        measured = distribution(values, percentiles)
        return {percentile_name(p): measured.percentiles[p] for p in percentiles}

    return {
        "batch_sizes": {str(size): n for size, n in batch_sizes(columns["batch_size"][issued][good]).items()},
        "queue_ns": figures(begun - columns["issued"][issued][good]),
        "service_ns": figures(columns["completed"][issued][good] - begun),
    }


def service_times(run: Callable[[], object], seconds: float = 0.2, least: int = 3) -> list[float]:
    """Call ``run`` for about ``seconds``, at least ``least`` times; returns how long each call took, s."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
