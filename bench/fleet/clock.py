"""The offset of another host's clock, from round trips; only computes with times in ns.

The shortest round trip is the best measurement: the other clock was read at some moment within it, so half of the
round trip bounds the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PINGS = 100


class Ping(NamedTuple):
    """A round trip."""

    sent_ns: int
    """By our clock, as is ``received_ns``."""
    answer_ns: int
    """What the other clock showed."""
    received_ns: int


@dataclass(frozen=True)
class Clock:
    """Another clock beside ours: it shows our time plus ``offset_ns``, give or take ``bound_ns``."""

    offset_ns: int
    bound_ns: int

    @classmethod
    def of(cls, pings: Sequence[Ping]) -> Clock:
        """From at least one ping."""
        best = min(pings, key=lambda ping: ping.received_ns - ping.sent_ns)
        trip_ns = best.received_ns - best.sent_ns
        return cls(best.answer_ns - best.sent_ns - trip_ns // 2, trip_ns - trip_ns // 2)


OURS = Clock(0, 0)


def compare(ours: Callable[[], int], other: Callable[[], int], count: int = PINGS) -> Clock:
    """Read both clocks ``count`` times; each callable returns ns."""
    return Clock.of([Ping(ours(), other(), ours()) for _ in range(count)])


def dispersion_ns(moments_ns: Sequence[int]) -> int:
    """The time from the first to the last of moments that should be the same; 0 for fewer than two."""
    return max(moments_ns) - min(moments_ns) if moments_ns else 0
