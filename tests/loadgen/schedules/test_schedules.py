"""Arrival processes: Poisson's is the reference's however it is cut, and another one is a file and a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen import schedules
from drumfire.loadgen.draws import Int64Array, Words, exponential_ns
from drumfire.loadgen.run import Test
from drumfire.loadgen.schedules import Schedule
from drumfire.loadgen.schedules.poisson import Poisson
from drumfire.loadgen.settings import (
    EffectiveSettings,
    Loop,
    Mode,
    Scenario,
    SettingsError,
    TestSettings,
    effective,
)
from drumfire.loadgen.traffic import draw
from drumfire.sut.local.null import NullSystem, null_library
from tests.loadgen.schedules.constant import Constant
from tests.support.command import columns, here, one_line_error, result_of

ASKED = TestSettings(scenario=Scenario.Server, server_target_qps=1000, min_duration_ms=200, min_query_count=10)


def settings_of(**changed: Any) -> EffectiveSettings:
    return effective(TestSettings(**{**vars(ASKED), **changed}), 100, 100)


@pytest.fixture
def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(schedules.SCHEDULES, "constant", Constant)


def first(schedule: Schedule, settings: EffectiveSettings, count: int, chunk: int) -> Int64Array:
    chunks = itertools.islice(schedule.arrivals(settings, Words(7), chunk), -(-count // chunk))
    return np.concatenate(list(chunks))[:count]


@given(st.integers(1, 400), st.integers(1, 150), st.floats(1e-3, 1e9))
def test_poisson_is_the_references_however_it_is_cut(count: int, chunk: int, qps: float) -> None:
    found = first(Poisson(), settings_of(server_target_qps=qps), count, chunk)
    assert found.dtype == np.int64
    assert found.tobytes() == np.cumsum(exponential_ns(Words(7), qps, count)).tobytes()


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_a_schedule_keeps_its_contract(name: str) -> None:
    """Of each process: rising, at the mean rate, the same for the same words."""
    schedule, settings = schedules.get(name), settings_of()
    assert schedule.name == name
    due = first(schedule, settings, 20_000, 512)
    assert due[0] >= 0
    assert (np.diff(due) >= 0).all()
    assert due.size / (due[-1] * 1e-9) == pytest.approx(1000, rel=0.05)
    assert due.tobytes() == first(schedule, settings, 20_000, 3000).tobytes()


def test_a_process_of_small_chunks_is_asked_again() -> None:
    class One(Poisson):
        def arrivals(self, settings: EffectiveSettings, words: Words, chunk: int) -> Iterator[Int64Array]:
            return super().arrivals(settings, words, 1)

    for changed in ({}, {"min_query_count": 900}, {"sample_concatenate_permutation": True}):
        settings = settings_of(**changed)
        (found,), (expected,) = draw(settings, 100, One()), draw(settings, 100)
        assert found.scheduled is not None
        assert expected.scheduled is not None
        assert found.scheduled.tobytes() == expected.scheduled.tobytes()
        assert found.generated_duration_ns == expected.generated_duration_ns


def test_the_schedule_changes_when_and_nothing_else() -> None:
    (poisson,), (constant,) = draw(settings_of(), 100), draw(settings_of(), 100, Constant())
    assert constant.scheduled is not None
    assert constant.scheduled.tolist() == [at * 1_000_000 for at in range(201)]
    assert constant.generated_duration_ns == 201_000_000
    rows = min(poisson.rows, constant.rows)
    assert constant.sample_index[:rows].tobytes() == poisson.sample_index[:rows].tobytes()


def test_a_run_of_the_new_process_says_so(constant: None, tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", "1000", "--time", "0.2", "--json"]
    done = here(*words, "--no-dashboard", "--schedule", "Constant", "--output", tmp_path / "out")
    assert done.returncode in (0, 1), done.stderr
    result = result_of(done, done.returncode)
    assert result["note"] == "not MLPerf's traffic"
    assert result["schedule"] == {"name": "constant", "mlperf": False}
    assert any(text.startswith("constant arrivals: ") for text in result["warnings"])
    assert (np.diff(columns(tmp_path / "out")["scheduled"]) == 1_000_000).all()
    log = [json.loads(line.removeprefix(":::MLLOG ")) for line in (tmp_path / "out" / "mlperf_log_detail.txt").open()]
    assert next(one["value"] for one in log if one["metadata"]["is_warning"]).startswith("constant arrivals: ")


def test_a_run_of_mlperfs_says_nothing(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", "1000", "--time", "0.2", "--json"]
    done = here(*words, "--no-dashboard", "--output", tmp_path / "out")
    result = result_of(done, done.returncode)
    assert "schedule" not in result
    assert "arrivals" not in " ".join(result["warnings"])
    one_line_error(here(*words, "--schedule", "poison", "--output", tmp_path / "no"), "poison")
    with pytest.raises(SettingsError, match="only poisson"):
        schedules.get("gamma")


def test_only_an_open_loop_with_times_has_a_schedule() -> None:
    assert [scenario.loop for scenario in Scenario] == [Loop.CLOSED, Loop.CLOSED, Loop.OPEN, Loop.OPEN]
    for scenario in Scenario:
        asked = TestSettings(scenario=scenario, min_duration_ms=10, offline_expected_qps=1000)
        test = Test(NullSystem(Mode.PerformanceOnly), null_library(), asked, schedule=Constant())
        assert test.effective.loop is scenario.loop
        assert bool(test.departures()) == (scenario == Scenario.Server)
        assert test.answers.in_turn == (scenario.loop is Loop.CLOSED)
