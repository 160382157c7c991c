"""Keeps a run's table beyond the run's process: if that is killed, another process saves what was answered until then.

The table is anonymous memory, which lives as long as one process has its descriptor.  ``Keeper`` is the run's side;
``python -m drumfire.bench.keeper`` is the other process.  It sleeps until the run's process ends, and imports nothing
heavy before.  What was only in the killed process is lost: responses, messages of failures, readings of meters, and of
a system that answers in the call itself the last millisecond.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from drumfire.loadgen import priority
from drumfire.loadgen.signals import on_ending
from drumfire.sut import module_process
from drumfire.sut.local.host_process import HOST

if TYPE_CHECKING:
    from drumfire.bench.fleet.child import Child
    from drumfire.loadgen.record import Record

_READY_S = 5.0
_SAVE_S = 60.0
"""How long an ordinary end waits for the keeper, where the run's process could not save."""
_GENERATORS_S = 5.0
"""How long generators, or the processes of a model, may take to end by themselves when the run's process is gone."""
_LOOK_S = 0.02
_GRACE_S = 0.5
"""A signal so soon after another is the same one: a terminal that closes sends several."""
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Their numbers are bytes that no message has."""
_STDIN = 0


class Keeper:
    """Keeps ``record`` for the run's folder: ``with Keeper(...): run and save``.  It never hurts the run.

    The block left in order, the run has saved itself.  Left by an error with rows issued, the keeper saves them.
    """

    def __init__(self, record: Record, folder: int, pids: Sequence[int] = ()) -> None:
        """Start the process, which gets ready by itself.  ``folder``: a descriptor of the run's folder.  ``pids``:
        processes that write to the table too, and end with this one.

        The process has a copy of the descriptor, so a lock of it lasts until what there is has been saved.
        """
        self._record = record
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._line, theirs = socket.socketpair()
            with theirs:
                # In a session of its own, so that a signal to the run's group or terminal leaves it alone.
                self._process = module_process.start(
                    "drumfire.bench.keeper", stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True
                )
        except OSError as error:
            _warn(f"if this process is killed, what it has measured is lost: {error}")
        self._first: Sequence[tuple[int, Mapping[str, Any]]] = (
            (folder, {}),
            (record.fd, {"layout": record.layout, "pids": list(pids)}),
        )

    def take(self, child: Child) -> None:
        """Keep the table of a generator of this run too."""
        share = vars(child.assignment.slice)
        self._send(child.record.fd, {"layout": child.record.layout, "share": share, "pid": child.pid})

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Let a second signal kill this process within, for code that never returns to Python, which the first cannot
        interrupt.  It must be ``_GRACE_S`` after the first.  Does nothing in other threads than the main one.
        """
        if self._process is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._line.setblocking(False)
        before = signal.set_wakeup_fd(self._line.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self._line.setblocking(True)

    def __enter__(self) -> Keeper:
        """Wait until it is ready, so that its start does not disturb the run; before that it has nothing to keep."""
        if self._process is not None:
            self._line.settimeout(_READY_S)
            with contextlib.suppress(OSError):
                self._line.recv(1)
            self._line.settimeout(None)
        for fd, about in self._first:
            self._send(fd, about)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        process = self._process
        if process is None:
            return
        with self._line:
            if process.poll() is not None:
                _warn(f"what kept this run's data, if this process had been killed, ended early ({process.returncode})")
                return
            if error is None or not self._record.issued_rows:
                process.kill()  # it has nothing to do, and no state
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it goes on by itself
            process.wait(_SAVE_S)

    def _send(self, fd: int, message: Mapping[str, Any]) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):  # it has ended, which the end of the block reports
                socket.send_fds(self._line, [json.dumps(message).encode() + b"\n"], [fd])


def _warn(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody can see it
        print(f"warning: {text}", file=sys.stderr, flush=True)


class _Message(NamedTuple):
    """What the run's process sent, and the descriptor that came with it."""

    fd: int
    about: Mapping[str, Any]


def main() -> None:
    on_ending(signal.SIG_IGN)  # the keeper ends with the run's process, and when all is saved
    # Not the idle class, which it could not leave again: on a busy machine it would hardly get to save.
    priority.yield_to_others(idle=False, niceness=19)
    folder, tables = _listen()
    if tables:
        os.fchdir(folder)
        _save(tables)


def _listen() -> tuple[int, list[_Message]]:
    """What the run's process sends until it ends: a descriptor of its folder, its table, and tables of generators.

    No table: it ended before its run began.
    """
    line = socket.socket(fileno=_STDIN)
    ends = select.poll()
    ends.register(line, select.POLLIN)
    run = None
    with contextlib.suppress(OSError, AttributeError):
        # A process that was forked from the run's may hold the other end of the line.
        ends.register(run := os.pidfd_open(os.getppid()), select.POLLIN)
    text, fds, first_s = b"", list[int](), None
    with contextlib.suppress(OSError):
        line.send(b"r")
    while True:
        if not any(fd == line.fileno() for fd, _ in ends.poll()):
            break
        try:
            data, received, *_ = socket.recv_fds(line, 1 << 16, 16)
        except ConnectionResetError:  # it has ended with something unread; what it sent comes next
            continue
        fds += received
        if _ENDING.intersection(data):
            first_s = first_s or time.monotonic()
            if run is not None and time.monotonic() - first_s > _GRACE_S:
                signal.pidfd_send_signal(run, signal.SIGKILL)
        text += data
        if not data:
            break
    whole = text.split(b"\n")[:-1]
    sent = [_Message(fd, json.loads(message)) for fd, message in zip(fds, whole, strict=False)]
    return (sent[0].fd, sent[1:]) if sent else (-1, [])


def _save(tables: Sequence[_Message]) -> None:
    """Save the tables in the current folder, which is the run's."""
    from datetime import datetime
    from pathlib import Path

    import numpy as np

    from drumfire.loadgen.directory import COLUMNS, RESULT, UNFINISHED
    from drumfire.loadgen.errors import one_line
    from drumfire.loadgen.files import in_one_step
    from drumfire.loadgen.record import Record, Status

    own, *generators = tables
    _wait_for(own.about["pids"])
    record = Record.attach(own.fd, own.about["layout"])
    if generators:
        _put_together(record, generators)
    record.end()
    counts = np.bincount(record.status[: record.issued_rows], minlength=len(Status)).tolist()
    note: dict[str, Any] = {
        "seen": datetime.now().astimezone().isoformat(timespec="seconds"),
        "issued": record.issued_rows - counts[Status.MISSING],
        **{status.name.lower(): counts[status] for status in Status if status != Status.PENDING},
        "generators": max(len(generators), 1),
        "unsaved": None,
    }
    has_result = Path(RESULT).is_file()
    try:
        if record.issued_rows:
            record.save(Path(COLUMNS), only_missing=True)
    except OSError as error:
        note["unsaved"] = one_line(error)
    if note["unsaved"] is not None or not has_result:
        try:
            with in_one_step(Path(UNFINISHED)) as file:
                file.write(json.dumps(note, indent=2).encode() + b"\n")
        except OSError as error:
            note["unsaved"] = note["unsaved"] or one_line(error)
    _report(note, has_result=has_result)


def _report(note: Mapping[str, Any], *, has_result: bool) -> None:
    try:
        where = os.getcwd()
    except OSError:
        where = "its folder, which is gone"
    found = f"{note['issued']:,} samples issued and {note['ok']:,} answered"
    if note["unsaved"] is not None:
        text = f"{found}, which could not be saved in {where}: {note['unsaved']}"
    elif has_result:
        text = f"its result and its columns are whole, its logs may not be; drumfire show {where}"
    else:
        text = f"{found} are saved; drumfire show {where}"
    with contextlib.suppress(OSError, ValueError):
        print(f"drumfire: the run's process ended before it had saved: {text}", file=sys.stderr, flush=True)


def _put_together(record: Record, generators: Sequence[_Message]) -> None:
    """Enter what the generators did into the whole run's table, when they have ended."""
    from drumfire.bench.fleet import merge
    from drumfire.bench.fleet.child import Part
    from drumfire.loadgen.record import Gauge, Record
    from drumfire.loadgen.share import Slice

    tables = [Record.attach(one.fd, one.about["layout"]) for one in generators]
    pids = {one.about["pid"]: table for table, one in zip(tables, generators, strict=True)}
    _wait_while(lambda: [pid for pid, table in pids.items() if not table.gauges[Gauge.DONE] and _lives(pid)])
    slices = [Slice(**one.about["share"]) for one in generators]
    parts = []
    for table, share in zip(tables, slices, strict=True):
        table.end()
        parts.append(Part.of(share.part, table, 0, table.issued_rows))
    merge.put_back(record, 0, record.rows, {share.part: share for share in slices}, parts)


def _wait_while(at_work: Callable[[], list[int]]) -> list[int]:
    """Wait until no process is ``at_work``, or not longer; returns those that still are."""
    until_s = time.monotonic() + _GENERATORS_S
    while (pids := at_work()) and time.monotonic() < until_s:
        time.sleep(_LOOK_S)
    return pids


def _wait_for(pids: Sequence[int]) -> None:
    """Wait until these processes of a model have ended, and end them."""
    for living in _wait_while(lambda: [pid for pid in pids if _lives(pid)]):
        # Stopped by a signal, it cannot see that the run's process has ended.
        with contextlib.suppress(OSError):
            with open(f"/proc/{living}/cmdline", "rb") as file:
                is_ours = HOST.encode() in file.read().split(b"\0")
            if is_ours:
                os.killpg(living, signal.SIGKILL)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError, AttributeError):  # it has ended; or the system cannot tell, and nobody waits
        fd = os.pidfd_open(pid)
        try:
            return not select.select([fd], [], [], 0)[0]
        finally:
            os.close(fd)
    return False


if __name__ == "__main__":
    module_process.run(main, "what keeps the run's data")
