"""The limits of the control groups that this process is in: a container's memory and processor time, versions 1 and 2.

A group is limited by all groups above it too, as far as this process can see them.  What cannot be read is no limit.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes a number above this for no limit."""


class Throttling(NamedTuple):
    """What quotas of processor time have cost the groups since they began, summed over the groups."""

    periods: int
    """Periods in which a quota was used up."""
    stopped_ns: int
    """How long the processes were stopped, summed over the cores."""


def memory_room(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken before a group reaches its limit, without swapping; None without a limit.

    Files in memory that were not read lately count as free, as the kernel drops them first.
    """
    rooms = []
    for folder, version in _folders("memory", root):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        limits = [limit for name in names if (limit := _number(folder / name)) is not None and limit < _NO_LIMIT_BYTES]
        used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
        if limits and used is not None:
            statistics = _table(folder / "memory.stat")
            cached = statistics.get("inactive_file" if version == 2 else "total_inactive_file", 0)
            rooms.append(max(min(limits) - max(used - cached, 0), 0))
    return min(rooms, default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many cores' time the processes may use; None without a limit."""
    quotas = []
    for folder, version in _folders("cpu", root):
        if version == 2:
            words = (_text(folder / "cpu.max") or "max").split()
            quota, period = (int(word) if word.isdecimal() else None for word in (*words, "100000")[:2])
        else:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def throttling(root: Path = Path("/")) -> Throttling | None:
    """None where no group has a quota of processor time."""
    if cpu_quota(root) is None:
        return None
    periods = stopped_ns = 0
    for folder, _ in _folders("cpu", root):
        statistics = _table(folder / "cpu.stat")
        periods += statistics.get("nr_throttled", 0)
        stopped_ns += statistics.get("throttled_time", 1000 * statistics.get("throttled_usec", 0))
    return Throttling(periods, stopped_ns)


@functools.cache
def _folders(controller: str, root: Path) -> tuple[tuple[Path, int], ...]:
    """The folder of this process's group and those above it, each with the version of its files."""
    groups: dict[str, str] = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, names, group = line.split(":", 2)
        groups |= dict.fromkeys(names.split(","), group)
    found = []
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        name, version = ("", 2) if kind == "cgroup2" else (controller, 1)
        if name not in groups or not (kind == "cgroup2" or (kind == "cgroup" and name in options.split(","))):
            continue
        shown, point = (_unescaped(word) for word in before.split(" ")[3:5])
        folder = top = root / point.lstrip("/")
        # In a container the path may be the host's, which is not visible there: the mount then shows the own group.
        own = PurePosixPath(groups[name])
        if own.is_relative_to(shown) and ".." not in own.parts:
            inner = top / own.relative_to(shown)
            folder = inner if inner.is_dir() else top
        above = (folder, *folder.parents)
        found += [(one, version) for one in above[: above.index(top) + 1]]
    return tuple(found)


def _unescaped(word: str) -> str:
    """A path of mountinfo, where spaces and the like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if text.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """The lines ``NAME NUMBER`` of a file."""
    words = (line.split() for line in (_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}
