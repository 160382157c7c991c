"""Runs of systems in processes of their own, as tests make them, and what must hold after each."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Gauge, Status
from drumfire.loadgen.responses import as_bytes
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local import host_process
from drumfire.sut.local import process as own_process
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.process import OwnProcess

SYSTEMS = "tests.support.own_systems"
SPARED = {"SPARED": "yes"}
KILLED = "was ended by SIGKILL (by hand, or by the kernel where memory ran out)"
Own = Callable[..., OwnProcess]


def open_files() -> int:
    gc.collect()  # tables of earlier runs
    return len(os.listdir("/proc/self/fd"))


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def await_end(*pids: int) -> None:
    for _ in range(500):
        if not any(map(is_alive, pids)):
            return
        time.sleep(0.01)
    raise AssertionError(f"{pids} live on")


@pytest.fixture
def own() -> Iterator[Own]:
    """Makes a system in processes of its own; at the end, nothing of it is left."""
    run_on_fast_loop(asyncio.sleep(0))  # the first loop opens files for all
    files, threads, made = open_files(), threading.active_count(), []

    def make(function: str = "batched", *arguments: Any, spared: tuple[bool, ...] = (False,), workers: int = 1) -> Any:
        placements = [Placement(SPARED if one else {}) for one in spared]
        made.append(OwnProcess(f"{SYSTEMS}:{function}", *arguments, workers=workers, processes=placements))
        return made[-1]

    yield make
    pids = [pid for system in made for pid in system.pids]
    for system in made:
        system.shut()
    assert not any(map(is_alive, pids))
    assert open_files() <= files
    assert threading.active_count() == threads


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stopped is found at once."""
    for module in (host_process, own_process):
        monkeypatch.setattr(module, "ANSWER_S", 0.3)
    monkeypatch.setattr(own_process, "_CLOSE_S", 0.6)


def settings(scenario: Scenario = Scenario.Server, mode: Mode = Mode.PerformanceOnly, **more: Any) -> TestSettings:
    basic = {"min_query_count": 200, "min_duration_ms": 0, "server_target_qps": 4000.0, "offline_expected_qps": 4000.0}
    if scenario == Scenario.MultiStream:
        basic["multi_stream_samples_per_query"] = 8
    if scenario == Scenario.Offline:
        basic["min_query_count"] = 1
        basic["min_duration_ms"] = 50
    return TestSettings(scenario=scenario, mode=mode, **(basic | more))


def run(system: Any, asked: TestSettings | None = None, library: Any = None, **options: Any) -> Test:
    test = Test(system, library or system.library, asked or settings(), **({"patience_s": 30.0} | options))
    run_on_fast_loop(test.run())
    adds_up(test)
    return test


def adds_up(test: Test) -> None:
    """The table, the gauges and the faults tell the same."""
    record, faults = test.record, test.answers.faults
    issued = record.gauges[Gauge.ISSUED]
    status = record.status[:issued]
    assert not record.status[issued : record.rows].any()
    assert (status != Status.PENDING).all()
    assert record.gauges[Gauge.ANSWERED] == test.answers.answered == issued
    assert record.gauges[Gauge.FAILED] == np.count_nonzero(status == Status.FAILED) == faults.failed.total()
    assert np.count_nonzero(status == Status.UNANSWERED) == faults.unanswered
    assert record.gauges[Gauge.REFUSED] == faults.refused.total()
    good = status == Status.OK
    assert (record.completed[:issued][good] >= record.issued[:issued][good]).all()


def is_fine(test: Test) -> None:
    assert test.spoiled() == []
    assert (test.record.status[: test.record.issued_rows] == Status.OK).all()


def kept(test: Test) -> dict[int, bytes]:
    """The logged responses, by row."""
    found: dict[int, bytes] = {}
    for one in test.answers.kept:
        for row, data in zip(one.rows.tolist(), as_bytes(one.responses), strict=True):
            assert row not in found
            found[row] = data
    return found


def is_lost(system: OwnProcess, test: Test, how: str) -> None:
    """The run says how the process was lost, and the next one is refused in a line."""
    assert any(how in line for line in test.spoiled()), test.spoiled()
    results = test.results()
    assert results is None or not results.valid
    with pytest.raises(UserError, match="the process of the system under test") as caught:
        run(system)
    assert "\n" not in str(caught.value)
