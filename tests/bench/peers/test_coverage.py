"""The proof of the intervals itself: a tiny piece of it runs, and its tables say what was counted."""

from __future__ import annotations

import numpy as np
import pytest

from drumfire.bench.peers import coverage


def test_the_simulated_queues_have_the_latencies_of_theory() -> None:
    random = np.random.default_rng(1)
    a, b = coverage.CELLS["M/M/1 0.7"](random, 200_000)
    latencies = [(one.measured.completed - one.measured.scheduled) / 1e6 for one in (a, b)]
    assert np.array_equal(a.measured.scheduled, b.measured.scheduled)
    assert not np.array_equal(*latencies)
    for one in latencies:
        assert one.mean() == pytest.approx(1 / 0.3, rel=0.15)
    (moods, _) = coverage.CELLS["AR 0.9"](random, 100_000)
    logs = np.log((moods.measured.completed - moods.measured.scheduled) / 1e6)
    assert logs.std() == pytest.approx((0.25 + 0.09) ** 0.5, rel=0.05)
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(0.9 * 0.25 / 0.34, abs=0.03)


def test_intervals_hold_the_truth() -> None:
    cells = ("M/M/1 0.3", "M/D/1 0.3", "AR 0.9")
    found = coverage.measure(6, 4000, 1, cells)
    for figures in found.values():
        for figure in ("mean", "p50", "p90"):
            assert len(figures[figure].rows) == 6
            assert figures[figure].covered >= 60  # that so few of 6 hold has a chance of 1 in 500
            assert figures[figure].wrong <= 40
    text = coverage.table(found)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "covered", "wrong", "slower", "declined", "open",
    ]  # fmt: skip
