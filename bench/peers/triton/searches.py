"""The highest rate under a bound of p99: Drumfire's sweep, and perf_analyzer's binary search, in the same range.

How many requests each needs is the server's count.  What each finds is what was delivered at the best of its loads.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drumfire.bench.peers.process import PROGRAM, MeasurementError, run
from drumfire.bench.peers.program import JUDGED, one_input
from drumfire.bench.peers.server import Running, watched
from drumfire.bench.peers.triton.case import INPUT, Case
from drumfire.bench.peers.triton.perf_analyzer import ANY_DEVIATION, LEAST_WINDOWS

LOW, HIGH = 1000, 16000
BOUND_MS = 10
_LOADS = 9
"""Of the sweep: each is 1.4 times the one before."""
_STEP = 1000
"""Where the binary search ends."""
_FINE = (*JUDGED, 3)
"""3: no load keeps the bound."""
_PATIENCE_S = 600


def sweep(server: Running, case: Case, seconds: float) -> dict[str, float]:
    """Raises ``MeasurementError``."""
    with tempfile.TemporaryDirectory() as made:
        command = [*PROGRAM, *words(server.url(case.protocol), case, seconds), "--output", f"{made}/sweep", "--json"]
        with watched(server, case.model) as served:
            done = run(command, fine=_FINE, patience_s=_PATIENCE_S)
    return best_of_sweep(done.document) | {"requests": float(served.requests)}


def words(url: str, case: Case, seconds: float) -> list[str]:
    return [
        *("sweep", "triton", case.model, "--url", url, "--scenario", "Server", "--time", f"{seconds:g}"),
        *("--over", f"qps={LOW}:{HIGH}:log{_LOADS}", "--bound", f"p99<{BOUND_MS}ms", *one_input(case.elements)),
    ]


def best_of_sweep(document: Mapping[str, Any]) -> dict[str, float]:
    """Raises ``MeasurementError`` where none keeps the bound."""
    best = document["named"]["best"]
    if best is None:
        raise MeasurementError("the sweep found no rate under the bound")
    return {"best_per_s": document["points"][best]["rate"]}


def binary(
    program: Path, variables: Mapping[str, str], server: Running, case: Case, seconds: float
) -> dict[str, float]:
    """Raises ``MeasurementError``."""
    with tempfile.TemporaryDirectory() as made:
        report = Path(made) / "report.csv"
        with watched(server, case.model) as served:
            run(
                command(program, server.address(case.protocol), case, seconds, report),
                variables=variables,
                patience_s=_PATIENCE_S,
            )
        text = report.read_text(encoding="utf-8") if report.exists() else ""
    return best_of_report(text) | {"requests": float(served.requests)}


def command(program: Path, address: str, case: Case, seconds: float, report: Path) -> list[str]:
    """Its windows at a load last as long as a run of the sweep."""
    return [
        *(str(program), "-m", case.model, "-u", address, "-i", case.protocol),
        *("--shape", f"{INPUT}:{case.elements}", "--input-data", "random"),
        *("--request-rate-range", f"{LOW}:{HIGH}:{_STEP}", "--binary-search", "-l", str(BOUND_MS)),
        *("--percentile", "99", "--request-distribution", "poisson", "--async"),
        *("-p", str(round(seconds * 1000 / LEAST_WINDOWS)), "-s", str(ANY_DEVIATION), "-r", str(LEAST_WINDOWS)),
        *("-f", str(report)),
    ]


def best_of_report(text: str) -> dict[str, float]:
    """From its CSV, a row for each load, latencies in us.  Raises ``MeasurementError`` where none keeps the bound."""
    try:
        rates = [
            float(row["Inferences/Second"])
            for row in csv.DictReader(text.splitlines())
            if float(row["p99 latency"]) < BOUND_MS * 1e3
        ]
    except (ValueError, KeyError, TypeError):
        raise MeasurementError(f"perf_analyzer's report cannot be read: {text[:200]!r}") from None
    if not rates:
        raise MeasurementError("perf_analyzer found no rate under the bound")
    return {"best_per_s": max(rates)}
