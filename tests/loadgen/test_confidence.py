"""Early stopping as a rule that ends a run: its error rates over simulated runs, its counts on tables made by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.loadgen.advice import OPTIONS
from drumfire.loadgen.confidence import Count, CutShort, SequentialTest, Tally, UntilConfident, Verdict
from drumfire.loadgen.early_stopping import CONFIDENCE, allowed_over, judge
from drumfire.loadgen.issue import End
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings, effective
from drumfire.loadgen.traffic import draw

MS = 1_000_000
QPS, LEAST_S, LIMIT_S = 100.0, 5.0, 200.0


def server(**values: Any) -> TestSettings:
    given = {"server_target_qps": QPS, "min_duration_ms": round(LEAST_S * 1000), "server_target_latency_ns": 10 * MS}
    return TestSettings(scenario=Scenario.Server, **(given | values))


def verdicts(share: float, runs: int, percentile: float = 0.99) -> dict[Verdict, int]:
    """How so many runs end whose queries are over the bound with this probability, looked at once a second."""
    rng = np.random.default_rng(round(share * 1e6))
    chosen = effective(server(server_target_latency_percentile=percentile), 10, 10)
    found = dict.fromkeys(Verdict, 0)
    looks = np.arange(QPS, QPS * LIMIT_S + 1, QPS).astype(int)
    for _ in range(runs):
        over = np.cumsum(rng.random(looks[-1]) < share)
        rule = UntilConfident(chosen, round(LIMIT_S * 1000))
        for queries in looks.tolist():
            if rule.reached(Count(queries, int(over[queries - 1]), round(queries / QPS * 1e9))) is not None:
                break
        found[rule.verdict] += 1
    return found


simulated = pytest.mark.parametrize("runs", [300, pytest.param(2000, marks=pytest.mark.slow)])


@simulated
@pytest.mark.parametrize("percentile", [0.9, 0.99])
def test_a_run_at_the_border_is_hardly_ever_decided_either_way(percentile: float, runs: int) -> None:
    """The worst case for both errors: whatever is decided here is wrong."""
    found = verdicts(1.0 - percentile, runs, percentile)
    assert found[Verdict.PASSES] <= (1 - CONFIDENCE) * runs
    assert found[Verdict.FAILS] <= (1 - CONFIDENCE) * runs


@simulated
@pytest.mark.parametrize(("share", "right"), [(0.005, Verdict.PASSES), (0.02, Verdict.FAILS), (0.5, Verdict.FAILS)])
def test_a_run_off_the_border_is_decided_rightly(share: float, right: Verdict, runs: int) -> None:
    found = verdicts(share, runs)
    wrong = runs - found[right] - found[Verdict.OPEN]
    assert wrong <= (1 - CONFIDENCE) * runs
    assert found[right] >= 0.99 * runs


@given(st.integers(0, 200_000), st.floats(0, 0.05), st.sampled_from([0.5, 0.9, 0.97, 0.99, 0.999]))
def test_what_passes_passes_the_plain_test_too(queries: int, share: float, percentile: float) -> None:
    over = int(queries * share)
    verdict = SequentialTest(percentile).verdict(queries, over)
    if verdict == Verdict.PASSES:
        assert judge(queries, over, percentile).met
    if verdict == Verdict.FAILS:
        assert over > queries * (1 - percentile)


def test_nothing_is_decided_before_the_least_duration_and_count() -> None:
    rule = UntilConfident(effective(server(min_query_count=2000), 10, 10), 60_000)
    assert rule.reached(Count(1999, 0, 60_000 * MS)) is None
    assert rule.reached(Count(2000, 0, 4_999 * MS)) is None
    assert "decided" in (rule.reached(Count(2000, 0, 5_000 * MS)) or "")
    assert rule.objection is None


@given(st.integers(0, 100_000), st.sampled_from([0.5, 0.9, 0.97, 0.99, 0.999]))
def test_allowed_over_is_the_last_that_passes(queries: int, percentile: float) -> None:
    allowed = allowed_over(queries, percentile)
    if allowed >= 0:
        assert judge(queries, allowed, percentile).met
    assert not judge(queries, allowed + 1, percentile).met


# The counts, from a table.


@given(st.data())
@settings(max_examples=60)
def test_tally_counts_what_a_loop_counts(data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([1, 3]))
    queries = data.draw(st.integers(1, 40))
    scenario = Scenario.Server if width == 1 else Scenario.MultiStream
    wanted = TestSettings(
        scenario=scenario, min_duration_ms=0, min_query_count=queries, multi_stream_samples_per_query=width
    )
    chosen = effective(wanted, 10, 10)
    phase = draw(chosen, 10)[0]
    record, bound = Record(phase.rows), 50
    record.scheduled[:] = np.repeat(
        np.sort(data.draw(st.lists(st.integers(0, 900), min_size=queries, max_size=queries))), width
    )
    record.completed[:] = record.scheduled + data.draw(
        st.lists(st.integers(0, 120), min_size=phase.rows, max_size=phase.rows)
    )
    tally = Tally(record, phase, chosen, bound)
    issued = 0
    for now in (100, 400, 950, 2000):
        issued = max(issued, int(np.searchsorted(record.scheduled[::width], now)) * width)
        record.status[:issued] = np.where(record.completed[:issued] <= now, Status.OK, Status.PENDING)
        over, settled = 0, 0
        for query in range(issued // width):
            rows = slice(query * width, (query + 1) * width)
            done = bool((record.completed[rows] <= now).all())
            if not done and now - record.scheduled[rows][0] <= bound:
                break
            settled += 1
            over += not done or int(record.completed[rows].max() - record.scheduled[rows][0]) > bound
        count = tally.look(issued, now)
        assert (count.queries, count.over) == (settled, over)


# In a run.


class Virtual:
    """Answers in the call; ``late_every`` n-th row pretends to have taken a second."""

    name, columns, answer = "virtual", {}, None

    def __init__(self, late_every: int = 0) -> None:
        self.late_every = late_every

    async def open(self, answers: Any) -> None:
        self.answers = answers

    def issue(self, first: int, last: int) -> None:
        self.answers.complete(first, last)
        completed = self.answers.columns["completed"]
        completed[first:last] = self.answers.columns["scheduled"][first:last] + MS
        for row in range(first, last):
            if self.late_every and row % self.late_every == 0:
                completed[row] += 1000 * MS

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Library:
    name, total_count, performance_count = "numbers", 10, 10

    def load(self, indices: Any) -> None:
        pass

    unload = load

    def batch(self, indices: Any) -> Any:
        return indices


def confident(system: Virtual, limit_ms: int) -> Test:
    wanted = server(server_target_qps=3000.0, min_duration_ms=100)
    rule = UntilConfident(effective(wanted, 10, 10), limit_ms)
    test = Test(system, Library(), wanted, rule=rule)
    asyncio.run(test.run())
    return test


def test_a_good_run_is_extended_until_it_is_decided_and_no_longer() -> None:
    test = confident(Virtual(), 60_000)
    results = test.results()
    assert results is not None
    assert results.valid
    assert test.reports[0].end == End.DECIDED
    # 300 queries in the least duration could not do; nor was much more than needed issued of the 180,000 drawn.
    assert 459 <= results.queries < 60_000
    assert "early stopping is decided" in "".join(test.log.entries)
    assert test.log.errors == 0


def test_a_bad_run_is_decided_against() -> None:
    test = confident(Virtual(late_every=20), 60_000)
    results = test.results()
    assert results is not None
    assert not results.valid
    assert results.duration_met
    assert results.queries < 60_000
    assert any("is decided at 99% confidence" in reason for reason in results.reasons)


def test_an_undecided_run_ends_with_its_traffic_and_says_so() -> None:
    test = confident(Virtual(late_every=110), 200)
    results = test.results()
    assert results is not None
    assert test.reports[0].end == End.ALL_ISSUED
    assert not results.valid
    assert any("raise limit_ms, or lower server_target_qps" in reason for reason in results.reasons)
    assert not any("--" in reason for reason in results.reasons)
    named = UntilConfident(effective(server(), 10, 10), 1000, OPTIONS)
    assert "raise --until-confident, or lower --qps a little" in str(named.objection)


def test_the_traffic_of_an_extended_run_begins_with_that_of_the_plain_one() -> None:
    wanted = server(server_target_qps=3000.0, min_duration_ms=100)
    plain = Test(Virtual(), Library(), wanted)
    longer = Test(Virtual(), Library(), wanted, rule=UntilConfident(effective(wanted, 10, 10), 1000))
    rows = plain.record.rows
    assert longer.record.rows > rows
    assert np.array_equal(plain.record.sample_index, longer.record.sample_index[:rows])
    assert np.array_equal(plain.record.scheduled, longer.record.scheduled[:rows])


@pytest.mark.parametrize("scenario", [Scenario.Server, Scenario.MultiStream])
def test_a_hopeless_run_is_cut_short_with_the_figures(scenario: Scenario) -> None:
    wanted = server(server_target_qps=3000.0, min_duration_ms=60_000)
    wanted.scenario = scenario
    wanted.multi_stream_expected_latency_ns = 1e6
    test = Test(Virtual(late_every=2), Library(), wanted, rule=CutShort(10 * MS, 180_000, 1764))
    asyncio.run(test.run())
    assert test.reports[0].end == End.DECIDED
    assert "hopeless after" in test.spoiled()[0]
    assert "a run of 180,000 cannot pass with more than 1,764" in test.spoiled()[0]
