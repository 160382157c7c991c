"""A generator's traffic: what the driver has drawn is in its table, and comes back as the same phases."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.fleet import traffic
from drumfire.loadgen.record import Record
from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.share import Slice
from drumfire.loadgen.traffic import draw


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.SubmissionRun])
def test_phases_travel(scenario: Scenario, mode: Mode, tmp_path: Path) -> None:
    asked = TestSettings(
        scenario=scenario, mode=mode, min_duration_ms=40, min_query_count=17, server_target_qps=900,
        offline_expected_qps=900, multi_stream_samples_per_query=3, accuracy_log_sampling_target=5,
    )  # fmt: skip
    whole = draw(effective(asked, 20, 8), 20)
    share = Slice(1, 3, 3 if scenario == Scenario.MultiStream else 1)
    sent = share.of(whole)
    table = Record(share.count(sum(phase.rows for phase in whole)))
    traffic.write(tmp_path / traffic.FILE, sent, table)
    there = Record.attach(os.dup(table.fd), table.layout)
    received = traffic.read(tmp_path / traffic.FILE, there)
    assert len(received) == len(sent) > 0
    for found, expected in zip(received, sent, strict=True):
        for name in ("accuracy", "first_row", "samples_per_query", "generated_duration_ns", "rows"):
            assert getattr(found, name) == getattr(expected, name)
            assert type(getattr(found, name)) is type(getattr(expected, name))
        for name in ("loaded", "sample_index", "scheduled", "logged"):
            one, other = getattr(found, name), getattr(expected, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == other.dtype
                assert one.tobytes() == other.tobytes()
        assert np.shares_memory(found.sample_index, there.sample_index)
        assert found.sample_index.flags.c_contiguous


def test_the_loop_of_several_travels(tmp_path: Path) -> None:
    asked = TestSettings(min_duration_ms=0, min_query_count=17, concurrency=7, think_time_ns=9)
    sent = Slice(2, 3).of(draw(effective(asked, 20, 8), 20))
    table = Record(sent[0].rows)
    traffic.write(tmp_path / traffic.FILE, sent, table)
    (received,) = traffic.read(tmp_path / traffic.FILE, table)
    assert (received.concurrency, received.think_time_ns) == (2, 9)
