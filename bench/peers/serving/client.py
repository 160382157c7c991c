"""The client of all servers: a run of the command line against a fresh server, and its figures.

The server's CPU is what its processes used from before the client's first request to after its last, divided by the
server's own count of requests.  JSON without binary tensors is sent by the target ``http``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import carry_out, cpu_seconds, one_input, p50_and_p99
from drumfire.bench.peers.server import Running, Served, watched
from drumfire.bench.peers.serving.servers import IDENTITY, Start
from drumfire.sut.kserve.messages.http_client import model_path

_IDENTITY_ELEMENTS = 4


@dataclass(frozen=True)
class Load:
    """A closed loop."""

    model: str
    protocol: str
    """grpc, http, or json: HTTP without binary tensors."""
    in_flight: int
    words: Sequence[str] = ()
    """More options of the client, such as its samples."""


def closed_loop(start: Start, load: Load, seconds: float) -> dict[str, float]:
    """Start the server, measure it, end it.  Raises ``MeasurementError``, also where a request failed."""
    with start() as server:
        with watched(server, load.model) as served:
            figures = _ask(server, load, seconds)
        return figures | _of_server(figures, served)


def in_process(words: Sequence[str], seconds: float) -> dict[str, float]:
    """Offline on this machine without a server: samples a second, and the CPU of generator and model for a sample."""
    result = carry_out(["run", *words, "--scenario", "Offline", "--time", f"{seconds:g}"]).result
    rate, samples = result["delivered"]["samples_per_second"], result["delivered"]["samples"]
    return {"rate_per_s": rate, "all_cpu_ns_per_request": cpu_seconds(result) / samples * 1e9, "requests": samples}


def _ask(server: Running, load: Load, seconds: float) -> dict[str, float]:
    traffic = ["--scenario", "Offline", "--concurrency", str(load.in_flight), "--time", f"{seconds:g}"]
    result, columns, _ = carry_out([*_words(server, load), *traffic, *load.words])
    requests = result["delivered"]["samples"]
    p50, p99 = p50_and_p99(columns["completed"][:requests] - columns["sent"][:requests])
    reported = (result["system"]["server"] or {}).get("servers") or [{}]
    batch = reported[0].get("mean_batch_size")
    return {
        "rate_per_s": result["delivered"]["samples_per_second"],
        "cpu_ns_per_request": cpu_seconds(result) / requests * 1e9,
        "p50_latency_ns": p50,
        "p99_latency_ns": p99,
        "requests": float(requests),
        **({} if batch is None else {"mean_batch": batch}),
    }


def _words(server: Running, load: Load) -> list[str]:
    if load.protocol != "json":
        inputs = one_input(_IDENTITY_ELEMENTS) if load.model == IDENTITY else ()
        return ["run", "triton", load.model, "--url", server.url(load.protocol), *inputs]
    values = np.random.default_rng(1).random(_IDENTITY_ELEMENTS, np.float32).tolist()
    tensor = {"name": "INPUT0", "shape": [1, _IDENTITY_ELEMENTS], "datatype": "FP32", "data": values}
    # kserve only answers requests that have an id.
    body = json.dumps({"id": "1", "inputs": [tensor]})
    url = f"http://{server.http}{model_path(load.model, '')}/infer"
    expected = ("outputs[0].name=OUTPUT0", f"outputs[0].data={json.dumps(values)}")
    return ["run", "http", load.model, "--url", url, "--body", body, *(f"--expect-json={one}" for one in expected)]


def _of_server(figures: Mapping[str, float], served: Served) -> dict[str, float]:
    # The server also counts the requests that sized the traffic or warmed it up.
    if figures["requests"] > served.requests:
        raise MeasurementError(f"the client counts {figures['requests']:.0f} replies, the server {served.requests}")
    return {
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "all_cpu_ns_per_request": served.cpu_ns_per_request + figures["cpu_ns_per_request"],
        "served": float(served.requests),
    }
