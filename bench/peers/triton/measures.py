"""The measures beside perf_analyzer and tritonclient, with their cases and goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drumfire.bench.peers.goal import Figure, both
from drumfire.bench.peers.rounds import Measure
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.triton import client, environments, ours, perf_analyzer, searches
from drumfire.bench.peers.triton.case import PROTOCOLS, Case
from drumfire.sut.environments import Say

PERF_ANALYZER, CLIENT = TOOLS = ("perf_analyzer", "tritonclient")
_SMALL, _LARGE = 16, 3 * 224 * 224
"""FP32 elements: 64 bytes, and 602 kB, the size of an image."""
_PERCENTILES = ("p50", "p99")
_LOOPS = (1, 2, 4, 8, 16, 32, 64)
"""The curve of rate and latency that a user of perf_analyzer draws first, by ``--concurrency-range``."""

CASES: dict[str, Case] = {
    **{f"{p}@{c}": Case("identity_cached", p, _SMALL, concurrency=c) for p in PROTOCOLS for c in (16, 64)},
    **{
        f"{p}-loop@{c}": Case("identity_cached", p, _SMALL, concurrency=c, loop=True) for p in PROTOCOLS for c in _LOOPS
    },
    **{f"{p}-large": Case("identity", p, _LARGE, concurrency=4) for p in PROTOCOLS},
    **{f"{p}-poisson@{r}": Case("identity_cached", p, _SMALL, rate=r) for p in PROTOCOLS for r in (1000, 5000)},
}
"""By the measure's name."""
SEARCHES = {"grpc-search": Case("identity_cached", "grpc", _SMALL)}
"""The highest rate under a bound.  Not over HTTP: above what the server keeps up with, perf_analyzer opens a connection
a request until the server has no file descriptor left (20,000 after 25 s), and then never ends."""
NAMES = (*CASES, *SEARCHES)


@dataclass(frozen=True)
class Tools:
    """The other tools, ready to run."""

    perf_analyzer: tuple[Path, Mapping[str, str]]
    client_python: Path


def tools(say: Say) -> Tools:
    """Raises ``MeasurementError``."""
    return Tools(environments.perf_analyzer(say), environments.client_python(say))


def measures(server: Running, others: Tools) -> list[Measure]:
    found = [_measure(name, case, server, others) for name, case in CASES.items()]
    return [*found, *(_search(name, case, server, others) for name, case in SEARCHES.items())]


def _measure(name: str, case: Case, server: Running, others: Tools) -> Measure:
    measured = partial(ours.measure, server, case)
    sides = {PERF_ANALYZER: partial(perf_analyzer.measure, *others.perf_analyzer, server, case)}
    if case.rate is not None:
        return Measure(name, _open_loop(case), measured, sides)
    if case.loop:
        return Measure(name, _curve(case), measured, sides)
    sides[CLIENT] = partial(client.measure, others.client_python, server, case)
    return Measure(name, _closed_loop(case), measured, sides)


def _search(name: str, case: Case, server: Running, others: Tools) -> Measure:
    at = f"highest rate with p99 below {searches.BOUND_MS} ms, {PROTOCOLS[case.protocol]}"
    figures = (
        both(f"requests until it is known: {at}", "requests", "", goal_ratio=1),
        both(at, "best_per_s", "1/s", more_is_better=True),
    )
    theirs = {PERF_ANALYZER: partial(searches.binary, *others.perf_analyzer, server, case)}
    return Measure(name, figures, partial(searches.sweep, server, case), theirs)


def _closed_loop(case: Case) -> tuple[Figure, ...]:
    large = case.elements == _LARGE
    at = f"{PROTOCOLS[case.protocol]}, {case.concurrency} at a time" + (", 602 kB in and out" if large else "")
    top = case.concurrency == max(one.concurrency or 0 for one in CASES.values())
    return (
        _cpu(at, goal_ratio=1 / 0.6 if large else 4),
        both(f"rate, {at}", "rate_per_s", "1/s", more_is_better=True, goal_ratio=1.8 if top else None),
        *_latencies(at),
        *_other_cpu(at),
    )


def _curve(case: Case) -> tuple[Figure, ...]:
    at = f"{PROTOCOLS[case.protocol]}, closed loop of {case.concurrency}"
    return (both(f"rate, {at}", "rate_per_s", "1/s", more_is_better=True), *_latencies(at), _cpu(at), *_other_cpu(at))


def _open_loop(case: Case) -> tuple[Figure, ...]:
    at = f"{PROTOCOLS[case.protocol]} at {case.rate:,.0f}/s"
    return (
        Figure(f"queries of the schedule that were not delivered, {at}", "undelivered", "", goal=0),
        Figure(f"lateness p50, {at}", "p50_lateness_ns", "us", 1e3, goal=50),
        Figure(f"lateness p99, {at}", "p99_lateness_ns", "us", 1e3),
        Figure(f"sent more than 1 ms late, {at}", "late_share", "%", 0.01),
        # Only perf_analyzer has this figure: requests sent any time after their schedule.
        both(f"what perf_analyzer calls delayed, {at}", "delayed_share", "%", 0.01),
        both(f"rate, {at}", "rate_per_s", "1/s", more_is_better=True),
        *_latencies(at),
        *(Figure(f"latency {p} from the schedule, {at}", f"{p}_scheduled_latency_ns", "us", 1e3) for p in _PERCENTILES),
        _cpu(at),
        *_other_cpu(at),
    )


def _cpu(at: str, goal_ratio: float | None = None) -> Figure:
    return both(f"client CPU a request, {at}", "cpu_ns_per_request", "us", 1e3, goal_ratio=goal_ratio)


def _other_cpu(at: str) -> tuple[Figure, ...]:
    return (
        both(f"client CPU with the program's start and end, {at}", "whole_cpu_ns_per_request", "us", 1e3),
        both(f"server CPU a request, {at}", "server_cpu_ns_per_request", "us", 1e3),
    )


def _latencies(at: str) -> tuple[Figure, ...]:
    return tuple(both(f"latency {p} from the sending, {at}", f"{p}_latency_ns", "us", 1e3) for p in _PERCENTILES)
