"""perf_analyzer's side: its command for a case, and its figures.

Rate and latencies come from its report.  The CPU of a request is that of the whole process, divided by the server's
count of requests.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError, run
from drumfire.bench.peers.server import Running, watched
from drumfire.bench.peers.triton.case import INPUT, Case

LEAST_WINDOWS = 3
"""The fewest that it accepts."""
ANY_DEVIATION = 999
"""Allowed percent between windows: with less, a busy machine gets no figure."""
# Only in its terminal output, and only where requests were delayed.
_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")


def measure(
    program: Path, variables: Mapping[str, str], server: Running, case: Case, seconds: float
) -> dict[str, float]:
    """Raises ``MeasurementError``."""
    with tempfile.TemporaryDirectory() as made:
        report = Path(made) / "report.csv"
        with watched(server, case.model) as served:
            done = run(command(program, server.address(case.protocol), case, seconds, report), variables=variables)
        figures = read_report(report.read_text(encoding="utf-8") if report.exists() else "")
    if case.rate is not None:
        figures["delayed_share"] = read_delayed(done.output)
    return figures | {
        "cpu_ns_per_request": done.cpu_s / served.requests * 1e9,
        "whole_cpu_ns_per_request": done.cpu_s / served.requests * 1e9,
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "served": float(served.requests),
    }


def command(program: Path, address: str, case: Case, seconds: float, report: Path) -> list[str]:
    # A closed loop is cheapest and fastest with a thread for each request, the default.  With a rate to keep, its four
    # threads would bound the requests in flight, and most would be sent late.
    if case.rate is None:
        load = ["--concurrency-range", str(case.concurrency)]
    else:
        load = ["--request-rate-range", f"{case.rate:g}", "--request-distribution", "poisson", "--async"]
    return [
        *(str(program), "-m", case.model, "-u", address, "-i", case.protocol),
        *("--shape", f"{INPUT}:{case.elements}", "--input-data", "random", *load),
        *("-p", str(round(seconds * 1000 / LEAST_WINDOWS)), "-s", str(ANY_DEVIATION), "-r", str(LEAST_WINDOWS)),
        *("-f", str(report)),
    ]


def read_report(text: str) -> dict[str, float]:
    """The figures of a report of one load (its CSV, latencies in us).  Raises ``MeasurementError``."""
    rows = list(csv.DictReader(text.splitlines()))
    try:
        (row,) = rows
        return {
            "rate_per_s": float(row["Inferences/Second"]),
            "p50_latency_ns": float(row["p50 latency"]) * 1e3,
            "p99_latency_ns": float(row["p99 latency"]) * 1e3,
        }
    except (ValueError, KeyError, TypeError):
        raise MeasurementError(f"perf_analyzer's report cannot be read: {text[:200]!r}") from None


def read_delayed(output: str) -> float:
    """The share of the requests that it reports as sent late, 0 to 1."""
    match = _DELAYED.search(output)
    return float(match[1]) / 100 if match else 0.0
