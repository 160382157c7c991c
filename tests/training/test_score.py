"""The olympic mean, against a count by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.training.score import olympic

times = st.one_of(st.none(), st.floats(0.1, 1e6))


def test_five_runs() -> None:
    score = olympic([50.0, 10.0, 20.0, 30.0, 90.0])
    assert score.seconds == pytest.approx(100 / 3)
    assert score.counted == (0, 2, 3)


def test_one_run_without_target_is_the_slowest() -> None:
    score = olympic([50.0, None, 20.0, 30.0, 90.0])
    assert score.seconds == pytest.approx((50 + 30 + 90) / 3)
    assert 1 not in score.counted


def test_two_runs_without_target_are_no_score() -> None:
    score = olympic([50.0, None, 20.0, 30.0, None])
    assert score.seconds is None
    assert "2 of 5" in (score.reason or "")


def test_too_few_runs() -> None:
    assert olympic([1.0, 2.0]).seconds is None


@given(st.lists(times, min_size=3, max_size=12))
def test_as_sorted(runs: list[float | None]) -> None:
    kept = sorted(math.inf if run is None else run for run in runs)[1:-1]
    score = olympic(runs)
    mean = sum(kept) / len(kept)
    if math.isinf(mean):
        assert score.seconds is None
    else:
        assert score.seconds == pytest.approx(mean)
        assert sum(runs[run] or 0 for run in score.counted) == pytest.approx(sum(kept))
