"""The measures of the http target: closed loops beside aiohttp's, and a schedule that only Drumfire keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

from drumfire.bench.peers.goal import Figure, both
from drumfire.bench.peers.process import MeasurementError, run
from drumfire.bench.peers.program import carry_out, p50_and_p99
from drumfire.bench.peers.rounds import Measure, Side
from drumfire.bench.peers.stub import Stub, started

AIOHTTP = "aiohttp"
IN_FLIGHT = (16, 64)
_RATE = 1000
_BODY = json.dumps({"x": [0.125] * 16})


def _stub() -> AbstractContextManager[Stub]:
    return started("drumfire.bench.peers.http.stub")


def _url(stub: Stub) -> str:
    return f"http://{stub.address}/predict"


def _ours(words: Sequence[str]) -> Side:
    def side(seconds: float) -> dict[str, float]:
        with _stub() as stub:
            what = ["run", "http", "stub", "--url", _url(stub), "--body", _BODY]
            result, columns, _ = carry_out([*what, *words, "--time", f"{seconds:g}"])
        requests = result["delivered"]["samples"]
        if stub.answered < requests:
            raise MeasurementError(f"the run counts {requests} answers, the service {stub.answered}")
        p50, p99 = p50_and_p99(columns["completed"][:requests] - columns["sent"][:requests])
        lateness = p50_and_p99(columns["sent"][:requests] - columns["scheduled"][:requests])
        return {
            "rate_per_s": result["delivered"]["samples_per_second"],
            "cpu_ns_per_request": result["overhead"]["process_cpu_s"] / requests * 1e9,
            "p50_latency_ns": p50,
            "p99_latency_ns": p99,
            "p50_sent_late_ns": lateness[0],
            "p99_sent_late_ns": lateness[1],
            "requests": float(requests),
        }

    return side


def _theirs(in_flight: int) -> Side:
    def side(seconds: float) -> dict[str, float]:
        with _stub() as stub:
            case = {"url": _url(stub), "body": _BODY, "in_flight": in_flight, "seconds": seconds}
            command = [sys.executable, "-m", "drumfire.bench.peers.http.aiohttp_loop"]
            figures: dict[str, float] = run(command, json.dumps(case)).document
        if figures["sent"] != stub.answered:
            raise MeasurementError(f"aiohttp counts {figures['sent']:.0f} replies, the service {stub.answered}")
        return figures

    return side


def _closed(in_flight: int) -> Measure:
    at = f"{in_flight} at a time"
    return Measure(
        f"closed@{in_flight}",
        (
            both(f"client CPU a request, {at}", "cpu_ns_per_request", "us", 1e3, goal_ratio=4),
            both(f"rate, {at}", "rate_per_s", "1/s", more_is_better=True),
            both(f"latency p50 from the sending, {at}", "p50_latency_ns", "us", 1e3),
            both(f"latency p99 from the sending, {at}", "p99_latency_ns", "us", 1e3),
        ),
        _ours(["--scenario", "Offline", "--concurrency", str(in_flight)]),
        {AIOHTTP: _theirs(in_flight)},
    )


MEASURES: Sequence[Measure] = (
    *map(_closed, IN_FLIGHT),
    Measure(
        f"paced@{_RATE}",
        (
            Figure(f"sent after its schedule, p50, Server at {_RATE:,}/s", "p50_sent_late_ns", "us", 1e3),
            Figure(f"sent after its schedule, p99, Server at {_RATE:,}/s", "p99_sent_late_ns", "us", 1e3),
            Figure(f"client CPU a request, Server at {_RATE:,}/s", "cpu_ns_per_request", "us", 1e3),
        ),
        _ours(["--scenario", "Server", "--qps", str(_RATE), "--max-latency", "100"]),
    ),
)
