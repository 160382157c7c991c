"""A system under test in processes of its own, so that it never shares an interpreter with the generator.

The processes have the run's table: they read rows and write answers there (see ``shared_rows``), stamped with the one
monotonic clock.  All else (loading samples, the start of a phase, responses for the accuracy log) are messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.faults import Faults
from drumfire.loadgen.limits import check_files, on_limit
from drumfire.loadgen.record import Column, Status
from drumfire.loadgen.responses import Kept
from drumfire.loadgen.system import Answer, IndexArray
from drumfire.loadgen.traffic import Phase
from drumfire.sut.local.batching import batch_sizes
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.host_process import ANSWER_S, END_S, IMPORTS, HostProcess, ProcessLost
from drumfire.sut.local.messages import MOST_FDS
from drumfire.sut.local.shared_rows import PROCESS, Board

_CLOSE_S = 7.0
"""How long a process may take to close, which waits for a batch under way; then it is ended."""
MOST_WORKERS = MOST_FDS - 2
"""Of all processes together."""
_NONE = np.empty(0, np.uint32)


def _check_name(make: object) -> None:
    module, _, function = make.partition(":") if isinstance(make, str) else ("", "", "")
    if not (module and function):
        raise UserError(f"OwnProcess takes the name of a function, as 'my_module:make', and not {make!r:.80}")
    if module == "__main__":
        raise UserError(f"{make}: another process imports it, so name the file, as my_script:{function}")
    if IMPORTS in os.environ:
        raise UserError(
            f"the process of {os.environ[IMPORTS]} imports this file too: put the file's own work behind "
            "if __name__ == '__main__':"
        )


class HostedLibrary:
    """The system's library, whose samples are loaded where they are used."""

    def __init__(
        self, call: Callable[[str, IndexArray], None], name: str, total_count: int, performance_count: int
    ) -> None:
        self._call = call
        self.name, self.total_count, self.performance_count = name, total_count, performance_count

    def load(self, indices: IndexArray) -> None:
        self._call("load", indices)

    def unload(self, indices: IndexArray) -> None:
        with contextlib.suppress(ProcessLost):
            self._call("unload", indices)

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
        self, make: str, *arguments: Any, workers: int = 1, processes: Sequence[Placement] | None = None
    ) -> None:
        """Raises ``UserError``, also where making the system raises it.

        ``workers``: of a ``BatchedSystem``, how many functions it has at most.  ``processes``: by default, one.
        """
        placements = processes or [Placement()]
        _check_name(make)
        if not hasattr(os, "eventfd"):
            raise UserError("a system in processes of its own needs Linux: run it in this one")
        if len(placements) * workers > MOST_WORKERS:
            raise UserError(f"{len(placements) * workers} workers in processes of their own: at most {MOST_WORKERS}")
        try:
            packed = pickle.dumps(arguments)
        except Exception as error:  # objects raise anything
            raise UserError(
                f"{make} runs in another process, which its arguments cannot reach: {described(error)}"
            ) from error
        self._owner = os.getpid()
        self._processes: list[HostProcess] = []
        self._ended: list[HostProcess] = []
        self._answers: Answers | None = None
        self._phase: Phase | None = None
        self._failed_before = self._refused = 0
        try:
            self._board = Board(len(placements), workers)
            try:
                facts = self._start(placements, make, packed, workers)
            except BaseException:
                self.shut()
                raise
        except OSError as error:
            raise UserError(on_limit(error) or f"{make} gets no process of its own: {described(error)}") from error
        self.name: str = facts["name"]
        self._least: int = facts["batch"]
        self._board.lanes = facts["lanes"]
        self.columns: Mapping[str, npt.DTypeLike] = facts["columns"]
        if len(placements) > 1:
            self.columns = {**self.columns, PROCESS: np.uint8}
        self.library = HostedLibrary(self._call, *facts["library"])

    def _start(self, placements: Sequence[Placement], make: str, arguments: bytes, workers: int) -> Mapping[str, Any]:
        """Start the processes, and make the system in each; returns what the first says of it."""
        check_files()  # which they would find out too late to say
        for number, placement in enumerate(placements):
            self._processes.append(HostProcess(number, placement))
        for process in self._processes:
            place = (process.number, len(placements), workers)
            process.ask("make", make, arguments, sys.path, *place, fds=self._board.fds)
        facts: list[Mapping[str, Any]] = [self._result(process) for process in self._processes]
        return facts[0]

    def ask(self, name: str, *arguments: Any) -> Any:
        """An attribute of what ``make`` gave, or what a method of it gives: the first process's.

        Raises ``UserError`` where that raises, and ``ProcessLost``, which is one.
        """
        self._check_open()
        self._processes[0].ask("ask", name, arguments)
        return self._result(self._processes[0])

    def report(self, columns: Mapping[str, Column] | None = None) -> list[dict[str, Any]]:
        """See ``InProcesses.report``.

        CPU time is that of the phases; memory is the most so far.  Both are None of a process that was lost in the
        run, and before its end.
        """
        return [
            {
                "pid": process.pid,
                "device": process.placement.device,
                "cores": list(process.placement.cores),
                "cpu_s": process.cpu_s,
                "memory_bytes": process.memory_bytes,
                **(_work(process, columns) if columns is not None else {}),
            }
            for process in self._processes or self._ended
        ]

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    @property
    def pids(self) -> Sequence[int]:
        return [process.pid for process in self._processes]

    def shut(self) -> None:
        """End the processes, which takes up to 2 s.  May be called again."""
        if os.getpid() != self._owner:  # a fork, which has only copies
            return
        try:
            for process in self._processes:
                process.line.close()
            until = time.monotonic() + END_S
            for process in self._processes:
                process.wait(max(until - time.monotonic(), 0.0))
            for process in self._processes:
                process.kill()
            until = time.monotonic() + END_S
            for process in self._processes:
                process.wait(max(until - time.monotonic(), 0.0))
        finally:
            self._board.close()
        if self._processes:
            self._ended, self._processes = self._processes, []

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a method of each ``Host``, side by side, also where one of them is lost.  Raises ``UserError``."""
        self._check_open()
        asked, errors = list[HostProcess](), list[UserError]()
        for process in self._processes:
            try:
                process.ask(name, *arguments)
                asked.append(process)
            except ProcessLost as error:
                errors.append(error)
        for process in asked:
            try:
                self._result(process)
            except UserError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _check_open(self) -> None:
        if not self._processes:
            raise UserError(f"{self.name} has been shut")

    # As a system under test.

    async def open(self, answers: Answers) -> None:
        self._check_open()
        if self._answers is not None:
            self._refused += 1
            raise UserError(f"{self.name} is in a run already: a run at a time, or another OwnProcess")
        self._answers, record, loop = answers, answers.record, asyncio.get_running_loop()
        answers.elsewhere = self
        self._board.begin(0)  # what it counted was another run's
        self.issue, self.flush = self._board.putter(self._least), self._board.flush  # type: ignore
        for process in self._processes:
            process.cpu_s = process.memory_bytes = None
        for process in self._processes:
            process.ask("open", record.layout, answers.in_turn, fds=[record.fd])
        for process in self._processes:
            self._result(process)
            loop.add_reader(process.line, self._read_messages, process)
        loop.add_reader(self._board.answered, self._wake, answers)

    def issue(self, first: int, last: int) -> None:
        raise RuntimeError(f"{self.name} is not open")

    def flush(self) -> None:
        raise RuntimeError(f"{self.name} is not open")

    async def close(self) -> None:
        if self._refused:  # of a run that was not let in, and closes all the same
            self._refused -= 1
            return
        loop, answers = asyncio.get_running_loop(), self._answers
        loop.remove_reader(self._board.answered)
        for process in self._processes:
            loop.remove_reader(process.line)
        for name in ("issue", "flush"):
            self.__dict__.pop(name, None)
        if answers is not None and self._phase is None and not answers.faults.unanswered:
            self._answers = None  # all is measured: whoever is lost now is refused at the next open
        for process, left_s in self._asked(_CLOSE_S, "close"):
            with self._losing(process):
                faults, process.cpu_s, process.memory_bytes = self._result(process, left_s)
                for why in faults.refused.elements():
                    if answers is not None:
                        answers.refuse(why)
        if answers is not None:
            answers.elsewhere = None
        self._answers = None

    # As what answers elsewhere.

    def begin(self, phase: Phase) -> None:
        assert self._answers is not None
        width = phase.samples_per_query if self._answers.in_turn else 0
        self._board.begin(phase.first_row, width, self._answers.spin)
        self._phase, self._failed_before = phase, self._answers.faults.failed.total()
        light = replace(phase, loaded=_NONE, sample_index=_NONE, scheduled=None)  # the rest is in the table
        for process, left_s in self._asked(ANSWER_S, "begin", light):
            with self._losing(process):
                self._result(process, left_s)

    def start(self, origin_ns: int) -> None:
        self._board.start(origin_ns)

    def counts(self, awaited: int) -> tuple[int, int]:
        return self._board.counts(awaited)

    def end(self) -> Iterator[tuple[Faults, Mapping[int, bytes]]]:
        phase, answers, self._phase = self._phase, self._answers, None
        if phase is None or answers is None:
            return
        self._board.drop()
        for process, left_s in self._asked(ANSWER_S, "end"):
            with self._losing(process):
                yield self._result(process, left_s)
        # Now that no process answers any more, what the lost ones had taken fails.
        status = answers.record.status
        for process in self._processes:
            if process.lost is not None:
                rows = np.concatenate([np.asarray(taken, np.int64) for taken in self._board.taken(process.number)])
                rows = rows[status[rows] == Status.PENDING]
                if rows.size:
                    answers.fail_rows(rows, process.lost)
        unexplained = np.count_nonzero(status[phase.first_row : phase.first_row + phase.rows] == Status.FAILED)
        unexplained -= answers.faults.failed.total() - self._failed_before
        lost = next((process.lost for process in self._processes if process.lost is not None), None)
        if unexplained > 0 and lost is not None:
            yield Faults(Counter({f"no reason is known, as {lost}": int(unexplained)})), {}

    # Helpers.

    def _asked(self, within_s: float, name: str, *arguments: Any) -> Iterator[tuple[HostProcess, float]]:
        """Call a method of the processes that live; gives each whose answer comes, and how long that may take, s."""
        asked, until = list[HostProcess](), time.monotonic() + within_s
        for process in self._processes:
            if process.lost is None:
                with self._losing(process):
                    process.ask(name, *arguments)
                    asked.append(process)
        for process in asked:
            yield process, max(until - time.monotonic(), 0.0)

    def _result(self, process: HostProcess, patience_s: float | None = None) -> Any:
        """See ``HostProcess.result``."""
        return process.result(self._handle, patience_s)

    def _read_messages(self, process: HostProcess) -> None:
        """Take the messages that are no answers to calls."""
        with self._losing(process):
            try:
                while (message := process.line.receive()) is not None:
                    kind, *what = message
                    self._handle(kind, what)
            except (EOFError, OSError):
                raise process.loss() from None

    def _handle(self, kind: str, what: Sequence[Any]) -> None:
        answers = self._answers
        if answers is not None and kind == "kept":
            answers.kept.append(Kept(*what))
        elif answers is not None and kind == "aborted":
            answers.abort(what[0])

    @contextlib.contextmanager
    def _losing(self, process: HostProcess) -> Iterator[None]:
        """End the run where the process is lost."""
        try:
            yield
        except ProcessLost as error:
            asyncio.get_running_loop().remove_reader(process.line)
            if self._answers is not None:
                self._answers.abort(str(error))

    def _wake(self, answers: Answers) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._board.answered)
        answers.wake()


def _work(process: HostProcess, columns: Mapping[str, Column]) -> dict[str, Any]:
    """What the process did of the rows."""
    good = columns["status"] == Status.OK
    if PROCESS in columns:
        good &= columns[PROCESS] == process.number
    sizes = batch_sizes(columns["batch_size"][good]) if "batch_size" in columns else {}
    return {"samples": int(np.count_nonzero(good)), "batch_sizes": {str(size): n for size, n in sizes.items()}}
