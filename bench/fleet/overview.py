"""All generators at a moment: their merged snapshot, and a row for each.

Only computes with sightings.  Does not depend on a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drumfire.bench.fleet.child import Sighting
from drumfire.bench.watch import Snapshot, Spread, ViewPlan, progress


@dataclass(frozen=True)
class Row:
    """What the view shows of a generator."""

    name: str
    state: str
    rate: float | None
    late_p99_ns: int | None
    """None outside Server."""
    in_flight: int
    answered: int
    silent_s: float


def rows_of(
    sightings: Sequence[Sighting], names: Callable[[Sighting], str], state: Callable[[Sighting], str]
) -> list[Row]:
    return [
        Row(
            names(one),
            state(one),
            one.snapshot.rate_now,
            None if one.snapshot.lateness is None else one.snapshot.lateness.p99,
            one.snapshot.in_flight,
            one.snapshot.answered,
            one.silent_s,
        )
        for one in sightings
    ]


def merged(plan: ViewPlan, snapshots: Sequence[Snapshot]) -> Snapshot:
    """The snapshot of a single generator that had done all of this.  Needs at least one snapshot."""
    elapsed_s = max(one.elapsed_s for one in snapshots)
    answered, failed = (sum(getattr(one, name) for one in snapshots) for name in ("answered", "failed"))
    rate_mean = max(answered - failed, 0) / elapsed_s if elapsed_s else None
    fraction, eta_s = progress(plan, round(elapsed_s * 1e9), answered, rate_mean)
    rates = [one.rate_now for one in snapshots if one.rate_now is not None]
    busy = [one.busy for one in snapshots if one.busy is not None]
    stolen = [one.steal_s for one in snapshots if one.steal_s is not None]
    return Snapshot(
        started=any(one.started for one in snapshots),
        done=False,
        elapsed_s=elapsed_s,
        fraction=fraction,
        eta_s=eta_s,
        answered=answered,
        in_flight=sum(one.in_flight for one in snapshots),
        rate_now=sum(rates) if rates else None,
        rate_mean=rate_mean,
        latency=together([one.latency for one in snapshots], plan.target_percentile),
        lateness=together([one.lateness for one in snapshots], plan.target_percentile),
        batches={},
        mean_batch_size=None,
        failed=failed,
        refused=sum(one.refused for one in snapshots),
        busy=max(busy) if busy else None,
        stall_ns=max(one.stall_ns for one in snapshots),
        gc_pause_ns=sum(one.gc_pause_ns for one in snapshots),
        steal_s=max(stolen) if stolen else None,
        sent=together([one.sent for one in snapshots], plan.target_percentile),
        query_latency=together([one.query_latency for one in snapshots], plan.target_percentile),
    )


def together(spreads: Sequence[Spread | None], target: float) -> Spread | None:
    """The sum of the histograms, equal to a histogram of all values; ``target`` is a percentile, 0 to 1."""
    some = [spread for spread in spreads if spread is not None]
    if not some:
        return None
    values, place = np.unique(np.concatenate([spread.values for spread in some]), return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, place, np.concatenate([spread.counts for spread in some]))
    return Spread.of(values, counts, max(spread.maximum for spread in some), target)
