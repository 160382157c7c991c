"""One generator from its supervisor's side: it begins when told, is watched through its table, and ends by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.assemble import remote
from drumfire.bench.fleet.assignment import Assignment
from drumfire.bench.fleet.child import Child
from drumfire.bench.fleet.issuer import FleetIssuer
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.traffic import Phase
from tests.support.command import options
from tests.support.scripted_peer import Peer, until


@dataclass(frozen=True)
class Own:
    """A generator's part of a run."""

    assignment: Assignment
    phases: Sequence[Phase]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """The second of two parts of a minute's run."""
    with Peer("grpc") as peer:
        words = ["run", "triton", "echo", "--url", peer.url, "--workers", "2", "--output", str(tmp_path / "out")]
        words += ["--scenario", "Server", "--qps", "200", "--time", "60"]
        run = options(*words)
        assembly = remote.assemble(run)
        issuer = FleetIssuer(assembly, run)
        whole = Test(assembly.system, assembly.library, assembly.settings, issuer=issuer)
        assignment = issuer.fleet.crews[0].assignments[1]
        yield Own(assignment, assignment.slice.of(whole.phases))


def test_the_driver_draws_and_the_child_has_its_rows_before_it_starts(own: Own) -> None:
    child = Child(own.assignment, own.phases)
    try:
        (phase,) = own.phases
        assert phase.scheduled is not None
        assert child.record.sample_index.tobytes() == phase.sample_index.tobytes()
        assert child.record.scheduled.tobytes() == phase.scheduled.tobytes()
        assert child.record.scheduled.flags.c_contiguous
    finally:
        child.close()


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


def test_it_does_its_part_until_it_is_stopped(own: Own) -> None:
    child = Child(own.assignment, own.phases)
    try:
        begun(child)
        until(lambda: spoken_to(child).snapshot.answered > 50, "answers")
        child.stop("enough")
        until(lambda: child.look().ended == 0, "its end")
        part = child.collect(0)
        assert part.message is not None
        assert part.message["interrupted"] == "enough"
        assert part.message["report"]["start_late_ns"] >= 0
        assert part.message["served"]
        assert 50 < part.rows.size == part.message["report"]["issued_rows"] < own.assignment.rows
        assert part.columns["scheduled"][0] > 0  # not the whole's first row, which is due at once
        assert (np.diff(part.columns["scheduled"]) > 0).all()
        assert set(part.columns["status"].tolist()) <= {Status.OK, Status.UNANSWERED}
        assert child.look().facts
    finally:
        child.close()


@pytest.mark.slow
def test_it_ends_at_its_limit(own: Own) -> None:
    child = Child(replace(own.assignment, limit_s=1.0), own.phases)
    try:
        begun(child)

        def gone() -> bool:
            child.beat()
            return child.look().gone is not None

        until(gone, "its end")
        assert 50 < _issued(child) < own.assignment.rows
    finally:
        child.close()


@pytest.mark.slow
def test_it_ends_when_nobody_speaks_to_it(own: Own) -> None:
    child = Child(own.assignment, own.phases)
    try:
        begun(child)
        until(lambda: child.look().gone is not None, "its end", seconds=20)
        assert _issued(child) < own.assignment.rows
    finally:
        child.close()


def _issued(child: Child) -> int:
    return child.collect(0).rows.size
