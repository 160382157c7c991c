"""The live view of a run, in a process of its own that maps the run's table and draws it.

Watching costs the run nothing: the view only reads, sleeps most of the time, and takes processor time that nobody
else wants.  ``Dashboard`` is the run's side; ``python -m drumfire.bench.view.dashboard`` is the view's.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import Any, Literal, TextIO

from rich.console import Console

from drumfire.bench.view import exposure, process
from drumfire.bench.view.history import History
from drumfire.bench.view.screen import Look, plain_line
from drumfire.bench.view.servers import ReadFigures, follow
from drumfire.bench.view.show import Show, ending
from drumfire.bench.view.terminal import Saved
from drumfire.bench.watch import Snapshot, ViewPlan, Watch
from drumfire.loadgen.record import Record
from drumfire.loadgen.run import Test
from drumfire.loadgen.system import InProcesses
from drumfire.sut import module_process

REFRESH_S = 0.33
_READY_PATIENCE_S = 5.0
_END_PATIENCE_S = 2.0
FIRST_LINE_S = 2.0
_STDIN = 0


@dataclass(frozen=True)
class Display:
    """How a run is watched."""

    form: Literal["screen", "lines", "nothing"]
    """``lines``: print one from time to time, without escape codes, in place of a screen."""
    stream: Literal["stdout", "stderr"] = "stdout"
    listening: socket.socket | None = None
    """Where the run's figures are served for Prometheus, if they are."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What they say is run."""

    @classmethod
    def of(cls, listening: socket.socket | None, labels: Mapping[str, str], *, json: bool, hidden: bool) -> Display:
        lines = json or not sys.stdout.isatty()
        form: Literal["screen", "lines", "nothing"] = "nothing" if hidden else "lines" if lines else "screen"
        return cls(form, "stderr" if json else "stdout", listening, labels)

    @property
    def needed(self) -> bool:
        """Whether a view's process has anything to do."""
        return self.form != "nothing" or self.listening is not None


class Dashboard:
    """Shows ``test`` while it runs: ``with Dashboard(...): run``.  A view that fails never hurts the run.

    ``readings``: the descriptor of a sampler's readings, where the run has one.  ``probes``: the loads that a search
    has tried, and whether each passed.
    """

    module = "drumfire.bench.view.dashboard"
    """The module that the view's process runs."""

    def __init__(
        self,
        test: Test,
        title: str,
        display: Display,
        *,
        readings: int | None = None,
        probes: Sequence[tuple[float, bool]] = (),
    ) -> None:
        pids = test.system.pids if isinstance(test.system, InProcesses) else ()
        plan = ViewPlan.of(test.plan, title, probes, pids)
        listening = None if display.listening is None else display.listening.fileno()
        self._display = display
        self._fds = [fd for fd in (test.record.fd, readings, listening) if fd is not None]
        self._view = {"layout": test.record.layout, "fd": test.record.fd, "form": display.form}
        self._view |= {"stream": display.stream, "readings": readings, "plan": asdict(plan), "run": os.getpid()}
        self._view |= {"listening": listening, "labels": {"scenario": plan.scenario, **display.labels}}
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: Saved | None = None

    def __enter__(self) -> Dashboard:
        """Start the view and wait until it is ready, so that its start does not disturb the run."""
        if self._display.form == "screen" and _has_keys():
            self._terminal = Saved(_STDIN)
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
            if self._display.form == "screen" and self._process.returncode:  # it could not do so itself
                print("\x1b[?25h", end="", flush=True, file=stream_of(self._view))
        if self._terminal is not None:
            self._terminal.restore()

    def _start(self, ready: int) -> subprocess.Popen[bytes]:
        # The view's standard input is our pipe, so keys come by a descriptor of their own.
        keys = None if self._terminal is None else os.dup(_STDIN)
        fds = [*self._fds, ready, *([] if keys is None else [keys])]
        try:
            started = module_process.start(self.module, pass_fds=fds)
        finally:
            if keys is not None:
                os.close(keys)
        # Not as an argument: every user can list the arguments of processes, and headers may hold tokens.
        assert started.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and has printed why
            started.stdin.write(json.dumps(self._view | {"ready": ready, "keys": keys}).encode() + b"\n")
        return started


def _has_keys() -> bool:
    try:
        return os.isatty(_STDIN)
    except OSError:
        return False


def main() -> None:
    view = json.loads(sys.stdin.buffer.readline())
    plan = ViewPlan(**view["plan"])
    exposed = begin(view, plan)
    watch = Watch(Record.attach(view["fd"], view["layout"]), plan, every_row=exposed is not None)

    def look() -> Snapshot:
        snapshot = watch.look(time.monotonic_ns())
        if exposed is not None:
            exposed.show(snapshot)
        return snapshot

    shows = {"screen": _show_screen, "lines": _show_lines, "nothing": _show_nothing}
    period_s = REFRESH_S if exposed is None else exposure.PERIOD_S
    shows[view["form"]](view, plan, look, follow(view["readings"]), period_s)


def begin(view: Mapping[str, Any], plan: ViewPlan) -> exposure.Server | None:
    """Settle this process, and serve the run's figures if they are wanted; who asks must not wait for idle time."""
    process.settle(idle=view["listening"] is None)
    return None if view["listening"] is None else exposure.Server(view["listening"], plan, view["labels"])


def stream_of(view: Mapping[str, Any]) -> TextIO:
    """The stream to draw on; it prints "?" for letters that its encoding does not have."""
    stream = sys.stderr if view["stream"] == "stderr" else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def show_of(view: Mapping[str, Any]) -> Show:
    """The screen of a view, with its keys."""
    return Show(Console(file=stream_of(view), highlight=False), view["keys"], ending(view["run"]))


def _show_screen(
    view: Mapping[str, Any], plan: ViewPlan, look: Callable[[], Snapshot], servers: ReadFigures, period_s: float
) -> None:
    history, ready = History(), view["ready"]
    with show_of(view) as show:
        while not (snapshot := look()).done:
            history.add(snapshot)
            show.show(Look(plan, snapshot, servers(), history))
            ready = process.say_ready(ready)
            if not _sleep(period_s, show):
                return


def _show_lines(
    view: Mapping[str, Any], plan: ViewPlan, look: Callable[[], Snapshot], servers: ReadFigures, period_s: float
) -> None:
    began_s, line_s, stream = time.monotonic(), FIRST_LINE_S, stream_of(view)
    look()
    process.say_ready(view["ready"])
    while _sleep(period_s):
        snapshot = look()
        if snapshot.done:
            return
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= line_s:
            print(plain_line(plan, snapshot, servers()), file=stream, flush=True)
            line_s = next_line_s(elapsed_s)


def _show_nothing(
    view: Mapping[str, Any], plan: ViewPlan, look: Callable[[], Snapshot], servers: ReadFigures, period_s: float
) -> None:
    look()
    process.say_ready(view["ready"])
    while _sleep(period_s) and not look().done:
        pass


def next_line_s(elapsed_s: float) -> float:
    """When the plain line after that at ``elapsed_s`` is due, s: every 5 s, and every 30 s after 2 minutes."""
    return elapsed_s + (5.0 if elapsed_s < 120.0 else 30.0)


def _sleep(seconds: float, show: Show | None = None) -> bool:
    """False as soon as the run's process has closed its end, or has ended; keys are acted on at once."""
    until_s = time.monotonic() + seconds
    while True:
        keys = [] if show is None else show.fds
        readable = wait([_STDIN, *keys], max(until_s - time.monotonic(), 0.0))
        if _STDIN in readable or not readable:
            return not readable
        assert show is not None
        show.press()


if __name__ == "__main__":
    module_process.run(main, "the live view")
