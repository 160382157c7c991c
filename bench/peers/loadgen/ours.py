"""Drumfire's side with the null system: measures a case in a fresh process.

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
from drumfire.loadgen.issuer import PhaseReport
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.traffic import draw
from drumfire.sut.local.null import NullSystem, null_library

SAMPLES = 1024


def settings_of(values: dict[str, Any]) -> TestSettings:
    return TestSettings(**{**values, "scenario": Scenario[values["scenario"]]})


def null_test(case: dict[str, Any]) -> Test:
    return Test(NullSystem(Mode.PerformanceOnly), null_library(SAMPLES), settings_of(case["settings"]))


def issuing_cpu_ns(report: PhaseReport, queries: int) -> float:
    """CPU time of the issuing thread for a query, ns, without the pacer's spin."""
    return (report.overhead.issuing_thread_cpu_s * 1e9 - report.pacing.spun_ns) / queries


def phase(case: dict[str, Any]) -> dict[str, float]:
    """A run with the null system: rates, lateness, wall time and CPU."""
    test = null_test(case)
    run_on_fast_loop(test.run())
    report = test.reports[0]
    rows, queries = report.issued_rows, report.issued_rows // report.phase.samples_per_query
    record = test.record
    figures = {
        "queries": float(queries),
        "ran_out": float(report.end == End.RAN_OUT),
        "samples_per_s": rows / report.lasted_ns * 1e9,
        "wall_ns_per_query": report.lasted_ns / queries,
        "cpu_ns_per_query": issuing_cpu_ns(report, queries),
        "cpu_and_spin_ns_per_query": report.overhead.process_cpu_s * 1e9 / queries,
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


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "phase": phase,
    "drawing": drawing,
    "after": afterwards,
}


if __name__ == "__main__":
    case = json.load(sys.stdin)
    print(json.dumps(KINDS[case["kind"]](case)))
