"""What a run writes beyond the plain logs: traces, tokens, timestamps, and what checkers of submissions look for."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import directory, logs, trace
from drumfire.loadgen.faults import LATE_FIRST_TOKEN, SECOND_FIRST_TOKEN
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.summary import SUMMARY

MS = 1_000_000


class Library:
    name, total_count, performance_count = "numbers", 30, 20

    def load(self, indices: Any) -> None:
        pass

    unload = load

    def batch(self, indices: Any) -> Any:
        return indices


class Tokens:
    """Answers in the call, with a first token and ``count`` tokens, or without its first token."""

    name, answer = "tokens", None

    def __init__(self, count: int = 3, *, first: bool = True, tokens: bool = True) -> None:
        self.count, self.first, self.tokens = count, first, tokens
        self.columns: Mapping[str, Any] = {"first_token": np.int64, "n_tokens": np.int32} if tokens else {}

    async def open(self, answers: Any) -> None:
        self.answers = answers

    def issue(self, first: int, last: int) -> None:
        data = [int(index).to_bytes(4, "little") for index in self.answers.sample_index[first:last]]
        if self.tokens:
            self.answers.columns["n_tokens"][first:last] = self.count
            if self.first:
                self.answers.first_token(np.arange(first, last), [one[:2] for one in data])
        self.answers.complete(first, last, data)

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


def settings(scenario: Scenario, mode: Mode = Mode.PerformanceOnly, **values: Any) -> TestSettings:
    return TestSettings(
        scenario=scenario, mode=mode, min_duration_ms=50, min_query_count=700, server_target_qps=9000.0,
        offline_expected_qps=5000.0, single_stream_expected_latency_ns=2e3, multi_stream_expected_latency_ns=2e3,
        **values,
    )  # fmt: skip


def performed(system: Tokens, wanted: TestSettings, folder: Path, **given: Any) -> Test:
    test = Test(system, Library(), wanted, **given)
    asyncio.run(test.run())
    directory.save(test, directory.document(test, {}, []), folder)
    trace.write(test, folder / trace.TRACE)
    return test


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strictly(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=no_constant)


# Traces.


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly, Mode.SubmissionRun])
@pytest.mark.parametrize("scenario", Scenario)
def test_a_trace_is_json_and_tells_every_sample(scenario: Scenario, mode: Mode, tokens: bool, tmp_path: Path) -> None:
    test = performed(Tokens(tokens=tokens), settings(scenario, mode), tmp_path)
    found = strictly(tmp_path / trace.TRACE)
    assert found["displayTimeUnit"] == "ns"
    events = found["traceEvents"]
    samples = {letter: [e for e in events if e["name"] == "Sample" and e["ph"] == letter] for letter in "be"}
    issued = test.record.issued_rows
    assert [e["id"] for e in samples["b"]] == [e["id"] for e in samples["e"]] == list(range(issued))
    for begin, end in zip(samples["b"], samples["e"], strict=True):
        row = begin["id"]
        assert end["ts"] >= begin["ts"]
        assert begin["args"]["sample_idx"] == test.record.sample_index[row]
        latency = int(test.record.completed[row] - test.record.scheduled[row])
        assert begin["args"]["complete_ns"] == latency
        assert (end["ts"] - begin["ts"]) * 1000 == pytest.approx(latency, abs=2)
    queries = 0  # through all loaded sets
    for report in test.reports:
        of_first = samples["b"][report.phase.first_row]["args"]
        assert (of_first["sample_seq"], of_first["query_seq"]) == (report.phase.first_row, queries)
        queries += report.phase.query_count
    counters = [e["name"] for e in events if e["ph"] == "C"]
    performance = sum(r.issued_rows for r in test.reports if not r.phase.accuracy) * (scenario == Scenario.Server)
    assert counters.count("Latency") == performance
    assert counters.count("Token_Latency") == performance * tokens
    assert sum(e["name"] == "RunPhase" for e in events) == len(test.reports)


# Tokens.


@pytest.mark.parametrize("scenario", Scenario)
def test_the_accuracy_log_holds_tokens(scenario: Scenario, tmp_path: Path) -> None:
    test = performed(Tokens(5), settings(scenario, Mode.AccuracyOnly, use_token_latencies=True), tmp_path)
    entries = strictly(tmp_path / logs.ACCURACY)
    assert len(entries) == test.record.rows
    for entry in entries:
        assert entry["token_count"] == 5
        if scenario == Scenario.Offline:
            assert "token_data" not in entry
        else:
            assert entry["data"].startswith(entry["token_data"])
            assert len(entry["token_data"]) == 4


def test_first_tokens_are_kept_for_logged_rows_alone(tmp_path: Path) -> None:
    wanted = settings(Scenario.Server, use_token_latencies=True, accuracy_log_probability=0.2)
    test = performed(Tokens(), wanted, tmp_path)
    logged = test.phases[0].logged
    assert logged is not None
    assert sorted(test.answers.first_tokens) == np.flatnonzero(logged).tolist()
    assert all(entry["token_data"] for entry in strictly(tmp_path / logs.ACCURACY))


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (Tokens(1), "Number of tokens need to be greater than 1"),
        (Tokens(0), "n_tokens argument missing or attempted to record 0 as number of tokens"),
        (Tokens(-2), "Attempted to record a negative number of tokens"),
        (Tokens(first=False), "Attempted to record a sample latency before it's first token latency"),
    ],
)
def test_tokens_that_make_no_sense_are_errors(system: Tokens, text: str, tmp_path: Path) -> None:
    test = performed(system, settings(Scenario.Server, use_token_latencies=True), tmp_path)
    results = test.results()
    assert results is not None
    assert not results.valid
    assert any(text in reason for reason in results.reasons)
    found = [json.loads(line.removeprefix(":::MLLOG ")) for line in test.log.entries]
    errors = [entry["value"] for entry in found if entry["metadata"]["is_error"]]
    assert errors == [text] * test.record.issued_rows, "one a sample, as the reference has it"
    assert f"{len(errors)} ERRORS encountered" in (tmp_path / SUMMARY).read_text()
    keys = [entry["key"] for entry in found]
    assert keys[keys.index("error_runtime") - 1] == "generated_query_duration"


class Confused(Tokens):
    """Gives first tokens twice, and after the answer."""

    def issue(self, first: int, last: int) -> None:
        rows = np.arange(first, last)
        self.answers.columns["n_tokens"][first:last] = 3
        self.answers.first_token(rows)
        self.answers.first_token(rows)
        self.answers.complete(first, last)
        self.answers.first_token(rows)


def test_first_tokens_at_the_wrong_time_are_refused(tmp_path: Path) -> None:
    test = performed(Confused(), settings(Scenario.Server, use_token_latencies=True), tmp_path)
    refused = test.answers.faults.refused
    assert set(refused) == {SECOND_FIRST_TOKEN, LATE_FIRST_TOKEN}
    log = "".join(test.log.entries)
    assert log.count("Attempted to complete a sample twice.") == refused[SECOND_FIRST_TOKEN] > 0
    late = log.count("Attempted to record token latency after sample was completed")
    assert late == refused[LATE_FIRST_TOKEN] > 0


@pytest.mark.parametrize(
    ("scenario", "line"),
    [
        (Scenario.Offline, r"Tokens per second: [0-9.e+]+\nTokens per second \(inferred\): ([0-9.e+]+)\nResult is"),
        (
            Scenario.Server,
            r"Completed tokens per second: [0-9.]+\nCompleted tokens per second \(inferred\): ([0-9.]+)\nR",
        ),
        (Scenario.SingleStream, r"percentile latency \(ns\) : [0-9]+\n.*first token.*\nResult is()"),
    ],
)
def test_inferred_token_rates_are_in_the_summary(scenario: Scenario, line: str, tmp_path: Path) -> None:
    inferred = {"infer_token_latencies": True, "token_latency_scaling_factor": 69}
    test = performed(Tokens(), settings(scenario, use_token_latencies=True, **inferred), tmp_path)
    found = re.search(line, (tmp_path / SUMMARY).read_text())
    assert found is not None
    results = test.results()
    assert results is not None
    rates = [rate for name, rate in results.rates.items() if name.startswith("inferred")]
    if found[1]:
        assert [float(found[1])] == pytest.approx(rates, rel=1e-4)
    else:
        assert rates == []


# Timestamps.


@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly])
def test_timestamps_are_those_of_the_reference(mode: Mode, tmp_path: Path) -> None:
    told = io.StringIO()
    performed(Tokens(tokens=False), settings(Scenario.Server, mode, print_timestamps=True), tmp_path, timestamps=told)
    lines = told.getvalue().splitlines()
    if mode == Mode.AccuracyOnly:
        assert lines == []
        return
    assert [line.rstrip("0123456789.ms") for line in lines] == [
        "Loadgen :: Perf mode start. system_clock Timestamp = ",
        "Loadgen :: Perf mode stop. systme_clock Timestamp = ",
        "Loadgen :: PerfClock Perf duration = ",
        "Loadgen :: system_clock Perf duration = ",
        "Loadgen :: PerfClock/system_clock ratio = ",
    ]


# What checkers of submissions read.

FOR_ALL = {
    "effective_scenario", "effective_performance_sample_count", "effective_qsl_rng_seed",
    "effective_sample_index_rng_seed", "effective_schedule_rng_seed", "effective_min_duration_ms", "sut_name",
    "early_stopping_met", "effective_min_query_count", "effective_samples_per_query", "result_mean_latency_ns",
    "effective_sample_concatenate_permutation", "effective_target_latency_ns", "power_begin", "power_end",
    "result_query_count", "num_errors", "effective_accuracy_sample_count", "qsl_reported_total_count",
    "result_validity",
}  # fmt: skip
BY_SCENARIO = {
    Scenario.SingleStream: {
        "early_stopping_result", "early_stopping_latency_ss", "early_stopping_latency_ms",
        "result_qps_without_loadgen_overhead", "result_90.00_percentile_latency_ns",
    },
    Scenario.MultiStream: {
        "early_stopping_result", "early_stopping_latency_ms", "result_mean_query_latency_ns",
        "result_99.00_percentile_per_query_latency_ns",
    },
    Scenario.Server: {
        "early_stopping_result", "result_completed_samples_per_sec", "result_scheduled_samples_per_sec",
    },
    Scenario.Offline: {"result_samples_per_second"},
}  # fmt: skip
FOR_TOKENS = {"requested_use_token_latencies"}
FOR_TOKENS_IN_TIME = {
    "result_first_token_99.00_percentile_latency_ns", "result_time_per_output_token_99.00_percentile_ns",
    "early_stopping_ttft_result", "early_stopping_tpot_result",
}  # fmt: skip


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("scenario", Scenario)
def test_the_logs_in_a_submission_tree_hold_what_checkers_read(
    scenario: Scenario, tokens: bool, tmp_path: Path
) -> None:
    tree = tmp_path / "open" / "someone" / "results" / "system" / "resnet50" / scenario.name
    system = Tokens(tokens=tokens)
    performed(system, settings(scenario, use_token_latencies=tokens), tree / "performance" / "run_1")
    performed(system, settings(scenario, Mode.AccuracyOnly, use_token_latencies=tokens), tree / "accuracy")
    found = {}
    for folder in (tree / "performance" / "run_1", tree / "accuracy"):
        lines = (folder / logs.DETAIL).read_text().splitlines()
        assert lines[0].startswith(":::MLLOG {")
        entries = [json.loads(line.removeprefix(":::MLLOG "), parse_constant=no_constant) for line in lines]
        assert not any(entry["metadata"]["is_error"] for entry in entries)
        found[folder.name] = {entry["key"] for entry in entries}
    wanted = FOR_ALL | BY_SCENARIO[scenario]
    if tokens:
        wanted |= FOR_TOKENS
        if scenario != Scenario.Offline:
            wanted = (wanted | FOR_TOKENS_IN_TIME) - {"early_stopping_result"}
        if scenario == Scenario.Server:
            wanted |= {"result_completed_tokens_per_second"}
        if scenario == Scenario.Offline:
            wanted |= {"result_tokens_per_second"}
    assert wanted <= found["run_1"]
    assert {"effective_accuracy_sample_count", "qsl_reported_total_count", "effective_scenario"} <= found["accuracy"]
    assert not any(key.startswith("result_") for key in found["accuracy"])
    strictly(tree / "accuracy" / logs.ACCURACY)
