"""The supervisor's side of a generator's process: starts it, watches its table, tells it when to begin and to end.

Handles a single child on this host.  A ``Sighting`` is its state at a moment, a ``Part`` what it did in a phase; both
are plain data, which other hosts can receive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench import watch
from drumfire.bench.fleet import responses, traffic
from drumfire.bench.fleet.assignment import Assignment
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.flat_columns import FlatPart
from drumfire.loadgen.record import Column, Record
from drumfire.loadgen.traffic import Phase
from drumfire.sut import module_process

_END_S = 2.0
_NO_ROWS: Int64Array = np.empty(0, np.int64)
SNAPSHOT_NS = 240_000_000
"""Reading the table costs more than asking whether a process lives: four times a second is enough."""


@dataclass(frozen=True)
class Sighting:
    """A generator at a moment."""

    part: int
    pid: int
    ready: int
    """The phase that it is ready for or is in, from 0; -1 before the first."""
    ended: int
    """The last phase whose end it has reported; -1 before the first."""
    silent_s: float
    """Time since its last message."""
    gone: str | None
    """Why it will send nothing more; None while it may."""
    snapshot: watch.Snapshot
    facts: Mapping[str, str] | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What a generator did in a phase."""

    part: int
    rows: Int64Array
    """The rows that it issued, by its own numbers, rising, shape (n,)."""
    columns: Mapping[str, Column]
    """The columns of these rows."""
    flat: Mapping[str, FlatPart]
    """Their flat columns."""
    message: Mapping[str, Any] | None
    """Its message at the end of the phase (see ``generator``); None where it was lost."""
    kept_rows: Int64Array
    """The rows with responses for the accuracy log, by its own numbers."""
    kept: Sequence[bytes]
    """The responses of these rows."""

    @classmethod
    def of(
        cls,
        part: int,
        record: Record,
        first: int,
        end: int,
        message: Mapping[str, Any] | None = None,
        kept_rows: Int64Array = _NO_ROWS,
        kept: Sequence[bytes] = (),
    ) -> Part:
        """Rows [first, end) of a generator's table."""
        columns = {name: column[first:end] for name, column in record.columns.items()}
        flat = {name: column.part(first, end) for name, column in record.flat_columns.items()}
        return cls(part, np.arange(first, end), columns, flat, message, kept_rows, kept)


class Child:
    """A generator.  ``close`` always ends its process."""

    def __init__(self, assignment: Assignment, phases: Sequence[Phase]) -> None:
        """``phases``: the traffic of its part."""
        self.assignment = assignment
        self.record = Record(assignment.rows, assignment.columns, assignment.spare)
        self._watch = watch.Watch(self.record, watch.ViewPlan(**assignment.view))
        self._looked_ns = time.monotonic_ns()
        self._snapshot = self._watch.look(self._looked_ns)
        self._folder = tempfile.TemporaryDirectory(prefix="drumfire-generator-")
        traffic.write(Path(self._folder.name) / traffic.FILE, phases, self.record)
        self._bounds = [(phase.first_row, phase.first_row + phase.rows) for phase in phases]
        self._ready = self._last_ended = -1
        self._messages: dict[int, Mapping[str, Any]] = {}
        self._facts: Mapping[str, str] | None = None
        self._machine: Mapping[str, Any] = {}
        self._failed: str | None = None
        self._heard_ns = time.monotonic_ns()
        self._log = open(Path(self._folder.name) / "stderr", "w+b")  # noqa: SIM115
        self._process = module_process.start(
            "drumfire.bench.fleet.generator",
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self.record.fd],
            start_new_session=True,  # only the driver handles Ctrl-C
        )
        # Not as an argument: every user can list the arguments of processes, and headers may hold tokens.
        self._lock = threading.Lock()
        self._say(assignment.to_json(fd=self.record.fd, layout=self.record.layout, folder=self._folder.name))
        self._listener = threading.Thread(target=self._listen, name=f"generator {assignment.slice.part}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def look(self) -> Sighting:
        """Its state now; the snapshot may be ``SNAPSHOT_NS`` old."""
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns > SNAPSHOT_NS:
            self._looked_ns, self._snapshot = now_ns, self._watch.look(now_ns)
        return Sighting(
            self.assignment.slice.part,
            self.pid,
            self._ready,
            self._last_ended,
            (now_ns - self._heard_ns) * 1e-9,
            self._gone(),
            self._snapshot,
            self._facts,
            self._machine,
        )

    def begin(self, at_ns: int) -> None:
        """Begin the phase that it is ready for at ``at_ns`` of the monotonic clock."""
        self._say(json.dumps({"start": at_ns}))

    def beat(self) -> None:
        """Send a sign of life."""
        self._say('{"beat":0}')

    def stop(self, reason: str) -> None:
        self._say(json.dumps({"stop": reason}))

    def pin(self, core: int) -> None:
        """Keep the thread that issues on one core."""
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setaffinity(self.pid, {core})

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def collect(self, number: int) -> Part:
        """What it did in phase ``number``; works also after it was killed."""
        message, record = self._messages.get(number), self.record
        first, last = self._bounds[number]
        if message is not None:
            report = message["report"]
            end = first + (report["issued_rows"] if report is not None else 0)
        else:
            end = record.issued_end(first, last)
        kept_rows, kept = _NO_ROWS, list[bytes]()
        if message is not None and message["responses"] is not None:
            kept_rows, kept = responses.load(Path(message["responses"]))
        return Part.of(self.assignment.slice.part, record, first, end, message, kept_rows, kept)

    def hang_up(self) -> None:
        """Close its input, after which it ends by itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self) -> None:
        self.hang_up()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()
        self.record.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError, ValueError):  # it has ended, which ``look`` reports
            data = memoryview(line.encode() + b"\n")
            while data:
                data = data[self._process.stdin.write(data) :]

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        rest = b""
        while data := os.read(stdout.fileno(), 1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            self._heard_ns = time.monotonic_ns()

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "facts" in message:
            self._facts, self._machine = message["facts"], message["machine"]
        elif "ready" in message:
            self._ready = message["ready"]
        elif "ended" in message:
            self._messages[message["ended"]] = message
            self._last_ended = message["ended"]
        elif "failed" in message:
            self._failed = message["failed"]
        elif "log" in message:
            logger, level, text = message["log"]
            logging.getLogger(logger).log(level, "%s: %s", self.assignment.name, text)

    def _gone(self) -> str | None:
        if self._failed is not None:
            return self._failed
        status = self._process.poll()
        if status is None or self._listener.is_alive():  # its last message may still be unread
            return None
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}" + (f": {last}" if (last := self._last_words()) else "")

    def _last_words(self) -> str:
        """The last line on its standard error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
