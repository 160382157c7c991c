"""aiohttp's side: a closed loop of POSTs of ready bytes, on uvloop.

``python -m`` starts it: the case is JSON on standard input, the figures are JSON on standard output.  It reads every
reply and checks its status; like Drumfire's side it does not parse it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
from typing import Any

from drumfire.bench.peers.program import p50_and_p99
from drumfire.loadgen.interpreter import run_on_fast_loop

_WARM_S = 0.3


async def measure(case: dict[str, Any]) -> dict[str, float]:
    """Times in ns; CPU of this process, from the end of the warm-up to the last reply."""
    aiohttp = importlib.import_module("aiohttp")
    body, headers = case["body"].encode(), {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    latencies: list[int] = []
    clock = time.perf_counter_ns
    connector = aiohttp.TCPConnector(limit=case["in_flight"])

    async def loop(until_ns: int) -> None:
        while (sent := clock()) < until_ns:
            async with session.post(case["url"], data=body, headers=headers) as reply:
                await reply.read()
                if reply.status != 200:
                    raise ValueError(f"a reply has the status {reply.status}")
            latencies.append(clock() - sent)

    async def all_loops(seconds: float) -> None:
        until_ns = clock() + round(seconds * 1e9)
        await asyncio.gather(*(loop(until_ns) for _ in range(case["in_flight"])))

    async with aiohttp.ClientSession(connector=connector) as session:
        await all_loops(_WARM_S)
        warm = len(latencies)
        latencies.clear()
        gc.collect()
        gc.freeze()
        began, cpu_s = clock(), time.process_time()
        await all_loops(case["seconds"])
        lasted_s, cpu_s = (clock() - began) * 1e-9, time.process_time() - cpu_s
    p50, p99 = p50_and_p99(latencies)
    return {
        "rate_per_s": len(latencies) / lasted_s,
        "cpu_ns_per_request": cpu_s / len(latencies) * 1e9,
        "p50_latency_ns": p50,
        "p99_latency_ns": p99,
        "requests": float(len(latencies)),
        "sent": float(len(latencies) + warm),
    }


if __name__ == "__main__":
    print(json.dumps(run_on_fast_loop(measure(json.load(sys.stdin)))))
