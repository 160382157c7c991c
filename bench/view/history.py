"""A run's rate and p99 latency over time, for the live view: snapshots in, a bounded number of points out.

Does not depend on a clock or a screen.
"""

from __future__ import annotations

import numpy as np

from drumfire.bench.watch import Snapshot, Spread

MOST = 384
"""Points that are kept, at least half of them in a long run: enough to fill wide terminals; an even number."""


class History:
    """The whole run: where there would be more than ``MOST`` points, each covers twice the time from then on."""

    def __init__(self) -> None:
        self.step_s = 1.0
        """What a point covers, at least."""
        self.rates: list[float] = []
        """Samples per second."""
        self.p99s: list[int] = []
        """ns, 0 where nothing was answered; where points were merged, the highest of theirs."""
        self.until_s = 0.0
        """When the last point ends, from the run's start."""
        self._good = 0
        self._latency: Spread | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Snapshots come in their order, and much more often than the points of a long run."""
        took_s = snapshot.elapsed_s - self.until_s
        if took_s < self.step_s:
            return
        good = max(snapshot.answered - snapshot.failed, self._good)
        self.rates.append((good - self._good) / took_s)
        self.p99s.append(_p99_since(self._latency, snapshot.latency))
        self.until_s, self._good, self._latency = snapshot.elapsed_s, good, snapshot.latency
        if len(self.rates) == MOST:
            self.rates = [sum(pair) / 2 for pair in zip(self.rates[::2], self.rates[1::2], strict=True)]
            self.p99s = [max(pair) for pair in zip(self.p99s[::2], self.p99s[1::2], strict=True)]
            self.step_s *= 2


def _p99_since(before: Spread | None, now: Spread | None) -> int:
    """The p99 of the values that ``now`` has and ``before``, an earlier spread of the same run, has not."""
    if now is None:
        return 0
    counts = now.counts.copy()
    if before is not None:  # all of its values are in ``now`` too, unless a generator was lost with them
        place = np.minimum(np.searchsorted(now.values, before.values), now.values.size - 1)
        counts[place] -= np.where(now.values[place] == before.values, before.counts, 0)
        np.maximum(counts, 0, out=counts)
    total = int(counts.sum())
    if not total:
        return 0
    return int(now.values[np.searchsorted(np.cumsum(counts), int(total * 0.99), "right")])
