"""The trace of a run for Perfetto and chrome://tracing, made from the table after the run, at no cost to the run.

Event names are the reference's; unlike the reference's file, this one is valid JSON.  Times are us after the first
phase's start, with three decimals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.issuer import PhaseReport
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario

TRACE = "mlperf_log_trace.json"
BYTES_PER_ROW = 400
"""What the events of a row take in the file: 393 were measured in Server, where there are most."""
_CHUNK_ROWS = 1 << 14


def write(test: Test, path: Path) -> None:
    """Write the trace of all phases.  Rows without an answer have no end."""
    pid = os.getpid()
    with open(path, "w", encoding="ascii") as file:
        file.write('{"traceEvents":[\n')
        file.write(_line(name="process_name", ph="M", pid=pid, args={"name": test.system.name}))
        query = 0  # queries are numbered through all phases, those that a phase did not issue included
        for report in test.reports:
            offset_ns = round((report.began - test.reports[0].began).total_seconds() * 1e9)
            phase = "accuracy" if report.phase.accuracy else "performance"
            span = {"ts": _us(offset_ns), "dur": _us(report.lasted_ns), "args": {"mode": phase}}
            file.write("," + _line(name="RunPhase", ph="X", pid=pid, tid=pid, **span))
            for events in _events(test, report, offset_ns, pid, query):
                file.write(events)
            query += report.phase.query_count
        started = test.reports[0].began.timestamp() if test.reports else 0.0
        other = {"ts": round(started * 1e6), "version": "Drumfire"}
        file.write(f'],\n"displayTimeUnit":"ns",\n"otherData":{json.dumps(other)}\n}}\n')


def _line(**event: Any) -> str:
    return json.dumps(event) + "\n"


def _us(ns: int) -> float:
    return ns / 1000


def _events(test: Test, report: PhaseReport, offset_ns: int, pid: int, first_query: int) -> Iterator[str]:
    """The events of a phase, some thousand rows at a time; each piece begins with a comma."""
    columns = test.record.columns
    first, width = report.phase.first_row, report.phase.samples_per_query
    server = test.effective.scenario == Scenario.Server and not report.phase.accuracy
    tokens = columns.get("first_token")
    all_rows = np.arange(test.record.rows)[report.rows]
    for start in range(0, all_rows.size, _CHUNK_ROWS):
        rows = all_rows[start : start + _CHUNK_ROWS]
        names = ("sample_index", "scheduled", "issued", "completed", "status")
        lists = [columns[name][rows].tolist() for name in names]
        firsts = tokens[rows].tolist() if tokens is not None else [0] * rows.size
        lines = []
        for row, index, due, issued, done, status, token in zip(rows.tolist(), *lists, firsts, strict=True):
            at = f'"pid":{pid},"ts":{(offset_ns + due) / 1000:.3f}'
            sample = '"name":"Sample","cat":"default"'  # fields in the order that the reference's tools parse
            row_id = f'"pid":{pid},"id":{row}'
            answered = status in (Status.OK, Status.FAILED)
            complete = f',"complete_ns":{done - due}' if answered else ""
            lines.append(
                f',{{{sample},"ph":"b",{row_id},"ts":{(offset_ns + due) / 1000:.3f},"args":{{"sample_seq":{row},'
                f'"query_seq":{first_query + (row - first) // width},"sample_idx":{index},'
                f'"issue_start_ns":{issued - due}{complete},"status":"{Status(status).name}"}}}}\n'
            )
            if token:
                at_token = f'"ts":{(offset_ns + token) / 1000:.3f}'
                lines.append(f',{{{sample},"ph":"n",{row_id},{at_token},"args":{{"event":"Token"}}}}\n')
                if server:
                    delays = f'{{"issue_delay":{issued - due},"issue_to_done":{token - issued}}}'
                    lines.append(f',{{"name":"Token_Latency","ph":"C",{at},"args":{delays}}}\n')
            if answered:
                lines.append(f',{{{sample},"ph":"e",{row_id},"ts":{(offset_ns + done) / 1000:.3f}}}\n')
                if server:
                    delays = f'{{"issue_delay":{issued - due},"issue_to_done":{done - issued}}}'
                    lines.append(f',{{"name":"Latency","ph":"C",{at},"args":{delays}}}\n')
        yield "".join(lines)
