"""Counters and metrics, read by the very code that reads Triton's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.statistics import Snapshot, Total
from drumfire.sut.serving import metrics as server_metrics
from drumfire.sut.serving.gpus import parse
from drumfire.sut.serving.metrics import Metrics
from drumfire.sut.serving.request import Request
from drumfire.sut.serving.scheduler import Scheduler
from drumfire.sut.serving.statistics import BatchTimes, Statistics
from tests.support.serving_fakes import Doubler, Handed, Loop, served


def told(statistics: Statistics) -> Snapshot:
    return Snapshot.of({"model_stats": [statistics.model_stats("m", "1")]}, "m", "1")


def test_our_client_reads_what_was_counted() -> None:
    statistics = Statistics()
    statistics.batch(3, 5, 30, BatchTimes(100, 110, 160, 165), 5)
    statistics.batch(1, 1, 200, BatchTimes(300, 301, 302, 303), 1)
    statistics.failed("REJECTED", 2, 40)
    seen = told(statistics)
    assert seen.success == Total(4, 3 * 165 - 30 + 103)
    assert seen.fail == Total(2, 40)
    assert seen.queue == Total(4, 3 * 100 - 30 + 100)
    assert seen.compute_input == Total(4, 3 * 10 + 1)
    assert seen.compute_infer == Total(4, 3 * 50 + 1)
    assert seen.compute_output == Total(4, 3 * 5 + 1)
    assert seen.inference_count == 6
    assert seen.execution_count == 2
    assert seen.batches == {5: 1, 1: 1}
    assert seen.mean_batch_size == 3
    mean = seen.mean_ns()
    assert mean is not None
    assert mean.pop("request") == pytest.approx(sum(mean.values()))


def test_the_last_inference_is_told_in_ms_since_1970() -> None:
    statistics = Statistics()
    assert statistics.model_stats("m", "1")["last_inference"] == 0
    before = time.time() * 1000
    statistics.batch(1, 1, 0, BatchTimes(1, 2, 3, 4), 1)
    assert before - 1 <= statistics.model_stats("m", "1")["last_inference"] <= time.time() * 1000


def scheduler_that_worked(name: str = "double") -> Scheduler:
    loop = Loop()
    scheduler = Scheduler(served(Doubler(), inline=True, name=name), Handed(), loop, most_requests=9, most_bytes=999)
    for _ in range(3):
        scheduler.submit(Request((np.zeros(2, np.float32).tobytes(),), 1, ((2,),), time.monotonic_ns()))
    loop.turn()
    scheduler.submit(Request((bytes(8),), 1, ((2,),), time.monotonic_ns()))
    scheduler.statistics.failed("CANCELED", 2, 10)
    return scheduler


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            key = (one.name.removesuffix("_total"), tuple(sorted(one.labels.items())))
            assert key not in found
            found[key] = one.value
    return found


def test_the_metrics_are_tritons() -> None:
    scheduler = scheduler_that_worked()
    text = Metrics([scheduler], {}).text()
    found = samples(text)
    labels = (("model", "double"), ("version", "1"))
    assert found["nv_inference_request_success", labels] == 3
    assert found["nv_inference_count", labels] == 3
    assert found["nv_inference_exec_count", labels] == 1
    assert found["nv_inference_pending_request_count", labels] == 1
    failures = {dict(of)["reason"]: n for (name, of), n in found.items() if name == "nv_inference_request_failure"}
    assert failures == {"REJECTED": 0, "CANCELED": 2, "BACKEND": 0, "OTHER": 0}
    for what in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert found[f"nv_inference_{what}_duration_us", labels] >= 0
    reading = metrics.read(text, "double")
    assert reading.server["pending_requests"] == 1
    assert metrics.tells_of(text, "double")
    assert not metrics.tells_of(text, "other")


def test_names_that_need_quoting() -> None:
    name = 'a"b\\c\nd'
    text = Metrics([scheduler_that_worked(name)], {}).text()
    assert metrics.tells_of(text, name)
    assert ("nv_inference_count", (("model", name), ("version", "1"))) in samples(text)


def test_gpus_are_told_as_triton_tells_them() -> None:
    uuid, figures = parse("GPU-12ab, 37, 101.5, 2048, 81559\n")
    assert parse("something else") == ("", {})
    _, without = parse("GPU-x, [N/A], 5, 1, 2")
    assert "nv_gpu_utilization" not in without
    reading = metrics.read(Metrics([], {uuid: figures}).text(), "m")
    assert reading.gpus == {
        "GPU-12ab": {
            "utilization": pytest.approx(0.37),
            "power_w": 101.5,
            "memory_used_bytes": pytest.approx(2048 << 20),
            "memory_total_bytes": pytest.approx(81559 << 20, rel=1e-5),
        }
    }


def test_the_machine_is_looked_at() -> None:
    cpu = server_metrics.MachineCpu()
    used = cpu.utilization()
    assert used is None or 0 <= used <= 1
    total, taken = server_metrics.machine_memory()
    assert 0 < taken < total
