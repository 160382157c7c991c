"""The live view's process: it maps the run's table and draws it, apart from the process that is measured.

The run pays nothing for being watched: the view only reads, sleeps most of the time, and takes processor time that
nobody else wants.  ``Dashboard`` is the run's side; ``python -m drumfire.bench.view.dashboard`` is the view's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from typing import Literal, TextIO

from rich.console import Console
from rich.live import Live

from drumfire.bench.view.screen import draw, plain_line
from drumfire.bench.view.servers import ServerFigures, ServerPoll, ServerView
from drumfire.bench.view.watch import Plan, Watch
from drumfire.loadgen import Test
from drumfire.loadgen.record import Record
from drumfire.sut import module_process

_REFRESH_S = 0.33
_READY_PATIENCE_S = 5.0
_END_PATIENCE_S = 2.0
_FIRST_LINE_S = 2.0
_STDIN = 0


class Dashboard:
    """Shows ``test`` while it runs: ``with Dashboard(...): run``.  A view that fails never hurts the run.

    ``plain`` gives a line now and then, without escape codes, in place of a screen.  ``server``: the view asks these
    servers itself, so that the run does not.  ``probes``: the loads that a search has tried so far, and which passed.
    """

    module = "drumfire.bench.view.dashboard"
    """The view's side."""

    def __init__(
        self,
        test: Test,
        title: str,
        *,
        plain: bool,
        stream: Literal["stdout", "stderr"],
        server: ServerView | None = None,
        probes: Sequence[tuple[float, bool]] = (),
    ) -> None:
        self._fd = test.record.fd
        self._view = {"layout": test.record.layout, "plan": asdict(Plan.of(test, title, probes)), "fd": self._fd}
        self._view |= {"plain": plain, "stream": stream, "server": None if server is None else asdict(server)}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Dashboard:
        """Start the view and wait until it is ready, so that its start does not fall into the run."""
        ready, ready_end = os.pipe()
        try:
            self._process = self._start(ready_end)
        except OSError as error:
            print(f"no live view: {error}", file=sys.stderr)
        finally:
            os.close(ready_end)
        wait([ready], _READY_PATIENCE_S)  # readable when the view says so, or has ended
        os.close(ready)
        return self

    def __exit__(self, *_: object) -> None:
        # The view waits on its input, so that closing it ends the view, as does the end of this process.
        if self._process is not None:
            module_process.end(self._process, _END_PATIENCE_S)

    def _start(self, ready: int) -> subprocess.Popen[bytes]:
        process = module_process.start(self.module, pass_fds=[self._fd, ready])
        # Not as an argument: the list of processes shows those to everybody, and there may be tokens in it.
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, and has told why
            process.stdin.write(json.dumps(self._view | {"ready": ready}).encode() + b"\n")
        return process


def main() -> None:
    view = json.loads(sys.stdin.buffer.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # by way of the exits that put the cursor back
    step_back()
    stream = sys.stderr if view["stream"] == "stderr" else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal without these letters shows others in their place
    plan = Plan(**view["plan"])
    watch = Watch(Record.attach(view["fd"], view["layout"]), plan)
    poll = None
    if view["server"] is not None:
        poll = ServerPoll(ServerView(**view["server"]))
        poll.start()
    show = _show_lines if view["plain"] else _show_screen
    show(plan, watch, poll, stream, view["ready"])


def _show_screen(plan: Plan, watch: Watch, poll: ServerPoll | None, stream: TextIO, ready: int) -> None:
    console = Console(file=stream, highlight=False)
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        while True:
            snapshot = watch.look(time.monotonic_ns())
            if snapshot.done:
                return
            live.update(draw(plan, snapshot, console.width, _figures(poll)), refresh=True)
            ready = _tell(ready)
            if not _sleep(_REFRESH_S):
                return


def _show_lines(plan: Plan, watch: Watch, poll: ServerPoll | None, stream: TextIO, ready: int) -> None:
    began_ns = time.monotonic_ns()
    line_s = _FIRST_LINE_S
    watch.look(began_ns)
    _tell(ready)
    while _sleep(_REFRESH_S):
        now_ns = time.monotonic_ns()
        snapshot = watch.look(now_ns)
        if snapshot.done:
            return
        elapsed_s = (now_ns - began_ns) * 1e-9
        if elapsed_s >= line_s:
            print(plain_line(plan, snapshot, _figures(poll)), file=stream, flush=True)
            line_s = next_line_s(elapsed_s)


def _figures(poll: ServerPoll | None) -> ServerFigures | None:
    return None if poll is None else poll.figures


def next_line_s(elapsed_s: float) -> float:
    """When the next plain line is due after one at ``elapsed_s``: every 5 s, and every 30 s once 2 minutes are over."""
    return elapsed_s + (5.0 if elapsed_s < 120.0 else 30.0)


def _tell(ready: int) -> int:
    """Say once that the view is ready; gives what to tell the next time: nobody."""
    if ready >= 0:
        os.write(ready, b"r")
        os.close(ready)
    return -1


def _sleep(seconds: float) -> bool:
    """False as soon as the run's process has closed its end, or is gone."""
    return not wait([_STDIN], seconds)


def step_back() -> None:
    """Take only processor time that nobody else wants, where the system has that, and little elsewhere."""
    with contextlib.suppress(OSError):
        os.nice(10)
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    module_process.run(main, "the live view")
