"""What the system allows this process, and errors that mean such a limit, in a line that names the fix.

Imports little, as it is needed where there is no memory for more.
"""

from __future__ import annotations

import errno
import math
import os
from typing import NamedTuple

from drumfire.loadgen import cgroups
from drumfire.loadgen.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

LEAST_FILES = 64
"""A run opens some 20 to 40 files: the loop's, the table's, the live view's, a model's."""
_LEAST_ADDRESSES = 160_000_000
"""Bytes of addresses.  With fewer, numpy's libraries end the process as they are loaded."""
_NOT_MAPPED = "failed to map segment from shared object"
"""So the dynamic linker says that there is no memory for a library."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def open_files(wanted: int) -> float:
    """Raise the limit of open files to ``wanted``, or as far as it can be; returns the limit."""
    if resource is None:
        return math.inf
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return math.inf if soft == resource.RLIM_INFINITY else soft


def check_addresses() -> None:
    """Raise ``UserError`` where numpy's libraries would end the process, as they do without memory."""
    if resource is not None and 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < _LEAST_ADDRESSES:
        raise UserError(f"this process may take only {_limit('RLIMIT_AS')} bytes of memory: ulimit -v unlimited")


def check_files(connections: int = 0) -> None:
    """Raise ``UserError`` where a run cannot open its files, and ``connections`` more."""
    needed = LEAST_FILES + connections
    if open_files(needed) < needed:
        fewer = ", or fewer --connections or a lower --concurrency" if connections else ""
        raise UserError(f"{_on_files()} {needed:,}: ulimit -n {max(needed, 1024)}{fewer}")


def on_limit(error: BaseException) -> str | None:
    """Which limit an error means, and what to do; None for another error."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EMFILE:
        return f"{_on_files()} more: ulimit -n 1024, or more than that"
    if number == errno.ENFILE:
        return "this machine has too many files open: end other programs"
    if number == errno.EFBIG:
        return f"no file may be larger than {_limit('RLIMIT_FSIZE')} bytes here: ulimit -f unlimited"
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
        return (
            f"no further process or thread is allowed, of {_limit('RLIMIT_NPROC')} for this user: ulimit -u 4096, in a "
            "container docker --pids-limit, or fewer --threads"
        )
    if number == errno.ENOMEM or isinstance(error, MemoryError) or _NOT_MAPPED in str(error):
        return f"there is not enough memory{_left()}: give it more, or make the run or the model smaller"
    if isinstance(error, OSError) and number in _UNWRITABLE and isinstance(error.filename, str | bytes):
        # Of a file without access the system does not say whether it was to be read or written.
        cure = "make room" if number in (errno.ENOSPC, errno.EDQUOT) else "make it accessible"
        return (
            f"{os.fsdecode(error.filename)}: {error.strerror}: {cure}, or where it is to be written choose another "
            "folder (--output, MODEL_DIR for the cache, TMPDIR)"
        )
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
        (" under ulimit -v", _room("RLIMIT_AS", status.get("VmSize"))),
        (" under ulimit -d", _room("RLIMIT_DATA", status.get("VmData"))),
    ]
    return min((Memory(room, limit) for limit, room in known if room is not None), default=None)


def available_memory_bytes() -> int | None:
    """Memory available without swapping; None if unknown."""
    memory = available_memory()
    return None if memory is None else memory.available


def cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """``cores``, but no more than a quota of processor time is worth; at least 1."""
    quota = cgroups.cpu_quota()
    return cores() if quota is None else max(1, min(cores(), math.ceil(quota)))


def _bytes_of(path: str) -> dict[str, int]:
    """The sizes in one of the kernel's tables of lines ``Name: NUMBER kB``; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _room(limit: str, used: int | None) -> int | None:
    """Bytes that a limit of this process leaves; None without one."""
    if resource is None or used is None:
        return None
    soft, _ = resource.getrlimit(getattr(resource, limit))
    return None if soft == resource.RLIM_INFINITY else max(soft - used, 0)


def _left() -> str:
    try:
        memory = available_memory()
    except MemoryError:
        return ""
    return "" if memory is None else f", {memory.available / 1e9:.3g} GB are left{memory.limit}"


def _on_files() -> str:
    return f"no more than {_limit('RLIMIT_NOFILE')} files may be open here, and this run needs"


def _limit(name: str) -> str:
    if resource is None:
        return "a number of"
    soft, _ = resource.getrlimit(getattr(resource, name))
    return "any number" if soft == resource.RLIM_INFINITY else f"{soft:,}"
