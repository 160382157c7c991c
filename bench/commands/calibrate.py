"""``drumfire calibrate``: measures how fast and how late this machine issues, with a system that answers at once.

Runs short tests of the null system and shows a row from each result document.  Saves no run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drumfire.bench import statuses
from drumfire.bench.options.parser import Command
from drumfire.bench.report import figures
from drumfire.loadgen.directory import document
from drumfire.loadgen.environment import describe
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.limits import available_memory_bytes
from drumfire.loadgen.options import option
from drumfire.loadgen.results import LATE_NS
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.version import VERSION
from drumfire.sut.local.null import NullSystem, null_library

_SERVER_RATES = (1e3, 1e4, 1e5, 1e6)
_OFFLINE_RATE = 1e6
_CEILING_LATENESS_NS = 100_000
_CEILING_SHARE = 0.99
"""A rate is kept up with if at least this share of the scheduled rate is delivered."""
_BISECTIONS = 4
_SEARCH_ROWS = 16_000_000
"""The search stops at the rate whose test needs more rows than this: drawing them takes seconds."""
_MOST_ROWS = 32_000_000
"""The most rows of a test; fewer if memory is short."""
_ROW_BYTES = 64
"""Memory for a row while it is drawn, measured and judged, rounded up, bytes."""
_MEMORY_SHARE = 0.25
_PROBE_S = 0.05
_PROBE_LATENCY_NS = 100.0
"""Shorter than a query of the null system, so that the probe does not run out of queries, ns."""
_CLOSED_MARGIN = 1.5
"""Queries drawn for a closed loop, as a multiple of the probe's rate, which another program may have slowed down."""
_LATE_RATE = 1e3
"""A p99 lateness above ``LATE_NS`` at up to this rate is reported, with what to do about it."""

Result = dict[str, Any]
"""A result document, as ``drumfire.loadgen.directory.document`` makes it."""
Row = dict[str, Any]


@dataclass
class Calibration:
    """The measurements so far."""

    rows: list[Row] = field(default_factory=list)
    """As in calibration.schema.json."""
    ceiling_qps: float | None = None
    """None if there was no search, or it has not ended."""
    ceiling_is_lower_bound: bool = False
    """Whether the search ended at the memory's limit, with every rate kept up with."""
    interrupted: bool = False


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire calibrate``."""

    scenario: str | None = option(None, choices=tuple(Scenario.__members__), help="this scenario only")
    qps: float | None = option(
        None,
        least=1e-6,
        help="Server at this one rate, without the search for the ceiling; with --scenario Offline: expected samples "
        "a second, which sizes the one query",
    )
    time: float = option(
        1.0,
        metavar="S",
        least=1e-3,
        help="seconds for each row of the table; less where the queries would fill the memory",
    )
    json: bool = option(False, help="print one JSON object")


def calibrate(options: Options) -> int:
    """Measure what the options name, print it, and return the exit status."""
    scenarios = _scenarios(options)
    environment = describe()
    calibration = Calibration()
    try:
        _measure(calibration, scenarios, options.qps, options.time)
    except KeyboardInterrupt:
        calibration.interrupted = True
    if options.json:
        result = {
            "tool": f"Drumfire {VERSION}",
            "environment": environment,
            "time_s": options.time,
            "rows": calibration.rows,
            "ceiling_qps": calibration.ceiling_qps,
            "ceiling_is_lower_bound": calibration.ceiling_is_lower_bound,
            "interrupted": calibration.interrupted,
        }
        print(json.dumps(result, allow_nan=False))
    else:
        show(calibration, Console(highlight=False))
    return statuses.INTERRUPTED if calibration.interrupted else statuses.DONE


COMMAND = Command(
    Options,
    calibrate,
    "Measure how fast and how late this machine issues by itself, with a system that answers at once: Server at 1,000 "
    "to 1,000,000 queries a second and up to its ceiling, then the other scenarios.",
)


def _scenarios(options: Options) -> list[Scenario]:
    """The scenarios to measure.  Raises ``UserError`` if a rate is given for a closed loop."""
    if options.scenario is None and options.qps:
        return [Scenario.Server]
    if options.scenario is None:
        return [Scenario.Server, Scenario.SingleStream, Scenario.MultiStream, Scenario.Offline]
    scenario = Scenario[options.scenario]
    if options.qps and scenario not in (Scenario.Server, Scenario.Offline):
        raise UserError(
            f"--qps cannot be set for {scenario.name}, where a query follows when the last is answered: leave it out"
        )
    return [scenario]


def _measure(calibration: Calibration, scenarios: Iterable[Scenario], qps: float | None, time_s: float) -> None:
    """Add row after row to ``calibration``, which keeps them when an interrupt comes."""
    for scenario in scenarios:
        if scenario == Scenario.Server:
            kept_up = 0.0
            for rate in _SERVER_RATES if qps is None else (qps,):
                # A rate that the user gives is measured for the whole time, or refused before the start.
                result = _server(rate, min(time_s, _most_rows() / rate) if qps is None else time_s)
                calibration.rows.append(_row(result))
                kept_up = rate if _keeps_up(result) else kept_up
            if qps is None and kept_up:
                _search(calibration, kept_up, time_s)
        elif scenario == Scenario.Offline:
            rate = qps or _OFFLINE_RATE
            _announce(f"Offline, {figures.rate(rate)}")
            calibration.rows.append(_row(_drive(time_s, scenario=scenario, offline_expected_qps=rate)))
        else:
            _announce(scenario.name)
            calibration.rows.append(_row(_closed_loop(scenario, time_s)))


def _search(calibration: Calibration, low: float, time_s: float) -> None:
    """Find the highest rate that is kept up with: double ``low``, which is, until one is not, then bisect."""
    best: Row | None = None

    def keeps_up(rate: float) -> bool:
        nonlocal best
        result = _server(rate, time_s, "in search of the ceiling, ")
        if not _keeps_up(result):
            return False
        best = _row(result)
        return True

    highest = max(min(_SEARCH_ROWS, _most_rows()) / max(time_s, 1.0), low)
    failed = None
    while failed is None and low < highest:
        rate = min(2 * low, highest)
        low, failed = (rate, None) if keeps_up(rate) else (low, rate)
    if failed is not None:
        high = failed
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if keeps_up(middle) else (low, middle)
    calibration.ceiling_qps, calibration.ceiling_is_lower_bound = low, failed is None
    if best is not None:
        calibration.rows.append(best)


def _server(rate: float, time_s: float, why: str = "") -> Result:
    _announce(f"Server, {why}{figures.rate(rate)}")
    return _drive(time_s, scenario=Scenario.Server, server_target_qps=rate)


def _keeps_up(server: Result) -> bool:
    rates = server["results"]
    delivered, scheduled = (rates[f"result_{name}_samples_per_sec"] for name in ("completed", "scheduled"))
    return bool(server["lateness_ns"]["p50"] < _CEILING_LATENESS_NS and delivered >= _CEILING_SHARE * scheduled)


def _closed_loop(scenario: Scenario, time_s: float) -> Result:
    """Run a closed loop for ``time_s``, or while its queries fit in memory; a probe measures the rate to draw for."""
    name = "single_stream" if scenario == Scenario.SingleStream else "multi_stream"
    expected = f"{name}_expected_latency_ns"
    probe = _row(_drive(_PROBE_S, scenario=scenario, **{expected: _PROBE_LATENCY_NS}))
    rate = _CLOSED_MARGIN * max(probe["delivered_qps"], 1.0)
    rows_a_second = rate * probe["samples_per_query"]
    # Traffic is drawn for twice the duration, as the reference does.
    return _drive(min(time_s, _most_rows() / rows_a_second), scenario=scenario, **{expected: 2e9 / rate})


def _most_rows() -> float:
    """The most rows of a test on this machine."""
    available = available_memory_bytes()
    return _MOST_ROWS if available is None else min(_MOST_ROWS, _MEMORY_SHARE * available / _ROW_BYTES)


def _drive(time_s: float, **settings: Any) -> Result:
    """The result document of one test of the null system that lasts ``time_s``."""
    duration_ms = max(1, round(time_s * 1000))
    requested = TestSettings(min_duration_ms=duration_ms, min_query_count=1, **settings)
    test = Test(NullSystem(Mode.PerformanceOnly), null_library(), requested)
    try:
        run_on_fast_loop(test.run())
        return document(test, {}, [])
    finally:
        test.record.close()


def _row(result: Result) -> Row:
    """A row from a result document, by query; in Offline, whose one query holds all samples, by sample."""
    lateness, overhead = result["lateness_ns"], result["overhead"]
    samples = result["asked"]["samples_per_query"]
    counted = 1 if result["scenario"] == Scenario.Offline.name else samples
    return {
        "scenario": result["scenario"],
        "asked_qps": result["asked"]["qps"],
        "delivered_qps": result["delivered"]["samples_per_second"] / counted,
        "lateness_p50_us": lateness["p50"] / 1e3,
        "lateness_p99_us": lateness["p99"] / 1e3,
        "lateness_max_us": lateness["max"] / 1e3,
        "early": lateness["early"],
        "cpu_us_per_query": overhead["issuing_cpu_us_per_sample"] * counted,
        "spin_share": overhead["pacer_spin_s"] / overhead["wall_s"],
        "samples_per_query": samples,
    }


def _announce(what: str) -> None:
    """Print a line before each row, on a terminal.  No spinner: its thread would disturb the measurement."""
    if sys.stderr.isatty():
        print(f"measuring {what}", file=sys.stderr, flush=True)


def show(calibration: Calibration, console: Console) -> None:
    """Print the rows, and what they mean."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("\nscenario", no_wrap=True)
    for heading in (
        "asked\n/s", "delivered\n/s", "lateness\np50", "\np99", "\nmax", "\nearly", "CPU a\nquery", "spin\nshare",
    ):  # fmt: skip
        table.add_column(heading, justify="right", overflow="fold")
    for row in calibration.rows:
        table.add_row(
            row["scenario"],
            "-" if row["asked_qps"] is None else _number(row["asked_qps"]),
            _number(row["delivered_qps"]),
            *(figures.duration(row[f"lateness_{name}_us"] * 1e3) for name in ("p50", "p99", "max")),
            f"{row['early']:,}",
            figures.duration(row["cpu_us_per_query"] * 1e3),
            figures.share(round(row["spin_share"], 3)),
        )
    console.print(table)
    console.print()
    for text, style in _meaning(calibration):
        console.print(Text(text, style))


def _number(per_second: float) -> str:
    """At most nine characters: ``98,304``, ``1,000,000``, ``33.6 M``, ``659 M``."""
    return figures.digits(per_second) if per_second < 1e7 else f"{figures.digits(per_second / 1e6)} M"


def _meaning(calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Sentences about the figures, and their styles."""
    if calibration.ceiling_qps is not None:
        least = "at least " if calibration.ceiling_is_lower_bound else ""
        yield (
            f"Ceiling: {least}{figures.rate(calibration.ceiling_qps)} in Server, the highest rate whose p50 lateness "
            f"stays below {figures.duration(_CEILING_LATENESS_NS)} with {_CEILING_SHARE:.0%} of the schedule delivered "
            "(queries due at the same time are sent in one burst).",
            "bold",
        )
    scheduled = any(row["asked_qps"] is not None for row in calibration.rows)
    closed = any(row["asked_qps"] is None for row in calibration.rows)
    if scheduled:
        yield "Lateness is what this machine adds to each latency measured at these rates.", ""
    if closed:
        yield "In SingleStream and MultiStream it is the time from an answer to the next query.", ""
    late = [
        row
        for row in calibration.rows
        if row["scenario"] == Scenario.Server.name
        and row["asked_qps"] <= _LATE_RATE
        and row["lateness_p99_us"] * 1e3 > LATE_NS
    ]
    for row in late:
        yield (
            f"At {figures.rate(row['asked_qps'])} p99 lateness is {figures.duration(row['lateness_p99_us'] * 1e3)}: "
            "free a core for the generator (end other programs), and set the performance governor (sudo cpupower "
            "frequency-set -g performance).",
            "yellow",
        )
    if calibration.interrupted:
        yield "Interrupted: these are the measurements so far.", "yellow"
