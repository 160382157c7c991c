"""What a queue can do where nothing but the model takes time: the batcher's rule, with measured batch times."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def latencies(arrivals: Sequence[int], times: Sequence[Sequence[int]], workers: int = 1) -> list[int]:
    """How long each sample takes from its arrival to the end of its batch, in the order of arrival.

    A free worker takes whatever waits, up to ``len(times)``.  ``arrivals``: ascending.  ``times[n - 1]``: what batches
    of n took, one after the other, and again from the first.  All in one unit.
    """
    free = [0] * workers
    batches = [0] * len(times)  # by size - 1
    took: list[int] = []
    while len(took) < len(arrivals):
        first = len(took)
        start = max(heapq.heappop(free), arrivals[first])
        size = 1
        while size < len(times) and first + size < len(arrivals) and arrivals[first + size] <= start:
            size += 1
        of_size = times[size - 1]
        end = start + of_size[batches[size - 1] % len(of_size)]
        batches[size - 1] += 1
        took += (end - arrival for arrival in arrivals[first : first + size])
        heapq.heappush(free, end)
    return took
