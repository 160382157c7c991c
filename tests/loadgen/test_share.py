"""Slices of a run's table: all of them together are the whole, to the last bit, whatever it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.loadgen.record import Record, Status, by_stream
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.share import Share, Slice
from drumfire.loadgen.traffic import Phase, draw
from drumfire.sut.local.null import NullSystem, null_library

SCENARIOS = st.sampled_from(list(Scenario))


def drawn(scenario: Scenario, mode: Mode, seed: int, total: int, performance: int, count: int = 0) -> list[Phase]:
    asked = TestSettings(
        scenario=scenario, mode=mode, min_duration_ms=40, min_query_count=17, server_target_qps=900,
        offline_expected_qps=900, single_stream_expected_latency_ns=2e6, multi_stream_expected_latency_ns=8e6,
        multi_stream_samples_per_query=3, qsl_rng_seed=seed, sample_index_rng_seed=seed, schedule_rng_seed=seed,
        accuracy_log_rng_seed=seed, accuracy_log_sampling_target=5, max_query_count=count,
    )  # fmt: skip
    return draw(effective(asked, total, performance), total)


def whole_of(phases: list[Phase]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample index, schedule (0 where there is none) and whether it is logged, of each row."""
    rows = sum(phase.rows for phase in phases)
    index, scheduled, logged = np.zeros(rows, np.uint32), np.zeros(rows, np.int64), np.zeros(rows, bool)
    for phase in phases:
        part = slice(phase.first_row, phase.first_row + phase.rows)
        index[part] = phase.sample_index
        if phase.scheduled is not None:
            scheduled[part] = phase.scheduled
        if phase.logged is not None:
            logged[part] = phase.logged
    return index, scheduled, logged


@settings(max_examples=60, deadline=None)
@given(
    SCENARIOS, st.sampled_from([Mode.PerformanceOnly, Mode.AccuracyOnly, Mode.SubmissionRun]),
    st.integers(0, 2**40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9),
)  # fmt: skip
def test_slices_together_are_the_whole(
    scenario: Scenario, mode: Mode, seed: int, total: int, performance: int, parts: int
) -> None:
    phases = drawn(scenario, mode, seed, total, min(performance, total))
    index, scheduled, logged = whole_of(phases)
    width = 3 if scenario == Scenario.MultiStream else 1
    seen = np.zeros(index.size, int)
    for part in range(parts):
        share = Slice(part, parts, width)
        own = share.of(phases)
        assert [one.loaded.tolist() for one in own] == [one.loaded.tolist() for one in phases]
        assert sum(one.rows for one in own) == share.count(index.size)
        row = 0
        for one, phase in zip(own, phases, strict=True):
            assert one.first_row == row == share.count(phase.first_row)
            row += one.rows
            rows = share.whole(np.arange(one.first_row, row))
            assert ((rows >= phase.first_row) & (rows < phase.first_row + phase.rows)).all()
            assert ((rows // width) % parts == part).all()
            assert one.sample_index.tobytes() == index[rows].tobytes()
            if phase.scheduled is not None:
                assert one.scheduled is not None
                assert one.scheduled.tobytes() == scheduled[rows].tobytes()
            assert (one.logged is None) == (phase.logged is None)
            if one.logged is not None:
                assert one.logged.tobytes() == logged[rows].tobytes()
            if one.rows:
                assert one.query_count * one.samples_per_query == one.rows
            seen[rows] += 1
    assert (seen == 1).all()


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 4), st.data())
def test_counting_rows_and_naming_them_agree(queries: int, parts: int, width: int, data: st.DataObject) -> None:
    share = Slice(data.draw(st.integers(0, parts - 1)), parts, width)
    rows = share.whole(np.arange(share.count(queries * width)))
    assert rows.tolist() == [row for row in range(queries * width) if row // width % parts == share.part]


@given(st.integers(1, 60), st.integers(1, 9))
def test_a_limit_of_queries_is_the_wholes(limit: int, parts: int) -> None:
    phases = drawn(Scenario.Server, Mode.PerformanceOnly, 1, 20, 20)
    rows = [Slice(part, parts).of(phases, limit)[0].rows for part in range(parts)]
    assert sum(rows) == min(limit, phases[0].rows)
    assert max(rows) - min(rows) <= 1


def test_a_bound_on_outstanding_queries_can_not_be_divided() -> None:
    asked = TestSettings(scenario=Scenario.Server, server_max_async_queries=5, server_target_qps=100)
    with pytest.raises(SettingsError, match="max_async"):
        Slice(0, 2).limits(effective(asked, 10, 10))


@pytest.mark.parametrize("scenario", [Scenario.Server, Scenario.Offline])
def test_parts_run_from_the_agreed_start(scenario: Scenario) -> None:
    """Two tests in this process do a share each: together they have issued what one has, counted from that start."""
    asked = TestSettings(
        scenario=scenario, min_duration_ms=100, server_target_qps=2000, offline_expected_qps=2000, min_query_count=1
    )
    alone = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(asked))
    starts: list[int] = []
    tests = []
    for part in range(2):
        share = Slice(part, 2)
        numbers: list[int] = []

        async def start(number: int, numbers: list[int] = numbers) -> int:
            numbers.append(number)
            starts.append(time.monotonic_ns() + 30_000_000)
            return starts[-1]

        table = Record(share.count(alone.record.rows))
        phases = [phase.entered(table) for phase in share.of(alone.phases)]
        shared = Share(share, phases, table, start)
        test = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(asked), share=shared)
        asyncio.run(test.run())
        assert numbers == [0]
        assert test.answers.origin_ns == starts[-1]
        assert 0 <= test.reports[0].start_late_ns < 10**9
        rows = share.whole(np.arange(table.rows))
        assert table.issued_rows == table.rows
        assert table.sample_index.tobytes() == alone.record.sample_index[rows].tobytes()
        assert table.scheduled.tobytes() == alone.record.scheduled[rows].tobytes()
        assert (table.issued >= table.scheduled).all()
        assert set(table.status.tolist()) == {Status.OK}
        tests.append(test)
    assert sum(test.reports[0].issued_rows for test in tests) == alone.record.rows


def test_a_start_that_is_over_is_told_and_not_moved() -> None:
    asked = TestSettings(scenario=Scenario.Server, min_duration_ms=50, server_target_qps=1000, min_query_count=1)

    async def start(number: int) -> int:
        return time.monotonic_ns() - 20_000_000

    alone = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(asked))
    share = Share(Slice(0, 1), alone.phases, alone.record, start)
    test = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(asked), share=share)
    asyncio.run(test.run())
    assert test.reports[0].start_late_ns >= 20_000_000
    assert test.record.issued[0] >= 20_000_000  # late, and known to be
    assert test.record.scheduled[0] == 0


@given(st.integers(0, 30), st.integers(1, 4), st.integers(1, 5))
def test_each_stream_has_the_rows_of_one_generator(queries: int, width: int, streams: int) -> None:
    rows = queries * width
    for part, found in enumerate(by_stream(slice(0, rows), rows, width, streams)):
        share = Slice(part, streams, width)
        np.testing.assert_array_equal(np.arange(rows)[found], share.whole(np.arange(share.count(rows))))
