"""The load generator's own cost, and what disturbed it, between two moments of a run.

Figures come from the operating system; those that this system does not have are None.
"""

from __future__ import annotations

import gc
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from drumfire.loadgen.cgroups import Throttling, throttling

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Overhead:
    """Differences between two readings."""

    wall_s: float
    issuing_thread_cpu_s: float
    """CPU time of the issuing thread: the loop, and systems that compute inside ``issue``."""
    process_cpu_s: float
    gc_collections: int
    gc_pause_s: float
    involuntary_switches: int | None
    """How many times the issuing thread was preempted."""
    steal_s: float | None
    """Time that the hypervisor gave to other machines, summed over the cores."""
    throttled_s: float | None = None
    """Time for which a quota of processor time stopped this container, summed over the cores; None without a quota."""
    throttled_periods: int | None = None
    """How many of the quota's periods had such a stop."""

    @property
    def on_throttling(self) -> str | None:
        """What to say where a quota stopped the processes; None where it did not."""
        if not self.throttled_periods:
            return None
        return (
            f"a quota of processor time stopped this run {self.throttled_periods:,} times, for {self.throttled_s:.3g} "
            "s summed over the cores: raise the container's limit (docker: --cpus), or give the model fewer threads"
        )


def issuing_cpu_us(cpu_s: float, spun_s: float, rows: int) -> float:
    """CPU of the issuing thread per row, us, without what the pacer spun; 0 without rows."""
    return max(cpu_s - spun_s, 0.0) * 1e6 / rows if rows else 0.0


class GarbagePauses:
    """A context manager that adds up the time of garbage collections in all threads."""

    def __init__(self) -> None:
        self.total_ns = 0
        self._began_ns = 0

    def __enter__(self) -> GarbagePauses:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, step: str, _: object) -> None:
        if step == "start":
            self._began_ns = time.monotonic_ns()
        else:
            self.total_ns += time.monotonic_ns() - self._began_ns


@dataclass(frozen=True)
class Reading:
    """The counters at one moment, read in the issuing thread."""

    wall_ns: int
    thread_ns: int
    process_ns: int
    collections: int
    gc_pause_ns: int
    switches: int | None
    steal_ticks: int | None
    throttling: Throttling | None

    @classmethod
    def now(cls, pauses: GarbagePauses) -> Reading:
        switches = None
        if resource is not None and hasattr(resource, "RUSAGE_THREAD"):
            switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        return cls(
            time.monotonic_ns(),
            time.thread_time_ns(),
            time.process_time_ns(),
            sum(generation["collections"] for generation in gc.get_stats()),
            pauses.total_ns,
            switches,
            steal_ticks(),
            throttling(),
        )

    def until(self, end: Reading) -> Overhead:
        steal = None
        if self.steal_ticks is not None and end.steal_ticks is not None:
            steal = (end.steal_ticks - self.steal_ticks) / TICKS_PER_S
        switches = None
        if self.switches is not None and end.switches is not None:
            switches = end.switches - self.switches
        throttled_s = throttled_periods = None
        if self.throttling is not None and end.throttling is not None:
            throttled_s = (end.throttling.stopped_ns - self.throttling.stopped_ns) * 1e-9
            throttled_periods = end.throttling.periods - self.throttling.periods
        return Overhead(
            (end.wall_ns - self.wall_ns) * 1e-9,
            (end.thread_ns - self.thread_ns) * 1e-9,
            (end.process_ns - self.process_ns) * 1e-9,
            end.collections - self.collections,
            (end.gc_pause_ns - self.gc_pause_ns) * 1e-9,
            switches,
            steal,
            throttled_s,
            throttled_periods,
        )


TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def steal_ticks() -> int | None:
    """Ticks that the hypervisor gave to other machines since boot, summed over the cores; None if unknown."""
    try:
        cpu = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    return int(cpu[8]) if len(cpu) > 8 else None


def stat_fields(pid: int) -> list[str]:
    """What ``/proc/PID/stat`` says of a process of this machine after its name, from its state on; empty if unknown."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()  # the name before may hold spaces
    except OSError:
        return []


def usage(pid: int) -> tuple[float, int]:
    """CPU time of a process of this machine, s, and its memory in bytes; zeros where they are not known."""
    fields = stat_fields(pid)
    if not fields:
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S, int(fields[21]) * mmap.PAGESIZE
