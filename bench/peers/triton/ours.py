"""Drumfire's side: a run of the command line, as a person would start it, and its figures.

Figures come from the run's result and columns.  The CPU of a request is that of the measured phase, as the start of a
Python program is not part of a request's cost; that of the whole process is a second figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import Columns, carry_out, one_input, p50_and_p99
from drumfire.bench.peers.server import Running, watched
from drumfire.bench.peers.triton.case import Case


def measure(server: Running, case: Case, seconds: float) -> dict[str, float]:
    """Raises ``MeasurementError``, also where a sample failed or was not answered."""
    with watched(server, case.model) as served:
        done = carry_out(words(server.url(case.protocol), case, seconds))
    figures = read_result(done.result, done.columns)
    if figures["requests"] > served.requests:
        raise MeasurementError(f"Drumfire counts {figures['requests']:.0f} replies, the server {served.requests}")
    return figures | {
        # The server also counts the requests that sized the traffic.
        "whole_cpu_ns_per_request": done.cpu_s / served.requests * 1e9,
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "served": float(served.requests),
    }


def words(url: str, case: Case, seconds: float) -> list[str]:
    """The command line, without what every run here has."""
    if case.rate is None:
        kind = ("--loop", "closed") if case.loop else ("--scenario", "Offline")
        load = [*kind, "--concurrency", str(case.concurrency)]
    else:
        load = ["--scenario", "Server", "--qps", f"{case.rate:g}"]
    return [
        *("run", "triton", case.model, "--url", url, *load, "--time", f"{seconds:g}"),
        *one_input(case.elements),  # as perf_analyzer sends
    ]


def read_result(result: Mapping[str, Any], columns: Columns) -> dict[str, float]:
    """The figures of a run; ``columns`` have a row for each request.

    Raises ``MeasurementError`` where the server counted other requests in the measured window.
    """
    delivered, overhead = result["delivered"], result["overhead"]
    agreed = (result["system"]["server"] or {}).get("reconciliation")
    if agreed is None or not agreed["requests"]["equal"]:
        raise MeasurementError(f"Drumfire and the server count differently: {agreed and agreed['requests']}")
    requests = delivered["samples"]
    scheduled, sent, completed = (columns[name][:requests] for name in ("scheduled", "sent", "completed"))
    since_sent, since_scheduled = p50_and_p99(completed - sent), p50_and_p99(completed - scheduled)
    figures = {
        "rate_per_s": delivered["samples_per_second"],
        "cpu_ns_per_request": overhead["process_cpu_s"] / requests * 1e9,
        "p50_latency_ns": since_sent[0],
        "p99_latency_ns": since_sent[1],
        "requests": float(requests),
    }
    if result["scenario"] == "Server":
        figures |= {
            "undelivered": float(result["asked"]["generated_queries"] - delivered["queries"]),
            "late_share": result["lateness_ns"]["share_over_1ms"],
            "p50_lateness_ns": float(result["lateness_ns"]["p50"]),
            "p99_lateness_ns": float(result["lateness_ns"]["p99"]),
            "p50_scheduled_latency_ns": since_scheduled[0],
            "p99_scheduled_latency_ns": since_scheduled[1],
        }
    return figures
