"""One generator from its supervisor's side: it begins when told, is watched through its table, and ends by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.assemble import remote
from drumfire.bench.fleet.child import Child
from drumfire.bench.fleet.plan import Plan
from drumfire.bench.fleet.run import FleetTest
from drumfire.loadgen.record import Status
from tests.support.command import options
from tests.support.scripted_peer import Peer, until


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    """The second of two parts of a minute's run."""
    with Peer("grpc") as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--workers", "2", "--output", str(tmp_path / "out")]
        words += ["--scenario", "Server", "--qps", "200", "--time", "60"]
        run = options(*words)
        whole = FleetTest(remote.assemble(run), run, None)
        yield whole.fleet.crews[0].plans[1]


def begun(child: Child) -> int:
    """Have it begin, and return when, ns of the monotonic clock."""
    until(lambda: spoken_to(child).ready == 0, "a generator that is ready", seconds=60)
    at_ns = time.monotonic_ns() + 50_000_000
    child.begin(at_ns)
    return at_ns


def spoken_to(child: Child):  # type: ignore[no-untyped-def]
    child.beat()
    seen = child.look()
    assert seen.gone is None
    return seen


def test_it_does_its_part_until_it_is_stopped(plan: Plan) -> None:
    child = Child(plan)
    try:
        begun(child)
        until(lambda: spoken_to(child).snapshot.answered > 50, "answers")
        child.stop("enough")
        until(lambda: child.look().ended == 0, "its end")
        part = child.collect(0, 0, plan.rows)
        assert part.message is not None
        assert part.message["interrupted"] == "enough"
        assert part.message["report"]["start_late_ns"] >= 0
        assert part.message["served"]
        assert 50 < part.rows.size == part.message["report"]["issued_rows"] < plan.rows
        assert part.columns["scheduled"][0] > 0  # not the whole's first row, which is due at once
        assert (np.diff(part.columns["scheduled"]) > 0).all()
        assert set(part.columns["status"].tolist()) <= {Status.OK, Status.UNANSWERED}
        assert child.look().facts
    finally:
        child.close()


@pytest.mark.slow
def test_it_ends_at_its_limit(plan: Plan) -> None:
    child = Child(replace(plan, limit_s=1.0))
    try:
        begun(child)

        def gone() -> bool:
            child.beat()
            return child.look().gone is not None

        until(gone, "its end")
        assert 50 < _issued(child) < plan.rows
    finally:
        child.close()


def test_it_ends_when_nobody_speaks_to_it(plan: Plan) -> None:
    child = Child(plan)
    try:
        begun(child)
        until(lambda: child.look().gone is not None, "its end", seconds=20)
        assert _issued(child) < plan.rows
    finally:
        child.close()


def _issued(child: Child) -> int:
    return child.collect(0, 0, child.plan.rows).rows.size
