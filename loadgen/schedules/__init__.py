"""When the queries of an open loop are due: one file an arrival process, behind one signature.

A process draws from seeded words and the settings; how many of its arrivals make a run is decided in ``traffic``.
Independent of samples, clocks and I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from drumfire.loadgen.draws import Int64Array, Words
from drumfire.loadgen.schedules.poisson import Poisson
from drumfire.loadgen.settings import EffectiveSettings, SettingsError


class Schedule(Protocol):
    """An arrival process.  Its own parameters are its fields."""

    @property
    def name(self) -> str:
        """The word for it, as in ``SCHEDULES``."""

    @property
    def mlperf(self) -> bool:
        """Whether MLPerf's Server scenario has these arrivals.  A run that has others says so in its result."""

    def arrivals(self, settings: EffectiveSettings, words: Words, chunk: int) -> Iterator[Int64Array]:
        """The moments after the first, which is 0: int64 ns, never falling, without an end.

        Each array has about ``chunk`` of them, at least 1; what they are does not depend on ``chunk``.
        ``settings.target_qps`` is the mean rate, 1/s.
        """


SCHEDULES: dict[str, Callable[[], Schedule]] = {kind.name: kind for kind in (Poisson,)}

DEFAULT: Schedule = Poisson()


def get(name: str) -> Schedule:
    """The process of this name, with its defaults.  Raises ``SettingsError``."""
    if name not in SCHEDULES:
        raise SettingsError(f"there is no schedule {name!r}, only {', '.join(SCHEDULES)}")
    return SCHEDULES[name]()
