"""The reference's side: a test of mlcommons-loadgen.

Runs as a program, as the reference needs a fresh process for every test: the case is JSON on standard input
(``settings``: attributes of TestSettings, the scenario by name; ``trace``; ``pool``), the figures are JSON on standard
output.  The system is a null one, the fastest that the Python API allows: issue() gets plain lists and answers with a
single call.  With ``objects`` it is what most harnesses have: issue() gets samples and makes a response for each.  With
``drop_in`` the same program runs on Drumfire's module of that name.  With ``model`` and ``batch_size`` a thread runs
that model.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 1024
_RESULT = re.compile(r'"key": "(result_[\w.]+)", "value": ([0-9.eE+-]+),')
_VALID = '"key": "result_validity", "value": "VALID"'
_ISSUE_DELAY = re.compile(rb'"issue_delay":(\d+)')


def measure(case: dict[str, Any], folder: Path) -> dict[str, float]:
    if case.get("drop_in"):
        importlib.import_module("drumfire.loadgen.compat").install()
    lg = importlib.import_module("mlperf_loadgen")
    return model(lg, case, folder) if "model" in case else null(lg, case, folder)


def run(lg: Any, case: dict[str, Any], folder: Path, sut: Any, qsl: Any) -> dict[str, float]:
    """Run a test in this folder; returns the results of its log, and ``valid``."""
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    for name, value in case["settings"].items():
        setattr(settings, name, getattr(lg.TestScenario, value) if name == "scenario" else value)
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = case["trace"]
    lg.StartTestWithLogSettings(sut, qsl, settings, logs, str(folder / "no_audit.config"))
    detail = (folder / "mlperf_log_detail.txt").read_text(encoding="utf-8", errors="replace")
    return {key: float(value) for key, value in _RESULT.findall(detail)} | {"valid": float(_VALID in detail)}


def null(lg: Any, case: dict[str, Any], folder: Path) -> dict[str, float]:
    """ns, s and counts.  ``wall_s`` and ``cpu_s`` run from the first issue to the last answer."""
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
    results = run(lg, case, folder, sut, qsl)
    test_cpu_s = time.process_time() - test_cpu_s
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


def model(lg: Any, case: dict[str, Any], folder: Path) -> dict[str, float]:
    """A model behind a queue of this process, as harnesses have it: a thread takes whatever waits, up to a batch."""
    compute, library = _model(case["model"], case["batch_size"])
    waiting: deque[tuple[int, int]] = deque()
    changed = threading.Condition()
    pool = [lg.QuerySampleResponse(0, 0, 0) for _ in range(case["batch_size"])]

    def issue(ids: list[int], indices: list[int]) -> None:
        with changed:
            waiting.extend(zip(ids, indices, strict=True))
            changed.notify()

    def work() -> None:
        while True:
            with changed:
                while not waiting:
                    changed.wait()
                batch = [waiting.popleft() for _ in range(min(len(waiting), len(pool)))]
            compute([index for _, index in batch])
            responses = pool[: len(batch)]
            for response, (number, _) in zip(responses, batch, strict=True):
                response.id = number
            lg.QuerySamplesComplete(responses)

    def load(indices: list[int]) -> None:
        library.load(np.array(indices, np.int64))
        for _ in range(3):  # warm
            for size in range(1, min(len(pool), len(indices)) + 1):
                compute(indices[:size])

    threading.Thread(target=work, daemon=True).start()
    sut = lg.ConstructFastSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(library.total_count, library.performance_count, load, lambda _: None)
    results = run(lg, case, folder, sut, qsl)
    return {
        "valid": results["valid"],
        "p50_latency_ns": results["result_50.00_percentile_latency_ns"],
        "p99_latency_ns": results["result_99.00_percentile_latency_ns"],
        "asked_per_s": results["result_scheduled_samples_per_sec"],
    }


def _model(name: str, batch_size: int) -> tuple[Callable[[list[int]], object], Any]:
    """What computes a batch of loaded samples, and their library."""
    from drumfire.bench.peers.hosted import weights
    from drumfire.bench.peers.loadgen.models import BACKEND
    from drumfire.sut import models
    from drumfire.sut.local import backends
    from drumfire.sut.local.loaded import fit, run_batch

    model = models.get(name)
    options = backends.kinds()[BACKEND](max_batch_size=batch_size)
    backend = backends.load(BACKEND, weights(name, BACKEND), "cpu", 1, options)
    library = fit(model.library(), backend, model)
    compute = run_batch(backend, model)
    return lambda indices: compute(library.batch(np.array(indices, np.int32))), library


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(measure(json.load(sys.stdin), Path(made))))
