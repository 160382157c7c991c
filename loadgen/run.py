"""One test from settings to results: draw the traffic, drive the system through every phase, judge what was measured.

The conductor: it calls the parts in order and keeps what they told.  It writes no file (see ``directory``) and shows
nothing (the table in ``record`` can be watched meanwhile).
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TextIO, TypeVar

import numpy as np

from drumfire.loadgen import environment, logs
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
"""How long a run waits without any answer before it gives the outstanding rows up."""

_TELL_S = 0.2
_ASK_S = 0.1
"""How often a rule that may end the run is asked."""

T = TypeVar("T")


def run_on_fast_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, or on the standard loop where uvloop is absent."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


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
    """The longest that the loop's other work had to wait: for a burst of issuing, or for a late wake-up."""
    realtime_ns: int
    """How long the issuing thread ran with real-time priority."""
    exact_timer: bool
    start_late_ns: int = 0
    """How long after its start it began, where that was agreed with other generators."""


class Test:
    """A test of ``system`` over ``library``.  Its traffic is drawn at once; ``run`` does it, once.

    Raises ``SettingsError`` where the settings make no test.
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
        """``rule`` may end the performance phase before its traffic is out.  ``share``: do this part of the test, and
        others do the rest.  ``log``: go on with this log, whose head is written.  ``timestamps`` is where they go if
        the settings ask for them (standard output as a default).
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
        _check_memory(
            expected_rows(self.effective, library.total_count) * (bytes_per_row(system.columns) + _DRAWN_BYTES)
        )
        self.phases = draw(self.effective, library.total_count)
        if share is None:
            self.record = Record(sum(phase.rows for phase in self.phases), system.columns)
        else:
            self.phases = share.slice.of(self.phases, self.effective.max_query_count)
            self.effective = share.slice.limits(self.effective)
            self.record = share.record
        self.phases = [self._entered(phase) for phase in self.phases]
        closed = requested.scenario in (Scenario.SingleStream, Scenario.MultiStream)
        self.answers = Answers(self.record, closed_loop=closed)
        self.reports: list[PhaseReport] = []
        self.started: datetime | None = None
        self.interrupted: str | None = None
        """Why the run was cut short, if it was."""
        self.decided: str | None = None
        """Why the rule ended the issuing, if it did."""
        self._task: asyncio.Task[None] | None = None
        self._results: Results | None = None
        self._pauses = GarbagePauses()
        self.announcements: tuple[list[str], list[str]] = ([], [])
        """For the log: what to say of a peak search's trial, before its samples are loaded and after."""

    def _put_head(self, config_warnings: tuple[str, ...], config_errors: tuple[str, ...]) -> None:
        library = self.library
        logs.put_version(self.log, VERSION)
        asked = time.monotonic_ns()
        name = self.system.name
        asked = time.monotonic_ns() - asked
        logs.put_test(self.log, name, library.name, library.total_count, library.performance_count, asked)
        for text in config_warnings:
            self.log.warning(text)
        for text in config_errors:
            self.log.error("error_invalid_config", text)
        for text in self.effective.errors:
            self.log.error("error_invalid_test_settings", text)
        logs.put_requested(self.log, self.requested)
        logs.put_effective(self.log, self.effective)

    def _entered(self, phase: Phase) -> Phase:
        """Enter a phase's traffic in the table; it then refers to the table, so that nothing is held twice."""
        rows = slice(phase.first_row, phase.first_row + phase.rows)
        self.record.sample_index[rows] = phase.sample_index
        if phase.scheduled is None:
            return replace(phase, sample_index=self.record.sample_index[rows])
        self.record.scheduled[rows] = phase.scheduled
        return replace(phase, sample_index=self.record.sample_index[rows], scheduled=self.record.scheduled[rows])

    def foreseen(self) -> list[str]:
        """Why this test can only end INVALID, told from its settings alone, each with its mend."""
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
                mend = f"raise --time to {least / s.target_qps:.0f} s or more, or --qps"
                if s.max_query_count:
                    mend = f"raise --count to {least} or more, or leave it out"
                warnings.append(
                    f"this run can only be INVALID: {queries} queries are fewer than the {least} that early stopping "
                    f"needs at least for p{s.target_latency_percentile * 100:g}; {mend}"
                )
            last_due = int(self.record.scheduled[self.phases[-1].first_row + queries - 1])
            if last_due < s.min_duration_ms * 1_000_000:
                warnings.append(
                    f"this run can only be INVALID: its {queries} queries are all due within {last_due * 1e-9:.2f} s, "
                    f"before the minimum duration of {s.min_duration_ms / 1000:g} s; leave --count out, or lower --time"
                )
        return warnings

    async def run(self) -> None:
        """Open the system, drive it through every phase, close it.  An ``interrupt`` ends it early, all kept."""
        self.started = datetime.now(UTC)
        self._task = task = asyncio.current_task()
        assert task is not None
        opened = False
        self.answers.on_abort = task.cancel
        try:
            if self.interrupted is None:
                opened = True
                await self.system.open(self.answers)
                with _quiet_interpreter(), self._pauses:
                    await self._run_phases()
        except asyncio.CancelledError:
            if self.interrupted is None and self.answers.aborted is None:
                raise
            task.uncancel()  # it was ours, and ends here
        finally:
            self._task = self.answers.on_abort = None
            self.record.gauges[Gauge.DONE] = 1
            self.answers.give_up()
            if opened:
                await self.system.close()
        for text, count in (*self.answers.faults.failed.items(), *self.answers.faults.refused.items()):
            self.log.error("error_runtime", f"{text} ({count} times)")
        if self.answers.faults.unanswered:
            self.log.error("error_runtime", f"{self.answers.faults.unanswered} samples were never answered")
        for text, count in self._token_faults().items():
            self.log.error("error_runtime", f"{text} ({count} times)")
        for why in (self.interrupted, self.answers.aborted):
            if why is not None:
                self.log.error("error_runtime", why)

    def interrupt(self, reason: str) -> None:
        """End the run soon; call it on the run's loop.  What was measured stays, and the result is INVALID."""
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
            # The loaded set is the first of what is told of the traffic; a trial's own text comes between.
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
            telling = [asyncio.ensure_future(self._tell(pacer, before))]
            if self.rule is not None and not phase.accuracy:
                telling.append(asyncio.ensure_future(self._apply(self.rule, phase)))
            timestamps = self.effective.print_timestamps and not phase.accuracy
            if timestamps:
                self._print(f"Perf mode start. system_clock Timestamp = {time.time():.0f}")
            wall_ns = time.time_ns()
            try:
                end = await self._issue(phase, pacer)
            finally:
                for task in telling:
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
        """When the next phase begins, ns of the monotonic clock; None: at once."""
        return None if self.share is None else await self.share.start(len(self.reports))

    async def _issue(self, phase: Phase, pacer: Pacer) -> End:
        """Have a phase's rows issued and answered."""
        limits = Limits.of(self.effective, phase)
        drain_s = None if self.rule is None else self.rule.drain_s
        return await issue(phase, limits, self.system, self.answers, pacer, self.patience_s, drain_s)

    async def _tell(self, pacer: Pacer, began: Reading) -> None:
        """Keep the table's gauges up to date for whoever watches: how far the run is, and what the generator costs."""
        gauges = self.record.gauges
        while True:
            self.answers.publish()
            gauges[Gauge.BUSY] = time.thread_time_ns() - began.thread_ns
            gauges[Gauge.STALL] = pacer.longest_stall_ns
            gauges[Gauge.GC_PAUSE] = self._pauses.total_ns
            await asyncio.sleep(_TELL_S)

    async def _apply(self, rule: StopRule, phase: Phase) -> None:
        """Ask the rule from time to time; when it is satisfied, nothing more is issued."""
        tally = Tally(self.record, phase, self.effective, rule.bound_ns)
        while self.decided is None:
            await asyncio.sleep(_ASK_S)
            self.decided = rule.reached(tally.look(self.answers.issued, self.answers.now()))
        self.answers.enough = True

    def _print(self, text: str) -> None:
        print(f"Loadgen :: {text}", file=self._timestamps, flush=True)

    def _print_duration(self, run_ns: int, wall_ns: int) -> None:
        self._print(f"Perf mode stop. systme_clock Timestamp = {time.time():.0f}")  # spelt as the reference does
        self._print(f"PerfClock Perf duration = {run_ns // 1_000_000}ms")
        self._print(f"system_clock Perf duration = {wall_ns // 1_000_000}ms")
        self._print(f"PerfClock/system_clock ratio = {run_ns / max(wall_ns, 1):.4f}")

    def _token_faults(self) -> dict[str, int]:
        """Rows whose tokens make no sense, by what is wrong with them in the reference's words."""
        columns, issued = self.record.columns, self.record.issued_rows
        if not self.effective.use_token_latencies or not {"first_token", "n_tokens"} <= columns.keys():
            return {}
        good = self.record.status[:issued] == Status.OK
        counts = {"Number of tokens need to be greater than 1": columns["n_tokens"][:issued] < 2}
        if self.effective.scenario != Scenario.Offline:
            late = columns["first_token"][:issued] == 0
            counts["Attempted to record a sample latency before it's first token latency"] = late
        found = {text: int(np.count_nonzero(rows & good)) for text, rows in counts.items()}
        return {text: count for text, count in found.items() if count}

    def spoiled(self) -> list[str]:
        """What makes the run INVALID beyond the reference's rules, a line each."""
        faults, lines = self.answers.faults, []
        if self.interrupted is not None:
            lines.append(f"The run was cut short: {self.interrupted}.")
        if self.answers.aborted is not None:
            lines.append(f"The system under test is gone: {self.answers.aborted}")
        if any(report.end == End.NO_ANSWER for report in self.reports):
            lines.append(
                f"The system stopped answering: no answer came for {self.patience_s:g} s "
                "(raise the patience if it is only slow)."
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
        """Figures and verdict of the performance phase; None for an accuracy run, or when no query was issued."""
        report = next((r for r in self.reports if not r.phase.accuracy), None)
        if self._results is None and report is not None and report.issued_rows:
            self._results = evaluate(self.effective, self.measured(report), self.spoiled())
        return self._results

    def rows(self, report: PhaseReport) -> slice | RowArray:
        """The rows that a phase issued, whole queries only."""
        first, width = report.phase.first_row, report.phase.samples_per_query
        return slice(first, first + report.issued_rows // width * width)

    def streams(self, report: PhaseReport) -> list[slice | RowArray]:
        """The same rows by whose queries followed each other: closed loops, of which there is one."""
        return [self.rows(report)]

    def measured(self, report: PhaseReport) -> Measured:
        """The columns of a phase, whole queries only."""
        return self._columns_of(self.rows(report), report.phase.samples_per_query)

    def _columns_of(self, rows: slice | RowArray, width: int) -> Measured:
        record = self.record
        tokens = self.effective.use_token_latencies and {"first_token", "n_tokens"} <= record.columns.keys()
        return Measured(
            record.scheduled[rows],
            record.issued[rows],
            record.completed[rows],
            np.equal(record.status[rows], Status.OK),
            width,
            record.columns["first_token"][rows] if tokens else None,
            record.columns["n_tokens"][rows] if tokens else None,
        )


_DRAWN_BYTES = 20
"""Bytes a row that drawing the traffic and judging the results need beside the table."""


def _check_memory(needed_bytes: int) -> None:
    available = environment.available_memory_bytes()
    if available is not None and needed_bytes > available:
        raise SettingsError(
            f"this run's queries need about {needed_bytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available: lower --qps or --time"
        )


_SWITCH_INTERVAL_S = 2e-4
"""How long a thread may keep the interpreter while another waits for it.  Python's own 5 ms would show as latency."""


@contextmanager
def _quiet_interpreter() -> Iterator[None]:
    """No garbage collection in here (the hot paths make no cycles, and a collection would stall them), and threads
    that take turns quickly.
    """
    was_enabled, interval_s = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.unfreeze()
        if was_enabled:
            gc.enable()
