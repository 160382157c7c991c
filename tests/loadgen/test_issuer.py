"""The seam between a test and who drives it: any issuer fills the columns and reports, and the test judges them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import directory
from drumfire.loadgen.issue import End
from drumfire.loadgen.issuer import Issuer, LocalIssuer, PhaseReport, Plan
from drumfire.loadgen.overhead import Reading
from drumfire.loadgen.pacer import Pacing
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings
from drumfire.loadgen.traffic import Phase
from drumfire.sut.local.null import NullSystem, null_library

ASKED = TestSettings(
    scenario=Scenario.Server, server_target_qps=1000, min_duration_ms=500, min_query_count=100,
    server_target_latency_ns=10_000_000,
)  # fmt: skip
PACING = Pacing(1, 2, 3, 4, exact_timer=True)


class Scripted:
    """Fills the table by arithmetic: each row is issued 5 ns late and takes 1000 ns; ``lost`` rows have no outcome."""

    def __init__(self, lost: tuple[int, ...] = (), streams: int = 1) -> None:
        self.lost, self.streams = list(lost), streams
        self.calls: list[str] = []
        self.plan: Plan

    def take(self, plan: Plan) -> None:
        self.plan = plan

    async def open(self) -> None:
        self.calls.append("open")

    def load(self, phase: Phase) -> None:
        self.calls.append("load")

    async def issue(self, phase: Phase) -> None:
        self.calls.append("issue")
        plan, record = self.plan, self.plan.record
        reading = Reading.now(plan.pauses)
        plan.answers.begin(phase)
        plan.on_begin(phase)
        span = slice(phase.first_row, phase.first_row + phase.rows)
        record.issued[span] = record.scheduled[span] + 5
        record.completed[span] = record.scheduled[span] + 1000
        record.status[span] = Status.OK
        record.status[self.lost] = Status.MISSING
        plan.answers.issued = plan.answers.answered = span.stop
        plan.answers.give_up()
        known = record.status[span] != Status.MISSING
        plan.reports.append(
            PhaseReport(
                phase=phase,
                began=datetime.now(UTC),
                end=End.ALL_ISSUED,
                issued_rows=int(known.sum()),
                rows=span if known.all() else span.start + np.flatnonzero(known),
                lasted_ns=plan.lasted_ns(phase),
                overhead=reading.until(Reading.now(plan.pauses)),
                pacing=PACING,
                streams=self.streams,
            )
        )

    def unload(self, phase: Phase) -> None:
        self.calls.append("unload")

    async def close(self) -> None:
        self.calls.append("close")

    def reasons(self) -> list[str]:
        return [f"{len(self.lost)} rows were lost"] if self.lost else []

    def warnings(self) -> list[str]:
        return ["driven by a script"]

    def sections(self) -> dict[str, Any]:
        return {"script": {"rows": self.plan.record.rows}}


def driven(issuer: Issuer, asked: TestSettings = ASKED) -> Test:
    test = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(asked), issuer=issuer)
    asyncio.run(test.run())
    return test


def test_a_test_judges_what_any_issuer_left() -> None:
    issuer = Scripted()
    test = driven(issuer)
    assert issuer.calls == ["open", "load", "issue", "unload", "close"]
    result = directory.document(test, {}, ["before"])
    assert result["validity"] == "VALID"
    assert result["warnings"] == ["before", "driven by a script"]
    assert result["script"] == {"rows": test.record.rows}
    assert result["delivered"]["samples"] == test.record.rows > 100
    assert (result["latency_ns"]["p50"], result["lateness_ns"]["max"]) == (1000, 5)
    assert result["overhead"]["realtime_s"] == 4e-9
    assert result["overhead"]["pacer_spin_s"] == 2e-9


def test_rows_without_an_outcome_are_not_judged_and_reasons_are_told() -> None:
    whole, partial = driven(Scripted()), driven(Scripted(lost=(3, 4, 50)))
    result = directory.document(partial, {}, [])
    assert result["validity"] == "INVALID"
    assert result["reasons"][0] == "3 rows were lost"
    assert result["latency_ns"]["count"] == whole.record.rows - 3
    measured = partial.measured(partial.reports[0])
    assert measured.completed.size == whole.record.rows - 3


def test_streams_are_taken_apart() -> None:
    test = driven(Scripted(lost=(0,), streams=3))
    streams = test.streams(test.reports[0])
    assert [np.unique(rows % 3).tolist() for rows in streams] == [[0], [1], [2]]
    assert streams[0][0] == 3
    assert sum(rows.size for rows in streams) == test.record.rows - 1


def test_an_issuer_refuses_a_plan() -> None:
    class Picky(Scripted):
        def take(self, plan: Plan) -> None:
            raise SettingsError("too much")

    with pytest.raises(SettingsError, match="too much"):
        driven(Picky())


def test_the_loop_of_this_process_does_the_same() -> None:
    """The same plan, by the issuer that a test makes itself."""
    system, library = NullSystem(Mode.PerformanceOnly), null_library()
    own = driven(LocalIssuer(system, library, 5.0))
    plain = Test(system, library, replace(ASKED))
    asyncio.run(plain.run())
    for name in ("sample_index", "scheduled", "status"):
        assert own.record.columns[name].tobytes() == plain.record.columns[name].tobytes()
    assert own.reports[0].rows == plain.reports[0].rows == slice(0, plain.record.rows)
    assert own.reports[0].end == plain.reports[0].end == End.ALL_ISSUED


def test_an_interrupt_is_once() -> None:
    """A second one must not cut short how the first is handled."""

    class Slow(Scripted):
        async def issue(self, phase: Phase) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.02)  # puts parts together
                await super().issue(phase)

    async def twice() -> Test:
        test = Test(NullSystem(Mode.PerformanceOnly), null_library(), replace(ASKED), issuer=Slow())
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, test.interrupt, "first")
        loop.call_later(0.02, test.interrupt, "second")
        await test.run()
        return test

    test = asyncio.run(twice())
    assert test.interrupted == "first"
    assert len(test.reports) == 1
    assert (test.record.status == Status.OK).all()
