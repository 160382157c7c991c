"""In process and served on loopback, on the same seeded Server schedule: what the sockets add to each latency.

Both are runs of the command line, and their schedules are compared: the same queries at the same times.
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
    """Both sides are measured when the first side is called, which also runs first."""

    def __init__(
        self, model: str, rate: float, start: Start, backend: Sequence[str], *, times_longer: float = 1.0
    ) -> None:
        """``backend``: the words that name the model in process.  ``times_longer``: than other runs."""
        self._model, self._rate, self._start, self._backend = model, rate, start, backend
        self._times_longer = times_longer
        self._figures: dict[str, dict[str, float]] = {}

    def side(self, name: str) -> Side:
        """``served`` or ``in process``.  Raises ``MeasurementError``."""

        def measure(seconds: float) -> dict[str, float]:
            if name not in self._figures:
                order = (SERVED, IN_PROCESS) if name == SERVED else (IN_PROCESS, SERVED)
                columns = {one: self._run(one, seconds * self._times_longer) for one in order}
                self._figures = compare(columns[SERVED], columns[IN_PROCESS])
            return self._figures.pop(name)

        return measure

    def _run(self, name: str, seconds: float) -> Columns:
        load = ["--scenario", "Server", "--qps", f"{self._rate:g}", "--time", f"{seconds:g}"]
        if name == IN_PROCESS:
            return carry_out(["run", *self._backend, *load]).columns
        with self._start() as server:
            return carry_out(["run", "triton", self._model, "--url", f"grpc://{server.grpc}", *load]).columns


def compare(served: Columns, in_process: Columns) -> dict[str, dict[str, float]]:
    """Figures of both sides.  Raises ``MeasurementError`` unless both had the same schedule."""
    for column in ("scheduled", "sample_index"):
        if not np.array_equal(served[column], in_process[column]):
            raise MeasurementError(f"the two runs differ in {column}: their schedules must be the same")
    sides = {name: _latencies(columns) for name, columns in ((SERVED, served), (IN_PROCESS, in_process))}
    added = {f"added_{p}_ns": sides[SERVED][f"{p}_ns"] - sides[IN_PROCESS][f"{p}_ns"] for p in PERCENTILES}
    sides[SERVED] |= added
    return sides


def _latencies(columns: Columns) -> dict[str, float]:
    """Latencies from the schedule."""
    latency = columns["completed"] - columns["scheduled"]
    values = np.percentile(latency, list(PERCENTILES.values()), method="inverted_cdf")
    named = {f"{name}_ns": float(value) for name, value in zip(PERCENTILES, values, strict=True)}
    return named | {"requests": float(latency.size)}
