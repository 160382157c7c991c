"""Virtual time for a whole process: clocks stand still, except where a wait or a computation moves them.

``start`` must be called before the modules that read clocks are imported, since some of them bind a clock's function
as they are imported.  For that reason no module of a test session may call it: use its own process.
"""

from __future__ import annotations

import asyncio
import datetime as datetime_module
import os
import selectors
import sys
import time
from types import CodeType
from typing import Any

from drumfire.loadgen import cgroups

S = 1_000_000_000  # ns
_BEGIN_NS = 1_000 * S
_WALL_BEGIN = (2024, 5, 6, 7, 8, 9)  # UTC
_SPIN_READS, _SPIN_STEP_NS = 300, 100


class Clock:
    """The one clock.  ``now_ns`` counts from an arbitrary moment, as a monotonic clock does."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.now_ns = _BEGIN_NS
        self.turn()

    def advance(self, ns: int) -> None:
        self.now_ns += ns
        self.turn()

    def read(self) -> int:
        """Reads cost no time, so that their number does not matter; but a loop that spins on the clock must end.

        A place in the code spins if it reads again and again, nobody else does, and the event loop does not turn.
        """
        frame = sys._getframe(1)
        place = (frame.f_code, frame.f_lasti)
        self._reads = self._reads + 1 if place == self._place else 1
        self._place = place
        if self._reads > _SPIN_READS:
            self.now_ns += _SPIN_STEP_NS
        return self.now_ns

    def turn(self) -> None:
        """The event loop turned: the next read of the clock is not a spin."""
        self._place: tuple[CodeType, int] | None = None
        self._reads = 0


CLOCK = Clock()


class DateTime(datetime_module.datetime):
    """``datetime`` whose ``now`` is virtual."""

    @classmethod
    def now(cls, tz: datetime_module.tzinfo | None = None) -> DateTime:
        since = datetime_module.timedelta(microseconds=(CLOCK.now_ns - _BEGIN_NS) // 1000)
        utc = cls(*_WALL_BEGIN, tzinfo=datetime_module.UTC) + since
        return utc.astimezone(tz) if tz is not None else utc.replace(tzinfo=None)


def start() -> None:
    """Replace each clock of ``time`` and ``datetime.now``; and forbid real-time priority, which is the machine's."""
    wall_ns = int(datetime_module.datetime(*_WALL_BEGIN, tzinfo=datetime_module.UTC).timestamp()) * S - _BEGIN_NS
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, f"{name}_ns", CLOCK.read)
        setattr(time, name, lambda: CLOCK.read() / S)
    time.time_ns = lambda: wall_ns + CLOCK.read()
    time.time = lambda: (wall_ns + CLOCK.read()) / S
    datetime_module.datetime = DateTime  # type: ignore[misc]

    def forbidden(*_: object) -> None:
        raise PermissionError

    os.sched_setscheduler = forbidden
    cgroups.throttling = lambda: None


class _Selector(selectors.SelectSelector):
    """Never waits: it moves the clock by as much as the loop would have waited."""

    def select(self, timeout: float | None = None) -> list[Any]:
        CLOCK.turn()
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("the run waits for something that will never come")
            CLOCK.advance(round(timeout * S))
        return ready


class Loop(asyncio.SelectorEventLoop):
    """The standard event loop on the virtual clock.  At 1,000 s a float still tells single ns apart."""

    def __init__(self) -> None:
        super().__init__(_Selector())
        self._clock_resolution = 1 / S

    def time(self) -> float:
        return CLOCK.now_ns / S

    def call_at_ns(self, at_ns: int, callback: Any, *arguments: Any) -> asyncio.TimerHandle:
        return self.call_at(at_ns / S, callback, *arguments)
