"""The seam to processes that answer in the place of the generator's: see ``Answers.elsewhere``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from drumfire.loadgen.faults import Faults
from drumfire.loadgen.traffic import Phase


class Elsewhere(Protocol):
    """Processes that answer rows: they write the columns ``completed`` and ``status`` themselves.

    Called on the event loop.
    """

    def begin(self, phase: Phase) -> None:
        """A phase comes, whose start is not known yet.  When this returns, all are ready for it."""

    def start(self, origin_ns: int) -> None:
        """The phase starts at ``origin_ns`` of the monotonic clock."""

    def counts(self, awaited: int) -> tuple[int, int]:
        """Rows that they answered in this phase, failed ones included, and failed ones.

        Once they have answered ``awaited`` rows, they wake who waits.
        """

    def end(self) -> Iterator[tuple[Faults, Mapping[int, bytes]]]:
        """Stop answering in this phase; gives what went wrong, and first tokens by row.  May be called again."""
