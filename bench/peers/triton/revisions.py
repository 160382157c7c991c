"""The measures that compare two revisions of the remote client: runs over gRPC and HTTP against the same server."""

from __future__ import annotations

from functools import partial

from drumfire.bench.peers.against import Case
from drumfire.bench.peers.goal import both
from drumfire.bench.peers.program import one_input, timed
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.serving.servers import IDENTITY
from drumfire.bench.peers.triton.case import PROTOCOLS

SERVED = ("null", IDENTITY)
"""Backend and model of the server, this checkout's ``drumfire serve``."""
_RATE = 2000
NAMES = tuple(f"{protocol}{load}" for protocol in PROTOCOLS for load in ("", f"@{_RATE}"))


def cases(server: Running) -> list[Case]:
    made = []
    for protocol, label in PROTOCOLS.items():
        words = ["run", "triton", IDENTITY, "--url", server.url(protocol), *one_input()]
        made += [
            Case(
                protocol,
                (
                    both(f"{label}, SingleStream: client CPU a request", "cpu_ns_per_sample", "us", 1e3),
                    both(f"{label}, SingleStream: latency p50", "p50_latency_ns", "us", 1e3),
                ),
                partial(timed, [*words, "--scenario", "SingleStream"]),
            ),
            Case(
                f"{protocol}@{_RATE}",
                (
                    both(f"{label}, Server at {_RATE:,}/s: client CPU a request", "cpu_ns_per_sample", "us", 1e3),
                    both(f"{label}, Server at {_RATE:,}/s: p99 lateness", "p99_lateness_ns", "us", 1e3),
                    both(f"{label}, Server at {_RATE:,}/s: latency p99", "p99_latency_ns", "us", 1e3),
                ),
                partial(timed, [*words, "--scenario", "Server", "--qps", str(_RATE)]),
            ),
        ]
    return made
