"""Invariants of issuing, on real runs: never early, each row once and in order, none dropped, and how runs end.

No figure here is held against how fast this machine is: only order, counts and lower bounds are.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.issue import End
from drumfire.loadgen.record import Gauge, Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings
from tests.support.loops import on, on_both_loops

MS = 1_000_000  # ns
CLOSED = (Scenario.SingleStream, Scenario.MultiStream)


class Library:
    name = "numbers"

    def __init__(self, total_count: int = 64, performance_count: int = 64) -> None:
        self.total_count, self.performance_count = total_count, performance_count
        self.held: list[list[int]] = []

    def load(self, indices: np.ndarray) -> None:
        self.held.append(indices.tolist())

    def unload(self, indices: np.ndarray) -> None:
        self.held.remove(indices.tolist())

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


class System:
    """Notes each call and answers at once.  The kinds below differ in when, and whether, they answer."""

    name = "system"
    columns: Mapping[str, Any] = {}
    answer: Any = None

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.flushes = 0
        self.is_open = False

    async def open(self, answers: Any) -> None:
        self.answers, self.is_open = answers, True

    def issue(self, first: int, last: int) -> None:
        self.calls.append((first, last))
        self.take(first, last)

    def take(self, first: int, last: int) -> None:
        self.answers.complete(first, last)

    def flush(self) -> None:
        self.flushes += 1

    async def close(self) -> None:
        self.is_open = False


class Slow(System):
    """Keeps the loop's thread for 2 ms a call."""

    def take(self, first: int, last: int) -> None:
        time.sleep(0.002)
        self.answers.complete(first, last)


class Inline(System):
    """Answers a closed loop in its own thread; rows in ``failing`` raise."""

    def __init__(self, failing: tuple[int, ...] = (), pause_s: float = 0.0) -> None:
        super().__init__()
        self.failing, self.pause_s = failing, pause_s

    def answer(self, first: int, last: int) -> Any:
        self.calls.append((first, last))
        if self.pause_s:
            time.sleep(self.pause_s)
        if first in self.failing:
            raise RuntimeError("out of memory")
        return None

    def take(self, first: int, last: int) -> None:
        raise AssertionError("a closed loop was not answered inline")


class Threaded(System):
    """Answers from ``threads`` threads, a query's rows in pieces and out of order."""

    def __init__(self, threads: int = 4, pause_s: float = 0.0) -> None:
        super().__init__()
        self.pause_s = pause_s
        self.asked: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=self.work, args=(k,), daemon=True) for k in range(threads)]

    async def open(self, answers: Any) -> None:
        await super().open(answers)
        for thread in self.threads:
            thread.start()

    def take(self, first: int, last: int) -> None:
        rows = np.random.default_rng(first).permutation(np.arange(first, last))
        for part in np.array_split(rows, max(1, rows.size // 3)):
            self.asked.put(part)

    def work(self, number: int) -> None:
        rng = random.Random(number)
        while (rows := self.asked.get()) is not None:
            if self.pause_s:
                time.sleep(self.pause_s * rng.random())
            self.settle(rows)

    def settle(self, rows: np.ndarray) -> None:
        if rows.size == 1:
            self.answers.complete(int(rows[0]), int(rows[0]) + 1)
        else:
            self.answers.complete_rows(rows)

    async def close(self) -> None:
        for _ in self.threads:
            self.asked.put(None)
        for thread in self.threads:
            thread.join()
        await super().close()


def settings(scenario: Scenario, **values: Any) -> TestSettings:
    short = {
        "min_duration_ms": 0,
        "min_query_count": 1 if scenario == Scenario.Offline else 200,
        "server_target_qps": 4000.0,
        "offline_expected_qps": 4000.0,
        "single_stream_expected_latency_ns": 1e3,
        "multi_stream_expected_latency_ns": 3e3,
        "multi_stream_samples_per_query": 5,
        "sample_index_rng_seed": 5,
        "schedule_rng_seed": 6,
    }
    return TestSettings(scenario=scenario, **{**short, **values})


def ran(loop: str, system: System, requested: TestSettings, library: Library | None = None, **options: Any) -> Test:
    test = Test(system, library or Library(), requested, **options)
    on(loop, test.run())
    assert not system.is_open
    assert not test.library.held, "what was loaded is unloaded"
    assert test.record.gauges[Gauge.DONE] == 1
    return test


def issued_of(test: Test) -> int:
    return test.reports[-1].issued_rows


def each_row_once_and_in_order(test: Test) -> bool:
    """Over the calls that the system got."""
    row = 0
    for first, last in test.system.calls:
        if first != row or last <= first:
            return False
        row = last
    return row == test.record.issued_rows


def in_time(test: Test) -> bool:
    """No row was issued early or answered before it was issued, and issue times never go back."""
    rows = slice(0, issued_of(test))
    scheduled, issued, completed = (test.record.columns[c][rows] for c in ("scheduled", "issued", "completed"))
    return bool((issued >= scheduled).all() and (completed >= issued).all() and (np.diff(issued) >= 0).all())


SYSTEMS = {
    "at-once": System,
    "slow": Slow,
    "threads": Threaded,
    "inline": lambda: Inline(pause_s=1e-5),  # else it outruns any list of queries
}


def pairs(kinds: Iterable[str], scenarios: Iterable[Scenario]) -> list[tuple[str, Scenario]]:
    """Kinds of systems with the scenarios that they are for: only closed loops are answered inline."""
    return [(kind, scenario) for kind in kinds for scenario in scenarios if kind != "inline" or scenario in CLOSED]


@on_both_loops
@pytest.mark.parametrize(("kind", "scenario"), pairs(SYSTEMS, Scenario))
def test_every_row_once_in_order_and_never_early(kind: str, scenario: Scenario, loop: str) -> None:
    asked = settings(scenario, min_duration_ms=100 if scenario in (Scenario.Server, Scenario.Offline) else 0)
    test = ran(loop, SYSTEMS[kind](), asked)
    assert each_row_once_and_in_order(test)
    assert in_time(test)
    assert issued_of(test) == test.record.issued_rows == test.phases[0].rows
    assert (test.record.status == Status.OK).all()
    assert test.answers.answered == test.phases[0].rows
    assert test.system.flushes == 1
    assert test.reports[0].end == (End.ALL_ISSUED if scenario == Scenario.Server else End.MET)
    assert test.spoiled() == []
    assert test.log.errors == 0


@on_both_loops
def test_overload_drops_nothing_and_counts_from_the_schedule(loop: str) -> None:
    """Twice 100 ms of work a 100 ms: what is late goes out at once, in bursts, and the schedule stays as drawn."""
    test = ran(loop, Slow(), settings(Scenario.Server, min_duration_ms=100, server_target_qps=20_000.0))
    record, phase = test.record, test.phases[0]
    calls = len(test.system.calls)
    assert each_row_once_and_in_order(test)
    assert in_time(test)
    assert issued_of(test) == phase.rows
    assert np.array_equal(record.scheduled, phase.scheduled)
    assert calls < phase.rows / 4
    # The first burst's service alone holds up all that falls due in its 2 ms; they carry that wait in their latency.
    held_up = (record.scheduled > record.issued[0]) & (record.scheduled < record.issued[0] + MS)
    assert held_up.any()
    assert (record.issued[held_up] >= record.issued[0] + 2 * MS).all()
    assert ((record.completed - record.scheduled)[held_up] > 2 * MS).all()
    # A burst is one slice with one clock read, and holds only what is due by then.
    for first, last in test.system.calls:
        assert len(set(record.issued[first:last].tolist())) == 1
        assert record.scheduled[last - 1] <= record.issued[first]
    results = test.results()
    assert results is not None
    assert results.latency.maximum == int((record.completed - record.scheduled).max())


@on_both_loops
@pytest.mark.parametrize("scenario", CLOSED)
@pytest.mark.parametrize("kind", ["threads", "inline", "at-once"])
def test_closed_loop_issues_only_after_the_answer(kind: str, scenario: Scenario, loop: str) -> None:
    test = ran(loop, SYSTEMS[kind](), settings(scenario))
    width = test.phases[0].samples_per_query
    issued = test.record.issued.reshape(-1, width)
    completed = test.record.completed.reshape(-1, width)
    assert (issued[1:].min(axis=1) >= completed[:-1].max(axis=1)).all()
    assert np.array_equal(test.record.issued, test.record.scheduled)
    assert all(last - first == width for first, last in test.system.calls)


@on_both_loops
@pytest.mark.parametrize("kind", ["at-once", "threads"])
def test_offline_is_one_slice(kind: str, loop: str) -> None:
    test = ran(loop, SYSTEMS[kind](), settings(Scenario.Offline, min_query_count=3000))
    assert test.system.calls == [(0, 3000)]
    assert len(set(test.record.issued.tolist())) == 1
    assert not test.record.scheduled.any()


@on_both_loops
def test_threads_may_answer_out_of_order(loop: str) -> None:
    test = ran(loop, Threaded(6, pause_s=0.002), settings(Scenario.Offline, min_query_count=600))
    assert (np.diff(test.record.completed) < 0).any()
    assert (test.record.status == Status.OK).all()
    assert test.answers.faults.refused == {}
    assert test.results().samples == 600


@on_both_loops
@pytest.mark.parametrize(("kind", "scenario"), pairs(["at-once", "inline"], Scenario))
def test_accuracy_goes_through_every_set_whatever_the_limits(kind: str, scenario: Scenario, loop: str) -> None:
    asked = settings(scenario, mode=Mode.AccuracyOnly, max_query_count=3, max_duration_ms=1, server_max_async_queries=1)
    test = ran(loop, SYSTEMS[kind](), asked, Library(150, 64))
    assert [r.end for r in test.reports] == [End.ALL_ISSUED] * 3
    assert set(test.record.sample_index.tolist()) == set(range(150))
    assert each_row_once_and_in_order(test)
    assert (test.record.status == Status.OK).all()
    assert test.results() is None
    assert test.system.flushes == 3


# How a run ends.


def last_issue_of_queries(test: Test) -> np.ndarray:
    return test.record.issued[: issued_of(test) : test.phases[0].samples_per_query]


@on_both_loops
@pytest.mark.parametrize(
    ("kind", "scenario"),
    pairs(["at-once", "inline", "threads"], [Scenario.SingleStream, Scenario.MultiStream, Scenario.Server]),
)
def test_max_query_count_ends_the_run(kind: str, scenario: Scenario, loop: str) -> None:
    test = ran(loop, SYSTEMS[kind](), settings(scenario, min_duration_ms=100, max_query_count=37))
    assert test.reports[0].end == End.MAX_QUERIES
    assert issued_of(test) == 37 * test.phases[0].samples_per_query
    assert each_row_once_and_in_order(test)
    assert test.log.errors == 1
    assert not test.results().valid, "37 of 200 queries"


@on_both_loops
@pytest.mark.parametrize(
    ("kind", "scenario"),
    pairs(["at-once", "inline", "threads"], [Scenario.SingleStream, Scenario.MultiStream, Scenario.Server]),
)
def test_max_duration_ends_the_run(kind: str, scenario: Scenario, loop: str) -> None:
    """After the first query that is issued beyond it, as in the reference."""
    test = ran(loop, SYSTEMS[kind](), settings(scenario, min_duration_ms=200, max_duration_ms=30))
    assert test.reports[0].end == End.MAX_DURATION
    issued = last_issue_of_queries(test)
    assert issued[-1] > 30 * MS
    assert (issued[issued < issued[-1]] <= 30 * MS).all()
    assert not test.results().valid


@on_both_loops
@pytest.mark.parametrize("scenario", CLOSED)
@pytest.mark.parametrize("kind", ["at-once", "inline", "threads"])
@pytest.mark.parametrize("rule", ["duration last", "count last"])
def test_closed_loop_ends_with_the_query_that_meets_both_minima(
    rule: str, kind: str, scenario: Scenario, loop: str
) -> None:
    asked = {"min_duration_ms": 30, "min_query_count": 2} if rule == "duration last" else {"min_query_count": 1000}
    test = ran(loop, SYSTEMS[kind](), settings(scenario, **asked))
    issued = last_issue_of_queries(test)
    assert test.reports[0].end == End.MET
    if rule == "count last":
        assert issued.size == 1000
    else:
        assert issued[-1] >= 30 * MS > issued[-2]


@on_both_loops
@pytest.mark.parametrize("kind", ["at-once", "inline"])
def test_closed_loop_may_run_out_of_queries(kind: str, loop: str) -> None:
    asked = settings(
        Scenario.SingleStream, min_duration_ms=200, min_query_count=50, single_stream_expected_latency_ns=4e6
    )
    test = ran(loop, SYSTEMS[kind](), asked)
    assert test.phases[0].query_count == 101
    assert test.reports[0].end == End.RAN_OUT
    assert issued_of(test) == 101
    assert test.log.errors == 1


class Withheld(System):
    """Gives no answer before the flush."""

    def take(self, first: int, last: int) -> None:
        pass

    def flush(self) -> None:
        super().flush()
        self.answers.complete(0, self.calls[-1][1])


@on_both_loops
@pytest.mark.parametrize("qps", [4000.0, 1e6])
def test_max_async_queries_ends_the_run(qps: float, loop: str) -> None:
    """With the first query that is too many, as in the reference, also where many are due at once."""
    asked = settings(Scenario.Server, min_duration_ms=50, server_max_async_queries=20, server_target_qps=qps)
    test = ran(loop, Withheld(), asked)
    assert test.reports[0].end == End.MAX_ASYNC
    assert issued_of(test) == 21
    told = "IssueQueryThread 0 Ending early: Too many outstanding queries. issued 21 outstanding 21"
    assert any(told in line for line in test.log.entries)
    assert (test.record.status[: issued_of(test)] == Status.OK).all(), "what is outstanding is still waited for"


# What systems do wrong.


@on_both_loops
@pytest.mark.parametrize("scenario", Scenario)
def test_a_system_that_stops_answering_is_given_up(scenario: Scenario, loop: str) -> None:
    class Silent(System):
        def take(self, first: int, last: int) -> None:
            answered = [row for row in range(first, last) if row < 4 or row % 3]
            self.answers.complete_rows(np.array(answered)) if answered else None

    test = ran(loop, Silent(), settings(scenario, min_duration_ms=20), patience_s=0.3)
    issued = issued_of(test)
    expected = [row for row in range(issued) if row >= 4 and row % 3 == 0]
    assert np.flatnonzero(test.record.status[:issued] == Status.UNANSWERED).tolist() == expected
    assert test.answers.faults.unanswered == len(expected) > 0
    assert test.reports[0].end == End.NO_ANSWER
    results = test.results()
    assert not results.valid
    assert any("never answered" in reason for reason in results.reasons)
    assert any("no good answer came for 0.3 s" in reason for reason in results.reasons)
    if scenario in CLOSED:
        assert issued < test.phases[0].rows, "a closed loop stops at the query that is not answered"


@on_both_loops
def test_a_schedule_ends_when_no_good_answer_comes(loop: str) -> None:
    class Silent(System):
        def take(self, first: int, last: int) -> None:
            if first < 4:
                self.answers.complete(first, min(last, 4))
            elif first % 2:
                self.answers.fail(first, last, "no memory")

    test = ran(loop, Silent(), settings(Scenario.Server, min_duration_ms=60_000), patience_s=0.3)
    assert test.reports[0].end == End.NO_ANSWER
    assert issued_of(test) < test.phases[0].rows / 10


@on_both_loops
def test_a_schedule_whose_queries_are_rarer_than_the_patience_goes_on(loop: str) -> None:
    class Prompt(System):
        def take(self, first: int, last: int) -> None:
            self.answers.complete(first, last)

    rare = settings(Scenario.Server, server_target_qps=3.0, min_duration_ms=1500, min_query_count=4)
    test = ran(loop, Prompt(), rare, patience_s=0.1)
    assert test.reports[0].end == End.ALL_ISSUED


@on_both_loops
@pytest.mark.parametrize("scenario", [Scenario.SingleStream, Scenario.Server, Scenario.Offline])
def test_failures_alone_are_no_progress(scenario: Scenario, loop: str) -> None:
    """Each comes well within the patience; all together would take a hundred times as long."""

    class Failing(System):
        failed = 0

        def take(self, first: int, last: int) -> None:
            if self.failed == first:
                asyncio.get_running_loop().call_later(0.02, self.fail_next)

        def fail_next(self) -> None:
            row = self.failed
            self.failed = row + 1
            if self.failed < self.answers.issued:
                asyncio.get_running_loop().call_later(0.02, self.fail_next)
            self.answers.fail(row, row + 1, "no good")

    asked = settings(scenario, min_query_count=500, min_duration_ms=20)
    test = ran(loop, Failing(), asked, patience_s=0.1)
    assert test.reports[0].end == End.NO_ANSWER
    failed = test.answers.faults.failed.total()
    assert 1 < failed < 100
    assert any("no good answer came for 0.1 s" in reason for reason in test.results().reasons)


@on_both_loops
@pytest.mark.parametrize("scenario", Scenario)
def test_failed_rows_are_told_and_invalid(scenario: Scenario, loop: str) -> None:
    class Flaky(System):
        def take(self, first: int, last: int) -> None:
            self.answers.fail(first, first + 1, ValueError("bad sample"))
            if last > first + 1:
                self.answers.complete(first + 1, last)

    test = ran(loop, Flaky(), settings(scenario))
    failed = len(test.system.calls)
    assert np.count_nonzero(test.record.status == Status.FAILED) == failed
    assert test.answers.faults.failed == {"ValueError: bad sample": failed}
    assert test.record.gauges[Gauge.FAILED] == failed
    results = test.results()
    assert not results.valid
    assert f"{failed} of {issued_of(test)} samples failed" in results.reasons[0]
    assert "ValueError: bad sample" in results.reasons[0]


@on_both_loops
@pytest.mark.parametrize("scenario", CLOSED)
def test_a_failure_inline_fails_its_query_alone(scenario: Scenario, loop: str) -> None:
    width = 5 if scenario == Scenario.MultiStream else 1
    test = ran(loop, Inline(failing=(0, 7 * width)), settings(scenario))
    failed = np.flatnonzero(test.record.status == Status.FAILED).tolist()
    assert failed == [*range(width), *range(7 * width, 8 * width)]
    assert test.answers.faults.failed == {"RuntimeError: out of memory": 2 * width}
    assert test.record.gauges[Gauge.FAILED] == 2 * width
    assert issued_of(test) == test.phases[0].rows
    assert not test.results().valid


@on_both_loops
def test_a_second_answer_is_told_and_invalid(loop: str) -> None:
    class Twice(System):
        def take(self, first: int, last: int) -> None:
            self.answers.complete(first, last)
            if first == 0:
                self.answers.complete(first, last)

    test = ran(loop, Twice(), settings(Scenario.SingleStream))
    assert test.answers.faults.refused == {"a second answer to a row": 1}
    assert (test.record.status == Status.OK).all()
    assert not test.results().valid
    assert "a second answer to a row" in test.results().reasons[0]


@on_both_loops
def test_an_answer_ahead_of_its_row_is_told_and_invalid(loop: str) -> None:
    class Ahead(System):
        def take(self, first: int, last: int) -> None:
            self.answers.complete(last, last + 1)
            self.answers.complete(first, last)

    test = ran(loop, Ahead(), settings(Scenario.SingleStream))
    assert test.answers.faults.refused == {"an answer to a row that was never issued": issued_of(test)}
    assert not test.results().valid
    assert test.record.completed[1] >= test.record.issued[1]


@on_both_loops
def test_an_answer_after_giving_up_is_told(loop: str) -> None:
    class Late(System):
        def take(self, first: int, last: int) -> None:
            pass

        async def close(self) -> None:
            self.answers.complete(0, 1)
            await super().close()

    test = ran(loop, Late(), settings(Scenario.Offline), patience_s=0.1)
    assert test.answers.faults.refused == {"an answer after the run had stopped waiting for it": 1}
    assert test.record.status[0] == Status.UNANSWERED
    assert not test.results().valid


@on_both_loops
@pytest.mark.parametrize("scenario", Scenario)
def test_a_system_that_raises_is_closed(scenario: Scenario, loop: str) -> None:
    class Broken(System):
        def take(self, first: int, last: int) -> None:
            raise RuntimeError("broken")

    system, library = Broken(), Library()
    test = Test(system, library, settings(scenario))
    with pytest.raises(RuntimeError, match="broken"):
        on(loop, test.run())
    assert not system.is_open
    assert not library.held
    assert test.reports[0].end == End.INTERRUPTED
    assert test.answers.faults.unanswered == test.record.issued_rows


# Interruption.


async def interrupted_at(test: Test, answered: int) -> None:
    """Run a test and interrupt it from the loop, as soon as so many rows are answered."""

    async def watch() -> None:
        while test.answers.answered < answered:
            await asyncio.sleep(0.001)
        test.interrupt("stopped by hand")

    watching = asyncio.ensure_future(watch())
    await test.run()
    watching.cancel()


@on_both_loops
@pytest.mark.parametrize(
    ("kind", "scenario"),
    pairs(["at-once", "slow", "threads", "inline"], [Scenario.SingleStream, Scenario.MultiStream, Scenario.Server]),
)
def test_an_interrupted_run_keeps_what_was_measured(kind: str, scenario: Scenario, loop: str) -> None:
    system = SYSTEMS[kind]()
    asked = settings(scenario, min_duration_ms=10_000, server_target_qps=1000.0, single_stream_expected_latency_ns=1e5)
    asked.multi_stream_expected_latency_ns = 1e5
    test = Test(system, Library(), asked)
    on(loop, interrupted_at(test, 30))
    issued = issued_of(test)
    assert test.reports[0].end == End.INTERRUPTED
    assert 0 < issued < test.phases[0].rows
    assert each_row_once_and_in_order(test)
    assert not (test.record.status[:issued] == Status.PENDING).any()
    assert not test.record.status[issued:].any()
    good = np.count_nonzero(test.record.status == Status.OK)
    assert good + test.answers.faults.unanswered == issued
    assert good > 0
    results = test.results()
    assert results.samples == good
    assert not results.valid
    assert results.reasons[0] == "The run was cut short: stopped by hand."
    assert not system.is_open
    assert not test.library.held


@on_both_loops
def test_an_interrupt_while_waiting_for_answers(loop: str) -> None:
    class Silent(System):
        def take(self, first: int, last: int) -> None:
            self.answers.complete(first, first + 1)

    test = Test(Silent(), Library(), settings(Scenario.Offline, min_query_count=50))
    on(loop, interrupted_at(test, 1))
    assert test.results().samples == 1
    assert test.answers.faults.unanswered == 49
    assert not test.results().valid


@on_both_loops
def test_an_interrupt_before_the_start(loop: str) -> None:
    system = System()
    test = Test(system, Library(), settings(Scenario.Offline))
    test.interrupt("stopped by hand")
    on(loop, test.run())
    assert system.calls == []
    assert test.results() is None
    assert test.spoiled() == ["The run was cut short: stopped by hand."]


@on_both_loops
@pytest.mark.parametrize("rate", [5e5, 1e6])
def test_a_rate_beyond_reach_does_not_starve_the_loop(rate: float, loop: str) -> None:
    """However busy the issuing is, the loop comes to its other work: here, to the interrupt."""
    test = Test(System(), Library(), settings(Scenario.Server, min_duration_ms=2000, server_target_qps=rate))
    on(loop, interrupted_at(test, 30))
    assert test.reports[0].end == End.INTERRUPTED
    assert issued_of(test) < test.phases[0].rows
    assert each_row_once_and_in_order(test)
    assert in_time(test)


@pytest.mark.parametrize("kind", ["at-once", "inline"])
@on_both_loops
def test_a_closed_loop_that_never_waits_does_not_starve_the_loop(loop: str, kind: str) -> None:
    asked = settings(Scenario.SingleStream, min_duration_ms=2000, single_stream_expected_latency_ns=2e3)
    test = Test(System() if kind == "at-once" else Inline(), Library(), asked)
    on(loop, interrupted_at(test, 30))
    assert test.reports[0].end == End.INTERRUPTED


# Settings that make no run.


@pytest.mark.parametrize("percentile", [0.0, 1.0, -0.5, 99.0, float("nan")])
@pytest.mark.parametrize("scenario", [Scenario.SingleStream, Scenario.MultiStream, Scenario.Server])
def test_a_percentile_that_is_no_fraction_is_refused_before_the_run(scenario: Scenario, percentile: float) -> None:
    name = {0: "single_stream", 1: "multi_stream", 2: "server"}[scenario] + "_target_latency_percentile"
    with pytest.raises(SettingsError, match="percentile"):
        Test(System(), Library(), settings(scenario, **{name: percentile}))
