"""In process and served on loopback, on the same seeded Server schedule: what the sockets add to each latency.

Both are runs of the command line, and what they were to send is compared: the same queries at the same times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import Columns, carry_out
from drumfire.bench.peers.rounds import Side
from drumfire.bench.peers.serving.servers import Start

SERVED, IN_PROCESS = "served", "in process"
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


class SameSchedule:
    """Its two sides are measured one after the other: whoever is asked first goes first, and has both run."""

    def __init__(
        self, model: str, rate: float, start: Start, backend: Sequence[str], *, times_longer: float = 1.0
    ) -> None:
        """``backend``: the words that name the model in process.  ``times_longer``: than runs usually are."""
        self._model, self._rate, self._start, self._backend = model, rate, start, backend
        self._times_longer = times_longer
        self._told: dict[str, dict[str, float]] = {}

    def side(self, name: str) -> Side:
        """``served`` or ``in process``.  Raises ``MeasurementError``."""

        def told(seconds: float) -> dict[str, float]:
            if name not in self._told:
                order = (SERVED, IN_PROCESS) if name == SERVED else (IN_PROCESS, SERVED)
                found = {one: self._run(one, seconds * self._times_longer) for one in order}
                self._told = compare(found[SERVED], found[IN_PROCESS])
            return self._told.pop(name)

        return told

    def _run(self, name: str, seconds: float) -> Columns:
        load = ["--scenario", "Server", "--qps", f"{self._rate:g}", "--time", f"{seconds:g}"]
        if name == IN_PROCESS:
            return carry_out(["run", *self._backend, *load])[1]
        with self._start() as server:
            return carry_out(["run", "triton", self._model, "--url", f"grpc://{server.grpc}", *load])[1]


def compare(served: Columns, in_process: Columns) -> dict[str, dict[str, float]]:
    """Figures of both sides.  Raises ``MeasurementError`` unless both were asked the same at the same times."""
    for column in ("scheduled", "sample_index"):
        if not np.array_equal(served[column], in_process[column]):
            raise MeasurementError(f"the two runs differ in {column}: they were to send the same")
    sides = {name: _latencies(columns) for name, columns in ((SERVED, served), (IN_PROCESS, in_process))}
    added = {f"added_{p}_ns": sides[SERVED][f"{p}_ns"] - sides[IN_PROCESS][f"{p}_ns"] for p in PERCENTILES}
    sides[SERVED] |= added
    return sides


def _latencies(columns: Columns) -> dict[str, float]:
    """From the schedule."""
    latency = columns["completed"] - columns["scheduled"]
    values = np.percentile(latency, list(PERCENTILES.values()), method="inverted_cdf")
    named = {f"{name}_ns": float(value) for name, value in zip(PERCENTILES, values, strict=True)}
    return named | {"requests": float(latency.size)}
