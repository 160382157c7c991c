"""The environment of a run: machine, system, versions.  A figure that cannot be read is None, never a guess."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drumfire.loadgen import cgroups, limits
from drumfire.loadgen.installation import ROOT, built_revision


def describe(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """The environment as a JSON-ready dictionary, with the versions of further ``distributions``."""
    return {
        "cpu": cpu_model(),
        "cores": limits.cores(),
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


def _gpus() -> list[str]:
    """Name and driver version of each NVIDIA GPU; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return listed.split("\n") if listed else []
