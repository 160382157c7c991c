"""The live view on screens of several sizes: what it leaves behind, and what it does with the height."""

from __future__ import annotations

import io
import itertools
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from drumfire.bench.view import process
from drumfire.bench.view.history import MOST, History
from drumfire.bench.view.screen import Look, cut, draw
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
            drawn.draw(draw(Look(SEARCHING, shown, BUSY, history), width, height - 1))
            assert any("digits onnxruntime" in line or "━" in line for line in screen.seen)
            assert len(screen.seen) <= height
    screen.write("Result is : VALID\n")
    assert [line for line in screen.lines if line.strip()] == ["$ drumfire run", "Result is : VALID"]


@pytest.mark.parametrize("height", range(1, 70))
@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_height_is_kept_and_a_high_one_is_used(width: int, height: int) -> None:
    snapshot, history = long_run()
    lines = draw(Look(SERVER, snapshot, BUSY, history, keys=True), width, height).plain.split("\n")
    assert height - 1 <= len(lines) <= height
    assert max(map(len, lines)) < width
    if height >= 23:
        assert max(map(len, lines)) == width - 1
        assert any(line.split() == ["0:00", "0:59"] for line in lines)


def test_a_low_screen_keeps_what_matters_most() -> None:
    snapshot, history = long_run()
    look = Look(SERVER, replace(snapshot, sent=snapshot.lateness, failed=3), BUSY, history, keys=True)
    whole = [line.split()[0] for line in draw(look, 60, 11).plain.split("\n")]
    assert whole[2:] == ["so", "rate", "latency", "lateness", "sent", "in", "rate/time", "p99/time", "q"]
    least = draw(look, 60, 5).plain
    for figure in ("ETA 0:05", "✗ p99 59.0 ms, over 15.0 ms; 3 failed", "now 10.0/s", "p99 59.0 ms", "in flight   3"):
        assert figure in least
    assert least.split("\n")[1:] == draw(look, 60, 6).plain.split("\n")[2:]


@pytest.mark.parametrize("height", [5, 11, 23, 39])
def test_what_each_line_shows_fits_where_the_lines_do(height: int) -> None:
    snapshot, history = long_run()
    look = Look(SEARCHING, replace(snapshot, sent=snapshot.lateness, query_latency=spread(1)), BUSY, history, keys=True)
    shown = draw(look, 60, height).plain.split("\n")
    told = draw(look, 60, height, explained=True).plain.split("\n")
    assert len(told) <= height
    assert max(map(len, told)) <= 59
    names = {line[:12].strip() for line in told}
    for line in shown:
        if re.match("[a-z]", line) and "explains" not in line and not line.startswith(("digits", "p99/", "GPU ")):
            assert line[:12].strip() in names


def test_a_frozen_screen_says_so_at_any_height() -> None:
    snapshot, history = long_run()
    for height in range(2, 40):
        text = draw(Look(SERVER, snapshot, BUSY, history, keys=True, frozen=True), 80, height).plain
        assert text.split("\n")[-1].startswith("FROZEN")


def test_keys_are_named_only_where_they_are_read() -> None:
    snapshot, history = long_run()
    assert "q ends" in draw(Look(SERVER, snapshot, history=history, keys=True), 80, 23).plain
    assert "q ends" not in draw(Look(SERVER, snapshot, history=history), 80, 23).plain


@pytest.mark.parametrize("title", ["模型" * 40, "a\nb\x1b[31mc", "x" * 300])
def test_any_title_keeps_to_its_line(title: str) -> None:
    snapshot, _ = long_run()
    text = draw(Look(replace(SERVER, title=title), snapshot), 80)
    first = text.plain.split("\n")[0]
    assert cell_len(first) == 79
    assert first.endswith("  Server performance")
    assert "\x1b" not in text.plain


def test_figures_that_have_no_room_are_left_out_whole() -> None:
    plan = replace(SERVER, asked_qps=12_345_678.0)
    text = draw(Look(plan, at(1.0, 0, None, rate_now=12_345_678.0, rate_mean=12_345_678.0)), 60).plain
    assert re.search(r"asked 12,345,678/s now 12,345,678/s\n", text)


def test_a_narrower_terminal_has_wrapped_the_lines_above() -> None:
    class Sized(Console):
        columns = 100

        @property
        def width(self) -> int:
            return self.columns

        @width.setter
        def width(self, columns: int) -> None:
            self.columns = columns

    written = io.StringIO()
    console = Sized(file=written, force_terminal=True, width=100, height=30, highlight=False)
    with process.Screen(console) as screen:
        screen.draw(Text("a" * 99 + "\n" + "b" * 20 + "\n" + "c" * 61))
        written.truncate(0)
        console.width = 60
        screen.draw(Text("d"))
        assert written.getvalue().lstrip("\0").startswith("\r\x1b[4A")  # 2 + 1 + 2 rows


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
    for second in range(1, 4000):
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
    frames = [
        draw(Look(SERVER, replace(snapshot, answered=n), BUSY, history), 80, 40).plain.split("\n") for n in (600, 700)
    ]
    assert sum(one != other for one, other in itertools.zip_longest(*frames)) == 1


def test_a_cut_screen_keeps_its_first_lines() -> None:
    snapshot, _ = long_run()
    whole = draw(Look(SERVER, snapshot), 80)
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
        drawn.draw(draw(Look(SERVER, snapshot, BUSY, history), 80, 39))
        before = list(screen.lines)
        full.clear()
        drawn.draw(draw(Look(SERVER, snapshot, BUSY, history), 80, 39))
        assert set(full) == {len(before)}
        assert screen.lines == before
        drawn.draw(draw(Look(SERVER, replace(snapshot, started=False)), 80))
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
    shown = draw(Look(plan, at(1.0, 0, None, computing=(0.975, 91_400_000))), 80).plain
    assert re.search(rf"system +CPU 98% +memory 91 MB +{says}", shown), shown


def test_a_process_that_is_gone_takes_nothing() -> None:
    plan = replace(SERVER, pids=(1 << 22,))
    assert Watch(HandMade(plan.rows).record, plan).look(1).computing == (0.0, 0)
