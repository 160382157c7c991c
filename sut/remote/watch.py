"""Asks a run's servers before and after it, warm-up aside, what they did in between.

Decides when to ask.  Does not depend on what is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import SIZE, Column, RowArray, Status
from drumfire.loadgen.series import Series
from drumfire.loadgen.system import Answer, SystemUnderTest
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.samples import Int64Array


class Counting(Protocol):
    """Counts the answers of servers."""

    @property
    def served(self) -> Mapping[Endpoint, int]:
        """Number of requests that each server answered with outputs."""

    @property
    def happened(self) -> Mapping[str, int]:
        """Events of connections, with their counts."""


class RemoteClient(SystemUnderTest, Counting, Protocol):
    """A system under test that counts its servers' answers."""


class RunWatch(Protocol):
    """Asks the servers of a run."""

    async def begin(self) -> None:
        """Called before the run, when no request of ours is under way."""

    async def end(self, served: Mapping[Endpoint, int]) -> None:
        """Called after the run, in which each server answered that many requests.  Never raises."""

    def report(
        self,
        columns: Mapping[str, Column],
        phases: Sequence[slice | RowArray],
        series: Sequence[Series],
        notes: Sequence[str],
        *,
        requests: int,
        failed_requests: int,
    ) -> dict[str, Any]:
        """``servers`` (a report of each) and ``reconciliation`` (with ours, over the rows issued in each phase).

        JSON-ready.  ``series``: of the run's meters, with the sampler's ``notes``.  ``requests``: the number answered
        with outputs.
        """


_TOGETHER = "a request failed with all of its samples: --max-batchsize 1 tells which is at fault"


class MeasuredWindow:
    """The measured part of a run, and what its servers say of it, if they can be asked."""

    def __init__(self, watch: RunWatch | None = None, batch_size: int = 1) -> None:
        """``batch_size``: most samples in a request."""
        self._watch, self._batch_size = watch, batch_size
        self._client: Counting | None = None
        """Once the window has begun."""
        self._answers: Answers
        self._before: Counter[Endpoint] = Counter()
        """Requests that each server answered in the warm-up."""

    async def begin(self, client: Counting, answers: Answers) -> None:
        """``client`` has warmed up and sends the run's requests, whose answers are in ``answers``."""
        self._answers, self._before = answers, Counter(client.served)
        if self._watch is not None:
            await self._watch.begin()
        self._client = client

    async def end(self) -> None:
        if self._client is not None and self._watch is not None:
            await self._watch.end(self.served)

    @property
    def served(self) -> Counter[Endpoint]:
        """Number of requests that each server answered with outputs, without those of the warm-up."""
        if self._client is None:
            return Counter()
        served = Counter(self._client.served)
        served.subtract(self._before)
        return served

    def report(
        self, phases: Sequence[slice | RowArray], series: Sequence[Series] = (), notes: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """The watch's report and the events of connections; None if the run ended before it began."""
        if self._client is None:
            return None
        report: dict[str, Any] = {"servers": [], "reconciliation": None}
        if self._watch is not None:
            report = self._watch.report(
                self._answers.columns,
                phases,
                series,
                notes,
                requests=sum(self.served.values()),
                failed_requests=self._answers.faults.failed.total(),
            )
        together = self._failed_together()
        return report | {"events": dict(self._client.happened) | ({_TOGETHER: together} if together else {})}

    def _failed_together(self) -> int:
        """How many requests of several samples failed: with one bad sample, its neighbours fail too."""
        if self._batch_size == 1:
            return 0
        columns = self._answers.columns
        failed = (columns["status"] == Status.FAILED) & (columns["sent"] > 0)
        # The samples of a request are sent at one moment.
        return int((np.unique(columns["sent"][failed], return_counts=True)[1] > 1).sum())


class WatchedSystem:
    """``system`` with its measured window, and with the sizes of samples that differ; issuing rows costs no more."""

    columns: Mapping[str, npt.DTypeLike]
    answer: Answer | None = None

    def __init__(self, system: RemoteClient, window: MeasuredWindow, elements: Int64Array | None = None) -> None:
        """``elements``: see ``Target``."""
        self.name, self.columns = system.name, system.columns
        if elements is not None:
            self.columns = {**system.columns, SIZE: np.uint32}
        self._elements = elements
        self.issue, self.flush = system.issue, system.flush
        self._system, self._window = system, window
        self._answers: Answers

    async def open(self, answers: Answers) -> None:
        self._answers = answers
        if self._elements is not None:  # which sample a row has is drawn before the run
            answers.columns[SIZE][:] = self._elements[answers.sample_index]
        await self._system.open(answers)

    async def begin_measuring(self) -> None:
        await self._window.begin(self._system, self._answers)

    async def close(self) -> None:
        await self._system.close()  # first: replies after the end of a run do not count
        await self._window.end()
