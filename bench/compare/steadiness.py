"""Whether a run is steady, by the mean logarithms of the latencies of its blocks.

Where neighbouring blocks are alike beyond the start, they are no independent parts, and nothing is said of the start.
"""

from __future__ import annotations

import math

import numpy as np

from drumfire.bench.compare.blocks import BLOCKS, MERGED, Floats
from drumfire.bench.compare.intervals import MOST_CORRELATION, correlation
from drumfire.bench.compare.subject import Subject

_LEAST = 1000
"""Queries below which nothing can be said of a run's parts."""
_START = 3
"""Of 32 blocks: the first ones, which are compared with the last half of them."""
_START_T = 2.95
"""The t statistic of 15 degrees of freedom above which a run starts differently: 1 % of independent blocks do."""
_LEAST_CHANGE = math.log(1.05)
"""A start that differs by less does not matter."""
_GROWTH_T, _GROWTH = 3.0, 1.2
"""A run is overloaded whose latency grows by a fifth over its second half, with a slope of so many standard errors."""


def start(run: Subject) -> float | None:
    """The latency of a run's first tenth as a multiple of that of its second half; None where they may be equal."""
    return start_of(run.by_rows.mean_logs) if _has_parts(run) else None


def grows(run: Subject) -> bool:
    """Whether latency on a schedule still grows at the end, and with it, by Little's law, what is in flight."""
    return _has_parts(run) and run.on_schedule and grows_in(run.by_rows.mean_logs)


def _has_parts(run: Subject) -> bool:
    return run.has_rows and not run.is_offline and run.queries >= _LEAST


def start_of(mean_logs: Floats) -> float | None:
    """The same of the mean logarithms of a run's blocks, shape (BLOCKS,)."""
    first, rest = mean_logs[: _START * 2].mean(), mean_logs[BLOCKS // 2 :]
    error = float(rest.reshape(MERGED, -1).mean(axis=1).std(ddof=1)) * math.sqrt(1 / _START + 1 / MERGED)
    differs = float(first - rest.mean())
    # Written so that a block without answers, a NaN, says nothing.
    if not (
        correlation(rest) <= MOST_CORRELATION and abs(differs) > max(_START_T * error, _LEAST_CHANGE) and error > 0
    ):
        return None
    return math.exp(differs)


def grows_in(mean_logs: Floats) -> bool:
    """The same of the mean logarithms of a run's blocks, shape (BLOCKS,)."""
    of = mean_logs[BLOCKS // 2 :].reshape(MERGED, -1).mean(axis=1)
    x = np.arange(MERGED) - (MERGED - 1) / 2
    slope = float(x @ of) / float(x @ x)
    left = of - of.mean() - slope * x
    error = math.sqrt(float(left @ left) / (MERGED - 2) / float(x @ x))
    return bool(slope > _GROWTH_T * error and slope * MERGED > math.log(_GROWTH))
