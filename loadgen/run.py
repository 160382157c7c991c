"""One test from settings to results: draw the traffic, have an issuer drive every phase, evaluate the table.

Calls the parts in order and keeps what they return; does not know who issues.  Writes no file (``directory`` does) and
shows nothing (other processes can watch the table in ``record``).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TextIO

import numpy as np

from drumfire.loadgen import interpreter, limits, logs, schedules
from drumfire.loadgen.advice import Knobs, foreseen, of_settings, on_size
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.confidence import StopRule
from drumfire.loadgen.draws import Int64Array
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.issue import End
from drumfire.loadgen.issuer import Issuer, LocalIssuer, PhaseReport, Plan
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import Column, Gauge, Record, RowArray, Status, by_stream, bytes_per_row
from drumfire.loadgen.results import Measured, Results, evaluate
from drumfire.loadgen.schedules import Schedule
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.share import Share
from drumfire.loadgen.system import SampleLibrary, SystemUnderTest
from drumfire.loadgen.traffic import DRAWN_BYTES, Phase, draw, expected_rows
from drumfire.loadgen.version import VERSION
from drumfire.loadgen.warm_up import WarmUp
from drumfire.loadgen.wording import counted

DEFAULT_PATIENCE_S = 120.0
"""How long a run waits without a good answer before it gives up on the outstanding rows."""

CUT_SHORT = "The run was cut short"
"""How the reason begins of a run that did not come to its own end."""
_SAVING_BYTES = 48 << 20
"""Memory that evaluating and saving a run take beside what its rows need: at most 45 MB were measured."""


class Test:
    """A test of ``system`` over ``library``.  The constructor draws the traffic; call ``run`` once.

    Raises ``SettingsError`` for settings that no test can follow.
    """

    __test__ = False  # pytest takes classes called Test* for tests

    def __init__(
        self,
        system: SystemUnderTest,
        library: SampleLibrary,
        requested: TestSettings,
        *,
        config_warnings: tuple[str, ...] = (),
        config_errors: tuple[str, ...] = (),
        audit_errors: tuple[str, ...] = (),
        patience_s: float = DEFAULT_PATIENCE_S,
        rule: StopRule | None = None,
        schedule: Schedule = schedules.DEFAULT,
        warm_up: WarmUp | None = None,
        share: Share | None = None,
        issuer: Issuer | None = None,
        log: logs.DetailLog | None = None,
        timestamps: TextIO | None = None,
        knobs: Knobs | None = None,
        spin: Spin = Spin.ADAPTIVE,
    ) -> None:
        """``config_errors`` are from before the test, ``audit_errors`` from its audit file.  ``rule`` may end the
        performance phase before all of its traffic is issued.  ``schedule`` is the arrival
        process of Server; by default, MLPerf's.  ``warm_up`` comes before the first phase.  ``share`` is this
        generator's part of the test, if others do the rest.  ``issuer`` drives the test; by default, this process does.
        ``log`` is an open log to continue.  ``timestamps`` is where the timestamps of ``print_timestamps`` go; by
        default, standard output.  ``knobs`` are what the user sets, which advice names; by default, the settings.
        ``spin`` is how Server waits until a query is due.
        """
        if library.performance_count < 1:
            raise SettingsError("the library's performance count must be at least 1")
        self.system, self.library, self.requested = system, library, requested
        self.knobs = of_settings(requested.scenario) if knobs is None else knobs
        self.patience_s, self._timestamps = patience_s, timestamps
        self.schedule = schedule
        self.effective = effective(requested, library.total_count, library.performance_count)
        if rule is not None and rule.limit_ms is not None:
            self.effective = replace(self.effective, target_duration_ms=rule.limit_ms)
        self.log = logs.DetailLog() if log is None else log
        if log is None:
            self._put_head(config_warnings, config_errors, audit_errors)
        if share is None:
            row_bytes = bytes_per_row(system.columns) + DRAWN_BYTES
            self._check_memory(expected_rows(self.effective, library.total_count) * row_bytes)
            drawn = draw(self.effective, library.total_count, self.schedule)
            spare = 0 if warm_up is None else warm_up.rows(self.effective.query_width)
            self.record = Record(sum(phase.rows for phase in drawn), system.columns, spare)
            self.phases = [phase.entered(self.record) for phase in drawn]
        else:
            self.effective = share.slice.limits(self.effective)
            self.record, self.phases = share.record, list(share.phases)
        if self.effective.scenario != Scenario.Server:
            spin = Spin.ADAPTIVE  # nothing is waited for
        self.answers = Answers(self.record, in_turn=self.effective.in_turn, spin=spin)
        self.plan = Plan(
            self.effective, self.phases, self.record, self.answers, self.knobs, warm_up, rule, on_begin=self._on_begin
        )
        self.reports = self.plan.reports
        if issuer is None:
            issuer = LocalIssuer(system, library, patience_s, None if share is None else share.start)
        self.issuer = issuer
        issuer.take(self.plan)
        self.started: datetime | None = None
        self.interrupted: str | None = None
        """Why the run was cut short."""
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._results: Results | None = None
        self._told: Counter[str] = Counter()
        """Refused answers that are in the log."""
        self._told_rows = 0
        """Rows whose faults are in the log."""
        self._wall_ns = 0
        """When the current phase began, by the wall clock."""
        self.announcements: tuple[list[str], list[str]] = ([], [])
        """Messages of a peak search for the log, before the samples are loaded and after."""

    def _put_head(
        self, config_warnings: tuple[str, ...], config_errors: tuple[str, ...], audit_errors: tuple[str, ...]
    ) -> None:
        library = self.library
        for text in config_errors:
            self.log.error("error_invalid_config", text)
        logs.put_version(self.log, VERSION)
        began_ns = time.monotonic_ns()
        name = self.system.name
        name_ns = time.monotonic_ns() - began_ns
        logs.put_test(self.log, name, library.name, library.total_count, library.performance_count, name_ns)
        for text in (*config_warnings, *self.departures()):
            self.log.warning(text)
        for text in audit_errors:
            self.log.error("error_invalid_config", text)
        if self.requested.test05:
            self.log.warning("Test05 flag detected Overriding random seeds")
        for text in self.effective.errors:
            self.log.error("error_invalid_test_settings", text)
        logs.put_requested(self.log, self.requested)
        logs.put_effective(self.log, self.effective)

    def _check_memory(self, rows_bytes: int) -> None:
        memory, needed_bytes = limits.available_memory(), rows_bytes + _SAVING_BYTES
        if memory is not None and needed_bytes > memory.available:
            smaller = f"{on_size(self.effective, self.knobs)}, or " if rows_bytes > _SAVING_BYTES else ""
            raise SettingsError(
                f"this run needs about {needed_bytes / 1e9:,.3g} GB of memory for its queries, and "
                f"{memory.available / 1e9:,.3g} GB are available{memory.limit}: {smaller}give it more"
            )

    def departures(self) -> list[str]:
        """How this test's traffic differs from that of any MLPerf scenario; a line each."""
        if self.effective.is_closed:
            return [
                f"a closed loop of {self.effective.concurrency} is not an MLPerf scenario, so MLPerf's rules do not "
                "apply: VALID says that every query was answered, for as long as was asked"
            ]
        if self.effective.scenario != Scenario.Server or self.schedule.mlperf:
            return []
        return [f"{self.schedule.name} arrivals: MLPerf's Server has others, so compare with runs of this kind only"]

    def foreseen(self) -> list[str]:
        """Why this test can only end INVALID, from its settings alone, each with what to do about it."""
        s = self.effective
        if s.mode == Mode.AccuracyOnly or s.scenario != Scenario.Server:
            return []
        queries = self.phases[-1].query_count
        if s.max_query_count:
            queries = min(queries, s.max_query_count)
        last_due_ns = int(self.record.scheduled[self.phases[-1].first_row + queries - 1])
        return list(foreseen(s, queries, last_due_ns, self.knobs))

    @property
    def running(self) -> bool:
        """Whether ``run`` has begun and has not ended."""
        return self.started is not None and not self._ended

    async def run(self) -> None:
        """Open the system, drive it through every phase, close it: once, else ``UserError``.

        All data so far is kept after an ``interrupt``, and where this is cancelled or raises.
        """
        if self.started is not None:
            raise UserError("a test runs once, and this one has begun already: make another Test")
        self.started = datetime.now(UTC)
        self._task = task = asyncio.current_task()
        assert task is not None
        opened = False
        self.answers.on_abort = task.cancel
        try:
            if self.interrupted is None:
                opened = True
                await self.issuer.open()
                with interpreter.quiet(), self.plan.pauses:
                    await self._run_phases()
        except asyncio.CancelledError:
            if self.interrupted is None and self.answers.aborted is None:
                self.interrupted = "its task was cancelled"
                raise
            task.uncancel()  # this class cancelled the task, and handles it here
        except Exception as error:
            self.interrupted = self.interrupted or described(error)
            raise
        finally:
            self._task = self.answers.on_abort = None
            self.record.gauges[Gauge.DONE] = 1
            self.answers.give_up()
            try:
                if opened:
                    await self.issuer.close()
            finally:
                self._ended = True
                self._log_faults()

    def _log_refused(self) -> None:
        """What was wrong with the answers since the last call, as the reference tells it: an entry for each."""
        refused = Counter(self.answers.faults.refused)
        logs.put_refused(self.log, refused - self._told)
        logs.put_token_faults(self.log, self._token_faults(self._told_rows).tolist())
        self._told, self._told_rows = refused, self.record.issued_rows

    def _log_faults(self) -> None:
        self._log_refused()
        faults = self.answers.faults
        for text, count in faults.failed.items():
            self.log.error("error_runtime", f"{text} ({count} times)")
        if faults.unanswered:
            self.log.error("error_runtime", f"{faults.unanswered} samples were never answered")
        for why in (self.interrupted, self.answers.aborted):
            if why is not None:
                self.log.error("error_runtime", why)

    def interrupt(self, reason: str) -> None:
        """End the run soon; call this on the run's loop.  All data so far is kept, and the result is INVALID."""
        if self.interrupted is None:  # only once: what follows the first must not be cut short
            self.interrupted = reason
            if self._task is not None:
                self._task.cancel()

    async def _run_phases(self) -> None:
        announced = None
        for phase in self.phases:
            if phase.accuracy != announced:
                announced = phase.accuracy
                if self.effective.mode != Mode.FindPeakPerformance:
                    self.log.message(f"Starting {'accuracy' if phase.accuracy else 'performance'} mode")
            for text in self.announcements[0]:
                self.log.message(text)
            self.issuer.load(phase)
            # As in the reference, a trial's own text comes between the loaded set and the rest of the traffic.
            logs.put_loaded(self.log, phase)
            for text in self.announcements[1]:
                self.log.message(text)
            logs.put_traffic(self.log, phase)
            try:
                report = await self._run_phase(phase)
            finally:
                self.issuer.unload(phase)
            if report.end == End.NO_ANSWER or self.answers.aborted is not None:
                break

    async def _run_phase(self, phase: Phase) -> PhaseReport:
        await self.issuer.issue(phase)
        report = self.reports[-1]
        if self._prints(phase):
            self._print_duration(int(report.overhead.wall_s * 1e9), time.time_ns() - self._wall_ns)
        self._log_refused()
        issued = self.record.columns["issued"][report.rows]
        logs.put_end(self.log, report, self.effective, int(issued[-1]) if issued.size else 0)
        logs.put_phase_end(self.log, report.began, report.lasted_ns)
        return report

    def _on_begin(self, phase: Phase) -> None:
        if self._prints(phase):
            self._print(f"Perf mode start. system_clock Timestamp = {time.time():.0f}")
        self._wall_ns = time.time_ns()

    def _prints(self, phase: Phase) -> bool:
        return self.effective.print_timestamps and not phase.accuracy

    def _print(self, text: str) -> None:
        print(f"Loadgen :: {text}", file=self._timestamps, flush=True)

    def _print_duration(self, run_ns: int, wall_ns: int) -> None:
        self._print(f"Perf mode stop. systme_clock Timestamp = {time.time():.0f}")  # the reference's spelling
        self._print(f"PerfClock Perf duration = {run_ns // 1_000_000}ms")
        self._print(f"system_clock Perf duration = {wall_ns // 1_000_000}ms")
        self._print(f"PerfClock/system_clock ratio = {run_ns / max(wall_ns, 1):.4f}")

    @property
    def _by_tokens(self) -> bool:
        return self.effective.use_token_latencies and self.record.has_tokens

    def _token_faults(self, first_row: int = 0) -> Int64Array:
        """What is impossible in the rows' token figures, row by row, as places in ``logs.TOKEN_FAULTS``: shape (n,)."""
        if not self._by_tokens:
            return np.empty(0, np.int64)
        rows = slice(first_row, self.record.issued_rows)
        tokens = self.record.columns["n_tokens"][rows]
        early = np.full(tokens.shape, -1)
        if self.effective.scenario != Scenario.Offline:
            early = np.where(self.record.columns["first_token"][rows] == 0, 0, -1)
        number = np.select([tokens == 0, tokens < 0, tokens == 1], [1, 2, 3], -1)
        found: Int64Array = np.stack([early, number], axis=1)[self.record.status[rows] == Status.OK].ravel()
        return found[found >= 0]

    def spoiled(self) -> list[str]:
        """What makes the run INVALID beyond the reference's rules, one line per reason."""
        faults, lines = self.answers.faults, self.issuer.reasons()
        if self.interrupted is not None:
            lines.append(f"{CUT_SHORT}: {self.interrupted}.")
        if self.answers.aborted is not None:
            lines.append(f"The system under test is gone: {self.answers.aborted}")
        if any(report.end == End.NO_ANSWER for report in self.reports):
            lines.append(
                f"The system stopped answering: no good answer came for {self.patience_s:g} s "
                f"(raise {self.knobs.patience} if it is only slow)."
            )
        if failed := faults.failed.total():
            reason, _ = faults.failed.most_common(1)[0]
            lines.append(f"{failed} of {self.record.issued_rows} samples failed, most often with: {reason}")
        if faults.unanswered:
            lines.append(f"{faults.unanswered} of {self.record.issued_rows} samples were never answered.")
        for why, count in faults.refused.items():
            lines.append(f"The system gave {why} ({counted(count, 'time')}).")
        for fault, count in Counter(self._token_faults().tolist()).items():
            lines.append(f"{logs.TOKEN_FAULTS[fault]} ({count} of {self.record.issued_rows} samples).")
        if self.plan.rule is not None and self.plan.rule.objection is not None:
            lines.append(self.plan.rule.objection)
        return lines

    def results(self) -> Results | None:
        """Figures and verdict of the performance phase; None without one, or when it issued no query."""
        report = next((r for r in self.reports if not r.phase.accuracy), None)
        if self._results is None and report is not None and report.issued_rows:
            self._results = evaluate(self.effective, self.measured(report), self.spoiled(), self.knobs)
        return self._results

    @property
    def judged(self) -> list[PhaseReport]:
        """The phases that the result's figures are of: the performance phase, or where none began, all."""
        return [report for report in self.reports if not report.phase.accuracy] or self.reports

    @property
    def columns(self) -> dict[str, Column]:
        """The issued rows of these phases, by column."""
        parts = [report.rows for report in self.judged] or [slice(0)]
        return {
            name: column[parts[0]] if len(parts) == 1 else np.concatenate([column[rows] for rows in parts])
            for name, column in self.record.columns.items()
        }

    def measured(self, report: PhaseReport) -> Measured:
        """The columns of a phase, whole queries only."""
        # Only a part of Offline's query may have been issued: the run is judged by that part, and is INVALID.
        width = min(report.phase.samples_per_query, max(report.issued_rows, 1))
        return Measured.of(self.record.columns, report.rows, width, tokens=self._by_tokens)

    def streams(self, report: PhaseReport) -> list[slice | RowArray]:
        """The rows of a phase, by independent closed loop."""
        return by_stream(report.rows, self.record.rows, report.phase.samples_per_query, report.streams)
