"""Requests through the queue and a model and back: batches, failures, lost workers, deadlines, inline models."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.system import Batch
from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.local.batcher import BatchRule
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.request import Request
from drumfire.sut.serving.scheduler import Scheduler
from tests.support.serving_fakes import Clock, Doubler, Gate, Handed, Loop, served


def ask(*rows: tuple[float, float], at: int = 0, **options: Any) -> Request:
    data = np.array(rows, np.float32).tobytes()
    return Request((data,), len(rows), ((2,),), at, size=len(data), **options)


class Bench:
    """A scheduler with its surroundings; ended with the test."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.handed, self.loop, self.clock = Handed(), Loop(), Clock()
        options = {"most_requests": 100, "most_bytes": 1 << 20, "clock": self.clock} | options
        self.scheduler = Scheduler(model, self.handed, self.loop, **options)
        self.scheduler.start()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.scheduler.close()
        assert self.scheduler.join(20)

    def told(self) -> dict[str, Any]:
        return self.scheduler.statistics.model_stats("m", "1")

    def counts(self) -> dict[str, int]:
        return {name: one["count"] for name, one in self.told()["inference_stats"].items()}


def outputs(request: Request) -> list[list[float]]:
    return [np.frombuffer(one, np.float32).tolist() for one in request.contents]


def test_each_request_gets_its_own_rows_of_a_common_batch() -> None:
    gate = Gate()
    model = Doubler(before=gate)
    with Bench(served(model)) as bench:
        bench.scheduler.submit(ask((9, 9)))
        gate.wait_entered()
        requests = [ask((1, 2)), ask((3, 4), (5, 6)), ask((7, 8))]
        for one in requests:
            bench.scheduler.submit(one)
        assert bench.scheduler.pending == 3
        assert bench.scheduler.under_way == 4
        gate.opened.release(10)
        bench.handed.wait(4)
        assert [len(batch) for batch in model.batches] == [1, 4]
        assert [len(group) for group in bench.handed.groups] == [1, 3]  # told in one go
        assert outputs(requests[0]) == [[2, 4], [-1, -2]]
        assert outputs(requests[1]) == [[6, 8, 10, 12], [-3, -4, -5, -6]]
        assert outputs(requests[2]) == [[14, 16], [-7, -8]]
        assert requests[1].tails == [(2,), (2,)]
        told = bench.told()
        assert (told["inference_count"], told["execution_count"]) == (5, 2)
        assert {one["batch_size"]: one["compute_infer"]["count"] for one in told["batch_stats"]} == {1: 1, 4: 1}
        assert bench.counts()["success"] == bench.counts()["queue"] == 4
        assert bench.scheduler.under_way == 0


def test_times_are_those_of_the_clock_and_add_up() -> None:
    clock = Clock()

    def takes(_: object) -> None:
        clock.ns += 500

    with Bench(served(Doubler(before=takes), inline=True), clock=clock) as bench:
        bench.scheduler.submit(ask((1, 2), at=clock.ns))
        clock.ns += 70
        bench.scheduler.submit(ask((3, 4), at=clock.ns))
        clock.ns += 30
        bench.loop.turn()
        told = bench.told()["inference_stats"]
        assert told["queue"]["ns"] == 100 + 30
        assert told["compute_infer"]["ns"] == 2 * 500
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert told["success"]["ns"] == sum(told[part]["ns"] for part in parts)
        assert bench.told()["batch_stats"] == [
            {
                "batch_size": 2,
                "compute_input": {"count": 1, "ns": 0},
                "compute_infer": {"count": 1, "ns": 500},
                "compute_output": {"count": 1, "ns": 0},
            }
        ]


def test_instances_work_side_by_side() -> None:
    gate = Gate()
    with Bench(served(Doubler(before=gate), Doubler(before=gate))) as bench:
        bench.scheduler.submit(ask((1, 1)))
        gate.wait_entered()
        bench.scheduler.submit(ask((2, 2)))
        gate.wait_entered()  # while the first is held
        gate.opened.release(10)
        bench.handed.wait(2)


def test_a_batch_waits_for_its_delay_and_no_longer_than_it_must() -> None:
    model = Doubler()
    rule = BatchRule(4, round(3600e9))
    with Bench(served(model, rule=rule), clock=time.monotonic_ns) as bench:
        requests = [ask((n, n), at=time.monotonic_ns()) for n in range(4)]
        for one in requests[:3]:
            bench.scheduler.submit(one)
        time.sleep(0.02)
        assert not model.batches
        bench.scheduler.submit(requests[3])  # it is full
        bench.handed.wait(4)
        assert [len(batch) for batch in model.batches] == [4]


def test_a_short_delay_ends_by_itself() -> None:
    with Bench(served(Doubler(), rule=BatchRule(4, 1_000_000)), clock=time.monotonic_ns) as bench:
        bench.scheduler.submit(ask((1, 1), at=time.monotonic_ns()))
        bench.handed.wait(1)


def test_a_model_that_raises_fails_its_batch_and_nobody_else() -> None:
    def raises(batch: np.ndarray) -> None:
        if batch[0, 0] == 13:
            raise RuntimeError("no thirteens\nand more of it")

    with Bench(served(Doubler(before=raises))) as bench:
        bad, good = ask((13, 0)), ask((1, 0))
        bench.scheduler.submit(bad)
        bench.handed.wait(1)
        bench.scheduler.submit(good)
        bench.handed.wait(2)
        assert bad.refusal is not None
        assert bad.refusal.status is Status.INTERNAL
        assert "no thirteens" in bad.refusal.text
        assert "\n" not in bad.refusal.text
        assert good.refusal is None
        assert outputs(good) == [[2, 0], [-1, 0]]
        assert bench.counts()["fail"] == 1
        assert bench.counts()["success"] == 1
        assert bench.scheduler.statistics.failures == {"BACKEND": 1}


def after_a_held_batch(bench: Bench, gate: Gate, *requests: Request) -> None:
    """Submit these while the model is busy, so that it takes them together."""
    bench.scheduler.submit(ask((9, 9)))
    gate.wait_entered()
    for one in requests:
        bench.scheduler.submit(one)
    gate.opened.release(10)
    bench.handed.wait(1 + len(requests))


def test_what_makes_a_batch_fail_fails_alone() -> None:
    gate = Gate()

    def raises(batch: np.ndarray) -> None:
        gate(batch)
        if 13 in batch:
            raise RuntimeError("no thirteens")

    model = Doubler(before=raises)
    with Bench(served(model)) as bench:
        first, bad, last = ask((1, 2)), ask((13, 4)), ask((5, 6))
        after_a_held_batch(bench, gate, first, bad, last)
        assert [len(batch) for batch in model.batches] == [1, 3, 1, 1, 1]
        assert outputs(first) == [[2, 4], [-1, -2]]
        assert outputs(last) == [[10, 12], [-5, -6]]
        assert bad.refusal is not None
        assert "no thirteens" in bad.refusal.text
        assert first.refusal is None is last.refusal
        assert bench.counts()["fail"] == 1
        assert bench.counts()["success"] == 3
        assert bench.scheduler.under_way == 0


def test_a_worker_that_dies_of_one_request_refuses_those_of_its_batch_that_are_left() -> None:
    gate = Gate()

    def dies(batch: np.ndarray) -> None:
        gate(batch)
        if len(batch) > 1:
            raise RuntimeError("too many")
        if 13 in batch:
            sys.exit(3)

    with Bench(served(Doubler(before=dies))) as bench:
        first, bad, last = ask((1, 2)), ask((13, 4)), ask((5, 6))
        after_a_held_batch(bench, gate, first, bad, last)
        assert first.refusal is None
        for one in (bad, last):
            assert one.refusal is not None
            assert "a worker was lost" in one.refusal.text
        assert bench.scheduler.under_way == 0
        assert bench.scheduler.statistics.failures == {"BACKEND": 2}


def test_outputs_of_another_count_fail_the_batch() -> None:
    class Short(Doubler):
        def run(self, batch: Batch) -> Any:
            return [batch["x"][:-1], batch["x"]]

    with Bench(served(Short())) as bench:
        one = ask((1, 1), (2, 2))
        bench.scheduler.submit(one)
        bench.handed.wait(1)
        assert one.refusal is not None
        assert "for 2 samples" in one.refusal.text


@pytest.mark.parametrize("reloads", [True, False])
def test_a_worker_that_dies_is_replaced_and_its_requests_are_told(reloads: bool) -> None:
    def dies(batch: np.ndarray) -> None:
        if batch[0, 0] == 13:
            sys.exit(3)

    first, second = Doubler(before=dies), Doubler()

    def reload() -> Doubler:
        if not reloads:
            from drumfire.sut.local.backends import BackendError

            raise BackendError("gone")
        return second

    with Bench(served(first, reload=reload)) as bench:
        bad = ask((13, 0))
        bench.scheduler.submit(bad)
        bench.handed.wait(1)
        assert bad.refusal is not None
        assert bad.refusal.status is Status.INTERNAL
        assert "a worker was lost" in bad.refusal.text
        good = ask((1, 0))
        bench.scheduler.submit(good)
        bench.handed.wait(2)
        assert good.refusal is None
        assert len((second if reloads else first).batches) == (1 if reloads else 2)
        assert bench.scheduler.statistics.lost_workers == 1


def test_the_loop_is_not_ended_by_a_model_that_exits() -> None:
    def dies(_: object) -> None:
        sys.exit(3)

    with Bench(served(Doubler(before=dies), inline=True)) as bench:
        bench.scheduler.submit(ask((1, 1)))
        bench.loop.turn()
        assert bench.handed.requests[0].refusal.status is Status.INTERNAL
        assert bench.scheduler.statistics.lost_workers == 1


def test_a_full_queue_refuses() -> None:
    gate = Gate()
    with Bench(served(Doubler(before=gate)), most_requests=2) as bench:
        bench.scheduler.submit(ask((0, 0)))
        gate.wait_entered()
        for _ in range(2):
            bench.scheduler.submit(ask((1, 1)))
        with pytest.raises(Refusal, match="queue of double is full: 2 of 2") as refused:
            bench.scheduler.submit(ask((2, 2)))
        assert refused.value.status is Status.UNAVAILABLE
        assert refused.value.http_status == 503
        gate.opened.release(10)
        bench.handed.wait(3)
        assert bench.scheduler.statistics.failures == {"REJECTED": 1}


def test_what_is_cancelled_is_not_computed() -> None:
    gate = Gate()
    model = Doubler(before=gate)
    with Bench(served(model)) as bench:
        first, second, third = ask((0, 0)), ask((1, 1)), ask((2, 2))
        bench.scheduler.submit(first)
        gate.wait_entered()
        bench.scheduler.submit(second)
        bench.scheduler.submit(third)
        assert bench.scheduler.cancel(second)
        assert not bench.scheduler.cancel(second)
        assert not bench.scheduler.cancel(first)  # too late: it is handed back
        gate.opened.release(10)
        bench.handed.wait(2)
        assert bench.handed.requests == [first, third]
        assert [batch.tolist() for batch in model.batches] == [[[0, 0]], [[2, 2]]]
        assert bench.scheduler.statistics.failures == {"CANCELED": 1}


def test_a_request_whose_time_runs_out_is_told_while_all_are_busy() -> None:
    gate = Gate()
    model = Doubler(before=gate)
    with Bench(served(model)) as bench:
        bench.scheduler.submit(ask((0, 0)))
        gate.wait_entered()
        late = ask((1, 1), at=bench.clock.ns, deadline_ns=bench.clock.ns + 50)
        bench.scheduler.submit(late)
        bench.scheduler.sweep()
        assert not bench.handed.requests
        bench.clock.ns += 50
        bench.scheduler.sweep()
        assert bench.handed.requests == [late]
        assert late.refusal is not None
        assert late.refusal.status is Status.DEADLINE_EXCEEDED
        assert late.refusal.http_status == 504
        gate.opened.release(10)
        bench.handed.wait(2)
        assert len(model.batches) == 1


def test_a_late_request_is_told_when_a_worker_comes_upon_it() -> None:
    with Bench(served(Doubler())) as bench:
        late = ask((1, 1), deadline_ns=bench.clock.ns - 1)
        bench.scheduler.submit(late)
        bench.handed.wait(1)
        assert late.refusal is not None
        assert not late.contents


def test_closing_refuses_what_waits() -> None:
    gate = Gate()
    with Bench(served(Doubler(before=gate))) as bench:
        first, second = ask((0, 0)), ask((1, 1))
        bench.scheduler.submit(first)
        gate.wait_entered()
        bench.scheduler.submit(second)
        bench.scheduler.close()
        assert bench.handed.requests == [second]
        assert second.refusal is not None
        assert second.refusal.status is Status.UNAVAILABLE
        with pytest.raises(Refusal, match="closed"):
            bench.scheduler.submit(ask((2, 2)))
        gate.opened.release(10)
        bench.handed.wait(2)
        assert first.refusal is None


def test_the_loop_computes_together_what_one_turn_brought() -> None:
    model = Doubler()
    with Bench(served(model, inline=True)) as bench:
        requests = [ask((n, n)) for n in range(6)]
        for one in requests:
            bench.scheduler.submit(one)
        assert not model.batches
        assert len(bench.loop.soon) == 1
        bench.loop.turn()
        assert [len(batch) for batch in model.batches] == [4, 2]
        assert bench.handed.requests == requests
        assert not bench.loop.soon


def test_the_loop_waits_for_a_fuller_batch_too() -> None:
    model = Doubler()
    with Bench(served(model, inline=True, rule=BatchRule(4, 1000))) as bench:
        bench.scheduler.submit(ask((1, 1), at=bench.clock.ns))
        bench.loop.turn()
        assert not model.batches
        bench.scheduler.submit(ask((2, 2), at=bench.clock.ns))
        bench.loop.turn()
        ((delay, callback),) = bench.loop.later
        assert delay == pytest.approx(1e-6)
        bench.clock.ns += 1000
        callback()
        assert [len(batch) for batch in model.batches] == [2]
        for n in range(4):
            bench.scheduler.submit(ask((n, n), at=bench.clock.ns))
        bench.loop.turn()  # it is full
        assert [len(batch) for batch in model.batches] == [2, 4]


@pytest.mark.parametrize("inline", [False, True])
def test_going_down_nothing_waits_for_a_fuller_batch(inline: bool) -> None:
    model = Doubler()
    with Bench(served(model, inline=inline, rule=BatchRule(4, round(3600e9)))) as bench:
        bench.scheduler.submit(ask((1, 1), at=bench.clock.ns))
        bench.loop.turn()
        assert not model.batches
        bench.scheduler.flush()
        bench.loop.turn()
        bench.handed.wait(1)
        bench.scheduler.submit(ask((2, 2), at=bench.clock.ns))
        bench.loop.turn()
        bench.handed.wait(2)


def test_another_shape_ends_the_wait_for_a_fuller_batch() -> None:
    model = Doubler((None,))
    with Bench(served(model, shape=(-1,), rule=BatchRule(4, round(3600e9)))) as bench:
        bench.scheduler.submit(ask((1, 1), at=bench.clock.ns))
        bench.scheduler.submit(Request((bytes(12),), 1, ((3,),), bench.clock.ns))
        bench.handed.wait(1)
        assert [batch.shape for batch in model.batches] == [(1, 2)]


def test_many_threads_lose_and_double_nothing() -> None:
    models = [Doubler() for _ in range(3)]
    with Bench(served(*models, rule=BatchRule(8)), most_requests=10_000) as bench:
        requests = [ask((n, -n)) for n in range(3000)]
        for position, one in enumerate(requests):
            bench.scheduler.submit(one)
            if position % 7 == 3:
                bench.scheduler.cancel(requests[position - 2])
        cancelled = bench.scheduler.statistics.failures["CANCELED"]
        bench.handed.wait(len(requests) - cancelled)
        assert len(set(bench.handed.requests)) == len(bench.handed.requests) == len(requests) - cancelled
        for n, one in enumerate(requests):
            if one in bench.handed.requests:
                assert outputs(one) == [[2 * n, -2 * n], [-n, n]]
        told = bench.told()
        assert told["inference_stats"]["success"]["count"] == told["inference_count"] == len(requests) - cancelled
        sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in told["batch_stats"]}
        assert sum(size * count for size, count in sizes.items()) == told["inference_count"]
        assert sum(sizes.values()) == told["execution_count"]


# Several threads on an instance.


class Lanes(Doubler):
    """Takes a batch while it computes another; has rooms for samples."""

    def __init__(self, before: Any = None, *, lanes: int = 2) -> None:
        super().__init__(before=before)
        self.rooms = {size: {"x": np.zeros((size, 2), np.float32)} for size in range(1, 5)}
        self.gathered_elsewhere = 0
        self.beside = [Lanes(before, lanes=1) for _ in range(lanes - 1)]

    def room(self, size: int, number: int = 1) -> Batch:
        return self.rooms[size]

    def run(self, batch: Batch) -> Any:
        self.gathered_elsewhere += batch["x"] is not self.rooms[len(batch["x"])]["x"]
        return super().run(batch)


def test_an_instance_takes_a_batch_while_it_computes_another() -> None:
    gate = Gate()
    model = Lanes(gate)
    with Bench(served(model)) as bench:
        requests = [ask((n, 1), (n, 2), (n, 3), (n, 4)) for n in range(4)]
        for one in requests:
            bench.scheduler.submit(one)
        gate.wait_entered()
        gate.wait_entered()
        assert bench.scheduler.pending == 2
        gate.opened.release(10)
        bench.handed.wait(4)
        for n, one in enumerate(requests):
            assert outputs(one)[0] == [2 * n, 2, 2 * n, 4, 2 * n, 6, 2 * n, 8]
        assert model.batches
        assert model.beside[0].batches
        assert bench.scheduler.under_way == 0


def test_requests_are_joined_in_the_room() -> None:
    gate = Gate()
    model = Lanes(gate)
    with Bench(served(model)) as bench:
        requests = [ask((n, -n)) for n in range(3)]
        after_a_held_batch(bench, gate, *requests)
        for n, one in enumerate(requests):
            assert outputs(one) == [[2 * n, -2 * n], [-n, n]]
        assert model.gathered_elsewhere == model.beside[0].gathered_elsewhere == 0


def test_a_batch_that_fails_beside_another_fails_alone() -> None:
    gate = Gate()

    def raises(batch: np.ndarray) -> None:
        gate(batch)
        if 13 in batch:
            raise RuntimeError("CUDA error")

    with Bench(served(Lanes(raises))) as bench:
        full = [ask(*((n, at) for at in range(4))) for n in (5, 13, 7, 8)]
        for one in full:
            bench.scheduler.submit(one)
        for _ in range(2):
            gate.wait_entered()
        gate.opened.release(10)
        bench.handed.wait(4)
        assert [one.refusal is None for one in full] == [True, False, True, True]
        assert bench.scheduler.under_way == 0


@pytest.mark.parametrize("reloads", [True, False])
def test_an_instance_that_loses_a_thread_is_replaced_with_all_its_threads(reloads: bool) -> None:
    gate = Gate()

    def dies(batch: np.ndarray) -> None:
        gate(batch)
        if 13 in batch:
            sys.exit(3)

    first, second = Lanes(dies), Lanes(gate)

    def reload() -> Lanes:
        if not reloads:
            from drumfire.sut.local.backends import BackendError

            raise BackendError("gone")
        return second

    with Bench(served(first, reload=reload)) as bench:
        full = [ask(*((n, at) for at in range(4))) for n in (5, 13)]
        for one in full:
            bench.scheduler.submit(one)
        for _ in range(2):
            gate.wait_entered()
        gate.opened.release(2)
        bench.handed.wait(2)
        assert [one.refusal is None for one in full] == [True, False]
        again = [ask(*((n, at) for at in range(4))) for n in (1, 2, 3, 4)]
        for one in again:
            bench.scheduler.submit(one)
        for _ in range(2):  # both of its threads
            gate.wait_entered()
        gate.opened.release(10)
        bench.handed.wait(6)
        assert all(one.refusal is None for one in again)
        used = second if reloads else first
        assert {len(batch) for lane in (used, *used.beside) for batch in lane.batches} == {4}
        assert bench.scheduler.statistics.lost_workers == 1
        assert bench.scheduler.under_way == 0


def test_lanes_lose_and_double_nothing() -> None:
    with Bench(served(Lanes(), Lanes()), most_requests=10_000, clock=time.monotonic_ns) as bench:
        requests = [ask((n, -n)) for n in range(2000)]
        for position, one in enumerate(requests):
            bench.scheduler.submit(one)
            if position % 7 == 3:
                bench.scheduler.cancel(requests[position - 2])
        cancelled = bench.scheduler.statistics.failures["CANCELED"]
        bench.handed.wait(len(requests) - cancelled)
        assert len(set(bench.handed.requests)) == len(bench.handed.requests) == len(requests) - cancelled
        for n, one in enumerate(requests):
            if one in bench.handed.requests:
                assert outputs(one) == [[2 * n, -2 * n], [-n, n]]


def test_closing_ends_both_threads() -> None:
    gate = Gate()
    with Bench(served(Lanes(gate))) as bench:
        bench.scheduler.submit(ask((1, 1)))
        gate.wait_entered()
        for _ in range(3):
            bench.scheduler.submit(ask((2, 2)))
        bench.scheduler.close()
        gate.opened.release(10)
        assert bench.scheduler.join(20)
        bench.handed.wait(4)
