"""The environment of a run: machine, system, versions.  A figure that cannot be read is None, never a guess."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.loadgen import cgroups
from drumfire.loadgen.installation import ROOT, built_revision

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


def describe(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """The environment as a JSON-ready dictionary, with the versions of further ``distributions``."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_quota": cgroups.cpu_quota(),
        "memory_bytes": _memory_bytes(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_source": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "gpus": _gpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(("drumfire", "numpy", "uvloop", "hdrhistogram", *distributions)),
        "git_revision": git_revision(),
    }


def versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """The version of each distribution; None if it is not installed."""
    installed: dict[str, str | None] = {}
    for name in distributions:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def git_revision() -> str | None:
    """The revision of the checkout that this code runs or was built from, with ``-dirty`` after changes.

    None where it is not known.
    """
    return built_revision() or git("describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")


@functools.cache
def git(*arguments: str) -> str | None:
    """The output of git in the checkout that this code runs from; None outside of one, or on an error."""
    if not (ROOT / ".git").exists():
        return None
    return _output("git", "-C", str(ROOT), *arguments)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def cpu_model() -> str | None:
    for line in (_read("/proc/cpuinfo") or "").split("\n"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


class Memory(NamedTuple):
    """How much memory this process can still take."""

    available: int
    """Bytes."""
    limit: str
    """What sets the limit, for messages; empty for the machine itself."""


def available_memory() -> Memory | None:
    """Memory that this process can take without swapping: the least that any limit leaves; None if unknown."""
    status = _bytes_of("/proc/self/status")
    known = [
        ("", _bytes_of("/proc/meminfo").get("MemAvailable")),
        (" within its control group", cgroups.memory_room()),
        (" under ulimit -v", _left("RLIMIT_AS", status.get("VmSize"))),
        (" under ulimit -d", _left("RLIMIT_DATA", status.get("VmData"))),
    ]
    return min((Memory(room, limit) for limit, room in known if room is not None), default=None)


def available_memory_bytes() -> int | None:
    """Memory available without swapping; None if unknown."""
    memory = available_memory()
    return None if memory is None else memory.available


def usable_cores() -> int:
    """The cores that this process may run on, no more than a quota of processor time is worth; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _bytes_of(path: str) -> dict[str, int]:
    """The sizes in one of the kernel's tables of lines ``Name: NUMBER kB``."""
    lines = (line.split() for line in (_read(path) or "").split("\n"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _left(limit: str, used: int | None) -> int | None:
    """Bytes that a limit of this process leaves; None without one."""
    if resource is None or used is None:
        return None
    soft, _ = resource.getrlimit(getattr(resource, limit))
    return None if soft == resource.RLIM_INFINITY else max(soft - used, 0)


def _gpus() -> list[str]:
    """Name and driver version of each NVIDIA GPU; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return listed.split("\n") if listed else []
