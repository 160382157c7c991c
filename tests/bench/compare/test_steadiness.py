"""Whether a run is steady: what is said of runs that are, and of those that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drumfire.bench.compare.blocks import BLOCKS
from drumfire.bench.compare.steadiness import grows, grows_in, start, start_of
from drumfire.bench.compare.subject import Subject
from drumfire.bench.peers.coverage import SimulatedRun
from tests.support.compared_runs import made


def subject(run: SimulatedRun) -> Subject:
    return Subject(run, "run")


def slower(run: SimulatedRun, factors: np.ndarray) -> Subject:
    m = run.measured
    completed = m.scheduled + ((m.completed - m.scheduled) * factors).astype(np.int64)
    return subject(replace(run, measured=replace(m, completed=completed)))


def test_one_even_run_in_a_hundred_is_said_to_start_differently() -> None:
    logs = np.random.default_rng(1).standard_normal((4000, BLOCKS)) / 10
    assert 20 <= sum(start_of(one) is not None for one in logs) <= 60
    assert sum(map(grows_in, logs)) <= 8


def test_a_machine_that_wanders_more_slowly_than_the_parts_says_nothing_of_its_start() -> None:
    """Each part is much as the one before.  Without the look at that, a sixth of these would start differently."""
    moves = np.random.default_rng(2).standard_normal((400, 200 + BLOCKS))
    logs = np.zeros_like(moves)
    for part in range(1, logs.shape[1]):
        logs[:, part] = 0.9 * logs[:, part - 1] + moves[:, part]
    assert sum(start_of(one) is not None for one in logs[:, 200:]) <= 4


@pytest.mark.parametrize(("factor", "queries"), [(3.0, 20_000), (0.5, 20_000), (1.3, 20_000), (3.0, 1000)])
def test_a_start_is_told_with_how_much_it_differs(factor: float, queries: int) -> None:
    factors = np.where(np.arange(queries) < queries // 10, factor, 1.0)
    assert start(slower(made(queries=queries), factors)) == pytest.approx(factor, rel=0.15)


def test_latency_that_grows_is_told_and_is_no_other_start() -> None:
    queries = 10_000
    growing = slower(made(queries=queries), 1 + np.arange(queries) / 1000)
    assert grows(growing)
    assert start(growing) is None
    grown_before = slower(made(queries=queries), 1 + np.minimum(np.arange(queries), queries // 2) / 1000)
    assert not grows(grown_before)


def test_nothing_is_said_of_few_queries_or_none() -> None:
    assert start(subject(made(queries=999))) is None
    empty = made(queries=3000)
    none = replace(empty, measured=replace(empty.measured, answered=np.zeros(3000, bool)))
    assert start(subject(none)) is None
    assert not grows(subject(none))
