"""tritonclient's side: runs its worker in its own environment, and checks it against the server's counts."""

from __future__ import annotations

import json
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError, run
from drumfire.bench.peers.server import Running, watched
from drumfire.bench.peers.triton import client_worker
from drumfire.bench.peers.triton.case import INPUT, OUTPUT, Case


def measure(python: Path, server: Running, case: Case, seconds: float) -> dict[str, float]:
    """A closed loop.  Raises ``MeasurementError``."""
    work = {
        "model": case.model,
        "protocol": case.protocol,
        "address": server.address(case.protocol),
        "elements": case.elements,
        "concurrency": case.concurrency,
        "seconds": seconds,
        "input": INPUT,
        "output": OUTPUT,
    }
    with watched(server, case.model) as served:
        done = run([str(python), "-I", client_worker.__file__], json.dumps(work))
    figures: dict[str, float] = done.document
    if figures["sent"] != served.requests:
        raise MeasurementError(f"tritonclient counts {figures['sent']:.0f} replies, the server {served.requests}")
    return figures | {
        "whole_cpu_ns_per_request": done.cpu_s / served.requests * 1e9,
        "server_cpu_ns_per_request": served.cpu_ns_per_request,
        "served": float(served.requests),
    }
