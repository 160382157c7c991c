"""HDR histograms of ns values, filled from whole arrays, for display, export and merging.

The figures of a result are exact, and come from ``results`` instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

from drumfire.loadgen.draws import Int64Array

HIGHEST_NS = 3_600_000_000_000
"""One hour; higher values count as this."""
_CHUNK = 1 << 20  # values at a time, to limit the memory of intermediate arrays


class _Histogram(HdrHistogram):  # type: ignore[misc]  # the library has no types
    """The library's mean and deviation, without its way over every empty counter: a tenth of a second for each file."""

    def get_mean_value(self) -> float:
        total = sum(count * value for value, count in self._recorded())
        return float(total) / self.total_count if self.total_count else 0.0

    def get_stddev(self) -> float:
        mean = self.get_mean_value()
        total = sum(((value - mean) ** 2 * count for value, count in self._recorded()), 0.0)
        return math.sqrt(total / self.total_count) if self.total_count else 0.0

    def _recorded(self) -> Iterator[tuple[int, int]]:
        """The middle value and the count of each counter that is not 0."""
        for index in np.flatnonzero(np.frombuffer(self.counts, np.int64)).tolist():
            yield self._hdr_median_equiv_value(self.get_value_from_index(index)), self.counts[index]


def new() -> HdrHistogram:
    """An empty histogram from 1 ns to one hour, with three significant digits."""
    return _Histogram(1, HIGHEST_NS, 3)


def feed(histogram: HdrHistogram, values: Int64Array) -> None:
    """Count all ``values`` (ns, any shape), with the result of ``record_value`` for each."""
    counts = np.frombuffer(histogram.counts, np.int64)
    flat = values.ravel()
    for start in range(0, flat.size, _CHUNK):
        chunk = np.clip(flat[start : start + _CHUNK], 0, HIGHEST_NS)
        counts += np.bincount(_counts_index(histogram, chunk), minlength=counts.size)
        histogram.total_count += chunk.size
        histogram.max_value = max(histogram.max_value, int(chunk.max()))
        histogram.min_value = min(histogram.min_value, int(chunk.min()))


def of(values: Int64Array) -> HdrHistogram:
    histogram = new()
    feed(histogram, values)
    return histogram


def save(histogram: HdrHistogram, stem: Path, start_s: float, end_s: float) -> None:
    """Write ``stem.hgrm`` (percentile table, in ms) and ``stem.hlog`` (a V2 log of one interval, Unix times in s)."""
    with open(stem.with_suffix(".hgrm"), "wb") as table:
        histogram.output_percentile_distribution(table, 1e6)
    histogram.set_start_time_stamp(start_s * 1e3)
    histogram.set_end_time_stamp(end_s * 1e3)
    with open(stem.with_suffix(".hlog"), "w") as file:
        log = HistogramLogWriter(file)
        log.output_log_format_version()
        log.output_legend()
        log.output_interval_histogram(histogram)


def _counts_index(histogram: HdrHistogram, values: Int64Array) -> Int64Array:
    """Index of each value's counter: HdrHistogram's bucket arithmetic, for arrays of values below 2**53."""
    half_magnitude = histogram.sub_bucket_half_count_magnitude
    _, exponent = np.frexp((values | histogram.sub_bucket_mask).astype(np.float64))
    bucket = exponent.astype(np.int64) - histogram.unit_magnitude - (half_magnitude + 1)
    sub_bucket = values >> (bucket + histogram.unit_magnitude)
    index: Int64Array = ((bucket + 1) << half_magnitude) + sub_bucket - histogram.sub_bucket_half_count
    return index
