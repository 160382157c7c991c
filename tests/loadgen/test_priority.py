"""Real-time priority: only for a thread that rests, given back at the end, and never where the system forbids it."""

import gc
import os
import threading

import pytest

from drumfire.loadgen.interpreter import quiet, run_on_fast_loop
from drumfire.loadgen.overhead import GarbagePauses
from drumfire.loadgen.priority import Priority
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.null import NullSystem
from drumfire.sut.models import get

MS = 1_000_000

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="this system has no such priorities")


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, policy, __: asked.append(policy))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return asked


def after(priority: Priority, share_awake: float) -> bool:
    """Whether it is raised after 60 ms of which the thread was awake for a share."""
    now = priority._reviewed_ns + 60 * MS
    priority.review(now, round(60 * MS * (1 - share_awake)))
    return priority.raised


def test_raised_while_the_thread_rests_and_lowered_when_it_does_not(policies: list[int]) -> None:
    priority = Priority()
    assert after(priority, 0.3)
    assert after(priority, 0.85)  # in between: as it was
    assert not after(priority, 0.95)
    assert not after(priority, 0.85)
    assert after(priority, 0.5)
    assert policies == [os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.SCHED_OTHER, os.SCHED_RR | os.SCHED_RESET_ON_FORK]
    assert priority.raised_ns == 120 * MS


def test_a_thread_that_never_rests_is_never_raised(policies: list[int]) -> None:
    priority = Priority()
    assert not any(after(priority, 1.0) for _ in range(20))
    assert policies == []


def test_not_on_a_lone_core(policies: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert not after(Priority(), 0.1)
    assert policies == []


def test_a_system_that_forbids_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def forbid(*_: object) -> None:
        asked.append(1)
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    priority = Priority()
    assert not after(priority, 0.1)
    assert not after(priority, 0.1)
    assert not priority.permitted
    assert asked == [1]


def test_a_run_leaves_the_thread_ordinary() -> None:
    library = get("digits").library()
    settings = TestSettings(scenario=Scenario.Server, server_target_qps=200.0, min_duration_ms=300)
    test = Test(NullSystem(Mode.PerformanceOnly), library, settings)
    policies: list[int] = []

    def run() -> None:
        run_on_fast_loop(test.run())
        policies.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert policies == [os.SCHED_OTHER]
    assert 0 <= test.reports[0].pacing.realtime_ns <= 1_000 * MS


def test_garbage_pauses_are_added_up() -> None:
    with GarbagePauses() as pauses:
        gc.collect()
        once = pauses.total_ns
        gc.collect()
    assert 0 < once < pauses.total_ns
    at_end = pauses.total_ns
    gc.collect()
    assert pauses.total_ns == at_end


@pytest.mark.parametrize(("frozen", "expected"), [(0, ["freeze", "unfreeze"]), (7, [])])
def test_what_the_caller_froze_stays_frozen(monkeypatch: pytest.MonkeyPatch, frozen: int, expected: list[str]) -> None:
    called: list[str] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: called.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: called.append("unfreeze"))
    with quiet():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert called == expected
