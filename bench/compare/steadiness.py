"""Whether a run is steady, by the mean logarithms of the latencies of its blocks.

Where neighbouring blocks are alike beyond the start, they are not independent, and nothing is said of the start.
"""

from __future__ import annotations

import math

import numpy as np

from drumfire.bench.compare.blocks import BLOCKS, MERGED, Floats
from drumfire.bench.compare.intervals import MOST_AUTOCORRELATION, lag1_autocorrelation
from drumfire.bench.compare.subject import Subject

_LEAST = 1000
"""The fewest queries of a run whose parts are judged."""
_START = 3
"""The number of blocks, of 32, that are the start; it is compared with the last 16."""
_START_T = 2.95
"""The t statistic of 15 degrees of freedom above which a run starts differently: 1 % of independent runs exceed it."""
_LEAST_CHANGE = math.log(1.05)
"""A start that differs by less does not matter."""
_GROWTH_T, _GROWTH = 3.0, 1.2
"""A run is overloaded if its latency grows by a fifth over its second half, and the slope is 3 standard errors."""


def start(run: Subject) -> float | None:
    """The latency of a run's first tenth as a multiple of that of its second half; None where they may be equal."""
    return start_of(run.by_rows.mean_logs) if _has_parts(run) else None


def grows(run: Subject) -> bool:
    """Whether latency on a schedule still grows at the end, and with it, by Little's law, what is in flight."""
    return _has_parts(run) and run.on_schedule and grows_in(run.by_rows.mean_logs)


def _has_parts(run: Subject) -> bool:
    return run.has_rows and not run.is_offline and run.queries >= _LEAST


def start_of(mean_logs: Floats) -> float | None:
    """``start`` of a run whose blocks have these mean logarithms of the latency, shape (BLOCKS,)."""
    first, rest = mean_logs[: _START * 2].mean(), mean_logs[BLOCKS // 2 :]
    error = float(rest.reshape(MERGED, -1).mean(axis=1).std(ddof=1)) * math.sqrt(1 / _START + 1 / MERGED)
    change = float(first - rest.mean())
    differs = abs(change) > max(_START_T * error, _LEAST_CHANGE)
    # A block without answers is a NaN, for which no comparison holds.
    if lag1_autocorrelation(rest) <= MOST_AUTOCORRELATION and differs and error > 0:
        return math.exp(change)
    return None


def grows_in(mean_logs: Floats) -> bool:
    """``grows`` of a run on a schedule whose blocks have these mean logarithms of the latency, shape (BLOCKS,)."""
    of = mean_logs[BLOCKS // 2 :].reshape(MERGED, -1).mean(axis=1)
    x = np.arange(MERGED) - (MERGED - 1) / 2
    slope = float(x @ of) / float(x @ x)
    left = of - of.mean() - slope * x
    error = math.sqrt(float(left @ left) / (MERGED - 2) / float(x @ x))
    return bool(slope > _GROWTH_T * error and slope * MERGED > math.log(_GROWTH))
