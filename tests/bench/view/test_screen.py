"""The live view on screens of several sizes: what it leaves behind, and what it does with the height."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from drumfire.bench.view import process
from drumfire.bench.view.history import MOST, History
from drumfire.bench.view.screen import cut, draw
from drumfire.bench.watch import Snapshot, Spread, Watch
from drumfire.sut.remote.figures import Gpus, ServerFigures
from tests.bench.view.test_dashboard import SEARCHING, SERVER, HandMade
from tests.support.terminal import Screen

MS = 1_000_000
BUSY = ServerFigures(900.0, 4.0, 2 * MS, 3 * MS, None, Gpus(1, 0.5, 250.0, int(1e9), int(8e10)))


def spread(*values_ms: int) -> Spread:
    values, counts = np.unique(np.array(values_ms) * MS, return_counts=True)
    return Spread.of(values, counts, int(values[-1]), 0.99)


def at(seconds: float, answered: int, latency: Spread | None, **more: object) -> Snapshot:
    first = Snapshot(
        started=True, done=False, elapsed_s=seconds, fraction=0.5, eta_s=5.0, answered=answered, in_flight=3,
        rate_now=10.0, rate_mean=10.0, latency=latency, lateness=latency, batches={1: 0.5, 2: 0.5},
        mean_batch_size=1.5, failed=0, refused=0, busy=0.1, stall_ns=0, gc_pause_ns=0, steal_s=0.0,
    )  # fmt: skip
    return replace(first, **more)


def long_run() -> tuple[Snapshot, History]:
    history = History()
    snapshot = at(0.0, 0, None)
    for second in range(1, 60):
        snapshot = at(float(second), 10 * second, spread(*range(1, second + 1)))
        history.add(snapshot)
    return snapshot, history


@pytest.mark.parametrize(("width", "height"), [(40, 5), (60, 12), (80, 24), (200, 60)])
def test_nothing_of_the_view_stays_above_the_report(width: int, height: int) -> None:
    screen = Screen(width, height)
    console = Console(file=screen, force_terminal=True, width=width, height=height, highlight=False)
    snapshot, history = long_run()
    screen.write("$ drumfire run\n")
    with process.Screen(console) as drawn:
        for shown in (replace(snapshot, started=False), at(1.0, 0, None), snapshot, snapshot):
            drawn.draw(draw(SEARCHING, shown, width, BUSY, history, height - 1))
            assert any("digits onnxruntime" in line for line in screen.seen)
            assert len(screen.seen) <= height
    screen.write("Result is : VALID\n")
    assert [line for line in screen.lines if line.strip()] == ["$ drumfire run", "Result is : VALID"]


@pytest.mark.parametrize("height", range(1, 70))
def test_every_height_is_kept_and_a_high_one_is_used(height: int) -> None:
    snapshot, history = long_run()
    text = draw(SERVER, snapshot, 80, BUSY, history, height).plain
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= height
    assert all(len(line) <= 79 for line in lines)
    assert ("0:59 ago" in text) == (height >= 24)
    if 24 <= height <= 35:
        assert len(lines) >= height - 1
    if height >= 24:
        assert [line.split()[0] for line in lines if line.startswith(("rate", "p99"))] == ["rate", "rate", "p99"]


def test_the_history_has_what_happened_since_the_point_before() -> None:
    history = History()
    history.add(at(0.5, 5, spread(1)))
    assert history.rates == []  # it covers too little time
    history.add(at(1.0, 10, spread(1, 1, 2)))
    history.add(at(2.0, 40, spread(1, 1, 2, 50, 50), failed=10))
    history.add(at(3.0, 40, spread(1, 1, 2, 50, 50), failed=10))
    history.add(at(5.0, 60, spread(1, 1, 2, 3, 50, 50), failed=10))
    assert history.rates == [10.0, 20.0, 0.0, 10.0]
    assert history.p99s == [2 * MS, 50 * MS, 0, 3 * MS]


def test_the_history_of_a_long_run_stays_small_and_keeps_its_worst() -> None:
    history = History()
    values: list[int] = []
    for second in range(1, 1000):
        values.append(99 if second == 500 else 1 + second % 3)
        history.add(at(float(second), 10 * second, spread(*values)))
        assert len(history.rates) < MOST
    assert history.step_s == 16.0
    assert set(history.rates) == {10.0}
    assert max(history.p99s) == 99 * MS
    assert history.p99s.count(99 * MS) == 1


def test_a_lost_generator_takes_its_values_along() -> None:
    history = History()
    history.add(at(1.0, 10, spread(1, 2, 9)))
    history.add(at(2.0, 8, spread(1, 1)))
    history.add(at(3.0, 18, spread(1, 1, 4)))
    assert (history.rates, history.p99s) == ([10.0, 0.0, 8.0], [9 * MS, MS, 4 * MS])


def test_frames_of_a_run_differ_only_where_figures_do() -> None:
    """The lines keep their places, so nothing jumps."""
    snapshot, history = long_run()
    frames = [draw(SERVER, replace(snapshot, answered=n), 80, BUSY, history, 40).plain.split("\n") for n in (600, 700)]
    assert sum(one != other for one, other in itertools.zip_longest(*frames)) == 1


def test_a_cut_screen_keeps_its_first_lines() -> None:
    snapshot, _ = long_run()
    whole = draw(SERVER, snapshot, 80)
    lines = whole.plain.split("\n")
    assert cut(whole.copy(), 3).plain.split("\n") == lines[:3]
    assert cut(whole.copy(), 300).plain == whole.plain


def test_a_frame_is_one_write_and_erases_nothing_before_it_is_drawn_anew() -> None:
    class Noting(Screen):
        def write(self, text: str) -> int:
            for part in re.split("(?<=\n)|(?<=A)", text):
                super().write(part)
                full.append(len(self.lines))
            return 0

    full: list[int] = []
    screen = Noting(80, 40)
    console = Console(file=screen, force_terminal=True, width=80, height=40, highlight=False)
    snapshot, history = long_run()
    with process.Screen(console) as drawn:
        drawn.draw(draw(SERVER, snapshot, 80, BUSY, history, 39))
        before = list(screen.lines)
        full.clear()
        drawn.draw(draw(SERVER, snapshot, 80, BUSY, history, 39))
        assert set(full) == {len(before)}
        assert screen.lines == before
        drawn.draw(draw(SERVER, replace(snapshot, started=False), 80))
        assert len([line for line in screen.seen if line]) == 2


@pytest.mark.parametrize(
    ("pids", "says"),
    [((os.getpid(),), f"process {os.getpid()}"), ((1, os.getpid()), "processes 2")],
    ids=["one", "two"],  # else every process that runs tests has another
)
def test_what_the_systems_own_processes_take(pids: tuple[int, ...], says: str) -> None:
    plan = replace(SERVER, pids=pids)
    watch = Watch(HandMade(plan.rows).record, plan)
    watch.look(1)
    seen = watch.look(1_000_000_001).computing
    assert seen is not None
    assert seen[1] > 1e6
    shown = draw(plan, at(1.0, 0, None, computing=(0.975, 91_400_000)), 80).plain
    assert re.search(rf"system +CPU 98% +memory 91 MB +{says}", shown), shown


def test_a_process_that_is_gone_takes_nothing() -> None:
    plan = replace(SERVER, pids=(1 << 22,))
    assert Watch(HandMade(plan.rows).record, plan).look(1).computing == (0.0, 0)
