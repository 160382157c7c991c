"""Figures and verdicts: from the reference's own samples to its own log entries, and any columns to finite numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.logs import result_values
from drumfire.loadgen.results import LOGGED_PERCENTILES, Measured, Results, distribution, evaluate
from drumfire.loadgen.settings import EffectiveSettings, Mode, Scenario, TestSettings, effective
from drumfire.loadgen.summary import summary
from drumfire.loadgen.traffic import draw

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = {
    path.stem: run for path in sorted(GOLDEN.glob("*.json")) if "deterministic" in (run := json.loads(path.read_text()))
}
PERFORMANCE = [name for name, run in RUNS.items() if run["timing_dependent"]["results"]]
ACCURACY = [name for name in RUNS if name not in PERFORMANCE]
MS = 1_000_000  # ns

# The recorded samples tell no first token's time, so these figures of the token run can not be computed again.
OF_FIRST_TOKEN = ("result_first_token_", "result_time_per_output_token_", "result_time_to_output_token_")
OF_FIRST_TOKEN_LINES = ("irst token latency", "irst Token latency", "ime per Output Token", "ime to output token")
# The reference counts from a start that it does not log; its first query was issued some hundred ns later.
FROM_THE_START, FROM_THE_START_LINE = "result_qps_with_loadgen_overhead", "QPS w/ loadgen overhead"


def settings_of(run: dict) -> EffectiveSettings:
    values = dict(run["test_settings"])
    values["scenario"], values["mode"] = Scenario[values["scenario"]], Mode[values["mode"]]
    return effective(TestSettings(**values), run["spec"]["total"], run["spec"]["perf"])


def recorded(run: dict) -> tuple[EffectiveSettings, Results]:
    """What we make of the samples that the reference recorded in its performance phase."""
    settings = settings_of(run)
    phase = draw(settings, run["spec"]["total"])[-1]
    rows = np.array([row for row in run["timing_dependent"]["samples"] if row[0] >= phase.first_row], np.int64)
    scheduled = rows[:, 2] - rows[0, 2]
    tokens = run["spec"]["sut"].get("tokens")
    measured = Measured(
        scheduled=scheduled,
        issued=scheduled + rows[:, 3],
        completed=scheduled + rows[:, 4],
        answered=np.ones(len(rows), bool),
        samples_per_query=phase.samples_per_query,
        first_token=scheduled if tokens else None,
        tokens=np.full(len(rows), tokens) if tokens else None,
    )
    return settings, evaluate(settings, measured)


def as_logged(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:g}")
    return value.replace("\n", " ") if isinstance(value, str) else value


@pytest.mark.parametrize("name", PERFORMANCE)
def test_result_entries(name: str) -> None:
    known = RUNS[name]["timing_dependent"]["results"]
    settings, results = recorded(RUNS[name])
    ours = {**result_values(settings, results), "num_errors": known["num_errors"]}
    assert list(ours) == list(known)
    left_out = [key for key in known if key.startswith(OF_FIRST_TOKEN)] if settings.use_token_latencies else []
    if FROM_THE_START in known:
        left_out.append(FROM_THE_START)
        assert ours[FROM_THE_START] == pytest.approx(known[FROM_THE_START], rel=1e-5)
    wrong = {
        key: (as_logged(ours[key]), value)
        for key, value in known.items()
        if key not in left_out and as_logged(ours[key]) != value
    }
    assert wrong == {}
    assert len(left_out) <= (18 if settings.use_token_latencies else 1)


@pytest.mark.parametrize("name", PERFORMANCE)
def test_summary_text(name: str) -> None:
    settings, results = recorded(RUNS[name])
    errors = RUNS[name]["timing_dependent"]["results"]["num_errors"]
    warnings = RUNS[name]["detail_log"].count('"is_warning": true')
    ours = summary("PySUT", settings, results, warnings=warnings, errors=errors).split("\n")
    known = RUNS[name]["summary_log"].split("\n")
    left_out = (FROM_THE_START_LINE, *(OF_FIRST_TOKEN_LINES if settings.use_token_latencies else ()))
    assert [line.partition(":")[0] for line in ours] == [line.partition(":")[0] for line in known]
    assert [(a, b) for a, b in zip(ours, known, strict=True) if a != b and not any(w in b for w in left_out)] == []


@pytest.mark.parametrize("name", ACCURACY)
def test_summary_text_of_accuracy_runs(name: str) -> None:
    warnings = RUNS[name]["detail_log"].count('"is_warning": true')
    assert summary("PySUT", settings_of(RUNS[name]), None, warnings=warnings, errors=0) == RUNS[name]["summary_log"]


def test_recorded_verdicts_differ() -> None:
    verdicts = {RUNS[name]["timing_dependent"]["results"]["result_validity"] for name in PERFORMANCE}
    assert verdicts == {"VALID", "INVALID"}
    assert len(PERFORMANCE) == 8
    assert len(ACCURACY) == 2


# Statistics.

LATENCIES = st.lists(st.integers(0, 2**62) | st.integers(0, 100), max_size=200)


@given(LATENCIES, st.lists(st.floats(0, 1, exclude_max=True), max_size=4), st.lists(st.integers(-3, 205), max_size=4))
def test_distribution_equals_a_sort(values: list[int], percentiles: list[float], ranks: list[int]) -> None:
    found, ordered, n = distribution(np.array(values, np.int64), percentiles, ranks), sorted(values), len(values)
    assert found.count == n
    assert (found.minimum, found.maximum) == ((ordered[0], ordered[-1]) if n else (0, 0))
    assert found.mean == (sum(values) // n if n else 0)
    assert found.percentiles == {p: ordered[int(n * p)] if n else 0 for p in percentiles}
    assert all(found.ranked[rank] == ordered[rank] for rank in ranks if 0 <= rank < n)
    assert set(found.ranked) <= set(range(n))


def test_the_sum_does_not_overflow() -> None:
    """Ten million latencies of an hour are more than 64 bits hold."""
    hour = 3_600_000_000_000
    values = np.full(10_000_000, hour)
    values[0] += 10_000_000
    assert distribution(values).mean == hour + 1
    extreme = np.array([2**63 - 1, 2**63 - 2, 2**63 - 1, 0])
    assert distribution(extreme).mean == sum(extreme.tolist()) // 4


def test_the_values_are_left_as_they_are() -> None:
    values = np.array([3, 1, 2])
    distribution(values)
    assert values.tolist() == [3, 1, 2]


# Verdicts.


def settings_for(scenario: Scenario, **values: object) -> EffectiveSettings:
    asked = {"min_duration_ms": 0, "min_query_count": 1, "multi_stream_samples_per_query": 4, **values}
    return effective(TestSettings(scenario=scenario, **asked), 100, 100)


def columns(
    scenario: Scenario, queries: int, width: int, latency_ns: int = MS, answered: np.ndarray | None = None
) -> Measured:
    """Queries 2 ms apart, each row answered a given time after it was due; Offline all due at once."""
    query = np.repeat(np.arange(queries, dtype=np.int64), width)
    due = np.zeros_like(query) if scenario == Scenario.Offline else query * 2 * MS
    done = due + latency_ns
    answered = np.ones(query.size, bool) if answered is None else answered
    return Measured(due, due + 1000, np.where(answered, done, 0), answered, width)


WIDTH = {Scenario.SingleStream: 1, Scenario.MultiStream: 4, Scenario.Server: 1, Scenario.Offline: 700}


def good_run(scenario: Scenario) -> tuple[EffectiveSettings, Measured]:
    queries = 1 if scenario == Scenario.Offline else 700
    return settings_for(scenario), columns(scenario, queries, WIDTH[scenario])


@pytest.mark.parametrize("scenario", Scenario)
def test_a_good_run_is_valid(scenario: Scenario) -> None:
    results = evaluate(*good_run(scenario))
    assert results.valid
    assert results.reasons == []
    assert result_values(good_run(scenario)[0], results)["result_validity"] == "VALID"


@pytest.mark.parametrize("scenario", Scenario)
def test_a_failed_sample_makes_it_invalid(scenario: Scenario) -> None:
    settings, measured = good_run(scenario)
    answered = measured.answered.copy()
    answered[5] = False
    told = "1 of 700 samples failed, most often with: out of memory"
    failed = replace(measured, answered=answered, completed=np.where(answered, measured.completed, 0))
    results = evaluate(settings, failed, [told])
    assert not results.valid
    assert results.reasons[0] == told
    assert results.samples == measured.answered.size - 1
    assert results.latency.minimum == MS, "a failed sample has no latency"
    logged = result_values(settings, results)
    assert logged["result_validity"] == "INVALID"
    assert told in logged["result_invalid_reason"]
    assert f" * {told}" in summary("sut", settings, results, warnings=0, errors=0)


@pytest.mark.parametrize(
    ("scenario", "asked", "advice"),
    [
        (Scenario.SingleStream, {"min_duration_ms": 1399}, "Decrease the expected latency"),
        (Scenario.MultiStream, {"min_duration_ms": 1399}, "Decrease the expected latency"),
        (Scenario.Server, {"min_duration_ms": 1399}, "Increase the target QPS"),
        (Scenario.Offline, {"min_duration_ms": 2}, "Increase expected QPS"),
        (Scenario.SingleStream, {"min_query_count": 701}, "The test exited early"),
        (Scenario.MultiStream, {"min_query_count": 701}, "The test exited early"),
        (Scenario.Server, {"min_query_count": 701}, "The test exited early"),
        (Scenario.Offline, {"min_query_count": 701}, "The test exited early"),
        (Scenario.Server, {"server_target_latency_ns": MS - 1}, "Reduce target QPS"),
    ],
)
def test_each_rule_fails_alone(scenario: Scenario, asked: dict, advice: str) -> None:
    results = evaluate(settings_for(scenario, **asked), good_run(scenario)[1])
    assert not results.valid
    assert len(results.recommendations) == 1
    assert results.recommendations[0].startswith(advice)


@pytest.mark.parametrize(
    ("scenario", "asked"),
    [
        (Scenario.SingleStream, {"min_duration_ms": 1398}),
        (Scenario.Server, {"min_duration_ms": 1398}),
        (Scenario.Server, {"server_target_latency_ns": MS}),
        (Scenario.Offline, {"min_duration_ms": 1}),
        (Scenario.Server, {"min_query_count": 700}),
    ],
)
def test_each_rule_is_met_at_its_bound(scenario: Scenario, asked: dict) -> None:
    assert evaluate(settings_for(scenario, **asked), good_run(scenario)[1]).valid


@pytest.mark.parametrize(
    ("scenario", "queries", "met"),
    [
        (Scenario.Server, 458, False),
        (Scenario.Server, 459, True),
        (Scenario.SingleStream, 63, False),
        (Scenario.SingleStream, 64, True),
        (Scenario.MultiStream, 661, False),
        (Scenario.MultiStream, 662, True),
        (Scenario.Offline, 1, True),
    ],
)
def test_too_few_queries_for_early_stopping(scenario: Scenario, queries: int, met: bool) -> None:
    """The reference lists no reason then; ours gives one."""
    results = evaluate(settings_for(scenario), columns(scenario, queries, WIDTH[scenario]))
    assert results.valid == results.stopping.met == met
    assert results.recommendations == ()
    assert len(results.reasons) == (0 if met else 1)


def test_early_stopping_estimates_are_ranks_of_the_run() -> None:
    measured = columns(Scenario.SingleStream, 1000, 1)
    latency = np.random.default_rng(3).permutation(1000) * 1000 + 1000
    results = evaluate(settings_for(Scenario.SingleStream), replace(measured, completed=measured.scheduled + latency))
    # 1000 queries: the 77 highest go for p90 and the highest one for p99 (t is 78 and 2).
    assert (results.stopping.estimate_ns, results.stopping.p99_estimate_ns) == (923_000, 999_000)
    assert results.latency.percentiles[0.5] == 501_000


def test_multistream_latency_is_that_of_the_last_sample() -> None:
    measured = columns(Scenario.MultiStream, 700, 4)
    completed = measured.completed + np.tile([0, 5000, 2000, 1000], 700)
    results = evaluate(settings_for(Scenario.MultiStream), replace(measured, completed=completed))
    assert results.query_latency is not None
    assert (results.query_latency.minimum, results.query_latency.maximum) == (MS + 5000, MS + 5000)
    assert (results.latency.minimum, results.latency.maximum) == (MS, MS + 5000)
    assert results.target_percentile_ns == MS + 5000


def test_rates_count_as_the_reference_does() -> None:
    server = evaluate(*good_run(Scenario.Server)).rates
    assert server["scheduled_samples_per_sec"] == pytest.approx(699 / 1.398)
    assert server["completed_samples_per_sec"] == pytest.approx(699 / 1.399)
    assert evaluate(*good_run(Scenario.Offline)).rates["samples_per_second"] == pytest.approx(700 / 0.001)
    single = evaluate(*good_run(Scenario.SingleStream)).rates
    assert single["qps_with_loadgen_overhead"] == pytest.approx(699 / 1.398001)
    assert single["qps_without_loadgen_overhead"] == pytest.approx(1000)


def test_server_completion_is_that_of_the_last_issued_query() -> None:
    """Not the latest completion: so counts the reference."""
    settings, measured = good_run(Scenario.Server)
    completed = measured.completed.copy()
    completed[3] = 10_000 * MS
    rates = evaluate(settings, replace(measured, completed=completed)).rates
    assert rates["completed_samples_per_sec"] == pytest.approx(699 / 1.399)


# Runs of no query, one query, and any other.


def all_figures_are_finite(settings: EffectiveSettings, results: Results) -> bool:
    logged = result_values(settings, results)
    text = summary("sut", settings, results, warnings=0, errors=0).lower()
    values_are = all(math.isfinite(value) for value in logged.values() if isinstance(value, float))
    return values_are and " nan" not in text and " -nan" not in text and " inf" not in text


@pytest.mark.parametrize("queries", [0, 1])
@pytest.mark.parametrize("latency_ns", [0, MS])
@pytest.mark.parametrize("scenario", Scenario)
def test_hardly_any_query(scenario: Scenario, queries: int, latency_ns: int) -> None:
    settings = settings_for(scenario)
    results = evaluate(settings, columns(scenario, queries, WIDTH[scenario], latency_ns))
    assert all_figures_are_finite(settings, results)
    assert results.queries == queries
    if scenario != Scenario.Offline or queries == 0:
        assert not results.valid


@given(
    st.sampled_from(Scenario), st.integers(0, 90), st.integers(0, 3), st.randoms(use_true_random=False), st.booleans()
)
def test_any_columns_give_finite_figures(scenario: Scenario, queries: int, spread: int, rng, some_fail: bool) -> None:
    queries = min(queries, 1) if scenario == Scenario.Offline else queries
    width = {Scenario.Offline: 37}.get(scenario, WIDTH[scenario])
    answered = np.array([not some_fail or rng.random() < 0.7 for _ in range(queries * width)], bool)
    measured = columns(scenario, queries, width, rng.randrange(10**spread) * MS, answered)
    settings = settings_for(scenario)
    results = evaluate(settings, measured, ["some failed"] if not answered.all() else [])
    assert all_figures_are_finite(settings, results)
    assert results.samples == np.count_nonzero(answered)
    assert not (results.valid and not answered.all())


# Tokens.


def token_run(n: int = 700, **asked: object) -> tuple[EffectiveSettings, Measured]:
    """Each query's first token comes after 10 ms and its 5 tokens are there after 50 ms."""
    settings = settings_for(
        Scenario.Server, use_token_latencies=True, **{"ttft_latency": 10 * MS, "tpot_latency": 10 * MS, **asked}
    )
    measured = columns(Scenario.Server, n, 1, 50 * MS)
    return settings, replace(measured, first_token=measured.scheduled + 10 * MS, tokens=np.full(n, 5))


def test_token_arithmetic() -> None:
    settings, measured = token_run()
    results = evaluate(settings, measured)
    assert results.valid
    assert results.first_token is not None
    assert results.time_per_output_token is not None
    assert set(results.first_token.percentiles.values()) == {10 * MS}
    assert set(results.time_per_output_token.percentiles.values()) == {10 * MS}
    last_done_s = 1.398 + 0.05
    assert results.rates["completed_tokens_per_second"] == pytest.approx(3500 / last_done_s)
    assert results.rates["token_throughput_with_loadgen_overhead"] == pytest.approx(3500 / 1.398001)
    assert results.rates["token_throughput"] == pytest.approx(5 / (50 * MS)), "per ns, as the reference has it"


def test_time_per_token_is_cut_to_whole_ns() -> None:
    settings, measured = token_run()
    completed = measured.scheduled + 10 * MS + np.resize([3, 4, 7, 8], 700)
    found = evaluate(settings, replace(measured, completed=completed)).time_per_output_token
    assert found is not None
    assert (found.minimum, found.maximum) == (0, 2)  # 3 // 4 and 8 // 4


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ({"ttft_latency": 10 * MS - 1}, ("TTFT constrain not met: Reduce target QPS to improve latency.",)),
        ({"tpot_latency": 10 * MS - 1}, ("TPOT constrain not met: Reduce target QPS to improve latency.",)),
        (
            {"ttft_latency": 1, "tpot_latency": 1},
            (
                "TTFT constrain not met: Reduce target QPS to improve latency.\n"
                " * TPOT constrain not met: Reduce target QPS to improve latency.",
            ),
        ),
    ],
)
def test_token_bounds_are_judged(asked: dict, advice: tuple[str, ...]) -> None:
    results = evaluate(*token_run(**asked))
    assert not results.valid
    assert results.recommendations == advice
    assert not results.stopping.met


def test_the_whole_latency_does_not_count_where_tokens_do() -> None:
    results = evaluate(*token_run(server_target_latency_ns=1))
    assert results.valid
    assert results.over_latency == 700


def test_first_token_is_not_judged_when_time_per_token_failed() -> None:
    """The reference stops at the first test that fails; the time per output token comes first."""
    results = evaluate(*token_run(ttft_latency=1, tpot_latency=1))
    assert results.token_stopping is not None
    first, per_token = results.token_stopping
    assert first.text == ""
    assert "Run unsuccessful" in per_token.text


def test_every_percentile_that_the_reference_logs() -> None:
    assert LOGGED_PERCENTILES == (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
