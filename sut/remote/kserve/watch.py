"""A remote system that asks its servers before and after each run what they did in between.

Decides when to ask.  Does not interpret the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.system import Answer, SystemUnderTest
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.kserve.reconciliation import ClientSide, reconcile
from drumfire.sut.remote.kserve.statistics import ServerWatch


class RemoteClient(SystemUnderTest, Protocol):
    """A system under test that counts its servers' answers."""

    @property
    def served(self) -> Mapping[Endpoint, int]:
        """Number of requests that each server answered with outputs."""

    @property
    def happened(self) -> Mapping[str, int]:
        """Events of connections, with their counts."""


class WatchedSystem:
    """``system`` with a watch on each of its servers; issuing rows costs no more."""

    columns: Mapping[str, npt.DTypeLike]
    answer: Answer | None = None

    def __init__(self, system: RemoteClient, watches: Mapping[Endpoint, ServerWatch]) -> None:
        self.name, self.columns = system.name, system.columns
        self.issue, self.flush = system.issue, system.flush
        self._system, self._watches = system, watches
        self._answers: Answers
        self._opened = False

    async def open(self, answers: Answers) -> None:
        self._answers = answers
        await self._system.open(answers)
        await asyncio.gather(*(watch.begin() for watch in self._watches.values()))
        self._opened = True

    async def close(self) -> None:
        await self._system.close()  # first: replies after the end of a run do not count
        if self._opened:
            served = self._system.served
            await asyncio.gather(*(watch.end(served[endpoint]) for endpoint, watch in self._watches.items()))

    def report(self, phases: list[slice]) -> dict[str, Any] | None:
        """The servers' reports, and their reconciliation with our columns over the rows issued in each phase.

        None if the run ended before it began.
        """
        if not self._opened:
            return None
        reports = [watch.report() for watch in self._watches.values()]
        client = ClientSide.of(
            self._answers.columns,
            phases,
            requests=sum(self._system.served.values()),
            failed_requests=self._answers.faults.failed.total(),
        )
        return {"servers": reports, "reconciliation": reconcile(reports, client), "events": dict(self._system.happened)}
