"""The client of all servers: a run of the command line against a fresh server, and its figures.

The server's CPU is what its processes used from before the client's first request to after its last, divided by the
server's own count of requests.  A run cannot send JSON bodies; ``json_worker`` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drumfire.bench.peers.process import MeasurementError, run
from drumfire.bench.peers.program import carry_out, one_input, p50_and_p99
from drumfire.bench.peers.server import Running, Served, watched
from drumfire.bench.peers.serving.servers import IDENTITY, Start

_IDENTITY_ELEMENTS = 4


@dataclass(frozen=True)
class Load:
    """A closed loop."""

    model: str
    protocol: str
    """grpc, http, or json: HTTP without binary tensors."""
    in_flight: int


def closed_loop(start: Start, load: Load, seconds: float) -> dict[str, float]:
    """Start the server, measure it, end it.  Raises ``MeasurementError``, also where a request failed."""
    with start() as server:
        ask = _ask_json if load.protocol == "json" else _ask
        with watched(server, load.model) as served:
            figures = ask(server, load, seconds)
        return figures | _of_server(figures, served)


def in_process(words: Sequence[str], seconds: float) -> dict[str, float]:
    """Offline in the load generator's process: samples a second, and the CPU of both for a sample."""
    result = carry_out(["run", *words, "--scenario", "Offline", "--time", f"{seconds:g}"]).result
    rate = result["delivered"]["samples_per_second"]
    return {"rate_per_s": rate, "all_cpu_ns_per_request": _cpu_ns(result), "requests": result["delivered"]["samples"]}


def _ask(server: Running, load: Load, seconds: float) -> dict[str, float]:
    words = ["run", "triton", load.model, "--url", server.url(load.protocol), "--scenario", "Offline"]
    inputs = one_input(_IDENTITY_ELEMENTS) if load.model == IDENTITY else ()
    result, columns, _ = carry_out([*words, "--concurrency", str(load.in_flight), "--time", f"{seconds:g}", *inputs])
    requests = result["delivered"]["samples"]
    p50, p99 = p50_and_p99(columns["completed"][:requests] - columns["sent"][:requests])
    reported = (result["system"]["server"] or {}).get("servers") or [{}]
    batch = reported[0].get("mean_batch_size")
    return {
        "rate_per_s": result["delivered"]["samples_per_second"],
        "cpu_ns_per_request": _cpu_ns(result),
        "p50_latency_ns": p50,
        "p99_latency_ns": p99,
        "requests": float(requests),
        **({} if batch is None else {"mean_batch": batch}),
    }


def _ask_json(server: Running, load: Load, seconds: float) -> dict[str, float]:
    case = {
        "address": server.http,
        "model": load.model,
        "in_flight": load.in_flight,
        "elements": _IDENTITY_ELEMENTS,
        "seconds": seconds,
    }
    figures: dict[str, float] = run(
        [sys.executable, "-m", "drumfire.bench.peers.serving.json_worker"], json.dumps(case)
    ).document
    return figures


def _of_server(figures: Mapping[str, float], served: Served) -> dict[str, float]:
    # The server also counts the requests that sized the traffic or warmed it up.
    if figures["requests"] > served.requests:
        raise MeasurementError(f"the client counts {figures['requests']:.0f} replies, the server {served.requests}")
    return {
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "all_cpu_ns_per_request": served.cpu_ns_per_request + figures["cpu_ns_per_request"],
        "served": float(served.requests),
    }


def _cpu_ns(result: Mapping[str, Any]) -> float:
    return float(result["overhead"]["process_cpu_s"] / result["delivered"]["samples"] * 1e9)
