"""A run by several generators: they issue it; it is drawn, logged and judged as the run of a single generator.

Only the issuing differs from ``drumfire.loadgen.run``.  Handles how a run is divided and merged.  Does not depend on
how hosts are reached or on a screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, NoReturn, TextIO

import numpy as np

from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.assemble.remote import RemoteOptions
from drumfire.bench.fleet import merge
from drumfire.bench.fleet.child import Part
from drumfire.bench.fleet.clock import dispersion_ns
from drumfire.bench.fleet.crew import Crew, LocalCrew
from drumfire.bench.fleet.facts import facts
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.options import CLOSED
from drumfire.bench.fleet.plan import Plan, options_to_plain, settings_to_plain
from drumfire.bench.view import watch
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.issue import End
from drumfire.loadgen.overhead import Overhead
from drumfire.loadgen.pacer import Pacer
from drumfire.loadgen.record import Column, RowArray, Status
from drumfire.loadgen.results import Measured, distribution
from drumfire.loadgen.run import PhaseReport, Test
from drumfire.loadgen.settings import Scenario, SettingsError
from drumfire.loadgen.share import Slice
from drumfire.loadgen.system import IndexArray, SampleLibrary
from drumfire.loadgen.traffic import Phase
from drumfire.sut.remote.watch import WatchedSystem

_LEAD_NS = 300_000_000
_LEAD_TO_HOSTS_NS = 2_000_000_000
"""How long before a phase its start is announced, to processes here and to other hosts."""
_LIMIT_TIMES = 10
_LIMIT_S = 60.0
"""A generator ends after ``_LIMIT_TIMES`` the time that its traffic should take, plus ``_LIMIT_S`` and --patience."""


class FleetTest(Test):
    """A test whose rows are issued by the generators of a ``Fleet``."""

    def __init__(self, assembly: Assembly, options: RunOptions, timestamps: TextIO | None) -> None:
        self._assembly, self._options, self._wanted = assembly, options, options.system.fleet
        self._names_only = _Catalogue(assembly.library)
        super().__init__(
            assembly.system,
            self._names_only,
            assembly.settings,
            config_warnings=assembly.config_warnings,
            config_errors=assembly.config_errors,
            patience_s=options.result.patience,
            timestamps=timestamps,
        )
        if self.effective.scenario == Scenario.Server and self.effective.max_async_queries:
            raise SettingsError(
                "server_max_async_queries bounds the queries of one generator: leave it out of user.conf with several"
            )
        self._parts = self._wanted.parts
        width = self.effective.samples_per_query if self.effective.scenario == Scenario.MultiStream else 1
        self._slices = {part: Slice(part, self._parts, width) for part in range(self._parts)}
        self._ends: dict[int, slice] = {}
        """The rows of each phase up to the last issued row."""
        self._starts: dict[int, int | None] = {}
        """How late each part began the last phase, ns; parts without a report are left out."""
        self._messages: dict[int, Mapping[str, Any]] = {}
        self.fleet = self._fleet()
        watched = WatchedSystem(self.fleet, assembly.watch)
        assembly.server_report = watched.report
        assembly.logged = lambda indices, responses: responses  # the generators did this
        self.system = watched

    def rows(self, report: PhaseReport) -> slice | RowArray:
        span = self._ends[report.phase.first_row]
        known = self.record.status[span] != Status.MISSING
        return span if known.all() else span.start + np.flatnonzero(known)

    def measured(self, report: PhaseReport) -> Measured:
        width = report.phase.samples_per_query
        # Only a part of Offline's query may have been issued: the run is judged by that part, and is INVALID.
        return self._columns_of(self.rows(report), min(width, max(report.issued_rows, 1)))

    def streams(self, report: PhaseReport) -> list[slice | RowArray]:
        rows = np.arange(self.record.rows)[self.rows(report)]
        of_part = rows // self._slices[0].width % self._parts
        return [rows[of_part == part] for part in self._slices]

    def spoiled(self) -> list[str]:
        lines = []
        for loss in self.fleet.lost.values():
            lines.append(
                f"PARTIAL: {loss.name} was lost {loss.after_s:.1f} s after the start ({loss.reason}); "
                f"{self._missing(loss.last.part)}"
            )
        if self.fleet.aborted is not None:
            lines.append(f"The run was cut short: {self.fleet.aborted}.")
        return lines + super().spoiled()

    def interrupt(self, reason: str) -> None:
        if self.interrupted is None:  # only once: after that the run merges what was measured
            super().interrupt(reason)

    async def _agreed_start(self) -> int | None:
        return await self.fleet.begin(len(self.reports))

    async def _run_phase(self, phase: Phase) -> End:
        try:
            end = await super()._run_phase(phase)
        finally:
            if self.reports and self.reports[-1].phase is phase:
                self.reports[-1] = self._as_reported(self.reports[-1])
        return end

    async def _issue(self, phase: Phase, pacer: Pacer) -> End:
        number = len(self.reports)
        try:
            await self.fleet.follow(number)
        except asyncio.CancelledError:
            await self.fleet.halt(number, self.interrupted or "the run was ended")
            raise
        finally:
            parts = await self.fleet.collect(number)
            self._put_back(phase, parts)
        ends = [End[part.message["report"]["end"]] for part in parts if part.message and part.message["report"]]
        whole = min(phase.query_count, self.effective.max_query_count or phase.query_count)
        return merge.end_of(
            ends,
            lost=bool(self.fleet.lost),
            all_issued=self.answers.issued - phase.first_row >= whole * phase.samples_per_query,
            limited=bool(self.effective.max_query_count) and not phase.accuracy,
        )

    def _put_back(self, phase: Phase, parts: Sequence[Part]) -> None:
        end = merge.put_back(self.record, phase, self._slices, parts)
        self._ends[phase.first_row] = slice(phase.first_row, end)
        self._messages |= {part.part: part.message for part in parts if part.message is not None}
        self._starts = {
            part.part: part.message["report"]["start_late_ns"]
            for part in parts
            if part.message and part.message["report"]
        }
        self.answers.issued = end
        self.answers.answered = int(np.count_nonzero(_is_known(self.record.status[:end])))
        merge.put_answers(self.answers, self._slices, self._messages, parts)

    def _as_reported(self, report: PhaseReport) -> PhaseReport:
        """The report of a phase with the figures of its generators instead of this process's."""
        span = self._ends.get(report.phase.first_row)
        if span is None:
            return report
        by_part = {part: one["report"] for part, one in self._messages.items() if one["report"] is not None}
        known = int(np.count_nonzero(self.record.status[span] != Status.MISSING))
        if not by_part:
            return replace(report, issued_rows=known)
        reports = list(by_part.values())
        host_of = {plan.part: crew.name for crew in self.fleet.crews for plan in crew.plans}
        return replace(
            report,
            issued_rows=known,
            overhead=merge.overhead_of([Overhead(**one["overhead"]) for one in reports], [host_of[p] for p in by_part]),
            pacer_window_ns=max(one["pacer_window_ns"] for one in reports),
            pacer_spun_ns=sum(one["pacer_spun_ns"] for one in reports),
            longest_stall_ns=max(one["longest_stall_ns"] for one in reports),
            realtime_ns=sum(one["realtime_ns"] for one in reports),
            exact_timer=all(one["exact_timer"] for one in reports),
            start_late_ns=max(one["start_late_ns"] for one in reports),
        )

    def _missing(self, part: int) -> str:
        """How much is known of a lost generator's rows."""
        share = self._slices[part].count(self.record.rows)
        rows = self._slices[part].whole(np.arange(share))
        known = int(np.count_nonzero(_is_known(self.record.status[rows])))
        return f"of its {share:,} samples {known:,} are known"

    def _fleet(self) -> Fleet:
        options = self._wanted
        plain, settings = options_to_plain(self._options), settings_to_plain(self.requested)
        view = asdict(watch.Plan.of(self, self._assembly.title))
        columns = {name: column.dtype.str for name, column in self.record.columns.items()}
        plans = []
        for part, share in self._slices.items():
            plans.append(
                Plan(
                    name=self._name(part),
                    options=plain | {"concurrency": self._concurrency(part)},
                    settings=settings,
                    part=part,
                    parts=self._parts,
                    width=share.width,
                    rows=share.count(self.record.rows),
                    columns=columns,
                    view=view,
                    limit_s=self._limit_s(),
                )
            )
        bounds = [*(phase.first_row for phase in self.phases), self.record.rows]
        crews: list[Crew]
        if options.hosts is None:
            crews, lead_ns = [LocalCrew("here", plans, bounds)], _LEAD_NS
        else:
            from drumfire.bench.fleet import hosts

            a_host = options.workers or 1
            groups = [plans[at : at + a_host] for at in range(0, len(plans), a_host)]
            crews, lead_ns = list(hosts.reach(groups, bounds, options.ray_address)), _LEAD_TO_HOSTS_NS
        return Fleet(
            self._assembly.system.name,
            self._assembly.system.columns,
            crews,
            facts(self._assembly.digests()),
            on_loss=options.on_host_loss,
            lead_ns=lead_ns,
        )

    def _name(self, part: int) -> str:
        a_host = self._wanted.workers or 1
        if self._wanted.hosts is None:
            return f"worker {part}"
        return f"host {part // a_host}" + (f" worker {part % a_host}" if a_host > 1 else "")

    def _concurrency(self, part: int) -> int | None:
        """A generator's part of --concurrency."""
        whole = self._assembly.description["remote"]["concurrency"]
        return None if whole is None else max(whole // self._parts + (part < whole % self._parts), 1)

    def _limit_s(self) -> float:
        s = self.effective
        expected_s = max(s.target_duration_ms, s.min_duration_ms) / 1000
        expected_s = max(expected_s, self.record.rows / s.samples_per_query / s.target_qps)
        if s.scenario == Scenario.Offline:
            expected_s = max(expected_s, self.record.rows / s.target_qps)
        return _LIMIT_TIMES * expected_s + self.patience_s + _LIMIT_S

    # The result's part about the generators.

    def warnings(self) -> list[str]:
        """The warnings of a run by several generators."""
        lines = []
        if self.effective.scenario in CLOSED:
            lines.append(
                f"{self._parts} independent streams side by side, each of every {self._parts}-th query: not the "
                f"reference's {self.effective.scenario.name}, which is a single stream"
            )
        return lines

    def section(self) -> dict[str, Any]:
        """The result's ``hosts`` section."""
        generators = [self._generator(crew, plan) for crew in self.fleet.crews for plan in crew.plans]
        starts = [one["start_ns"] for one in generators if one["start_ns"] is not None]
        partial = bool(self.fleet.lost)
        return {
            "kind": "workers" if self._wanted.hosts is None else "hosts",
            "status": "partial" if partial else "complete",
            "on_host_loss": self._wanted.on_host_loss,
            "independent_streams": self.effective.scenario in CLOSED,
            "planned_start": None
            if not self.fleet.planned_ns
            else datetime.fromtimestamp(self.fleet.planned_ns * 1e-9, UTC).isoformat(),
            "start_dispersion_ns": dispersion_ns(starts) if starts else None,
            "clock_bound_ns": max(crew.clock.bound_ns for crew in self.fleet.crews),
            "slowest": _slowest(generators),
            "generators": generators,
        }

    def _generator(self, crew: Crew, plan: Plan) -> dict[str, Any]:
        loss, seen = self.fleet.lost.get(plan.part), self.fleet.last_seen.get(plan.part)
        late_ns = self._starts.get(plan.part)
        message = self._messages.get(plan.part)
        report = None if message is None else message["report"]
        share = self._slices[plan.part]
        rows = share.whole(np.arange(plan.rows))
        status = self.record.status[rows]
        known = _is_known(status)
        issued = rows[known]
        good = issued[self.record.status[issued] == Status.OK]
        if self.reports:  # latencies of the phase that is judged
            first = self.reports[-1].phase.first_row
            issued, good = issued[issued >= first], good[good >= first]
        record = self.record
        overhead = None if report is None else report["overhead"]
        last = None if seen is None else seen.snapshot
        return {
            "name": plan.name,
            "part": plan.part,
            "host": crew.name,
            "machine": {} if seen is None else dict(seen.machine),
            "state": "lost" if loss is not None else "done" if report is not None else "stopped",
            "lost": None
            if loss is None
            else {
                "reason": loss.reason,
                "at": loss.at.isoformat(),
                "after_s": loss.after_s,
                "last_seen": {
                    "issued": loss.last.snapshot.answered + loss.last.snapshot.in_flight,
                    "answered": loss.last.snapshot.answered,
                    "failed": loss.last.snapshot.failed,
                    "latency_ns": _spread(loss.last.snapshot.latency),
                },
            },
            "samples": plan.rows,
            "known": int(np.count_nonzero(known)),
            "answered": int(np.count_nonzero(status == Status.OK)),
            "start_ns": None if late_ns is None else self.fleet.planned_ns + late_ns,
            "start_late_ns": late_ns,
            "clock_offset_ns": crew.clock.offset_ns,
            "clock_bound_ns": crew.clock.bound_ns,
            "latency_ns": _figures(record.completed[good] - record.scheduled[good]),
            "lateness_ns": None
            if self.effective.scenario in CLOSED
            else _figures(record.issued[issued] - record.scheduled[issued]),
            "last_completed_ns": int(record.completed[issued].max()) if issued.size else None,
            "issuing_cpu_us_per_sample": None
            if overhead is None or report is None or not report["issued_rows"]
            else max(overhead["issuing_thread_cpu_s"] - report["pacer_spun_ns"] * 1e-9, 0.0)
            * 1e6
            / report["issued_rows"],
            "longest_stall_ns": None if last is None else last.stall_ns,
        }


class _Catalogue:
    """The counts of a library; only the generators read its samples."""

    def __init__(self, library: SampleLibrary) -> None:
        self.name, self.total_count = library.name, library.total_count
        self.performance_count = library.performance_count

    def load(self, indices: IndexArray) -> None:
        pass

    def unload(self, indices: IndexArray) -> None:
        pass

    def batch(self, indices: IndexArray) -> NoReturn:
        raise NotImplementedError("samples are with the generators")


def several(options: RunOptions) -> bool:
    """Whether the options ask for generators in processes of their own."""
    return isinstance(options.system, RemoteOptions) and options.system.fleet.several


def check(options: RunOptions) -> None:
    """Raise ``UserError`` for options that several generators cannot follow, or that only several can."""
    if not isinstance(options.system, RemoteOptions):
        return
    fleet, traffic, target = options.system.fleet, options.traffic, options.system.target
    if not fleet.several:
        name = "--ray-address" if fleet.ray_address else "--independent-streams"
        if fleet.ray_address or fleet.independent_streams:
            raise UserError(f"{name} is for several generators: give --workers or --hosts, or leave it out")
        return
    if fleet.ray_address and fleet.hosts is None:
        raise UserError("--ray-address is the cluster of --hosts: give --hosts N, or leave it out")
    which = "--hosts" if fleet.hosts is not None else "--workers"
    refused = {
        "--find-peak-performance": traffic.find_peak_performance,
        "--until-confident": traffic.until_confident is not None,
    }
    for other, is_set in refused.items():
        if is_set:
            raise UserError(f"{other} works with a single generator only: leave {which} out")
    if fleet.hosts is not None and target.needs_same_host:
        option = target.needs_same_host
        raise UserError(f"{option} is for a server on the same host: leave out --hosts or {option}")
    parts, scenario = fleet.parts, Scenario[traffic.scenario]
    if scenario in CLOSED and not fleet.independent_streams:
        raise UserError(
            f"{scenario.name} is a single stream, whose next query waits for the last answer, so {parts} generators "
            f"would be {parts} streams: leave {which} out, or give --independent-streams to run them"
        )
    if target.concurrency is not None and target.concurrency < parts:
        raise UserError(
            f"--concurrency {target.concurrency} leaves nothing for some of {parts} generators: give {parts} or more"
        )


def _is_known(status: Column) -> Column:
    """Which rows have an outcome, as a mask: neither pending nor lost with their generator."""
    known: Column = (status != Status.PENDING) & (status != Status.MISSING)
    return known


def _figures(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int] | None:
    if not values.size:
        return None
    spread = distribution(values, (0.5, 0.99))
    return {"p50": spread.percentiles[0.5], "p99": spread.percentiles[0.99], "max": spread.maximum}


def _spread(spread: Any) -> dict[str, int] | None:
    return None if spread is None else {"p50": spread.p50, "p99": spread.p99, "max": spread.maximum}


def _slowest(generators: Sequence[Mapping[str, Any]]) -> str | None:
    """The generator with the highest p99 lateness; in Offline, and where nothing is scheduled, the last to end."""
    late = {one["name"]: one["lateness_ns"]["p99"] for one in generators if one["lateness_ns"]}
    if not late or max(late.values()) == min(late.values()):
        late = {one["name"]: one["last_completed_ns"] for one in generators if one["last_completed_ns"] is not None}
    return max(late, key=lambda name: late[name]) if late else None
