"""The batches of samples of different sizes: one worker takes what waits and sorts it by size, and all compute it.

So several workers pad as little as one.  Does not depend on where rows wait or on what computes a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import SIZE, RowArray
from drumfire.sut.data.ragged import RaggedLibrary

_WINDOW = 64
"""The most batches that are sorted together."""


class SortedRows:
    """Divides the rows of a run into batches, which consist of rows that do not follow each other."""

    def __init__(
        self, library: RaggedLibrary, answers: Answers, max_batch_size: int, workers: int, *, in_order: bool
    ) -> None:
        """``in_order``: see ``RaggedLibrary.plan``."""
        self._library, self._answers = library, answers
        self._max_batch_size, self._in_order = max_batch_size, in_order
        self._batch_size, self._sizes = answers.columns["batch_size"], answers.columns[SIZE]
        self._padded = answers.columns["padded_size"]
        self._door = threading.Lock()
        self._batches: deque[RowArray] = deque()
        self._taken_as = 0
        self._has = list(range(workers))
        """Of each worker, the number under which the rows of its batch were taken."""

    @property
    def ready(self) -> bool:
        """Whether a batch waits."""
        return bool(self._batches)

    def next(self, worker: int, take: Callable[[int, int], tuple[int, int] | None]) -> RowArray | int | None:
        """The rows of a batch, a single row, or None when ``take`` gives None; for one of the workers.

        ``take(worker, most)``: see ``Rows.take``.  Who takes rows says so under a number of its own, as long as any
        of them is being computed: they fail with the process that took them.
        """
        with self._door:
            while not self._batches:
                others = self._has[:worker] + self._has[worker + 1 :]
                self._taken_as = next(number for number in range(len(self._has)) if number not in others)
                taken = take(self._taken_as, _WINDOW)
                if taken is None:
                    return None
                first, last = taken
                try:
                    if last - first == 1:
                        self.enter_alone(first)
                        self._has[worker] = self._taken_as
                        return first
                    self._batches.extend(self.planned(first, last))
                except BaseException as error:  # whatever a library may raise
                    self._answers.fail(first, last, error)
            self._has[worker] = self._taken_as
            return self._batches.popleft()

    def enter_alone(self, row: int) -> None:
        """Enter what the batch of this row alone is."""
        size, padded = self._library.size(int(self._answers.sample_index[row]))
        self._sizes[row], self._padded[row], self._batch_size[row] = size, padded, 1

    def planned(self, first: int, last: int) -> list[RowArray]:
        """The rows of each batch of rows [first, last); enters what the batches are."""
        indices = self._answers.sample_index[first:last]
        plan = self._library.plan(indices, self._max_batch_size, in_order=self._in_order)
        rows, sizes = plan.order + first, np.diff(plan.bounds)
        self._sizes[rows], self._padded[rows] = plan.sizes, plan.padded
        self._batch_size[rows] = sizes.repeat(sizes)
        return np.split(rows, plan.bounds[1:-1])
