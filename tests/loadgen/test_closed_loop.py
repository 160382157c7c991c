"""A closed loop of n: never more than n under way, each query due at an answer, and SingleStream's samples.

No figure here is held against how fast this machine is.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from drumfire.loadgen import directory, logs
from drumfire.loadgen.closed_loop import enter_dues
from drumfire.loadgen.issue import End
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.results import EarlyStopping, Measured, evaluate
from drumfire.loadgen.run import Test
from drumfire.loadgen.saved import load
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.share import Slice
from drumfire.loadgen.summary import summary
from drumfire.loadgen.traffic import draw
from drumfire.loadgen.warm_up import WarmUp
from tests.loadgen.test_issue import MS, Library, System, Threaded, each_row_once_and_in_order, in_time, ran
from tests.support.loops import FAST, on, on_both_loops
from tests.support.saved_figures import differences


def asked(concurrency: int, queries: int = 200, **values: Any) -> TestSettings:
    usual = {"min_duration_ms": 0, "min_query_count": queries, "sample_index_rng_seed": 5, "concurrency": concurrency}
    return TestSettings(**{**usual, **values})


class Seeded(System):
    """Answers on the loop, in any order, several at a time, some in the call; rows in ``failing`` fail."""

    def __init__(self, seed: int, failing: frozenset[int] = frozenset(), silent: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.rng, self.failing, self.silent = random.Random(seed), failing, silent
        self.waiting: list[int] = []
        self.most = 0

    def take(self, first: int, last: int) -> None:
        self.waiting += [row for row in range(first, last) if row not in self.silent]
        self.most = max(self.most, len(self.waiting))
        if self.rng.random() < 0.2:
            self.some()
        else:
            asyncio.get_running_loop().call_soon(self.some)

    def some(self) -> None:
        self.rng.shuffle(self.waiting)
        count = self.rng.randint(1, max(len(self.waiting), 1))
        now, self.waiting = self.waiting[:count], self.waiting[count:]
        for row in now:
            if row in self.failing:
                self.answers.fail(row, row + 1, "refused")
        if good := [row for row in now if row not in self.failing]:
            self.answers.complete_each(good)
        if self.waiting:
            asyncio.get_running_loop().call_soon(self.some)


def columns(test: Test) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = slice(0, test.record.issued_rows)
    return test.record.scheduled[rows], test.record.issued[rows], test.record.completed[rows]


def most_under_way(issued: np.ndarray, completed: np.ndarray) -> int:
    """Of queries that were answered; at one moment, an answer comes before an issue."""
    at = np.concatenate([completed, issued])
    step = np.concatenate([-np.ones(completed.size), np.ones(issued.size)])
    # A row that is answered at the moment of its issue was under way for none.
    order = np.lexsort((step, at))
    return int(np.cumsum(step[order]).max(initial=0))


def due_at_answers(test: Test, concurrency: int, think_ns: int = 0) -> bool:
    """The first n at the start; then, of the answers in their order, each makes one query due."""
    scheduled, _, completed = columns(test)
    later = max(scheduled.size - concurrency, 0)
    expected = np.sort(completed)[:later] + think_ns
    return not scheduled[:concurrency].any() and np.array_equal(scheduled[concurrency:], expected)


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 3, 16, 500])
@pytest.mark.parametrize("kind", ["at once", "threads", "seeded"])
def test_n_are_under_way_and_each_answer_makes_one_due(kind: str, concurrency: int, loop: str) -> None:
    system = {"at once": System, "threads": Threaded, "seeded": lambda: Seeded(1)}[kind]()
    test = ran(loop, system, asked(concurrency))
    _, issued, completed = columns(test)
    assert each_row_once_and_in_order(test)
    assert in_time(test)
    assert issued.size == 200
    assert (test.record.status[:200] == Status.OK).all()
    assert test.reports[0].end == End.MET
    assert most_under_way(issued, completed) <= concurrency
    assert due_at_answers(test, concurrency)
    assert test.system.calls[0] == (0, min(concurrency, 200)), "the first leave together"
    assert test.results().valid
    assert test.log.errors == 0


@tries(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 150), st.sampled_from([0, 0, 100_000]))
def test_in_whatever_order_answers_come(seed: int, concurrency: int, queries: int, think_ns: int) -> None:
    rng = random.Random(seed)
    failing = frozenset(rng.sample(range(queries), queries // 9))
    test = ran(FAST, Seeded(seed, failing), asked(concurrency, queries, think_time_ns=think_ns))
    scheduled, issued, completed = columns(test)
    assert each_row_once_and_in_order(test)
    assert issued.size == queries
    assert set(np.flatnonzero(test.record.status[:queries] == Status.FAILED).tolist()) == failing
    assert test.answers.faults.refused == {}
    assert (issued >= scheduled).all()
    assert test.system.most <= concurrency
    assert most_under_way(issued, completed) <= concurrency
    assert due_at_answers(test, concurrency, think_ns)
    assert test.results().valid == (not failing)


def test_no_query_is_early_after_its_think_time() -> None:
    test = ran(FAST, Threaded(), asked(4, 40, think_time_ns=2 * MS))
    scheduled, issued, completed = columns(test)
    assert (issued >= scheduled).all()
    assert due_at_answers(test, 4, 2 * MS)
    assert (np.sort(issued[4:]) >= np.sort(completed)[:36] + 2 * MS).all()
    assert len(test.system.calls) >= 10


def test_answers_that_come_together_free_their_places_together() -> None:
    class Together(System):
        def take(self, first: int, last: int) -> None:
            asyncio.get_running_loop().call_soon(self.answers.complete, first, last)

    test = ran(FAST, Together(), asked(16, 160))
    assert test.system.calls == [(row, row + 16) for row in range(0, 160, 16)]


@pytest.mark.parametrize("mode", [Mode.PerformanceOnly, Mode.AccuracyOnly])
@pytest.mark.parametrize("concurrency", [1, 7])
def test_the_samples_are_those_of_single_stream(mode: Mode, concurrency: int) -> None:
    seeds = {"qsl_rng_seed": 3, "sample_index_rng_seed": 4, "accuracy_log_rng_seed": 6, "mode": mode}
    ours = draw(effective(asked(concurrency, 500, **seeds), 64, 20), 64)
    theirs = draw(effective(asked(0, 500, **seeds), 64, 20), 64)
    assert len(ours) == len(theirs) == (1 if mode == Mode.PerformanceOnly else 4)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.loaded, other.loaded)
        assert np.array_equal(one.sample_index, other.sample_index)
        assert one.scheduled is None


def test_an_accuracy_run_sends_every_sample_once() -> None:
    test = ran(FAST, Seeded(3), asked(5, mode=Mode.AccuracyOnly), Library(150, 64))
    assert [report.end for report in test.reports] == [End.ALL_ISSUED] * 3
    assert sorted(test.record.sample_index[:150].tolist()) == list(range(150))


def test_a_warm_up_does_not_count() -> None:
    test = ran(FAST, Seeded(4), asked(5, 30), warm_up=WarmUp(12))
    assert test.issuer.warmed.queries == 12
    assert test.record.issued_rows == 30
    assert due_at_answers(test, 5)


# How it ends.


@pytest.mark.parametrize(
    ("limits", "end", "queries"),
    [
        ({"max_query_count": 37}, End.MAX_QUERIES, 37),
        ({"min_query_count": 41}, End.MET, 41),
        ({"min_query_count": 10**4, "min_duration_ms": 50, "single_stream_expected_latency_ns": 8e6,
          "max_query_count": 101}, End.MAX_QUERIES, 101),
    ],
)  # fmt: skip
def test_no_query_passes_a_limit(limits: dict[str, int], end: End, queries: int) -> None:
    test = ran(FAST, Seeded(5), asked(16, **limits))
    assert (test.reports[0].end, test.record.issued_rows) == (end, queries)


def test_it_ends_with_the_first_query_after_its_time() -> None:
    test = ran(FAST, System(), asked(16, 1, min_duration_ms=20, single_stream_expected_latency_ns=2e3))
    _, issued, _ = columns(test)
    assert test.reports[0].end == End.MET
    assert issued[-1] >= 20 * MS > issued[-2]


def test_it_ends_with_the_first_query_after_the_longest_time() -> None:
    limits = {"min_duration_ms": 1000, "max_duration_ms": 10, "single_stream_expected_latency_ns": 1e4}
    test = ran(FAST, System(), asked(16, 1, **limits))
    _, issued, _ = columns(test)
    assert test.reports[0].end == End.MAX_DURATION
    assert issued[-1] > 10 * MS >= issued[-2]
    assert not test.results().valid


@pytest.mark.parametrize("think_ns", [0, 1000])
def test_a_system_that_stops_answering(think_ns: int) -> None:
    silent = Seeded(6, silent=frozenset(range(50, 200)))
    test = ran(FAST, silent, asked(8, think_time_ns=think_ns), patience_s=0.05)
    assert test.reports[0].end == End.NO_ANSWER
    assert test.record.issued_rows == 58
    assert (test.record.status[50:58] == Status.UNANSWERED).all()
    assert not test.results().valid
    assert due_at_answers_of_others(test, 8, think_ns)


def due_at_answers_of_others(test: Test, concurrency: int, think_ns: int) -> bool:
    scheduled, _, completed = columns(test)
    answered = np.sort(completed[test.record.status[: completed.size] == Status.OK])
    return np.array_equal(scheduled[concurrency:], answered[: scheduled.size - concurrency] + think_ns)


def test_some_that_are_never_answered_hold_their_places() -> None:
    test = ran(FAST, Seeded(7, silent=frozenset([3, 4])), asked(4), patience_s=0.05)
    assert test.record.issued_rows == 200
    assert test.reports[0].end == End.NO_ANSWER
    assert test.answers.faults.unanswered == 2
    assert most_under_way(*columns(test)[1:]) <= 4


def test_failures_alone_end_it() -> None:
    test = Test(Seeded(8, failing=frozenset(range(10**5))), Library(), asked(4, 10**5), patience_s=0.02)
    on(FAST, test.run())
    assert test.reports[0].end == End.NO_ANSWER
    assert 0 < test.record.issued_rows < 10**5


@pytest.mark.parametrize("think_ns", [0, 10**12])
def test_an_interrupt_keeps_what_was_measured(think_ns: int) -> None:
    class Interrupting(Seeded):
        def take(self, first: int, last: int) -> None:
            super().take(first, last)
            if last >= 8:
                asyncio.get_running_loop().call_later(0.01, test.interrupt, "the user ended it")

    test = Test(
        Interrupting(9), Library(),
        asked(8, 10**5, think_time_ns=think_ns, single_stream_expected_latency_ns=1e6, min_duration_ms=1),
    )  # fmt: skip
    on(FAST, test.run())
    assert test.interrupted == "the user ended it"
    assert test.record.issued_rows >= 8
    scheduled, issued, _ = columns(test)
    assert (issued >= scheduled).all()
    assert due_at_answers_of_others(test, 8, think_ns)


# Its figures.


def measured(scheduled: list[int], issued: list[int], completed: list[int]) -> Measured:
    at = [np.array(times, np.int64) * MS for times in (scheduled, issued, completed)]
    return Measured(*at, np.ones(len(issued), np.bool_), 1)


def test_the_rate_is_that_of_the_time_in_which_all_are_under_way() -> None:
    """Two under way, 10 ms each; the last is issued at 30 ms, when 6 are answered, and the rest drains."""
    m = measured([0, 0, 10, 10, 20, 20, 30], [0, 0, 10, 10, 20, 20, 30], [10, 10, 20, 20, 30, 30, 500])
    found = evaluate(effective(asked(2, 1), 64, 64), m)
    assert found.rates == {"completed_samples_per_sec": 200.0}
    assert found.duration_ns == 30 * MS
    assert (found.queries, found.samples, found.latency.maximum) == (7, 7, 470 * MS)
    assert found.stopping == EarlyStopping(True, "")
    assert found.valid


def test_where_all_leave_at_the_start_the_rate_is_that_of_the_answers() -> None:
    found = evaluate(effective(asked(8, 1), 64, 64), measured([0, 0], [0, 0], [10, 20]))
    assert found.rates == {"completed_samples_per_sec": 100.0}


def test_with_one_under_way_the_rate_is_that_of_single_stream() -> None:
    m = measured([0, 10, 21], [0, 11, 22], [10, 21, 33])
    one, stream = (evaluate(effective(asked(n, 1), 64, 64), m) for n in (1, 0))
    assert one.rates["completed_samples_per_sec"] == stream.rates["qps_with_loadgen_overhead"]


def test_tokens_have_their_figures() -> None:
    m = replace(measured([0, 0, 10], [0, 0, 10], [10, 12, 20]), first_token=np.array([2, 3, 14]) * MS,
                tokens=np.array([5, 4, 3]))  # fmt: skip
    found = evaluate(effective(asked(2, 1, use_token_latencies=True), 64, 64), m)
    assert found.first_token.maximum == 4 * MS
    assert found.time_per_output_token.maximum == 3 * MS
    assert found.rates["completed_tokens_per_second"] == 600.0
    assert found.valid


def test_what_it_says_of_itself() -> None:
    test = ran(FAST, Seeded(10), asked(8, think_time_ns=1000))
    result = directory.document(test, {}, [])
    assert (result["scenario"], result["note"]) == ("ClosedLoop", "MLPerf rules: not applicable")
    assert result["loop"] == {"concurrency": 8, "think_time_ns": 1000, "mlperf": False}
    assert result["metric"]["name"] == "completed samples per second"
    assert result["delivered"]["samples_per_second"] == result["metric"]["value"] > 0
    assert any("a closed loop of 8 is not an MLPerf scenario" in text for text in result["warnings"])
    assert result["lateness_ns"]["meaning"] == "from the answer that makes a query due and the think time to its issue"
    assert result["lateness_ns"]["early"] == 0
    assert result["validity"] == "VALID"
    assert (
        logs.result_values(test.effective, test.results())
        .keys()
        .isdisjoint({"early_stopping_latency_ss", "result_qps_with_loadgen_overhead"})
    )
    text = summary("s", test.effective, test.results(), warnings=0, errors=0)
    assert "Scenario : ClosedLoop\n" in text
    assert "Early Stopping Result" not in text


def test_a_saved_run_has_the_same_figures(tmp_path: Path) -> None:
    test = ran(FAST, Seeded(11), asked(8, think_time_ns=1000))
    directory.save(test, directory.document(test, {"command": "", "directory": ""}, []), tmp_path)
    saved = load(tmp_path)
    assert saved.effective == test.effective
    assert saved.requested == test.requested
    assert saved.results == test.results()
    assert differences(saved) == {}


def test_settings_of_other_loops_are_saved_as_before(tmp_path: Path) -> None:
    test = ran(FAST, System(), asked(0))
    directory.write_settings(test, tmp_path)
    assert "concurrency" not in (tmp_path / "settings.json").read_text()
    assert load(tmp_path).effective == test.effective


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scenario": Scenario.Server}, "SingleStream, not of Server"),
        ({"mode": Mode.SubmissionRun}, "SubmissionRun is for MLPerf's scenarios"),
        ({"mode": Mode.FindPeakPerformance}, "FindPeakPerformance is for MLPerf's scenarios"),
        ({"concurrency": 0, "think_time_ns": 1}, "give concurrency"),
        ({"think_time_ns": 10**19}, "think_time_ns must be"),
        ({"concurrency": -1}, "concurrency must be a whole number of at least 0"),
    ],
)
def test_settings_that_no_closed_loop_can_follow(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        effective(asked(**{"concurrency": 4} | values), 64, 64)


def test_several_generators_share_the_places() -> None:
    settings = effective(asked(7), 64, 64)
    phases = draw(settings, 64)
    parts = [Slice(part, 3) for part in range(3)]
    assert [part.limits(settings).concurrency for part in parts] == [3, 2, 2]
    assert [part.of(phases)[0].concurrency for part in parts] == [3, 2, 2]
    with pytest.raises(SettingsError, match="raise --concurrency to 8 or more"):
        Slice(7, 8).limits(settings)


def test_what_was_late_to_be_reported_is_due_no_later_than_it_was_issued() -> None:
    """An answer whose own time is earlier than that of one that was reported before it."""
    test = ran(FAST, System(), asked(2, 4))
    record = test.record
    assert isinstance(record, Record)
    record.completed[:4], record.issued[:4] = [9, 5, 20, 30], [0, 0, 10, 12]
    enter_dues(test.phases[0], test.answers)
    assert record.scheduled[:4].tolist() == [0, 0, 5, 9]
