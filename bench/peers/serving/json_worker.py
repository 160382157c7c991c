"""A closed loop of JSON inference requests over HTTP, for servers without binary tensors.

Runs as a program: the case is JSON on standard input, the figures are JSON on standard output.  It uses the sockets
and the HTTP of a run, and checks the status and the output's values of every reply.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from drumfire.bench.peers.program import p50_and_p99
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.sut.kserve.http1.connection import Response, build_request
from drumfire.sut.kserve.messages.exchange import Failure
from drumfire.sut.kserve.messages.http_client import HttpExchange, error_text, model_path
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.wire import Wire, connect

_WARM_S = 0.3


class _Loop:
    """All connections, each with a single request at a time."""

    def __init__(self, case: dict[str, Any], endpoint: Endpoint) -> None:
        self.values = np.random.default_rng(1).random(case["elements"], np.float32).tolist()
        tensor = {"name": "INPUT0", "shape": [1, case["elements"]], "datatype": "FP32", "data": self.values}
        # kserve only answers requests that have an id.
        self.body = json.dumps({"id": "1", "inputs": [tensor]}).encode()
        target, fields = f"{model_path(case['model'], '')}/infer", [("Content-Type", "application/json")]
        self.head = build_request("POST", target, endpoint.authority, fields, len(self.body))
        self.latencies: list[int] = []
        self.until_ns = 0
        self.failed: str | None = None
        self.under_way = 0
        self.idle = asyncio.Event()

    def check(self, response: Response | Failure) -> str | None:
        """What is wrong with a reply; None where it is right."""
        if isinstance(response, Failure):
            return response.reason
        if response.status != 200:
            return error_text(response)
        (output,) = json.loads(bytes(response.body))["outputs"]
        if output["name"] != "OUTPUT0" or output["data"] != self.values:
            return f"a reply differs from what was sent: {output}"
        return None


class _Lane:
    """A connection."""

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self.exchange: HttpExchange[Response] = HttpExchange(lambda response: response)
        self.wire: Wire
        self._sent = 0

    def send(self) -> None:
        self._loop.under_way += 1
        self._sent = time.perf_counter_ns()
        self.exchange.put(0, self._loop.head, self._loop.body)
        self.wire.flush()

    def deliver(self, events: Sequence[tuple[int, Response | Failure]]) -> None:
        loop = self._loop
        for _, response in events:
            now = time.perf_counter_ns()
            loop.latencies.append(now - self._sent)
            loop.under_way -= 1
            loop.failed = loop.failed or loop.check(response)
            if loop.failed is None and now < loop.until_ns:
                self.send()
            elif not loop.under_way:
                loop.idle.set()


async def measure(case: dict[str, Any]) -> dict[str, float]:
    """Times in ns; CPU of this process, from the end of the warm-up to the last reply."""
    endpoint = parse_url(f"http://{case['address']}")
    loop = _Loop(case, endpoint)
    lanes = [_Lane(loop) for _ in range(case["in_flight"])]
    for lane in lanes:
        lane.wire = await connect(endpoint, Security(), lane.exchange, lane.deliver)

    async def all_lanes(seconds: float) -> None:
        loop.until_ns = time.perf_counter_ns() + round(seconds * 1e9)
        loop.idle.clear()
        for lane in lanes:
            lane.send()
        await loop.idle.wait()
        if loop.failed is not None:
            raise SystemExit(loop.failed)

    await all_lanes(_WARM_S)
    warm = len(loop.latencies)
    loop.latencies.clear()
    gc.collect()
    gc.freeze()
    began, cpu_s = time.perf_counter(), time.process_time()
    await all_lanes(case["seconds"])
    lasted_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    for lane in lanes:
        await lane.wire.close()
    count = len(loop.latencies)
    p50, p99 = p50_and_p99(loop.latencies)
    return {
        "rate_per_s": count / lasted_s,
        "cpu_ns_per_request": cpu_s / count * 1e9,
        "p50_latency_ns": p50,
        "p99_latency_ns": p99,
        "requests": float(count),
        "sent": float(count + warm),
    }


if __name__ == "__main__":
    print(json.dumps(run_on_fast_loop(measure(json.load(sys.stdin)))))
