"""The measures of models in processes of their own: the simulated queue, the search, and a tiny run of each case."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from drumfire.bench.peers.loadgen import model_measures, models
from drumfire.bench.peers.loadgen.measures import highest, server, worker
from drumfire.bench.peers.loadgen.model_measures import MODEL_MEASURES
from drumfire.bench.peers.loadgen.models import undisturbed
from drumfire.bench.peers.loadgen.simulated import latencies
from drumfire.bench.peers.process import MeasurementError
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, TestSettings
from drumfire.sut.local.null import NullSystem, null_library

DIGITS = {"model": "digits", "batch_size": 32}


@pytest.mark.parametrize(
    ("arrivals", "times", "workers", "expected"),
    [
        ([0, 100, 200], [[10]], 1, [10, 10, 10]),
        ([0, 1, 2], [[10]], 1, [10, 19, 28]),  # one by one they wait for each other
        ([0, 1, 2, 10], [[10], [15], [18]], 1, [10, 27, 26, 18]),  # what came until the worker is free goes together
        ([0, 1, 2, 3], [[10], [15]], 1, [10, 24, 23, 32]),  # but no more than a batch
        ([5, 5, 5], [[10], [15]], 1, [15, 15, 25]),
        ([0, 1, 2], [[10]], 2, [10, 10, 18]),
        ([0, 100, 200, 300], [[10, 20, 30]], 1, [10, 20, 30, 10]),  # each size has its times in turns
        ([0, 100, 100, 200], [[10, 20], [50]], 1, [10, 50, 50, 20]),
        ([], [[10]], 1, []),
    ],
)
def test_a_simulated_queue_follows_the_batchers_rule(
    arrivals: Sequence[int], times: Sequence[Sequence[int]], workers: int, expected: Sequence[int]
) -> None:
    assert latencies(arrivals, times, workers) == expected


def test_a_simulated_queue_waits_as_queueing_theory_says() -> None:
    """M/D/1 at 60 %: the mean wait is 0.6 / (2 (1 - 0.6)) of a service time."""
    draw, at, arrivals = random.Random(1), 0.0, []
    for _ in range(100_000):
        at += draw.expovariate(0.6 / 1000)
        arrivals.append(round(at))
    took = latencies(arrivals, [[1000]])
    assert sum(took) / len(took) == pytest.approx(1750, rel=0.05)


def test_a_batch_that_another_process_held_up_is_left_out() -> None:
    assert undisturbed([10, 21, 12, 11, 23]) == [10, 21, 12, 11, 23]
    assert undisturbed([10, 20, 11, 25, 10, 11]) == [10, 20, 11, 10, 11]


def test_a_search_may_go_in_small_steps() -> None:
    asked: list[float] = []

    def probe(rate: float) -> dict[str, float] | None:
        asked.append(rate)
        return {"rate": rate} if rate <= 1150 else None

    assert 1125 <= highest(probe, 1000, growth=1.2, steps=3)["rate"] <= 1150
    assert asked[:2] == [1000, 1200]
    assert len(asked) == 5
    assert highest(lambda rate: {"rate": rate} if rate <= 40 else None, 50, growth=1.25, steps=1) == {"rate": 40}


def test_their_highest_rate_is_the_last_that_their_log_calls_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = set()

    def run(module: str, case: dict[str, dict[str, float]]) -> dict[str, float]:
        bounds.add((module, case["settings"]["server_target_latency_ns"], case["settings"]["min_duration_ms"]))
        return {"valid": float(case["settings"]["server_target_qps"] <= 12_000)}

    monkeypatch.setattr(model_measures, "worker", run)
    assert model_measures._their_capacity(1.5) == {"valid_per_s": 11_875, "valid": 1}
    assert bounds == {("reference", 10_000_000, 1500)}


def test_the_goals() -> None:
    goals = {figure.ours: figure for measure in MODEL_MEASURES for figure in measure.figures if figure.goal}
    assert {name: (figure.goal, figure.more_is_better) for name, figure in goals.items() if "_ns" in name} == {
        "15000_latency_p50_ns": (75, False),
        "15000_latency_p99_ns": (350, False),
        "share_latency_p50_ns": (200, False),
        "share_latency_p99_ns": (5000, False),
    }
    shares = {m.name: [f.goal for f in m.figures if "share" in f.ours and "_ns" not in f.ours] for m in MODEL_MEASURES}
    assert shares == {
        "digits@server": [],
        "digits@capacity": [0.75],
        "digits@offline-1": [0.97],
        "digits@offline-2": [0.95],
        "queue@efficientnet-lite0": [0.95] * 4,
        "queue@mobilenet": [0.95] * 4,
    }


@pytest.mark.slow
@pytest.mark.serial
def test_a_server_run_of_a_model_in_its_own_process_has_all_its_rows() -> None:
    told = worker("models", {"kind": "server", "seconds": 0.2, **DIGITS})
    (measure,) = [one for one in MODEL_MEASURES if one.name == "digits@server"]
    for figure in measure.figures:
        assert told.get(figure.ours, 0) >= 0  # where the core was taken away, the CPU is left out
    for name in ("200", "1000", "15000", "share"):
        parts = sum(told[f"{name}_{part}_slowest_ns"] for part in ("lateness", "queue", "service"))
        assert parts == pytest.approx(told[f"{name}_latency_slowest_ns"])
        assert told[f"{name}_latency_p50_ns"] <= told[f"{name}_latency_p99_ns"]
    assert told["share_per_s"] == pytest.approx(0.6 * told["bare_samples_per_s"])
    assert measure.note is not None
    assert "at 15,000/s the slowest 1 % take" in measure.note(told)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("processes", [1, 2])
def test_offline_and_bare_loops_run_in_as_many_processes(processes: int) -> None:
    told = worker("models", {"kind": "offline", "seconds": 0.2, "processes": processes, **DIGITS})
    assert told["share"] == pytest.approx(told["samples_per_s"] / told["bare_samples_per_s"])
    assert told["share"] > 0


@pytest.mark.slow
@pytest.mark.serial
def test_the_highest_valid_rate_keeps_the_bound() -> None:
    bound_ns = 500_000_000
    told = worker("models", {"kind": "capacity", "seconds": 0.3, "bound_ns": bound_ns, **DIGITS})
    assert 0 < told["p99_latency_ns"] <= bound_ns
    assert told["share"] == pytest.approx(told["valid_per_s"] / told["offline_per_s"])


@pytest.mark.parametrize("slower", [1.0, 1.25])
def test_a_model_is_set_beside_a_simulated_queue(monkeypatch: pytest.MonkeyPatch, slower: float) -> None:
    """A model that takes longer in a run than its batches did alone is set beside what they could do."""

    class Hosted:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def times(self, batch_size: int, seconds: float) -> list[int]:
            return [1_000_000 + 500_000 * batch_size]

        def test(self, settings: TestSettings) -> Test:
            return Test(NullSystem(Mode.PerformanceOnly), null_library(), settings)

        def run(self, settings: TestSettings) -> SimpleNamespace:
            times = [[round(slower * one) for one in self.times(size, 0)] for size in range(1, 5)]
            scheduled = self.test(settings).record.columns["scheduled"]
            completed = scheduled + latencies(scheduled.tolist(), times)
            _, batch, sizes = np.unique(completed, return_inverse=True, return_counts=True)
            begun = completed - np.array([took for (took,) in times])[sizes[batch] - 1]
            columns = {"scheduled": scheduled, "begun": begun, "completed": completed, "batch_size": sizes[batch]}
            return SimpleNamespace(record=SimpleNamespace(columns=columns))

        def close(self) -> None:
            pass

    monkeypatch.setattr(models, "Hosted", Hosted)
    told = models.queue({"model": "any", "batch_size": 4, "seconds": 2})
    assert (told["lone_ns"], told["full_ns"], told["lone_bound_ns"]) == (1.5e6, 3e6, 4.5e6)
    for name in ("fixed", "lone"):
        assert told[f"{name}_p99_ns"] <= told[f"{name}_bound_ns"]
        assert told[f"{name}_share"] == pytest.approx(told[f"{name}_per_s"] / told[f"{name}_simulated_per_s"])
    assert told["fixed_share"] == pytest.approx(1 / slower, rel=0.03)
    assert told["lone_share"] == pytest.approx(1, rel=0.03) if slower == 1 else told["lone_share"] < 0.8
    # The batches' times in the run itself hide what makes it slower, where it had enough batches of each size.
    assert told["fixed_own_share"] == pytest.approx(1, rel=0.03)
    assert told["lone_share"] <= told["lone_own_share"] <= 1.03


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.reference
@pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed")
@pytest.mark.parametrize(("bound_ns", "valid"), [(10_000_000_000, 1), (1000, 0)])
def test_the_reference_judges_a_model_in_a_python_thread(bound_ns: int, valid: int) -> None:
    settings = server(2000) | {"min_duration_ms": 500, "min_query_count": 1, "server_target_latency_ns": bound_ns}
    told = worker("reference", {"settings": settings, "trace": False, **DIGITS})
    assert told["valid"] == valid
    assert 1000 < told["p50_latency_ns"] <= told["p99_latency_ns"]
    assert told["asked_per_s"] == pytest.approx(2000, rel=0.25)


def test_a_case_that_fails_is_told() -> None:
    with pytest.raises(MeasurementError, match="unheard-of"):
        worker("models", {"kind": "unheard-of"})
