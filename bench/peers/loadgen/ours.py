"""Drumfire's side: measures a case in a fresh process.

Runs as a program: the case is JSON on standard input (``kind``, and ``settings``: attributes of TestSettings, the
scenario by name), the figures are JSON on standard output.  Times are ns or s, as the names say.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench.peers.program import p50_and_p99
from drumfire.loadgen.directory import document, save
from drumfire.loadgen.environment import describe
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.issue import End
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.system import Batch, SystemUnderTest
from drumfire.loadgen.traffic import draw
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.local.batcher import BatchedSystem, service_times
from drumfire.sut.local.loaded import fit
from drumfire.sut.local.null import NullSystem, null_library

SAMPLES = 1024
_BATCH_SIZE = 32
_SHARE = 0.6
"""The rate of Server runs as a share of what the model can do."""


def settings_of(values: dict[str, Any]) -> TestSettings:
    return TestSettings(**{**values, "scenario": Scenario[values["scenario"]]})


def null_test(case: dict[str, Any]) -> Test:
    return Test(NullSystem(Mode.PerformanceOnly), null_library(SAMPLES), settings_of(case["settings"]))


def phase(case: dict[str, Any]) -> dict[str, float]:
    """A run with the null system: rates, lateness, wall time and CPU."""
    test = null_test(case)
    run_on_fast_loop(test.run())
    report = test.reports[0]
    rows, queries = report.issued_rows, report.issued_rows // report.phase.samples_per_query
    record = test.record
    overhead = report.overhead
    figures = {
        "queries": float(queries),
        "ran_out": float(report.end == End.RAN_OUT),
        "samples_per_s": rows / report.lasted_ns * 1e9,
        "wall_ns_per_query": report.lasted_ns / queries,
        "cpu_ns_per_query": (overhead.issuing_thread_cpu_s * 1e9 - report.pacing.spun_ns) / queries,
        "cpu_and_spin_ns_per_query": overhead.process_cpu_s * 1e9 / queries,
    }
    if test.effective.scenario == Scenario.Server:
        late = record.issued[:rows] - record.scheduled[:rows]
        figures["asked_per_s"] = (rows - 1) / max(int(record.scheduled[rows - 1]), 1) * 1e9
        figures["answered_per_s"] = (rows - 1) / max(int(record.completed[:rows].max()), 1) * 1e9
        figures["p50_lateness_ns"], figures["p99_lateness_ns"] = p50_and_p99(late)
        figures["early"] = float(np.count_nonzero(late < 0))
    return figures


def drawing(case: dict[str, Any]) -> dict[str, float]:
    settings = effective(settings_of(case["settings"]), SAMPLES, SAMPLES)
    began = time.perf_counter()
    phases = draw(settings, SAMPLES)
    lasted = time.perf_counter() - began
    return {"rows": float(phases[0].rows), "rows_per_s": phases[0].rows / lasted}


def afterwards(case: dict[str, Any]) -> dict[str, float]:
    """The time from the last answer until all files are written, and the memory of the whole run."""
    before = _resident_bytes()
    test = null_test(case)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        environment = describe()
        run_on_fast_loop(test.run())
        last_ns = test.answers.origin_ns + int(test.record.completed.max())
        result = document(test, {"environment": environment}, [])
        documented_ns = time.monotonic_ns()
        save(test, result, folder)
        saved_ns = time.monotonic_ns()
        on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    gc.collect()
    rows = test.record.rows
    return {
        "rows": float(rows),
        "after_s": (saved_ns - last_ns) * 1e-9,
        "results_s": (documented_ns - last_ns) * 1e-9,
        "saving_s": (saved_ns - documented_ns) * 1e-9,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        "held_bytes_per_row": (_resident_bytes() - before) / rows,
        "table_bytes_per_row": sum(column.nbytes for column in test.record.columns.values()) / rows,
        "disk_bytes_per_row": on_disk / rows,
    }


class _Digits:
    """The digits model on ONNX Runtime with one thread, assembled as for a run of the command line."""

    def __init__(self) -> None:
        self.model = models.get("digits")
        self.backend = backends.load("onnxruntime", self.model.weights(Path()), "cpu", 1)
        self.library = fit(self.model.library(), self.backend, self.model)
        self.count = self.library.performance_count
        every = np.arange(self.count)
        self.library.load(every)
        self.inputs = {name: array.copy() for name, array in self.library.batch(every).items()}
        self.library.unload(every)

    def rows(self, first: int, count: int) -> Batch:
        """Ready samples in one piece."""
        return {name: array[first : first + count] for name, array in self.inputs.items()}

    def run(self, batch: Batch) -> Any:
        return self.model.respond(self.backend.run(batch))

    def test(self, settings: TestSettings) -> Test:
        system: SystemUnderTest = BatchedSystem("digits", [self.run], self.library, max_batch_size=_BATCH_SIZE)
        test = Test(system, self.library, settings)
        run_on_fast_loop(test.run())
        return test

    def offline(self, expected_per_s: float, seconds: float) -> float:
        """Samples a second of an Offline run."""
        settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=round(seconds * 1000))
        settings.offline_expected_qps = expected_per_s
        report = self.test(settings).reports[0]
        return report.issued_rows / report.lasted_ns * 1e9

    def bare(self, batch_size: int, seconds: float) -> float:
        """Samples a second of a loop over ready arrays that only calls the session."""
        batches = [self.rows(row, batch_size) for row in range(0, self.count - batch_size + 1, batch_size)]
        run, clock, done = self.backend.run, time.perf_counter, 0
        began = clock()
        while (lasted := clock() - began) < seconds:
            for batch in batches:
                run(batch)
            done += len(batches) * batch_size
        return done / lasted


def digits_offline(case: dict[str, Any]) -> dict[str, float]:
    """Offline and the bare loop in turns: bare, Offline, bare, Offline, bare."""
    digits, seconds = _Digits(), case["seconds"]
    digits.bare(_BATCH_SIZE, seconds / 10)  # warm
    bare = [digits.bare(_BATCH_SIZE, seconds / 3)]
    ours = []
    for _ in range(2):
        ours.append(digits.offline(bare[-1], seconds / 2))
        bare.append(digits.bare(_BATCH_SIZE, seconds / 3))
    around = (bare[0] + 2 * bare[1] + bare[2]) / 4  # each Offline run beside the loops before and after it
    return {
        "samples_per_s": sum(ours) / len(ours),
        "bare_samples_per_s": around,
        "share": sum(ours) / len(ours) / around,
    }


def digits_server(case: dict[str, Any]) -> dict[str, float]:
    """Latency and its parts at a share of the Offline rate, and at a share of the rate of single samples."""
    digits, seconds = _Digits(), case["seconds"]
    ceiling = digits.offline(digits.bare(_BATCH_SIZE, seconds / 5), seconds / 2)
    lone = 1 / float(np.median(service_times(lambda: digits.run(digits.rows(0, 1)), seconds / 5)))
    figures: dict[str, float] = {"ceiling_per_s": ceiling, "lone_per_s": lone}
    for name, rate in (("batched", ceiling * _SHARE), ("gentle", lone * _SHARE)):
        settings = TestSettings(scenario=Scenario.Server, min_duration_ms=round(seconds * 1000))
        settings.server_target_qps = rate
        columns = digits.test(settings).record.columns
        scheduled, issued, begun, completed = (columns[c] for c in ("scheduled", "issued", "begun", "completed"))
        latency = completed - scheduled
        parts = {"lateness": issued - scheduled, "queue": begun - issued, "service": completed - begun}
        slowest = latency >= np.percentile(latency, 99)
        figures[f"{name}_per_s"] = rate
        for part, values in {"latency": latency, **parts}.items():
            figures[f"{name}_{part}_p50_ns"], figures[f"{name}_{part}_p99_ns"] = p50_and_p99(values)
            # Percentiles do not add up; the means over the slowest rows do.
            figures[f"{name}_{part}_slowest_ns"] = float(values[slowest].mean())
    return figures


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "phase": phase,
    "drawing": drawing,
    "after": afterwards,
    "digits-offline": digits_offline,
    "digits-server": digits_server,
}


if __name__ == "__main__":
    case = json.load(sys.stdin)
    print(json.dumps(KINDS[case["kind"]](case)))
