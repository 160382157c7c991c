"""The live view of a run, in a process of its own that maps the run's table and draws it.

Watching costs the run nothing: the view only reads, sleeps most of the time, and takes processor time that nobody
else wants.  ``Dashboard`` is the run's side; ``python -m drumfire.bench.view.dashboard`` is the view's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Any, Literal, TextIO

from rich.console import Console

from drumfire.bench.view import process
from drumfire.bench.view.history import History
from drumfire.bench.view.screen import draw, plain_line
from drumfire.bench.view.servers import ReadFigures, follow
from drumfire.bench.watch import ViewPlan, Watch
from drumfire.loadgen.record import Record
from drumfire.loadgen.run import Test
from drumfire.loadgen.system import InProcesses
from drumfire.sut import module_process

REFRESH_S = 0.33
_READY_PATIENCE_S = 5.0
_END_PATIENCE_S = 2.0
FIRST_LINE_S = 2.0
_STDIN = 0


class Dashboard:
    """Shows ``test`` while it runs: ``with Dashboard(...): run``.  A view that fails never hurts the run.

    ``plain``: print a line from time to time, without escape codes, in place of a screen.  ``readings``: the
    descriptor of a sampler's readings, where the run has one.  ``probes``: the loads that a search has tried, and
    whether each passed.
    """

    module = "drumfire.bench.view.dashboard"
    """The module that the view's process runs."""

    def __init__(
        self,
        test: Test,
        title: str,
        *,
        plain: bool,
        stream: Literal["stdout", "stderr"],
        readings: int | None = None,
        probes: Sequence[tuple[float, bool]] = (),
    ) -> None:
        self._fd = test.record.fd
        pids = test.system.pids if isinstance(test.system, InProcesses) else ()
        self._view = {"layout": test.record.layout, "fd": self._fd, "plain": plain, "stream": stream}
        self._view |= {"readings": readings, "plan": asdict(ViewPlan.of(test.plan, title, probes, pids))}
        self._readings = [] if readings is None else [readings]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Dashboard:
        """Start the view and wait until it is ready, so that its start does not disturb the run."""
        ready, ready_end = os.pipe()
        try:
            self._process = self._start(ready_end)
        except OSError as error:
            print(f"no live view: {error}", file=sys.stderr)
        finally:
            os.close(ready_end)
        wait([ready], _READY_PATIENCE_S)  # readable when the view is ready, or has ended
        os.close(ready)
        return self

    def __exit__(self, *_: object) -> None:
        # The view ends when its input does: when we close it, or when this process ends.
        if self._process is not None:
            module_process.end(self._process, _END_PATIENCE_S)

    def _start(self, ready: int) -> subprocess.Popen[bytes]:
        started = module_process.start(self.module, pass_fds=[self._fd, ready, *self._readings])
        # Not as an argument: every user can list the arguments of processes, and headers may hold tokens.
        assert started.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and has printed why
            started.stdin.write(json.dumps(self._view | {"ready": ready}).encode() + b"\n")
        return started


def main() -> None:
    view = json.loads(sys.stdin.buffer.readline())
    process.settle(idle=True)
    plan = ViewPlan(**view["plan"])
    watch = Watch(Record.attach(view["fd"], view["layout"]), plan)
    show = _show_lines if view["plain"] else _show_screen
    show(plan, watch, follow(view["readings"]), stream_of(view), view["ready"])


def stream_of(view: Mapping[str, Any]) -> TextIO:
    """The stream to draw on; it prints "?" for letters that its encoding does not have."""
    stream = sys.stderr if view["stream"] == "stderr" else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def _show_screen(plan: ViewPlan, watch: Watch, figures: ReadFigures, stream: TextIO, ready: int) -> None:
    console, history = Console(file=stream, highlight=False), History()
    with process.Screen(console) as screen:
        while not (snapshot := watch.look(time.monotonic_ns())).done:
            history.add(snapshot)
            width, height = console.size
            screen.draw(draw(plan, snapshot, width, figures(), history, height - 1))
            ready = process.say_ready(ready)
            if not _sleep(REFRESH_S):
                return


def _show_lines(plan: ViewPlan, watch: Watch, figures: ReadFigures, stream: TextIO, ready: int) -> None:
    began_ns = time.monotonic_ns()
    line_s = FIRST_LINE_S
    watch.look(began_ns)
    process.say_ready(ready)
    while _sleep(REFRESH_S):
        now_ns = time.monotonic_ns()
        snapshot = watch.look(now_ns)
        if snapshot.done:
            return
        elapsed_s = (now_ns - began_ns) * 1e-9
        if elapsed_s >= line_s:
            print(plain_line(plan, snapshot, figures()), file=stream, flush=True)
            line_s = next_line_s(elapsed_s)


def next_line_s(elapsed_s: float) -> float:
    """When the plain line after that at ``elapsed_s`` is due, s: every 5 s, and every 30 s after 2 minutes."""
    return elapsed_s + (5.0 if elapsed_s < 120.0 else 30.0)


def _sleep(seconds: float) -> bool:
    """False as soon as the run's process has closed its end, or has ended."""
    return not wait([_STDIN], seconds)


if __name__ == "__main__":
    module_process.run(main, "the live view")
