"""A run of the reference told again by our engine: its own times, from its trace, fill our table.

So every figure that follows from the times can be compared, digit by digit.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import trace
from drumfire.loadgen.audit_config import audited
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.directory import write_logs
from drumfire.loadgen.issue import End, Limits
from drumfire.loadgen.issuer import PhaseReport, Plan
from drumfire.loadgen.overhead import Overhead
from drumfire.loadgen.pacer import Pacing
from drumfire.loadgen.record import Status
from drumfire.loadgen.responses import Kept
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Loop, Scenario, TestSettings
from drumfire.loadgen.traffic import Phase
from tests.loadgen.compat.logged_run import NO_FILE, has_first, tokens_of
from tests.support.traffic_cases import Case

NAMES = {"SUT": "PySUT", "FastSUT": "PyFastSUT", "QDL": "a named one"}
_SAMPLE = re.compile(
    r'"name":"(Sample|Token)".*?"ph":"b".*?"id":(\d+),"ts":(\d+)\.(\d{3}),"args":\{"sample_seq":\d+,"query_seq":(\d+),'
    r'"sample_idx":(\d+),"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)\}'
)
_COUNTER = re.compile(r'"name":"Token_Latency".*?"ts":(\d+)\.(\d{3}).*?"issue_delay":(-?\d+),"issue_to_done":(-?\d+)')
_SPAN = re.compile(r'"name":"SampleLoop".*?"ts":(\d+)\.(\d{3})')


_NOTHING = Overhead(0.0, 0.0, 0.0, 0, 0.0, None, None)
_UNPACED = Pacing(0, 0, 0, 0, False)


class Times:
    """The reference's trace: by sample, ns from the trace's start."""

    def __init__(self, text: str) -> None:
        self.rows: dict[int, tuple[int, int, int, int, int]] = {}
        """Scheduled, query, index, issued - scheduled, completed - scheduled."""
        self.first: dict[int, int] = {}
        """Until the first token, from the scheduled time."""
        by_due: dict[int, int] = {}
        self.loops: list[int] = []
        for line in text.splitlines():
            if found := _SAMPLE.search(line):
                name, (row, us, ns, query, index, issue, done) = found[1], map(int, found.groups()[1:])
                if name == "Sample":
                    self.rows[row] = (us * 1000 + ns, query, index, issue, done)
                else:
                    self.first[row] = done
            elif found := _COUNTER.search(line):
                us, ns, delay, done = map(int, found.groups())
                by_due[us * 1000 + ns] = delay + done
            elif found := _SPAN.search(line):
                self.loops.append(int(found[1]) * 1000 + int(found[2]))
        for row, (due, *_) in self.rows.items():
            if due in by_due:
                self.first[row] = by_due[due]


class _System:
    answer = None

    def __init__(self, name: str, tokens: bool) -> None:
        self.name = name
        self.columns: Mapping[str, Any] = {"first_token": np.int64, "n_tokens": np.int64} if tokens else {}


class _Library:
    name = "PyQSL"

    def __init__(self, case: Case) -> None:
        self.total_count, self.performance_count = case["total"], case["perf"]


class _Replay:
    """Issues nothing: enters what the reference did."""

    def __init__(self, case: Case, times: Times) -> None:
        self.case, self.times = case, times

    def take(self, plan: Plan) -> None:
        self.plan = plan

    async def open(self) -> None:
        pass

    def load(self, phase: Phase) -> None:
        pass

    def unload(self, phase: Phase) -> None:
        pass

    async def close(self) -> None:
        pass

    async def issue(self, phase: Phase) -> None:
        plan, answers, columns = self.plan, self.plan.answers, self.plan.record.columns
        answers.begin(phase)
        first = phase.first_row
        rows = [row for row in self.times.rows if first <= row < first + phase.rows]
        last = first + len(rows)
        assert sorted(rows) == list(range(first, last))
        start = self._start(first)
        for row in rows:
            due, _, index, issue, done = self.times.rows[row]
            assert columns["sample_index"][row] == index
            assert plan.settings.scenario != Scenario.Server or columns["scheduled"][row] == due - start
            columns["scheduled"][row], columns["issued"][row] = due - start, due - start + issue
            columns["completed"][row], columns["status"][row] = due - start + done, Status.OK
            if "n_tokens" in columns:
                columns["n_tokens"][row] = tokens_of(self.case, index)
                if row in self.times.first and has_first(self.case, index):
                    columns["first_token"][row] = due - start + self.times.first[row]
            if answers.keeping and answers.wants(row):
                data = index.to_bytes(8, "little")
                answers.kept.append(Kept(np.array((row,)), [data]))
                if has_first(self.case, index):
                    answers.first_tokens[row] = data
        answers.issued = answers.answered = last
        answers.publish()
        issued = columns["issued"][first : last : phase.samples_per_query].tolist()
        report = PhaseReport(
            phase=phase, began=datetime.now(UTC), end=self._end(phase, issued), issued_rows=len(rows),
            rows=slice(first, last), lasted_ns=plan.lasted_ns(phase), overhead=_NOTHING, pacing=_UNPACED,
        )  # fmt: skip
        plan.reports.append(report)

    def _start(self, first: int) -> int:
        """Server's and Offline's first row is due at the start; the others' loop begins some 100 ns after it."""
        due = self.times.rows[first][0]
        if self.plan.settings.loop is Loop.OPEN:
            return due
        return max(at for at in self.times.loops if at <= due)

    def _end(self, phase: Phase, issued: list[int]) -> End:
        """As the issue loop decides it."""
        limits, settings = Limits.of(self.plan.settings, phase), self.plan.settings
        if phase.accuracy or settings.scenario == Scenario.Offline:
            return End.ALL_ISSUED if phase.accuracy else End.MET
        if settings.scenario == Scenario.Server:
            if limits.max_queries and len(issued) >= limits.max_queries:
                return End.MAX_QUERIES
            late = limits.max_duration_ns and issued[-1] > limits.max_duration_ns
            return End.MAX_DURATION if late else End.ALL_ISSUED
        return limits.reached(len(issued), issued[-1]) or End.RAN_OUT

    def reasons(self) -> list[str]:
        return []

    def warnings(self) -> list[str]:
        return []

    def sections(self) -> dict[str, Any]:
        return {}


def told_again(case: Case, trace_text: str, folder: Path) -> tuple[dict[str, str], Times]:
    """Our logs of the reference's run, by kind, and its times."""
    settings, reader = TestSettings(), ConfigReader()
    conf = folder / "user.conf"
    for text, *arguments in case.get("configs", ()):
        conf.write_text(text or "")
        reader.from_config(settings, NO_FILE if text is None else conf, *arguments)
    for name, value in case["settings"].items():
        setattr(settings, name, value)
    tokens = settings.use_token_latencies
    audit = folder / "audit.config"
    if "audit" in case:
        audit.write_text(case["audit"])
    settings, warnings, audit_errors = audited(settings, audit)
    times = Times(trace_text)
    test = Test(
        _System(NAMES[case["kind"]], tokens), _Library(case), settings, config_warnings=warnings,
        config_errors=tuple(reader.errors), audit_errors=audit_errors, issuer=_Replay(case, times),
        timestamps=io.StringIO(),
    )  # type: ignore[arg-type]  # fmt: skip
    asyncio.run(test.run())
    paths = {kind: folder / kind for kind in ("summary", "detail", "accuracy", "trace")}
    write_logs(test, paths["summary"], paths["detail"], paths["accuracy"])
    trace.write(test, paths["trace"])
    return {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}, times
