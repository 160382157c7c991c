"""What the system allows this process, and errors that mean such a limit, in a line that names the fix.

Imports little, as it is needed where there is no memory for more.
"""

from __future__ import annotations

import errno
import math
import os

from drumfire.loadgen.errors import UserError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

LEAST_FILES = 64
"""A run opens some 20 to 40 files: the loop's, the table's, the live view's, a model's."""
LEAST_ADDRESSES = 160_000_000
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
    if resource is not None and 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < LEAST_ADDRESSES:
        raise UserError(f"this process may take only {_limit('RLIMIT_AS')} bytes of memory: ulimit -v unlimited")


def check_files(connections: int = 0) -> None:
    """Raise ``UserError`` where a run cannot open its files, and so many connections."""
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
        cure = "make room" if number in (errno.ENOSPC, errno.EDQUOT) else "make it accessible"
        return (
            f"{os.fsdecode(error.filename)}: {error.strerror}: {cure}, or choose another folder (--output, MODEL_DIR "
            "for the cache, TMPDIR)"
        )
    return None


def _left() -> str:
    try:
        from drumfire.loadgen.environment import available_memory

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
