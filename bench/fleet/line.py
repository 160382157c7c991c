"""A generator's line to its supervisor: lines of JSON, in on standard input, out on what was standard output.

It is also the dead-man's switch.  A generator ends when the line closes, when nothing comes for a while, and in any
case at its time limit: first in order and, if that does not help, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

SILENCE_S = 5.0
"""After this long without a message, the supervisor is judged gone."""
_GRACE_S = 3.0
"""How long a run may take to end in order."""
_LOOK_S = 0.5
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class LogHandler(logging.Handler):
    """Passes log messages to the supervisor."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.say({"log": [record.name, record.levelno, record.getMessage()]})


class Line:
    """Reads the assignment at construction, and then listens in its own thread."""

    def __init__(self) -> None:
        # Whatever this process prints goes to standard error, so that only messages are on the line.
        self._out = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        self._rest = b""
        self.assignment: Mapping[str, Any] = json.loads(self._first())
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupt: Callable[[str], None] | None = None
        self._stopped: str | None = None
        self._awaited: asyncio.Future[int] | None = None
        self._limit_s: float | None = None
        self._end_s: float | None = None
        self._beats = 0
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def say(self, message: Mapping[str, Any]) -> None:
        """Send a whole message; waits while the supervisor does not read."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._out, data) :]
                except BlockingIOError:
                    select.select([], [self._out], [])

    def beat(self) -> None:
        """Send a sign of life if that is possible without waiting."""
        self._beats += 1
        if self._lock.acquire(blocking=False):
            try:
                os.set_blocking(self._out, False)
                os.write(self._out, b'{"beat":%d}\n' % self._beats)
            except OSError:
                pass  # nobody reads; ``_listen`` handles a supervisor that is silent
            finally:
                self._lock.release()

    def limit(self, seconds: float) -> None:
        """End the run this long after its first start."""
        self._limit_s = seconds

    def attend(self, interrupt: Callable[[str], None]) -> None:
        """Call ``interrupt`` on this loop to end the run early.  To be called on the loop before the run."""
        self._loop, self._interrupt = asyncio.get_running_loop(), interrupt
        if self._stopped is not None:
            interrupt(self._stopped)

    async def start(self, number: int) -> int:
        """Report that a phase can begin; returns its start, ns of the monotonic clock."""
        self._awaited = asyncio.get_running_loop().create_future()
        self.say({"ready": number})
        at_ns = await self._awaited
        if self._end_s is None and self._limit_s is not None:
            self._end_s = at_ns * 1e-9 + self._limit_s
        return at_ns

    def _first(self) -> bytes:
        while b"\n" not in self._rest:
            data = os.read(_STDIN, 1 << 16)
            if not data:
                sys.exit("no plan came: this program is started by drumfire run --workers or --hosts")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _listen(self) -> None:
        heard_s = time.monotonic()
        while True:
            readable = select.select([_STDIN], [], [], _LOOK_S)[0]
            now_s = time.monotonic()
            if readable:
                data = os.read(_STDIN, 1 << 16)
                if not data:
                    self._end("the supervisor of this generator is gone")
                *lines, self._rest = (self._rest + data).split(b"\n")
                heard_s = now_s
                for line in lines:
                    self._hear(json.loads(line))
            elif now_s - heard_s > SILENCE_S:
                self._end(f"nothing was heard from this generator's supervisor for {SILENCE_S:g} s")
            if self._end_s is not None and now_s > self._end_s:
                self._end("this generator has reached its time limit")

    def _hear(self, message: Mapping[str, Any]) -> None:
        """``start``: when the awaited phase begins; ``stop``: why to end.  Any other message is a sign of life."""
        if "start" in message and self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, message["start"])
        if "stop" in message:
            self._stop(message["stop"])

    def _begin(self, at_ns: int) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(at_ns)

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        if self._loop is not None and self._interrupt is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so the run is over
                self._loop.call_soon_threadsafe(self._interrupt, reason)

    def _end(self, reason: str) -> None:
        """End this process; nobody reads its result any more."""
        shutil.rmtree(self.assignment["folder"], ignore_errors=True)  # the supervisor can no longer remove it
        if self._loop is not None:
            self._stop(reason)
            time.sleep(_GRACE_S)
        os._exit(1)
