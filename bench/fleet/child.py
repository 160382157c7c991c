"""A generator's process as its supervisor sees it: started, watched through its table, told when to begin and to end.

Knows one child on this host.  What it looked like at a moment is a ``Sighting``, what it has of a phase a ``Part``;
both are plain data that travel between hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench.fleet import responses
from drumfire.bench.fleet.plan import Plan
from drumfire.bench.view.watch import Plan as ViewPlan
from drumfire.bench.view.watch import Snapshot, Watch
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.record import BASE_COLUMNS, Column, Gauge, Record, Status
from drumfire.sut import module_process

_END_S = 2.0
SNAPSHOT_NS = 240_000_000
"""Looking at the table costs more than asking after a process: four times a second is enough."""


@dataclass(frozen=True)
class Sighting:
    """A generator at one moment."""

    part: int
    pid: int
    ready: int
    """The phase, from 0, that it is ready for or is in; -1 before."""
    ended: int
    """The last phase that it has told the end of; -1 before."""
    silent_s: float
    """How long ago it was last heard."""
    gone: str | None
    """Why it will not be heard again, if so."""
    snapshot: Snapshot
    facts: Mapping[str, str] | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What a generator has of one phase."""

    part: int
    rows: Int64Array
    """Its own numbers of the rows that it issued, rising, shape (n,)."""
    columns: Mapping[str, Column]
    """Of these rows."""
    told: Mapping[str, Any] | None
    """What it said at the phase's end (see ``generator``); None where it was lost."""
    kept_rows: Int64Array
    """Its own numbers of the rows with responses for the accuracy log, and the responses."""
    kept: list[bytes]


class Child:
    """One generator.  ``close`` ends it, whatever it does."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        extra = {name: dtype for name, dtype in plan.columns.items() if name not in BASE_COLUMNS}
        self.record = Record(plan.rows, extra)
        self._watch = Watch(self.record, ViewPlan(**plan.view))
        self._looked_ns = time.monotonic_ns()
        self._snapshot = self._watch.look(self._looked_ns)
        self._folder = tempfile.TemporaryDirectory(prefix="drumfire-generator-")
        self._ready = self._last_ended = -1
        self._told: dict[int, Mapping[str, Any]] = {}
        self._facts: Mapping[str, str] | None = None
        self._machine: Mapping[str, Any] = {}
        self._failed: str | None = None
        self._heard_ns = time.monotonic_ns()
        self._log = open(Path(self._folder.name) / "stderr", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            module_process.command("drumfire.bench.fleet.generator"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[self.record.fd],
            env=module_process.environment(),
            # Ctrl-C is for the driver alone.
            start_new_session=True,
            bufsize=0,
        )
        # Not as an argument: the list of processes shows those to everybody, and there may be tokens in it.
        self._lock = threading.Lock()
        self._say(plan.to_json(fd=self.record.fd, layout=self.record.layout, folder=self._folder.name))
        self._listener = threading.Thread(target=self._listen, name=f"generator {plan.part}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def look(self) -> Sighting:
        """It as it is now; its snapshot may be ``SNAPSHOT_NS`` old."""
        now_ns = time.monotonic_ns()
        if now_ns - self._looked_ns > SNAPSHOT_NS:
            self._looked_ns, self._snapshot = now_ns, self._watch.look(now_ns)
        return Sighting(
            self.plan.part,
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
        """The phase that it is ready for begins at ``at_ns`` of the monotonic clock."""
        self._say(json.dumps({"start": at_ns}))

    def beat(self) -> None:
        """A sign of life."""
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

    def collect(self, number: int, first: int, last: int) -> Part:
        """What it has of phase ``number``, whose rows here are [first, last); also when it was killed meanwhile."""
        told, record = self._told.get(number), self.record
        if told is not None:
            report = told["report"]
            end = first + (report["issued_rows"] if report is not None else 0)
        else:
            end = _issued_end(record, first, last)
        rows = np.arange(first, end)
        kept_rows: Int64Array = np.empty(0, np.int64)
        kept: list[bytes] = []
        if told is not None and told["responses"] is not None:
            kept_rows, kept = responses.load(Path(told["responses"]))
        return Part(
            self.plan.part,
            rows,
            {name: column[first:end] for name, column in record.columns.items()},
            told,
            kept_rows,
            kept,
        )

    def hang_up(self) -> None:
        """It ends by itself, soon."""
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
        with self._lock, contextlib.suppress(OSError, ValueError):  # it is gone, which is told elsewhere
            data = memoryview(line.encode() + b"\n")
            while data:
                data = data[self._process.stdin.write(data) :]

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        heard = b""
        while data := os.read(stdout.fileno(), 1 << 16):
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            self._heard_ns = time.monotonic_ns()

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "facts" in message:
            self._facts, self._machine = message["facts"], message["machine"]
        elif "ready" in message:
            self._ready = message["ready"]
        elif "ended" in message:
            self._told[message["ended"]] = message
            self._last_ended = message["ended"]
        elif "failed" in message:
            self._failed = message["failed"]

    def _gone(self) -> str | None:
        if self._failed is not None:
            return self._failed
        status = self._process.poll()
        if status is None or self._listener.is_alive():  # what it said last is still to be read
            return None
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}" + (f": {last}" if (last := self._last_words()) else "")

    def _last_words(self) -> str:
        """The last line on its standard error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _issued_end(record: Record, first: int, last: int) -> int:
    """The row after the last issued one of [first, last): the gauge runs behind, and is all that tells of others."""
    end = min(max(record.gauges[Gauge.ISSUED], first), last)
    later = np.flatnonzero((record.issued[end:last] != 0) | (record.status[end:last] != Status.PENDING))
    return end + int(later[-1]) + 1 if later.size else end
