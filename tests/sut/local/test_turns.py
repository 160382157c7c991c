"""Threads that share an instance: which takes the next batch, when, and that each row is answered once and right."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.turns import Turn, Turns
from tests.support.own_processes import Own, is_fine, kept
from tests.support.own_processes import run as run_there
from tests.support.own_processes import settings as settings_there
from tests.support.serving_fakes import Clock

US, FULL = 1000, 4


def test_the_first_batch_is_taken_at_once() -> None:
    turn = Turn(Turns(Clock()))
    assert turn.next(lambda: 5, lambda: 1, FULL) == 5
    assert turn.next(lambda: None, lambda: 1, FULL) is None


class Asked:
    """How many samples wait: some, and from a time on a full batch.  A microsecond passes at each look."""

    def __init__(self, clock: Clock, full_from_ns: float = math.inf) -> None:
        self.clock, self.full_from_ns = clock, full_from_ns

    def __call__(self) -> int:
        self.clock.ns += US
        return FULL if self.clock.ns >= self.full_from_ns else 1


def under_way(clock: Clock, gather_us: int = 20, compute_us: int = 100) -> tuple[Turn, Turn]:
    """Two threads of an instance that takes so long; the first has just begun a batch."""
    turns = Turns(clock)
    first, second = Turn(turns), Turn(turns)
    for _ in range(2):
        first.next(lambda: 1, lambda: 1, FULL)
        clock.ns += gather_us * US
        first.begin(4)
        if _ == 0:
            clock.ns += compute_us * US
            first.end()
    return first, second


def test_a_part_is_taken_in_time_to_be_gathered_while_the_other_is_computed() -> None:
    clock = Clock()
    _, second = under_way(clock)
    began = clock.ns
    second.next(lambda: 2, Asked(clock), FULL)
    assert 79 * US <= clock.ns - began <= 81 * US


def test_a_full_batch_is_taken_as_it_waits() -> None:
    clock = Clock()
    _, second = under_way(clock)
    began = clock.ns
    second.next(lambda: 2, Asked(clock, began + 30 * US), FULL)
    assert clock.ns - began == 30 * US


def test_a_part_is_taken_after_the_whole_of_what_is_under_way() -> None:
    """Also where the first thread has only begun to gather."""
    clock = Clock()
    first, second = under_way(clock)
    clock.ns += 100 * US
    first.end()
    first.next(lambda: 2, lambda: 1, FULL)
    began = clock.ns
    second.next(lambda: 3, Asked(clock), FULL)
    assert 99 * US <= clock.ns - began <= 101 * US


def test_batches_end_in_the_order_in_which_they_began() -> None:
    clock = Clock()
    turns = Turns(clock)
    first, second, third = Turn(turns), Turn(turns), Turn(turns)
    for size, compute_us in ((8, 1000), (1, 10)):
        first.next(lambda: 1, lambda: 1, FULL)
        first.begin(size)
        clock.ns += compute_us * US
        first.end()
    for turn, size in ((first, 8), (second, 1)):
        turn.next(lambda: 1, lambda: FULL, FULL)
        turn.begin(size)
    clock.ns += 1000 * US
    first.end()
    began = clock.ns
    third.next(lambda: 1, Asked(clock), FULL)
    assert clock.ns - began == 10 * US


def test_a_batch_that_was_given_up_holds_nobody_back() -> None:
    clock = Clock()
    first, second = under_way(clock)
    first.end()
    first.next(lambda: 2, lambda: 1, FULL)
    first.leave()  # which was never begun
    began = clock.ns
    second.next(lambda: 3, Asked(clock), FULL)
    assert clock.ns == began


def test_no_thread_waits_for_samples_while_another_has_a_batch() -> None:
    clock = Clock()
    first, second = under_way(clock)
    looks = 0

    def waiting() -> int:
        nonlocal looks
        looks += 1
        if looks == 3:
            clock.ns += 200 * US  # late
        if looks == 5:
            first.end()
            first.leave()
        return 0

    second.next(lambda: 2, waiting, FULL)
    assert looks == 5


def test_one_thread_waits_for_rows_and_the_end_of_a_batch_lets_it() -> None:
    turns = Turns()
    first, second = Turn(turns), Turn(turns)
    first.next(lambda: 1, lambda: 1, FULL)
    first.begin(4)
    turns._computed_ns[4] = 60_000_000_000  # so it would wait for a minute
    taken = threading.Event()

    def other() -> None:
        second.next(lambda: 2, lambda: 1, FULL)
        taken.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not taken.wait(0.01)
    first.end()
    first.leave()
    assert taken.wait(20)
    thread.join()


# The batcher.


class Lanes:
    """Two threads of an instance that doubles; each has rooms of its own."""

    def __init__(self, before: Callable[[np.ndarray], object] = lambda samples: None) -> None:
        self.before = before
        self.under_way = self.most = 0
        self.workers = [self._worker() for _ in range(2)]

    def _worker(self) -> Any:
        class Worker:
            def __init__(self, lanes: Lanes) -> None:
                self._lanes = lanes
                self._rooms = {size: {"x": np.zeros((size, 1), np.int64)} for size in range(1, 9)}

            def room(self, size: int) -> dict[str, np.ndarray]:
                return self._rooms[size]

            def __call__(self, batch: dict[str, np.ndarray]) -> np.ndarray:
                lanes = self._lanes
                assert batch["x"] is self._rooms[len(batch["x"])]["x"] or batch["x"].base is not None
                lanes.under_way += 1
                lanes.most = max(lanes.most, lanes.under_way)
                try:
                    lanes.before(batch["x"])
                    return batch["x"] * 2
                finally:
                    lanes.under_way -= 1

        return Worker(self)


def numbers(count: int = 400) -> Any:
    from drumfire.sut.data.library import ArrayLibrary

    return ArrayLibrary("numbers", lambda indices: {"x": indices.astype(np.int64).reshape(-1, 1)}, count, count)


def run(lanes: list[Lanes], scenario: Scenario, mode: Mode = Mode.AccuracyOnly, **options: Any) -> Test:
    library = numbers()
    workers = [worker for one in lanes for worker in one.workers]
    system = BatchedSystem("lanes", workers, library, max_batch_size=4, lanes=2, **options)
    settings = TestSettings(
        scenario=scenario, mode=mode, min_duration_ms=0, min_query_count=400, server_target_qps=8000.0,
        multi_stream_samples_per_query=6,
    )  # fmt: skip
    test = Test(system, library, settings, patience_s=5)
    asyncio.run(test.run())
    return test


@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly])
def test_every_row_is_answered_once_and_right(scenario: Scenario, instances: int, mode: Mode) -> None:
    lanes = [Lanes() for _ in range(instances)]
    test = run(lanes, scenario, mode)
    issued = test.record.issued_rows
    assert test.spoiled() == []
    assert (test.record.status[:issued] == Status.OK).all()
    if mode == Mode.AccuracyOnly:
        kept = {
            row: int(np.frombuffer(bytes(response), np.int64)[0])
            for batch in test.answers.kept
            for row, response in zip(batch.rows.tolist(), batch.responses, strict=True)
        }
        assert kept == {row: 2 * index for row, index in enumerate(test.record.sample_index.tolist())}
    assert not any(thread.name.startswith("sut-") for thread in threading.enumerate())


def test_full_batches_are_under_way_together() -> None:
    meet = threading.Barrier(2, timeout=20)
    lanes = Lanes(lambda samples: meet.wait())
    test = run([lanes], Scenario.Offline)
    assert lanes.most == 2
    assert (test.record.status == Status.OK).all()


@pytest.mark.parametrize("scenario", [Scenario.Server, Scenario.Offline])
def test_a_batch_that_raises_fails_alone(scenario: Scenario) -> None:
    def before(samples: np.ndarray) -> None:
        if 77 in samples:
            raise RuntimeError("CUDA error")

    test = run([Lanes(before)], scenario)
    failed = np.flatnonzero(test.record.status == Status.FAILED)
    assert 77 in test.record.sample_index[failed]
    assert 1 <= len(failed) <= 4
    assert test.answers.faults.failed == {"RuntimeError: CUDA error": len(failed)}
    assert test.answers.faults.unanswered == 0


def test_a_library_that_raises_holds_nobody_up() -> None:
    lanes, library = Lanes(), numbers()
    system = BatchedSystem("lanes", lanes.workers, library, max_batch_size=4, lanes=2)
    settings = TestSettings(scenario=Scenario.Server, min_duration_ms=0, min_query_count=100, server_target_qps=8000.0)
    test = Test(system, library, settings, patience_s=5)

    def broken(*_: object) -> Any:
        raise LookupError("sample 2 is not loaded")

    library.batch = broken
    asyncio.run(test.run())
    assert test.answers.faults.failed == {"LookupError: sample 2 is not loaded": 100}
    assert test.answers.faults.unanswered == 0


def test_an_interrupt_ends_both_threads() -> None:
    entered = threading.Event()
    go_on = threading.Event()

    def before(_: np.ndarray) -> None:
        entered.set()
        go_on.wait(20)

    lanes, library = Lanes(before), numbers()
    system = BatchedSystem("lanes", lanes.workers, library, max_batch_size=4, lanes=2)
    settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=0, min_query_count=400)
    test = Test(system, library, settings)

    async def main() -> None:
        running = asyncio.ensure_future(test.run())
        while not entered.is_set():
            await asyncio.sleep(0.001)
        test.interrupt("by hand")
        threading.Timer(0.01, go_on.set).start()
        await running

    asyncio.run(main())
    assert test.answers.faults.unanswered >= 392
    assert not any(thread.name.startswith("sut-") for thread in threading.enumerate())


@pytest.mark.parametrize("scenario", [
    one if one == Scenario.Server else pytest.param(one, marks=pytest.mark.slow) for one in Scenario
])  # fmt: skip
def test_in_a_process_of_its_own(scenario: Scenario, own: Own) -> None:
    system = own("lanes", workers=2)
    test = run_there(system, settings_there(scenario, Mode.AccuracyOnly))
    is_fine(test)
    assert system._board.lanes == 2
    assert {row: int.from_bytes(data, "little") for row, data in kept(test).items()} == {
        row: 7 * index for row, index in enumerate(test.record.sample_index[: test.record.issued_rows].tolist())
    }
