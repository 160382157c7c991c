"""The live view of several generators, a process of its own like ``dashboard``: frames in, a screen out.

``FleetView`` is the run's side, which sends a frame now and then; ``python -m`` is the view's, which draws the newest.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TextIO

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from drumfire.bench.fleet.child import Sighting
from drumfire.bench.fleet.overview import Row, merged, rows_of
from drumfire.bench.fleet.run import FleetTest
from drumfire.bench.report import figures
from drumfire.bench.view.dashboard import Dashboard, next_line_s, step_back
from drumfire.bench.view.screen import draw, plain_line
from drumfire.bench.view.servers import ServerPoll, ServerView
from drumfire.bench.view.watch import Plan, Snapshot, Spread
from drumfire.loadgen.results import LATE_NS
from drumfire.sut import module_process

_FRAME_S = 0.33
_FIRST_LINE_S = 2.0
_STDIN = 0
_NAME, _FIELD = 18, 12
"""Columns of a generator's name and of each figure."""
_MOST_ROWS = 16
_STYLES = {"lost": "bold red", "stale": "yellow", "starting": "dim", "done": "dim"}


class FleetView(Dashboard):
    """Shows ``test``, whose generators tell how they are: ``with FleetView(...): run``."""

    module = "drumfire.bench.view.generators"

    def __init__(
        self,
        test: FleetTest,
        title: str,
        *,
        plain: bool,
        stream: Literal["stdout", "stderr"],
        server: ServerView | None = None,
    ) -> None:
        super().__init__(test, title, plain=plain, stream=stream, server=server)
        self._plan, self._fleet = Plan.of(test, title), test.fleet
        self._sent_s = 0.0
        self._unsent = b""
        test.fleet.on_look = self.show

    def show(self, sightings: Sequence[Sighting]) -> None:
        """Send a frame if it is time for one; never waits for the view."""
        now_s = time.monotonic()
        if now_s - self._sent_s < _FRAME_S or self._process is None:
            return
        self._sent_s = now_s
        if not self._unsent:
            snapshot = merged(self._plan, [one.snapshot for one in sightings])
            rows = rows_of(sightings, lambda one: self._fleet.names[one.part], self._fleet.state)
            frame = {"snapshot": _plain(snapshot), "rows": [asdict(row) for row in rows]}
            self._unsent = json.dumps(frame).encode() + b"\n"
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            os.set_blocking(self._process.stdin.fileno(), False)
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    """As JSON takes it: histograms with only what occurred."""

    def spread(one: Spread | None) -> dict[str, Any] | None:
        return None if one is None else asdict(one) | {"values": one.values.tolist(), "counts": one.counts.tolist()}

    found = {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}
    return found | {"latency": spread(snapshot.latency), "lateness": spread(snapshot.lateness)}


def _snapshot(told: Mapping[str, Any]) -> Snapshot:
    def spread(one: Mapping[str, Any] | None) -> Spread | None:
        if one is None:
            return None
        return Spread(**{**one, "values": np.array(one["values"]), "counts": np.array(one["counts"])})

    return Snapshot(**{**told, "latency": spread(told["latency"]), "lateness": spread(told["lateness"])})


def draw_rows(rows: Sequence[Row]) -> Text:
    """A line for each generator; where they are many, those that need a look first."""
    text = Text(no_wrap=True, overflow="crop")
    heads = ("state", "rate", "p99 late", "in flight", "done", "heard")
    text.append("\n" + "".ljust(_NAME) + "".join(head.ljust(_FIELD) for head in heads).rstrip() + "\n", "dim")
    shown = list(rows)
    if len(shown) > _MOST_ROWS:
        shown.sort(key=lambda row: (row.state not in ("lost", "stale"), -(row.late_p99_ns or 0)))
        shown = shown[:_MOST_ROWS]
    for row in shown:
        text.append(row.name[: _NAME - 1].ljust(_NAME))
        text.append(row.state.ljust(_FIELD), _STYLES.get(row.state, "green"))
        late = "" if row.late_p99_ns is None else figures.duration(row.late_p99_ns)
        text.append(("" if row.rate is None else figures.rate(row.rate)).ljust(_FIELD))
        text.append(late.ljust(_FIELD), "yellow" if (row.late_p99_ns or 0) > LATE_NS else "")
        text.append(f"{row.in_flight:,}".ljust(_FIELD))
        text.append(f"{row.answered:,}".ljust(_FIELD))
        text.append(f"{figures.duration(row.silent_s * 1e9)} ago\n")
    if len(rows) > len(shown):
        text.append(f"and {len(rows) - len(shown)} more\n", "dim")
    return text


def line_of_rows(rows: Sequence[Row]) -> str:
    """What a plain line adds: who is not as they should be."""
    odd = [f"{row.name} {row.state}" for row in rows if row.state in ("lost", "stale")]
    return "".join(f", {one}" for one in odd)


def main() -> None:
    frames = _Frames()
    told = frames.wait(None)
    assert told is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # by way of the exits that put the cursor back
    step_back()
    stream = sys.stderr if told["stream"] == "stderr" else sys.stdout
    plan = Plan(**told["plan"])
    poll = None
    if told["server"] is not None:
        poll = ServerPoll(ServerView(**told["server"]))
        poll.start()
    with contextlib.suppress(BrokenPipeError):  # the run was ended meanwhile, as the end of its frames will tell
        os.write(told["ready"], b"r")
    os.close(told["ready"])
    (_show_lines if told["plain"] else _show_screen)(plan, frames, poll, stream)


class _Frames:
    """Lines of JSON from standard input, of which only the newest matters."""

    def __init__(self) -> None:
        self._heard = b""

    def wait(self, seconds: float | None) -> Mapping[str, Any] | None:
        """The newest that came, at the latest after ``seconds``; None for none.  Raises ``EOFError`` at the end."""
        until_s = None if seconds is None else time.monotonic() + seconds
        while True:
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0.0)
            if not select.select([_STDIN], [], [], left_s)[0]:
                return None
            data = os.read(_STDIN, 1 << 18)
            if not data:
                raise EOFError
            *lines, self._heard = (self._heard + data).split(b"\n")
            if lines:
                frame: Mapping[str, Any] = json.loads(lines[-1])
                return frame


def _show_screen(plan: Plan, frames: _Frames, poll: ServerPoll | None, stream: TextIO) -> None:
    console = Console(file=stream, highlight=False)
    with (
        Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as live,
        contextlib.suppress(EOFError),
    ):
        while True:
            frame = frames.wait(None)
            if frame is None:
                continue
            text = draw(plan, _snapshot(frame["snapshot"]), console.width, None if poll is None else poll.figures)
            live.update(text + draw_rows([Row(**row) for row in frame["rows"]]), refresh=True)


def _show_lines(plan: Plan, frames: _Frames, poll: ServerPoll | None, stream: TextIO) -> None:
    began_s = time.monotonic()
    line_s = _FIRST_LINE_S
    newest: Mapping[str, Any] | None = None
    with contextlib.suppress(EOFError):
        while True:
            newest = frames.wait(_FRAME_S) or newest
            elapsed_s = time.monotonic() - began_s
            if elapsed_s >= line_s and newest is not None:
                line = plain_line(plan, _snapshot(newest["snapshot"]), None if poll is None else poll.figures)
                print(line + line_of_rows([Row(**row) for row in newest["rows"]]), file=stream, flush=True)
                line_s = next_line_s(elapsed_s)


if __name__ == "__main__":
    module_process.run(main, "the live view")
