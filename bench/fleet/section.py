"""The result's section about the generators of a run: who they were, what each did, and what was lost.

Only computes with the merged table and the generators' reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from drumfire.bench.fleet.assignment import Assignment
from drumfire.bench.fleet.clock import dispersion_ns
from drumfire.bench.fleet.crew import Crew
from drumfire.bench.fleet.fleet import Fleet, Loss
from drumfire.bench.fleet.merge import is_known
from drumfire.bench.fleet.options import FleetOptions
from drumfire.loadgen import issuer
from drumfire.loadgen.overhead import issuing_cpu_us
from drumfire.loadgen.record import Status
from drumfire.loadgen.results import distribution
from drumfire.loadgen.settings import Loop


def section(plan: issuer.Plan, fleet: Fleet, wanted: FleetOptions) -> dict[str, Any]:
    """The ``hosts`` section."""
    generators = [_generator(plan, fleet, crew, one) for crew in fleet.crews for one in crew.assignments]
    starts = [one["start_ns"] for one in generators if one["start_ns"] is not None]
    return {
        "kind": "workers" if wanted.hosts is None else "hosts",
        "status": "partial" if fleet.lost else "complete",
        "on_host_loss": wanted.on_host_loss,
        "independent_streams": plan.settings.loop is Loop.CLOSED,
        "planned_start": None
        if not fleet.planned_ns
        else datetime.fromtimestamp(fleet.planned_ns * 1e-9, UTC).isoformat(),
        "start_dispersion_ns": dispersion_ns(starts) if starts else None,
        "clock_bound_ns": max(crew.clock.bound_ns for crew in fleet.crews),
        "slowest": _slowest(generators),
        "generators": generators,
    }


def _generator(plan: issuer.Plan, fleet: Fleet, crew: Crew, own: Assignment) -> dict[str, Any]:
    part = own.slice.part
    loss, seen, message = fleet.lost.get(part), fleet.last_seen.get(part), fleet.messages.get(part)
    report = None if message is None else message["report"]
    # Of the last phase; a generator that did not come to its end has none.
    is_last = message is not None and message["ended"] == len(plan.reports) - 1
    late_ns = report["start_late_ns"] if report is not None and is_last else None
    record = plan.record
    rows = own.slice.whole(np.arange(own.rows))
    status = record.status[rows]
    known = is_known(status)
    issued = rows[known]
    good = issued[record.status[issued] == Status.OK]
    if plan.reports:  # latencies of the phase that is judged
        first = plan.reports[-1].phase.first_row
        issued, good = issued[issued >= first], good[good >= first]
    return {
        "name": own.name,
        "part": part,
        "host": crew.name,
        "machine": {} if seen is None else dict(seen.machine),
        "state": "lost" if loss is not None else "done" if report is not None else "stopped",
        "lost": None if loss is None else _lost(loss),
        "samples": own.rows,
        "known": int(np.count_nonzero(known)),
        "answered": int(np.count_nonzero(status == Status.OK)),
        "start_ns": None if late_ns is None else fleet.planned_ns + late_ns,
        "start_late_ns": late_ns,
        "clock_offset_ns": crew.clock.offset_ns,
        "clock_bound_ns": crew.clock.bound_ns,
        "latency_ns": _figures(record.completed[good] - record.scheduled[good]),
        "lateness_ns": None
        if plan.settings.loop is Loop.CLOSED
        else _figures(record.issued[issued] - record.scheduled[issued]),
        "last_completed_ns": int(record.completed[issued].max()) if issued.size else None,
        "issuing_cpu_us_per_sample": None if report is None or not report["issued_rows"] else _cpu_us(report),
        "longest_stall_ns": None if seen is None else seen.snapshot.stall_ns,
    }


def _cpu_us(report: Mapping[str, Any]) -> float:
    spun_s = report["pacing"]["spun_ns"] * 1e-9
    return issuing_cpu_us(report["overhead"]["issuing_thread_cpu_s"], spun_s, report["issued_rows"])


def _lost(loss: Loss) -> dict[str, Any]:
    last = loss.last.snapshot
    return {
        "reason": loss.reason,
        "at": loss.at.isoformat(),
        "after_s": loss.after_s,
        "last_seen": {
            "issued": last.answered + last.in_flight,
            "answered": last.answered,
            "failed": last.failed,
            "latency_ns": None
            if last.latency is None
            else {"p50": last.latency.p50, "p99": last.latency.p99, "max": last.latency.maximum},
        },
    }


def _figures(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int] | None:
    if not values.size:
        return None
    spread = distribution(values, (0.5, 0.99))
    return {"p50": spread.percentiles[0.5], "p99": spread.percentiles[0.99], "max": spread.maximum}


def _slowest(generators: Sequence[Mapping[str, Any]]) -> str | None:
    """The generator with the highest p99 lateness; in Offline, and where nothing is scheduled, the last to end."""
    late = {one["name"]: one["lateness_ns"]["p99"] for one in generators if one["lateness_ns"]}
    if not late or max(late.values()) == min(late.values()):
        late = {one["name"]: one["last_completed_ns"] for one in generators if one["last_completed_ns"] is not None}
    return max(late, key=lambda name: late[name]) if late else None
