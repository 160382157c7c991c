"""The processor, its clocks, and how exactly it keeps time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench.doctor.finding import INFO, PROBLEM, Finding, finding
from drumfire.bench.report import figures
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.pacer import Pacer

_FAST_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")
"""Clock sources that are read without a system call."""
_SLOW_CLOCK_NS = 500
_LATE_NS = 1_000_000
"""A p99 above it is a note."""
_SLEEPS = 200
_SLEEP_NS = 2_000_000
"""Longer than the pacer's largest polling window, so that the pacer really sleeps."""
_MUCH_STEAL = 0.005
"""A share of the time that the cores were wanted or used."""


def measure() -> dict[str, Any]:
    """The timers' figures, ns; ``fault`` is why they could not be measured.  Takes about half a second."""
    measured: dict[str, Any] = {"clock_read_ns": clock_read_ns()}
    try:
        return measured | run_on_fast_loop(measure_timers())
    except (UserError, OSError) as error:
        return measured | {"fault": str(error)}


def findings(environment: dict[str, Any], measured: dict[str, Any]) -> Iterator[Finding]:
    yield from processor(environment)
    yield quota(environment)
    yield steal()
    yield threads_of_cores()
    yield from clocks(environment, measured)
    yield from timers(measured)


def quota(environment: dict[str, Any]) -> Finding:
    """Of processor time, which a container has."""
    allowed = environment["cpu_quota"]
    fix = (
        "all threads stop when it is used up, for up to 100 ms: start the container without --cpus, or give the model "
        "fewer --threads"
    )
    return finding("CPU quota", "none" if allowed is None else f"{allowed:g} cores", None if allowed is None else fix)


def steal(path: Path = Path("/proc/stat")) -> Finding:
    """The time since boot for which the hypervisor ran other machines on these cores."""
    try:
        ticks = [int(word) for word in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        ticks = []
    if len(ticks) < 8:
        return finding("steal", "not shown", status=INFO)
    share = ticks[7] / max(sum(ticks) - ticks[3] - ticks[4], 1)  # without idle time and waits for I/O
    fix = "the hypervisor gives these cores to others too: use dedicated cores or a machine of your own"
    return finding("steal", f"{share:.2%} of the busy time since boot", fix if share > _MUCH_STEAL else None)


def threads_of_cores(path: Path = Path("/sys/devices/system/cpu/smt/active")) -> Finding:
    try:
        active = path.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return finding("SMT", "not shown", status=INFO)
    return finding("SMT", "on: two of the cores shown may be one", status=INFO) if active else finding("SMT", "off")


def processor(environment: dict[str, Any]) -> Iterator[Finding]:
    yield known("CPU", environment["cpu"])
    cores = environment["cores"]
    one = "the generator and the model share one core and delay each other: give this machine two or more"
    yield finding("cores", f"{cores} usable", one if cores == 1 else None)
    governor = environment["governor"]
    slow = "the clock rate follows the load, and so do latencies: sudo cpupower frequency-set -g performance"
    yield known("governor", governor, slow if governor != "performance" else None)
    yield load(cores)
    gpus = "; ".join(environment["gpus"])
    yield finding("GPUs", gpus) if gpus else finding("GPUs", "none seen", status=INFO)


def known(name: str, value: str | None, fix: str | None = None) -> Finding:
    """What the system shows, and its fix; without a value it is not known."""
    return finding(name, value, fix) if value else finding(name, "not shown", status=INFO)


def load(cores: int) -> Finding:
    try:
        mean = os.getloadavg()[0]
    except OSError:
        return finding("load average", "not shown", status=INFO)
    busy = "other programs are running: end them, or they distort the measurement"
    return finding("load average", f"{mean:.2f} over a minute", busy if mean > max(cores / 4, 0.5) else None)


def clocks(environment: dict[str, Any], measured: dict[str, Any]) -> Iterator[Finding]:
    clock = environment["clock_source"]
    switch = f"a slow clock: boot with clocksource=tsc, or use a machine with one of {', '.join(_FAST_CLOCKS[:2])}"
    yield known("clock source", clock, switch if clock not in _FAST_CLOCKS else None)
    read = measured["clock_read_ns"]
    slow = "each query reads the clock, which is slow here: choose a faster clock source"
    yield finding("clock read", f"{read:.0f} ns", slow if read > _SLOW_CLOCK_NS else None)


def timers(measured: dict[str, Any]) -> Iterator[Finding]:
    if "fault" in measured:
        yield finding("timer", "cannot be measured", measured["fault"], PROBLEM)
        return
    loop = "uvloop" if importlib.util.find_spec("uvloop") is not None else "the standard loop"
    if not measured["exact_timer"]:
        fix = "no timerfd: pacing costs up to 2 ms of polling a query; run on Linux"
        yield finding("timer", f"the loop's own, on {loop}", fix)
    else:
        yield finding("timer", f"timerfd, on {loop}")
    forbidden = (
        "late wake-ups where the cores are busy: grant CAP_SYS_NICE (docker: --cap-add SYS_NICE), or ulimit -r 1"
    )
    permitted = measured["realtime"]
    yield finding(
        "real-time", "permitted" if permitted else "not permitted, or only one core", None if permitted else forbidden
    )
    for name, what in (("wake", "sleeps end late"), ("issue", "queries go out late")):
        p50, p99 = measured[f"{name}_p50_ns"], measured[f"{name}_p99_ns"]
        value = f"p50 {figures.duration(p50)}, p99 {figures.duration(p99)} (limit: {_LATE_NS / 1e6:g} ms)"
        late = f"{what}: free a core, or turn off deep idle states (power saving)" if p99 > _LATE_NS else None
        yield finding("wake-up lateness" if name == "wake" else "issue lateness", value, late)


def clock_read_ns() -> float:
    """The cost of one clock read: the best of several rounds, because disturbances only add to it."""
    reads, best = 20_000, float("inf")
    clock = time.monotonic_ns
    for _ in range(5):
        began = clock()
        for _ in range(reads):
            clock()
        best = min(best, (clock() - began) / reads)
    return best


async def measure_timers() -> dict[str, Any]:
    """How late sleeps end, and how late a query would go out after the pacer's polling, ns."""
    woke, issued = [], []
    with Pacer() as pacer:
        for _ in range(_SLEEPS):
            deadline = time.monotonic_ns() + _SLEEP_NS
            issued.append(await pacer.until(deadline) - deadline)
            woke.append(pacer.woke_late_ns)
            await asyncio.sleep(0)
        exact_timer, realtime = pacer.exact_timer, pacer.priority.permitted
    return {
        "exact_timer": exact_timer,
        "realtime": realtime,
        "wake_p50_ns": _percentile(woke, 0.50),
        "wake_p99_ns": _percentile(woke, 0.99),
        "issue_p50_ns": _percentile(issued, 0.50),
        "issue_p99_ns": _percentile(issued, 0.99),
    }


def _percentile(values: list[int], fraction: float) -> int:
    return int(np.sort(values)[int(len(values) * fraction)])
