"""One process of ``OwnProcess``, in which a ``Host`` runs: how it starts, is called, and is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.overhead import stat_fields
from drumfire.sut import module_process
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.messages import Line

HOST = "drumfire.sut.local.host"
"""The module that the process runs."""
ANSWER_S = 5.0
"""How long a process may take for what takes no time; then it is ended."""
END_S = 1.0
_STOPPED = "was stopped by a signal, so that it was ended"
_REPLIES = ("done", "refused", "failed")
IMPORTS = "DRUMFIRE_IMPORTS"
"""The variable of a process that imports a function to make a system with: the function's name."""
_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _close_lines() -> None:
    for line in list(_lines):
        line.close()


os.register_at_fork(after_in_child=_close_lines)  # else a fork would keep the processes when this one ends


class ProcessLost(UserError):
    """A process of the system under test has ended.  The text says how."""


class HostProcess:
    """One process, and the line to it."""

    def __init__(self, number: int, placement: Placement) -> None:
        """Raises ``OSError``."""
        self.number, self.placement = number, placement
        self.lost: str | None = None
        self.calls = 0
        """The number of the last call, whose answer is awaited; an older one's, of an abandoned call, comes late."""
        self.cpu_s: float | None = None
        self.memory_bytes: int | None = None
        """What it took in the last run; None until that is closed."""
        ours, theirs = socket.socketpair()
        self.line = Line(ours, ANSWER_S)
        _lines.add(self.line)
        try:
            with theirs, _confined(placement.cores):
                # In a session of its own, what it starts can be ended with it, and Ctrl-C does not reach it.
                self._process = module_process.start(
                    HOST,
                    stdin=theirs,
                    start_new_session=True,
                    env=module_process.environment() | dict(placement.variables),
                )
        except BaseException:
            self.line.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str, *arguments: Any, fds: Sequence[int] = ()) -> None:
        """Call a method of the ``Host``; the answer comes by the line.  Raises ``ProcessLost``.

        Blocks for up to ``ANSWER_S`` where the process reads nothing.
        """
        if self.lost is not None:
            raise ProcessLost(self.lost)
        self.calls += 1
        try:
            self.line.send((self.calls, name, arguments), fds)
        except TimeoutError:
            raise self.stuck(f"took no message for {ANSWER_S:g} s") from None
        except OSError:
            raise self.loss() from None

    def result(self, handle: Callable[[str, Sequence[Any]], None], patience_s: float | None = None) -> Any:
        """What the last call gave.  Raises ``UserError`` if it raised, and ``ProcessLost``.

        ``handle`` gets the messages that are no answers, by their kind.  Without a patience, only a process that is
        stopped is not waited for.
        """
        look_s = ANSWER_S if patience_s is None else patience_s
        while True:
            try:
                message = self.line.receive(look_s)
            except (EOFError, OSError):
                raise self.loss() from None
            if message is None:
                if patience_s is None and not self.is_stopped:
                    continue
                raise self.stuck(f"did not react within {look_s:.2g} s")
            kind, *what = message
            if kind not in _REPLIES:
                handle(kind, what)
            elif what[0] == self.calls:
                if kind == "done":
                    return what[1]
                raise UserError(what[1])

    @property
    def is_stopped(self) -> bool:
        """Whether a signal stopped it, as SIGSTOP does."""
        return stat_fields(self.pid)[:1] == ["T"]

    def stuck(self, how: str) -> ProcessLost:
        """End it, as it does not go on."""
        return self.loss(_STOPPED if self.is_stopped else f"{how}, so that it was ended")

    def loss(self, why: str = "") -> ProcessLost:
        """How the process ended; it is ended here for the reason ``why``, if there is one."""
        ended = self.wait(0.0 if why else END_S) is not None
        self.kill()
        status = self.wait(END_S)
        if self.lost is None:
            if status is None:
                how = "cannot be ended"
            elif not ended:
                how = f"closed its line but did not end within {END_S:g} s, so that it was killed"
            elif status >= 0:
                how = f"ended with status {status}"
            else:
                how = f"was ended by {_signal(-status)}"
                if status == -signal.SIGKILL:
                    how += " (by hand, or by the kernel where memory ran out)"
            self.lost = f"the process of the system under test ({self.pid}) {why or how}"
        return ProcessLost(self.lost)

    def wait(self, patience_s: float) -> int | None:
        """Its status, if it ends within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs can hold it even when it is killed
            return self._process.wait(patience_s)
        return None

    def kill(self) -> None:
        """Kill it, and what it started, which may live on where it has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


@contextlib.contextmanager
def _confined(cores: Sequence[int]) -> Iterator[None]:
    """A process that this thread starts meanwhile may use these cores alone, with all its threads."""
    before = os.sched_getaffinity(0) if cores else set()
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, before)


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
