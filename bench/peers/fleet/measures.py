"""The measures of several generators: the load of two beside one, and the cost of a generator in another process.

Depends only on the results and columns of runs of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence

from drumfire.bench.peers.goal import Figures, both, number
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import carry_out, one_input, p50_and_p99
from drumfire.bench.peers.rounds import Measure, Side
from drumfire.bench.peers.stub import started

ONE = "one generator"
_IN_FLIGHT = 256
"""Requests of each generator."""
_RATE = 5000
ADDRESS = "127.0.0.1:6379"
"""The cluster that ``__main__`` starts on this host."""


def _run(words: Sequence[str], seconds: float) -> dict[str, float]:
    """The figures of a run against a fresh stub."""
    with started("drumfire.bench.peers.fleet.stub") as server:
        run = ["run", "triton", "identity", "--url", f"grpc://{server.address}", *one_input(), *words]
        result, columns, _ = carry_out([*run, "--time", f"{seconds:g}"])
    requests = result["delivered"]["samples"]
    if server.answered < requests:
        raise MeasurementError(f"the run counts {requests} answers, the server {server.answered}")
    p50, p99 = p50_and_p99(columns["issued"][:requests] - columns["scheduled"][:requests])
    return {
        "rate_per_s": result["delivered"]["samples_per_second"],
        "cpu_ns_per_request": result["overhead"]["process_cpu_s"] / requests * 1e9,
        "server_cpu_ns_per_request": server.cpu_s / server.answered * 1e9,
        "p50_lateness_ns": p50,
        "p99_lateness_ns": p99,
        "requests": float(requests),
    }


def _closed(workers: int) -> Side:
    words = ["--scenario", "Offline", "--workers", str(workers), "--concurrency", str(workers * _IN_FLIGHT)]
    return lambda seconds: _run(words, seconds)


def _paced(*words: str) -> Side:
    traffic = ["--scenario", "Server", "--qps", str(_RATE), "--max-latency", "100"]
    return lambda seconds: _run([*traffic, *words], seconds)


def _costs(name: str, label: str, *words: str) -> Measure:
    label = f"{label}, Server at {_RATE:,}/s"
    return Measure(
        f"{name}@{_RATE}",
        (
            both(f"{label}: p50 lateness", "p50_lateness_ns", "us", 1e3),
            both(f"{label}: p99 lateness", "p99_lateness_ns", "us", 1e3),
            both(f"{label}: CPU a request", "cpu_ns_per_request", "us", 1e3),
        ),
        _paced(*words),
        {ONE: _paced()},
    )


def _limit(medians: Figures) -> str:
    ours, server = medians["cpu_ns_per_request"] / 1e3, medians["server_cpu_ns_per_request"] / 1e3
    return (
        f"two workers: a request costs the generators {number(ours)} us of CPU and the server {number(server)} us, so "
        f"two cores that are shared with it carry at most {number(2 / (ours + server))} million a second, "
        f"{number(2 * ours / (ours + server))} times what one core does for one worker alone."
    )


MEASURES: Sequence[Measure] = (
    Measure(
        "workers",
        (
            both("two workers, Offline: requests answered", "rate_per_s", "/s", more_is_better=True, goal_ratio=1.8),
            both("two workers, Offline: CPU a request", "cpu_ns_per_request", "us", 1e3),
            both("two workers, Offline: the server's CPU a request", "server_cpu_ns_per_request", "us", 1e3),
        ),
        _closed(2),
        {ONE: _closed(1)},
        note=_limit,
    ),
    _costs("worker", "a worker", "--workers", "1"),
    _costs("host", "a Ray host", "--hosts", "1", "--ray-address", ADDRESS),
)
