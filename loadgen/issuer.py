"""Who drives a test's plan: ``Issuer`` is the seam, ``LocalIssuer`` the loop in this process.

A ``Test`` draws the plan and judges what an issuer leaves in its table; it does not know which issuer that is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from drumfire.loadgen.advice import Knobs
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.closed_loop import enter_dues
from drumfire.loadgen.confidence import StopRule, Tally
from drumfire.loadgen.issue import End, Limits, issue
from drumfire.loadgen.overhead import GarbagePauses, Overhead, Reading
from drumfire.loadgen.pacer import Pacer, Pacing
from drumfire.loadgen.record import Gauge, Record, RowArray
from drumfire.loadgen.settings import EffectiveSettings
from drumfire.loadgen.system import SampleLibrary, SelfMeasured, SystemUnderTest
from drumfire.loadgen.traffic import Phase
from drumfire.loadgen.warm_up import WarmUp, WarmUpReport, warm_up

_PUBLISH_S = 0.2
"""Between updates of the table's gauges."""
_RULE_S = 0.1
"""Between checks of the rule that may end the run."""


@dataclass(frozen=True, kw_only=True)
class PhaseReport:
    """How one phase went."""

    phase: Phase
    began: datetime
    end: End
    issued_rows: int
    """Issued rows of which something is known."""
    rows: slice | RowArray
    """These rows in the table, whole queries only."""
    lasted_ns: int
    """From the phase's start to its last completion."""
    overhead: Overhead
    pacing: Pacing
    start_late_ns: int = 0
    """Delay of the start, where several generators agreed on one."""
    streams: int = 1
    """Independent closed loops side by side, which take the phase's queries in turn."""
    decided: str | None = None
    """Why a rule ended the issuing."""


@dataclass
class Plan:
    """What is to be issued, and where an issuer enters what happened."""

    settings: EffectiveSettings
    phases: list[Phase]
    record: Record
    """The table; the columns sample_index and, where rows have a schedule, scheduled are filled."""
    answers: Answers
    knobs: Knobs
    """What advice names."""
    warm_up: WarmUp | None = None
    """Unmeasured queries before the first phase begins; the table has spare rows for them."""
    rule: StopRule | None = None
    """May end the performance phase before all of its rows are issued."""
    pauses: GarbagePauses = field(default_factory=GarbagePauses)
    """Of this process, from before the first phase to after the last."""
    on_begin: Callable[[Phase], object] = lambda phase: None
    """Called when a phase has begun, before its first row is issued."""
    reports: list[PhaseReport] = field(default_factory=list)

    def lasted_ns(self, phase: Phase) -> int:
        """From the phase's start to the last completion so far."""
        issued = self.record.completed[phase.first_row : self.answers.issued]
        return int(issued.max()) if issued.size else 0


class Issuer(Protocol):
    """Drives a plan's phases, in order, and leaves the columns filled.  Called in the order of the methods here."""

    def take(self, plan: Plan) -> None:
        """The plan, once, before anything else.  Raises ``UserError`` for plans that this issuer cannot drive."""

    async def open(self) -> None:
        """Get the system under test ready, untimed."""

    def load(self, phase: Phase) -> None:
        """Load the phase's samples, untimed."""

    async def issue(self, phase: Phase) -> None:
        """Issue the phase's rows, wait for their answers, and add a report of a phase that has begun to the plan's.

        A cancelled call ends the phase early, and still adds the report.
        """

    def unload(self, phase: Phase) -> None:
        """Release what ``load`` loaded."""

    async def close(self) -> None:
        """Release everything.  Also called when the run failed or was interrupted."""

    def reasons(self) -> list[str]:
        """Why the run is INVALID, beyond what the table shows; a line each."""

    def warnings(self) -> list[str]:
        """What a reader of the result must know; a line each."""

    def sections(self) -> dict[str, Any]:
        """Further sections of the result, by name; JSON-ready."""


class LocalIssuer:
    """Issues the rows to ``system``, on the running loop."""

    def __init__(
        self,
        system: SystemUnderTest,
        library: SampleLibrary,
        patience_s: float,
        start: Callable[[int], Awaitable[int]] | None = None,
    ) -> None:
        """``start`` gets the number of a phase and returns when it starts, ns of the monotonic clock; None: at once."""
        self._system, self._library, self._patience_s, self._start = system, library, patience_s, start
        self._plan: Plan
        self._decided: str | None = None
        self.warmed: WarmUpReport | None = None
        """What the warm-up has done so far; None before it, or without one."""

    def take(self, plan: Plan) -> None:
        self._plan = plan

    async def open(self) -> None:
        await self._system.open(self._plan.answers)
        if self._plan.warm_up is None:
            await self._begin_measuring()

    def load(self, phase: Phase) -> None:
        self._library.load(phase.loaded)

    async def issue(self, phase: Phase) -> None:
        plan, answers = self._plan, self._plan.answers
        if plan.warm_up is not None and self.warmed is None:
            self.warmed = WarmUpReport()
            await warm_up(plan.warm_up, phase, answers, self._system, self._patience_s, self.warmed, plan.knobs)
            await self._begin_measuring()
        with Pacer(answers.spin) as pacer:
            start_ns = None if self._start is None else await self._start(len(plan.reports))
            late_ns = 0 if start_ns is None else await pacer.until(start_ns) - start_ns
            before = Reading.now(plan.pauses)
            answers.begin(phase, start_ns)
            began, end = datetime.now(UTC), None
            background = [asyncio.ensure_future(self._publish(phase, pacer, before))]
            if plan.rule is not None and not phase.accuracy:
                background.append(asyncio.ensure_future(self._apply(plan.rule, phase)))
            plan.on_begin(phase)
            drain_s = None if plan.rule is None else plan.rule.drain_s
            limits = Limits.of(plan.settings, phase)
            try:
                end = await issue(phase, limits, self._system, answers, pacer, self._patience_s, drain_s)
            finally:
                for task in background:
                    task.cancel()
                overhead = before.until(Reading.now(plan.pauses))
                answers.give_up()
                if plan.settings.is_closed:
                    enter_dues(phase, answers)
                plan.reports.append(
                    PhaseReport(
                        phase=phase,
                        began=began,
                        end=end or (End.INTERRUPTED if answers.aborted is None else End.SYSTEM_GONE),
                        issued_rows=answers.issued - phase.first_row,
                        rows=slice(phase.first_row, answers.issued),
                        lasted_ns=plan.lasted_ns(phase),
                        overhead=overhead,
                        pacing=pacer.pacing,
                        start_late_ns=late_ns,
                        decided=self._decided,
                    )
                )

    def unload(self, phase: Phase) -> None:
        self._library.unload(phase.loaded)

    async def close(self) -> None:
        await self._system.close()

    def reasons(self) -> list[str]:
        return []

    def warnings(self) -> list[str]:
        return [] if self.warmed is None else self.warmed.warnings

    def sections(self) -> dict[str, Any]:
        return {} if self.warmed is None else {"warmup": asdict(self.warmed)}

    async def _begin_measuring(self) -> None:
        if isinstance(self._system, SelfMeasured):
            await self._system.begin_measuring()

    async def _publish(self, phase: Phase, pacer: Pacer, began: Reading) -> None:
        """Keep the table's gauges up to date, the run's progress and the generator's cost, and end a schedule of which
        a row, and all after it, have no good answer for the patience."""
        plan, gauges, answers = self._plan, self._plan.record.gauges, self._plan.answers
        watched = phase.scheduled is not None or answers.elsewhere is not None
        seen, row = -1, 0
        while True:
            answers.publish()
            good = gauges[Gauge.ANSWERED] - gauges[Gauge.FAILED]
            if good != seen:
                seen, row = good, answers.issued
            elif watched and row < answers.issued and not answers.enough:
                # A schedule goes on without answers, and other processes look at no patience, so it is looked at here.
                waited_ns = answers.now() - int(plan.record.issued[row])
                answers.enough = answers.hopeless = waited_ns > self._patience_s * 1e9
            gauges[Gauge.BUSY] = time.thread_time_ns() - began.thread_ns
            gauges[Gauge.STALL] = pacer.longest_stall_ns
            gauges[Gauge.GC_PAUSE] = plan.pauses.total_ns
            await asyncio.sleep(_PUBLISH_S)

    async def _apply(self, rule: StopRule, phase: Phase) -> None:
        """Check the rule repeatedly; once it gives a reason to stop, no more rows are issued."""
        plan, answers = self._plan, self._plan.answers
        tally = Tally(plan.record, phase, plan.settings, rule.bound_ns)
        while self._decided is None:
            await asyncio.sleep(_RULE_S)
            self._decided = rule.reached(tally.look(answers.issued, answers.now()))
        answers.enough = True
