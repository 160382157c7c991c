"""A model on ONNX Runtime in processes of its own, as a run of the command line has it: measures a case.

Runs as a program: the case is JSON on standard input (``kind``, ``model``, ``seconds``), the figures are JSON on
standard output.  Each process has one thread.  The bare loop has a process of its own too, in which nothing else runs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from drumfire.bench.peers.backends.bare import LOOPS
from drumfire.bench.peers.bare_loop import Loops, calls_per_s, full_batches
from drumfire.bench.peers.hosted import Hosted, weights
from drumfire.bench.peers.loadgen.measures import Probe, highest
from drumfire.bench.peers.loadgen.ours import issuing_cpu_ns
from drumfire.bench.peers.loadgen.simulated import latencies
from drumfire.bench.peers.program import p50_and_p99
from drumfire.loadgen.record import Column
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut import models
from drumfire.sut.data.library import with_names

BACKEND = "onnxruntime"
_RATES = (200, 1_000, 15_000)
_SHARE = 0.6
"""The rate of a Server run as a share of the bare loop's."""
_QUEUE_BOUND_NS = 100_000_000
_LONE_TIMES = 3
"""A second bound of the queue, in multiples of a lone sample's time."""
_IN_MEMORY = 16
"""Samples of the queue's models that are loaded, as loading pictures takes long."""
_LEAST_TIMES = 5
"""Batches of each size that are measured."""


class _Loop:
    """The bare loop, with one thread."""

    facts: Mapping[str, Any] = {}

    def __init__(self, model: str, batch_size: int) -> None:
        library = with_names(models.get(model).library())
        self._given = [tuple(batch.values()) for batch in full_batches(library, batch_size)]
        self._size, self._call = batch_size, LOOPS[BACKEND](weights(model, BACKEND), self._given[0][0], 1)

    def rate(self, seconds: float, *_: Any) -> float:
        return calls_per_s(self._call, seconds, given=self._given) * self._size


def _loops(model: str, batch_size: int, processes: int = 1) -> Loops:
    return Loops(partial(_Loop, model, batch_size), processes)


def _offline(hosted: Hosted, expected_per_s: float, seconds: float) -> float:
    """Samples a second of an Offline run."""
    settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=round(seconds * 1000))
    settings.offline_expected_qps = expected_per_s
    report = hosted.run(settings).reports[0]
    return report.issued_rows / report.lasted_ns * 1e9


def _server(rate: float, seconds: float) -> TestSettings:
    settings = TestSettings(scenario=Scenario.Server, min_duration_ms=round(seconds * 1000), min_query_count=1)
    settings.server_target_qps = rate
    return settings


def offline(case: dict[str, Any]) -> dict[str, float]:
    """Offline and the bare loop in turns, the loop first and last; as many processes on both sides."""
    model, batch_size, processes, seconds = (case[name] for name in ("model", "batch_size", "processes", "seconds"))
    with (
        closing(Hosted(BACKEND, model, batch_size=batch_size, processes=processes)) as hosted,
        closing(_loops(model, batch_size, processes)) as loops,
    ):
        _offline(hosted, loops.rate(seconds / 10), seconds / 10)  # warm
        bare, ours = [loops.rate(seconds / 6)], []
        for _ in range(3):
            ours.append(_offline(hosted, bare[-1], seconds / 4))
            bare.append(loops.rate(seconds / 6))
    # Each Offline run beside the loops before and after it.
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    return {
        "samples_per_s": statistics.mean(ours),
        "bare_samples_per_s": statistics.mean(around),
        "share": sum(ours) / sum(around),
    }


def server(case: dict[str, Any]) -> dict[str, float]:
    """Latency and its parts at some rates, and at a share of the bare loop's."""
    model, batch_size, seconds = case["model"], case["batch_size"], case["seconds"]
    with closing(_loops(model, batch_size)) as loops:
        bare = loops.rate(seconds / 4)
    figures = {"bare_samples_per_s": bare}
    with closing(Hosted(BACKEND, model, batch_size=batch_size)) as hosted:
        for name, rate in (*((str(rate), rate) for rate in _RATES), ("share", bare * _SHARE)):
            figures |= {f"{name}_{what}": value for what, value in _parts(hosted.run(_server(rate, seconds))).items()}
    return figures


def _parts(test: Test) -> dict[str, float]:
    columns = test.record.columns
    scheduled, issued, begun, completed = (columns[c] for c in ("scheduled", "issued", "begun", "completed"))
    latency = completed - scheduled
    parts = {"lateness": issued - scheduled, "queue": begun - issued, "service": completed - begun}
    slowest = latency >= np.percentile(latency, 99)
    cpu_ns = issuing_cpu_ns(test.reports[0], latency.size)
    figures = {"per_s": test.effective.target_qps, "cpu_ns_per_query": cpu_ns}
    for part, values in {"latency": latency, **parts}.items():
        figures[f"{part}_p50_ns"], figures[f"{part}_p99_ns"] = p50_and_p99(values)
        # Percentiles do not add up; the means over the slowest rows do.
        figures[f"{part}_slowest_ns"] = float(values[slowest].mean())
    return figures


def capacity(case: dict[str, Any]) -> dict[str, float]:
    """The highest rate of a Server run that is VALID, and its share of Offline's."""
    seconds = case["seconds"]
    with closing(Hosted(BACKEND, case["model"], batch_size=case["batch_size"])) as hosted:

        def probe(rate: float) -> dict[str, float] | None:
            settings = _server(rate, seconds)
            settings.server_target_latency_ns = case["bound_ns"]
            found = hosted.run(settings).results()
            assert found is not None  # there was a performance phase
            return {"valid_per_s": rate, "p99_latency_ns": found.target_percentile_ns} if found.valid else None

        whole = _offline(hosted, 1 / (statistics.median(hosted.times(case["batch_size"], 0.2)) * 1e-9), seconds)
        figures = highest(probe, whole * 0.8, growth=1.25)
    return {"offline_per_s": whole, **figures, "share": figures["valid_per_s"] / whole}


def queue(case: dict[str, Any]) -> dict[str, float]:
    """The highest rate whose p99 latency keeps a bound, over that of a simulated queue with the same traffic.

    The queue has the times that this model's batches took, in the same process, and nothing else takes time in it.  As
    the machine's speed changes, they are measured before and after, in a loop: where a core rests between batches, they
    take longer.  So ``own`` has the times of the run at that rate.
    """
    seconds, batch_size = case["seconds"], case["batch_size"]
    with closing(Hosted(BACKEND, case["model"], batch_size=batch_size, in_memory=_IN_MEMORY)) as hosted:

        def batch_times() -> list[list[int]]:
            return [undisturbed(hosted.times(size, 0.2)) for size in range(1, batch_size + 1)]

        def simulated(times: list[list[int]], rate: float) -> float:
            arrivals = hosted.test(_server(rate, seconds)).record.scheduled.tolist()
            return p50_and_p99(latencies(arrivals, times))[1]

        taken: dict[float, list[list[int]]] = {}

        def measured(rate: float) -> float:
            columns = hosted.run(_server(rate, seconds)).record.columns
            taken[rate] = _batch_times(columns, batch_size)
            return p50_and_p99(columns["completed"] - columns["scheduled"])[1]

        def could(times: list[list[int]], bound_ns: float) -> float:
            fastest = 1e9 / statistics.median(times[0])
            return highest(_within(bound_ns, partial(simulated, times)), fastest, steps=8)["per_s"]

        times = batch_times()
        lone_ns = statistics.median(times[0])
        figures = {"lone_ns": lone_ns, "full_ns": statistics.median(times[-1])}
        for name, bound_ns in (("fixed", float(_QUEUE_BOUND_NS)), ("lone", _LONE_TIMES * lone_ns)):
            before = could(times, bound_ns)
            found = highest(_within(bound_ns, measured), 0.9 * before, growth=1.2)
            times = batch_times()
            expected = (before + could(times, bound_ns)) / 2
            figures |= {f"{name}_{what}": value for what, value in found.items()}
            figures |= {f"{name}_bound_ns": bound_ns, f"{name}_simulated_per_s": expected}
            figures[f"{name}_share"] = found["per_s"] / expected
            own = [mine or other for mine, other in zip(taken[found["per_s"]], times, strict=True)]
            figures[f"{name}_own_per_s"] = could(own, bound_ns)
            figures[f"{name}_own_share"] = found["per_s"] / figures[f"{name}_own_per_s"]
    return figures


def _batch_times(columns: Mapping[str, Column], most: int) -> list[list[int]]:
    """What the batches of 1 to ``most`` took in a run, ns; none for sizes of fewer than ``_LEAST_TIMES`` batches."""
    first = np.flatnonzero(np.diff(columns["begun"], prepend=-1))  # the first row of each batch
    took, sizes = (columns["completed"] - columns["begun"])[first], columns["batch_size"][first]
    of_size = [took[sizes == size].tolist() for size in range(1, most + 1)]
    return [times if len(times) >= _LEAST_TIMES else [] for times in of_size]


def undisturbed(times: list[int]) -> list[int]:
    """Those that are at most twice the median: longer ones were held up by another process."""
    most = 2 * statistics.median(times)
    return [one for one in times if one <= most]


def _within(bound_ns: float, p99_ns_at: Callable[[float], float]) -> Probe:
    def probe(rate: float) -> dict[str, float] | None:
        p99_ns = p99_ns_at(rate)
        return {"per_s": rate, "p99_ns": p99_ns} if p99_ns <= bound_ns else None

    return probe


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "offline": offline,
    "server": server,
    "capacity": capacity,
    "queue": queue,
}


if __name__ == "__main__":
    case = json.load(sys.stdin)
    print(json.dumps(KINDS[case["kind"]](case)))
