"""The live view of several generators, in a process of its own as in ``dashboard``: frames in, a screen out.

``FleetView`` is the run's side, which sends frames; ``python -m`` runs the view's side, which draws the newest frame.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from rich.text import Text

from drumfire.bench.fleet.child import Sighting
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.overview import Row, merged, rows_of
from drumfire.bench.report import figures
from drumfire.bench.view import exposure, process
from drumfire.bench.view.dashboard import (
    FIRST_LINE_S,
    REFRESH_S,
    Dashboard,
    Display,
    begin,
    next_line_s,
    show_of,
    stream_of,
)
from drumfire.bench.view.history import History
from drumfire.bench.view.screen import Look, plain_line
from drumfire.bench.view.servers import ReadFigures, follow
from drumfire.bench.view.show import Show
from drumfire.bench.watch import Snapshot, Spread, ViewPlan
from drumfire.loadgen.results import LATE_NS
from drumfire.loadgen.run import Test
from drumfire.sut import module_process

_STDIN = 0
_NAME, _FIELD = 18, 12
"""Columns of a generator's name and of each figure."""
_HEADS = ("state", "rate", "p99 late", "heard", "in flight", "done")
_MOST_ROWS = 16
_STYLES = {"lost": "bold red", "stale": "yellow", "starting": "dim", "done": "dim"}


class FleetView(Dashboard):
    """Shows ``test`` and each generator of the ``fleet`` that drives it: ``with FleetView(...): run``."""

    module = "drumfire.bench.view.generators"

    def __init__(
        self,
        test: Test,
        fleet: Fleet,
        title: str,
        display: Display,
        *,
        readings: int | None = None,
    ) -> None:
        super().__init__(test, title, display, readings=readings)
        self._plan, self._fleet = ViewPlan.of(test.plan, title), fleet
        self._sent_s = 0.0
        self._unsent = b""
        fleet.on_look = self.show

    def show(self, sightings: Sequence[Sighting]) -> None:
        """Send a frame if the last one was ``REFRESH_S`` ago; never waits for the view."""
        now_s = time.monotonic()
        if now_s - self._sent_s < REFRESH_S or self._process is None:
            return
        self._sent_s = now_s
        if not self._unsent:
            snapshot = merged(self._plan, [one.snapshot for one in sightings])
            rows = rows_of(sightings, lambda one: self._fleet.names[one.part], self._fleet.state)
            self._unsent = _frame(snapshot, rows)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            os.set_blocking(self._process.stdin.fileno(), False)
            self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]


def watched(
    test: Test,
    title: str,
    display: Display,
    fleet: Fleet | None,
    readings: int | None,
    probes: Sequence[tuple[float, bool]],
) -> contextlib.AbstractContextManager[object]:
    """The live view of a run, whose process is there as long as the context is; of a ``fleet``, if one drives it."""
    if not display.needed:
        return contextlib.nullcontext()
    if fleet is not None:
        return FleetView(test, fleet, title, display, readings=readings)
    return Dashboard(test, title, display, readings=readings, probes=probes)


def _frame(snapshot: Snapshot, rows: Sequence[Row]) -> bytes:
    """A line of JSON; arrays become lists."""
    frame = {"snapshot": asdict(snapshot), "rows": [asdict(row) for row in rows]}
    return json.dumps(frame, default=np.ndarray.tolist).encode() + b"\n"


def _snapshot(plain: Mapping[str, Any]) -> Snapshot:
    def spread(one: Mapping[str, Any] | None) -> Spread | None:
        if one is None:
            return None
        return Spread(**{**one, "values": np.array(one["values"]), "counts": np.array(one["counts"])})

    spreads = {name: spread(plain[name]) for name in ("latency", "query_latency", "lateness", "sent")}
    return Snapshot(**{**plain, **spreads})


def draw_rows(rows: Sequence[Row], width: int) -> Text:
    """A line for each generator; of more than 16, those that are lost, stale or late.

    Figures for which ``width`` columns are too few are left out.
    """
    text = Text(no_wrap=True, overflow="crop")
    heads = [head for head in _HEADS if width > _NAME + _FIELD * (_HEADS.index(head) + 1)]
    text.append("\n" + "".ljust(_NAME) + "".join(head.ljust(_FIELD) for head in heads).rstrip() + "\n", "dim")
    shown = list(rows)
    if len(shown) > _MOST_ROWS:
        shown.sort(key=lambda row: (row.state not in ("lost", "stale"), -(row.late_p99_ns or 0)))
        shown = shown[:_MOST_ROWS]
    for row in shown:
        text.append(row.name[: _NAME - 1].ljust(_NAME))
        figure = {
            "state": (row.state, _STYLES.get(row.state, "green")),
            "rate": ("" if row.rate is None else figures.rate(row.rate), ""),
            "p99 late": (
                "" if row.late_p99_ns is None else figures.duration(row.late_p99_ns),
                "yellow" if (row.late_p99_ns or 0) > LATE_NS else "",
            ),
            "heard": (f"{figures.duration(row.silent_s * 1e9)} ago", ""),
            "in flight": (f"{row.in_flight:,}", ""),
            "done": (f"{row.answered:,}", ""),
        }
        for head in heads:
            text.append(figure[head][0].ljust(_FIELD), figure[head][1])
        text.append("\n")
    if len(rows) > len(shown):
        text.append(f"and {len(rows) - len(shown)} more\n", "dim")
    return text


def line_of_rows(rows: Sequence[Row]) -> str:
    """What a plain line adds: the generators that are lost or stale."""
    return "".join(f", {row.name} {row.state}" for row in rows if row.state in ("lost", "stale"))


def main() -> None:
    frames = _Frames()
    view = frames.wait(None)
    assert view is not None
    plan = ViewPlan(**view["plan"])
    exposed = begin(view, plan)
    servers = follow(view["readings"])
    process.say_ready(view["ready"])
    shows = {"screen": _show_screen, "lines": _show_lines, "nothing": _show_nothing}
    with contextlib.suppress(EOFError):
        shows[view["form"]](view, plan, _Sights(frames, exposed), servers)


class _Frames:
    """Lines of JSON from standard input, of which only the newest matters."""

    def __init__(self) -> None:
        self._rest = b""

    def wait(self, seconds: float | None, show: Show | None = None) -> Mapping[str, Any] | None:
        """The newest line within ``seconds``; None without a new line, and after keys, which ``show`` has acted on.

        Raises ``EOFError`` at the end.
        """
        until_s = None if seconds is None else time.monotonic() + seconds
        while True:
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0.0)
            readable = select.select([_STDIN, *([] if show is None else show.fds)], [], [], left_s)[0]
            if _STDIN not in readable:
                if readable and show is not None:
                    show.press()
                return None
            data = os.read(_STDIN, 1 << 18)
            if not data:
                raise EOFError
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                frame: Mapping[str, Any] = json.loads(lines[-1])
                return frame


class _Sights:
    """What the frames tell: the whole run, and each generator."""

    def __init__(self, frames: _Frames, exposed: exposure.Server | None) -> None:
        self._frames, self._exposed = frames, exposed

    def wait(self, seconds: float | None, show: Show | None = None) -> tuple[Snapshot, list[Row]] | None:
        """As ``_Frames.wait``."""
        frame = self._frames.wait(seconds, show)
        if frame is None:
            return None
        snapshot = _snapshot(frame["snapshot"])
        if self._exposed is not None:
            self._exposed.show(snapshot)
        return snapshot, [Row(**row) for row in frame["rows"]]


def _show_screen(view: Mapping[str, Any], plan: ViewPlan, sights: _Sights, servers: ReadFigures) -> None:
    history = History()
    with show_of(view) as show:
        while True:
            if (seen := sights.wait(None, show)) is not None:
                history.add(seen[0])
                show.show(Look(plan, seen[0], servers(), history), partial(draw_rows, seen[1]))


def _show_lines(view: Mapping[str, Any], plan: ViewPlan, sights: _Sights, servers: ReadFigures) -> None:
    began_s, line_s, stream = time.monotonic(), FIRST_LINE_S, stream_of(view)
    newest: tuple[Snapshot, list[Row]] | None = None
    while True:
        newest = sights.wait(REFRESH_S) or newest
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= line_s and newest is not None:
            print(plain_line(plan, newest[0], servers()) + line_of_rows(newest[1]), file=stream, flush=True)
            line_s = next_line_s(elapsed_s)


def _show_nothing(view: Mapping[str, Any], plan: ViewPlan, sights: _Sights, servers: ReadFigures) -> None:
    while True:
        sights.wait(None)


if __name__ == "__main__":
    module_process.run(main, "the live view")
