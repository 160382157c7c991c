"""The words and statuses of a verdict, by the interval alone."""

from __future__ import annotations

import pytest

from drumfire.bench.compare import intervals
from drumfire.bench.compare.intervals import Interval, no_interval
from drumfire.bench.compare.verdict import DecidingFigure, judge


def judged(low: float, high: float, **further: object) -> DecidingFigure:
    given = {"name": "p99", "ratio": (low * high) ** 0.5, "interval": Interval(low, high), "runs": 5}
    return DecidingFigure(**{**given, "queries": 1, "by_runs": True, **further})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "is_rate", "words", "status"),
    [
        (0.994, 1.015, False, "same within 5 %: B is +0.4 % (-0.6 ... +1.5 %)", 0),
        (1.01, 1.04, False, "same within 5 %: B is +2.5 % (+1.0 ... +4.0 %)", 0),
        (0.951, 1.049, False, "same within 5 %: B is -0.1 % (-4.9 ... +4.9 %)", 0),
        (1.07, 1.18, False, "B is slower: p99 +12 % (+7.0 ... +18 %)", 3),
        (0.82, 0.93, False, "B is faster: p99 -13 % (-18 ... -7.0 %)", 0),
        (1.07, 1.18, True, "B is faster: rate +12 % (+7.0 ... +18 %)", 0),
        (0.82, 0.93, True, "B is slower: rate -13 % (-18 ... -7.0 %)", 3),
        (11.0, 16.0, False, "B is slower: p99 +1,227 % (+1,000 ... +1,500 %)", 3),
        (0.97, 1.09, False, "cannot tell: p99 between -3.0 % and +9.0 %; needs about 14 runs a side", 4),
        (0.97, 1.051, False, "cannot tell: p99 between -3.0 % and +5.1 %; needs about 7 runs a side", 4),
    ],
)
def test_words(low: float, high: float, is_rate: bool, words: str, status: int) -> None:
    found = judge(judged(low, high, name="rate" if is_rate else "p99"), 0.05, single=False)
    assert (found.words, found.status) == (words, status)
    assert found.word in words


def test_what_comes_before_the_interval() -> None:
    surely = judged(2.0, 3.0)
    assert judge(judged(2.0, 3.0, runs=2), 0.05, single=False).words.startswith("cannot tell: needs 3 runs a side")
    assert judge(judged(2.0, 3.0, runs=2), 0.05, single=True).words.endswith("(of these runs)")
    assert judge(judged(2.0, 3.0, by_runs=False), 0.05, single=True).words.endswith("(of these two runs)")
    assert judge(surely, 0.05, single=False, undecided="x").words == "cannot tell: x"
    assert judge(surely, 0.05, single=False, letter="C").words.startswith("C is slower: p99")


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(3.51, None, "open", "more"), "p99 is at least +251 %, open; needs more"),
        (Interval(None, 0.5, "open"), "p99 is at most -50 %, open"),
        (no_interval(intervals.TOO_ALIKE, "more"), f"p99: {intervals.TOO_ALIKE}; needs more"),
        (no_interval("no columns"), "p99: no columns"),
    ],
)
def test_without_an_interval(interval: Interval, words: str) -> None:
    found = judge(judged(1, 1, interval=interval), 0.05, single=False)
    assert (found.words, found.status) == (f"cannot tell: {words}", 4)


def test_how_many_more_queries() -> None:
    part = judged(0.96, 1.08, by_runs=False, queries=10_000)
    # (1.6 * 0.0589 / 0.05)^2 = 3.55 times as many
    assert judge(part, 0.05, single=True).words.startswith(
        "cannot tell: p99 between -4.0 % and +8.0 %; needs about 26,000 more queries, as by a --time 3.6 times as long"
    )
    assert "would tell" in judge(part, 0.0, single=True).words
