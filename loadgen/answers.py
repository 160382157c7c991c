"""Where answers arrive: what writes ``completed`` and ``status``, and the place where the run waits.

Any thread may answer.  An answer is a range of rows (or an array of them), and is complete at the moment it arrives.
Answers to rows that are not waiting for one are refused and counted, and make the run INVALID.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.elsewhere import Elsewhere
from drumfire.loadgen.errors import described
from drumfire.loadgen.faults import LATE_FIRST_TOKEN, SECOND_ANSWER, SECOND_FIRST_TOKEN, Faults
from drumfire.loadgen.flat_columns import FlatColumn
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import Column, Gauge, Record, RowArray, Status, repeated
from drumfire.loadgen.responses import Kept, Responses, as_bytes
from drumfire.loadgen.traffic import Phase

_clock = time.monotonic_ns
_LOOK_S = 0.02  # between looks at the counts of other processes, whose signal may be lost in a race
_OK, _FAILED, _UNANSWERED = int(Status.OK), int(Status.FAILED), int(Status.UNANSWERED)


class Answers:
    """The answers of one run."""

    def __init__(self, record: Record, *, in_turn: bool, spin: Spin = Spin.ADAPTIVE) -> None:
        self.record = record
        self.in_turn = in_turn
        """Whether each query is issued after the last is answered (SingleStream and MultiStream), as
        ``EffectiveSettings`` has it."""
        self.spin = spin
        """How the generator waits until a row is due; workers that wait for rows may do the same."""
        self.kept: list[Kept] = []
        self.faults = Faults()
        self.elsewhere: Elsewhere | None = None
        """Set by a system under test as it opens, if other processes answer."""
        self._counted = (0, 0)
        self.aborted: str | None = None
        """Why the system under test can answer nothing more, if it said so."""
        self.on_abort: Callable[[], object] | None = None
        self.on_booked: Callable[[], object] | None = None
        """Called by ``book``, after a burst of queries that were answered as they were issued."""
        self.origin_ns = 0
        self.issued = 0
        """Rows issued so far: rows [0, issued) of the table.  The issue loop sets it before it calls the system."""
        self.answered = self._failed = 0
        """Rows answered so far, failed rows included, and failed rows."""
        self.enough = self.hopeless = False
        """Whether this phase may stop issuing; whether that is because no good answer came for the run's patience."""
        self.patience_s = math.inf
        self.first_tokens: dict[int, bytes] = {}
        """First tokens for the accuracy log, by row."""
        self._gauges = record.gauges
        self._completed, self._status = record.completed, record.status
        self._completed_view, self._status_view = record.view("completed"), record.view("status")
        self._lock = threading.Lock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._first_row = 0
        self._keep_all = False
        self._logged: npt.NDArray[np.bool_] | None = None
        self.keeping = False
        """Whether the current phase may keep responses; otherwise systems need not make any."""
        self._awaited = sys.maxsize
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0

    @property
    def sample_index(self) -> Column:
        """Dataset index of each row."""
        return self.record.sample_index

    @property
    def columns(self) -> dict[str, Column]:
        return self.record.columns

    @property
    def flat_columns(self) -> dict[str, FlatColumn]:
        """Of several values a row; for this system to write until it answers the row."""
        return self.record.flat_columns

    def now(self) -> int:
        """ns since the phase started, as in all columns."""
        return time.monotonic_ns() - self.origin_ns

    def complete(
        self, first: int, last: int, responses: Responses | None = None, at_ns: Int64Array | None = None
    ) -> None:
        """Complete rows [first, last) now, or at ``at_ns``, as ``now`` gives it.  ``responses[i]``: of row first+i."""
        now = _clock() - self.origin_ns
        # Acquiring the lock by hand costs half as much as ``with``, and is the largest cost of a single row.
        self._acquire()
        try:
            if (count := last - first) == 1 and at_ns is None:
                status = self._status_view
                if not self._first_row <= first < self.issued or status[first]:
                    self._refuse_rows(np.arange(first, last))
                    return
                self._completed_view[first] = now
                status[first] = _OK
            else:
                in_range = self._first_row <= first < last <= self.issued
                # Comparing bytes is several times faster than numpy at checking that all are waiting.
                if not in_range or self._status_view[first:last].tobytes() != bytes(last - first):
                    self._refuse_rows(np.arange(first, last))
                    return
                self._completed[first:last] = now if at_ns is None else at_ns
                self._status[first:last] = _OK
            if responses is not None and self.keeping:
                self._keep(np.arange(first, last), responses)
            self.answered = answered = self.answered + count
        finally:
            self._release()
        if answered >= self._awaited:
            self.wake()

    def complete_rows(self, rows: RowArray, responses: Responses | None = None) -> None:
        """As ``complete``, for rows that are not consecutive: shape (n,), each row once."""
        self._settle(rows, responses=responses)

    def complete_each(
        self, rows: Sequence[int], responses: Sequence[bytes] | None = None, at_ns: int | None = None
    ) -> None:
        """As ``complete``, for a few rows in any order that were answered together.

        ``at_ns`` is their completion, if it was before this call; ns, on the clock of ``now``.
        """
        if len(rows) == 1 and at_ns is None:
            self.complete(rows[0], rows[0] + 1, responses)
            return
        now = _clock() - self.origin_ns if at_ns is None else at_ns
        completed, status, issued, first_row = self._completed_view, self._status_view, self.issued, self._first_row
        refused: list[int] = []
        with self._lock:
            for at, row in enumerate(rows):
                if first_row <= row < issued and not status[row]:
                    completed[row] = now
                    status[row] = _OK
                else:
                    refused.append(at)
                    self._refuse_rows(np.array((row,)))
            self.answered = answered = self.answered + len(rows) - len(refused)
            if responses is not None and self.keeping and len(refused) < len(rows):
                good = [at for at in range(len(rows)) if at not in refused]
                self._keep(np.array([rows[at] for at in good]), [responses[at] for at in good])
        if answered >= self._awaited:
            self.wake()

    def first_token(self, rows: RowArray, tokens: Responses | None = None) -> None:
        """Record that the first tokens of these rows arrive now, once per row and before the row is completed.

        For systems with the columns ``first_token`` and ``n_tokens``.  First tokens at other moments are refused.
        """
        now = _clock() - self.origin_ns
        column = self.record.columns["first_token"]
        with self._lock:
            if rows.size == 0 or rows.min() < self._first_row or rows.max() >= self.issued:
                self._refuse_rows(rows)
                return
            is_late = self._status[rows].any()
            if is_late or column[rows].any() or np.unique(rows).size != rows.size:
                self._refuse(LATE_FIRST_TOKEN if is_late else SECOND_FIRST_TOKEN)
                return
            column[rows] = now
            if tokens is not None and self.keeping:
                for row, data in zip(rows.tolist(), as_bytes(tokens), strict=True):
                    if self._wanted(np.array((row,))):
                        self.first_tokens[row] = data

    def abort(self, reason: str) -> None:
        """End the run, as the system can answer nothing more.  Call this on the event loop."""
        if self.aborted is None:
            self.aborted = reason
            # Not at once: a task that is cancelled as it runs, and waits for nothing more, ends as a cancelled one.
            asyncio.get_running_loop().call_soon(lambda: self.on_abort and self.on_abort())

    def wants(self, row: int) -> bool:
        """Whether the response to this row will be logged."""
        return self._keep_all or (self._logged is not None and bool(self._logged[row - self._first_row]))

    def fail(self, first: int, last: int, reason: str | BaseException) -> None:
        """Record that the system cannot answer rows [first, last), and why.  Any failed row makes the run INVALID."""
        self.fail_rows(np.arange(first, last), reason)

    def fail_rows(self, rows: RowArray, reason: str | BaseException) -> None:
        """As ``fail``, for rows that are not consecutive."""
        self._settle(rows, reason=reason)

    def begin(self, phase: Phase, origin_ns: int | None = None) -> None:
        """Start a phase on the running loop: now, or at ``origin_ns`` of the monotonic clock."""
        self._enter(phase, origin_ns)
        self._gauges[Gauge.FIRST_ROW] = phase.first_row
        self._gauges[Gauge.LAST_ROW] = phase.first_row + phase.rows
        self._gauges[Gauge.ORIGIN] = self.origin_ns

    def begin_warm_up(self, phase: Phase) -> None:
        """As ``begin``, for rows beyond the run's: other processes see a run that has not begun."""
        self._enter(phase, None)
        self.issued = self.answered = phase.first_row

    def end_warm_up(self) -> int:
        """Forget what ``begin_warm_up`` began; returns how many of its rows failed."""
        self._end_elsewhere()
        with self._lock:
            failed = self.faults.failed.total()
            self.faults.failed.clear()
            self._gauges[Gauge.FAILED] = self._failed = 0
            self.issued = self.answered = self._first_row = 0
        return failed

    def _enter(self, phase: Phase, origin_ns: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self.enough = self.hopeless = False
        self.patience_s = math.inf
        self.faults.forget_time()
        self._keep_all, self._logged = phase.accuracy, phase.logged
        self.keeping = phase.accuracy or phase.logged is not None
        self._first_row = phase.first_row
        if self.elsewhere is not None:
            self._counted = (0, 0)
            self.elsewhere.begin(phase)
        self.origin_ns = time.monotonic_ns() if origin_ns is None else origin_ns
        if self.elsewhere is not None:
            self.elsewhere.start(self.origin_ns)

    def book(
        self,
        first: int,
        samples_per_query: int,
        issued: Int64Array,
        completed: Int64Array,
        kept: list[tuple[int, Responses]],
        failed: list[tuple[int, Exception]],
    ) -> None:
        """Enter queries from row ``first`` that were answered as they were issued: times of shape (queries,).

        ``kept`` and ``failed`` hold the first row of a query, and its responses or its error.
        """
        last = first + issued.size * samples_per_query
        record = self.record
        record.issued[first:last] = issued if samples_per_query == 1 else issued.repeat(samples_per_query)
        record.scheduled[first:last] = record.issued[first:last]
        record.completed[first:last] = completed if samples_per_query == 1 else completed.repeat(samples_per_query)
        record.status[first:last] = _OK
        for row, error in failed:
            record.status[row : row + samples_per_query] = _FAILED
            self._count_failed(samples_per_query, error)
        self.issued = last
        self.answered += last - first
        if self.keeping:
            for row, responses in kept:
                self._keep(np.arange(row, row + samples_per_query), responses)
        if self.on_booked is not None:
            self.on_booked()

    async def wait(self, answered: int, patience_s: float) -> bool:
        """Wait until ``answered`` rows are answered; False after ``patience_s`` seconds without a good answer."""
        assert self._loop is not None
        seen, until_s = -1, 0.0
        while True:
            with self._lock:  # set before looking, so that the last answer cannot slip between
                self._waiter = waiter = self._loop.create_future()
                self._awaited = answered
            if (self.answered if self.elsewhere is None else self.pull()) >= answered:  # a call less for each query
                break
            good, now_s = self.answered - self._failed, self._loop.time()
            if good != seen:
                seen, until_s = good, now_s + patience_s
            elif now_s >= until_s:
                break
            left_s = until_s - now_s if self.elsewhere is None else min(until_s - now_s, _LOOK_S)
            timer = self._loop.call_later(left_s, waiter.cancel)
            try:
                await asyncio.wait((waiter,))
            finally:
                timer.cancel()
        self._awaited, self._waiter = sys.maxsize, None
        return self.answered >= answered

    def pull(self) -> int:
        """Count what other processes have answered, if any do; returns the rows answered so far, failed ones too."""
        if self.elsewhere is not None:
            with self._lock:
                answered, failed = self._counted
                self._counted = now = self.elsewhere.counts(self._awaited - self.answered + answered)
                self.answered += now[0] - answered
                self._gauges[Gauge.FAILED] = self._failed = self._failed + now[1] - failed
        return self.answered

    def _end_elsewhere(self) -> None:
        if self.elsewhere is not None:
            for faults, first_tokens in self.elsewhere.end():
                self.faults.add(faults)
                self.first_tokens |= first_tokens
            self.pull()
            # Of a process that was killed, the table may have more than it had counted.
            self._gauges[Gauge.FAILED] = self._failed = self.faults.failed.total()
            self._gauges[Gauge.REFUSED] = self.faults.refused.total()

    def publish(self) -> None:
        """Update the table's gauges; answered first, so that it never exceeds issued."""
        self._gauges[Gauge.ANSWERED] = self.pull()
        self._gauges[Gauge.ISSUED] = self.issued

    def give_up(self) -> None:
        """Mark issued rows without an answer as unanswered, and refuse answers to them from now on."""
        self._end_elsewhere()
        with self._lock:
            status = self.record.status[self._first_row : self.issued]
            pending = status == Status.PENDING
            status[pending] = _UNANSWERED
            count = int(np.count_nonzero(pending))
            self.faults.unanswered += count
            self.answered = self.answered + count if self.elsewhere is None else self.issued
        self.publish()

    def _settle(
        self, rows: RowArray, *, responses: Responses | None = None, reason: str | BaseException | None = None
    ) -> None:
        """Complete rows now, or fail them with a ``reason``; refuse all of them if any row was not waiting."""
        now = time.monotonic_ns() - self.origin_ns
        with self._lock:
            issued = rows.size and rows.min() >= self._first_row and rows.max() < self.issued
            # Comparing bytes is several times faster than numpy at checking that all are waiting.
            if not issued or self._status[rows].tobytes() != bytes(rows.size) or repeated(rows, self._completed):
                self._refuse_rows(rows)
                return
            self._completed[rows] = now
            self._status[rows] = _OK if reason is None else _FAILED
            if reason is not None:
                self._count_failed(rows.size, reason)
            if responses is not None and self.keeping:
                self._keep(rows, responses)
            self.answered = answered = self.answered + rows.size
            # Failures alone, each in less than the patience, must not keep a phase going.
            if reason is not None and self.faults.alone_ns(self.answered - self._failed, now) > self.patience_s * 1e9:
                self.enough = self.hopeless = True
        if answered >= self._awaited:
            self.wake()

    def _count_failed(self, rows: int, reason: str | BaseException) -> None:
        text = reason if isinstance(reason, str) else described(reason)
        self.faults.failed[" ".join(text.split())[:300]] += rows
        self._gauges[Gauge.FAILED] = self._failed = self._failed + rows

    def _keep(self, rows: RowArray, responses: Responses) -> None:
        if self._wanted(rows):
            self.kept.append(Kept.copied(rows, responses))

    def _wanted(self, rows: RowArray) -> bool:
        """Whether the accuracy log wants any of these rows."""
        return self._keep_all or (self._logged is not None and bool(self._logged[rows - self._first_row].any()))

    def _refuse_rows(self, rows: RowArray) -> None:
        spare = self.record.rows
        if rows.size and spare <= rows.min() and rows.max() < spare + self.record.spare and self.issued <= spare:
            return  # late for the warm-up, and no row of the run
        if rows.size == 0:
            why = "an answer to no row"
        elif rows.min() < 0 or rows.max() >= self.issued:
            why = "an answer to a row that was never issued"
        elif rows.min() < self._first_row or (self.record.status[rows] == Status.UNANSWERED).any():
            why = "an answer after the run had stopped waiting for it"
        else:
            why = SECOND_ANSWER
        self._refuse(why)

    def refuse(self, why: str) -> None:
        """Count an answer that no row was waiting for, which makes the run INVALID."""
        with self._lock:
            self._refuse(why)

    def _refuse(self, why: str) -> None:
        self.faults.refused[why] += 1
        self._gauges[Gauge.REFUSED] += 1

    def wake(self) -> None:
        if self._waiter is None:
            return
        if threading.get_ident() == self._loop_thread:
            self._settle_waiter()
        else:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._settle_waiter)

    def _settle_waiter(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
