"""The other process of ``OwnProcess``: makes a system under test, and runs it on rows of the generator's table.

``python -m drumfire.sut.local.host``, with a socket as its standard input.  It ends with the generator's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from drumfire.loadgen import interpreter
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.faults import Faults
from drumfire.loadgen.limits import on_limit
from drumfire.loadgen.record import Gauge, Record, RowArray
from drumfire.loadgen.responses import Responses, as_bytes
from drumfire.loadgen.system import IndexArray, SystemUnderTest
from drumfire.loadgen.traffic import Phase
from drumfire.sut import module_process
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.host_process import IMPORTS
from drumfire.sut.local.messages import Line
from drumfire.sut.local.shared_rows import Board, Feeder, SharedRows
from drumfire.sut.plugins import imported

_PATIENCE_S = 86_400.0
"""The generator's process may be stopped for long."""


class Host:
    """Makes a system and runs it.  The generator's side calls its public methods by name."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._made: Any = None
        self._system: SystemUnderTest
        self._board: Board
        self._number = 0
        self._answers: _Answers | None = None
        self._opened = ExitStack()
        self._feeder: Feeder | None = None
        self._cpu_began_ns: int | None = None
        self._cpu_ns = 0

    async def serve(self) -> None:
        """Do one call after the other, until the generator's process ends."""
        ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._line.fileno(), ready.set)
        while True:
            await ready.wait()
            ready.clear()
            while (call := self._line.receive()) is not None:
                await self._do(*call)

    async def _do(self, call: int, name: str, arguments: Sequence[Any]) -> None:
        """Do the call of this number, and answer it."""
        try:
            done = getattr(self, name)(*arguments)
            self._send("done", call, await done if asyncio.iscoroutine(done) else done)
        except UserError as error:
            self._send("refused", call, str(error))
        except Exception as error:  # whatever the system may raise
            traceback.print_exc()
            self._send("failed", call, on_limit(error) or described(error))

    def _send(self, kind: str, *what: Any) -> None:
        self._line.send((kind, *what))

    def make(
        self, function: str, arguments: bytes, paths: Sequence[str], number: int, processes: int, workers: int
    ) -> Mapping[str, Any]:
        """Make the system: ``MODULE:FUNCTION`` of the arguments gives it and its library, as a pair or attributes.

        ``arguments`` are pickled, so that those which cannot be read here are reported like other errors.  ``paths``:
        where the other process finds modules.
        """
        sys.path[:] = paths
        self._board = Board(processes, workers, self._line.take_fds(2 + processes * workers))
        self._number = number
        made = _function(function)(*pickle.loads(arguments))
        if isinstance(made, tuple) and len(made) == 2:
            made = SimpleNamespace(system=made[0], library=made[1])
        if not (hasattr(made, "system") and hasattr(made, "library")):
            raise UserError(f"{function} must return a system and its library, not {made!r:.80}")
        self._made = made
        self._system, library = self._made.system, self._made.library
        if isinstance(self._system, BatchedSystem):
            if (wanted := self._system.workers) > workers:
                raise UserError(f"{self._system.name} has {wanted} workers: OwnProcess(..., workers={wanted})")
            self._system.rows = partial(SharedRows, self._board, number)
        elif processes > 1:
            raise UserError(f"{self._system.name} is no BatchedSystem, so it cannot have several processes")
        return {
            "name": self._system.name,
            "columns": dict(self._system.columns),
            "batch": getattr(self._system, "max_batch_size", 1),
            "lanes": getattr(self._system, "lanes", 1),
            "library": (library.name, library.total_count, library.performance_count),
        }

    def ask(self, name: str, arguments: Sequence[Any]) -> Any:
        """An attribute of what was made, or what a method of it gives."""
        found = getattr(self._made, name)
        return found(*arguments) if callable(found) else found

    def load(self, indices: IndexArray) -> None:
        self._made.library.load(indices)

    def unload(self, indices: IndexArray) -> None:
        self._made.library.unload(indices)

    async def open(self, layout: str, in_turn: bool) -> None:
        (fd,) = self._line.take_fds(1)
        record = Record.attach(fd, layout)
        self._answers = answers = _Answers(record, in_turn, self._board, self._number, self._send)
        self._cpu_began_ns, self._cpu_ns = None, 0
        self._opened.enter_context(interpreter.quiet())
        await self._system.open(answers)
        if not isinstance(self._system, BatchedSystem):
            self._feeder = self._opened.enter_context(Feeder(self._board, self._system, answers))

    def begin(self, phase: Phase) -> None:
        assert self._answers is not None
        self._answers.get_ready(phase)
        if self._feeder is not None:
            self._feeder.begin()
        is_warm_up = phase.first_row >= self._answers.record.rows
        self._cpu_began_ns = None if is_warm_up else time.process_time_ns()

    def end(self) -> tuple[Faults, Mapping[int, bytes]]:
        if self._cpu_began_ns is not None:
            self._cpu_ns += time.process_time_ns() - self._cpu_began_ns
            self._cpu_began_ns = None
        return (Faults(), {}) if self._answers is None else self._answers.end()

    async def close(self) -> tuple[Faults, float, int]:
        """Gives the faults since the last phase's end, CPU time of the phases in s, and the most memory in bytes."""
        try:
            await self._system.close()
        finally:
            self._opened.close()
            self._feeder = None
        faults, _ = self.end()
        self._answers = None
        return faults, self._cpu_ns * 1e-9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Answers(Answers):
    """The answers of this process: counted on the board, and responses go to the generator's process."""

    def __init__(self, record: Record, in_turn: bool, board: Board, number: int, send: Callable[..., None]) -> None:
        super().__init__(record, in_turn=in_turn)
        self._board, self._number, self._send = board, number, send
        self._awaited = 0  # each answer calls ``wake``
        self._gauges = memoryview(bytearray(8 * len(Gauge))).cast("q")  # the table's are the generator's

    def get_ready(self, phase: Phase) -> None:
        self._enter(phase, None)
        self.issued = phase.first_row  # a warm-up's end was after all rows
        self.answered = self._failed = 0

    def wake(self) -> None:
        with self._lock:  # else an older count could come last
            self._board.put_counts(self._number, self.answered, self._failed)

    def abort(self, reason: str) -> None:
        self._send("aborted", reason)

    def end(self) -> tuple[Faults, Mapping[int, bytes]]:
        """Refuse answers from now on; gives the faults and the first tokens since the last call."""
        with self._lock:
            self._first_row = sys.maxsize
            self.issued = min(self.issued, self.record.rows)  # the warm-up is over, so what comes late for it is known
            ended = self.faults, self.first_tokens
            self.faults, self.first_tokens = Faults(), {}
        return ended

    def _keep(self, rows: RowArray, responses: Responses) -> None:
        if self._wanted(rows):
            plain = isinstance(responses, np.ndarray) and not responses.dtype.hasobject
            self._send("kept", rows, responses if plain else list(as_bytes(responses)))


def _function(name: str) -> Callable[..., Any]:
    """Import it.  Raises ``UserError``."""
    os.environ[IMPORTS] = name
    try:
        return imported(name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise UserError(f"{name} cannot be imported by the system's process: {described(error)}") from error
    finally:
        del os.environ[IMPORTS]


def main() -> None:
    line = Line(socket.socket(fileno=os.dup(0)), _PATIENCE_S)
    # What a system starts must not read the calls, nor keep the line when this process ends.
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # standard output is the command's
    os.register_at_fork(after_in_child=line.close)
    threading.Thread(target=_end_with, args=(line.fileno(),), name="generator's end", daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        interpreter.run_on_fast_loop(Host(line).serve())
    _end()


def _end_with(fd: int) -> None:
    """Wait until the generator's process has ended, whatever the system does meanwhile, and end this one.

    Not by PR_SET_PDEATHSIG, which comes when the generator's *thread* ends that started this process.
    """
    hangup = select.poll()
    hangup.register(fd, 0)
    hangup.poll()
    _end()


def _end() -> None:
    """End this process, and what it started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    module_process.run(main, "the system's process")
