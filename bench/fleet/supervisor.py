"""A host's supervisor: the crew of that host, as a Ray actor that a driver on another host calls.

A plain class that does not import Ray; no request from a generator to the server passes through it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from drumfire.bench.fleet.assignment import Assignment
from drumfire.bench.fleet.child import Part, Sighting
from drumfire.bench.fleet.crew import LocalCrew
from drumfire.loadgen.traffic import Phase

_SNAPSHOT_S = 0.25


class Supervisor:
    """A single instance on each host, called from several threads: ``watch`` runs while other methods are called."""

    def __init__(self) -> None:
        self._crew: LocalCrew | None = None
        self._over = threading.Event()

    def now(self) -> int:
        """This host's wall clock, ns."""
        return time.time_ns()

    def launch(self, name: str, assignments: Sequence[Assignment], traffic: Sequence[Sequence[Phase]]) -> None:
        self._crew = LocalCrew(name, assignments, traffic)
        self._crew.launch()

    def watch(self) -> Iterator[list[Sighting]]:
        """The state of the generators, four times a second, until ``close``."""
        while not self._over.wait(_SNAPSHOT_S):
            yield self._of_here.look()

    def begin(self, unix_ns: int) -> None:
        """Begin a phase at this time of this host's wall clock, ns."""
        self._of_here.begin(unix_ns)

    def beat(self) -> None:
        if self._crew is not None:
            self._crew.beat()

    def stop(self, reason: str) -> None:
        self._of_here.stop(reason)

    def kill(self, part: int) -> None:
        self._of_here.kill(part)

    def collect(self, number: int) -> list[Part]:
        return self._of_here.collect(number)

    def close(self) -> None:
        self._over.set()
        if self._crew is not None:
            self._crew.close()

    @property
    def _of_here(self) -> LocalCrew:
        assert self._crew is not None, "call launch first"
        return self._crew
