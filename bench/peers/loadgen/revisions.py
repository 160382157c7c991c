"""The measures that compare two revisions of the load generator: runs of the null backend, which answers at once, and
of the small model digits, as each revision runs it by default.
"""

from __future__ import annotations

from functools import partial

from drumfire.bench.peers.against import Case
from drumfire.bench.peers.goal import both
from drumfire.bench.peers.program import timed

_NULL = ("run", "null", "digits", "--scenario")
_OFFLINE_QPS = 2_000_000
"""Sizes the query: 4.4 million samples at 2 s, whose table takes some 130 MB."""
_RATE = 10_000
_DIGITS = ("run", "onnxruntime", "digits", "--scenario")
_EXTRA = "onnx-cpu"
_DIGITS_QPS = 120_000
"""Sizes the Offline query, which then takes about the time asked for."""


def _digits_server(rate: int) -> Case:
    label = f"digits Server at {rate:,}/s"
    return Case(
        f"digits@{rate}",
        (
            both(f"{label}: latency p50", "p50_latency_ns", "us", 1e3),
            both(f"{label}: latency p99", "p99_latency_ns", "us", 1e3),
            both(f"{label}: CPU a query, without the pacer's spin", "cpu_ns_per_sample", "us", 1e3),
        ),
        partial(timed, [*_DIGITS, "Server", "--qps", str(rate)]),
        _EXTRA,
    )


CASES = (
    Case(
        "offline",
        (
            both("Offline: samples", "rate_per_s", "M/s", 1e6, more_is_better=True),
            both("Offline: CPU a sample", "cpu_ns_per_sample", "ns"),
        ),
        partial(timed, [*_NULL, "Offline", "--qps", str(_OFFLINE_QPS)]),
    ),
    Case(
        "single-stream",
        (
            both("SingleStream: wall time of a query", "wall_ns_per_sample", "ns"),
            both("SingleStream: CPU a query", "cpu_ns_per_sample", "ns"),
        ),
        partial(timed, [*_NULL, "SingleStream"]),
    ),
    Case(
        "server",
        (
            both(f"Server at {_RATE:,}/s: p50 lateness", "p50_lateness_ns", "us", 1e3),
            both(f"Server at {_RATE:,}/s: p99 lateness", "p99_lateness_ns", "us", 1e3),
            both(f"Server at {_RATE:,}/s: CPU a query, without the pacer's spin", "cpu_ns_per_sample", "us", 1e3),
        ),
        partial(timed, [*_NULL, "Server", "--qps", str(_RATE)]),
    ),
    *map(_digits_server, (200, 1_000, 15_000)),
    Case(
        "digits@offline",
        (
            both("digits Offline: samples", "rate_per_s", "k/s", 1e3, more_is_better=True),
            both("digits Offline: CPU a sample", "cpu_ns_per_sample", "us", 1e3),
        ),
        partial(timed, [*_DIGITS, "Offline", "--qps", str(_DIGITS_QPS)]),
        _EXTRA,
    ),
)
