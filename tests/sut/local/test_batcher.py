"""The dynamic batcher: first in, first out, each row once, no batch too large, and when a batch goes."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.responses import as_bytes
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.loadgen.traffic import Phase
from drumfire.sut.data.library import ArrayLibrary, NotLoadedError
from drumfire.sut.local.batcher import BatchedSystem, service_times
from drumfire.sut.local.batching import batch_sizes
from drumfire.sut.local.rows import MAX_BATCH_SIZE
from tests.support.loops import LOOPS, on

LONG_S = 3600.0


class Library:
    """The samples are their own dataset indices."""

    name = "numbers"

    def __init__(self, count: int) -> None:
        self.total_count = self.performance_count = count

    def load(self, indices: np.ndarray) -> None:
        pass

    def unload(self, indices: np.ndarray) -> None:
        pass

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


def on_numbers(work: Callable[[np.ndarray], np.ndarray]) -> Callable[[Batch], np.ndarray]:
    """A worker on the library's samples, which arrive by name though the library returns bare arrays."""

    def run(batch: Batch) -> np.ndarray:
        ((name, numbers),) = batch.items()
        assert name == "input"
        return work(numbers)

    return run


class Bench:
    """A batcher whose rows are issued by hand; a row's sample is its own number."""

    def __init__(self, rows: int, workers: list[Any], **options: Any) -> None:
        self.system = BatchedSystem("bench", [*map(on_numbers, workers)], Library(rows), **options)
        self.record = Record(rows, self.system.columns)
        self.record.sample_index[:] = np.arange(rows)
        self.answers = Answers(self.record, in_turn=False)

    async def __aenter__(self) -> "Bench":
        rows = np.arange(self.record.rows, dtype=np.uint32)
        self.answers.begin(Phase(True, 0, rows, 1, rows, None, 0, None))
        await self.system.open(self.answers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.system.close()

    def issue(self, count: int) -> None:
        first = self.answers.issued
        self.record.issued[first : first + count] = self.answers.now()
        self.answers.issued = first + count
        self.system.issue(first, first + count)

    async def answered(self, count: int) -> bool:
        return await self.answers.wait(count, 20.0)

    async def still(self) -> list[int]:
        """Sizes of the batches so far, after time enough for one that should not go."""
        await asyncio.sleep(0.05)
        return self.sizes()

    def sizes(self) -> list[int]:
        """The size of each batch, by its rows."""
        sizes, row = [], 0
        while row < self.record.rows and (size := int(self.record.columns["batch_size"][row])):
            sizes.append(size)
            row += size
        return sizes


def echo(batch: np.ndarray) -> np.ndarray:
    return batch.reshape(-1, 1)


def answers_of(bench: Bench) -> dict[int, int]:
    return {
        row: int.from_bytes(next(as_bytes([response])), "little")
        for kept in bench.answers.kept
        for row, response in zip(kept.rows.tolist(), kept.responses, strict=True)
    }


# When a batch goes.


def test_a_full_batch_goes_at_once_and_a_part_waits() -> None:
    async def main() -> None:
        async with Bench(20, [echo], max_batch_size=4, max_queue_delay_s=LONG_S) as bench:
            bench.issue(3)
            assert await bench.still() == []
            bench.issue(1)
            assert await bench.answered(4)
            bench.issue(6)
            assert await bench.answered(8)
            assert await bench.still() == [4, 4]
            bench.issue(2)
            assert await bench.answered(12)
            assert bench.sizes() == [4, 4, 4]

    asyncio.run(main())


def test_flush_releases_a_part() -> None:
    async def main() -> None:
        async with Bench(20, [echo], max_batch_size=4, max_queue_delay_s=LONG_S) as bench:
            bench.issue(7)
            assert await bench.answered(4)
            assert await bench.still() == [4]
            bench.system.flush()
            assert await bench.answered(7)
            assert bench.sizes() == [4, 3]
            # The next phase's rows wait for a full batch again.
            bench.issue(1)
            assert await bench.still() == [4, 3]
            bench.system.flush()
            assert await bench.answered(8)

    asyncio.run(main())


def test_flush_without_rows_does_nothing() -> None:
    async def main() -> None:
        async with Bench(4, [echo], max_batch_size=4) as bench:
            bench.system.flush()
            assert await bench.still() == []

    asyncio.run(main())


def test_a_part_goes_when_its_oldest_row_has_waited_enough() -> None:
    async def main() -> None:
        async with Bench(8, [echo], max_batch_size=100, max_queue_delay_s=0.05) as bench:
            bench.issue(1)
            await asyncio.sleep(0.01)
            bench.issue(2)
            assert await bench.answered(3)
            assert bench.record.columns["begun"][0] - bench.record.issued[0] >= 50_000_000
            assert bench.sizes()[0] >= 1

    asyncio.run(main())


def test_without_delay_a_free_worker_takes_what_is_there() -> None:
    gate = threading.Event()

    def held(batch: np.ndarray) -> np.ndarray:
        gate.wait(20)
        return echo(batch)

    async def main() -> None:
        async with Bench(20, [held], max_batch_size=8) as bench:
            bench.issue(1)
            while bench.sizes() != [1]:
                await asyncio.sleep(0.001)
            for count in (2, 1, 9):  # meanwhile these gather
                bench.issue(count)
            gate.set()
            assert await bench.answered(13)
            assert bench.sizes() == [1, 8, 4]

    asyncio.run(main())


# Whatever comes in: every row once, in order, in batches that are not too large.


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("delay_s", [0.0, 0.001])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_once_in_order(seed: int, delay_s: float, workers: int) -> None:
    rng, rows, most = random.Random(seed), 800, random.Random(seed).choice([1, 3, 8, 1000])
    batches: list[list[int]] = []
    lock = threading.Lock()

    def work(batch: np.ndarray) -> np.ndarray:
        with lock:
            batches.append(batch.tolist())
        if batch[0] % 3 == 0:
            time.sleep(0.0003)
        return echo(batch)

    async def main() -> Bench:
        async with Bench(rows, [work] * workers, max_batch_size=most, max_queue_delay_s=delay_s) as bench:
            while (left := rows - bench.answers.issued) > 0:
                bench.issue(min(left, rng.choice([1, 1, 2, 5, 40])))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.choice([0, 0.0005, 0.002]))
            bench.system.flush()
            assert await bench.answered(rows)
        return bench

    bench = asyncio.run(main())
    assert all(len(batch) <= most for batch in batches)
    assert all(batch == list(range(batch[0], batch[0] + len(batch))) for batch in batches), "rows next to each other"
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    if workers == 1:
        assert [row for batch in batches for row in batch] == list(range(rows))
    assert (bench.record.status == Status.OK).all()
    assert bench.answers.faults.refused == {}
    assert answers_of(bench) == {row: row for row in range(rows)}
    begun = bench.record.columns["begun"]
    assert (begun >= bench.record.issued).all()
    assert (bench.record.completed >= begun).all()
    found = batch_sizes(bench.record.columns["batch_size"])
    assert found == {size: sum(len(b) == size for b in batches) for size in {len(b) for b in batches}}
    assert bench.sizes() == [len(batch) for batch in sorted(batches)]


def test_workers_work_at_the_same_time() -> None:
    """Three batches meet at a barrier, which lets none pass alone."""
    barrier = threading.Barrier(3, timeout=20)

    def meet(batch: np.ndarray) -> np.ndarray:
        barrier.wait()
        return echo(batch)

    async def main() -> None:
        async with Bench(6, [meet] * 3, max_batch_size=2) as bench:
            bench.issue(6)
            assert await bench.answered(6)
            assert (bench.record.status == Status.OK).all()

    asyncio.run(main())


def test_each_worker_keeps_to_its_thread() -> None:
    threads: dict[int, set[int]] = {0: set(), 1: set()}

    def worker(number: int) -> Callable[[np.ndarray], np.ndarray]:
        def work(batch: np.ndarray) -> np.ndarray:
            threads[number].add(threading.get_ident())
            time.sleep(0.001)
            return echo(batch)

        return work

    async def main() -> None:
        async with Bench(40, [worker(0), worker(1)], max_batch_size=2) as bench:
            bench.issue(40)
            assert await bench.answered(40)

    asyncio.run(main())
    assert all(len(found) <= 1 for found in threads.values())
    assert threading.get_ident() not in threads[0] | threads[1]


# What workers do wrong.


def test_an_exception_fails_its_batch_alone() -> None:
    def fragile(batch: np.ndarray) -> np.ndarray:
        if 5 in batch:
            raise MemoryError("no room for 5")
        return echo(batch)

    async def main() -> Bench:
        async with Bench(12, [fragile], max_batch_size=4) as bench:
            bench.issue(12)
            assert await bench.answered(12)
            return bench

    bench = asyncio.run(main())
    assert bench.record.status.tolist() == [Status.OK] * 4 + [Status.FAILED] * 4 + [Status.OK] * 4
    assert bench.answers.faults.failed == {"MemoryError: no room for 5": 4}


async def refused(work: Any, rows: int, *, keeps: bool, size: int = 4) -> Bench:
    """Run so many rows, of which the first tells how quick the model is."""
    async with Bench(rows, [work], max_batch_size=size) as bench:
        indices = np.arange(rows, dtype=np.uint32)
        bench.answers.begin(Phase(keeps, 0, indices, 1, indices, None, 0, None))
        bench.issue(rows)
        assert await bench.answered(rows)
        return bench


@pytest.mark.parametrize("keeps", [True, False])
def test_of_a_batch_only_samples_whose_values_are_refused_fail(keeps: bool) -> None:
    def looks_up(numbers: np.ndarray) -> np.ndarray:
        if (bad := np.intersect1d(numbers, [5, 6, 38])).size:
            raise IndexError(f"no row {bad[0]} in the table")
        return echo(numbers) * 2

    bench = asyncio.run(refused(looks_up, 40, keeps=keeps))
    status, sizes = bench.record.status, bench.record.columns["batch_size"]
    assert np.flatnonzero(status == Status.FAILED).tolist() == [5, 6, 38]
    assert bench.answers.faults.failed == {f"IndexError: no row {bad} in the table": 1 for bad in (5, 6, 38)}
    assert sizes.tolist() == [4] * 4 + [1] * 4 + [4] * 28 + [1] * 4
    assert answers_of(bench) == ({row: 2 * row for row in range(40) if row not in (5, 6, 38)} if keeps else {})
    good = status == Status.OK
    assert (bench.record.columns["begun"][good] <= bench.record.completed[good]).all()


def test_a_batch_that_fails_while_none_of_its_samples_does_fails_whole() -> None:
    failed: list[int] = []

    def faults_once(numbers: np.ndarray) -> np.ndarray:
        if 9 in numbers and not failed:
            failed.extend(numbers.tolist())
            raise RuntimeError("CUDA error")
        return echo(numbers)

    bench = asyncio.run(refused(faults_once, 40, keeps=True))
    assert np.flatnonzero(bench.record.status == Status.FAILED).tolist() == failed == [8, 9, 10, 11]
    assert bench.answers.faults.failed == {"RuntimeError: CUDA error": 4}
    assert sorted(answers_of(bench)) == [row for row in range(40) if row not in failed]
    assert set(bench.sizes()) == {4}


def test_samples_are_not_tried_alone_without_end_where_all_are_refused() -> None:
    calls: list[int] = []

    def refuses(numbers: np.ndarray) -> np.ndarray:
        calls.append(len(numbers))
        raise ValueError("no")

    bench = asyncio.run(refused(refuses, 400, keeps=True))
    assert (bench.record.status == Status.FAILED).all()
    assert calls.count(4) == 100
    assert calls.count(1) == 8 * 4
    assert bench.answers.faults.failed == {"ValueError: no": 400}


@pytest.mark.parametrize("responses", [3, 5, 0])
def test_a_wrong_number_of_responses_fails_the_rows(responses: int) -> None:
    async def main() -> Bench:
        async with Bench(8, [lambda _: np.zeros((responses, 1))], max_batch_size=4) as bench:
            bench.issue(8)
            assert await bench.answered(8)
            return bench

    bench = asyncio.run(main())
    assert (bench.record.status == Status.FAILED).all()
    assert bench.answers.faults.failed == {f"{responses} responses to a batch of 4": 8}
    assert bench.answers.kept == []


def test_a_library_that_raises_fails_the_rows() -> None:
    async def main() -> Bench:
        bench = Bench(4, [echo], max_batch_size=4)

        def broken(_: np.ndarray) -> np.ndarray:
            raise LookupError("sample 2 is not loaded")

        bench.system._library.batch = broken  # the library that the batcher was given
        async with bench:
            bench.issue(4)
            assert await bench.answered(4)
            return bench

    assert asyncio.run(main()).answers.faults.failed == {"LookupError: sample 2 is not loaded": 4}


def test_close_ends_the_threads_and_drops_what_waits() -> None:
    async def main() -> Bench:
        async with Bench(8, [echo] * 3, max_batch_size=8, max_queue_delay_s=LONG_S) as bench:
            bench.issue(3)
            assert sum(t.name.startswith("sut-") for t in threading.enumerate()) == 3
        return bench

    bench = asyncio.run(main())
    assert not any(thread.name.startswith("sut-") for thread in threading.enumerate())
    assert bench.answers.answered == 0


@pytest.mark.parametrize("size", [0, -1, MAX_BATCH_SIZE + 1])
def test_a_batch_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="batch size"):
        BatchedSystem("none", [echo], Library(1), max_batch_size=size)


# In real runs.


def settings(scenario: Scenario, **values: Any) -> TestSettings:
    short = {
        "min_duration_ms": 0,
        "min_query_count": 300,
        "server_target_qps": 4000.0,
        "multi_stream_samples_per_query": 6,
        "performance_issue_unique": scenario != Scenario.MultiStream,
    }
    return TestSettings(scenario=scenario, **{**short, **values})


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly])
def test_every_scenario(mode: Mode, workers: int, scenario: Scenario, loop: str) -> None:
    batches: list[np.ndarray] = []
    threads: set[int] = set()

    def work(batch: np.ndarray) -> np.ndarray:
        batches.append(batch.copy())
        threads.add(threading.get_ident())
        return echo(batch)

    library = Library(300)
    system = BatchedSystem("batched", [on_numbers(work)] * workers, library, max_batch_size=4, max_queue_delay_s=0.0005)
    test = Test(system, library, settings(scenario, mode=mode))
    on(loop, test.run())
    issued = test.record.issued_rows
    assert test.spoiled() == []
    assert (test.record.status[:issued] == Status.OK).all()
    assert max(len(batch) for batch in batches) <= 4
    asked = np.concatenate(batches).tolist()
    if workers == 1:
        assert asked == test.record.sample_index[:issued].tolist()
    else:
        assert sorted(asked) == sorted(test.record.sample_index[:issued].tolist())
    found = batch_sizes(test.record.columns["batch_size"][:issued])
    assert sum(size * count for size, count in found.items()) == issued
    closed = scenario in (Scenario.SingleStream, Scenario.MultiStream)
    assert (threading.get_ident() in threads) == (closed and workers == 1)
    if scenario == Scenario.MultiStream:
        # A query of 6 is cut for a lone worker and shared out among several.
        assert found == {4: issued // 6, 2: issued // 6}
    if mode == Mode.AccuracyOnly:
        kept = {
            row: int(np.frombuffer(bytes(np.asarray(response)), np.uint32)[0]) if not isinstance(response, bytes) else
            int.from_bytes(response, "little")
            for batch in test.answers.kept
            for row, response in zip(batch.rows.tolist(), batch.responses, strict=True)
        }  # fmt: skip
        assert kept == dict(enumerate(test.record.sample_index.tolist()))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_in_a_closed_loop(workers: int, loop: str) -> None:
    calls = 0

    def fragile(batch: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("once")
        return echo(batch)

    library = Library(300)
    system = BatchedSystem("fragile", [on_numbers(fragile)] * workers, library, max_batch_size=4)
    test = Test(system, library, settings(Scenario.SingleStream))
    on(loop, test.run())
    assert np.flatnonzero(test.record.status == Status.FAILED).tolist() == [2]
    assert test.answers.faults.failed == {"RuntimeError: once": 1}
    assert not test.results().valid


def test_a_model_that_ends_the_program_fails_its_rows_and_keeps_its_thread() -> None:
    calls = iter(range(1000))

    def fragile(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 3:
            sys.exit(5)
        return echo(batch)

    library = Library(300)
    system = BatchedSystem("fragile", [on_numbers(fragile)], library, max_batch_size=4)
    test = Test(system, library, settings(Scenario.Offline), patience_s=0.5)
    asyncio.run(test.run())
    ((reason, count),) = test.answers.faults.failed.items()
    assert reason == "SystemExit: 5"
    assert 1 <= count <= 4
    assert test.answers.faults.unanswered == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupt_does_not_wait_for_the_queue(loop: str) -> None:
    def slow(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return echo(batch)

    library = Library(5000)
    test = Test(
        BatchedSystem("slow", [on_numbers(slow)], library, max_batch_size=1), library,
        settings(Scenario.Offline, min_query_count=5000),
    )  # fmt: skip

    async def main() -> None:
        running = asyncio.ensure_future(test.run())
        while test.answers.answered == 0:
            await asyncio.sleep(0.005)
        test.interrupt("by hand")
        await running

    on(loop, main())
    good = np.count_nonzero(test.record.status == Status.OK)
    assert 0 < good < 5000
    assert test.answers.faults.unanswered == 5000 - good
    assert not test.results().valid


# The figures.


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scenario", Scenario)
def test_several_inputs_arrive_together(scenario: Scenario, workers: int) -> None:
    """The performance set is loaded and unloaded; its rows stay side by side in every batch."""
    names, lengths = np.arange(300).astype(np.int32), np.random.default_rng(1).integers(1, 99, 300)

    def read(indices: np.ndarray) -> Batch:
        return {"name": names[indices], "length": lengths[indices]}

    def work(batch: Batch) -> np.ndarray:
        np.testing.assert_array_equal(batch["length"], lengths[batch["name"]])
        return (batch["name"] * 100 + batch["length"]).reshape(-1, 1)

    library = ArrayLibrary("two", read, 300, 40)
    system = BatchedSystem("two", [work] * workers, library, max_batch_size=4)
    requested = TestSettings(
        scenario=scenario, mode=Mode.SubmissionRun, min_duration_ms=0, min_query_count=200,
        server_target_qps=8000.0, multi_stream_samples_per_query=6,
    )  # fmt: skip
    test = Test(system, library, requested)
    asyncio.run(test.run())
    issued = test.record.issued_rows
    assert test.spoiled() == []
    assert (test.record.status[:issued] == Status.OK).all()
    for kept in test.answers.kept:
        indices = test.record.sample_index[kept.rows]
        answers = np.frombuffer(b"".join(map(bytes, kept.responses)), np.int64)
        np.testing.assert_array_equal(answers, indices * 100 + lengths[indices])
    with pytest.raises(NotLoadedError):
        library.batch(np.array([0]))


def test_batch_sizes_counts_batches() -> None:
    column = np.array([3, 3, 3, 1, 2, 2, 1, 0, 0], np.uint16)  # the last two were never batched
    assert batch_sizes(column) == {1: 2, 2: 1, 3: 1}
    assert batch_sizes(np.zeros(0, np.uint16)) == {}


def test_service_times_calls_at_least_as_often_as_asked() -> None:
    calls = []
    assert len(service_times(lambda: calls.append(1), seconds=0.0, least=5)) == len(calls) == 5
    assert all(t >= 0.001 for t in service_times(lambda: time.sleep(0.001), seconds=0.0, least=3))


# Several batches at a time, where many wait for a quick model.


def spied(system: BatchedSystem) -> list[tuple[int, int]]:
    """The rows of several batches that are taken together from now on."""
    taken, run_several = [], system._run_several

    def spy(run: Any, first: int, last: int) -> None:
        taken.append((first, last))
        run_several(run, first, last)

    system._run_several = spy  # type: ignore[method-assign]
    return taken


@pytest.mark.parametrize("bad", [None, 0, 37, 998])
@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("loop", LOOPS)
def test_several_batches_at_a_time_are_as_one_after_the_other(loop: str, size: int, bad: int | None) -> None:
    rows, sizes = 1000, []

    def work(numbers: np.ndarray) -> np.ndarray:
        sizes.append(len(numbers))
        if bad in numbers:
            raise MemoryError("a bad batch")
        return numbers

    async def main() -> Bench:
        async with Bench(rows, [work], max_batch_size=size) as bench:
            indices = np.arange(rows, dtype=np.uint32)
            bench.answers.begin(Phase(False, 0, indices, 1, indices, None, 0, None))  # where responses are not kept
            several = spied(bench.system)
            bench.issue(rows)
            assert await bench.answered(rows)
            assert bad is not None or several or size == 32
            return bench

    bench = on(loop, main())
    status, columns = bench.record.status, bench.record.columns
    failed = set() if bad is None else set(range(bad // size * size, min(bad // size * size + size, rows)))
    assert set(np.flatnonzero(status != Status.OK).tolist()) == failed
    assert sorted(sizes, reverse=True) == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    whole = rows // size * size
    assert (columns["batch_size"][:whole] == size).all()
    good = status == Status.OK
    assert (columns["begun"][good] <= columns["completed"][good]).all()
    # Each batch has its own times, in their order.
    for name in ("begun", "completed"):
        times = columns[name][:whole][good[:whole]].reshape(-1, size)
        assert (times == times[:, :1]).all()
        assert (np.diff(times[:, 0]) >= 0).all() or bad is not None


def test_samples_that_are_not_loaded_fail_their_batches_alone() -> None:
    rows = 64
    library = ArrayLibrary("half", lambda indices: indices, rows, rows)
    library.load(np.arange(32))
    system = BatchedSystem("half", [lambda batch: batch["input"]], library, max_batch_size=4)
    record = Record(rows, system.columns)
    record.sample_index[:] = np.arange(rows)[::-1]

    async def main() -> None:
        answers = Answers(record, in_turn=False)
        indices = np.arange(rows, dtype=np.uint32)
        answers.begin(Phase(False, 0, indices, 1, indices, None, 0, None))
        await system.open(answers)
        record.issued[:] = answers.now()
        answers.issued = rows
        system.issue(0, rows)
        assert await answers.wait(rows, 60.0)
        await system.close()
        assert answers.faults.failed.total() == 32

    asyncio.run(main())
    assert (record.status[:32] == Status.FAILED).all()
    assert (record.status[32:] == Status.OK).all()


def test_responses_are_kept_from_the_first_of_a_phase_on() -> None:
    """The worker has taken several batches at a time in the phase before, where none were kept."""
    rows = 500

    async def main() -> None:
        async with Bench(2 * rows, [echo], max_batch_size=4) as bench:
            indices = np.arange(rows, dtype=np.uint32)
            several = spied(bench.system)
            for first, accuracy in ((0, False), (rows, True)):
                bench.answers.begin(Phase(accuracy, first, indices, 1, indices, None, 0, None))
                bench.answers.issued = first
                bench.issue(rows)
                assert await bench.answered(first + rows)
            assert several
            assert several[-1][1] <= rows
            assert answers_of(bench) == {row: row for row in range(rows, 2 * rows)}

    asyncio.run(main())


class Reusing:
    """A worker that has one array for the responses of all batches, where they come one after the other."""

    def __init__(self) -> None:
        self.array = np.zeros((4, 1), np.int64)
        self.batches = 0

    def __call__(self, batch: Batch) -> np.ndarray:
        return echo(batch["input"])

    def several(self, library: Any, indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), size):
            self.array[:, 0] = indices[start : start + size]
            self.batches += 1
            yield self.array if 250 not in self.array else self.array[1:]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_may_use_its_arrays_again_where_responses_are_not_kept(loop: str) -> None:
    rows, worker = 500, Reusing()

    async def main() -> Bench:
        bench = Bench(2 * rows, [], max_batch_size=4)
        bench.system = BatchedSystem("bench", [worker], Library(2 * rows), max_batch_size=4)
        async with bench:
            indices = np.arange(rows, dtype=np.uint32)
            for first, accuracy in ((0, False), (rows, True)):
                bench.answers.begin(Phase(accuracy, first, indices, 1, indices, None, 0, None))
                bench.answers.issued = first
                bench.issue(rows)
                assert await bench.answered(first + rows)
        return bench

    bench = on(loop, main())
    assert worker.batches > 10
    assert set(np.flatnonzero(bench.record.status == Status.FAILED).tolist()) <= {248, 249, 250, 251}
    assert answers_of(bench) == {row: row for row in range(rows, 2 * rows)}
