"""How often the intervals of a comparison hold what they should, on simulated queues.

python -m drumfire.bench.peers.coverage [--pairs N] [--queries N] [--seed S] [--no-guard]

Both runs of a pair are of one queue, with the same arrivals, so that the true ratio is 1.  What is called is what
``drumfire compare --single`` calls.  Latencies follow Lindley's recursion; the first rows are dropped.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.bench.compare import intervals
from drumfire.bench.compare.comparison import compare
from drumfire.bench.compare.pairing import FigureRatio
from drumfire.loadgen.results import Measured

Floats = npt.NDArray[np.float64]
FIGURES = ("mean", "p50", "p90", "p99", "p99.9")
_WARM_UP = 3000
"""Rows that are dropped, until the queue is in its usual states."""
_SERVICE_NS = 1e6
_JITTER = 0.01
"""Of an exact service: without any, many latencies are equal."""
_SPREAD = 2.0
"""Standard deviation of the uneven service, in means."""


@dataclass(frozen=True)
class SimulatedRun:
    """What a comparison needs of a run."""

    measured: Measured
    result: dict[str, Any]
    columns: Mapping[str, Any]


def run(arrivals: Floats, latencies: Floats) -> SimulatedRun:
    """A Server run of these times between arrivals and latencies, in mean services, shape (n,)."""
    scheduled = (np.cumsum(arrivals) * _SERVICE_NS).astype(np.int64)
    completed = scheduled + np.maximum(latencies * _SERVICE_NS, 1).astype(np.int64)
    measured = Measured(scheduled, scheduled, completed, np.ones(scheduled.size, bool), 1)
    rate = scheduled.size * 1e9 / float(scheduled[-1])
    result = {
        "validity": "VALID",
        "scenario": "Server",
        "latency_ns": {"count": scheduled.size},
        "asked": {"qps": rate},
        "delivered": {"samples": scheduled.size, "queries": scheduled.size, "samples_per_second": rate},
    }
    return SimulatedRun(measured, result, {"completed": completed})


def _exact(random: np.random.Generator, n: int) -> Floats:
    return 1 + _JITTER * random.standard_normal(n)


def _uneven(random: np.random.Generator, n: int) -> Floats:
    sigma = math.sqrt(math.log(1 + _SPREAD**2))
    return random.lognormal(-(sigma**2) / 2, sigma, n)


def _queue(service: Callable[[np.random.Generator, int], Floats], load: float) -> Callable[..., list[SimulatedRun]]:
    def pair(random: np.random.Generator, n: int) -> list[SimulatedRun]:
        arrivals = random.exponential(1 / load, n + _WARM_UP)
        return [run(arrivals[_WARM_UP:], _waited(arrivals, service(random, arrivals.size))) for _ in "AB"]

    return pair


def _waited(arrivals: Floats, service: Floats) -> Floats:
    """Time in a queue of one server, first come, first served."""
    steps = np.concatenate([[0.0], np.cumsum(service[:-1] - arrivals[1:])])
    return (steps - np.minimum.accumulate(steps) + service)[_WARM_UP:]


def _moods(carried: float) -> Callable[..., list[SimulatedRun]]:
    """A machine whose speed wanders: each logarithm keeps the share ``carried`` of the one before."""

    def latencies(random: np.random.Generator, n: int) -> Floats:
        moves = math.sqrt(1 - carried**2) * random.standard_normal(n)
        moves[0] = random.standard_normal()
        mood = np.fromiter(itertools.accumulate(moves.tolist(), lambda x, move: carried * x + move), np.float64, n)
        found: Floats = np.exp(0.5 * mood + 0.3 * random.standard_normal(n))
        return found

    def pair(random: np.random.Generator, n: int) -> list[SimulatedRun]:
        return [run(np.full(n, 2.0), latencies(random, n)) for _ in "AB"]

    return pair


_SERVICES = {"M/D/1": _exact, "M/M/1": lambda random, n: random.exponential(1.0, n), "M/G/1": _uneven}
CELLS: Mapping[str, Callable[..., list[SimulatedRun]]] = {
    f"{name} {load}": _queue(service, load) for name, service in _SERVICES.items() for load in (0.3, 0.7, 0.9)
} | {f"AR {carried}": _moods(carried) for carried in (0.9, 0.99, 0.999)}
"""Makes a pair of runs of a queue, from a source of random numbers and a number of queries."""


@dataclass
class Shares:
    """Of the pairs of a queue, one figure, in percent of all but the first."""

    rows: list[FigureRatio] = field(default_factory=list)

    def _percent(self, held: Callable[[FigureRatio], bool], of: Sequence[FigureRatio] | None = None) -> float:
        of = self.rows if of is None else of
        return 100 * sum(map(held, of)) / len(of) if of else math.nan

    @property
    def covered(self) -> float:
        """Of the intervals that were given, open ones among them."""
        return self._percent(
            lambda row: not _wrong(row), [row for row in self.rows if row.note in ("", intervals.OPEN)]
        )

    @property
    def wrong(self) -> float:
        """Where a difference would be said."""
        return self._percent(lambda row: not row.note and _wrong(row))

    @property
    def slower(self) -> float:
        return self._percent(lambda row: not row.note and row.low is not None and row.low > 1)

    @property
    def declined(self) -> float:
        return self._percent(lambda row: row.note not in ("", intervals.OPEN))

    @property
    def open(self) -> float:
        return self._percent(lambda row: row.note == intervals.OPEN)


def _wrong(row: FigureRatio) -> bool:
    return (row.low is not None and row.low > 1) or (row.high is not None and row.high < 1)


def measure(pairs: int, queries: int, seed: int, cells: Sequence[str] = tuple(CELLS)) -> dict[str, dict[str, Shares]]:
    """By queue and figure."""
    found: dict[str, dict[str, Shares]] = {cell: {figure: Shares() for figure in FIGURES} for cell in cells}
    for number, cell in enumerate(cells):
        random = np.random.default_rng([seed, number, queries])
        for _ in range(pairs):
            comparison = compare([[one] for one in CELLS[cell](random, queries)], single=True)
            for figure in FIGURES:
                found[cell][figure].rows.append(comparison.row(figure))
    return found


def table(found: Mapping[str, Mapping[str, Shares]]) -> str:
    """Means and worst over the queues, as Markdown."""
    lines = [f"| % | {' | '.join(FIGURES)} |", f"|---|{'---|' * len(FIGURES)}"]
    for name, worst in {"covered": min, "wrong": max, "slower": max, "declined": None, "open": None}.items():
        cells = []
        for figure in FIGURES:
            each = [value for one in found.values() if not math.isnan(value := getattr(one[figure], name))]
            worst_text = f" / {worst(each):.0f}" if worst and each else ""
            cells.append(f"{float(np.mean(each)):.1f}{worst_text}" if each else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Coverage of the intervals of a comparison, on simulated queues.")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of runs of each queue")
    parser.add_argument("--queries", type=int, nargs="+", default=[2_000, 10_000, 100_000], help="of a run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-guard", action="store_true", help="also where neighbouring parts are alike")
    options = parser.parse_args(arguments)
    if options.no_guard:
        intervals.MOST_AUTOCORRELATION = math.inf
    for queries in options.queries:
        found = measure(options.pairs, queries, options.seed)
        print(f"\n{queries:,} queries, {options.pairs} pairs of each of {len(found)} queues; mean / worst\n")
        print(table(found), flush=True)
        for cell, figures in found.items():
            shares = "  ".join(
                f"{name} {one.covered:.0f} {one.wrong:.0f} {one.declined:.0f}" for name, one in figures.items()
            )
            print(f"{cell}: covered wrong declined: {shares}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
