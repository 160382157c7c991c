"""How far a host's clock is from ours, from questions and answers; pure arithmetic over times in ns.

Of many round trips the shortest tells most: the answer was given somewhere within it, so half of it bounds the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PINGS = 100


class Ping(NamedTuple):
    """When we asked, what the other clock said, when we had the answer."""

    asked_ns: int
    told_ns: int
    heard_ns: int


@dataclass(frozen=True)
class Clock:
    """Another clock beside ours: it reads ours plus ``offset_ns``, give or take ``bound_ns``."""

    offset_ns: int
    bound_ns: int

    @classmethod
    def of(cls, pings: Sequence[Ping]) -> Clock:
        """From at least one ping."""
        best = min(pings, key=lambda ping: ping.heard_ns - ping.asked_ns)
        trip_ns = best.heard_ns - best.asked_ns
        return cls(best.told_ns - best.asked_ns - trip_ns // 2, trip_ns - trip_ns // 2)


OURS = Clock(0, 0)


def ask(now: Callable[[], int], told: Callable[[], int], count: int = PINGS) -> Clock:
    """Compare with the clock that ``told`` reads; ``now`` is ours."""
    return Clock.of([Ping(now(), told(), now()) for _ in range(count)])


def dispersion_ns(moments_ns: Sequence[int]) -> int:
    """From the first to the last of moments that should be one; 0 for fewer than two."""
    return max(moments_ns) - min(moments_ns) if moments_ns else 0
