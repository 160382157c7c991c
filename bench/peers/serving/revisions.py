"""The measures that compare two revisions of the server: the identity model over gRPC and HTTP.

This checkout's client measures both; each measurement starts a fresh server.
"""

from __future__ import annotations

from functools import partial

from drumfire.bench.peers.against import Case
from drumfire.bench.peers.goal import both
from drumfire.bench.peers.process import PROGRAM
from drumfire.bench.peers.program import Program, one_input, timed
from drumfire.bench.peers.serving import servers
from drumfire.bench.peers.serving.client import Load, closed_loop
from drumfire.bench.peers.serving.servers import IDENTITY
from drumfire.bench.peers.triton.case import PROTOCOLS

_AT_ONCE = 16
_RATE = 2000


def _saturated(protocol: str, program: Program, seconds: float) -> dict[str, float]:
    start = partial(servers.drumfire, "null", IDENTITY, program=program)
    return closed_loop(start, Load(IDENTITY, protocol, _AT_ONCE), seconds)


def _paced(protocol: str, program: Program, seconds: float) -> dict[str, float]:
    with servers.drumfire("null", IDENTITY, program=program) as server:
        words = ["run", "triton", IDENTITY, "--url", server.url(protocol), *one_input()]
        return timed([*words, "--scenario", "Server", "--qps", str(_RATE)], PROGRAM, seconds)


CASES = tuple(
    case
    for protocol, label in PROTOCOLS.items()
    for case in (
        Case(
            protocol,
            (
                both(f"{label}, {_AT_ONCE} at a time: requests", "rate_per_s", "1/s", more_is_better=True),
                both(f"{label}, {_AT_ONCE} at a time: server CPU a request", "server_cpu_ns_per_request", "us", 1e3),
            ),
            partial(_saturated, protocol),
        ),
        Case(
            f"{protocol}@{_RATE}",
            (
                both(f"{label} at {_RATE:,}/s: latency p50", "p50_latency_ns", "us", 1e3),
                both(f"{label} at {_RATE:,}/s: latency p99", "p99_latency_ns", "us", 1e3),
            ),
            partial(_paced, protocol),
        ),
    )
)
