"""A system under test in processes of its own, so that it never shares an interpreter with the generator.

The processes have the run's table: they read rows and write answers there (see ``shared_rows``), stamped with the one
monotonic clock.  All else (loading samples, the start of a phase, responses for the accuracy log) are messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.faults import Faults
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.responses import Kept
from drumfire.loadgen.system import Answer, IndexArray
from drumfire.loadgen.traffic import Phase
from drumfire.sut import module_process
from drumfire.sut.local.batcher import batch_sizes
from drumfire.sut.local.host import Surroundings
from drumfire.sut.local.messages import MOST_FDS, Line
from drumfire.sut.local.shared_rows import PROCESS, Board

_ANSWER_S = 5.0
"""How long a process may take for what takes no time; then it is ended."""
_CLOSE_S = 7.0
"""The same for closing, which waits for a batch under way."""
_END_S = 1.0
MOST_WORKERS = MOST_FDS - 2
"""Of all processes together."""
_NONE = np.empty(0, np.uint32)


class ProcessLost(UserError):
    """A process of the system under test has ended.  The text says how."""


class _Process:
    """One process, and the line to it."""

    def __init__(self, number: int, around: Surroundings) -> None:
        self.number, self.around = number, around
        self.lost: str | None = None
        self.due = 0
        """Answers to calls that have not come yet; only the last one's is still awaited."""
        self.cpu_s, self.memory_bytes = 0.0, 0
        ours, theirs = socket.socketpair()
        self.line = Line(ours, _ANSWER_S)
        with theirs:
            # In a session of its own, what it starts can be ended with it, and Ctrl-C does not reach it.
            self._process = module_process.start("drumfire.sut.local.host", stdin=theirs, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str, *arguments: Any, fds: Sequence[int] = ()) -> None:
        """Call a method of the ``Host``; the answer comes by the line.  Raises ``ProcessLost``."""
        if self.lost is not None:
            raise ProcessLost(self.lost)
        try:
            self.line.send((name, arguments), fds)
        except OSError:
            raise self.loss() from None
        self.due += 1

    @property
    def is_stopped(self) -> bool:
        """Whether a signal stopped it, as SIGSTOP does."""
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
        return False

    def loss(self, why: str = "") -> ProcessLost:
        """How the process ended; it is ended here for the reason ``why``, if there is one."""
        status = self.end(0.0 if why else _END_S)
        if self.lost is None:
            if status is None:
                how = "cannot be ended"
            elif status >= 0:
                how = f"ended with status {status}"
            else:
                how = f"was ended by {_signal(-status)}"
            if status == -signal.SIGKILL:
                how += " (by hand, or by the kernel where memory ran out)"
            self.lost = f"the process of the system under test ({self.pid}) {why or how}"
        return ProcessLost(self.lost)

    def end(self, patience_s: float = _END_S) -> int | None:
        """Wait for its end for some seconds, then kill it, and in any case what it started; returns its status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs can hold it
            return self._process.wait(_END_S)
        return None


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


class HostedLibrary:
    """The system's library, whose samples are loaded where they are used."""

    def __init__(self, owner: OwnProcess, name: str, total_count: int, performance_count: int) -> None:
        self._owner = owner
        self.name, self.total_count, self.performance_count = name, total_count, performance_count

    def load(self, indices: IndexArray) -> None:
        self._owner.call("load", indices)

    def unload(self, indices: IndexArray) -> None:
        with contextlib.suppress(ProcessLost):
            self._owner.call("unload", indices)

    def batch(self, indices: IndexArray) -> NoReturn:
        raise RuntimeError(f"the samples of {self.name} are in another process")


class OwnProcess:
    """Runs a system under test in one or several other processes.

    ``make`` names a function, ``MODULE:FUNCTION``, which is called there with ``arguments`` and gives a system and its
    sample library.  Here, ``library`` stands for that library.  The processes live until ``shut``, or until the end of
    ``with OwnProcess(...)``.
    """

    answer: Answer | None = None

    def __init__(
        self, make: str, *arguments: Any, workers: int = 1, processes: Sequence[Surroundings] | None = None
    ) -> None:
        """Raises ``UserError``, also where making the system raises it.

        ``workers``: of a ``BatchedSystem``.  ``processes``: by default, one.
        """
        around = processes or [Surroundings()]
        if not hasattr(os, "eventfd"):
            raise UserError("a system in processes of its own needs Linux: run it in this one")
        if len(around) * workers > MOST_WORKERS:
            raise UserError(f"{len(around) * workers} workers in processes of their own: at most {MOST_WORKERS}")
        try:
            packed = pickle.dumps(arguments)
        except Exception as error:  # objects raise anything
            raise UserError(
                f"{make} runs in another process, which its arguments cannot reach: {described(error)}"
            ) from error
        self._processes: list[_Process] = []
        self._ended: list[_Process] = []
        self._answers: Answers | None = None
        self._phase: Phase | None = None
        self._failed_before = 0
        self._board = Board(len(around), workers)
        try:
            self._processes += (_Process(number, one) for number, one in enumerate(around))
            for one in self._processes:
                place = (one.number, len(around), workers, one.around)
                one.ask("make", make, packed, sys.path, *place, fds=self._board.fds)
            facts, *_ = [self._result(one) for one in self._processes]
        except BaseException:
            self.shut()
            raise
        self.name: str = facts["name"]
        self._least: int = facts["batch"]
        self.columns: Mapping[str, npt.DTypeLike] = facts["columns"]
        if len(around) > 1:
            self.columns = {**self.columns, PROCESS: np.uint8}
        self.library = HostedLibrary(self, *facts["library"])

    def ask(self, name: str, *arguments: Any) -> Any:
        """An attribute of what ``make`` gave, or what a method of it gives: the first process's."""
        self._processes[0].ask("ask", name, arguments)
        return self._result(self._processes[0])

    def report(self, record: Record | None = None) -> list[dict[str, Any]]:
        """Each process with what it took in the last run, and did, if ``record`` is the run's table; JSON-ready.

        CPU time is that of the phases; memory is the most so far.
        """
        return [
            {
                "pid": one.pid,
                "device": one.around.device,
                "cores": list(one.around.cores),
                "cpu_s": one.cpu_s,
                "memory_bytes": one.memory_bytes,
                **(self._work(one, record) if record is not None else {}),
            }
            for one in self._processes or self._ended
        ]

    def _work(self, one: _Process, record: Record) -> dict[str, Any]:
        issued, columns = slice(0, record.issued_rows), record.columns
        good = columns["status"][issued] == Status.OK
        if PROCESS in columns:
            good &= columns[PROCESS][issued] == one.number
        sizes = batch_sizes(columns["batch_size"][issued][good]) if "batch_size" in columns else {}
        return {"samples": int(np.count_nonzero(good)), "batch_sizes": {str(size): n for size, n in sizes.items()}}

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    @property
    def pids(self) -> Sequence[int]:
        return [one.pid for one in self._processes]

    def shut(self) -> None:
        """End the processes."""
        for one in self._processes:
            one.line.close()
        for one in self._processes:
            one.end()
        if self._processes:
            self._board.close()
            self._ended, self._processes = self._processes, []

    def call(self, name: str, *arguments: Any, patience_s: float | None = None) -> list[Any]:
        """Call a method of each ``Host``, side by side.  Raises ``UserError``."""
        for one in self._processes:
            one.ask(name, *arguments)
        return [self._result(one, patience_s) for one in self._processes]

    # As a system under test.

    async def open(self, answers: Answers) -> None:
        if not self._processes:
            raise UserError(f"{self.name} has been shut")
        self._answers, record, loop = answers, answers.record, asyncio.get_running_loop()
        answers.elsewhere = self
        self._board.begin(0)  # what it counted was another run's
        self.issue, self.flush = self._board.putter(self._least), self._board.flush  # type: ignore
        for one in self._processes:
            one.ask("open", record.layout, answers.closed_loop, fds=[record.fd])
        for one in self._processes:
            self._result(one)
            loop.add_reader(one.line, self._hear, one)
        loop.add_reader(self._board.answered, self._wake, answers)

    def issue(self, first: int, last: int) -> None:
        raise RuntimeError(f"{self.name} is not open")

    def flush(self) -> None:
        raise RuntimeError(f"{self.name} is not open")

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._board.answered)
        for one in self._processes:
            loop.remove_reader(one.line)
        for one in self._asked("close"):
            with self._losing(one):
                faults, one.cpu_s, one.memory_bytes = self._result(one, _CLOSE_S)
                for why in faults.refused.elements():
                    if self._answers is not None:
                        self._answers.refuse(why)
        if self._answers is not None:
            self._answers.elsewhere = None
        self._answers = None

    # As what answers elsewhere.

    def begin(self, phase: Phase) -> None:
        assert self._answers is not None
        width = phase.samples_per_query if self._answers.closed_loop else 0
        self._board.begin(phase.first_row, width, self._answers.spin)
        self._phase, self._failed_before = phase, self._answers.faults.failed.total()
        light = replace(phase, loaded=_NONE, sample_index=_NONE, scheduled=None)  # the rest is in the table
        for one in self._asked("begin", light):
            with self._losing(one):
                self._result(one, _ANSWER_S)

    def start(self, origin_ns: int) -> None:
        self._board.start(origin_ns)

    def counts(self, awaited: int) -> tuple[int, int]:
        return self._board.counts(awaited)

    def end(self) -> Iterator[tuple[Faults, Mapping[int, bytes]]]:
        phase, answers, self._phase = self._phase, self._answers, None
        if phase is None or answers is None:
            return
        self._board.drop()
        for one in self._asked("end"):
            with self._losing(one):
                yield self._result(one, _ANSWER_S)
        # Now that no process answers any more, what the lost ones had taken fails.
        status = answers.record.status
        for one in self._processes:
            if one.lost is not None:
                rows = np.concatenate([np.asarray(taken, np.int64) for taken in self._board.taken(one.number)])
                rows = rows[status[rows] == Status.PENDING]
                if rows.size:
                    answers.fail_rows(rows, one.lost)
        untold = np.count_nonzero(status[phase.first_row : phase.first_row + phase.rows] == Status.FAILED)
        untold -= answers.faults.failed.total() - self._failed_before
        lost = next((one.lost for one in self._processes if one.lost is not None), None)
        if untold > 0 and lost is not None:
            yield Faults(Counter({f"no reason is known, as {lost}": int(untold)})), {}

    # Helpers.

    def _asked(self, name: str, *arguments: Any) -> list[_Process]:
        """Call a method of the processes that live; returns those whose answers come."""
        asked = []
        for one in self._processes:
            if one.lost is None:
                with self._losing(one):
                    one.ask(name, *arguments)
                    asked.append(one)
        return asked

    def _result(self, one: _Process, patience_s: float | None = None) -> Any:
        """What the last call gave.  Raises ``UserError`` if it raised, and ``ProcessLost``.

        Without a patience, only a process that is stopped is not waited for.
        """
        while True:
            try:
                message = one.line.receive(_ANSWER_S if patience_s is None else patience_s)
            except (EOFError, OSError):
                raise one.loss() from None
            if message is None:
                if one.is_stopped:
                    raise one.loss("was stopped by a signal, so that it was ended")
                if patience_s is not None:
                    raise one.loss(f"did not react within {patience_s:g} s, so that it was ended")
                continue
            kind, *what = message
            if kind not in ("done", "refused", "failed"):
                self._take(kind, what)
                continue
            one.due -= 1
            if one.due:  # an answer to a call that was given up
                continue
            if kind == "done":
                return what[0]
            raise UserError(what[0])

    def _hear(self, one: _Process) -> None:
        """Take the messages that are no answers to calls."""
        with self._losing(one):
            try:
                while (message := one.line.receive()) is not None:
                    kind, *what = message
                    self._take(kind, what)
            except (EOFError, OSError):
                raise one.loss() from None

    def _take(self, kind: str, what: Sequence[Any]) -> None:
        answers = self._answers
        if answers is not None and kind == "kept":
            answers.kept.append(Kept(*what))
        elif answers is not None and kind == "aborted":
            answers.abort(what[0])

    @contextlib.contextmanager
    def _losing(self, one: _Process) -> Iterator[None]:
        """End the run where the process is lost."""
        try:
            yield
        except ProcessLost as error:
            asyncio.get_running_loop().remove_reader(one.line)
            if self._answers is not None:
                self._answers.abort(str(error))

    def _wake(self, answers: Answers) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._board.answered)
        answers.wake()
