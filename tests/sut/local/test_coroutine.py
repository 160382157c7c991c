"""A coroutine as a system: batches in issue order, bounded concurrency, failures of their rows alone, a clean end."""

import asyncio
import contextlib
import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.loadgen.responses import as_bytes
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.local import coroutine
from drumfire.sut.local.coroutine import CoroutineSystem
from tests.support.loops import LOOPS, on


class Library:
    """The samples are their own dataset indices."""

    name = "numbers"

    def __init__(self, count: int = 300) -> None:
        self.total_count = self.performance_count = count

    def load(self, indices: np.ndarray) -> None:
        pass

    def unload(self, indices: np.ndarray) -> None:
        pass

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


class Service:
    """Answers with the index, after some turns of the loop, later calls at times before earlier ones."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0

    async def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.tolist())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(int(batch[0]) % 4):
                await asyncio.sleep(0)
            return await self.respond(batch)
        finally:
            self.running -= 1

    async def respond(self, batch: np.ndarray) -> Any:
        return batch.reshape(-1, 1)


def settings(scenario: Scenario, **values: Any) -> TestSettings:
    short = {
        "min_duration_ms": 0,
        "min_query_count": 300,
        "server_target_qps": 4000.0,
        "multi_stream_samples_per_query": 6,
    }
    return TestSettings(scenario=scenario, **{**short, **values})


def ran(loop: str, service: Service, requested: TestSettings, *, patience_s: float = 60.0, **options: Any) -> Test:
    library = Library()
    test = Test(CoroutineSystem("service", service, library, **options), library, requested, patience_s=patience_s)
    on(loop, test.run())
    return test


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly])
@pytest.mark.parametrize("options", [{}, {"max_batch_size": 4, "max_in_flight": 3}, {"max_in_flight": 1}])
def test_every_scenario(options: dict, mode: Mode, scenario: Scenario, loop: str) -> None:
    service = Service()
    test = ran(loop, service, settings(scenario, mode=mode), **options)
    issued = test.record.issued_rows
    assert test.spoiled() == []
    assert issued >= 300
    assert (test.record.status[:issued] == Status.OK).all()
    assert [index for batch in service.batches for index in batch] == test.record.sample_index[:issued].tolist()
    assert max(map(len, service.batches)) <= options.get("max_batch_size", 1)
    assert service.most_running <= options.get("max_in_flight", 64)
    assert service.running == 0
    if mode == Mode.AccuracyOnly:
        kept = {
            row: int(response[0])
            for batch in test.answers.kept
            for row, response in zip(batch.rows.tolist(), batch.responses, strict=True)
        }
        assert kept == dict(enumerate(test.record.sample_index.tolist()))


def read_two(indices: np.ndarray) -> Batch:
    return {"number": indices.astype(np.int64), "square": np.stack([indices, indices], 1).astype(np.float32) ** 2}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", Scenario)
def test_several_inputs_come_by_name(scenario: Scenario, loop: str) -> None:
    """Of a performance set that is smaller than the data; its rows are together whether views or gathered."""
    library, sizes = ArrayLibrary("two", read_two, 300, 64), []

    async def infer(batch: Batch) -> np.ndarray:
        assert list(batch) == ["number", "square"]
        numbers, squares = batch["number"], batch["square"]
        assert squares.shape == (len(numbers), 2)
        sizes.append(len(numbers))
        await asyncio.sleep(0)
        return (squares[:, 1] - numbers).reshape(-1, 1)

    requested = settings(scenario, mode=Mode.SubmissionRun)
    test = Test(CoroutineSystem("two", infer, library, max_batch_size=4), library, requested)
    on(loop, test.run())
    issued = test.record.issued_rows
    assert test.spoiled() == []
    assert (test.record.status[:issued] == Status.OK).all()
    assert sum(sizes) == issued
    for kept in test.answers.kept:
        numbers = test.record.sample_index[kept.rows].astype(np.float32)
        np.testing.assert_array_equal(np.asarray(kept.responses)[:, 0], numbers**2 - numbers)


@pytest.mark.parametrize("name", ["input", "image_tensor:0"])
def test_a_single_input_comes_as_a_bare_array_whatever_its_name(name: str) -> None:
    library, found = ArrayLibrary("one", lambda indices: {name: indices * 2}, 300, 300), []

    async def infer(batch: np.ndarray) -> np.ndarray:
        found.append(batch)
        return batch.reshape(-1, 1)

    test = Test(CoroutineSystem("one", infer, library, max_batch_size=4), library, settings(Scenario.Offline))
    asyncio.run(test.run())
    assert np.concatenate(found).tolist() == (test.record.sample_index * 2).tolist()


def test_the_table_is_released_when_the_run_has_ended() -> None:
    library = Library()
    system = CoroutineSystem("service", Service(), library)
    test = Test(system, library, settings(Scenario.Offline))
    asyncio.run(test.run())
    table = weakref.ref(test.record)
    del test
    gc.collect()
    assert table() is None


@pytest.mark.parametrize("loop", LOOPS)
def test_calls_run_at_the_same_time_up_to_the_bound(loop: str) -> None:
    service = Service()
    ran(loop, service, settings(Scenario.Offline), max_in_flight=7)
    assert service.most_running == 7


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", Scenario)
def test_an_exception_fails_its_rows_alone(scenario: Scenario, loop: str) -> None:
    class Fragile(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            if len(self.batches) == 2:
                raise ConnectionError("refused")
            return await super().respond(batch)

    test = ran(loop, Fragile(), settings(scenario), max_batch_size=3, max_in_flight=1)
    failed = np.flatnonzero(test.record.status == Status.FAILED)
    assert 1 <= failed.size <= 3
    assert test.answers.faults.failed == {"ConnectionError: refused": failed.size}
    assert np.count_nonzero(test.record.status == Status.OK) == test.record.issued_rows - failed.size
    assert not test.results().valid


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("responses", [0, 2, 4])
def test_a_wrong_number_of_responses_fails_the_rows(responses: int, loop: str) -> None:
    class Miscounting(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            return [b"x"] * responses

    test = ran(loop, Miscounting(), settings(Scenario.Offline, mode=Mode.AccuracyOnly), max_batch_size=3)
    assert (test.record.status == Status.FAILED).all()
    assert test.answers.faults.failed == {f"{responses} responses to a batch of 3": 300}
    assert test.answers.kept == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_call_that_is_cancelled_from_within_fails_its_rows(loop: str) -> None:
    """Libraries raise CancelledError when their own task group or time-out ends: nobody else would tell of it."""

    class Cancelled(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            raise asyncio.CancelledError

    test = ran(loop, Cancelled(), settings(Scenario.Offline), patience_s=0.3)
    assert (test.record.status == Status.FAILED).all()
    assert test.answers.faults.failed.total() == 300


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stubborn", [False, True])
def test_nothing_runs_on_after_an_interrupt(stubborn: bool, loop: str) -> None:
    """Neither the calls in flight nor the rows behind them, also where a call answers when it is cancelled."""

    class Endless(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            if len(self.batches) < 20:
                return await super().respond(batch)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            return await super().respond(batch)

    service, library = Endless(), Library()
    test = Test(CoroutineSystem("endless", service, library, max_in_flight=4), library, settings(Scenario.Offline))

    async def main() -> tuple[int, int]:
        running = asyncio.ensure_future(test.run())
        while len(service.batches) < 20:
            await asyncio.sleep(0.005)
        test.interrupt("by hand")
        await running
        calls_at_end = len(service.batches)
        for _ in range(10):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return len(service.batches) - calls_at_end, len(left)

    assert on(loop, main()) == (0, 0)
    assert service.running == 0
    good = np.count_nonzero(test.record.status == Status.OK)
    assert 0 < good < 300
    assert test.answers.faults.unanswered == 300 - good
    assert not test.results().valid
    if not stubborn:
        assert test.answers.faults.refused == {}, "being stopped is nothing that the system did wrong"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it catches its end, too
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("caught", [asyncio.CancelledError, BaseException])
def test_a_call_that_catches_every_cancellation_does_not_keep_the_run_from_ending(
    caught: type[BaseException], loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroutine, "CLOSE_S", 0.05)

    class Deaf(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            while batch[0] == 7:
                with contextlib.suppress(caught):
                    await asyncio.sleep(3600)
            return await super().respond(batch)

    test = ran(loop, Deaf(), settings(Scenario.Offline), patience_s=0.05)
    assert np.count_nonzero(test.record.status == Status.OK) == 299
    assert test.answers.faults.unanswered == 1
    assert not test.results().valid
    gc.collect()  # while its end may be caught


# Wrong use.


@pytest.mark.parametrize("option", ["max_batch_size", "max_in_flight"])
@pytest.mark.parametrize("value", [0, -1, None, 1.5, "4"])
def test_bounds_are_at_least_one(option: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{option} must be a whole number of at least 1, not"):
        CoroutineSystem("service", Service(), Library(), **{option: value})


def test_an_infer_that_is_no_coroutine() -> None:
    test = ran("asyncio", lambda batch: [b""] * len(batch), settings(Scenario.Offline))  # type: ignore[arg-type]
    assert test.answers.faults.failed == {
        "TypeError: infer must be an async def: it returned list, which nobody can await": 300
    }


def test_any_exception_fails_its_rows() -> None:
    class Odd(BaseException):
        pass

    class Fragile(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            raise Odd("end")

    test = ran("asyncio", Fragile(), settings(Scenario.Offline), patience_s=0.3)
    assert test.answers.faults.failed == {"Odd: end": 300}


def test_a_call_that_exits_fails_its_rows() -> None:
    class Leaving(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            if batch[0] == 7:
                sys.exit(0)
            return await super().respond(batch)

    test = ran("asyncio", Leaving(), settings(Scenario.Offline))
    assert test.answers.faults.failed == {"SystemExit: 0": 1}
    assert np.count_nonzero(test.record.status == Status.OK) == 299


@pytest.mark.parametrize("form", [np.asarray, list, lambda array: [memoryview(row) for row in array]])
def test_an_array_that_is_used_again_changes_no_answer(form: Any) -> None:
    class Reusing(Service):
        buffer = np.empty((4, 1), np.int64)

        async def respond(self, batch: np.ndarray) -> Any:
            self.buffer[: len(batch), 0] = batch
            return form(self.buffer[: len(batch)])

    requested = settings(Scenario.Offline, mode=Mode.AccuracyOnly)
    test = ran("asyncio", Reusing(), requested, max_batch_size=4, max_in_flight=1)
    kept = {}
    for batch in test.answers.kept:
        for row, data in zip(batch.rows.tolist(), as_bytes(batch.responses), strict=True):
            kept[row] = int.from_bytes(data, "little")
    assert kept == dict(enumerate(test.record.sample_index.tolist()))


def test_a_type_error_within_infer_is_its_own() -> None:
    class Wrong(Service):
        async def respond(self, batch: np.ndarray) -> Any:
            raise TypeError("of the service")

    test = ran("asyncio", Wrong(), settings(Scenario.Offline))
    assert test.answers.faults.failed == {"TypeError: of the service": 300}
