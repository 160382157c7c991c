"""One generator's part of a test that several do together: every n-th query of the one seeded schedule.

Whole traffic in, a part of it out, indices and times untouched; and the way back, from a row here to its row there.
Knows neither processes nor hosts, nor why a phase begins when it does.
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
    """Queries ``part::parts`` of a whole, each ``width`` rows of its table: 1 but in MultiStream.

    Offline's one query is divided by its samples.
    """

    part: int
    parts: int
    width: int = 1

    def count(self, rows: int) -> int:
        """How many of the first ``rows`` rows of the whole are here."""
        return max(0, -(-(rows // self.width - self.part) // self.parts)) * self.width

    def whole(self, rows: RowArray) -> RowArray:
        """The whole's row of each row here, shape (n,)."""
        queries, within = np.divmod(rows, self.width)
        return (self.part + queries * self.parts) * self.width + within

    def of(self, phases: Sequence[Phase], max_queries: int = 0) -> list[Phase]:
        """This part of the phases.  ``max_queries`` limits each performance phase of the whole; 0 is no limit."""
        return [self._of(phase, 0 if phase.accuracy else max_queries) for phase in phases]

    def limits(self, settings: EffectiveSettings) -> EffectiveSettings:
        """The settings as this part's issuing follows them, whose phases are those that ``of`` gives.

        Raises ``SettingsError`` for a limit that only one who sees the whole run could keep.
        """
        if settings.scenario == Scenario.Server and settings.max_async_queries:
            raise SettingsError(
                "server_max_async_queries bounds the queries of one generator: leave it out of user.conf with several"
            )
        least = self.count(settings.min_query_count * self.width) // self.width
        return replace(settings, max_query_count=0, min_query_count=least)

    def _of(self, phase: Phase, max_queries: int) -> Phase:
        together = phase.scheduled is None and phase.query_count == 1
        rows = phase.rows
        if max_queries and not together:
            rows = min(rows, max_queries * self.width)
        first_row = self.count(phase.first_row)
        # The whole's row of the first row here, told from the phase's first.
        offset = (self.part + first_row // self.width * self.parts) * self.width - phase.first_row

        def mine(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return column[:rows].reshape(-1, self.width)[offset // self.width :: self.parts].ravel()

        sample_index = mine(phase.sample_index)
        return replace(
            phase,
            first_row=first_row,
            sample_index=sample_index,
            scheduled=None if phase.scheduled is None else mine(phase.scheduled),
            logged=None if phase.logged is None else mine(phase.logged),
            samples_per_query=max(sample_index.size, 1) if together else phase.samples_per_query,
        )


@dataclass(frozen=True)
class Share:
    """What a test that does a part is given."""

    slice: Slice
    record: Record
    """The part's table, which others watch: as many rows as the slice has of the whole's."""
    start: Callable[[int], Awaitable[int]]
    """Called before each phase with its number, from 0: when it begins, ns of the monotonic clock."""
