"""What the system allows: memory, files, ports, and where one can write."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from drumfire.bench.doctor.finding import INFO, NOTE, PROBLEM, Finding, finding
from drumfire.loadgen.claim import RUNS
from drumfire.loadgen.limits import LEAST_FILES, available_memory, open_files
from drumfire.sut.cache import cache_folder

_LEAST_MEMORY, _LITTLE_MEMORY = 128e6, 1e9
_LEAST_DISK, _LITTLE_DISK = 100e6, 5e9
_MANY_FILES = 1024


def findings(ports_asked: Sequence[int]) -> Iterator[Finding]:
    yield memory()
    yield files()
    yield memfd()
    if sys.platform == "linux":
        yield shared_memory()
    yield temporary()
    yield cache()
    yield output()
    yield from ports(ports_asked)


def memory() -> Finding:
    found = available_memory()
    if found is None:
        return finding("memory", "not shown", status=INFO)
    value = f"{found.available / 1e9:.3g} GB available{found.limit}"
    fix = f"raise the limit{' (docker: --memory)' if 'group' in found.limit else ''}" if found.limit else "end programs"
    if found.available < _LEAST_MEMORY:
        return finding("memory", value, f"too little for a run: {fix}", PROBLEM)
    return finding("memory", value, f"little for a model: {fix}" if found.available < _LITTLE_MEMORY else None)


def files() -> Finding:
    allowed = open_files(0)
    if allowed == float("inf"):
        return finding("open files", "no limit")
    could = open_files(LEAST_FILES)  # as a run does
    value = f"at most {allowed:,}"
    if could < LEAST_FILES:
        return finding("open files", value, f"too few for a run: ulimit -n {_MANY_FILES}", PROBLEM)
    few = f"many connections need more: ulimit -n {_MANY_FILES}"
    return finding("open files", value, few if allowed < _MANY_FILES else None)


def memfd() -> Finding:
    there = hasattr(os, "memfd_create") and _works(lambda: os.close(os.memfd_create("drumfire-doctor")))
    if not there:
        return finding("memfd", "not available: a run's table is a temporary file", status=INFO)
    return finding("memfd", "available")


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    if folder.is_dir() and _works(lambda: tempfile.TemporaryFile(dir=folder).close()):
        return finding("/dev/shm", f"{_free(folder) / 1e9:.1f} GB free")
    fix = "mount a tmpfs at /dev/shm (docker: --shm-size), which processes need to share memory"
    return finding("/dev/shm", "not usable", fix)


def temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
        tempfile.TemporaryFile().close()
    except OSError as error:
        return finding("temporary files", str(error.strerror), "set TMPDIR to a folder that can be written", PROBLEM)
    return finding("temporary files", folder)


def cache() -> Finding:
    """Where weights and data are kept."""
    fix = "models keep their weights and data there: set MODEL_DIR to a folder that can be written"
    return _place("cache", cache_folder(), fix, NOTE, "set MODEL_DIR to a folder on another disk")


def output() -> Finding:
    """Where runs are saved."""
    return _place("runs", RUNS.absolute(), "choose another --output", PROBLEM, "choose --output on another disk")


def ports(asked: Sequence[int]) -> Iterator[Finding]:
    """Of ``drumfire serve``, or those that were asked for."""
    for port in asked or (8000, 8001, 8002):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError as error:
                value = "in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
                fix = f"end what listens there (ss -ltnp 'sport = :{port}'), or give serve another port"
                yield finding(f"port {port}", value, fix, PROBLEM if asked else NOTE)
            else:
                yield finding(f"port {port}", "free")


def _place(name: str, folder: Path, fix: str, severest: str, elsewhere: str) -> Finding:
    """Whether something can be saved in ``folder``, which need not be there.  ``severest``: where the disk is full."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return finding(name, f"{folder} cannot be written", fix, PROBLEM)
    free = _free(there)
    value = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _LEAST_DISK:
        return finding(name, value, f"the disk is nearly full: make room, or {elsewhere}", severest)
    return finding(name, value, f"little room: make some, or {elsewhere}" if free < _LITTLE_DISK else None)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _free(folder: Path) -> int:
    """Bytes."""
    return shutil.disk_usage(folder).free
