"""A queue whose peak is known: one server, first come first served, exponential arrivals and service, in virtual time.

Its latency is exponential with rate ``capacity - load``, so that the share over a bound is exp(-(capacity - load) *
bound): the peak is where that is 1 - percentile.  As a script it searches with a journal, and may die on the way.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from drumfire.bench.peak.journal import Journal
from drumfire.bench.peak.search import Ask, Goal, Outcome, Peak, Probe, next_step
from drumfire.loadgen.early_stopping import judge

PERCENTILE = 0.99


class SimulatedServer:
    """A probe of it is cut short as a real one is, as soon as it is known to fail.  ``time_s``: of all probes."""

    def __init__(self, capacity: float, bound_s: float, seed: int) -> None:
        self.capacity, self.bound_s, self.seed = capacity, bound_s, seed
        self.peak = capacity - math.log(1 / (1 - PERCENTILE)) / bound_s
        self.time_s = 0.0

    def probe(self, ask: Ask) -> Outcome:
        arrivals, services = (np.random.default_rng((self.seed, ask.replica, kind)) for kind in (0, 1))
        drawn = max(ask.queries, int(ask.seconds * ask.load * 1.1) + 1000)
        due = np.cumsum(arrivals.standard_exponential(drawn)) / ask.load
        due = due[: max(int(np.searchsorted(due, ask.seconds)) + 1, ask.queries)]
        service = services.standard_exponential(due.size) / self.capacity
        busy = np.cumsum(service)
        latency = np.maximum.accumulate(due - busy + service) + busy - due
        over = np.cumsum(latency > self.bound_s)
        queries, cut = due.size, int(np.searchsorted(over, ask.allowed + 1))
        if cut < queries:  # that it is over the bound is known when it has waited for as long, and asked every 0.1 s
            queries = int(np.searchsorted(due, due[cut] + self.bound_s + 0.1))
        late, lasted_s = int(over[queries - 1]), float(due[queries - 1])
        self.time_s += lasted_s
        met = late < queries - int(queries * PERCENTILE) and judge(queries, late, PERCENTILE).met
        valid = ask.purpose == "confirm" and met and queries == due.size
        return Outcome(queries, late, lasted_s, valid, float(latency.mean()))

    def goal(self, start: float, full_s: float) -> Goal:
        return Goal(PERCENTILE, self.bound_s, full_s, 100, start, 1e6)


def search(
    goal: Goal,
    probe: Callable[[Ask], Outcome],
    history: Sequence[Probe] = (),
    done: Callable[[Probe], None] | None = None,
) -> tuple[Peak, list[Probe]]:
    """Probe until the peak is found; returns it and all probes.  ``done`` is called with each new probe."""
    probes = list(history)
    while isinstance(step := next_step(goal, probes), Ask):
        probes.append(Probe(step, probe(step)))
        if done is not None:
            done(probes[-1])
    return step, probes


def main() -> None:
    """SEED JOURNAL DIE_AFTER: die as by kill -9 after so many new probes (0: never); prints the peak."""
    seed, path, die_after = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    server = SimulatedServer(1000.0, 0.05, seed)
    journal, new = Journal(path, {"server": seed}, "again"), 0

    def probe(ask: Ask) -> Outcome:
        nonlocal new
        if die_after and new == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        new += 1
        return server.probe(ask)

    peak, _ = search(server.goal(50.0, 60.0), probe, tuple(journal.probes), journal.add)
    print(peak.load)


if __name__ == "__main__":
    main()
