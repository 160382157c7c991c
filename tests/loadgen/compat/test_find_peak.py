"""The reference's search for a peak: its steps as recorded, and what it leaves in the log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from drumfire.loadgen.compat.find_peak import find_peak, trials
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings

MS = 1_000_000


def steps(start: float, step: float, decimals: int, capacity: float) -> tuple[list[float], float | None]:
    search = trials(start, step, decimals)
    tried, trial = [], next(search)
    while True:
        tried.append(trial.qps)
        try:
            trial = search.send(trial.qps <= capacity)
        except StopIteration as end:
            return tried, end.value


def test_the_steps_recorded_of_the_reference() -> None:
    tried, peak = steps(20, 1.0, 0, 166)
    assert tried == [20, 40, 80, 160, 320, 240, 200, 180, 170, 165, 167.5, 166.25]
    assert peak == 165
    tried, peak = steps(40, 1.0, 0, 206)
    assert tried == [40, 80, 160, 320, 240, 200, 220, 210, 205, 207.5, 206.25]
    assert peak == 205


def test_a_start_that_fails_is_the_end() -> None:
    assert steps(400, 1.0, 1, 206) == ([400], None)


class Capacity:
    """Keeps the bound up to ``qps`` queries a second, whatever the time that really passes."""

    name, columns, answer = "capacity", {}, None

    def __init__(self, qps: float) -> None:
        self.qps, self.rate = qps, 0.0

    async def open(self, answers: Any) -> None:
        self.answers = answers
        scheduled = answers.columns["scheduled"]
        self.late = len(scheduled) > self.qps * 0.1

    def issue(self, first: int, last: int) -> None:
        self.answers.complete(first, last)
        due = self.answers.columns["scheduled"][first:last]
        self.answers.columns["completed"][first:last] = due + (1000 if self.late else 1) * MS

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Library:
    name, total_count, performance_count = "numbers", 10, 10

    def load(self, indices: Any) -> None:
        pass

    unload = load

    def batch(self, indices: Any) -> Any:
        return indices


def entries(log: list[str]) -> list[tuple[str, Any]]:
    found = [json.loads(line.removeprefix(":::MLLOG ")) for line in log]
    return [(entry["key"], entry["value"]) for entry in found]


def search(start: float, scenario: Scenario = Scenario.Server) -> Any:
    settings = TestSettings(
        scenario=scenario,
        mode=Mode.FindPeakPerformance,
        server_target_qps=start,
        min_duration_ms=100,
        min_query_count=1,
        server_find_peak_qps_decimals_of_precision=-2,
        server_target_latency_ns=100 * MS,
    )
    return asyncio.run(find_peak(Capacity(5000.0), Library(), settings))


def test_the_log_tells_the_search_as_the_reference_does() -> None:
    test = search(1000.0)
    said = [value for key, value in entries(test.log.entries) if key == "generic_message"]
    assert said[:3] == [
        "Starting FindPeakPerformance mode",
        "FindPeakPerformance: Check validity of the base settings field: 1000.000000",
        "FindBoundaries: Checking fields [1000.000000, 2000.000000)",
    ]
    found = next(at for at, text in enumerate(said) if "Found boundaries" in text)
    assert said[found] == "FindPeakPerformance: Found boundaries: [4000.000000, 8000.000000)"
    tested = "FindPeakPerformanceBinarySearch: Testing the mid value of bounds [4000.000000, 8000.000000): 6000.000000"
    assert said[found + 1] == tested
    assert said[-1] == f"FindPeakPerformance: Found peak performance field: {test.effective.target_qps:f}"
    assert test.effective.target_qps == pytest.approx(5000, rel=0.1)
    keys = [key for key, _ in entries(test.log.entries)]
    assert keys.count("requested_test_mode") == 1
    assert keys.count("power_begin") == keys.count("loaded_qsl_set") > 5
    # A trial's set is loaded before its rate is told, as in the reference's log.
    mid = next(at for at, (_, value) in enumerate(entries(test.log.entries)) if value == tested)
    assert keys[mid - 1] == "loaded_qsl_set"
    assert keys[mid + 1] == "generated_query_count"
    results = test.results()
    assert results is not None
    assert results.performance_met
    assert test.log.errors == 0


def test_a_start_that_fails_is_reported_with_its_error() -> None:
    test = search(20_000.0)
    errors = [value for key, value in entries(test.log.entries) if key == "error_runtime"]
    assert errors == [
        "FindPeakPerformance: Initial lower bound does not satisfy performance constraints, "
        "msg: Reduce target QPS to improve latency."
    ]
    assert not test.results().performance_met


def test_a_start_that_is_interrupted_ends_the_search_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It met its bound of latency, so there is no advice on it."""
    drive = Test.run

    async def run_and_interrupt(test: Test) -> None:
        await drive(test)
        test.interrupt("interrupted by SIGTERM")

    monkeypatch.setattr(Test, "run", run_and_interrupt)
    test = search(1000.0)
    (error,) = [value for key, value in entries(test.log.entries) if key == "error_runtime"]
    assert error.endswith("constraints, msg: interrupted by SIGTERM")
    assert test.results().performance_met


def test_other_scenarios_are_an_error_and_run_nothing() -> None:
    test = search(1000.0, Scenario.Offline)
    assert ("error_invalid_config", "Finding peak performance is only supported in Server scenarios.") in entries(
        test.log.entries
    )
    assert test.results() is None
    assert test.record.issued_rows == 0
