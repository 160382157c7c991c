"""The generators of one host, and what a driver asks of any host, this one or another.

Knows children and this host's clock; must not know other hosts, nor how a driver reaches this one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Protocol

from drumfire.bench.fleet.child import Child, Part, Sighting
from drumfire.bench.fleet.clock import OURS, Clock
from drumfire.bench.fleet.plan import Plan


class Crew(Protocol):
    """All generators of a host.  Nothing here waits for long but ``launch``, ``collect`` and ``close``."""

    name: str
    plans: Sequence[Plan]
    clock: Clock
    """The host's wall clock beside the driver's."""

    def launch(self) -> None:
        """Start the generators.  They get ready by themselves."""

    def look(self) -> list[Sighting]:
        """Each generator as it was last seen."""

    def begin(self, unix_ns: int) -> None:
        """The phase that all are ready for begins at this time of the driver's wall clock."""

    def beat(self) -> None:
        """A sign of life, to be passed on to the generators."""

    def stop(self, reason: str) -> None:
        """End the run in good order."""

    def kill(self, part: int) -> None:
        """End one generator, at once."""

    def collect(self, number: int) -> list[Part]:
        """What each generator has of a phase.  Left out is who can not be asked any more."""

    def close(self) -> None:
        """End what still runs."""


class LocalCrew:
    """The generators of this host."""

    def __init__(self, name: str, plans: Sequence[Plan], phase_rows: Sequence[int]) -> None:
        """``phase_rows``: the whole run's first row of each phase, and the row after its last."""
        self.name, self.plans, self.clock = name, plans, OURS
        self._phase_rows = phase_rows
        self._children: list[Child] = []

    def launch(self) -> None:
        for plan in self.plans:
            self._children.append(Child(plan))

    def look(self) -> list[Sighting]:
        return [child.look() for child in self._children]

    def begin(self, unix_ns: int) -> None:
        # Affinity is set now, when all threads that do not issue have been started.
        cores = cores_for(len(self._children), sorted(os.sched_getaffinity(0)))
        for child, core in zip(self._children, cores, strict=False):
            child.pin(core)
        at_ns = unix_ns - time.time_ns() + time.monotonic_ns()
        for child in self._children:
            child.begin(at_ns)

    def beat(self) -> None:
        for child in self._children:
            child.beat()

    def stop(self, reason: str) -> None:
        for child in self._children:
            child.stop(reason)

    def kill(self, part: int) -> None:
        for child in self._children:
            if child.plan.part == part:
                child.kill()

    def collect(self, number: int) -> list[Part]:
        first, last = self._phase_rows[number : number + 2]
        return [
            child.collect(number, child.plan.slice.count(first), child.plan.slice.count(last))
            for child in self._children
        ]

    def close(self) -> None:
        for child in self._children:
            child.hang_up()
        while self._children:
            self._children.pop().close()


def cores_for(generators: int, cores: Sequence[int]) -> list[int]:
    """A core for each generator where one is left for everything else; else none, and the system shares them out."""
    return list(cores[1 : generators + 1]) if len(cores) > generators else []
