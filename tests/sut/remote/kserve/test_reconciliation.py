"""The client's figures beside the servers': arithmetic on columns and reports made by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.record import Status
from drumfire.sut.remote.kserve.reconciliation import ClientSide, reconcile

MS = 1_000_000


def report(success: int | None, **changes: Any) -> dict[str, Any]:
    """A server that answered ``success`` requests, each in 10 us: 2 of queue, 7 of computing, 1 of neither."""
    mean = {
        "request": 10_000.0, "queue": 2_000.0, "compute_input": 1_000.0, "compute_infer": 5_000.0,
        "compute_output": 1_000.0, "cache_hit": 0.0,
    }  # fmt: skip
    told = {
        "url": "grpc://127.0.0.1:8001", "note": None, "success": success, "fail": 0, "inference_count": success,
        "execution_count": success, "batch_sizes": {"1": success}, "mean_batch_size": 1.0, "cache_hits": 0,
        "cache_misses": 0, "mean_ns": mean if success else None, "metrics": None,
    }  # fmt: skip
    return told | changes


def client(requests: int, **changes: Any) -> ClientSide:
    told = {
        "requests": requests, "failed_requests": 0, "samples": requests, "latency_ns": 50_000.0, "waiting_ns": 5_000.0,
        "round_trip_ns": 45_000.0, "duration_s": 2.0, "in_flight": requests * 50e-6 / 2.0,
    }  # fmt: skip
    return ClientSide(**(told | changes))


def columns(scheduled: list[int], sent: list[int], completed: list[int], status: list[int]) -> dict[str, Any]:
    return {
        "scheduled": np.array(scheduled, np.int64),
        "sent": np.array(sent, np.int64),
        "completed": np.array(completed, np.int64),
        "status": np.array(status, np.uint8),
    }


def test_means_are_of_what_was_answered_and_the_integral_of_all() -> None:
    found = ClientSide.of(
        columns(
            [0, 0, 2 * MS, 4 * MS],
            [1 * MS, 2 * MS, 3 * MS, 5 * MS],
            [4 * MS, 8 * MS, 10 * MS, 0],
            [Status.OK, Status.OK, Status.FAILED, Status.UNANSWERED],
        ),
        [slice(0, 4)],
        requests=2,
        failed_requests=1,
    )
    assert (found.samples, found.latency_ns, found.waiting_ns, found.round_trip_ns) == (2, 6 * MS, 1.5 * MS, 4.5 * MS)
    assert found.duration_s == pytest.approx(0.01)
    assert found.in_flight == pytest.approx((4 + 8 + 8 + 6) / 10)


def test_each_phase_has_a_time_of_its_own() -> None:
    found = ClientSide.of(
        columns([0, 0], [0, 0], [2 * MS, 3 * MS], [Status.OK] * 2), [slice(0, 1), slice(1, 2), slice(2, 2)],
        requests=2, failed_requests=0,
    )  # fmt: skip
    assert found.duration_s == pytest.approx(0.005)
    assert found.in_flight == pytest.approx(1.0)


rows = st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1)


@given(rows)
def test_the_integral_counts_the_samples_that_are_there(times: list[tuple[int, int, int]]) -> None:
    """By Little's law; and by counting between any two events, which is another way to the same figure."""
    scheduled = [begin for begin, _, _ in times]
    sent = [begin + wait for begin, wait, _ in times]
    completed = [begin + wait + trip for begin, wait, trip in times]
    if not max(completed):
        return
    found = ClientSide.of(
        columns(scheduled, sent, completed, [Status.OK] * len(times)), [slice(0, len(times))],
        requests=len(times), failed_requests=0,
    )  # fmt: skip
    moments = sorted({0, *scheduled, *completed})
    area = sum(
        (after - now) * sum(begin <= now < end for begin, end in zip(scheduled, completed, strict=True))
        for now, after in itertools.pairwise(moments)
    )
    assert found.in_flight == pytest.approx(area / max(completed))
    agreed = reconcile([report(len(times))], found)
    assert agreed is not None
    assert agreed["in_flight"]["by_rate"] == pytest.approx(agreed["in_flight"]["by_time"])
    assert found.waiting_ns + found.round_trip_ns == pytest.approx(found.latency_ns)


@pytest.mark.parametrize(("server", "difference"), [(100, 0), (103, 3), (98, -2)])
def test_counts_agree_or_by_how_much_they_do_not(server: int, difference: int) -> None:
    agreed = reconcile([report(server)], client(100))
    assert agreed is not None
    assert agreed["requests"]["difference"] == difference
    assert agreed["requests"]["equal"] == (difference == 0)


def test_the_latency_has_parts_that_add_up() -> None:
    agreed = reconcile([report(100)], client(100))
    assert agreed is not None
    mean = agreed["mean_ns"]
    assert (mean["queue"], mean["compute"], mean["cache_hit"]) == (2_000, 7_000, 0)
    assert mean["network_and_client"] == 50_000 - 9_000
    assert mean["network"] == mean["network_and_client"] - mean["waiting"]
    assert mean["waiting"] + mean["round_trip"] == mean["latency"] == 50_000
    assert agreed["in_flight"]["by_rate"] == pytest.approx(100 / 2.0 * 50e-6)
    assert agreed["in_flight"]["in_server"] == pytest.approx(100 / 2.0 * 10e-6)


def test_cached_replies_count_with_no_time_of_computing() -> None:
    cached = report(100)["mean_ns"] | dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 0.0)
    told = report(100, cache_hits=90, batch_sizes={"1": 10}, mean_ns=cached | {"cache_hit": 500.0})
    agreed = reconcile([told], client(100))
    assert agreed is not None
    assert agreed["cached_share"] == 0.9
    assert agreed["mean_ns"]["network_and_client"] == 50_000 - 2_000 - 500


def test_several_servers_are_summed_and_their_means_weighed() -> None:
    other = report(300, fail=2, batch_sizes={"1": 100, "10": 20})
    other["mean_ns"] |= {"queue": 6_000.0}
    agreed = reconcile([report(100), other, report(0, batch_sizes={})], client(400))
    assert agreed is not None
    assert agreed["requests"] | {"equal": True} == agreed["requests"]
    assert agreed["requests"]["server_failed"] == 2
    assert agreed["batch_sizes"] == {"1": 200, "10": 20}
    assert agreed["mean_batch_size"] == pytest.approx(400 / 220)
    assert agreed["mean_ns"]["queue"] == pytest.approx((100 * 2_000 + 300 * 6_000) / 400)


def test_nothing_is_said_unless_all_servers_told() -> None:
    assert reconcile([report(100), report(None)], client(200)) is None
    assert reconcile([], client(0)) is None


def test_a_run_without_answers() -> None:
    none = client(0, samples=0, latency_ns=0.0, waiting_ns=0.0, round_trip_ns=0.0, duration_s=0.0, in_flight=0.0)
    agreed = reconcile([report(0, batch_sizes={})], none)
    assert agreed is not None
    assert agreed["mean_ns"] is agreed["mean_batch_size"] is agreed["cached_share"] is None
    assert agreed["requests"]["equal"]
