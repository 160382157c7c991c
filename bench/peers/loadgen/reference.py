"""The reference's side: a test of mlcommons-loadgen with a null system.

Runs as a program, as the reference needs a fresh process for every test: the case is JSON on standard input
(``settings``: attributes of TestSettings, the scenario by name; ``trace``; ``pool``), the figures are JSON on standard
output.  The system is the fastest that the Python API allows: issue() gets plain lists and answers with a single call.
With ``objects`` it is what most harnesses have: issue() gets samples and makes a response for each.  With ``drop_in``
the same program runs on Drumfire's module of that name.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLES = 1024
_RESULT = re.compile(r'"key": "(result_[\w.]+)", "value": ([0-9.eE+-]+),')
_ISSUE_DELAY = re.compile(rb'"issue_delay":(\d+)')


def measure(case: dict[str, Any], folder: Path) -> dict[str, float]:
    """ns, s and counts.  ``wall_s`` and ``cpu_s`` run from the first issue to the last answer."""
    if case.get("drop_in"):
        importlib.import_module("drumfire.loadgen.compat").install()
    lg = importlib.import_module("mlperf_loadgen")
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    for name, value in case["settings"].items():
        setattr(settings, name, getattr(lg.TestScenario, value) if name == "scenario" else value)
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = case["trace"]

    complete = lg.QuerySamplesComplete
    # Made before the test, so that an answer only needs its sample's id.
    pool = [lg.QuerySampleResponse(0, 0, 0) for _ in range(case["pool"])]
    lone = [lg.QuerySampleResponse(0, 0, 0)]
    first = lone[0]
    began: list[tuple[float, float]] = []
    ended: list[tuple[float, float]] = []

    def issue(ids: list[int], _: list[int]) -> None:
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        count = len(ids)
        if count == 1:
            first.id = ids[0]
            complete(lone)
            return
        responses = pool if count == len(pool) else pool[:count]
        if count > len(responses):
            responses = [lg.QuerySampleResponse(0, 0, 0) for _ in ids]
        for response, number in zip(responses, ids, strict=True):
            response.id = number
        complete(responses)

    # The reference flushes after the last issue, when each query is answered.
    def flush() -> None:
        ended.append((time.perf_counter(), time.process_time()))

    def issue_objects(samples: list[Any]) -> None:
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        complete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    sut = lg.ConstructSUT(issue_objects, flush) if case.get("objects") else lg.ConstructFastSUT(issue, flush)
    qsl = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
    test_cpu_s = time.process_time()
    lg.StartTestWithLogSettings(sut, qsl, settings, logs, str(folder / "no_audit.config"))
    test_cpu_s = time.process_time() - test_cpu_s

    detail = (folder / "mlperf_log_detail.txt").read_text(encoding="utf-8", errors="replace")
    results = {key: float(value) for key, value in _RESULT.findall(detail)}
    queries = results["result_query_count"]
    wall_s, cpu_s = ended[-1][0] - began[0][0], ended[-1][1] - began[0][1]
    figures = {
        "queries": queries,
        "wall_ns_per_query": wall_s / queries * 1e9,
        "cpu_ns_per_query": cpu_s / queries * 1e9,
        "test_cpu_ns_per_query": test_cpu_s / queries * 1e9,
        "p50_latency_ns": results["result_50.00_percentile_latency_ns"],
    }
    if case["settings"]["scenario"] == "Server":
        figures["asked_per_s"] = results["result_scheduled_samples_per_sec"]
        figures["answered_per_s"] = results["result_completed_samples_per_sec"]
    if case["settings"]["scenario"] == "Offline":
        figures["samples_per_s"] = results["result_samples_per_second"]
    if case["trace"]:
        trace = (folder / "mlperf_log_trace.json").read_bytes()
        delays = sorted(int(delay) for delay in _ISSUE_DELAY.findall(trace))
        figures["p50_lateness_ns"] = float(delays[-(-len(delays) // 2) - 1])
        figures["p99_lateness_ns"] = float(delays[-(-len(delays) * 99 // 100) - 1])
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(measure(json.load(sys.stdin), Path(made))))
