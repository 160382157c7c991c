"""The requested settings: what they accept, and what no test can follow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.traffic import draw, expected_rows

SIGNED = "server_find_peak_qps_decimals_of_precision"
NUMBERS = [name for name, value in vars(TestSettings()).items() if type(value) in (int, float) and name != SIGNED]
WHOLE = [name for name in NUMBERS if type(vars(TestSettings())[name]) is int]


@given(st.sampled_from([*Scenario, *Mode]), st.sampled_from([str, str.lower, str.upper]))
def test_scenario_and_mode_may_be_names(one: Scenario | Mode, case: Any) -> None:
    asked, field = TestSettings(), type(one).__name__.lower()
    for written in (case(one.name), int(one), one):
        setattr(asked, field, written)
        assert getattr(asked, field) is one
        assert getattr(TestSettings(**{field: written}), field) is one


@pytest.mark.parametrize("wrong", ["Sever", 7, None, ""])
def test_unknown_names_are_refused_with_the_known_ones(wrong: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"unknown scenario .*: choose one of SingleStream, MultiStream, Server, Off"
    ):
        TestSettings(scenario=wrong)
    with pytest.raises(SettingsError, match=r"unknown mode .*: choose one of SubmissionRun"):
        TestSettings(mode=wrong)


@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, None, "5"])
def test_no_number_is_negative_or_no_number(name: str, value: Any, scenario: Scenario) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be a .* number of at least 0, not "):
        effective(TestSettings(scenario=scenario, **{name: value}), 10, 10)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_may_be_written_as_others(name: str) -> None:
    assert type(getattr(TestSettings(**{name: 2e3}), name)) is int
    effective(TestSettings(**{"concurrency": 1, name: np.int64(2)}), 10, 10)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"{name} must be a whole number of at least 0, not 2.5"):
        effective(TestSettings(**{name: 2.5}), 10, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"scenario": "Server", "server_target_qps": 0}, "the target rate must be above 0"),
        ({"scenario": "Offline", "offline_expected_qps": 0}, "the target rate must be above 0"),
        ({"single_stream_expected_latency_ns": 0}, "the expected latency must be above 0"),
        ({"scenario": "MultiStream", "multi_stream_samples_per_query": 0}, "must be at least 1, not 0"),
    ],
)
def test_what_must_be_above_0(given: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        effective(TestSettings(**given), 10, 10)


EXTREMES = (0, 1e-300, 1e-12, 1e-6, 0.5, 1.7e308, 1, 3, 2**31, 2**53, 2**63, 2**64 - 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("mode", [Mode.AccuracyOnly, Mode.PerformanceOnly, Mode.SubmissionRun])
def test_any_number_makes_a_plan_that_is_foreseen_or_is_refused(scenario: Scenario, mode: Mode) -> None:
    for name in NUMBERS:
        for value in EXTREMES:
            if name in WHOLE and value != int(value):
                continue
            try:
                settings = effective(TestSettings(scenario=scenario, mode=mode, **{name: value}), 10, 10)
                rows = expected_rows(settings, 10)
                if rows < 100_000:  # more are refused or not, by the memory that there is
                    assert sum(phase.rows for phase in draw(settings, 10)) <= 2 * rows + 100
                said = ""
            except SettingsError as error:
                said = str(error)
            assert len(said) < 200
