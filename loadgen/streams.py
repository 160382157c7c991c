"""The program's standard streams: writing to them never fails, so nothing stops a run from being saved.

A stream that is closed or full, or whose reader or terminal has gone, takes what is written and loses it;
``complain`` says so at the end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO, cast

GONE = (errno.EPIPE, errno.EIO)
"""The reader or the terminal has gone: nobody misses what is lost."""


class _Lossy(io.RawIOBase):
    """Writes to a descriptor until that fails."""

    def __init__(self, fd: int, fault: OSError | None) -> None:
        self._fd, self.fault = fd, fault

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # any buffer, which is how we are called
        while self.fault is None:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:  # another process made it so
                select.select([], [self._fd], [])
            except OSError as error:
                self.fault = error
        return len(data)


_output: _Lossy | None = None


def install() -> None:
    """Replace standard output and error, and fill closed descriptors, which other files would get else."""
    global _output
    closed = {fd for fd in range(3) if not _is_open(fd)}
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free one
    for fd in closed:
        os.set_inheritable(fd, True)
    _output, sys.stdout = _lossy(1, sys.stdout, closed)
    _, sys.stderr = _lossy(2, sys.stderr, closed)


def complain() -> bool:
    """Say on standard error, once, that output could not be written; returns whether somebody misses it."""
    global _output
    with contextlib.suppress(OSError, ValueError):  # of a stream that is not ours
        sys.stdout.flush()
    if _output is None or _output.fault is None:
        return False
    fault, _output = _output.fault, None
    if fault.errno in GONE:
        return False
    print(f"drumfire: standard output could not be written: {fault.strerror}", file=sys.stderr)
    return True


def _lossy(fd: int, before: TextIO | None, closed: set[int]) -> tuple[_Lossy, TextIO]:
    raw = _Lossy(fd, OSError(errno.EBADF, "it is closed") if fd in closed else None)
    encoding = "utf-8" if before is None else before.encoding
    lines = fd == 2 or raw.isatty()
    # Letters that the encoding lacks are escaped, as in a path under an ASCII locale.
    buffer: Any = io.BufferedWriter(cast(io.RawIOBase, raw))
    text = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=lines)
    return raw, text


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
