"""One test from settings to results: draw the traffic, drive the system through every phase, evaluate the table.

Calls the parts in order and keeps what they return.  Writes no file (``directory`` does) and shows nothing (other
processes can watch the table in ``record``).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TextIO

import numpy as np

from drumfire.loadgen import environment, interpreter, logs
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.confidence import StopRule, Tally
from drumfire.loadgen.early_stopping import least_queries
from drumfire.loadgen.issue import End, Limits, issue
from drumfire.loadgen.overhead import GarbagePauses, Overhead, Reading
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.record import Gauge, Record, RowArray, Status, bytes_per_row
from drumfire.loadgen.results import Measured, Results, evaluate
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.share import Share
from drumfire.loadgen.system import SampleLibrary, SystemUnderTest
from drumfire.loadgen.traffic import Phase, draw, expected_rows
from drumfire.loadgen.version import VERSION

DEFAULT_PATIENCE_S = 120.0
"""How long a run waits without any answer before it gives up on the outstanding rows."""

_PUBLISH_S = 0.2
"""Between updates of the table's gauges."""
_RULE_S = 0.1
"""Between checks of the rule that may end the run."""
_DRAWN_BYTES = 20
"""Memory per row that drawing the traffic and evaluating the results need beside the table."""


@dataclass(frozen=True)
class PhaseReport:
    """How one phase went."""

    phase: Phase
    began: datetime
    end: End
    issued_rows: int
    lasted_ns: int
    """From the phase's start to its last completion."""
    overhead: Overhead
    pacer_window_ns: int
    pacer_spun_ns: int
    longest_stall_ns: int
    """The longest wait of the loop's other work, for a burst of issuing or a late wake-up."""
    realtime_ns: int
    """How long the issuing thread ran with real-time priority."""
    exact_timer: bool
    start_late_ns: int = 0
    """Delay of the start, where several generators agreed on one."""


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
        patience_s: float = DEFAULT_PATIENCE_S,
        rule: StopRule | None = None,
        share: Share | None = None,
        log: logs.DetailLog | None = None,
        timestamps: TextIO | None = None,
    ) -> None:
        """``rule`` may end the performance phase before all of its traffic is issued.  ``share`` is this generator's
        part of the test, if others do the rest.  ``log`` is an open log to continue.  ``timestamps`` is where the
        timestamps of ``print_timestamps`` go; by default, standard output.
        """
        if library.performance_count < 1:
            raise SettingsError("the library's performance count must be at least 1")
        self.system, self.library, self.requested = system, library, requested
        self.patience_s, self.rule, self.share, self._timestamps = patience_s, rule, share, timestamps
        self.effective = effective(requested, library.total_count, library.performance_count)
        if rule is not None and rule.limit_ms is not None:
            self.effective = replace(self.effective, target_duration_ms=rule.limit_ms)
        self.log = logs.DetailLog() if log is None else log
        if log is None:
            self._put_head(config_warnings, config_errors)
        row_bytes = bytes_per_row(system.columns) + _DRAWN_BYTES
        _check_memory(expected_rows(self.effective, library.total_count) * row_bytes)
        self.phases = draw(self.effective, library.total_count)
        if share is None:
            self.record = Record(sum(phase.rows for phase in self.phases), system.columns)
        else:
            self.phases = share.slice.of(self.phases, self.effective.max_query_count)
            self.effective = share.slice.limits(self.effective)
            self.record = share.record
        self.phases = [self._enter(phase) for phase in self.phases]
        closed = requested.scenario in (Scenario.SingleStream, Scenario.MultiStream)
        self.answers = Answers(self.record, closed_loop=closed)
        self.reports: list[PhaseReport] = []
        self.started: datetime | None = None
        self.interrupted: str | None = None
        """Why the run was cut short."""
        self.decided: str | None = None
        """Why the rule ended the issuing."""
        self._task: asyncio.Task[None] | None = None
        self._results: Results | None = None
        self._pauses = GarbagePauses()
        self.announcements: tuple[list[str], list[str]] = ([], [])
        """Messages of a peak search for the log, before the samples are loaded and after."""

    def _put_head(self, config_warnings: tuple[str, ...], config_errors: tuple[str, ...]) -> None:
        library = self.library
        logs.put_version(self.log, VERSION)
        began_ns = time.monotonic_ns()
        name = self.system.name
        name_ns = time.monotonic_ns() - began_ns
        logs.put_test(self.log, name, library.name, library.total_count, library.performance_count, name_ns)
        for text in config_warnings:
            self.log.warning(text)
        for text in config_errors:
            self.log.error("error_invalid_config", text)
        for text in self.effective.errors:
            self.log.error("error_invalid_test_settings", text)
        logs.put_requested(self.log, self.requested)
        logs.put_effective(self.log, self.effective)

    def _enter(self, phase: Phase) -> Phase:
        """Copy a phase's traffic into the table; the returned phase refers to the table, so nothing is held twice."""
        rows = slice(phase.first_row, phase.first_row + phase.rows)
        self.record.sample_index[rows] = phase.sample_index
        if phase.scheduled is None:
            return replace(phase, sample_index=self.record.sample_index[rows])
        self.record.scheduled[rows] = phase.scheduled
        return replace(phase, sample_index=self.record.sample_index[rows], scheduled=self.record.scheduled[rows])

    def foreseen(self) -> list[str]:
        """Why this test can only end INVALID, from its settings alone, each with what to do about it."""
        s = self.effective
        if s.mode == Mode.AccuracyOnly:
            return []
        warnings = []
        queries = self.phases[-1].query_count
        if s.max_query_count:
            queries = min(queries, s.max_query_count)
        if s.scenario == Scenario.Server:
            least = least_queries(s.target_latency_percentile)
            if queries < least:
                advice = f"raise --time to {least / s.target_qps:.0f} s or more, or --qps"
                if s.max_query_count:
                    advice = f"raise --count to {least} or more, or leave it out"
                warnings.append(
                    f"this run can only be INVALID: {queries} queries are fewer than the {least} that early stopping "
                    f"needs for p{s.target_latency_percentile * 100:g}; {advice}"
                )
            last_due = int(self.record.scheduled[self.phases[-1].first_row + queries - 1])
            if last_due < s.min_duration_ms * 1_000_000:
                warnings.append(
                    f"this run can only be INVALID: its {queries} queries are all due within {last_due * 1e-9:.2f} s, "
                    f"before the minimum duration of {s.min_duration_ms / 1000:g} s; leave --count out, or lower --time"
                )
        return warnings

    async def run(self) -> None:
        """Open the system, drive it through every phase, close it.  After an ``interrupt``, all data so far is kept."""
        self.started = datetime.now(UTC)
        self._task = task = asyncio.current_task()
        assert task is not None
        opened = False
        self.answers.on_abort = task.cancel
        try:
            if self.interrupted is None:
                opened = True
                await self.system.open(self.answers)
                with interpreter.quiet(), self._pauses:
                    await self._run_phases()
        except asyncio.CancelledError:
            if self.interrupted is None and self.answers.aborted is None:
                raise
            task.uncancel()  # this class cancelled the task, and handles it here
        finally:
            self._task = self.answers.on_abort = None
            self.record.gauges[Gauge.DONE] = 1
            self.answers.give_up()
            if opened:
                await self.system.close()
        faults = self.answers.faults
        for text, count in (*faults.failed.items(), *faults.refused.items()):
            self.log.error("error_runtime", f"{text} ({count} times)")
        if faults.unanswered:
            self.log.error("error_runtime", f"{faults.unanswered} samples were never answered")
        for text, count in self._token_faults().items():
            self.log.error("error_runtime", f"{text} ({count} times)")
        for why in (self.interrupted, self.answers.aborted):
            if why is not None:
                self.log.error("error_runtime", why)

    def interrupt(self, reason: str) -> None:
        """End the run soon; call this on the run's loop.  All data so far is kept, and the result is INVALID."""
        self.interrupted = self.interrupted or reason
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
            self.library.load(phase.loaded)
            # As in the reference, a trial's own text comes between the loaded set and the rest of the traffic.
            logs.put_loaded(self.log, phase)
            for text in self.announcements[1]:
                self.log.message(text)
            logs.put_traffic(self.log, phase)
            try:
                end = await self._run_phase(phase)
            finally:
                self.library.unload(phase.loaded)
            if end == End.NO_ANSWER:
                break

    async def _run_phase(self, phase: Phase) -> End:
        with Pacer() as pacer:
            start_ns = await self._agreed_start()
            late_ns = 0 if start_ns is None else await pacer.until(start_ns) - start_ns
            before = Reading.now(self._pauses)
            self.answers.begin(phase, start_ns)
            began, end = datetime.now(UTC), None
            background = [asyncio.ensure_future(self._publish(pacer, before))]
            if self.rule is not None and not phase.accuracy:
                background.append(asyncio.ensure_future(self._apply(self.rule, phase)))
            timestamps = self.effective.print_timestamps and not phase.accuracy
            if timestamps:
                self._print(f"Perf mode start. system_clock Timestamp = {time.time():.0f}")
            wall_ns = time.time_ns()
            try:
                end = await self._issue(phase, pacer)
            finally:
                for task in background:
                    task.cancel()
                overhead = before.until(Reading.now(self._pauses))
                self.answers.give_up()
                issued = self.answers.issued - phase.first_row
                rows = slice(phase.first_row, phase.first_row + issued)
                lasted_ns = int(self.record.completed[rows].max()) if issued else 0
                self.reports.append(
                    PhaseReport(
                        phase,
                        began,
                        end or (End.INTERRUPTED if self.answers.aborted is None else End.SYSTEM_GONE),
                        issued,
                        lasted_ns,
                        overhead,
                        pacer.window_ns,
                        pacer.spun_ns,
                        pacer.longest_stall_ns,
                        pacer.priority.raised_ns,
                        pacer.exact_timer,
                        late_ns,
                    )
                )
        if timestamps:
            self._print_duration(int(overhead.wall_s * 1e9), time.time_ns() - wall_ns)
        if end.is_error:
            self.log.error("error_runtime", end.value)
        elif end == End.DECIDED:
            self.log.message(f"{end.value} {self.decided}.")
        elif self.effective.scenario != Scenario.Server and not phase.accuracy:
            self.log.message(end.value)
        logs.put_phase_end(self.log, began, lasted_ns)
        return end

    async def _agreed_start(self) -> int | None:
        """When the next phase starts, ns of the monotonic clock; None for at once."""
        return None if self.share is None else await self.share.start(len(self.reports))

    async def _issue(self, phase: Phase, pacer: Pacer) -> End:
        """Issue a phase's rows and wait for their answers."""
        limits = Limits.of(self.effective, phase)
        drain_s = None if self.rule is None else self.rule.drain_s
        return await issue(phase, limits, self.system, self.answers, pacer, self.patience_s, drain_s)

    async def _publish(self, pacer: Pacer, began: Reading) -> None:
        """Keep the table's gauges up to date: the run's progress and the generator's cost."""
        gauges = self.record.gauges
        while True:
            self.answers.publish()
            gauges[Gauge.BUSY] = time.thread_time_ns() - began.thread_ns
            gauges[Gauge.STALL] = pacer.longest_stall_ns
            gauges[Gauge.GC_PAUSE] = self._pauses.total_ns
            await asyncio.sleep(_PUBLISH_S)

    async def _apply(self, rule: StopRule, phase: Phase) -> None:
        """Check the rule repeatedly; once it gives a reason to stop, no more rows are issued."""
        tally = Tally(self.record, phase, self.effective, rule.bound_ns)
        while self.decided is None:
            await asyncio.sleep(_RULE_S)
            self.decided = rule.reached(tally.look(self.answers.issued, self.answers.now()))
        self.answers.enough = True

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

    def _token_faults(self) -> dict[str, int]:
        """How many rows have impossible token figures, by the reference's words for the error."""
        columns, issued = self.record.columns, self.record.issued_rows
        if not self._by_tokens:
            return {}
        good = self.record.status[:issued] == Status.OK
        counts = {"Number of tokens need to be greater than 1": columns["n_tokens"][:issued] < 2}
        if self.effective.scenario != Scenario.Offline:
            late = columns["first_token"][:issued] == 0
            counts["Attempted to record a sample latency before it's first token latency"] = late
        return {text: int(count) for text, rows in counts.items() if (count := np.count_nonzero(rows & good))}

    def spoiled(self) -> list[str]:
        """What makes the run INVALID beyond the reference's rules, one line per reason."""
        faults, lines = self.answers.faults, []
        if self.interrupted is not None:
            lines.append(f"The run was cut short: {self.interrupted}.")
        if self.answers.aborted is not None:
            lines.append(f"The system under test is gone: {self.answers.aborted}")
        if any(report.end == End.NO_ANSWER for report in self.reports):
            lines.append(
                f"The system stopped answering: no answer came for {self.patience_s:g} s "
                "(raise --patience if it is only slow)."
            )
        if failed := faults.failed.total():
            reason, _ = faults.failed.most_common(1)[0]
            lines.append(f"{failed} of {self.record.issued_rows} samples failed, most often with: {reason}")
        if faults.unanswered:
            lines.append(f"{faults.unanswered} of {self.record.issued_rows} samples were never answered.")
        for why, count in faults.refused.items():
            lines.append(f"The system gave {why} ({count} times).")
        for text, count in self._token_faults().items():
            lines.append(f"{text} ({count} of {self.record.issued_rows} samples).")
        if self.rule is not None and self.rule.objection is not None:
            lines.append(self.rule.objection)
        return lines

    def results(self) -> Results | None:
        """Figures and verdict of the performance phase; None without one, or when it issued no query."""
        report = next((r for r in self.reports if not r.phase.accuracy), None)
        if self._results is None and report is not None and report.issued_rows:
            self._results = evaluate(self.effective, self.measured(report), self.spoiled())
        return self._results

    def rows(self, report: PhaseReport) -> slice | RowArray:
        """The issued rows of a phase, whole queries only."""
        first, width = report.phase.first_row, report.phase.samples_per_query
        return slice(first, first + report.issued_rows // width * width)

    def streams(self, report: PhaseReport) -> list[slice | RowArray]:
        """The same rows, split by closed loop: here, one."""
        return [self.rows(report)]

    def measured(self, report: PhaseReport) -> Measured:
        """The columns of a phase, whole queries only."""
        return self._columns_of(self.rows(report), report.phase.samples_per_query)

    def _columns_of(self, rows: slice | RowArray, width: int) -> Measured:
        record, tokens = self.record, self._by_tokens
        return Measured(
            record.scheduled[rows],
            record.issued[rows],
            record.completed[rows],
            np.equal(record.status[rows], Status.OK),
            width,
            record.columns["first_token"][rows] if tokens else None,
            record.columns["n_tokens"][rows] if tokens else None,
        )


def _check_memory(needed_bytes: int) -> None:
    available = environment.available_memory_bytes()
    if available is not None and needed_bytes > available:
        raise SettingsError(
            f"this run's queries need about {needed_bytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available: lower --qps or --time"
        )
