"""Bulk feeding gives the very histogram that the library makes value by value, and the files read back."""

from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen import histogram


def one_by_one(values: list[int]) -> HdrHistogram:
    made = histogram.new()
    for value in values:
        made.record_value(min(value, histogram.HIGHEST_NS))
    return made


@given(st.lists(st.integers(0, 4_000_000_000_000) | st.integers(0, 5000), min_size=1, max_size=60))
def test_bulk_equals_one_by_one(values: list[int]) -> None:
    bulk, single = histogram.of(np.array(values)), one_by_one(values)
    assert np.array_equal(np.frombuffer(bulk.counts, np.int64), np.frombuffer(single.counts, np.int64))
    assert (bulk.total_count, bulk.min_value, bulk.max_value) == (
        single.total_count,
        single.min_value,
        single.max_value,
    )


@pytest.mark.parametrize("values", [[], [0], [7, 7, 3_000_000_000], [*range(1, 9000, 7), 4_000_000_000_000]])
def test_mean_and_deviation_are_the_librarys(values: list[int]) -> None:
    made = one_by_one(values)
    assert made.get_mean_value() == HdrHistogram.get_mean_value(made)
    assert made.get_stddev() == HdrHistogram.get_stddev(made)


def test_files_read_back(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1, 10_000_000, 50_000)
    made = histogram.of(values)
    histogram.save(made, tmp_path / "latency", 100.0, 103.5)
    reader = HistogramLogReader(str(tmp_path / "latency.hlog"), histogram.new())
    back = reader.get_next_interval_histogram()
    assert back.get_total_count() == values.size
    assert back.get_value_at_percentile(99) == made.get_value_at_percentile(99)
    assert b"#[Max" in (tmp_path / "latency.hgrm").read_bytes()
