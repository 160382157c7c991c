"""What two revisions of the load generator are compared by: runs of the null backend, which answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from drumfire.bench.peers.against import Case, Program, run_figures
from drumfire.bench.peers.goal import both
from drumfire.bench.peers.serving.client import carry_out

_OFFLINE_QPS = 2_000_000
"""Sizes the one query: 4.4 million samples at 2 s, whose table takes some 130 MB."""
_RATE = 10_000


def null(words: Sequence[str], program: Program, seconds: float) -> dict[str, float]:
    """Raises ``MeasurementError``."""
    asked = ["run", "null", "digits", *words, "--time", f"{seconds:g}"]
    return run_figures(carry_out(asked, program)[0])


CASES = (
    Case(
        "offline",
        (
            both("Offline: samples", "rate_per_s", "M/s", 1e6, more_is_better=True),
            both("Offline: CPU a sample", "cpu_ns_per_sample", "ns"),
        ),
        partial(null, ["--scenario", "Offline", "--qps", str(_OFFLINE_QPS)]),
    ),
    Case(
        "single-stream",
        (
            both("SingleStream: wall time of a query", "wall_ns_per_sample", "ns"),
            both("SingleStream: CPU a query", "cpu_ns_per_sample", "ns"),
        ),
        partial(null, ["--scenario", "SingleStream"]),
    ),
    Case(
        "server",
        (
            both(f"Server at {_RATE:,}/s: p50 lateness", "p50_lateness_ns", "us", 1e3),
            both(f"Server at {_RATE:,}/s: p99 lateness", "p99_lateness_ns", "us", 1e3),
            both(f"Server at {_RATE:,}/s: CPU a query, without the pacer's spin", "cpu_ns_per_sample", "us", 1e3),
        ),
        partial(null, ["--scenario", "Server", "--qps", str(_RATE)]),
    ),
)
