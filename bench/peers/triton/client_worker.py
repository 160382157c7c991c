"""tritonclient's side: a closed loop of requests.

Runs as a script in tritonclient's environment: the case is JSON on standard input, the figures are JSON on standard
output.  It decodes the output of every reply and checks shape and type, but the values of the first reply only, as
Drumfire does without expectations.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any

import numpy as np

_WARM_S = 0.3
# aiohttp asks for gzip by default, and compression costs the server 20 times the rest of a large reply.
_HEADERS = {"Accept-Encoding": "identity"}


async def measure(case: dict[str, Any]) -> dict[str, float]:
    """Times in ns; CPU of all threads, from the end of the warm-up to the last reply."""
    library = importlib.import_module(f"tritonclient.{case['protocol']}.aio")
    over_http = case["protocol"] == "http"
    client = library.InferenceServerClient(
        case["address"], **({"conn_limit": case["concurrency"]} if over_http else {})
    )
    data = np.random.default_rng(1).random((1, case["elements"]), np.float32)
    inputs = [library.InferInput(case["input"], list(data.shape), "FP32")]
    inputs[0].set_data_from_numpy(data)
    outputs = [library.InferRequestedOutput(case["output"])]
    options = {"headers": _HEADERS} if over_http else {}
    latencies: list[int] = []
    clock = time.perf_counter_ns

    async def ask() -> np.ndarray[Any, Any]:
        reply = await client.infer(case["model"], inputs, outputs=outputs, **options)
        output: np.ndarray[Any, Any] = reply.as_numpy(case["output"])
        if output.shape != data.shape or output.dtype != data.dtype:
            raise ValueError(f"a reply has {output.dtype} {output.shape}")
        return output

    async def loop(until: int) -> None:
        while (sent := clock()) < until:
            await ask()
            latencies.append(clock() - sent)

    async def all_loops(seconds: float) -> None:
        until = clock() + round(seconds * 1e9)
        await asyncio.gather(*(loop(until) for _ in range(case["concurrency"])))

    async with client:
        if not np.array_equal(await ask(), data):
            raise ValueError("a reply differs from what was sent")
        await all_loops(_WARM_S)
        warm = len(latencies) + 1
        latencies.clear()
        began, cpu_s = clock(), time.process_time()
        await all_loops(case["seconds"])
        lasted_s, cpu_s = (clock() - began) * 1e-9, time.process_time() - cpu_s
    p50, p99 = np.percentile(latencies, (50, 99), method="inverted_cdf")
    return {
        "rate_per_s": len(latencies) / lasted_s,
        "cpu_ns_per_request": cpu_s / len(latencies) * 1e9,
        "p50_latency_ns": float(p50),
        "p99_latency_ns": float(p99),
        "requests": float(len(latencies)),
        "sent": float(len(latencies) + warm),
    }


if __name__ == "__main__":
    importlib.import_module("uvloop").install()
    print(json.dumps(asyncio.run(measure(json.load(sys.stdin)))))
