"""The generators of a host, as a driver uses them: ``Crew`` for any host, ``LocalCrew`` for this host.

Does not depend on other hosts, or on how a driver reaches this host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from drumfire.bench.fleet.assignment import Assignment
from drumfire.bench.fleet.child import Child, Part, Sighting
from drumfire.bench.fleet.clock import OURS, Clock
from drumfire.loadgen.traffic import Phase


class Crew(Protocol):
    """All generators of a host.  Only ``launch``, ``collect`` and ``close`` may wait for long."""

    name: str
    assignments: Sequence[Assignment]
    clock: Clock
    """The host's wall clock relative to the driver's."""

    @property
    def children(self) -> Sequence[Child]:
        """The generators that were launched, where their tables are in this machine's memory."""

    def launch(self) -> None:
        """Start the generators, which then get ready by themselves."""

    def look(self) -> list[Sighting]:
        """The last known state of each generator."""

    def begin(self, unix_ns: int) -> None:
        """Begin the phase that all are ready for at this time of the driver's wall clock, ns."""

    def beat(self) -> None:
        """Pass a sign of life on to the generators."""

    def stop(self, reason: str) -> None:
        """Have the generators end the run in order."""

    def kill(self, part: int) -> None:
        """End a generator at once."""

    def collect(self, number: int) -> list[Part]:
        """What each generator did in a phase; those that can no longer be asked are left out."""

    def close(self) -> None:
        """End the generators that still run."""


class LocalCrew:
    """The generators of this host."""

    def __init__(self, name: str, assignments: Sequence[Assignment], traffic: Iterable[Sequence[Phase]]) -> None:
        """``traffic``: the phases of each assignment's part, each taken when its generator starts."""
        self.name, self.assignments, self.clock = name, assignments, OURS
        self._traffic = traffic
        self.children: list[Child] = []

    def launch(self) -> None:
        for assignment, phases in zip(self.assignments, self._traffic, strict=True):
            self.children.append(Child(assignment, phases))

    def look(self) -> list[Sighting]:
        return [child.look() for child in self.children]

    def begin(self, unix_ns: int) -> None:
        # Only now: threads that were started before, which do not issue, keep all cores.
        cores = cores_for(len(self.children), sorted(os.sched_getaffinity(0)))
        for child, core in zip(self.children, cores, strict=False):
            child.pin(core)
        at_ns = unix_ns - time.time_ns() + time.monotonic_ns()
        for child in self.children:
            child.begin(at_ns)

    def beat(self) -> None:
        for child in self.children:
            child.beat()

    def stop(self, reason: str) -> None:
        for child in self.children:
            child.stop(reason)

    def kill(self, part: int) -> None:
        for child in self.children:
            if child.assignment.slice.part == part:
                child.kill()

    def collect(self, number: int) -> list[Part]:
        return [child.collect(number) for child in self.children]

    def close(self) -> None:
        for child in self.children:
            child.hang_up()
        while self.children:
            self.children.pop().close()


def cores_for(generators: int, cores: Sequence[int]) -> list[int]:
    """A core for each generator where at least one more is left; else none, and the system schedules them."""
    return list(cores[1 : generators + 1]) if len(cores) > generators else []
