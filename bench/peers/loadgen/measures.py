"""The measures beside the reference, with their cases and goals.

Each measurement is a process of ``ours`` or ``reference``.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drumfire.bench.peers.goal import Figure, Figures, both, number
from drumfire.bench.peers.process import PROGRAM, MeasurementError, run
from drumfire.bench.peers.rounds import Measure, Side
from drumfire.loadgen.installation import ROOT

REFERENCE = "mlcommons-loadgen"
_PATIENCE_S = 300
_LATE_NS = 100_000
_ANSWERED_SHARE = 0.99
_HIGHEST_RATE = 24e6
"""The search stops here: beyond, the table of a second would take more than 2 GB."""

Probe = Callable[[float], dict[str, float] | None]
"""Takes a rate and returns a run's figures; None for a rate that is not sustained."""


def worker(module: str, case: Mapping[str, Any]) -> dict[str, float]:
    """Run a case in a fresh process.  Raises ``MeasurementError``."""
    return run([sys.executable, "-m", f"drumfire.bench.peers.loadgen.{module}"], json.dumps(case)).document


def ours(settings: Mapping[str, Any], seconds: float, kind: str = "phase") -> dict[str, float]:
    return worker("ours", {"kind": kind, "settings": {**settings, "min_duration_ms": round(seconds * 1000)}})


def theirs(
    settings: Mapping[str, Any],
    seconds: float,
    *,
    trace: bool = False,
    pool: int = 1024,
    objects: bool = False,
    drop_in: bool = False,
) -> dict[str, float]:
    """``pool``: how many responses are made before the run.  ``objects``: instead make a response for each sample.

    ``drop_in``: the same program with our module instead of theirs.
    """
    settings = {**settings, "min_duration_ms": round(seconds * 1000)}
    case = {"settings": settings, "trace": trace, "pool": pool, "objects": objects, "drop_in": drop_in}
    return worker("reference", case)


def server(rate: float) -> dict[str, Any]:
    return {"scenario": "Server", "server_target_qps": rate, "server_coalesce_queries": True}


def highest(probe: Probe, start: float, *, growth: float = 2.0, steps: int = 4) -> dict[str, float]:
    """The figures at the highest rate that ``probe`` sustains.

    ``growth``: the factor between rates until they enclose it; that interval is then halved ``steps`` times.
    """
    low, best = start, probe(start)
    while best is None:
        low /= growth
        if low < 1:
            raise MeasurementError("not even one query a second was sustained")
        best = probe(low)
    high = low * growth
    if low == start:
        while (figures := probe(high)) is not None:
            low, best, high = high, figures, high * growth
    for _ in range(steps):
        middle = (low + high) / 2
        if (figures := probe(middle)) is not None:
            low, best = middle, figures
        else:
            high = middle
    return best


def sustained(figures: dict[str, float], late: str) -> dict[str, float] | None:
    """The figures of a run that kept up: half the queries less than 100 us late, and answered as fast as asked."""
    kept_up = figures[late] < _LATE_NS and figures["answered_per_s"] >= _ANSWERED_SHARE * figures["asked_per_s"]
    return figures if kept_up else None


def _our_ceiling(seconds: float) -> dict[str, float]:
    def probe(rate: float) -> dict[str, float] | None:
        return None if rate > _HIGHEST_RATE else sustained(ours(server(rate), seconds), "p50_lateness_ns")

    return highest(probe, 16e6)


def _their_ceiling(seconds: float) -> dict[str, float]:
    # Its latency counts from the schedule, and needs no trace.
    return highest(lambda rate: sustained(theirs(server(rate), seconds), "p50_latency_ns"), 1e5)


def _one_by_one(rate: float) -> dict[str, Any]:
    """As ``server``, but each query alone, with which the reference is on time."""
    return {**server(rate), "server_coalesce_queries": False}


def _lateness(rate: int) -> Measure:
    at = f"at {rate:,}/s"
    return Measure(
        f"server-lateness@{rate}",
        (
            both(f"lateness p50 {at}", "p50_lateness_ns", "us", 1e3, goal=0.2),
            both(f"lateness p99 {at}", "p99_lateness_ns", "us", 1e3, goal_ratio=2),
            Figure(f"issued early {at}", "early", "queries", goal=0),
        ),
        lambda seconds: ours(server(rate), 2 * seconds),
        {REFERENCE: lambda seconds: theirs(_one_by_one(rate), 2 * seconds, trace=True)},
    )


def _closed(scenario: str, width: int, goal_us: float, our_guess_ns: float, their_guess_ns: float) -> Measure:
    """A closed loop.  The guesses are below the measured latencies, so that there are enough queries for the run."""
    guess = f"{'single' if width == 1 else 'multi'}_stream_expected_latency_ns"
    return Measure(
        scenario.lower(),
        (
            both(
                f"{scenario}: wall time of a query of {width}", "wall_ns_per_query", "us", 1e3, goal=goal_us,
                goal_ratio=4,
            ),
        ),
        lambda seconds: ours({"scenario": scenario, guess: our_guess_ns}, seconds),
        {REFERENCE: lambda seconds: theirs({"scenario": scenario, guess: their_guess_ns}, seconds, pool=width)},
    )  # fmt: skip


def _compat(what: str, objects: bool) -> tuple[Measure, ...]:
    """The same program with their module and with ours; ``what`` describes it."""

    def server_side(coalesce: bool, drop_in: bool) -> Side:
        def ceiling(seconds: float) -> dict[str, float]:
            def probe(rate: float) -> dict[str, float] | None:
                settings = {**server(rate), "server_coalesce_queries": coalesce}
                return sustained(theirs(settings, seconds, objects=objects, drop_in=drop_in), "p50_latency_ns")

            return highest(probe, 1e6 if drop_in and coalesce else 1e5)

        return ceiling

    def single_side(drop_in: bool) -> Side:
        settings = {"scenario": "SingleStream", "single_stream_expected_latency_ns": 400 if drop_in else 1000}
        return lambda seconds: theirs(settings, seconds, pool=1, objects=objects, drop_in=drop_in)

    def ceiling_of(label: str, coalesce: bool, goal_ratio: float | None = None) -> Measure:
        return Measure(
            f"compat@{'together' if coalesce else 'singly'}-{what}",
            (
                both(
                    f"drop-in, {what}: highest sustained Server rate, {label}", "answered_per_s", "M/s", 1e6,
                    more_is_better=True, goal_ratio=goal_ratio,
                ),
            ),
            server_side(coalesce, drop_in=True),
            {REFERENCE: server_side(coalesce, drop_in=False)},
        )  # fmt: skip

    return (
        ceiling_of("queries due together in one call", coalesce=True, goal_ratio=3),
        ceiling_of("each query in a call", coalesce=False),
        Measure(
            f"compat@singlestream-{what}",
            (
                both(
                    f"drop-in, {what}: SingleStream, wall time of a query", "wall_ns_per_query", "us", 1e3,
                    goal_ratio=1 / 0.7,
                ),
                both(f"drop-in, {what}: SingleStream, CPU of a query", "cpu_ns_per_query", "us", 1e3),
            ),
            single_side(drop_in=True),
            {REFERENCE: single_side(drop_in=False)},
        ),
    )  # fmt: skip


def _offline(samples: int) -> dict[str, Any]:
    """A query of about ``samples`` samples, for a duration of 1 s."""
    return {"scenario": "Offline", "offline_expected_qps": samples / 1.1, "min_query_count": samples}


def _dashboard(*options: str) -> Side:
    """A run of the command line on a terminal, with the live view unless ``options`` turn it off."""

    def measure(seconds: float) -> dict[str, float]:
        command = [*PROGRAM, "run", "null", "digits", "--scenario", "Server", "--qps", "10000"]
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "run"
            command += ["--time", str(5 * seconds), "--output", str(folder), *options]
            status, shown = _on_terminal(command)
            if not (folder / "result.json").is_file():
                raise MeasurementError(f"the run ended with {status}: {shown[-500:].decode(errors='replace')}")
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return {
            "delivered_per_s": result["delivered"]["samples_per_second"],
            "p99_latency_ns": result["latency_ns"]["p99"],
            "p50_latency_ns": result["latency_ns"]["p50"],
            "shown_bytes": float(len(shown)),
        }

    return measure


def _on_terminal(command: Sequence[str]) -> tuple[int, bytes]:
    """Run a command on a new terminal; returns its status and its output."""
    ours_end, its_end = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                part = os.read(ours_end, 1 << 16)
            except OSError:  # the other end is closed
                return
            shown.extend(part)

    reader = threading.Thread(target=read, daemon=True)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=its_end, stderr=its_end, cwd=ROOT, env=environment
    )
    os.close(its_end)
    reader.start()
    try:
        status = process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"the run did not end within {_PATIENCE_S} s") from None
    finally:
        process.kill()
        reader.join(5)
        os.close(ours_end)
    return status, bytes(shown)


def _ceiling_note(medians: Figures) -> str:
    length_s = medians["queries"] * medians["wall_ns_per_query"] * 1e-9
    return (
        f"server-ceiling: ours is {number(medians['queries'] / 1e6)} M queries in {number(length_s)} s; above "
        f"{_HIGHEST_RATE / 1e6:.0f} M queries a second none is tried, as the table is drawn whole. Our null system "
        "answers a burst with one slice; the reference asks for a response object a sample."
    )


def _memory_note(medians: Figures) -> str:
    return (
        "memory: the table is shared memory, and is counted in the resident set. "
        f"It has {number(medians['table_bytes_per_row'])} bytes a sample; "
        f"the files take {number(medians['disk_bytes_per_row'])} more, on disk."
    )


def _after_note(medians: Figures) -> str:
    return f"after: {medians['results_s']:.2f} s for the results, {medians['saving_s']:.2f} s for the files."


MEASURES: tuple[Measure, ...] = (
    Measure(
        "server-ceiling",
        (
            both(
                "highest sustained Server rate", "answered_per_s", "M/s", 1e6, more_is_better=True, goal=8,
                goal_ratio=30,
            ),
        ),
        _our_ceiling,
        {REFERENCE: _their_ceiling},
        note=_ceiling_note,
    ),
    *map(_lateness, (1_000, 10_000, 100_000)),
    Measure(
        "server-cpu",
        (
            both(
                "issuing CPU a query at 100,000/s, without the pacer's spin", "cpu_ns_per_query", "us", 1e3, goal=0.6,
                goal_ratio=10,
            ),
            Figure(
                "CPU of the whole process a query, spin included; theirs with StartTest's preparation and logs",
                "cpu_and_spin_ns_per_query", "us", 1e3, "test_cpu_ns_per_query",
            ),
        ),
        lambda seconds: ours(server(1e5), 2 * seconds),
        {REFERENCE: lambda seconds: theirs(_one_by_one(1e5), 2 * seconds)},
    ),
    _closed("SingleStream", 1, 0.6, 200, 1000),
    _closed("MultiStream", 8, 1.5, 800, 1500),
    *_compat("lists", objects=False),
    *_compat("objects", objects=True),
    Measure(
        "offline",
        (both("Offline samples", "samples_per_s", "M/s", 1e6, more_is_better=True, goal=50, goal_ratio=50),),
        lambda seconds: ours(_offline(round(20e6 * seconds)), seconds),
        {REFERENCE: lambda seconds: theirs(_offline(round(1e6 * seconds)), seconds, pool=round(1e6 * seconds))},
    ),
    Measure(
        "memory",
        (
            Figure("peak memory of a Server run of 50 M queries", "peak_bytes", "GB", 1e9, goal=2.5),
            Figure("held at its end, a sample", "held_bytes_per_row", "bytes", goal=40),
        ),
        lambda seconds: ours(server(6e6), 50 / 6 * seconds, "after"),
        once=True,
        note=_memory_note,
    ),
    Measure(
        "drawing",
        (
            Figure("drawing Server traffic", "rows_per_s", "M rows/s", 1e6, more_is_better=True, goal=5),
        ),
        lambda seconds: ours(server(5e6), seconds, "drawing"),
    ),
    Measure(
        "after",
        (Figure("last answer to all files, 10 M queries", "after_s", "s", goal=5),),
        lambda seconds: ours(server(5e6), 2 * seconds, "after"),
        note=_after_note,
    ),
    Measure(
        "dashboard",
        (
            both(
                "delivered with the live view (theirs: without)", "delivered_per_s", "1/s", 1, more_is_better=True,
                goal_ratio=0.99,
            ),
            both("latency p99 with the live view (theirs: without)", "p99_latency_ns", "us", 1e3, goal_ratio=0.99),
        ),
        _dashboard(),
        {REFERENCE: _dashboard("--no-dashboard")},
    ),
)  # fmt: skip
