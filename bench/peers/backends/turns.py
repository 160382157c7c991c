"""A model on a backend in a fresh process: Drumfire and the bare loop in turns.

Runs as a program: the case is JSON on standard input, the figures are JSON on standard output.  A turn takes about two
seconds, as the machine's own speed changes within minutes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from drumfire.bench.assemble.local import spare_cores
from drumfire.bench.peers.backends.bare import LOOPS, Call
from drumfire.bench.peers.bare_loop import full_batches
from drumfire.bench.peers.hosted import weights
from drumfire.bench.peers.program import p50_and_p99
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.mlperf_conf import built_in_values
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.local.batcher import BatchedSystem, service_times
from drumfire.sut.local.batching import batch_sizes
from drumfire.sut.local.loaded import fit

_IN_MEMORY = 64
_TURN_S = 2.0
_SHARES = (0.98, 0.95, 0.92, 0.9, 0.87, 0.85, 0.8, 0.7, 0.5, 0.3)
"""Shares of Offline's rate, tried in this order until a Server run keeps within the bound."""
_LONE_TIMES = 20
"""A second bound, in multiples of a lone sample's time: the models' own bounds are meant for other machines."""


@dataclass
class _Spent:
    """The work and cost of a side so far."""

    samples: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        return {"samples_per_s": self.samples / self.wall_s, "cpu_s_per_sample": self.cpu_s / self.samples}


class _Loaded:
    """The model on its backend, put together as a run of the command line is."""

    def __init__(self, backend: str, model: str, batch_size: int) -> None:
        self.model, self.batch_size = models.get(model), batch_size
        self.threads, self.file = spare_cores(), weights(model, backend)
        self.backend = backends.load(
            backend, self.file, "cpu", self.threads, backends.kinds()[backend](max_batch_size=batch_size)
        )
        self.library = library = fit(self.model.library(performance_count=_IN_MEMORY), self.backend, self.model)
        self.batches = full_batches(library, batch_size)
        self.bare_batches = [batch for one in self.batches for batch in one.values()]
        self.bare: Call = LOOPS[backend](self.file, self.bare_batches[0], self.threads)

    def run(self, batch: Batch) -> Any:
        return self.model.respond(self.backend.run(batch))

    def test(self, settings: TestSettings) -> Test:
        system = BatchedSystem(self.model.name, [self.run], self.library, max_batch_size=self.batch_size)
        test = Test(system, self.library, settings)
        run_on_fast_loop(test.run())
        return test

    def offline(self, samples: int, spent: _Spent) -> None:
        """Add an Offline run of ``samples`` by its own report."""
        settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=1)
        settings.min_query_count, settings.offline_expected_qps = samples, 1.0
        report = self.test(settings).reports[0]
        spent.cpu_s += report.overhead.process_cpu_s
        spent.samples += report.issued_rows
        spent.wall_s += report.lasted_ns * 1e-9

    def loop(self, samples: int, spent: _Spent) -> None:
        """Add the bare loop over ready batches."""
        began, cpu = time.perf_counter(), time.process_time()
        for at in range(samples // self.batch_size):
            self.bare(self.bare_batches[at % len(self.bare_batches)])
        spent.wall_s += time.perf_counter() - began
        spent.cpu_s += time.process_time() - cpu
        spent.samples += samples // self.batch_size * self.batch_size

    def turn(self) -> int:
        """The samples that take about ``_TURN_S``; measuring this warms both sides up."""
        lasted = min(
            *service_times(lambda: self.run(self.batches[0])), *service_times(lambda: self.bare(self.bare_batches[0]))
        )
        return max(round(_TURN_S / lasted), 2) * self.batch_size


def offline(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Offline and the bare loop in turns, the loop first and last."""
    loaded = _Loaded(case["backend"], case["model"], case["batch_size"])
    samples, ours, bare = loaded.turn(), _Spent(), _Spent()
    loaded.loop(samples // 2, bare)
    while ours.wall_s < case["seconds"]:
        loaded.offline(samples, ours)
        loaded.loop(samples if ours.wall_s < case["seconds"] else samples // 2, bare)
    return {"ours": ours.figures, "bare": bare.figures}


def server(case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The highest share of Offline's rate with which a Server run keeps within the model's bound, and within ours."""
    loaded = _Loaded(case["backend"], case["model"], case["batch_size"])
    whole = _Spent()
    samples = loaded.turn()
    while whole.wall_s < case["seconds"]:
        loaded.offline(samples, whole)
    rate = whole.figures["samples_per_s"]
    lone = {name: samples[:1] for name, samples in loaded.batches[0].items()}
    lone_s = float(np.median(service_times(lambda: loaded.run(lone), _TURN_S)))
    bounds = built_in_values() | models.target_latencies(case["model"])
    own_s = bounds[f"{case['model']}.Server.target_latency"] * 1e-3
    figures = {"offline_per_s": rate, "lone_s": lone_s}
    left = {"own": own_s, "wide": _LONE_TIMES * lone_s}
    for name, bound in left.items():
        figures |= {f"{name}_bound_s": bound, f"{name}_share": 0.0}
        figures |= dict.fromkeys((f"{name}_samples_per_s", f"{name}_latency_s", f"{name}_mean_batch"), 0.0)
    for share in _SHARES:
        served = _served(loaded, rate * share, 2 * case["seconds"])
        for name in [name for name, bound in left.items() if served["latency_s"] <= bound]:
            del left[name]
            figures |= {f"{name}_{figure}": value for figure, value in served.items()}
            figures[f"{name}_share"] = served["samples_per_s"] / rate
        if not left:
            break
    return {"ours": figures}


def _served(loaded: _Loaded, rate: float, seconds: float) -> dict[str, float]:
    """A Server run: completed samples a second, the p99 latency and the mean batch."""
    settings = TestSettings(scenario=Scenario.Server, min_duration_ms=round(seconds * 1000))
    settings.server_target_qps = rate
    columns = loaded.test(settings).record.columns
    latency = columns["completed"] - columns["scheduled"]
    sizes = batch_sizes(columns["batch_size"])
    return {
        "samples_per_s": (latency.size - 1) / (int(columns["completed"].max()) * 1e-9),
        "latency_s": p50_and_p99(latency)[1] * 1e-9,
        "mean_batch": latency.size / sum(sizes.values()),
    }


KINDS = {"offline": offline, "server": server}


if __name__ == "__main__":
    case = json.load(sys.stdin)
    print(json.dumps(KINDS[case["kind"]](case)))
