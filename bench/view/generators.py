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
from typing import Any

import numpy as np

from drumfire.bench.fleet.child import Sighting
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.overview import Row, merged, rows_of
from drumfire.bench.view.dashboard import REFRESH_S, Dashboard, Display, View
from drumfire.bench.view.show import Form
from drumfire.bench.watch import Snapshot, Spread
from drumfire.loadgen.run import Test
from drumfire.sut import module_process

_STDIN = 0


class FleetView(Dashboard):
    """Shows ``test`` and each generator of the ``fleet`` that drives it: ``with FleetView(...): run``."""

    module = "drumfire.bench.view.generators"

    def __init__(self, test: Test, fleet: Fleet, title: str, display: Display, readings: int | None) -> None:
        super().__init__(test, title, display, readings=readings)
        self._fleet = fleet
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
) -> contextlib.AbstractContextManager[Dashboard | None]:
    """The live view of a run, or of the ``fleet`` that drives it, within the context; None where none is needed."""
    if not display.needed:
        return contextlib.nullcontext()
    if fleet is not None:
        return FleetView(test, fleet, title, display, readings)
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


def main() -> None:
    frames = _Frames()
    newest: Mapping[str, Any] = {}
    with contextlib.suppress(EOFError), View(frames.wait()) as shown:
        shown.ready()
        while True:
            newest = frames.wait(REFRESH_S, shown.form) or newest
            if newest:
                shown.show(_snapshot(newest["snapshot"]), [Row(**row) for row in newest["rows"]])


class _Frames:
    """Lines of JSON from standard input, of which only the newest matters."""

    def __init__(self) -> None:
        self._rest = b""

    def wait(self, seconds: float | None = None, form: Form | None = None) -> Mapping[str, Any]:
        """The newest line within ``seconds``; empty without a new line, and after keys, which ``form`` has acted on.

        Raises ``EOFError`` at the end.
        """
        until_s = None if seconds is None else time.monotonic() + seconds
        while True:
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0.0)
            readable = select.select([_STDIN, *([] if form is None else form.fds)], [], [], left_s)[0]
            if _STDIN not in readable:
                if readable and form is not None:
                    form.press()
                return {}
            data = os.read(_STDIN, 1 << 18)
            if not data:
                raise EOFError
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                frame: Mapping[str, Any] = json.loads(lines[-1])
                return frame


if __name__ == "__main__":
    module_process.run(main, "the live view")
