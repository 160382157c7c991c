"""perf_analyzer against a server: each of its ways to send must succeed without a warning.

Does not depend on the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError, run
from drumfire.bench.peers.triton.perf_analyzer import ANY_DEVIATION, LEAST_WINDOWS

_AT_ONCE = ("--concurrency-range", "4")
_POISSON = ("--request-rate-range", "200", "--request-distribution", "poisson", "--async")
_SHARED = ("--shared-memory", "system")
WAYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gRPC": ("grpc", _AT_ONCE),
    "gRPC, async": ("grpc", (*_AT_ONCE, "--async")),
    "gRPC, async streaming": ("grpc", (*_AT_ONCE, "--async", "--streaming")),
    "gRPC, shared memory": ("grpc", (*_AT_ONCE, *_SHARED)),
    "gRPC, Poisson": ("grpc", _POISSON),
    "HTTP": ("http", _AT_ONCE),
    "HTTP, async": ("http", (*_AT_ONCE, "--async")),
    "HTTP, shared memory": ("http", (*_AT_ONCE, *_SHARED)),
    "HTTP, Poisson": ("http", _POISSON),
}
"""Protocol and options, by name."""
_WINDOW_MS = 300
_WARNING = re.compile(r"warning|error|fail|unable", re.IGNORECASE)
_ABOUT_ITSELF = ("was not able to keep up with the desired request rate",)
"""Warnings about its own threads, whatever the server does."""
_RATE = re.compile(r"Throughput: ([\d.]+) infer/sec")
_PATIENCE_S = 120.0


def check(
    program: Path, variables: Mapping[str, str], way: str, *, model: str, grpc: str, http: str, options: tuple[str, ...]
) -> float:
    """The rate that it reports, 1/s.  ``options``: for the model, such as ``--shape``.

    Raises ``MeasurementError`` where it failed, warned, or reported no rate.
    """
    protocol, words = WAYS[way]
    command = [
        *(str(program), "-m", model, "-u", grpc if protocol == "grpc" else http, "-i", protocol, *words, *options),
        *("-p", str(_WINDOW_MS), "-s", str(ANY_DEVIATION), "-r", str(LEAST_WINDOWS)),
    ]
    done = run(command, variables=variables, patience_s=_PATIENCE_S)
    warned = warnings(done.output + done.errors)
    if warned:
        raise MeasurementError(f"perf_analyzer ({way}, {model}) warns: {'; '.join(warned)}")
    rate = _RATE.search(done.output)
    if rate is None or not float(rate[1]):
        raise MeasurementError(f"perf_analyzer ({way}, {model}) reports no rate: {done.output[-300:]}")
    return float(rate[1])


def warnings(text: str) -> list[str]:
    """The lines that report a problem."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if _WARNING.search(line) and not any(known in line for known in _ABOUT_ITSELF)]
