"""Runs made for a comparison, without a folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from drumfire.bench.compare.intervals import Interval
from drumfire.bench.compare.pairing import FigureRatio
from drumfire.bench.peers import coverage
from drumfire.bench.peers.coverage import SimulatedRun

MACHINE = {"cpu": "X", "cores": 8, "memory_bytes": 16_000_000_000, "gpus": [], "python": "3.11", "versions": {"n": "1"}}
SYSTEM = {"backend": "onnxruntime", "model": "digits", "device": "cpu", "threads": 1}


def made(
    seed: int = 1, factor: float = 1.0, queries: int = 20_000, spread: float = 0.3, **further: Any
) -> SimulatedRun:
    """A Server run of independent latencies around ``factor`` ms; ``further`` parts of its result."""
    random = np.random.default_rng(seed)
    run = coverage.run(np.full(queries, 2.0), factor * random.lognormal(0, spread, queries))
    result = run.result | {
        "mode": "PerformanceOnly",
        "system": SYSTEM,
        "environment": MACHINE,
        "errors": {"failed": 0, "unanswered": 0},
        "checks": {"no_errors": True},
    }
    return replace(run, result=result | further)


def at(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00"


def ends(interval: Interval | FigureRatio) -> tuple[float, float]:
    """Both ends of an interval that is not open."""
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high
