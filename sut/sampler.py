"""Reads meters repeatedly during a run, in a separate process, so that the event loop is not delayed.

A meter is a small class that knows one kind of source; it stands with its kind.  The readings are in memory that the
run and its live view share.  A sampler that fails leaves a note, and never hurts the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import Any, Protocol

from drumfire.loadgen import priority
from drumfire.loadgen.errors import one_line
from drumfire.loadgen.record import shared_file
from drumfire.loadgen.series import Series
from drumfire.sut import module_process
from drumfire.sut.plugins import imported

PERIOD_S = 2.0
"""Servers update their figures this often.  A reading costs about 5 ms of a core, so one a second would be seen in the
p99 of a run that shares its cores with the server."""
_START_PATIENCE_S = 5.0
"""How long a run may wait until its meters are made."""
_END_PATIENCE_S = 3.0
"""How long the process may take to end."""
_READING_S = 0.3
"""How long a run may wait for its meters' first readings, and again for their last ones."""
_STDIN = 0


class Meter(Protocol):
    """Reads the figures of one source.  Made and read in the sampler's process, always by the same thread."""

    source: str
    """Where the figures are from, such as a URL."""
    units: Mapping[str, str]
    """The unit of each figure, by the part of its name after the last dot."""
    notes: Sequence[str]
    """What was wrong in the last reading."""

    def read(self) -> Mapping[str, float]:
        """The figures at this moment; those that are not known are missing.  May take long, and may raise."""


@dataclass(frozen=True)
class MeterPlan:
    """A meter to be made in another process: plain data, which travels as JSON."""

    name: str
    """Series are named ``NAME.FIGURE``."""
    kind: str
    """The meter's class, as MODULE:CLASS."""
    arguments: Mapping[str, Any]
    """Of its constructor."""


@dataclass
class Reading:
    """What one meter said at a moment."""

    meter: str
    time_ns: int
    """Monotonic clock, in the middle of the reading."""
    values: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    source: str = ""
    units: Mapping[str, str] = field(default_factory=dict)


class ReadingFeed:
    """The readings as they come: each ``new`` returns those since the last."""

    def __init__(self, fd: int) -> None:
        """``fd``: of a ``Sampler``, in this process or in another that it was passed to."""
        self._fd, self._at, self._rest = fd, 0, b""

    def new(self) -> list[Reading]:
        found: list[Reading] = []
        while data := os.pread(self._fd, 1 << 16, self._at):
            self._at += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [Reading(**json.loads(line)) for line in lines]
        return found


class Sampler:
    """Reads meters every 2 s: ``with Sampler(plans): run``.  Without plans it does nothing.

    ``expected_s``: of the run.  One shorter than a period has no series: two readings are not worth a process.
    """

    def __init__(self, plans: Sequence[MeterPlan], expected_s: float = math.inf) -> None:
        self.plans = plans if expected_s >= PERIOD_S else ()
        self.fd = shared_file(0)
        """The memory of the readings, for ``ReadingFeed``."""
        self.readings: list[Reading] = []
        """All of them, after the end."""
        self.notes: list[str] = []
        """What was wrong, after the end."""
        if len(self.plans) < len(plans):
            self.notes.append(f"no series: the run's least duration is below {PERIOD_S:g} s")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sampler:
        """Start the process and wait for the first readings, so that its start does not disturb the run.

        A meter that has not answered after 0.3 s is not waited for.
        """
        if not self.plans:
            return self
        ready, ready_end = os.pipe()
        try:
            self._process = module_process.start(
                "drumfire.sut.sampler", pass_fds=[self.fd, ready_end], stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self.notes.append(f"no series: the sampler could not start: {error}")
        finally:
            os.close(ready_end)
        if self._process is not None:
            # Not as an argument: every user can list the arguments of processes, and headers may hold tokens.
            task = {"fd": self.fd, "ready": ready_end, "plans": [asdict(plan) for plan in self.plans]}
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(task).encode() + b"\n")
            wait([ready], _START_PATIENCE_S)  # readable when the process closes its end, or has ended
        os.close(ready)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, which does a last reading.  Takes little time, unless the process is stopped."""
        if self._process is not None:
            if (status := self._process.poll()) is not None:
                self.notes.append(f"the sampler ended during the run, with status {status}")
            module_process.end(self._process, _END_PATIENCE_S)
        self.readings = ReadingFeed(self.fd).new()
        silent = {plan.name for plan in self.plans} - {reading.meter for reading in self.readings}
        if self._process is not None:
            self.notes += [
                f"{name}: not read, as no answer or no time of the machine was left" for name in sorted(silent)
            ]
        os.close(self.fd)
        for reading in self.readings:
            self.notes += [note for one in reading.notes if (note := f"{reading.meter}: {one}") not in self.notes]

    def series(self, origin_ns: int) -> list[Series]:
        """The series of the run that began at ``origin_ns`` of the monotonic clock."""
        points: dict[str, tuple[Reading, list[int], list[float]]] = {}
        for reading in self.readings:
            for figure, value in reading.values.items():
                _, times, values = points.setdefault(f"{reading.meter}.{figure}", (reading, [], []))
                times.append(reading.time_ns - origin_ns)
                values.append(value)
        return [
            Series.of(name, first.units.get(name.rpartition(".")[2], ""), first.source, times, values)
            for name, (first, times, values) in sorted(points.items())
        ]


def main() -> None:
    """The process: its input is one line of JSON; the end of the input ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = json.loads(sys.stdin.buffer.readline())
    # All meters' threads write: without this the kernel does not keep their lines apart in memory without a name.
    fcntl.fcntl(task["fd"], fcntl.F_SETFL, fcntl.fcntl(task["fd"], fcntl.F_GETFL) | os.O_APPEND)
    over = threading.Event()
    readers = [_Reader(MeterPlan(**plan), task["fd"], over) for plan in task["plans"]]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.is_made.wait(_START_PATIENCE_S)
    _await([reader.has_read.wait for reader in readers])
    os.close(task["ready"])
    wait([_STDIN])
    over.set()
    _await([reader.join for reader in readers if reader.has_read.is_set()])
    os._exit(0)  # whatever a meter is waiting for


def _await(waits: Iterable[Callable[[float], object]]) -> None:
    """Call each with what is left of ``_READING_S``."""
    until_s = time.monotonic() + _READING_S
    for one in waits:
        one(max(until_s - time.monotonic(), 0.0))


class _Reader(threading.Thread):
    """Reads one meter; a slow one delays no other."""

    def __init__(self, plan: MeterPlan, fd: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._plan, self._fd, self._over = plan, fd, over
        self.is_made, self.has_read = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            meter: Meter = imported(self._plan.kind)(**self._plan.arguments)
        except Exception as error:
            self._write(Reading(self._plan.name, time.monotonic_ns(), notes=[one_line(error, 200)]))
            self.has_read.set()
            return
        finally:
            self.is_made.set()
        due_s = time.monotonic()
        while True:
            last = self._over.is_set()
            self._read(meter)
            if not self.has_read.is_set():
                # From the run's start on.  Not idle: on a busy machine, it would read nothing.
                priority.yield_to_others(idle=False, niceness=19)
                self.has_read.set()
            if last:
                return
            due_s = max(due_s + PERIOD_S, time.monotonic())  # a slow meter leaves readings out
            self._over.wait(due_s - time.monotonic())

    def _read(self, meter: Meter) -> None:
        began_ns = time.monotonic_ns()
        values, notes = {}, []
        try:
            values = {_name(name): value for name, value in meter.read().items() if math.isfinite(value)}
            notes = list(meter.notes)
        except Exception as error:
            notes = [one_line(error, 200)]
        at_ns = (began_ns + time.monotonic_ns()) // 2
        self._write(Reading(self._plan.name, at_ns, values, notes, meter.source, meter.units))

    def _write(self, reading: Reading) -> None:
        os.write(self._fd, json.dumps(asdict(reading)).encode() + b"\n")


def _name(figure: str) -> str:
    """A figure's name as a part of a file's: sources may name things as they like."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", figure)[:100]


if __name__ == "__main__":
    main()
