"""Clocks: an offset is found within its bound, however uneven the way there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.fleet.clock import Clock, Ping, compare, dispersion_ns

DELAYS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=40)


@given(st.integers(-(10**12), 10**12), DELAYS)
def test_the_true_offset_lies_within_the_bound(offset_ns: int, delays: list[tuple[int, int]]) -> None:
    pings, now_ns = [], 10**15
    for there_ns, back_ns in delays:
        pings.append(Ping(now_ns, now_ns + there_ns + offset_ns, now_ns + there_ns + back_ns))
        now_ns += there_ns + back_ns + 1000
    found = Clock.of(pings)
    assert abs(found.offset_ns - offset_ns) <= found.bound_ns
    assert found.bound_ns <= min(there + back for there, back in delays) // 2 + 1


def test_asking() -> None:
    now_ns = [0]

    def tick() -> int:
        now_ns[0] += 10
        return now_ns[0]

    found = compare(tick, lambda: tick() + 5_000, 7)
    assert (found.offset_ns, found.bound_ns) == (5_000, 10)


def test_dispersion() -> None:
    assert dispersion_ns([]) == dispersion_ns([7]) == 0
    assert dispersion_ns([5, 9, 7]) == 4
