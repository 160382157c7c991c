"""What two revisions of the remote client are compared by: runs over gRPC and HTTP against one server for both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from drumfire.bench.peers.against import Case, Program, run_figures
from drumfire.bench.peers.goal import both
from drumfire.bench.peers.serving.client import carry_out, one_input
from drumfire.bench.peers.serving.servers import IDENTITY, Running

SERVED = ("null", IDENTITY)
"""By this checkout's ``drumfire serve``."""
_PROTOCOLS = {"grpc": "gRPC", "http": "HTTP"}
_RATE = 2000
NAMES = tuple(f"{protocol}{load}" for protocol in _PROTOCOLS for load in ("", f"@{_RATE}"))


def cases(server: Running) -> list[Case]:
    made = []
    for protocol, label in _PROTOCOLS.items():
        address = server.grpc if protocol == "grpc" else server.http
        ask = ["run", "triton", IDENTITY, "--url", f"{protocol}://{address}", *one_input()]
        made += [
            Case(
                protocol,
                (
                    both(f"{label}, SingleStream: client CPU a request", "cpu_ns_per_sample", "us", 1e3),
                    both(f"{label}, SingleStream: latency p50", "p50_latency_ns", "us", 1e3),
                ),
                partial(_run, [*ask, "--scenario", "SingleStream"]),
            ),
            Case(
                f"{protocol}@{_RATE}",
                (
                    both(f"{label}, Server at {_RATE:,}/s: client CPU a request", "cpu_ns_per_sample", "us", 1e3),
                    both(f"{label}, Server at {_RATE:,}/s: p99 lateness", "p99_lateness_ns", "us", 1e3),
                    both(f"{label}, Server at {_RATE:,}/s: latency p99", "p99_latency_ns", "us", 1e3),
                ),
                partial(_run, [*ask, "--scenario", "Server", "--qps", str(_RATE)]),
            ),
        ]
    return made


def _run(words: Sequence[str], program: Program, seconds: float) -> dict[str, float]:
    return run_figures(carry_out([*words, "--time", f"{seconds:g}"], program)[0])
