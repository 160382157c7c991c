"""A program of ours with a meter on it: what it does in the windows of a measurement is counted and left in files.

``python -m tests.guards.metered METER FOLDER ROLE JSON``, where ROLE is a function's name here, or ``runs_here`` for
runs without a server, and the JSON its last argument.  A run's window is its phase, from ``Answers.begin`` to
``Answers.give_up``; a server reads its window from its input.  Each leaves ``NUMBER-PROCESS.json`` in the folder, or,
of system calls, marks in strace's log, where ``counts`` finds it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol
from unittest.mock import patch

if sys.argv[3:4] == ["runs_here"]:
    # Some of what a run in this process does comes once a millisecond.  A clock that advances a step at each read
    # makes that once per fixed number of reads.  It is C, so reading it is not a Python call; our modules bind it when
    # they are imported.
    time.monotonic_ns = itertools.count(time.monotonic_ns(), 10_000).__next__

from drumfire.bench.assemble import probe
from drumfire.bench.cli import main
from drumfire.bench.fleet import generator
from drumfire.loadgen import directory
from drumfire.loadgen.answers import Answers
from drumfire.sut import module_process

ALLOCATION_ENVIRONMENT = {"LD_PRELOAD": "libc_malloc_debug.so.0", "PYTHONMALLOC": "malloc"}


class Meter(Protocol):
    """Counts from ``begin`` to ``end``."""

    def begin(self, window: Path) -> None: ...

    def end(self, window: Path, rows: int) -> None: ...


class Calls:
    """Calls of Python functions (a coroutine's each step is one) and of C functions, by name, of all threads.

    A thread that starts later is counted from its start; the one that calls ``begin`` until it calls ``end``.
    """

    def __init__(self) -> None:
        self._threads: dict[int, Counter[Any]] = {}
        self._before: Counter[Any] = Counter()
        threading.setprofile(self._hook)

    def begin(self, window: Path) -> None:
        self._before = self._total()
        sys.setprofile(self._hook)

    def end(self, window: Path, rows: int) -> None:
        sys.setprofile(None)
        found = self._total() - self._before
        calls: Counter[str] = Counter()
        c_calls: Counter[str] = Counter()
        for what, count in found.items():
            if isinstance(what, str):
                c_calls[what] += count
            else:
                calls[f"{Path(what.co_filename).stem}.{what.co_qualname}"] += count
        save(window, rows, calls=calls, c_calls=c_calls)

    def _hook(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            what: object = frame.f_code
        elif event == "c_call":
            what = argument.__qualname__
        else:
            return
        # A counter a thread: adding to a shared one is not atomic.
        counter = self._threads.get(threading.get_ident())
        if counter is None:
            counter = self._threads.setdefault(threading.get_ident(), Counter())
        counter[what] += 1

    def _total(self) -> Counter[Any]:
        return sum((counter.copy() for counter in list(self._threads.values())), Counter())


class Allocations:
    """Blocks that malloc gave out, by caller: glibc's own tracer, with Python's allocators set to malloc.

    The process must be started with ``ALLOCATION_ENVIRONMENT``.
    """

    def __init__(self) -> None:
        self._start, self._stop = _tracer()

    def begin(self, window: Path) -> None:
        os.environ["MALLOC_TRACE"] = str(window.with_suffix(".malloc"))
        self._start()

    def end(self, window: Path, rows: int) -> None:
        self._stop()
        found: Counter[str] = Counter()
        with window.with_suffix(".malloc").open(errors="replace") as lines:
            for line in lines:
                # "@ LIBRARY:(FUNCTION+OFFSET)[ADDRESS] + BLOCK SIZE"; "-" is a free, "<" and ">" are a realloc
                words = line.split()
                if len(words) == 5 and words[2] == "+":
                    found[words[1].rpartition("/")[2].partition("[")[0]] += 1
        save(window, rows, allocations=found)


class SystemCalls:
    """Marks for the log of strace, under which the process must be started."""

    def begin(self, window: Path) -> None:
        os.access(f"begin {window.name}", os.F_OK)

    def end(self, window: Path, rows: int) -> None:
        os.access(f"end {window.name} {rows}", os.F_OK)


class Nothing:
    """Counts nothing: for the other end of what is measured."""

    def begin(self, window: Path) -> None:
        pass

    def end(self, window: Path, rows: int) -> None:
        pass


METERS: dict[str, Callable[[], Meter]] = {
    "calls": Calls,
    "allocations": Allocations,
    "system_calls": SystemCalls,
    "nothing": Nothing,
}


def save(window: Path, rows: int, **found: Counter[str]) -> None:
    window.with_suffix(".json").write_text(json.dumps({"rows": rows, **found}))


def _tracer() -> tuple[Any, Any]:
    """glibc's ``mtrace`` and ``muntrace``.

    The functions of these names in libc itself do nothing, and those in the library that does the work have a version
    that is not the default, which is glibc's first on this machine: 2.2.5 on x86-64, 2.17 on AArch64.
    """
    library, libc = ctypes.CDLL("libc_malloc_debug.so.0"), ctypes.CDLL(None)
    libc.dlvsym.restype = ctypes.c_void_p
    libc.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    for version in (b"GLIBC_2.2.5", b"GLIBC_2.17"):
        found = [libc.dlvsym(library._handle, name, version) for name in (b"mtrace", b"muntrace")]
        if all(found):
            start, stop = (ctypes.CFUNCTYPE(None)(address) for address in found)
            return start, stop
    raise OSError("libc_malloc_debug.so.0 has no mtrace of a version that is known here")


@contextlib.contextmanager
def phases_metered(meter: Meter, window: Callable[[], Path]) -> Iterator[None]:
    """Measure each phase that runs within, as ``window()``; if several have the same name, the last counts.

    (A remote run begins with a short probe of the server.)
    """
    begin, give_up = Answers.begin, Answers.give_up
    opened: list[Answers] = []

    def begin_metered(self: Answers, *arguments: Any) -> None:
        begin(self, *arguments)
        opened.append(self)
        meter.begin(window())

    def give_up_metered(self: Answers) -> None:
        if self in opened:  # the run calls this again when all is over
            meter.end(window(), self.issued)
            opened.remove(self)
            if self.answered != self.issued or self.faults.failed or self.faults.refused:
                raise AssertionError(f"{self.answered} of {self.issued} answered; {self.faults}")
        give_up(self)

    with patch.object(Answers, "begin", begin_metered), patch.object(Answers, "give_up", give_up_metered):
        yield


def run(words: list[str]) -> None:
    """One run of the command line.  Its output is shown only if it fails."""
    text = io.StringIO()
    # The files of a result would take longer than all the rest, and so would a probe of the server's speed.
    with contextlib.ExitStack() as changed:
        changed.enter_context(patch.object(directory, "save"))
        changed.enter_context(patch.object(probe, "_PROBE_S", 0.01))
        changed.enter_context(contextlib.redirect_stdout(text))
        changed.enter_context(contextlib.redirect_stderr(text))
        status = main(words)
    if status not in (0, 1):  # a run this short is INVALID
        raise RuntimeError(text.getvalue())


def runs(meter: Meter, folder: Path, commands: list[list[str]]) -> None:
    for number, words in enumerate(commands):
        with phases_metered(meter, partial(_window, folder, number)):
            run(words)


def runs_of_workers(folder: Path, meter: str, commands: list[list[str]]) -> None:
    """Each worker is a metered process; this process is not metered."""
    for number, words in enumerate(commands):
        with patch.object(module_process, "command", lambda _, at=number: command(meter, folder, "worker", str(at))):
            run(words)


def worker(meter: Meter, folder: Path, number: int) -> None:
    with patch.object(probe, "_PROBE_S", 0.01), phases_metered(meter, partial(_window, folder, number)):
        generator.main()


def served(meter: Meter, folder: Path, words: list[str]) -> None:
    """``begin NUMBER`` on the input begins a window, ``end NUMBER ROWS`` ends it; each is answered by a line."""

    def listen() -> None:
        sys.setprofile(None)
        for line in sys.stdin:
            what, number, *rows = line.split()
            if what == "begin":
                meter.begin(_window(folder, int(number)))
            else:
                meter.end(_window(folder, int(number)), int(rows[0]))
            print("done", flush=True)

    threading.Thread(target=listen, daemon=True).start()
    sys.setprofile(threading.getprofile())  # this thread's work is counted, and the listener's is not
    main(words)


def command(meter: str, folder: Path, role: str, words: str) -> list[str]:
    """The command of a metered process."""
    start = [sys.executable, "-P", "-m", "tests.guards.metered", meter, str(folder), role, words]
    if meter == "allocations":
        return ["env", *(f"{name}={value}" for name, value in ALLOCATION_ENVIRONMENT.items()), *start]
    if meter == "system_calls":
        descriptor, log = tempfile.mkstemp(".strace", dir=folder)
        os.close(descriptor)
        return ["strace", "-f", "-o", log, *start]
    return start


def _window(folder: Path, number: int) -> Path:
    return folder / f"{number}-{os.getpid()}"


def program() -> None:
    name, path, role, text = sys.argv[1:]
    folder, words = Path(path), json.loads(text)
    if role == "runs_of_workers":
        runs_of_workers(folder, *words)
        return
    meter = METERS[name]()
    if role == "worker":
        worker(meter, folder, words)
    elif role == "served":
        served(meter, folder, words)
    else:
        runs(meter, folder, words)


if __name__ == "__main__":
    program()
