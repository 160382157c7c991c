"""The dynamic batcher: rows wait in one queue (see ``rows``), workers take batches off its front.

Reads samples from the library; does not depend on what computes a batch.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.pacer import precise_timers
from drumfire.loadgen.record import SIZE, RowArray
from drumfire.loadgen.responses import Responses, as_bytes
from drumfire.loadgen.system import Answer, Batch, IndexArray, SampleLibrary
from drumfire.sut.data.library import ArrayLibrary, NamedLibrary, with_names
from drumfire.sut.data.ragged import RaggedLibrary
from drumfire.sut.local.responses import OutputError, check_count
from drumfire.sut.local.rows import BatchRule, Rows, ThreadRows
from drumfire.sut.local.sorted_rows import SortedRows
from drumfire.sut.local.turns import Turn, Turns

RunBatch = Callable[[Batch], Responses]
"""Takes n samples: for each input an array of shape (n, *sample_shape).  Returns n responses.

Called from one thread at a time.  It may have ``several`` too, a ``RunSeveral`` that does the same quicker; and
``room(n)``, which gives arrays that samples are best gathered into, or None; and ``cut``, a ``RunCut``.
"""
RunCut = Callable[[Batch, Sequence[Batch]], Responses]
"""Takes n samples that are padded, and each of them alone without padding; gives responses without padding."""
Library = ArrayLibrary | NamedLibrary
Take = Callable[[int], tuple[int, int] | None]
"""See ``Rows.take``."""
RunSeveral = Callable[[Library, IndexArray, int], Iterator[Responses]]
"""Takes a library, the indices of several full batches and the size of a batch.

Computes a batch when its responses are asked for; they need not last longer than until the next are.
"""

_SEVERAL_NS, _MOST_BATCHES = 3_000_000, 16
"""A worker that takes several batches at a time enters their times together: at most so late, ns, and of this number
of batches."""
_TRIES = 8
"""So many batches may fail with each of their samples, until samples of batches that fail are no longer tried alone."""
_NOT_FOR_VALUES = (MemoryError, OSError, OutputError)
_NO_ROOM = re.compile(r"out of memory|\boom\b|allocate", re.IGNORECASE)
"""In errors of frameworks."""
_CLOSE_S = 5.0
"""How long a batch under way may take when a run has ended."""


class BatchedSystem:
    """A model, or any function over batches: each of ``workers`` runs batches in its own thread.

    A batch starts when ``max_batch_size`` rows wait, or when the oldest row was issued ``max_queue_delay_s`` ago,
    whichever is first; with a delay of 0, and in closed-loop scenarios, a free worker takes whatever waits.  There a
    single worker runs in the caller's thread, which would be idle meanwhile.
    """

    columns: Mapping[str, npt.DTypeLike] = {"begun": np.int64, "batch_size": np.uint16}
    """When the computation of the row's batch began (ns), and how many rows the batch had.

    Of a ``RaggedLibrary`` also the size of the row's sample, and the size that it was padded to.
    """

    def __init__(
        self,
        name: str,
        workers: Sequence[RunBatch],
        library: SampleLibrary,
        *,
        max_batch_size: int,
        max_queue_delay_s: float = 0.0,
        in_order: bool = False,
        lanes: int = 1,
    ) -> None:
        """``in_order``: samples of a ``RaggedLibrary`` are not sorted by size, see ``RaggedLibrary.plan``.

        ``lanes``: so many workers that follow each other share an instance, see ``Turns``; they have ``room``.
        """
        self.name = name
        self.answer: Answer | None = None
        self._workers, self._library = workers, with_names(library)
        self.max_batch_size = max_batch_size
        self._ragged = self._library if isinstance(self._library, RaggedLibrary) else None
        sorts = self._ragged is not None
        self._delayed = BatchRule(max_batch_size, round(max_queue_delay_s * 1e9), sorts=sorts)
        self._at_once = BatchRule(max_batch_size, sorts=sorts)  # all that can come waits already
        self._in_order, self._lanes = in_order, lanes
        self._cuts = self._ragged is not None and all(hasattr(run, "cut") for run in workers)
        if self._ragged is not None:
            self.columns = {**self.columns, SIZE: np.uint32, "padded_size": np.uint32}
        self.rows: Callable[[BatchRule, int, Answers], Rows] = ThreadRows
        """Makes the queue that these workers, of their number, take batches from."""
        self._waiting: Rows | None = None
        self._sorted: SortedRows | None = None
        self._tries = _TRIES
        self._closing = False
        self._threads: list[threading.Thread] = []

    @property
    def workers(self) -> int:
        return len(self._workers)

    @property
    def lanes(self) -> int:
        """How many of them share an instance."""
        return self._lanes

    async def open(self, answers: Answers) -> None:
        self._answers = answers
        self._rule = self._at_once if answers.in_turn else self._delayed
        self._sample_index = answers.sample_index
        self._begun = answers.columns["begun"]
        self._batch_size = answers.columns["batch_size"]
        self.answer, self._closing, self._tries = None, False, _TRIES
        if any(thread.is_alive() for thread in self._threads):
            raise RuntimeError(f"{self.name} is still busy with a batch of the previous run")
        self._threads = []
        count = len(self._workers)
        if self._ragged is not None:
            self._sorted = SortedRows(self._ragged, answers, self.max_batch_size, count, in_order=self._in_order)
        if answers.in_turn and count == self._lanes and self.rows is ThreadRows:
            self.answer = self._answer if self._sorted is None else partial(self._answer_sorted, self._sorted)
            return
        self._waiting = waiting = self.rows(self._rule, count if self._sorted is None else 1, answers)
        self.issue, self.flush = waiting.put, waiting.flush  # type: ignore[method-assign]
        for number, run in enumerate(self._workers):
            take: Callable[..., Any] = partial(waiting.take, number)
            if self._sorted is not None:
                take = partial(self._sorted.next, number, waiting.take)
            if self._lanes > 1:
                if number % self._lanes == 0:
                    turns = Turns()
                turn = Turn(turns)
                take, run = partial(self._next, turn, take), _InTurn(run, turn)
            # A daemon, so that a model that never returns cannot keep the program from ending.
            work = self._work if self._sorted is None else self._work_sorted
            thread = threading.Thread(target=work, args=(take, run), name=f"sut-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def issue(self, first: int, last: int) -> None:
        raise RuntimeError(f"{self.name} is not open, or answers in the caller's thread")

    def flush(self) -> None:
        """In the caller's thread no row waits."""

    async def close(self) -> None:
        self._closing = True
        if self._waiting is not None:
            self._waiting.close()
        until = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        if not any(thread.is_alive() for thread in self._threads):
            self._waiting = self._sorted = self.answer = None
            for of_run in ("issue", "flush", "_answers", "_sample_index", "_begun", "_batch_size"):
                self.__dict__.pop(of_run, None)  # which hold the run's table

    def _work(self, take: Take, run: RunBatch) -> None:
        precise_timers()
        size, most = self.max_batch_size, 1
        while (rows := take(most)) is not None:
            first, last = rows
            began_ns, batches = time.monotonic_ns(), (last - first) // size
            if batches > 1:
                # A phase may have begun since the take that was for several.
                (self._run_in_turn if self._answers.keeping else self._run_several)(run, first, last)
            else:
                self._run(run, first, last)
            most = 1
            if batches and not self._answers.keeping:
                each_ns = (time.monotonic_ns() - began_ns) // batches
                most = max(min(_SEVERAL_NS // max(each_ns, 1), _MOST_BATCHES), 1)

    def _next(self, turn: Turn, take: Callable[..., Any], *most: int) -> Any:
        """Take rows when it is this thread's turn."""
        waiting, rule = self._waiting, self._rule
        ordered = self._sorted
        assert waiting is not None

        def count() -> float:
            return math.inf if self._closing or (ordered is not None and ordered.ready) else waiting.waiting

        return turn.next(partial(take, *most), count, rule.least)

    def _answer(self, first: int, last: int) -> Responses:
        size, run = self.max_batch_size, self._workers[0]
        if last - first <= size:
            self._batch_size[first:last] = last - first
            return self._compute(run, first, last)
        self._batch_size[first:last] = size
        self._batch_size[last - (last - first) % size : last] = (last - first) % size
        parts = [self._compute(run, row, min(row + size, last)) for row in range(first, last, size)]
        return [response for part in parts for response in as_bytes(part)]

    def _compute(self, run: RunBatch, first: int, last: int) -> Responses:
        if self._cuts and self._answers.keeping:
            return self._compute_rows(run, np.arange(first, last))
        self._begun[first:last] = self._answers.now()
        indices = self._sample_index[first:last]
        if self._lanes == 1:
            responses = run(self._library.batch(indices))
        else:
            responses = run(self._library.batch(indices, run.room(last - first)))  # type: ignore[attr-defined]
        check_count(responses, last - first)
        return responses

    def _run(self, run: RunBatch, first: int, last: int) -> None:
        self._batch_size[first:last] = last - first
        try:
            responses = self._compute(run, first, last)
        except BaseException as error:  # models raise anything: rows fail, and the run continues
            self._fail(run, np.arange(first, last), error)
        else:
            self._answers.complete(first, last, responses)

    def _fail(self, run: RunBatch, rows: RowArray, error: BaseException) -> None:
        """Fail the rows of a batch; if the model refuses values of some of them, only these.

        A row that fails alone too has such values.  If none does, the batch as such has failed, and all rows with it.
        """
        answers, status = self._answers, self._answers.record.status
        good: list[int] = []
        responses: list[bytes] = []
        bad: dict[int, BaseException] = {}
        if rows.size > 1 and self._tries and _may_be_of_values(error):
            for row in rows.tolist():
                if self._closing or status[row]:
                    return  # the run has given these up
                try:
                    responses += as_bytes(self._compute(run, row, row + 1))
                    good.append(row)
                except BaseException as refusal:
                    bad[row] = refusal
        if not bad:
            answers.fail_rows(rows, error)
            return
        for row in rows.tolist():
            self._batch_size[row] = 1
            if self._sorted is not None:
                self._sorted.enter_alone(row)
        if good:
            answers.complete_rows(np.array(good), responses)
        else:
            self._tries = max(self._tries - 1, 0)
        for row, reason in bad.items():
            answers.fail(row, row + 1, reason)

    def _run_several(self, run: RunBatch, first: int, last: int) -> None:
        """Run full batches whose samples are gathered, and whose times are entered, together.

        The responses are dropped, each before the next is computed.
        """
        size, clock, answers = self.max_batch_size, time.monotonic_ns, self._answers
        several = _several(run)
        times = [clock()]
        kind: type | None = None
        error: BaseException | None = None
        try:
            for responses in several(self._library, self._sample_index[first:last], size):
                # The first tells of what kind all are: code that runs once a batch is cold, and a call costs 1 to 2 us.
                if type(responses) is not kind or len(responses) != size:
                    check_count(responses, size)
                    kind = type(responses)
                times.append(clock())
        except BaseException as failed:
            error = failed
        self._batch_size[first:last] = size
        # A batch begins as the one before it is completed.
        at_ns = (np.array(times) - answers.origin_ns).repeat(size)
        done = first + at_ns.size - size
        begun = min(done + size, last)
        self._begun[first:begun] = at_ns[: begun - first]
        if done > first:
            answers.complete(first, done, at_ns=at_ns[size:])
        if error is not None:
            self._fail(run, np.arange(done, begun), error)
            self._run_in_turn(run, begun, last)

    def _run_in_turn(self, run: RunBatch, first: int, last: int) -> None:
        for start in range(first, last, self.max_batch_size):
            self._run(run, start, start + self.max_batch_size)

    # Of samples of different sizes, rows that do not follow each other make a batch.

    def _work_sorted(self, take: Callable[[], RowArray | int | None], run: RunBatch) -> None:
        precise_timers()
        status = self._answers.record.status
        while (rows := take()) is not None:
            if isinstance(rows, int):
                self._run(run, rows, rows + 1)
            elif not (self._closing or status[rows].any()):  # else the run has given these up
                try:
                    responses = self._compute_rows(run, rows)
                except BaseException as error:  # models raise anything: rows fail, and the run continues
                    self._fail(run, rows, error)
                else:
                    self._answers.complete_rows(rows, responses)

    def _answer_sorted(self, ordered: SortedRows, first: int, last: int) -> Responses:
        if last - first == 1:
            ordered.enter_alone(first)
            return self._compute(self._workers[0], first, last)
        batches = ordered.planned(first, last)
        if len(batches) == 1:  # which has its rows in their order
            return self._compute_rows(self._workers[0], batches[0])
        responses: list[bytes] = []
        for rows in batches:
            responses += as_bytes(self._compute_rows(self._workers[0], rows))
        # The row at each place is known; sorted by it, these are the places.
        return [responses[place] for place in np.concatenate(batches).argsort().tolist()]

    def _compute_rows(self, run: RunBatch, rows: RowArray) -> Responses:
        self._begun[rows] = self._answers.now()
        indices = self._sample_index[rows]
        batch = self._library.batch(indices)
        if self._cuts and self._answers.keeping:
            assert self._ragged is not None
            alone = [self._ragged.alone(index) for index in indices.tolist()]
            responses: Responses = run.cut(batch, alone)  # type: ignore[attr-defined]
        else:
            responses = run(batch)
        check_count(responses, rows.size)
        return responses


def _may_be_of_values(error: BaseException) -> bool:
    """Whether a model may have refused the values of a sample with this error, and not a batch as such."""
    return isinstance(error, Exception) and not (isinstance(error, _NOT_FOR_VALUES) or _NO_ROOM.search(str(error)))


def _several(run: RunBatch) -> RunSeveral:
    return getattr(run, "several", None) or partial(in_turn, run)


class _InTurn:
    """A ``RunBatch`` that tells ``Turns`` of each batch."""

    def __init__(self, run: Any, turn: Turn) -> None:
        self._run, self._turn = run, turn
        self.room, self._announced = run.room, turn.announced(run)
        if hasattr(run, "cut"):
            self.cut = self._cut

    def __call__(self, batch: Batch) -> Responses:
        responses: Responses = self._announced(batch)
        return responses

    def _cut(self, batch: Batch, alone: Sequence[Batch]) -> Responses:
        cut: RunBatch = lambda padded: self._run.cut(padded, alone)  # noqa: E731
        responses: Responses = self._turn.announced(cut)(batch)
        return responses

    def several(self, library: Library, indices: IndexArray, size: int) -> Iterator[Responses]:
        self._turn.begin(len(indices))
        try:
            yield from _several(self._run)(library, indices, size)
        finally:
            self._turn.end()


def in_turn(run: RunBatch, library: Library, indices: IndexArray, size: int) -> Iterator[Responses]:
    """A ``RunSeveral`` that calls ``run`` for each batch."""
    if (room := getattr(run, "room", None)) is not None:  # of one batch
        for start in range(0, len(indices), size):
            yield run(library.batch(indices[start : start + size], room(size)))
        return
    samples = library.batch(indices)
    for start in range(0, len(indices), size):
        yield run({name: array[start : start + size] for name, array in samples.items()})


def service_times(run: Callable[[], object], seconds: float = 0.2, least: int = 3) -> list[float]:
    """Call ``run`` for about ``seconds``, at least ``least`` times; returns how long each call took, s."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
