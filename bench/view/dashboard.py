"""The live view of a run, in a process of its own that maps the run's table and draws it.

Watching costs the run nothing: the view only reads, sleeps most of the time, and takes processor time that nobody
else wants.  ``Dashboard`` is the run's side; ``python -m drumfire.bench.view.dashboard`` is the view's.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

from rich.console import Console

from drumfire.bench.view import exposure, process
from drumfire.bench.view.history import History
from drumfire.bench.view.screen import Look
from drumfire.bench.view.servers import follow
from drumfire.bench.view.show import Form, Lines, Show
from drumfire.bench.view.terminal import Saved
from drumfire.bench.watch import Snapshot, ViewPlan, Watch
from drumfire.loadgen.record import Gauge, Record
from drumfire.loadgen.run import Test
from drumfire.loadgen.system import InProcesses
from drumfire.sut import module_process

if TYPE_CHECKING:
    from drumfire.bench.fleet.overview import Row

REFRESH_S = 0.33
ENDED = "ended by the key q"
"""Why a run ends early that is ended in its view."""
_READY_PATIENCE_S = 5.0
_END_PATIENCE_S = 2.0
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
    """What is run, for Prometheus: label to value."""

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
        self._plan = plan = ViewPlan.of(test.plan, title, probes, pids)
        listening = None if display.listening is None else display.listening.fileno()
        self._display, self._gauges = display, test.record.gauges
        self._fds = [fd for fd in (test.record.fd, readings, listening) if fd is not None]
        self._view = {"layout": test.record.layout, "fd": test.record.fd, "form": display.form}
        self._view |= {"stream": display.stream, "readings": readings, "plan": asdict(plan)}
        self._view |= {"listening": listening, "labels": {"scenario": plan.scenario, **display.labels}}
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: Saved | None = None

    def __enter__(self) -> Self:
        """Start the view and wait until it is ready, so that its start does not disturb the run."""
        if self._display.form == "screen" and _has_keys():
            self._terminal = Saved(_STDIN)
        self._line, theirs = os.pipe()
        try:
            self._process = self._start(theirs)
        except OSError as error:
            print(f"no live view: {error}", file=sys.stderr)
        finally:
            os.close(theirs)
        wait([self._line], _READY_PATIENCE_S)  # readable when the view is ready, or has ended
        return self

    def __exit__(self, *_: object) -> None:
        # The view ends when its input does: when we close it, or when this process ends.
        if self._process is not None:
            module_process.end(self._process, _END_PATIENCE_S)
            if self._process.returncode:
                self._put_back()
        os.close(self._line)

    @contextlib.contextmanager
    def attended(self, end: Callable[[str], object]) -> Iterator[None]:
        """Heed the view's process, on the running loop: ``end`` gets the reason when its user ends the run.

        If the process is killed, the terminal is put back at once.
        """
        if self._process is None:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._line, self._heed, loop, end)
        try:
            yield
        finally:
            loop.remove_reader(self._line)

    def _heed(self, loop: asyncio.AbstractEventLoop, end: Callable[[str], object]) -> None:
        written = os.read(self._line, 4096)
        if process.END in written:
            end(ENDED)
        if not written:
            loop.remove_reader(self._line)
            if not self._gauges[Gauge.DONE]:
                self._put_back()
                print("warning: the live view's process has ended; the run goes on without it", file=sys.stderr)

    def _put_back(self) -> None:
        """Put the terminal back, where the view's process could not do so itself."""
        if self._display.form == "screen":
            print("\x1b[?25h", flush=True, file=stream_of(self._view))
        if self._terminal is not None:
            self._terminal.restore()

    def _start(self, line: int) -> subprocess.Popen[bytes]:
        # The view's standard input is our pipe, so keys come by a descriptor of their own.
        keys = None if self._terminal is None else os.dup(_STDIN)
        fds = [*self._fds, line, *([] if keys is None else [keys])]
        try:
            started = module_process.start(self.module, pass_fds=fds)
        finally:
            if keys is not None:
                os.close(keys)
        # Not as an argument: every user can list the arguments of processes, and headers may hold tokens.
        assert started.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and has printed why
            started.stdin.write(json.dumps(self._view | {"line": line, "keys": keys}).encode() + b"\n")
        return started


def _has_keys() -> bool:
    try:
        return os.isatty(_STDIN)
    except OSError:
        return False


def stream_of(view: Mapping[str, Any]) -> TextIO:
    """The stream to draw on; it prints "?" for letters that its encoding does not have."""
    stream = sys.stderr if view["stream"] == "stderr" else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


class View:
    """The view's side: draws the run, and serves its figures if they are wanted, in this process: ``with View(...)``.

    ``view``: what the run's side has written.
    """

    def __init__(self, view: Mapping[str, Any]) -> None:
        # Who asks for figures must not wait for idle time.
        process.settle(idle=view["listening"] is None)
        self.plan, self._line = ViewPlan(**view["plan"]), view["line"]
        self.exposed: exposure.Server | None = None
        if view["listening"] is not None:
            self.exposed = exposure.Server(view["listening"], self.plan, view["labels"])
        self.form = Form()
        if view["form"] == "lines":
            self.form = Lines(stream_of(view))
        elif view["form"] == "screen":
            console = Console(file=stream_of(view), highlight=False)
            self.form = Show(console, view["keys"], partial(process.write, self._line, process.END))
        self._servers, self._history = follow(view["readings"]), History()

    def __enter__(self) -> Self:
        self.form.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.form.__exit__()

    def ready(self) -> None:
        """Let the run begin, which waits for its view."""
        process.write(self._line, process.READY)

    def show(self, snapshot: Snapshot, rows: Sequence[Row] = ()) -> None:
        """Show the run, and a row for each of several generators."""
        if self.exposed is not None:
            self.exposed.show(snapshot)
        self._history.add(snapshot)
        self.form.show(Look(self.plan, snapshot, self._servers(), self._history, rows))


def main() -> None:
    view = json.loads(sys.stdin.buffer.readline())
    with View(view) as shown:
        watch = Watch(Record.attach(view["fd"], view["layout"]), shown.plan, every_row=shown.exposed is not None)
        period_s = REFRESH_S if shown.exposed is None else exposure.PERIOD_S
        shown.show(watch.look(time.monotonic_ns()))
        shown.ready()
        while _sleep(period_s, shown.form) and not (snapshot := watch.look(time.monotonic_ns())).done:
            shown.show(snapshot)


def _sleep(seconds: float, form: Form) -> bool:
    """False as soon as the run's process has closed its end, or has ended; keys are acted on at once."""
    until_s = time.monotonic() + seconds
    while True:
        readable = wait([_STDIN, *form.fds], max(until_s - time.monotonic(), 0.0))
        if _STDIN in readable or not readable:
            return not readable
        form.press()


if __name__ == "__main__":
    module_process.run(main, "the live view")
