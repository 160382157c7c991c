"""The warm-up: unmeasured queries through the same system, which leave no trace in the run's rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import directory
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.record import Gauge, Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import SystemUnderTest
from drumfire.loadgen.warm_up import WarmUp, WarmUpError
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.coroutine import CoroutineSystem
from drumfire.sut.local.null import NullSystem, null_library

ASKED = TestSettings(
    min_duration_ms=30, min_query_count=20, server_target_qps=2000, offline_expected_qps=2000,
    single_stream_expected_latency_ns=1e6, multi_stream_expected_latency_ns=1e6, multi_stream_samples_per_query=3,
)  # fmt: skip

LIBRARY = null_library()


class Noting(CoroutineSystem):
    """Answers after a moment, and notes each call: its rows, and whether the run had begun for others who watch."""

    def __init__(self, failing: bool = False, silent: bool = False) -> None:
        super().__init__("noting", self._answer_batch, LIBRARY, max_in_flight=8)
        self.failing, self.silent = failing, silent
        self.asked: list[tuple[int, int]] = []
        self.origins: list[int] = []
        self.measuring_from: int | None = None

    async def begin_measuring(self) -> None:
        self.measuring_from = len(self.asked)

    def issue(self, first: int, last: int) -> None:
        self.asked.append((first, last))
        self.origins.append(self.answers.record.gauges[Gauge.ORIGIN])
        super().issue(first, last)

    async def _answer_batch(self, batch: np.ndarray) -> np.ndarray:
        if self.silent:
            await asyncio.sleep(3600)
        await asyncio.sleep(0)
        if self.failing and self.measuring_from is None:
            raise RuntimeError("cold")
        return batch


def batched() -> BatchedSystem:
    return BatchedSystem("batched", [lambda batch: next(iter(batch.values()))], LIBRARY, max_batch_size=4)


def test_of(system: SystemUnderTest, scenario: Scenario, text: str, **more: Any) -> Test:
    settings = replace(ASKED, scenario=scenario, **more)
    return Test(system, LIBRARY, settings, warm_up=WarmUp.of(text), patience_s=0.3)


test_of.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", None), ("0s", None), ("200", WarmUp(200)), (" 7 ", WarmUp(7)), ("5s", WarmUp(0, 5.0)),
        ("0.25s", WarmUp(0, 0.25)), (".5s", WarmUp(0, 0.5)),
    ],
)  # fmt: skip
def test_one_spelling_for_each(text: str, expected: WarmUp | None) -> None:
    assert WarmUp.of(text) == expected


@pytest.mark.parametrize("text", ["9" * 23, "9" * 23 + "s", "9" * 400 + "s", "9" * 5000, "1000000001", "1000000000.5s"])
def test_no_warm_up_without_end(text: str) -> None:
    with pytest.raises(UserError, match="--warmup: must be at most 1,000,000,000 queries or seconds"):
        WarmUp.of(text)
    assert WarmUp.of("1000000000") == WarmUp(10**9)


@pytest.mark.parametrize("text", ["", "5 s", "-1", "1.5", "5m", "s", "1e3", "nans", "infs"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--warmup: .*200.*5s"):
        WarmUp.of(text)


def test_parts() -> None:
    assert [WarmUp(200).part(parts).queries for parts in (1, 3, 1000)] == [200, 67, 1]
    assert WarmUp(0, 5.0).part(3) == WarmUp(0, 5.0)
    assert WarmUp(10).rows(3) == 30
    assert WarmUp(10**9).rows(1) == WarmUp(0, 1.0).rows(1) == 1024


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("queries", [5, 1500])
def test_so_many_queries_and_then_the_run_from_its_first_row(scenario: Scenario, queries: int) -> None:
    system = Noting()
    test = test_of(system, scenario, str(queries))
    plain = test_of(Noting(), scenario, "0")
    asyncio.run(test.run())
    result = directory.document(test, {}, [])
    assert result["warmup"]["queries"] == queries
    assert result["warmup"]["failed"] == 0
    assert result["warmup"]["seconds"] > 0
    assert result["errors"]["refused"] == 0
    width = 3 if scenario == Scenario.MultiStream else 1
    begun = system.measuring_from
    assert begun is not None
    warm, run = system.asked[:begun], system.asked[begun:]
    assert sum(last - first for first, last in warm) == queries * width
    assert all(test.record.rows <= first < last <= test.record.rows + test.record.spare for first, last in warm)
    assert run[0][0] == 0
    assert sum(last - first for first, last in run) == result["delivered"]["samples"]
    # Others who watch see a run that has not begun; and afterwards only the run.
    assert set(system.origins[:begun]) == {0}
    assert 0 not in system.origins[begun:]
    assert test.record.gauges[Gauge.ISSUED] == test.record.issued_rows <= test.record.rows
    issued = test.record.issued_rows
    assert set(test.record.status[:issued].tolist()) == {Status.OK}
    assert test.record.sample_index[: test.record.rows].tobytes() == plain.record.sample_index.tobytes()
    if scenario == Scenario.Server:
        assert test.record.scheduled[: test.record.rows].tobytes() == plain.record.scheduled.tobytes()


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("make", [batched, lambda: NullSystem(Mode.PerformanceOnly), Noting])
@pytest.mark.parametrize("text", ["40", "0.05s"])
def test_any_system_and_a_time(scenario: Scenario, make: Any, text: str) -> None:
    test = test_of(make(), scenario, text)
    asyncio.run(test.run())
    result = directory.document(test, {}, [])
    assert result["warmup"]["queries"] > 1
    assert text == "40" or result["warmup"]["seconds"] >= 0.05
    assert result["errors"] == {"failed": 0, "unanswered": 0, "refused": 0, "messages": {}}
    assert result["delivered"]["samples"] >= 20


def test_queries_are_the_runs_own_in_their_order_and_at_their_pace() -> None:
    system = Noting()
    test = test_of(system, Scenario.Server, "50")
    seen: list[np.ndarray] = []
    respond = system.respond

    async def noted(first: int, last: int) -> Any:
        if first >= test.record.rows:
            seen.append(test.record.sample_index[first:last].copy())
        return await respond(first, last)

    system.respond = noted  # type: ignore[method-assign]
    began = time.monotonic_ns()
    asyncio.run(test.run())
    assert np.concatenate(seen).tolist() == test.record.sample_index[:50].tolist()
    assert time.monotonic_ns() - began > test.record.scheduled[49]


def test_failures_are_told_and_do_not_count() -> None:
    test = test_of(Noting(failing=True), Scenario.SingleStream, "6")
    asyncio.run(test.run())
    result = directory.document(test, {}, [])
    assert result["warmup"] == {"queries": 6, "seconds": result["warmup"]["seconds"], "failed": 6}
    assert "6 samples of the warm-up failed" in result["warnings"]
    assert result["errors"]["failed"] == 0
    assert test.spoiled() == []
    assert test.record.gauges[Gauge.FAILED] == 0


def test_no_answer_ends_it() -> None:
    system = Noting(silent=True)
    test = test_of(system, Scenario.Server, "6")
    with pytest.raises(WarmUpError, match=r"no answer for 0\.3 s \(raise patience_s if"):
        asyncio.run(test.run())
    assert test.reports == []
    assert not system._tasks, "it is closed"


def test_an_interrupt_ends_it_in_order() -> None:
    async def interrupted() -> Test:
        test = test_of(Noting(), Scenario.Server, "60s")
        asyncio.get_running_loop().call_later(0.1, test.interrupt, "by hand")
        await test.run()
        return test

    test = asyncio.run(interrupted())
    result = directory.document(test, {}, [])
    assert result["reasons"] == ["The run was cut short: by hand."]
    assert result["warmup"]["queries"] > 0
    assert 0 < result["warmup"]["seconds"] < 50
    assert result["delivered"]["samples"] == test.record.issued_rows == 0
    assert result["errors"]["unanswered"] == result["errors"]["refused"] == 0


def test_what_answers_late_does_not_disturb_the_run() -> None:
    """A second answer to a row of the warm-up, while the run goes on."""

    class Echoing(Noting):
        columns: Mapping[str, Any] = {}

        async def begin_measuring(self) -> None:
            await super().begin_measuring()
            asyncio.get_running_loop().call_later(0.01, self.answers.complete, *self.asked[0])
            asyncio.get_running_loop().call_later(0.01, self.answers.fail, *self.asked[0], "late")

    test = test_of(Echoing(), Scenario.Server, "5")
    asyncio.run(test.run())
    result = directory.document(test, {}, [])
    assert result["errors"]["refused"] == result["errors"]["failed"] == 0
    assert result["delivered"]["samples"] == test.record.rows


def test_without_one_there_are_no_spare_rows() -> None:
    test = test_of(Noting(), Scenario.Server, "0")
    assert test.record.spare == 0
    assert test.record.status.size == test.record.rows
    asyncio.run(test.run())
    assert "warmup" not in directory.document(test, {}, [])
    answers: Answers = test.answers
    with answers._lock:
        answers._refuse_rows(np.array([test.record.rows + 3]))
    assert answers.faults.refused.total() == 1
