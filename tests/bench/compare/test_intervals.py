"""Intervals: against brute force, against published quantiles, and where they must be open or missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.bench.compare import blocks, intervals
from drumfire.bench.compare.blocks import BINS, BLOCKS, MERGED, STEP, Blocks, Floats
from drumfire.bench.peers import coverage
from drumfire.loadgen.results import Measured, latencies, query_latencies
from tests.support.compared_runs import ends

T15 = 2.131449545559323


def of_values(values: Floats) -> Blocks:
    """The blocks of these latencies, ns, in their order."""
    measured = coverage.run(np.ones(values.size), values / 1e6).measured
    return blocks.counted(measured, blocks.by_rows(values.size), latencies)


# scipy.stats.t.ppf(0.975, degrees_of_freedom)
@pytest.mark.parametrize(
    ("degrees_of_freedom", "quantile"),
    [(1, 12.706204736), (2, 4.3026527297), (2.5, 3.574654842), (4, 2.7764451052), (15, T15), (1000, 1.9623390808)],
)
def test_students_quantiles(degrees_of_freedom: float, quantile: float) -> None:
    assert intervals.t_quantile(degrees_of_freedom) == pytest.approx(quantile, rel=1e-6)


def test_blocks_count_every_latency_once_in_its_bin() -> None:
    values = np.array([1.0, 100.0, 101.0, 5e5, 3.6e12, 1e13, 7e6]).repeat(100)
    found = of_values(values)
    assert found.count == 700
    assert found.totals.sum() == pytest.approx(values.sum(), rel=1e-6)
    assert found.sizes.max() - found.sizes.min() <= 1
    for value in (101.0, 5e5, 7e6):
        edge = blocks.edge_of(value)
        assert blocks.edge_ns(edge - 1) <= value <= blocks.edge_ns(edge + 1)
    below_1_ms = found.all_below[blocks.edge_of(1e6)]
    assert below_1_ms == 400


def test_many_queries_of_several_samples_are_counted_by_query() -> None:
    scheduled = np.repeat(np.arange(2000) * 1000, 4)
    completed = scheduled + np.tile([500, 900, 700, 100], 2000)
    answered = np.ones(8000, bool)
    answered[4] = False
    measured = Measured(scheduled, scheduled, completed, answered, 4)
    found = blocks.counted(measured, blocks.by_rows(2000), latencies)
    assert found.count == 7999
    whole = blocks.counted(measured, blocks.by_rows(2000), query_latencies)
    assert whole.count == 1999
    assert whole.totals.sum() == 900 * 1999


def held(a: Blocks, b: Blocks, p: float, shift: int) -> bool:
    """Whether the t test of block differences holds a ratio of ``shift`` bins, from the definition alone."""
    middles = np.arange(BINS)
    of_a = [np.repeat(middles, row) for row in a.counts.reshape(MERGED, -1, BINS).sum(axis=1)]
    of_b = [np.repeat(middles - shift, row) for row in b.counts.reshape(MERGED, -1, BINS).sum(axis=1)]
    pooled = np.sort(np.concatenate([*of_a, *of_b]))
    quantile = pooled[max(math.ceil(p * pooled.size) - 1, 0)]
    d = np.array([(y <= quantile).mean() - (x <= quantile).mean() for x, y in zip(of_a, of_b, strict=True)])
    return bool(abs(d.mean()) <= T15 * d.std(ddof=1) / math.sqrt(MERGED))


@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.5, 0.9]), st.floats(0.5, 2.0))
def test_paired_is_where_the_test_of_each_ratio_changes(seed: int, p: float, factor: float) -> None:
    random = np.random.default_rng(seed)
    shared = random.lognormal(0, 0.5, 1280)
    a = of_values(1e6 * shared * random.lognormal(0, 0.3, 1280))
    b = of_values(1e6 * factor * shared * random.lognormal(0, 0.3, 1280))
    found = intervals.paired_quantiles(
        a, b, p, math.exp((np.searchsorted(b.all_below, p * 1280) - np.searchsorted(a.all_below, p * 1280)) * STEP)
    )
    if found.why == intervals.TOO_ALIKE:
        return
    low, high = (round(math.log(end) / STEP) for end in ends(found))
    assert low < high
    assert [held(a, b, p, shift) for shift in (low, low + 1, high - 1, high)] == [False, True, True, False]


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(-400, 400))
def test_a_scale_moves_the_interval_and_nothing_else(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.lognormal(14, 0.4, (2, 2560))
    scale = math.exp(bins * STEP)
    before = intervals.paired_quantiles(of_values(a), of_values(b), 0.9, 1.0)
    after = intervals.paired_quantiles(of_values(a), of_values(b * scale), 0.9, scale)
    if max(before.half_width, after.half_width) < math.inf:
        # A latency may fall into the bin beside.
        assert ends(after) == pytest.approx([end * scale for end in ends(before)], rel=0.03)
    assert before.why == after.why or bins != 0


def test_a_run_beside_itself_has_the_ratio_1() -> None:
    a = of_values(np.random.default_rng(1).lognormal(14, 0.4, 100_000))
    for p in (0.5, 0.9, 0.99):
        found = intervals.paired_quantiles(a, a, p, 1.0)
        low, high = ends(found)
        assert 0.95 < low < 1 < high < 1.05
    assert intervals.paired_means(a.means, a.means, 1.0) == intervals.Interval(1.0, 1.0)


def test_latencies_of_a_few_values_differ_only_where_the_blocks_say_so() -> None:
    """The p50 jumps between two values, as with batches of one and two, though the shares hardly differ."""
    random = np.random.default_rng(5)
    a, b = (random.permutation(np.where(np.arange(6400) < quick, 1e6, 2e6)) for quick in (3210, 3190))
    low, high = ends(intervals.paired_quantiles(of_values(a), of_values(b), 0.5, 2.0))
    assert low < 1
    assert high >= 2


def test_too_few_slow_queries_leave_the_interval_open() -> None:
    random = np.random.default_rng(3)
    a, b = (of_values(1e6 * random.lognormal(0, 1, 2000)) for _ in "ab")
    found = intervals.paired_quantiles(a, b, 0.999, 1.0)
    assert found.half_width == math.inf
    assert found.why == intervals.OPEN
    alone = intervals.of_quantile(a, 0.999, 20e6)
    assert alone.high is None
    assert alone.why == intervals.OPEN


def test_parts_that_are_alike_for_long_give_no_interval() -> None:
    random = np.random.default_rng(4)
    moods = np.exp(np.repeat(random.standard_normal(10), 1000))
    a, b = (of_values(1e6 * np.roll(moods, shift) * random.lognormal(0, 0.1, 10_000)) for shift in (0, 3000))
    assert intervals.paired_quantiles(a, b, 0.5, 1.0).why == intervals.TOO_ALIKE
    assert intervals.paired_means(a.means, b.means, 1.0).why == intervals.TOO_ALIKE
    assert intervals.of_quantile(a, 0.5, 1e6).why == intervals.TOO_ALIKE


def test_blocks_without_answers_give_no_interval() -> None:
    counts = np.zeros((BLOCKS, BINS), np.int32)
    counts[20:, 4000] = 100
    broken = Blocks(counts, counts.sum(axis=1) * 1e6)
    assert intervals.paired_quantiles(broken, broken, 0.5, 1.0).why == "parts of a run have no answers"
    assert intervals.paired_means(broken.means, broken.means, 1.0).why == "parts of a run have no answers"


def test_unpaired_joins_the_open_ends_too() -> None:
    open_above = intervals.Interval(9.0, None, intervals.OPEN)
    closed = intervals.Interval(8.0, 12.5)
    found = intervals.unpaired(closed, closed, 10.0, 10.0)
    assert found.low == pytest.approx(math.exp(-math.hypot(math.log(0.8), math.log(1.25))))
    assert found.high == pytest.approx(1 / (found.low or 1))
    assert intervals.unpaired(open_above, closed, 10.0, 10.0).low is None
    assert intervals.unpaired(closed, open_above, 10.0, 10.0).high is None
    assert intervals.unpaired(closed, intervals.no_interval("x"), 10.0, 10.0).why == "x"


def test_welch_is_as_scipys() -> None:
    a, b = [0.0, 0.02, 0.01, 0.03], [0.10, 0.14, 0.12]
    # scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(), scipy 1.17.1
    logs = [math.log(end) for end in ends(intervals.welch(a, b))]
    assert logs == pytest.approx([0.0645767205, 0.1454232795], abs=1e-6)


def test_one_run_beside_several_has_their_spread() -> None:
    several = [0.0, 0.02, 0.01]
    found = intervals.welch(several, [0.1])
    half = 4.3026527297 * 0.01 * math.sqrt(1 + 1 / 3)  # two degrees of freedom
    assert ends(found) == pytest.approx([math.exp(0.09 - half), math.exp(0.09 + half)])
