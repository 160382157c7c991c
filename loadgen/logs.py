"""The reference's logs for other programs: mlperf_log_detail.txt and mlperf_log_accuracy.json.

Keys, types and order are the reference's, so its parsers can read them; every detail line is strict JSON.
Entries stay in memory during the run and are written after it.  Nothing here measures or evaluates.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import environment
from drumfire.loadgen.advice import EXITED_EARLY
from drumfire.loadgen.faults import LATE_FIRST_TOKEN, SECOND_ANSWER, SECOND_FIRST_TOKEN
from drumfire.loadgen.issue import End
from drumfire.loadgen.issuer import PhaseReport
from drumfire.loadgen.record import Column
from drumfire.loadgen.responses import Kept, as_bytes
from drumfire.loadgen.results import LOGGED_PERCENTILES, Distribution, Results
from drumfire.loadgen.settings import LOGGED_IN_THIS_ORDER, EffectiveSettings, Scenario, TestSettings
from drumfire.loadgen.traffic import Phase

DETAIL, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_accuracy.json"

# Statistics of the reference's logger; its parsers expect the keys, and this log never retries.
_LOGGER_COUNTS = (
    "logger_swap_request_slots_retry_count",
    "logger_swap_request_slots_retry_retry_count",
    "logger_swap_request_slots_retry_reencounter_count",
    "logger_start_reading_entries_retry_count",
    "logger_tls_total_log_cas_fail_count",
    "logger_tls_total_swap_buffers_slot_retry_count",
)


@dataclass
class DetailLog:
    """The detail log's entries, in order."""

    entries: list[str] = field(default_factory=list)
    errors: int = 0
    warnings: int = 0
    _started_ns: int = field(default_factory=time.monotonic_ns)

    def put(self, key: str, value: Any, *, is_error: bool = False, is_warning: bool = False, times: int = 1) -> None:
        """Append an entry.  Floats have 6 digits, as the reference prints doubles; NaN and infinity become 0.

        ``times``: how many equal entries.
        """
        self.errors += is_error * times
        self.warnings += is_warning * times
        caller = sys._getframe(2 if is_error or is_warning else 1)
        metadata = {
            "is_error": is_error,
            "is_warning": is_warning,
            "file": os.path.basename(caller.f_code.co_filename),
            "line_no": caller.f_lineno,
            "pid": os.getpid(),
            "tid": threading.get_native_id(),
        }
        time_ms = (time.monotonic_ns() - self._started_ns) / 1e6
        entry = (
            f':::MLLOG {{"key": "{key}", "value": {_json(value)}, "time_ms": {time_ms:.6f}, '
            f'"namespace": "mlperf::logging", "event_type": "POINT_IN_TIME", "metadata": {json.dumps(metadata)}}}\n'
        )
        self.entries += [entry] * times

    def error(self, key: str, text: str, times: int = 1) -> None:
        self.put(key, text, is_error=True, times=times)

    def warning(self, text: str) -> None:
        self.put("warning_generic_message", text, is_warning=True)

    def message(self, text: str) -> None:
        self.put("generic_message", text)

    def write(self, path: Path) -> None:
        # A lone surrogate (from an undecodable file name) has no UTF-8; its escape is valid JSON.
        path.write_text("".join(self.entries), encoding="utf-8", errors="backslashreplace")


def _json(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "0"
    if isinstance(value, str):
        return json.dumps(value.replace("\n", " "), ensure_ascii=False)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def put_version(log: DetailLog, version: str) -> None:
    """Which load generator wrote the log, under the reference's keys."""
    here = Path(__file__).resolve().parent
    built = datetime.fromtimestamp(max(file.stat().st_mtime for file in here.glob("*.py")))
    log.put("loadgen_version", f"{version} @ {environment.git_revision() or 'no git revision'} (Drumfire)")
    log.put("loadgen_build_date_local", built.isoformat())
    log.put("loadgen_build_date_utc", built.astimezone(UTC).replace(tzinfo=None).isoformat())
    log.put("loadgen_git_commit_date", environment.git("log", "-1", "--format=%cI") or "")
    log.put("loadgen_git_log_message", environment.git("log", "-1", "--format=%H %s") or "")
    log.put("loadgen_git_status_message", environment.git("status", "--short", "--", str(here)) or "")
    digests = {f"/{p.name}": hashlib.sha1(p.read_bytes()).hexdigest() for p in sorted(here.glob("*.py"))}
    log.put("loadgen_file_sha1", digests)


def put_test(log: DetailLog, system: str, library: str, total_count: int, performance_count: int, name_ns: int) -> None:
    """``name_ns``: how long the system took to return its name."""
    log.put("test_datetime", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    log.put("sut_name", system)
    log.put("get_sut_name_duration_ns", name_ns)
    log.put("qsl_name", library)
    log.put("qsl_reported_total_count", total_count)
    log.put("qsl_reported_performance_count", performance_count)


def put_requested(log: DetailLog, requested: TestSettings) -> None:
    log.put("requested_scenario", requested.kind)
    log.put("requested_test_mode", requested.mode.name)
    by_scenario = {
        Scenario.SingleStream: ("single_stream_expected_latency_ns", "single_stream_target_latency_percentile"),
        Scenario.MultiStream: (
            "multi_stream_expected_latency_ns",
            "multi_stream_target_latency_percentile",
            "multi_stream_samples_per_query",
        ),
        Scenario.Server: (
            "server_target_qps",
            "server_target_latency_ns",
            "server_target_latency_percentile",
            "server_coalesce_queries",
            "server_find_peak_qps_decimals_of_precision",
            "server_find_peak_qps_boundary_step_size",
            "server_max_async_queries",
            "server_num_issue_query_threads",
        ),
        Scenario.Offline: ("offline_expected_qps",),
    }
    names = [
        *by_scenario[requested.scenario],
        "min_duration_ms",
        "max_duration_ms",
        "min_query_count",
        "max_query_count",
        *LOGGED_IN_THIS_ORDER,
        "performance_sample_count_override",
        "accuracy_sample_count_override",
        "sample_concatenate_permutation",
    ]
    if requested.use_token_latencies:
        names.append("use_token_latencies")
    if requested.is_closed:
        names += ["concurrency", "think_time_ns"]
    for name in names:
        log.put(f"requested_{name}", getattr(requested, name))
    if requested.use_token_latencies and requested.scenario != Scenario.Offline:
        log.put("requested_server_ttft_latency", requested.ttft_latency)
        log.put("requested_server_tpot_latency", requested.tpot_latency)


def put_effective(log: DetailLog, effective: EffectiveSettings) -> None:
    log.put("effective_scenario", effective.kind)
    log.put("effective_test_mode", effective.mode.name)
    for name in (
        "samples_per_query",
        "target_qps",
        "target_latency_ns",
        "target_latency_percentile",
        "max_async_queries",
        "target_duration_ms",
        "min_duration_ms",
        "max_duration_ms",
        "min_query_count",
        "max_query_count",
        "min_sample_count",
        *LOGGED_IN_THIS_ORDER,
        "performance_sample_count",
        "accuracy_sample_count",
        "sample_concatenate_permutation",
    ):
        log.put(f"effective_{name}", getattr(effective, name))


def put_loaded(log: DetailLog, phase: Phase) -> None:
    log.put("loaded_qsl_set", phase.loaded)


def put_traffic(log: DetailLog, phase: Phase) -> None:
    log.put("generated_query_count", phase.query_count)
    log.put("generated_samples_per_query", phase.samples_per_query)
    log.put("generated_query_duration", phase.generated_duration_ns)


def put_phase_end(log: DetailLog, began: datetime, lasted_ns: int) -> None:
    """``began`` in UTC; ``lasted_ns`` from the phase's start to its last completion.  Power tools read the stamps."""
    for name in _LOGGER_COUNTS:
        log.put(name, 0)
    log.put("power_begin", _power_stamp(began))
    log.put("power_end", _power_stamp(began + timedelta(microseconds=lasted_ns / 1000)))


def _power_stamp(moment: datetime) -> str:
    return moment.strftime("%m-%d-%Y %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


_REFUSED = {
    SECOND_ANSWER: "Attempted to complete a sample twice.",
    SECOND_FIRST_TOKEN: "Attempted to complete a sample twice.",
    LATE_FIRST_TOKEN: "Attempted to record token latency after sample was completed",
}


def put_refused(log: DetailLog, refused: Mapping[str, int]) -> None:
    """An entry for each refused answer, in the reference's words where it has any."""
    for reason, count in refused.items():
        log.error("error_runtime", _REFUSED.get(reason, reason), count)


TOKEN_FAULTS = (
    "Attempted to record a sample latency before it's first token latency",
    "n_tokens argument missing or attempted to record 0 as number of tokens",
    "Attempted to record a negative number of tokens",
    "Number of tokens need to be greater than 1",
)


def put_token_faults(log: DetailLog, faults: Sequence[int]) -> None:
    """An entry for each fault, given as its place in ``TOKEN_FAULTS``."""
    for fault, equal in itertools.groupby(faults):
        log.error("error_runtime", TOKEN_FAULTS[fault], sum(1 for _ in equal))


def put_end(log: DetailLog, report: PhaseReport, settings: EffectiveSettings, last_issued_ns: int) -> None:
    """Why issuing ended.  ``last_issued_ns``: when the last query was issued, after the phase's start."""
    end, queries = report.end, report.issued_rows // report.phase.samples_per_query
    thread = "IssueQueryThread 0 Ending early: "
    if end == End.RAN_OUT:
        log.error("error_runtime", f"{end.value.removesuffix('.')} in the TestSettings so they are more accurate.")
    elif end == End.MAX_QUERIES:
        log.error("error_runtime", f"{thread}Max query count reached. query_count {queries}")
    elif end == End.MAX_DURATION:
        log.error("error_runtime", f"{thread}Max test duration reached. duration_ns {last_issued_ns}")
    elif end == End.MAX_ASYNC:
        outstanding = settings.max_async_queries + 1  # issuing ends with the first query that is too many
        told = f"issued {queries} outstanding {outstanding}"
        log.error("error_runtime", f"{thread}Too many outstanding queries. {told}")
    elif end.is_error:
        log.error("error_runtime", end.value)
    elif end == End.DECIDED:
        log.message(f"{end.value} {report.decided}.")
    elif settings.scenario != Scenario.Server and not report.phase.accuracy:
        log.message(end.value)


def result_values(settings: EffectiveSettings, results: Results) -> dict[str, Any]:
    """The ``result_*`` and ``early_stopping_*`` entries, in the reference's order."""
    r, scenario = results, settings.scenario
    values: dict[str, Any] = {"result_validity": "VALID" if r.valid else "INVALID"}
    if scenario == Scenario.Server:
        values["result_perf_constraints_met"] = r.performance_met
    values["result_min_duration_met"] = r.duration_met
    values["result_min_queries_met"] = r.queries_met
    values["early_stopping_met"] = r.stopping.met
    if not r.valid:
        # The reference gives only the first line of the last, and no blank after it.
        reason = "".join(EXITED_EARLY if text.startswith(EXITED_EARLY) else f"{text} " for text in r.recommendations)
        reason = reason.replace("\n", " ")
        values["result_invalid_reason"] = " ".join(filter(None, (reason.strip(), *r.spoiled))) if r.spoiled else reason
    if r.token_stopping is None:
        values["early_stopping_result"] = r.stopping.text
    else:
        values["early_stopping_ttft_result"], values["early_stopping_tpot_result"] = (s.text for s in r.token_stopping)
    values["result_query_count"] = r.queries
    if scenario == Scenario.Server:
        values["result_overlatency_query_count"] = r.over_latency
    rates = {f"result_{key}": rate for key, rate in r.rates.items()}
    tokens = {key: rates.pop(key) for key in list(rates) if "token" in key}
    inferred = {key: tokens.pop(key) for key in list(tokens) if "inferred" in key}
    values.update(rates)
    if scenario == Scenario.SingleStream and settings.in_turn:
        values["early_stopping_latency_ss"] = r.stopping.estimate_ns
        values["early_stopping_latency_ms"] = r.stopping.p99_estimate_ns
    if r.query_latency is not None:
        values.update(
            _latencies("result_{}_query_latency_ns", "result_{}_percentile_per_query_latency_ns", r.query_latency)
        )
        values["early_stopping_latency_ms"] = r.stopping.estimate_ns
    values.update(_latencies("result_{}_latency_ns", "result_{}_percentile_latency_ns", r.latency))
    if r.first_token is not None and r.time_per_output_token is not None:
        values.update(
            _latencies("result_first_token_{}_latency_ns", "result_first_token_{}_percentile_latency_ns", r.first_token)
        )
        completed = tokens.pop("result_completed_tokens_per_second", None)
        values.update(tokens)
        per_token = _latencies(
            "result_time_to_output_token_{}", "result_time_per_output_token_{}_percentile_ns", r.time_per_output_token
        )
        values.update({key: ns for key, ns in per_token.items() if "percentile" in key})
        values.update({key: ns for key, ns in per_token.items() if "percentile" not in key})
        if completed is not None:
            values["result_completed_tokens_per_second"] = completed
    else:
        values.update(tokens)
    values.update(inferred)
    return values


def _latencies(extreme_key: str, percentile_key: str, latency: Distribution) -> dict[str, int]:
    extremes = {"min": latency.minimum, "max": latency.maximum, "mean": latency.mean}
    values = {extreme_key.format(name): ns for name, ns in extremes.items()}
    return values | {percentile_key.format(f"{p * 100:.2f}"): latency.percentiles[p] for p in LOGGED_PERCENTILES}


def put_results(log: DetailLog, settings: EffectiveSettings, results: Results) -> None:
    for key, value in result_values(settings, results).items():
        log.put(key, value)
    log.put("num_errors", log.errors)


def write_accuracy(
    path: Path,
    kept: Sequence[Kept],
    sample_index: Column,
    phases: Sequence[Phase],
    token_counts: Column | None = None,
    first_tokens: Mapping[int, bytes] | None = None,
) -> None:
    """Write the accuracy log: the response to each logged row in hexadecimal, in order of completion.

    ``token_counts`` (one per row of the table) and ``first_tokens`` (by row) add these to each entry.
    """

    def tokens(row: int) -> str:
        if token_counts is None:
            return ""
        first = "" if first_tokens is None else f', "token_data" : "{first_tokens.get(row, b"").hex().upper()}"'
        return f'{first}, "token_count" : {token_counts[row]}'

    entries: Iterable[str] = (
        f'\n{{ "seq_id" : {row}, "qsl_idx" : {sample_index[row]}, "data" : "{data.hex().upper()}"{tokens(row)} }}'
        for row, data in logged_responses(kept, phases)
    )
    path.write_text("[" + ",".join(entries) + "\n]\n", encoding="ascii")


def logged_responses(kept: Sequence[Kept], phases: Sequence[Phase]) -> Iterable[tuple[int, bytes]]:
    """Row number and response bytes of each row in the accuracy log, in order of completion."""
    starts = np.array([phase.first_row for phase in phases])
    for batch in kept:
        for row, data in zip(batch.rows.tolist(), as_bytes(batch.responses), strict=True):
            phase = phases[int(np.searchsorted(starts, row, "right")) - 1]
            if phase.accuracy or (phase.logged is not None and phase.logged[row - phase.first_row]):
                yield row, data
