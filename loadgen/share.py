"""One generator's part of a test that several run together: every n-th query of the same seeded schedule.

Takes a part of the whole traffic, with indices and times unchanged, and maps the part's rows back to the whole's.
Independent of processes and hosts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.record import Record, RowArray
from drumfire.loadgen.settings import EffectiveSettings, Scenario, SettingsError
from drumfire.loadgen.traffic import Phase


@dataclass(frozen=True)
class Slice:
    """Queries ``part::parts`` of the whole, each of ``width`` rows (1 except in MultiStream).

    Offline's single query is split by samples.
    """

    part: int
    parts: int
    width: int = 1

    def count(self, rows: int) -> int:
        """How many of the whole's first ``rows`` rows are in this part."""
        return max(0, -(-(rows // self.width - self.part) // self.parts)) * self.width

    def whole(self, rows: RowArray) -> RowArray:
        """The whole's row number for each row number of this part, shape (n,)."""
        queries, within = np.divmod(rows, self.width)
        return (self.part + queries * self.parts) * self.width + within

    def of(self, phases: Sequence[Phase], max_queries: int = 0) -> list[Phase]:
        """This part of the phases.  ``max_queries`` limits the whole's performance phase; 0 is no limit."""
        return [self._of(phase, 0 if phase.accuracy else max_queries) for phase in phases]

    def limits(self, settings: EffectiveSettings) -> EffectiveSettings:
        """The settings for issuing the phases that ``of`` returns.

        Raises ``SettingsError`` for a limit that needs a view of the whole run.
        """
        if settings.scenario == Scenario.Server and settings.max_async_queries:
            raise SettingsError(
                "server_max_async_queries bounds the queries of one generator: leave it out of user.conf with several"
            )
        places = self.count(settings.concurrency)
        if settings.is_closed and not places:
            raise SettingsError(
                f"a closed loop of {settings.concurrency} leaves nothing for some of {self.parts} generators: raise "
                f"--concurrency to {self.parts} or more"
            )
        least = self.count(settings.min_query_count * self.width) // self.width
        return replace(settings, max_query_count=0, min_query_count=least, concurrency=places)

    def _of(self, phase: Phase, max_queries: int) -> Phase:
        together = phase.scheduled is None and phase.query_count == 1
        rows = phase.rows
        if max_queries and not together:
            rows = min(rows, max_queries * self.width)
        first_row = self.count(phase.first_row)
        # The whole's row number of this part's first row, counted from the phase's first.
        offset = (self.part + first_row // self.width * self.parts) * self.width - phase.first_row

        def pick(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return column[:rows].reshape(-1, self.width)[offset // self.width :: self.parts].ravel()

        sample_index = pick(phase.sample_index)
        return replace(
            phase,
            first_row=first_row,
            sample_index=sample_index,
            scheduled=None if phase.scheduled is None else pick(phase.scheduled),
            logged=None if phase.logged is None else pick(phase.logged),
            samples_per_query=max(sample_index.size, 1) if together else phase.samples_per_query,
            concurrency=self.count(phase.concurrency),
        )


@dataclass(frozen=True)
class Share:
    """What a test needs to run one part."""

    slice: Slice
    phases: Sequence[Phase]
    """The part's phases, as ``Slice.of`` returns them, and entered into the table."""
    record: Record
    """The part's table, with one row per row of the slice."""
    start: Callable[[int], Awaitable[int]]
    """Called with the number of each phase, from 0; returns its start, ns of the monotonic clock."""
