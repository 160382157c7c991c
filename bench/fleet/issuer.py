"""Drives a plan by several generators: they issue it; it is drawn, logged and judged as the run of a single generator.

Handles the phases and puts the generators' parts together.  Does not depend on how hosts are reached or on a screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.fleet import division, merge
from drumfire.bench.fleet.child import Part
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.merge import is_known
from drumfire.bench.fleet.section import section
from drumfire.loadgen.issue import End
from drumfire.loadgen.issuer import PhaseReport, Plan
from drumfire.loadgen.overhead import Overhead, Reading
from drumfire.loadgen.pacer import Pacer, Pacing
from drumfire.loadgen.record import RowArray, Status
from drumfire.loadgen.traffic import Phase
from drumfire.loadgen.warm_up import WarmUpReport


class FleetIssuer:
    """The generators that ``options`` ask for.  Samples are loaded by them, not here."""

    def __init__(self, assembly: Assembly, options: RunOptions) -> None:
        self._assembly, self._options, self._wanted = assembly, options, options.system.fleet
        self._plan: Plan
        self.fleet: Fleet
        """After ``take``."""

    def take(self, plan: Plan) -> None:
        """Raises ``SettingsError`` for a limit that needs a view of the whole run."""
        self._plan = plan
        self._slices = division.slices(plan, self._wanted.parts)
        self._slices[0].limits(plan.settings)  # raises it here rather than in each generator
        self.fleet = division.fleet(plan, list(self._slices.values()), self._assembly, self._options)
        self._assembly.logged = lambda indices, responses: responses  # the generators did this

    async def open(self) -> None:
        await self.fleet.open()
        await self._assembly.window.begin(self.fleet, self._plan.answers)  # generators that are ready have warmed up

    def load(self, phase: Phase) -> None:
        pass

    async def issue(self, phase: Phase) -> None:
        plan, answers, number = self._plan, self._plan.answers, len(self._plan.reports)
        with Pacer() as pacer:
            start_ns = await self.fleet.begin(number)
            late_ns = await pacer.until(start_ns) - start_ns
            before = Reading.now(plan.pauses)
            answers.begin(phase, start_ns)
            began, end = datetime.now(UTC), None
            plan.on_begin(phase)
            issued = _Issued(slice(phase.first_row, phase.first_row), [])
            try:
                try:
                    await self.fleet.follow(number)
                except asyncio.CancelledError:
                    await self.fleet.halt(number, "the run was ended")
                    raise
                finally:
                    issued = self._put_back(phase, await self.fleet.collect(number))
                end = self._end(phase, issued)
            finally:
                overhead = before.until(Reading.now(plan.pauses))
                answers.give_up()
                known = plan.record.status[issued.span] != Status.MISSING
                rows: slice | RowArray = issued.span
                if not known.all():
                    rows = issued.span.start + np.flatnonzero(known)
                report = PhaseReport(
                    phase=phase,
                    began=began,
                    end=end or (End.INTERRUPTED if answers.aborted is None else End.SYSTEM_GONE),
                    issued_rows=int(np.count_nonzero(known)),
                    rows=rows,
                    lasted_ns=plan.lasted_ns(phase),
                    overhead=overhead,
                    pacing=pacer.pacing,
                    start_late_ns=late_ns,
                    streams=self._wanted.parts,
                )
                plan.reports.append(self._with_costs(report))

    def unload(self, phase: Phase) -> None:
        pass

    async def close(self) -> None:
        await self.fleet.close()
        await self._assembly.window.end()

    def reasons(self) -> list[str]:
        lines = [
            f"PARTIAL: {loss.name} was lost {loss.after_s:.1f} s after the start ({loss.reason}); "
            f"{self._missing(loss.last.part)}"
            for loss in self.fleet.lost.values()
        ]
        if self.fleet.aborted is not None:
            lines.append(f"The run was cut short: {self.fleet.aborted}.")
        return lines

    def warnings(self) -> list[str]:
        settings, parts = self._plan.settings, self._wanted.parts
        lines = [] if self._warmed is None else self._warmed.warnings
        if not settings.in_turn:
            return lines
        return [
            *lines,
            f"{parts} independent streams side by side, each of every {parts}-th query: not the reference's "
            f"{settings.kind}, which is a single stream",
        ]

    def sections(self) -> dict[str, Any]:
        sections = {"hosts": section(self._plan, self.fleet, self._wanted)}
        return sections if self._warmed is None else sections | {"warmup": asdict(self._warmed)}

    @property
    def _warmed(self) -> WarmUpReport | None:
        """The warm-ups of all generators that have reported; they go on side by side."""
        parts = [WarmUpReport(**one["warmup"]) for one in self.fleet.messages.values() if one["warmup"] is not None]
        return merge.warmed_of(parts) if self._plan.warm_up is not None else None

    def _put_back(self, phase: Phase, parts: Sequence[Part]) -> _Issued:
        """Enter what the generators did into the whole table and its answers."""
        record, answers = self._plan.record, self._plan.answers
        end = merge.put_back(record, phase.first_row, phase.first_row + phase.rows, self._slices, parts)
        answers.issued = end
        answers.answered = int(np.count_nonzero(is_known(record.status[:end])))
        merge.put_answers(answers, self._slices, self.fleet.messages, parts)
        ends = [End[part.message["report"]["end"]] for part in parts if part.message and part.message["report"]]
        return _Issued(slice(phase.first_row, end), ends)

    def _end(self, phase: Phase, issued: _Issued) -> End:
        most = self._plan.settings.max_query_count
        whole = min(phase.query_count, most or phase.query_count)
        return merge.end_of(
            issued.ends,
            lost=bool(self.fleet.lost),
            all_issued=issued.span.stop - phase.first_row >= whole * phase.samples_per_query,
            limited=bool(most) and not phase.accuracy,
        )

    def _with_costs(self, report: PhaseReport) -> PhaseReport:
        """The report with the figures of the generators, where any has reported, instead of this process's."""
        by_part = {part: one["report"] for part, one in self.fleet.messages.items() if one["report"] is not None}
        if not by_part:
            return report
        reports = list(by_part.values())
        host_of = {one.slice.part: crew.name for crew in self.fleet.crews for one in crew.assignments}
        return replace(
            report,
            overhead=merge.overhead_of([Overhead(**one["overhead"]) for one in reports], [host_of[p] for p in by_part]),
            pacing=merge.pacing_of([Pacing(**one["pacing"]) for one in reports]),
            start_late_ns=max(one["start_late_ns"] for one in reports),
        )

    def _missing(self, part: int) -> str:
        """How much is known of a lost generator's rows."""
        record, own = self._plan.record, self._slices[part]
        share = own.count(record.rows)
        known = int(np.count_nonzero(is_known(record.status[own.whole(np.arange(share))])))
        return f"of its {share:,} samples {known:,} are known"


@dataclass(frozen=True)
class _Issued:
    """What the generators issued of a phase."""

    span: slice
    """The phase's rows up to the last issued row."""
    ends: Sequence[End]
    """How it ended for each generator that reported."""
