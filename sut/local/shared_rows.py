"""The queue of rows between the generator and other processes: a few integers in shared memory.

No query costs a system call: the generator writes one integer, and wakes a worker only if it sleeps.  A worker says so
in the memory and looks at the queue once more before it sleeps; as neither side has a memory barrier, both may miss the
other's last write, so it sleeps a millisecond at first, and looks again.  Later it looks ten times a second, as another
worker that was to wake it may be stopped.  All this is for processors whose writes are seen in the order of the
program, as those of x86-64 are.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import mmap
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import described
from drumfire.loadgen.limits import usable_cores
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import shared_file
from drumfire.loadgen.system import SystemUnderTest
from drumfire.sut.local.rows import BatchRule

_LINE = 8
"""Integers of 8 bytes in a line of the cache; each line has one writer at a time."""
_ORIGIN, _END, _FLUSHING, _AWAITED, _SPIN, _MOST = range(6)
"""The generator's: start of the phase, ns; the end of the rows issued; whether none follow; see ``Board.counts``; how
long a worker looks for rows before it sleeps, ns; the most rows that a worker may take at a time."""
_NEXT, _IDLE = _LINE, _LINE + 1
"""The workers': the next row to take; 1 if a worker may be asleep."""
_PROCESSES = 2 * _LINE
_ANSWERED, _FAILED = range(2)
"""A process's: rows answered in this phase, and failed."""
_ASLEEP, _FIRST, _LAST = range(3)
"""A worker's: 1 if it sleeps, 2 if it is being woken; the rows of its batch."""
_FIRST_SLEEP_S, _SLEEP_S = 1e-3, 0.1
"""How long a worker sleeps before it looks at the queue again, at first and then."""
SPIN_NS = {Spin.OFF: 0, Spin.ADAPTIVE: 200_000, Spin.FULL: sys.maxsize}
"""How long a worker looks for the next row before it sleeps: a core that went idle takes 30 to 60 us to wake, and then
computes slowly for a while."""
PROCESS = "process"
"""The column with the number of the process that computed a row, where there are several."""


class Board:
    """The shared memory, and the event descriptors that wake: of the generator, and of each worker."""

    def __init__(self, processes: int, workers: int, fds: Sequence[int] = ()) -> None:
        """``workers`` in each of ``processes``.  ``fds``: another process's, to share them."""
        self.processes, self.workers = processes, workers
        self.lanes = 1
        """How many workers take rows in turn; see ``Turns``."""
        first_worker = _PROCESSES + processes * _LINE
        self.places = [first_worker + number * _LINE for number in range(processes * workers)]
        """Of each worker, its first integer."""
        size = (first_worker + len(self.places) * _LINE) * 8
        self.fds = list(fds)
        try:
            if not fds:
                self.fds.append(shared_file(size))
                for _ in range(1 + len(self.places)):
                    self.fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            self.words = memoryview(mmap.mmap(self.fds[0], size)).cast("q")
        except OSError:
            self._close_fds()
            raise
        self.memory, self.answered, *self.wakers = self.fds

    def close(self) -> None:
        """Release all.  May be called again."""
        self.words.release()  # which unmaps it
        self._close_fds()

    def _close_fds(self) -> None:
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    # The generator's side.

    def begin(self, first_row: int, width: int = 0, spin: Spin = Spin.ADAPTIVE) -> None:
        """A phase comes, and no worker is at work.

        ``width``: of queries to divide among the workers; 0 where they take what waits.
        """
        words = self.words
        words[_MOST] = -(-width // len(self.places)) or sys.maxsize
        # A worker that looks would keep the interpreter from others, and where there are few cores, a core too.
        crowded = len(self.places) // self.lanes + 1 > usable_cores()
        if self.workers > self.lanes or (crowded and spin == Spin.ADAPTIVE):
            spin = Spin.OFF
        words[_AWAITED], words[_SPIN] = sys.maxsize, SPIN_NS[spin]
        for process in range(self.processes):
            at = _PROCESSES + process * _LINE
            words[at + _ANSWERED] = words[at + _FAILED] = 0
        for place in self.places:
            words[place + _FIRST] = words[place + _LAST] = first_row
        words[_FLUSHING] = 0
        words[_NEXT] = sys.maxsize  # no row waits in any order of these
        words[_END] = first_row
        words[_NEXT] = first_row

    def start(self, origin_ns: int) -> None:
        """The phase starts at ``origin_ns`` of the monotonic clock."""
        self.words[_ORIGIN] = origin_ns

    def putter(self, least: int) -> Callable[[int, int], None]:
        """What adds rows [first, last), and wakes a worker for the first row and from ``least`` rows on."""
        words, wake = self.words, self.wake

        def put(first: int, last: int) -> None:
            words[_END] = last
            # A worker that waits for a fuller batch is not woken for every row.
            if words[_IDLE] and (words[_NEXT] >= first or last - words[_NEXT] >= least):
                wake()

        return put

    def flush(self) -> None:
        self.words[_FLUSHING] = 1
        self.wake_all()

    def drop(self) -> None:
        """Let no worker take a further row of this phase, or look for one."""
        self.words[_SPIN] = self.words[_END] = 0

    def counts(self, awaited: int) -> tuple[int, int]:
        """Rows answered in this phase, and failed.  The event ``answered`` comes when ``awaited`` are answered."""
        words = self.words
        words[_AWAITED] = min(awaited, sys.maxsize)
        at = range(_PROCESSES, _PROCESSES + self.processes * _LINE, _LINE)
        return sum(words[one + _ANSWERED] for one in at), sum(words[one + _FAILED] for one in at)

    def taken(self, process: int) -> list[range]:
        """The rows that each worker of a process took last, of a ``Feeder`` all of the phase; some may be answered."""
        mine = self.places[process * self.workers : (process + 1) * self.workers]
        return [range(self.words[at + _FIRST], self.words[at + _LAST]) for at in mine]

    # Both sides'.

    def wake(self) -> None:
        """Wake a worker, if one is asleep."""
        words = self.words
        words[_IDLE] = 0  # before the look at who sleeps: this process may rest for long after it
        for at, waker in zip(self.places, self.wakers, strict=True):
            if words[at + _ASLEEP] == 1:
                words[at + _ASLEEP] = 2
                words[_IDLE] = 1
                os.eventfd_write(waker, 1)
                return

    def wake_all(self) -> None:
        for waker in self.wakers:
            os.eventfd_write(waker, 1)

    # The workers' side.

    def put_counts(self, process: int, answered: int, failed: int) -> None:
        """Enter what a process has answered in this phase, and tell the generator if that is what it awaits."""
        words, at = self.words, _PROCESSES + process * _LINE
        words[at + _FAILED] = failed
        words[at + _ANSWERED] = answered
        if self.processes > 1:
            answered = sum(words[one] for one in range(_PROCESSES, self.places[0], _LINE))
        if answered >= words[_AWAITED]:
            os.eventfd_write(self.answered, 1)

    def sleep(self, worker: int, end: int, seconds: float | None) -> None:
        """Sleep for some seconds, or without end, unless the queue ends elsewhere than at ``end``."""
        words, at, waker = self.words, self.places[worker], self.wakers[worker]
        if seconds is None:
            clock, began = time.monotonic_ns, time.monotonic_ns()
            while clock() - began < words[_SPIN]:
                if words[_END] != end:
                    return
        for left_s in _naps(seconds):
            words[at + _ASLEEP] = 1
            words[_IDLE] = 1
            if words[_END] != end or select.select([waker], [], [], left_s)[0]:
                break
        words[at + _ASLEEP] = 0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(waker)


def _naps(seconds: float | None) -> Iterable[float]:
    if seconds is None:
        return itertools.chain((_FIRST_SLEEP_S,), itertools.repeat(_SLEEP_S))
    return (seconds,) if seconds <= _FIRST_SLEEP_S else (_FIRST_SLEEP_S, seconds - _FIRST_SLEEP_S)


class SharedRows:
    """The queue as the workers of one process see it."""

    def __init__(self, board: Board, process: int, rule: BatchRule, workers: int, answers: Answers) -> None:
        """``workers``: those here that share what waits.

        ``answers``: of this process; it has the rows issued and the phase's start before a worker gets rows.
        """
        self._board, self._rule, self._answers = board, rule, answers
        self._workers = workers * board.processes
        self._process, self._first_worker = process, process * board.workers
        self._process_of = answers.columns.get(PROCESS)
        self._issued = answers.columns["issued"]
        self._rows = self._issued.size  # of the whole run
        self._lock = _Lock(board.memory) if board.processes > 1 else threading.Lock()
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._board.words[_END] - self._board.words[_NEXT]

    def take(self, worker: int, most: int = 1) -> tuple[int, int] | None:
        board, words, rule = self._board, self._board.words, self._rule
        worker += self._first_worker
        place = board.places[worker]
        while True:
            left_s = None
            with self._lock:
                if self._closed:
                    return None
                # In this order: no row comes after a flush that is seen here.
                flushing, first, end = words[_FLUSHING], words[_NEXT], words[_END]
                waiting = end - first
                if waiting > 0 and words[_NEXT] == first:  # else a phase began between these looks
                    left_ns = rule.patience_ns(waiting)
                    if left_ns and not flushing:
                        left_ns += int(self._issued[first]) + words[_ORIGIN] - time.monotonic_ns()
                    else:
                        left_ns = 0
                    if left_ns <= 0:
                        ended = bool(flushing) or end == self._rows  # the flush may come a little later
                        rows = rule.run(waiting, self._workers, most, last=ended)
                        last = first + min(rows, words[_MOST])
                        words[place + _FIRST], words[place + _LAST] = first, last
                        words[_NEXT] = last
                        # In here, so that no worker enters an older end after a newer one.
                        self._answers.issued, self._answers.origin_ns = end, words[_ORIGIN]
                        break
                    left_s = left_ns * 1e-9
            board.sleep(worker, end, left_s)
        # The end is read again: who put rows meanwhile may have thought that this batch takes them.
        if last < words[_END] and words[_IDLE]:
            board.wake()
        if self._process_of is not None:
            self._process_of[first:last] = self._process
        return first, last

    def put(self, first: int, last: int) -> None:
        raise RuntimeError("only the generator puts rows here")

    def flush(self) -> None:
        pass  # the generator's own

    def close(self) -> None:
        self._closed = True
        self._board.wake_all()


class Feeder:
    """Issues rows to a system that has no such queue, on the running loop of its process, which alone takes rows."""

    def __init__(self, board: Board, system: SystemUnderTest, answers: Answers) -> None:
        """``system`` is open."""
        self._board, self._system, self._answers = board, system, answers
        self._answer = system.answer if answers.in_turn else None
        self._loop = asyncio.get_running_loop()
        self._flushed = False
        self._again: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None

    def __enter__(self) -> Feeder:
        self._loop.add_reader(self._board.wakers[0], self._feed)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._board.wakers[0])
        for handle in (self._again, self._look):
            if handle is not None:
                handle.cancel()

    def begin(self) -> None:
        self._flushed = False
        self._feed()

    def _feed(self) -> None:
        """Issue what waits; as there is no barrier (see the module), look once more soon, and then when woken."""
        words, place = self._board.words, self._board.places[0]
        words[place + _ASLEEP] = 0
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._board.wakers[0])
        # In this order: no row comes after a flush that is seen here.
        flushing, first, last = words[_FLUSHING], words[_NEXT], words[_END]
        try:
            if first < last and words[_NEXT] == first:  # else a phase began between these looks
                words[place + _LAST] = last
                words[_NEXT] = last
                self._answers.issued, self._answers.origin_ns = last, words[_ORIGIN]
                self._issue(first, last)
            if flushing and not self._flushed:
                self._flushed = True
                self._system.flush()
        except Exception as error:  # whatever a system may raise
            traceback.print_exc()
            self._answers.abort(described(error))
        words[place + _ASLEEP] = words[_IDLE] = 1
        if words[_END] != last or (words[_FLUSHING] and not self._flushed):
            # Not at once: what the system awaits gets its turn, however fast rows come.
            self._again = self._loop.call_soon(self._feed)
        elif self._look is None:
            self._look = self._loop.call_later(_FIRST_SLEEP_S, self._look_again)

    def _issue(self, first: int, last: int) -> None:
        answer, answers = self._answer, self._answers
        if answer is None:
            self._system.issue(first, last)
            return
        try:
            responses = answer(first, last)
        except Exception as error:  # as in the generator's process: these rows fail, and the run continues
            answers.fail(first, last, error)
            return
        if isinstance(responses, int):
            answers.complete_each(range(first, last), at_ns=responses - answers.origin_ns)
        else:
            answers.complete(first, last, responses)

    def _look_again(self) -> None:
        self._look = None
        if self._board.words[_NEXT] < self._board.words[_END]:
            self._feed()


class _Lock:
    """Between the threads of several processes; it is free when the process that has it is killed."""

    def __init__(self, fd: int) -> None:
        self._fd, self._threads = fd, threading.Lock()

    def __enter__(self) -> None:
        self._threads.acquire()
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        except OSError:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN)
        self._threads.release()
