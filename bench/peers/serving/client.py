"""The one client of all servers: a run of the command line against a fresh server, told as figures.

CPU of the server is all that its processes spent from before the client's first request to after its last, by the
server's own count of requests.  Where a body has to be JSON, which a run does not send, ``json_worker`` asks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.bench.peers.process import PROGRAM, MeasurementError, run
from drumfire.bench.peers.serving.servers import IDENTITY, Running, Start, watched
from drumfire.bench.peers.triton.server import Served

JUDGED = (0, 1)
"""A run that is INVALID, as its latency bound was missed, has been measured all the same."""
Columns = Mapping[str, npt.NDArray[np.int64]]

_IDENTITY_ELEMENTS = 4


@dataclass(frozen=True)
class Load:
    """A closed loop."""

    model: str
    protocol: str
    """grpc, http, or json: HTTP without binary tensors."""
    in_flight: int


def closed_loop(start: Start, load: Load, seconds: float) -> dict[str, float]:
    """Start the server, ask it, end it.  Raises ``MeasurementError``, also where a request failed."""
    with start() as server:
        ask = _ask_json if load.protocol == "json" else _ask
        with watched(server) as served:
            figures = ask(server, load, seconds)
        return figures | _of_server(figures, served)


def in_process(words: Sequence[str], seconds: float) -> dict[str, float]:
    """Offline in this project's own process: samples and CPU of a sample, the load generator's with it."""
    result, _ = carry_out(["run", *words, "--scenario", "Offline", "--time", f"{seconds:g}"])
    rate = result["delivered"]["samples_per_second"]
    return {"rate_per_s": rate, "all_cpu_ns_per_request": _cpu_ns(result), "requests": result["delivered"]["samples"]}


def carry_out(words: Sequence[str], program: Sequence[str] = PROGRAM) -> tuple[Mapping[str, Any], Columns]:
    """A run of the command line that ``program`` starts: its result and columns.

    Raises ``MeasurementError``, also where it has errors.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"
        command = [*program, *words, "--json", "--no-dashboard", "--output", str(folder)]
        result = run(command, fine=JUDGED).document
        columns = {path.stem: np.load(path) for path in (folder / "columns").glob("*.npy")}
    return without_errors(result), columns


def without_errors(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result itself.  Raises ``MeasurementError`` where a request failed."""
    errors = {name: result["errors"][name] for name in ("failed", "unanswered", "refused") if result["errors"][name]}
    if errors:
        raise MeasurementError(f"Drumfire's run has errors: {errors}, {result['errors']['messages']}")
    return result


def one_input() -> list[str]:
    """The words of a run that sends one input of the identity model again and again."""
    return ["--input", f"INPUT0:{_IDENTITY_ELEMENTS}", "--input-data", "random", "--performance-sample-count", "1"]


def _ask(server: Running, load: Load, seconds: float) -> dict[str, float]:
    address = server.grpc if load.protocol == "grpc" else server.http
    words = ["run", "triton", load.model, "--url", f"{load.protocol}://{address}", "--scenario", "Offline"]
    inputs = one_input() if load.model == IDENTITY else ()
    result, columns = carry_out([*words, "--concurrency", str(load.in_flight), "--time", f"{seconds:g}", *inputs])
    requests = result["delivered"]["samples"]
    latency = columns["completed"][:requests] - columns["sent"][:requests]
    p50, p99 = np.percentile(latency, (50, 99), method="inverted_cdf")
    told = (result["system"]["server"] or {}).get("servers") or [{}]
    batch = told[0].get("mean_batch_size")
    return {
        "rate_per_s": result["delivered"]["samples_per_second"],
        "cpu_ns_per_request": _cpu_ns(result),
        "p50_latency_ns": float(p50),
        "p99_latency_ns": float(p99),
        "requests": float(requests),
        **({} if batch is None else {"mean_batch": batch}),
    }


def _ask_json(server: Running, load: Load, seconds: float) -> dict[str, float]:
    asked = {
        "address": server.http,
        "model": load.model,
        "in_flight": load.in_flight,
        "elements": _IDENTITY_ELEMENTS,
        "seconds": seconds,
    }
    figures: dict[str, float] = run(
        [sys.executable, "-m", "drumfire.bench.peers.serving.json_worker"], json.dumps(asked)
    ).document
    return figures


def _of_server(figures: Mapping[str, float], served: Served) -> dict[str, float]:
    # The server's count has the requests that sized the traffic, or warmed it up, as well.
    if figures["requests"] > served.requests:
        raise MeasurementError(f"the client counts {figures['requests']:.0f} replies, the server {served.requests}")
    return {
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "all_cpu_ns_per_request": served.cpu_ns_per_request + figures["cpu_ns_per_request"],
        "served": float(served.requests),
    }


def _cpu_ns(result: Mapping[str, Any]) -> float:
    return float(result["overhead"]["process_cpu_s"] / result["delivered"]["samples"] * 1e9)
