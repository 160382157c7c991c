"""Comparisons end in the words and statuses that scripts rely on, and say first what makes them doubtful."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from drumfire.bench.compare.comparison import Comparison, compare
from drumfire.bench.compare.intervals import Interval
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.subject import Subject
from drumfire.bench.peers import coverage
from drumfire.bench.peers.coverage import SimulatedRun
from drumfire.loadgen.errors import UserError
from tests.support.compared_runs import MACHINE, SYSTEM, at, ends, made


def pair(a: SimulatedRun, b: SimulatedRun, **options: Any) -> Comparison:
    return compare([[a], [b]], **{"single": True, **options})


def several(order: str, factor: float, noise: Sequence[float], **options: Any) -> Comparison:
    """Runs in an order such as ABBA; B's latencies are ``factor`` times A's, and each run's its ``noise`` more."""
    sides: dict[str, list[SimulatedRun]] = {"A": [], "B": []}
    for place, (side, more) in enumerate(zip(order, noise, strict=True)):
        times = (1 + more) * (factor if side == "B" else 1.0)
        sides[side].append(made(place, times, 4000, started=at(place)))
    return compare([sides["A"], sides["B"]], **options)


NOISE = (0.01, -0.01, 0.005, -0.005, 0.01, 0.0, -0.01, 0.005)


@pytest.mark.parametrize(
    ("factor", "words", "status"),
    [
        (1.0, "same within 5 %: B is +0.5 % (-2.2 ... +4.3 %) (of these two runs)", 0),
        (1.2, "B is slower: p99 +21 % (+17 ... +25 %) (of these two runs)", 3),
        (0.8, "B is faster: p99 -20 % (-22 ... -17 %) (of these two runs)", 0),
    ],
)
def test_two_runs(factor: float, words: str, status: int) -> None:
    found = pair(made(1), made(2, factor))
    assert (found.verdict.words, found.verdict.status) == (words, status)
    assert found.doubts == ()
    row = found.row("p99")
    assert row.ratio is not None
    assert row.a is not None
    assert row.ratio == pytest.approx(factor, rel=0.02)
    latencies = made(1).measured.completed - made(1).measured.scheduled
    assert row.a == np.sort(latencies)[int(latencies.size * 0.99)]


def test_what_cannot_be_told_says_how_much_would_tell() -> None:
    found = pair(made(1, queries=2000), made(2, 1.03, queries=2000))
    assert found.verdict.status == 4
    assert found.verdict.words == (
        "cannot tell: p99 between -8.4 % and +11 %; needs about 17,000 more queries, as by a --time 9.5 times as long "
        "(of these two runs)"
    )


def test_one_run_a_side_is_not_judged_unasked() -> None:
    found = compare([[made(1)], [made(2, 2.0)]])
    assert found.verdict.status == 4
    assert found.verdict.words == (
        "cannot tell: needs 3 runs a side or more, better 5, as drumfire ab does them; --single judges these"
    )
    assert found.row("p99").low is not None


def test_several_runs_by_their_neighbours() -> None:
    found = several("ABBAABBA", 1.1, NOISE)
    assert found.verdict.status == 3
    assert found.verdict.words.startswith("B is slower: p99 +")
    assert found.row("p99").method == "4 neighbours"
    assert found.doubts == ()
    assert several("ABBAABBA", 1.0, NOISE).verdict.words.startswith("same within 5 %: B is ")


def test_a_drift_is_not_taken_for_a_difference() -> None:
    drift = [0.03 * place for place in range(8)]
    balanced = several("ABBAABBA", 1.0, drift)
    assert balanced.verdict.status in (0, 4)
    alternating = several("ABABABAB", 1.0, drift)
    assert alternating.row("p99").method == "4 and 4 runs"
    assert alternating.verdict.status == 4
    apart = several("AAAABBBB", 1.0, drift)
    assert apart.verdict.status == 3
    assert "not interleaved (AAAABBBB): drift is not excluded" in apart.doubts


def test_several_runs_say_how_many_more() -> None:
    found = several("ABBAAB", 1.06, (0.05, -0.05, 0.06, -0.05, 0.03, 0.0))
    assert found.verdict.status == 4
    assert "runs a side; longer runs would not help" in found.verdict.words


def test_a_run_counts_once_on_its_side() -> None:
    first, second = made(1, started=at(1)), made(2, 1.5, started=at(2))
    copy = replace(first, result=json.loads(json.dumps(first.result)))
    found = compare([[first, copy, first], [second, second, second]])
    assert found.verdict.status == 4
    assert found.names == (("this run",), ("this run",))
    assert found.row("p99").method == "16 pairs"
    assert found.doubts[:2] == (
        "A names a run more than once, which counts once: 1 run of 3",
        "B names a run more than once, which counts once: 1 run of 3",
    )
    unsaved = made(3)  # without a start, each is one of its own
    assert compare([[unsaved, made(3)], [made(4), unsaved]]).doubts[0].startswith("A and B have 1 run in common")


def test_a_run_beside_itself_is_told() -> None:
    run = made(1, started=at(1))
    assert pair(run, run).doubts == ("A and B are the same run, which cannot differ from itself",)
    sides = [[run, made(2, started=at(2)), made(3, started=at(3))], [made(4, started=at(4)), run]]
    assert "A and B have 1 run in common: this run" in compare(sides).doubts


def test_figures_that_are_not_judged_are_told_where_the_judged_one_cannot_tell() -> None:
    found = pair(made(1, queries=2000), made(2, 1.5, queries=2000), figure="p99.9")
    assert found.verdict.words.startswith("cannot tell: p99.9 is at most +55 %, open: ")
    assert "too few slow queries; needs at least 4 times as many queries, as by a --time 4 " in found.verdict.words
    assert "; mean, p50, p90 and p99 are clearly slower (not judged: --figure)" in found.verdict.words


def test_runs_that_differ_much_are_not_asked_for_by_the_thousand() -> None:
    found = several("ABBAAB", 1.06, (0.5, -0.5, 0.6, -0.5, 0.3, 0.0))
    assert found.verdict.words.endswith(" runs a side")
    assert "the runs of a side differ too much from each other for fewer than " in found.verdict.words


def test_the_margin_and_the_figure_can_be_chosen() -> None:
    assert pair(made(1), made(2, 1.02), margin=0.1).verdict.status == 0
    assert pair(made(1), made(2, 1.06), margin=0.01).verdict.status == 3
    found = pair(made(1), made(2, 1.2), figure="p(95)")
    assert found.judged == "p95"
    assert found.verdict.words.startswith("B is slower: p95 +20")
    for wrong in ("p100", "p0", "median", "max", ""):
        with pytest.raises(UserError, match="not a figure"):
            pair(made(1), made(2), figure=wrong)


def test_other_schedules_are_compared_unpaired() -> None:
    random = np.random.default_rng(7)
    other = coverage.run(random.exponential(2.0, 20_000), 1.3 * random.lognormal(0, 0.3, 20_000))
    found = pair(made(1), other)
    assert "the schedules differ: other load or seeds, or a generator was lost" in found.doubts
    assert found.row("p99").method == "16 parts each"
    assert found.verdict.status == 3


def test_of_a_longer_run_the_common_queries_are_compared() -> None:
    found = pair(made(1, queries=10_000), made(2, queries=20_000))
    assert "one run is longer: of both, the first 10,000 queries are compared" in found.doubts
    latencies = (made(2, queries=20_000).measured.completed - made(2, queries=20_000).measured.scheduled)[:10_000]
    assert found.row("p50").b == np.sort(latencies)[5000]


def test_skip_leaves_out_the_same_queries_of_all() -> None:
    slow = np.where(np.arange(20_000) < 2000, 20.0, 1.0)
    random = np.random.default_rng(9)
    a, b = (coverage.run(np.full(20_000, 2.0), slow * random.lognormal(0, 0.2, 20_000)) for _ in "ab")
    found = pair(a, b)
    assert any("A starts differently" in line for line in found.doubts)
    skipped = pair(a, b, skip_s=4.0)
    assert skipped.doubts == ()
    assert skipped.row("p99").a == pytest.approx(1e6 * np.exp(0.2 * 2.326), rel=0.05)
    with pytest.raises(UserError, match="leaves nothing"):
        pair(a, b, skip_s=1000)


def test_a_run_whose_latency_grows_is_called_overloaded() -> None:
    random = np.random.default_rng(10)
    grown = coverage.run(np.full(20_000, 2.0), np.linspace(1, 50, 20_000) * random.lognormal(0, 0.2, 20_000))
    assert any("B is not steady" in line for line in pair(made(1), grown).doubts)


@pytest.mark.parametrize(
    ("further", "line"),
    [
        ({"system": SYSTEM | {"model": "shapes"}}, "models differ: model digits / shapes"),
        ({"system": SYSTEM | {"threads": 4}}, "settings differ: threads 1 / 4"),
        ({"environment": MACHINE | {"cpu": "Y", "cores": 4}}, "machines differ: cpu X / Y; cores 8 / 4"),
        ({"environment": MACHINE | {"memory_bytes": 32e9}}, "machines differ: memory 16 GB / 32 GB"),
        ({"environment": MACHINE | {"versions": {"n": "2", "m": "1"}}}, "versions differ: n 1 / 2"),
        ({"validity": "INVALID", "reasons": ["too  slow"]}, "B is INVALID: too slow"),
        ({"errors": {"failed": 100}}, "samples failed, 0% of A's, 0.5% of B's: no latency counts them"),
    ],
)
def test_what_is_doubtful_comes_first(further: dict[str, Any], line: str) -> None:
    found = pair(made(1), made(2, **further))
    assert line in found.doubts
    assert found.verdict.status == 0


def test_several_causes_leave_it_open() -> None:
    found = pair(made(1), made(2, 2.0, environment=MACHINE | {"cpu": "Y", "python": "3.12"}))
    assert found.verdict.status == 4
    assert found.verdict.words.startswith("cannot tell: machines and versions differ, so the cause is open")


@pytest.mark.parametrize(
    "further",
    [
        {"errors": {"failed": 5000}, "checks": {"no_errors": False}},
        {"errors": {"unanswered": 3}, "checks": {"no_errors": False}},
        {"checks": {"no_errors": False}},
    ],
)
def test_figures_that_mean_nothing_are_not_compared(further: dict[str, Any]) -> None:
    found = pair(made(1, validity="INVALID", **further), made(2))
    assert (found.verdict.words, found.verdict.status) == ("A is INVALID: not compared", 1)


def test_a_difference_below_the_lateness_is_not_told() -> None:
    late = {"lateness_ns": {"p50": 10, "p99": 800_000}, "latency_ns": {"count": 1, "p50": 1_000_000}}
    found = pair(made(1), made(2, 1.2, **late))
    assert any(line.startswith("B was sent late: its p99 lateness, 800 us") for line in found.doubts)
    assert found.verdict.words.startswith("cannot tell: the difference is less than how late the queries were sent")
    assert pair(made(1), made(2, 3.0, **late)).verdict.status == 3


def offline(seed: int, batches: int, factor: float = 1.0) -> SimulatedRun:
    run = made(seed, queries=batches)
    done = np.cumsum(factor * 1e6 * np.random.default_rng(seed).lognormal(0, 0.2, batches)).astype(np.int64)
    measured = coverage.Measured(np.zeros_like(done), np.zeros_like(done), done, run.measured.answered, batches)
    rate = batches * 1e9 / int(done[-1])
    further = {
        "scenario": "Offline",
        "delivered": {"samples": batches, "queries": 1, "samples_per_second": rate},
        "system": SYSTEM | {"batch_sizes": {"1": batches}},
    }
    return SimulatedRun(measured, run.result | further, run.columns)


def test_a_rate_is_better_when_it_is_higher() -> None:
    slower = pair(offline(1, 4000), offline(2, 4000, 1.2))
    assert [row.name for row in slower.rows] == ["rate"]
    assert slower.verdict.words.startswith("B is slower: rate -1")
    assert slower.verdict.status == 3
    assert pair(offline(1, 4000), offline(2, 4000, 0.8)).verdict.words.startswith("B is faster: rate +2")
    few = pair(offline(1, 1000), offline(2, 1000))
    assert few.row("rate").note == "fewer than 3,000 batches"
    assert few.verdict.status == 4
    assert few.verdict.words == (
        "cannot tell: rate: fewer than 3,000 batches; needs 3,000 batches in each run, as by a --time 3 times as "
        "long, or 3 runs a side (of these two runs)"
    )
    sizes = pair(offline(1, 3000), offline(2, 4000)).doubts
    assert "the numbers of samples differ, A 3,000, B 4,000: give all runs the same --qps, which sets it" in sizes
    with pytest.raises(UserError, match="Offline has no p99, as all its samples are due at once"):
        pair(offline(1, 1000), offline(2, 1000), figure="p99")
    with pytest.raises(UserError, match="--skip has no meaning in Offline"):
        pair(offline(1, 1000), offline(2, 1000), skip_s=1)
    with pytest.raises(
        UserError,
        match=re.escape("A (this run) is Offline, and B (this run) is Server, which have no figure in common"),
    ):
        pair(offline(1, 1000), made(1))


def test_closed_loops_are_compared_by_their_rate() -> None:
    def closed(seed: int, factor: float, under_way: int = 2) -> SimulatedRun:
        run = offline(seed, 4000, factor)
        asked = {"scenario": "ClosedLoop", "asked": {"qps": None}, "loop": {"concurrency": under_way}}
        measured = replace(run.measured, samples_per_query=1, scheduled=run.measured.completed - 1_000_000)
        return SimulatedRun(measured, run.result | asked, run.columns)

    found = pair(closed(1, 1.0), closed(2, 0.8, 4))
    assert found.verdict.words.startswith("B is faster: rate +2")
    assert found.doubts == ("settings differ: concurrency 2 / 4",)
    with pytest.raises(UserError, match=r"ClosedLoop, and B .* is Server, which have no figure in common"):
        pair(closed(1, 1.0), made(1))


def test_queries_of_several_samples_are_judged_whole() -> None:
    def multi(seed: int) -> SimulatedRun:
        run = made(seed, queries=8000)
        whole = {"scenario": "MultiStream", "asked": {"qps": None}, "query_latency_ns": {"count": 2000}}
        due = np.repeat(run.measured.scheduled[::4], 4)
        measured = replace(run.measured, scheduled=due, samples_per_query=4)
        return SimulatedRun(measured, run.result | whole, run.columns)

    one = multi(1).measured
    latencies = np.sort((one.completed - one.scheduled).reshape(-1, 4).max(axis=1))
    assert pair(multi(1), multi(2)).row("p99").a == latencies[1980]


def test_a_schedules_rate_is_not_the_systems() -> None:
    assert pair(made(1), made(2)).row("rate").note == "set by --qps, as both kept up"


def test_the_interval_of_one_run() -> None:
    def interval(figure: str, **changed: Any) -> Interval:
        return of_subject(Subject(made(1, **changed), "one"), figure)

    low, high = ends(interval("p50"))
    assert low < 1e6 < high < 1.02e6
    few, rate = interval("p50", queries=500), interval("rate")
    assert (few.low, few.high) == (None, None)
    assert few.why.startswith("fewer than 1,000 queries")
    assert interval("p99.9", queries=1500).high is None
    assert (rate.low, rate.high, rate.why) == (None, None, "set by --qps, as it kept up")


@pytest.mark.parametrize("queries", [1, 63, 999])
def test_a_few_queries_tell_nothing(queries: int) -> None:
    found = pair(made(1, queries=queries), made(2, 3.0, queries=queries))
    assert found.verdict.status == 4
    assert "fewer than 1,000 queries" in found.verdict.words


def test_a_run_without_a_good_answer_is_not_compared() -> None:
    run = made(2)
    failed = replace(run.measured, answered=run.measured.answered & False)
    nothing = {"failed": 20_000, "unanswered": 0}
    result = run.result | {"validity": "INVALID", "errors": nothing, "checks": {"no_errors": False}}
    result["delivered"] = {"samples": 0, "queries": 20_000, "samples_per_second": 0.0}
    found = pair(made(1), SimulatedRun(failed, result, run.columns))
    assert found.verdict.words == "B is INVALID: not compared"
    assert found.row("p99").note == "not a figure of both"


def test_its_document_is_json_and_says_the_same() -> None:
    found = pair(made(1), made(2, 1.2))
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["verdict"] == {"words": found.verdict.words, "status": 3, "word": "slower", "runs": None}
    assert document["sides"] == {"A": ["this run"], "B": ["this run"]}
    (p99,) = (row for row in document["figures"] if row["name"] == "p99")
    assert p99["low"] < p99["ratio"] < p99["high"]


def test_sides_and_margins_that_are_none() -> None:
    for sides in ([], [[made(1)]], [[made(1)], []], [[made(1)]] * 3):
        with pytest.raises(UserError, match="two sides"):
            compare(sides)
    for margin in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="margin"):
            pair(made(1), made(2), margin=margin)
