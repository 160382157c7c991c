"""``drumfire doctor``: checks that this machine can measure well, and says how to fix what is wrong.

Looks at packages, processor, clocks, timers and limits.  Changes nothing and runs no model.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drumfire.bench import statuses
from drumfire.bench.commands.models import packages_of
from drumfire.bench.options.parser import Command
from drumfire.bench.report import figures
from drumfire.loadgen import installation
from drumfire.loadgen.environment import describe, versions
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.options import option
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.version import VERSION
from drumfire.sut.local.backends import BACKENDS, BackendError
from drumfire.sut.local.backends.onnxruntime import DISTRIBUTIONS, check_installation
from drumfire.sut.models import MODELS
from drumfire.sut.remote import TARGETS
from drumfire.sut.remote.triton_local.environment import LocalTritonError, check_platform

OK, NOTE, PROBLEM = "ok", "note", "problem"

_STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
_DEVELOPMENT_EXTRAS = ("test", "lint")
_FAST_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")
"""Clock sources that are read without a system call."""
_SLOW_CLOCK_NS = 500
_LATE_WAKE_NS = 1_000_000
_SLEEPS = 200
_SLEEP_NS = 2_000_000
"""Longer than the pacer's largest polling window, so that the pacer really sleeps."""
_LEAST_FILES = 1024

Finding = dict[str, Any]
"""``name``, ``value`` (text), ``status`` and ``mend`` (how to fix it; None if ok)."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire doctor``."""

    json: bool = option(False, help="print one JSON object")


def doctor(options: Options) -> int:
    """Print the findings as text or a JSON object, and return FAILED if there is a problem, else DONE."""
    diagnosis = diagnose()
    if options.json:
        print(json.dumps(diagnosis))
    else:
        show(diagnosis, Console())
    return exit_status(diagnosis)


COMMAND = Command(Options, doctor, "Check that this machine can measure well, and say how to fix what is wrong.")


def diagnose() -> dict[str, Any]:
    """All findings as a JSON-ready dictionary.  Takes about half a second, most of it for the timers.

    ``status`` is the worst of the findings'; ``measured`` are the timers' figures, ns; ``environment`` is as in a run's
    result.
    """
    environment = describe(DISTRIBUTIONS)
    measured = {"clock_read_ns": _clock_read_ns()} | run_on_fast_loop(_measure_timers())
    findings = [
        _python(),
        *_packages(environment),
        *_extras(),
        *_plugins(),
        _onnxruntime(environment),
        _local_triton(),
        *_machine(environment),
        *_timing(environment, measured),
        *_limits(),
    ]
    levels = {finding["status"] for finding in findings}
    worst = next(level for level in (PROBLEM, NOTE, OK) if level in levels)
    return {"status": worst, "findings": findings, "measured": measured, "environment": environment}


def exit_status(diagnosis: dict[str, Any]) -> int:
    """FAILED if there is a problem, else DONE."""
    return statuses.FAILED if diagnosis["status"] == PROBLEM else statuses.DONE


def show(diagnosis: dict[str, Any], console: Console) -> None:
    """Print the findings, each with its fix."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for finding in diagnosis["findings"]:
        status = finding["status"]
        value = Text(finding["value"])
        if finding["mend"]:
            value.append(f"\n{finding['mend']}", _STYLES[status])
        table.add_row(Text(status, _STYLES[status]), Text(finding["name"]), value)
    console.print(table)
    levels = [finding["status"] for finding in diagnosis["findings"]]
    problems, notes = levels.count(PROBLEM), levels.count(NOTE)
    console.print(Text(f"\n{_count(problems, 'problem')}, {_count(notes, 'note')}", _STYLES[diagnosis["status"]]))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _finding(name: str, value: str, fix: str | None = None, status: str | None = None) -> Finding:
    """A finding that is ok if there is nothing to fix, else a note, or what ``status`` says."""
    return {"name": name, "value": value, "status": status or (NOTE if fix else OK), "mend": fix}


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run where pip would have refused
        return _finding("Python", version, "install Python 3.11 or newer", PROBLEM)
    return _finding("Python", version)


def _packages(environment: dict[str, Any]) -> Iterator[Finding]:
    installed = environment["versions"]
    yield _finding("drumfire", VERSION)
    for name in ("numpy", "hdrhistogram"):
        yield _finding(name, installed[name] or "no package data")
    if importlib.util.find_spec("uvloop") is not None:
        yield _finding("uvloop", installed["uvloop"] or "no package data")
    else:
        fix = f"{installation.pip()} install uvloop: the standard loop serves fewer queries per second"
        yield _finding("uvloop", "not installed", None if sys.platform == "win32" else fix)


def _extras() -> Iterator[Finding]:
    """The packages of each optional extra, from the installed package's metadata."""
    try:
        requirements = importlib.metadata.requires("drumfire") or []
        names = importlib.metadata.metadata("drumfire").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        fix = f"{installation.pip()} install -e . in the checkout, so that its extras are known"
        yield _finding("extras", "unknown: this checkout is not installed", fix)
        return
    yield _finding("extras", f"to install one: {installation.command('EXTRA')}")
    for extra in names:
        if extra in _DEVELOPMENT_EXTRAS:
            continue
        packages = versions(packages_of(extra, requirements))
        if not packages:
            continue
        shown = ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
        # A missing extra is a choice, not a fault.
        yield _finding(f"[{extra}]", shown)


def _plugins() -> Iterator[Finding]:
    """The kinds that other packages add."""
    for what, registry in (("backend", BACKENDS), ("model", MODELS), ("target", TARGETS)):
        broken = registry.broken()
        for name, package in registry.packages().items():
            fix = f"fix or remove {package}: {broken[name]}" if name in broken else None
            yield _finding(f"{what} {name}", f"from {package}", fix)


def _onnxruntime(environment: dict[str, Any]) -> Finding:
    installed = {name: environment["versions"][name] for name in DISTRIBUTIONS}
    shown = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    try:
        check_installation()
    except BackendError as error:
        return _finding("ONNX Runtime", shown or "not installed", str(error), PROBLEM if shown else NOTE)
    if environment["gpus"] and not installed["onnxruntime-gpu"]:
        fix = f"to use the GPU: {installation.pip()} uninstall onnxruntime, then {installation.command('onnx-gpu')}"
        return _finding("ONNX Runtime", shown, fix)
    return _finding("ONNX Runtime", shown)


def _local_triton() -> Finding:
    """Whether ``triton-local`` can start a server here."""
    try:
        check_platform()
    except LocalTritonError as error:
        # Not a fault: servers usually run elsewhere.
        return _finding("triton-local", f"not on this machine: {error}")
    return _finding("triton-local", "can be started")


def _machine(environment: dict[str, Any]) -> Iterator[Finding]:
    yield _finding("CPU", environment["cpu"] or "unknown")
    cores = environment["cores"]
    one = "the generator and the model share one core and delay each other: give this machine two or more"
    yield _finding("cores", f"{cores} usable", one if cores == 1 else None)
    governor = environment["governor"]
    slow = "the clock rate follows the load, and so do latencies: sudo cpupower frequency-set -g performance"
    yield _finding("governor", governor or "not shown", slow if governor == "powersave" else None)
    load = os.getloadavg()[0]
    busy = "other programs are running: end them, or they distort the measurement"
    yield _finding("load average", f"{load:.2f} over a minute", busy if load > max(cores / 4, 0.5) else None)
    yield _finding("GPUs", "; ".join(environment["gpus"]) or "not seen")


def _timing(environment: dict[str, Any], measured: dict[str, Any]) -> Iterator[Finding]:
    clock = environment["clock_source"]
    switch = f"a slow clock: boot with clocksource=tsc, or use a machine with one of {', '.join(_FAST_CLOCKS[:2])}"
    yield _finding("clock source", clock or "not shown", switch if clock and clock not in _FAST_CLOCKS else None)
    read = measured["clock_read_ns"]
    slow = "each query reads the clock, which is slow here: choose a faster clock source"
    yield _finding("clock read", f"{read:.0f} ns", slow if read > _SLOW_CLOCK_NS else None)
    loop = "uvloop" if importlib.util.find_spec("uvloop") is not None else "the standard loop"
    if not measured["exact_timer"]:
        fix = "no timerfd: pacing costs up to 2 ms of polling a query; run on Linux"
        yield _finding("timer", f"the loop's own, on {loop}", fix)
    else:
        yield _finding("timer", f"timerfd, on {loop}")
    forbidden = (
        "late wake-ups where the cores are busy: grant CAP_SYS_NICE (docker: --cap-add SYS_NICE), or ulimit -r 1"
    )
    permitted = measured["realtime"]
    yield _finding(
        "real-time", "permitted" if permitted else "not permitted, or only one core", None if permitted else forbidden
    )
    wake = f"p50 {figures.duration(measured['wake_p50_ns'])}, p99 {figures.duration(measured['wake_p99_ns'])}"
    late = "sleeps end late: free a core, or turn off deep idle states (power saving)"
    yield _finding("wake-up lateness", wake, late if measured["wake_p99_ns"] > _LATE_WAKE_NS else None)
    issue = f"p50 {figures.duration(measured['issue_p50_ns'])}, p99 {figures.duration(measured['issue_p99_ns'])}"
    yield _finding("issue lateness", issue)


def _clock_read_ns() -> float:
    """The cost of one clock read: the best of several rounds, because disturbances only add to it."""
    reads, best = 20_000, float("inf")
    clock = time.monotonic_ns
    for _ in range(5):
        began = clock()
        for _ in range(reads):
            clock()
        best = min(best, (clock() - began) / reads)
    return best


async def _measure_timers() -> dict[str, Any]:
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


def _limits() -> Iterator[Finding]:
    memfd = hasattr(os, "memfd_create") and _works(lambda: os.close(os.memfd_create("drumfire-doctor")))
    folder = tempfile.gettempdir()
    yield _finding("memfd", "available" if memfd else f"not available: a run's table is a file in {folder}", None)
    shared = Path("/dev/shm")
    if sys.platform == "linux":
        usable = shared.is_dir() and _works(lambda: tempfile.TemporaryFile(dir=shared).close())
        fix = "mount a tmpfs at /dev/shm (docker: --shm-size), which processes need to share memory"
        yield _finding("/dev/shm", _free(shared) if usable else "not usable", None if usable else fix)
    try:
        import resource
    except ImportError:  # not on Windows
        return
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = files == resource.RLIM_INFINITY
    few = f"many connections need more: ulimit -n {_LEAST_FILES}"
    yield _finding(
        "open files", "no limit" if unlimited else f"at most {files:,}", few if 0 <= files < _LEAST_FILES else None
    )


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _free(folder: Path) -> str:
    room = os.statvfs(folder)
    return f"{room.f_bavail * room.f_frsize / 1e9:.1f} GB free"
