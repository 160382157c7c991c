"""What a person is told to change: names that exist, and values that suffice."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.advice import OPTIONS, Knob, foreseen, of_settings, on_lateness, on_size
from drumfire.loadgen.early_stopping import least_queries
from drumfire.loadgen.results import Measured, evaluate
from drumfire.loadgen.settings import EffectiveSettings, Scenario, TestSettings, effective

MS = 1_000_000
CLOSED = [Scenario.SingleStream, Scenario.MultiStream]


def settings(scenario: Scenario, **asked: object) -> EffectiveSettings:
    given = {"min_duration_ms": 1000, "min_query_count": 1, "multi_stream_samples_per_query": 2} | asked
    return effective(TestSettings(scenario=scenario, **given), 10, 10)  # type: ignore[arg-type]


def measured(scenario: Scenario, queries: int, latency_ns: int = MS, period_ns: int = 2 * MS) -> Measured:
    width = {Scenario.MultiStream: 2, Scenario.Offline: queries}.get(scenario, 1)
    queries = 1 if scenario == Scenario.Offline else queries
    due = np.repeat(np.arange(queries, dtype=np.int64) * period_ns, width)
    return Measured(due, due, due + latency_ns, np.ones(due.size, np.bool_), width)


def told(s: EffectiveSettings, m: Measured, spoiled: tuple[str, ...] = ()) -> list[str]:
    found = evaluate(s, m, spoiled, OPTIONS)
    assert bool(found.reasons) != found.valid
    return found.reasons


@given(st.floats(1e-6, 1e9), st.sampled_from([1.0, 1e3, 1e9]))
def test_a_value_suffices_and_is_round(value: float, factor: float) -> None:
    knob = Knob("x", "", factor)
    exact = Decimal(value) * Decimal(factor)
    least, most = (Decimal(text.split()[2]) for text in (knob.at_least(value), knob.at_most(value)))
    assert most <= exact <= least
    assert all(len(one.normalize().as_tuple().digits) <= 2 for one in (least, most))


@given(st.floats(1, 1e6), st.integers(1, 400))
def test_the_time_that_is_foreseen_is_long_enough(qps: float, queries: int) -> None:
    s = settings(Scenario.Server, server_target_qps=qps)
    (line,) = foreseen(s, queries, 2000 * MS, OPTIONS)
    time, rate = re.search(r"--time to (\S+) s or more, or --qps to (\S+) or more$", line).groups()  # type: ignore[union-attr]
    assert float(time) * qps > least_queries(0.99)
    assert float(rate) * s.expected_s > least_queries(0.99)


def test_200_a_second_need_more_than_2_s() -> None:
    (line,) = foreseen(settings(Scenario.Server, server_target_qps=200, min_duration_ms=2000), 400, 2**40, OPTIONS)
    assert "raise --time to 2.7 s or more, or --qps to 270 or more" in line


@pytest.mark.parametrize("scenario", CLOSED)
def test_a_count_that_ends_a_run_early(scenario: Scenario) -> None:
    s = settings(scenario, max_query_count=100, min_query_count=100, min_duration_ms=600_000)
    first = told(s, measured(scenario, 100))[0]
    count = int(re.search(r"raise --count to (\d+) or more, or lower --time to 0.19 s or less", first).group(1))  # type: ignore[union-attr]
    assert count * 2 * MS >= 600_000 * MS
    assert "latency" not in first


@pytest.mark.parametrize("scenario", CLOSED)
def test_queries_that_did_not_last_are_given_by_number(scenario: Scenario) -> None:
    """``--count`` is an option; of a program, the expected latency is a setting."""
    s, m = settings(scenario, min_duration_ms=2000), measured(scenario, 961)
    (line,) = told(s, m)
    count = int(re.search(r"faster than expected; run again, or set --count to (\d+) or more\.$", line).group(1))  # type: ignore[union-attr]
    assert count * 2 * MS >= 2000 * MS
    assert "--user-conf" not in line
    (own,) = evaluate(s, m, (), of_settings(scenario)).reasons
    assert "lower " + ("multi" if scenario == Scenario.MultiStream else "single") + "_stream_expected_latency_ns" in own


@pytest.mark.parametrize("scenario", Scenario)
def test_no_line_names_what_has_no_effect(scenario: Scenario) -> None:
    found = []
    for asked in ({"min_duration_ms": 60_000}, {"max_query_count": 50, "min_query_count": 70}, {"max_duration_ms": 5}):
        found += told(settings(scenario, server_target_latency_ns=1, **asked), measured(scenario, 50))
    lines = " ".join(found)
    assert found
    if scenario in CLOSED:
        assert "--qps" not in lines
    if scenario != Scenario.Server:
        assert "--max-latency" not in lines
    for option in re.findall(r"--[a-z-]+", lines):
        assert option in {"--time", "--count", "--qps", "--max-latency", "--user-conf"}
    for words in ("pre-generates", "expected latency", "exited early"):
        assert words not in lines


def test_a_rate_cannot_help_where_the_fastest_answer_is_too_slow() -> None:
    s = settings(Scenario.Server, server_target_latency_ns=100 * MS, min_duration_ms=100)
    (line,) = told(s, measured(Scenario.Server, 700, 500 * MS))
    assert line == (
        "Even the fastest answer took 500 ms, longer than the bound of 100 ms: raise --max-latency to 0.5 s or more."
    )


def test_a_bound_that_is_missed_is_one_line_with_both_cures() -> None:
    m = measured(Scenario.Server, 700)
    slow = m.completed.copy()
    slow[:100] += 20 * MS
    s = settings(Scenario.Server, server_target_latency_ns=10 * MS, min_duration_ms=100)
    (line,) = told(s, replace(m, completed=slow))
    assert line == (
        "100 of 700 queries took longer than the bound of 10 ms, too many for p99, which was 21 ms: lower --qps, or "
        "raise --max-latency."
    )


def test_a_few_over_the_bound_may_need_more_queries() -> None:
    m = measured(Scenario.Server, 500)
    slow = m.completed.copy()
    slow[0] += 20 * MS
    s = settings(Scenario.Server, server_target_latency_ns=10 * MS, min_duration_ms=900)
    (line,) = told(s, replace(m, completed=slow))
    assert "1 of 500 queries" in line
    assert re.search(r"send \d+ more queries \(raise --time\)", line)


@pytest.mark.parametrize("scenario", Scenario)
def test_of_a_run_that_was_cut_short_its_length_says_nothing(scenario: Scenario) -> None:
    s = settings(scenario, min_duration_ms=60_000, min_query_count=1000)
    assert told(s, measured(scenario, 5), ("The run was cut short: Ctrl-C.",)) == ["The run was cut short: Ctrl-C."]


def test_offline_names_the_rate_that_fills_the_time() -> None:
    s = settings(Scenario.Offline, offline_expected_qps=100)
    (line,) = told(s, measured(Scenario.Offline, 110, 10 * MS))
    rate = float(re.search(r"raise --qps to (\S+) or more", line).group(1))  # type: ignore[union-attr]
    assert rate >= 110 / 0.01
    again = settings(Scenario.Offline, offline_expected_qps=rate)
    assert again.samples_per_query / (110 / 0.01) >= 1.0


@pytest.mark.parametrize("scenario", Scenario)
def test_a_program_reads_the_names_of_settings(scenario: Scenario) -> None:
    s = settings(scenario, min_duration_ms=60_000)
    lines = " ".join(evaluate(s, measured(scenario, 5)).reasons)
    assert "--" not in lines
    names = set(re.findall(r"[a-z]+_[a-z_]+", lines))
    assert names
    assert all(hasattr(TestSettings(), name) for name in names)


def test_lateness_names_only_what_helps() -> None:
    server, single = settings(Scenario.Server), settings(Scenario.SingleStream)
    assert on_lateness(single, OPTIONS) == "free a core for the generator"
    assert on_lateness(server, OPTIONS) == "free a core for the generator, or lower --qps"
    local, remote = replace(OPTIONS, threads="--threads"), replace(OPTIONS, workers="--workers")
    assert on_lateness(single, local) == "free a core for the generator (fewer --threads)"
    assert on_lateness(server, remote).endswith("lower --qps, or send from more processes (--workers)")


def test_memory_names_only_what_helps() -> None:
    assert on_size(settings(Scenario.MultiStream), OPTIONS) == "lower --samples-per-query or --time"
    assert on_size(settings(Scenario.SingleStream), OPTIONS) == "lower --time"
    assert on_size(settings(Scenario.SingleStream, min_query_count=10**9), OPTIONS) == "lower --count"
    assert on_size(settings(Scenario.Server), of_settings(Scenario.Server)) == (
        "lower server_target_qps or min_duration_ms"
    )
