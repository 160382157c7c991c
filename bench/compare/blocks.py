"""Latencies of a run by blocks of neighbouring rows, counted in logarithmic bins.

Rows of one run are not independent: neighbours wait behind the same burst.  Blocks of many rows nearly are, so
intervals come from how much the blocks differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.results import Measured

BLOCKS, MERGED = 64, 16
"""The number of blocks that are counted, whose autocorrelation shows whether they are long enough; and the number of
merged blocks from which an interval is computed."""
STEP = 0.0025
"""The width of a bin: the natural logarithm of the ratio of its edges."""
_LEAST_NS, _MOST_NS = 100.0, 3.6e12
BINS = math.ceil(math.log(_MOST_NS / _LEAST_NS) / STEP)
_CHUNK = 65_536
"""Rows at a time: larger temporaries do not fit into a core's cache, and cost page faults."""
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """The latencies of each block: a histogram and a sum."""

    counts: npt.NDArray[np.int32]
    """Latencies by block and bin, shape (BLOCKS, BINS); the outermost bins also hold what lies beyond them."""
    totals: Floats
    """The sum of the latencies, ns, shape (BLOCKS,)."""

    @cached_property
    def sizes(self) -> Counts:
        """The number of latencies in each block, shape (BLOCKS,)."""
        sizes: Counts = self.counts.sum(axis=1, dtype=np.int64)
        return sizes

    @cached_property
    def below(self) -> Counts:
        """The number of latencies of each block below each edge of the bins, shape (BLOCKS, BINS + 1)."""
        below = np.zeros((BLOCKS, BINS + 1), np.int64)
        np.cumsum(self.counts, axis=1, out=below[:, 1:])
        return below

    @cached_property
    def all_below(self) -> Counts:
        """The number of latencies of all blocks below each edge, shape (BINS + 1,)."""
        below: Counts = self.below.sum(axis=0)
        return below

    @property
    def count(self) -> int:
        return int(self.sizes.sum())

    @property
    def means(self) -> Floats:
        """The mean latency of each block, ns, shape (BLOCKS,); NaN for an empty one."""
        return self._per_latency(self.totals)

    @cached_property
    def mean_logs(self) -> Floats:
        """The mean logarithm of each block's latencies, shape (BLOCKS,); NaN for an empty one."""
        return self._per_latency(self.counts @ ((np.arange(BINS) + 0.5) * STEP))

    def _per_latency(self, sums: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Floats = sums / self.sizes
        return means


def edge_ns(number: float) -> float:
    """The latency, ns, at an edge of the bins; edges are numbered from 0."""
    return _LEAST_NS * math.exp(number * STEP)


def edge_of(ns: float) -> int:
    """The number of the edge that is nearest to a latency, ns."""
    return min(max(round(math.log(max(ns, 1.0) / _LEAST_NS) / STEP), 0), BINS)


def by_rows(queries: int) -> Int64Array:
    """The edges, in queries, of BLOCKS blocks whose sizes differ by one at most; shape (BLOCKS + 1,)."""
    return np.arange(BLOCKS + 1) * queries // BLOCKS


def by_time(m: Measured) -> Int64Array:
    """The edges, in queries, of BLOCKS blocks of equal times by the schedule, which is sorted; shape (BLOCKS + 1,)."""
    due = m.scheduled[:: m.samples_per_query]
    edges = np.searchsorted(due, np.linspace(int(due[0]), int(due[-1]), BLOCKS + 1))
    edges[0], edges[-1] = 0, due.size
    return edges


def counted(m: Measured, edges: Int64Array, latencies: Callable[[Measured], Int64Array]) -> Blocks:
    """Count the latencies, ns, that ``latencies`` computes of rows, by the blocks between ``edges``, in queries."""
    counts, totals = np.zeros((BLOCKS, BINS), np.int32), np.zeros(BLOCKS)
    most = max(_CHUNK // m.samples_per_query, 1)
    for block in range(BLOCKS):
        for first in range(int(edges[block]), int(edges[block + 1]), most):
            values = latencies(m.part(first, min(first + most, int(edges[block + 1]))))
            totals[block] += values.sum(dtype=np.float64)
            logs = np.log(np.maximum(values, 1).astype(np.float32))
            bins = ((logs - np.float32(math.log(_LEAST_NS))) * np.float32(1 / STEP)).astype(np.int32)
            counts[block] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS).astype(np.int32)
    return Blocks(counts, totals)


def durations(m: Measured) -> Floats:
    """The time that each of BLOCKS equal numbers of answers took, in the order of completion, ns, shape (BLOCKS,).

    The first begins at the start of what is measured.
    """
    done = m.completed[m.answered]  # a copy, which may be reordered
    ends = np.arange(1, BLOCKS + 1) * done.size // BLOCKS - 1
    done.partition(np.unique(ends))
    return np.diff(done[ends].astype(np.float64), prepend=float(min(int(m.issued[0]), int(done[0]))))


def merged(values: Floats | Counts) -> Floats:
    """Sums of neighbouring blocks: shape (MERGED,) from (BLOCKS,)."""
    sums: Floats = values.reshape(MERGED, -1).sum(axis=1, dtype=np.float64)
    return sums
