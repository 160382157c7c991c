"""The live view of several generators: what is drawn of them, and the process that draws it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from drumfire.bench.fleet.child import Sighting
from drumfire.bench.fleet.overview import Row, merged, rows_of
from drumfire.bench.view.generators import _frame, _snapshot
from drumfire.bench.view.lines import draw_rows
from drumfire.bench.view.screen import Look, plain_line
from drumfire.bench.watch import Snapshot, Spread, ViewPlan

PLAN = ViewPlan("triton m", "Server", False, False, 100.0, 1000, 1, 10**10, 10**10, 100, 0, 0, 10**8, 0.99)


def snapshot(answered: int, value: int, **more: object) -> Snapshot:
    spread = Spread(answered, value, value, value, value, value, np.array([value]), np.array([answered]))
    found = {
        "started": True, "done": False, "elapsed_s": 5.0, "fraction": 0.5, "eta_s": 5.0, "answered": answered,
        "in_flight": 2, "rate_now": 50.0, "rate_mean": 40.0, "latency": spread, "lateness": spread, "batches": {},
        "mean_batch_size": None, "failed": 1, "refused": 0, "busy": 0.3, "stall_ns": 7, "gc_pause_ns": 0,
        "steal_s": 0.1,
    }  # fmt: skip
    return Snapshot(**{**found, **more})  # type: ignore[arg-type]


def test_many_as_one() -> None:
    found = merged(PLAN, [snapshot(100, 1000), snapshot(300, 9000, busy=0.7, started=False)])
    assert (found.answered, found.in_flight, found.failed, found.rate_now) == (400, 4, 2, 100.0)
    assert found.rate_mean == 398 / 5
    assert (found.busy, found.steal_s, found.started, found.fraction) == (0.7, 0.1, True, 0.5)
    assert found.latency is not None
    assert (found.latency.count, found.latency.p50, found.latency.maximum) == (400, 9000, 9000)


def test_a_frame_travels() -> None:
    frame = _frame(snapshot(100, 1000), [])
    back = _snapshot(json.loads(frame)["snapshot"])
    assert back.latency is not None
    assert back.latency.values.tolist() == [1000]
    assert _frame(back, []) == frame


def test_a_line_for_each() -> None:
    sightings = [
        Sighting(part, 100 + part, 0, -1, silent_s, None, snapshot(100, late))
        for part, silent_s, late in ((0, 0.2, 2_000_000), (1, 1.5, 1000))
    ]
    rows = rows_of(sightings, lambda one: f"worker {one.part}", lambda one: "stale" if one.part else "running")
    lines = draw_rows(rows, 100, 40).plain.split("\n")
    assert lines[1].split() == ["state", "rate", "p99", "late", "heard", "in", "flight", "done"]
    assert lines[2].split() == ["worker", "0", "running", "50.0/s", "2.00", "ms", "200", "ms", "ago", "2", "100"]
    assert lines[3].split() == ["worker", "1", "stale", "50.0/s", "1.00", "us", "1.50", "s", "ago", "2", "100"]
    for width, last in ((100, "done"), (80, "flight"), (60, "late")):
        lines = draw_rows(rows, width, 40).plain.split("\n")
        assert max(map(len, lines)) < width
        assert lines[1].split()[-1] == last
    assert plain_line(Look(PLAN, snapshot(100, 1000), rows=rows)).endswith(", 1 failed, worker 1 stale")
    assert Row(**json.loads(json.dumps(asdict(rows[0])))) == rows[0]


def test_of_many_those_that_need_a_look() -> None:
    rows = [Row(f"host {n}", "lost" if n == 90 else "running", 1.0, n, 0, 0, 0.1) for n in range(100)]
    lines = draw_rows(rows, 100, 40).plain.split("\n")
    assert lines[2].startswith("host 90")
    assert lines[3].startswith("host 99")
    assert lines[-2] == "and 84 more"
