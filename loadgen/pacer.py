"""Sleep until a moment of the monotonic clock: never early, and well under a microsecond late if a core is free.

Event loop timers are whole milliseconds and may fire early.  So the loop sleeps on a timerfd until just before the
deadline, then polls its I/O, and spins for the last microseconds; ``Spin`` has less and more of it.  Independent of
queries.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import os
import sys
import time
from dataclasses import dataclass

from drumfire.loadgen.priority import Priority

_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29

LAST_SPIN_NS = 20_000
"""The last part of a wait, without I/O: longer than one turn of the loop."""
_LEAST_WINDOW_NS = 30_000
_MOST_WINDOW_NS = 500_000
_WINDOW_STEP_NS = 500
_LEAST_TIMER_S = 1e-3
"""A shorter sleep on the loop's own timers would only poll."""


class Spin(enum.StrEnum):
    """How a wait ends: what it costs, against how late it ends."""

    OFF = "off"
    """Sleep to the deadline.  Late by as much as the system takes to wake a thread, some 50 us."""
    ADAPTIVE = "adaptive"
    """Sleep, and poll and spin at the end, for as long as sleeps end late here."""
    FULL = "full"
    """Never sleep, which takes a core."""


def precise_timers() -> None:
    """Let the calling thread's waits end on time instead of up to 50 us late (only on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


class _Itimerspec(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    ]


@dataclass(frozen=True)
class Pacing:
    """What pacing took, and how well it went."""

    window_ns: int
    """How long before a deadline the loop was woken."""
    spun_ns: int
    """CPU time of polling, with what the loop did meanwhile, and of spinning."""
    longest_stall_ns: int
    """The longest wait of the loop's other work, for a burst of issuing or a late wake-up."""
    realtime_ns: int
    """How long the issuing thread ran with real-time priority."""
    exact_timer: bool
    """Whether there was a timerfd."""


class Pacer:
    """Waits on the running event loop.  A context manager for the loop's thread, whose priority it manages.

    ``exact_timer`` says whether there is a timerfd; the loop's own timers, which otherwise serve, need up to 2 ms more
    of polling.
    """

    def __init__(self, spin: Spin = Spin.ADAPTIVE, *, use_timerfd: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" and use_timerfd else None
        self._timer = -1
        if self._libc is not None:
            self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        self.exact_timer = self._timer >= 0
        self.spin = spin
        self._window_ns = 0
        if spin is Spin.ADAPTIVE:
            self._window_ns = _LEAST_WINDOW_NS if self.exact_timer else 2_000_000
        self.last_spin_ns = 0 if spin is Spin.OFF else LAST_SPIN_NS
        """Who waits no longer than this may spin without this class."""
        self.waited_ns = 0
        """Polled and spun since ``settle``.  Who spins without this class adds it here before the next call."""
        self._spun_ns = self._settled_ns = self._settled_cpu_ns = 0
        self.woke_late_ns = 0
        """Delay of the last sleep's end, ns."""
        self.longest_stall_ns = 0
        """The longest wait of the loop's other work, for a busy loop or a late wake-up, ns."""
        self.priority = Priority()
        self._due = _Itimerspec(0, 0, 0, 0)
        self._due_pointer = ctypes.byref(self._due)
        self.served_ns = self.settle()
        """When the loop was last free for other work."""

    def __enter__(self) -> Pacer:
        precise_timers()
        if self.exact_timer:
            self._loop.add_reader(self._timer, self._on_timer)
        return self

    def __exit__(self, *_: object) -> None:
        self.priority.lower()
        if self.exact_timer:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)

    @property
    def window_ns(self) -> int:
        """How long before a deadline the sleep ends; adapts to how late earlier sleeps ended."""
        return self._window_ns

    @property
    def spun_ns(self) -> int:
        """CPU time of polling and spinning so far, ns."""
        return self._spun_ns + self.waited_ns

    @property
    def pacing(self) -> Pacing:
        """The figures so far."""
        return Pacing(self._window_ns, self.spun_ns, self.longest_stall_ns, self.priority.raised_ns, self.exact_timer)

    async def until(self, deadline_ns: int, now: int | None = None) -> int:
        """Wait until ``deadline_ns`` (of ``time.monotonic_ns``) or just after it; returns the time.

        ``now``: the time, if the caller has just read it.
        """
        clock = time.monotonic_ns
        if now is None:
            now = clock()
        if self.spin is not Spin.FULL and deadline_ns - now > self._window_ns + self.last_spin_ns:
            now = await self._rest(now, deadline_ns - self._window_ns)
        began = now
        while deadline_ns - now > LAST_SPIN_NS:
            await asyncio.sleep(0)
            self.served_ns = now = clock()
        while now < deadline_ns:
            now = clock()
        self.waited_ns += now - began
        return now

    async def serve(self) -> int:
        """Let the loop do its other work once; returns the time."""
        now = time.monotonic_ns()
        self.longest_stall_ns = max(self.longest_stall_ns, now - self.served_ns)
        self.priority.review(now)
        self.settle()
        await asyncio.sleep(0)
        self.served_ns = time.monotonic_ns()
        return self.served_ns

    def settle(self) -> int:
        """Count as CPU time what was polled and spun since the last call, and begin anew; returns the time.

        Others may have had the core or the interpreter meanwhile, which only the thread's own clock tells.  It is slow
        to read, so it is read here alone, and their time is taken from the waits and from the work in proportion.
        A thread that rests elsewhere than in this class calls this before and after.
        """
        now, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        if self.waited_ns:
            lasted_ns = now - self._settled_ns
            self._spun_ns += self.waited_ns * min(cpu_ns - self._settled_cpu_ns, lasted_ns) // lasted_ns
        self.waited_ns, self._settled_ns, self._settled_cpu_ns = 0, now, cpu_ns
        return now

    async def _rest(self, now: int, wake_ns: int) -> int:
        """Sleep until ``wake_ns``, and learn from how late that ends; returns the time."""
        self.settle()
        rested_ns = wake_ns - now
        await self._sleep_until(wake_ns)
        if self.spin is Spin.OFF:
            while time.monotonic_ns() < wake_ns:  # the loop's own timers may be early
                await self._sleep_until(wake_ns)
        self.served_ns = now = self.settle()
        self.priority.review(now, rested_ns)
        if self.exact_timer:
            self.woke_late_ns = now - wake_ns
            self.longest_stall_ns = max(self.longest_stall_ns, self.woke_late_ns)
            if self.spin is Spin.ADAPTIVE:
                # A large step up after a late sleep, and a step down, nineteen times smaller, after any other: this
                # settles where one sleep in twenty is late.  A wider window would only poll more.
                step = 19 * _WINDOW_STEP_NS if self.woke_late_ns > self._window_ns else -_WINDOW_STEP_NS
                self._window_ns = min(max(self._window_ns + step, _LEAST_WINDOW_NS), _MOST_WINDOW_NS)
        return now

    async def _sleep_until(self, wake_ns: int) -> None:
        if not self.exact_timer:
            await asyncio.sleep(max((wake_ns - time.monotonic_ns()) * 1e-9, _LEAST_TIMER_S))
            return
        assert self._libc is not None
        seconds, ns = divmod(wake_ns, 1_000_000_000)
        self._waiter = self._loop.create_future()
        self._due.value_s, self._due.value_ns = seconds, ns
        self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, self._due_pointer, None)
        await self._waiter

    def _on_timer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
