"""The live view: its arithmetic on tables made by hand, its drawing, and its process around real runs."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from drumfire.bench.view.lines import _figures
from drumfire.bench.view.screen import Look, draw, plain_line
from drumfire.bench.view.show import next_line_s
from drumfire.bench.watch import LOOK_ROWS, Snapshot, ViewPlan, Watch, progress, rebin
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import Gauge, Record, Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.null import NullSystem, null_library
from drumfire.sut.remote.figures import Gpus, ServerFigures
from tests.support.terminal import open_terminal

MS = 1_000_000
S = 1_000_000_000

SERVER = ViewPlan(
    title="digits onnxruntime cpu",
    scenario="Server",
    closed=False,
    accuracy=False,
    asked_qps=1000.0,
    rows=100,
    samples_per_query=1,
    last_due_ns=10 * S,
    min_duration_ns=10 * S,
    min_queries=100,
    max_duration_ns=0,
    max_queries=0,
    target_latency_ns=15 * MS,
    target_percentile=0.99,
)
OFFLINE = replace(SERVER, scenario="Offline", last_due_ns=0, min_duration_ns=0, min_queries=1, target_latency_ns=0)
SINGLE = replace(
    SERVER, scenario="SingleStream", closed=True, asked_qps=None, last_due_ns=0, rows=1000, target_latency_ns=0
)


SEARCHING = replace(SERVER, load=400.0, probes=((100.0, True), (1600.0, False), (200.0, True)))


class HandMade:
    """A table and its gauges, filled as a run would: row i is due at i ms."""

    def __init__(self, rows: int, **extra: Any) -> None:
        self.record = Record(rows, extra)
        self.record.scheduled[:] = np.arange(rows) * MS

    def start(self, origin_ns: int = S, first_row: int = 0) -> None:
        self.record.gauges[Gauge.ORIGIN] = origin_ns
        self.record.gauges[Gauge.FIRST_ROW] = first_row

    def issue(self, last: int, late_ns: int = 0) -> None:
        first = self.record.issued_rows
        self.record.issued[first:last] = self.record.scheduled[first:last] + late_ns
        self.record.gauges[Gauge.ISSUED] = last

    def answer(self, rows: list[int], latency_ns: int | list[int], status: Status = Status.OK) -> None:
        self.record.completed[rows] = self.record.scheduled[rows] + latency_ns
        self.record.status[rows] = status
        self.record.gauges[Gauge.ANSWERED] += len(rows)
        if status == Status.FAILED:
            self.record.gauges[Gauge.FAILED] += len(rows)


ENDED = r"end (0|-15)\n$"
"""How the view ends: it takes idle time only, so on a busy machine it may not end in time by itself."""


def test_before_the_first_phase_the_system_warms_up() -> None:
    made = HandMade(100)
    snapshot = Watch(made.record, SERVER).look(5 * S)
    assert not snapshot.started
    assert (snapshot.elapsed_s, snapshot.answered, snapshot.in_flight) == (0.0, 0, 0)
    for figure in (snapshot.latency, snapshot.lateness, snapshot.rate_now, snapshot.rate_mean):
        assert figure is None
    assert plain_line(Look(SERVER, snapshot)) == "warming up"
    assert "warming up" in draw(Look(SERVER, snapshot), 80).plain


def test_figures_of_a_run_underway() -> None:
    made = HandMade(100)
    watch = Watch(made.record, SERVER)
    made.start()
    made.issue(60, late_ns=2_000)
    made.answer(list(range(50)), 4 * MS)
    made.answer([50, 51], 0, Status.FAILED)
    watch.look(2 * S)
    made.answer([52], 8 * MS)
    s = watch.look(3 * S)
    assert s.started
    assert not s.done
    assert (s.elapsed_s, s.answered, s.in_flight, s.failed) == (2.0, 53, 7, 2)
    assert s.rate_mean == pytest.approx(51 / 2)
    assert s.rate_now == pytest.approx(1.0)
    assert (s.fraction, s.eta_s) == (0.2, 8.0)
    assert s.latency is not None
    assert (s.latency.count, s.latency.maximum) == (51, 8 * MS)  # a failed row has no latency
    assert s.latency.p50 == pytest.approx(4 * MS, rel=1e-3)
    assert s.lateness is not None
    assert (s.lateness.count, s.lateness.maximum) == (60, 2_000)
    assert s.lateness.p99 == pytest.approx(2_000, rel=1e-3)


def test_answers_out_of_order_are_counted_once_each() -> None:
    made = HandMade(100)
    watch = Watch(made.record, SERVER)
    made.start()
    made.issue(100)
    made.answer([90, 10], MS)
    first = watch.look(2 * S)
    made.answer([row for row in range(100) if row not in (10, 90)], MS)
    last = watch.look(3 * S)
    assert first.latency is not None
    assert last.latency is not None
    assert (first.latency.count, last.latency.count) == (2, 100)


def test_of_very_many_new_rows_a_sample_is_looked_at() -> None:
    rows = LOOK_ROWS * 10
    made = HandMade(rows)
    watch = Watch(made.record, replace(OFFLINE, rows=rows))
    made.start()
    made.issue(rows)
    made.answer(list(range(rows)), MS)
    s = watch.look(2 * S)
    assert s.answered == rows
    assert s.latency is not None
    assert LOOK_ROWS * 0.9 <= s.latency.count <= LOOK_ROWS


def test_batches_from_the_size_that_each_row_tells() -> None:
    made = HandMade(100, batch_size=np.uint16)
    watch = Watch(made.record, OFFLINE)
    made.start()
    made.issue(100)
    made.record.columns["batch_size"][:12] = [1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4]
    made.answer(list(range(12)), MS)
    s = watch.look(2 * S)
    assert s.batches == pytest.approx({1: 4 / 6, 4: 2 / 6})
    assert s.mean_batch_size == pytest.approx(2.0)


def test_accuracy_counts_rows_over_all_phases() -> None:
    plan = replace(SERVER, accuracy=True)
    made = HandMade(100)
    watch = Watch(made.record, plan)
    made.start(S)
    made.issue(50)
    made.answer(list(range(50)), MS)
    watch.look(2 * S)
    made.start(3 * S, first_row=50)
    made.issue(75)
    made.answer(list(range(50, 75)), MS)
    s = watch.look(4 * S)
    assert (s.elapsed_s, s.fraction) == (3.0, 0.75)  # from the first phase's start
    assert s.eta_s == pytest.approx(1.0)


@given(st.data())
def test_every_answer_is_counted_once_whatever_the_order_and_the_looks(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 60))
    made = HandMade(rows, batch_size=np.uint16)
    watch = Watch(made.record, replace(SERVER, rows=rows))
    made.start()
    order = data.draw(st.permutations(range(rows)))
    latencies = data.draw(st.lists(st.integers(0, 3_600 * S), min_size=rows, max_size=rows))
    failed = data.draw(st.sets(st.integers(0, rows - 1)))
    made.record.columns["batch_size"][:] = 1
    made.issue(rows)
    now, good = S, []
    for row in order:
        made.answer([row], latencies[row], Status.FAILED if row in failed else Status.OK)
        if row not in failed:
            good.append(latencies[row])
        if data.draw(st.booleans()):
            now += data.draw(st.integers(0, S))
            watch.look(now)
    s = watch.look(now + 1)
    assert (s.answered, s.failed, s.in_flight) == (rows, len(failed), 0)
    assert s.mean_batch_size == pytest.approx(1.0)
    assert 0.0 <= s.fraction <= 1.0
    if not good:
        assert s.latency is None
        return
    assert s.latency is not None
    assert s.latency.count == len(good)
    assert s.latency.maximum == max(good)
    for found, share in ((s.latency.p50, 0.5), (s.latency.p90, 0.9), (s.latency.p99, 0.99)):
        exact = sorted(good)[int(len(good) * share)]
        assert found == pytest.approx(exact, rel=2e-3, abs=1)
    assert rebin(s.latency, 1.0, 4_000.0 * S, 40).sum() == len(good)


@pytest.mark.parametrize(
    ("plan", "elapsed_s", "answered", "rate", "fraction", "eta_s"),
    [
        (SERVER, 2.5, 10, 4.0, 0.25, 7.5),
        (SERVER, 11.0, 90, 9.0, 1.0, None),  # all is due, what is left is in flight
        (OFFLINE, 5.0, 25, 5.0, 0.25, 15.0),
        (OFFLINE, 5.0, 0, 0.0, 0.0, None),
        (SINGLE, 5.0, 90, 18.0, 0.5, 5.0),  # the time is further away than the count
        (SINGLE, 9.0, 50, 5.0, 0.5, 10.0),  # and here the count
        (SINGLE, 20.0, 100, 5.0, 1.0, 0.0),
        (replace(SINGLE, max_queries=50), 1.0, 25, 25.0, 0.5, 1.0),
        (replace(SINGLE, max_duration_ns=4 * S), 1.0, 1, 1.0, 0.25, 3.0),
        (replace(SINGLE, scenario="MultiStream", samples_per_query=8), 5.0, 400, 80.0, 0.5, 5.0),
    ],
)
def test_progress(
    plan: ViewPlan, elapsed_s: float, answered: int, rate: float, fraction: float, eta_s: float | None
) -> None:
    found, left_s = progress(plan, int(elapsed_s * S), answered, rate)
    assert found == pytest.approx(fraction)
    assert left_s == (None if eta_s is None else pytest.approx(eta_s))


def underway() -> Snapshot:
    made = HandMade(100, batch_size=np.uint16)
    made.start()
    made.issue(60, late_ns=2_000)
    made.record.columns["batch_size"][:50] = 2
    made.answer(list(range(50)), [(row + 1) * MS for row in range(50)])
    watch = Watch(made.record, SERVER)
    watch.look(2 * S)
    return watch.look(3 * S)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_screen_keeps_to_its_width(width: int) -> None:
    lines = draw(Look(SERVER, underway()), width).plain.split("\n")
    assert max(map(len, lines)) < max(60, width)
    assert lines[0].startswith("digits onnxruntime cpu")
    assert lines[0].endswith("Server performance")
    assert len(lines) < 18


def test_screen_says_when_the_target_is_missed() -> None:
    snapshot = underway()
    assert "✗ p99 50.0 ms, over 15.0 ms" in draw(Look(SERVER, snapshot), 80).plain
    assert "✓" in draw(Look(replace(SERVER, target_latency_ns=S), snapshot), 80).plain


def test_plain_line() -> None:
    line = plain_line(Look(SERVER, underway()))
    assert line == "0:02 (ETA 0:08), 0.00/s now of 1,000/s asked, p50 26.0 ms, p99 50.0 ms, 10 in flight, 0 failed"


SERVED = ServerFigures(
    rate=5_123.0, mean_batch_size=6.34, queue_ns=45_200.0, compute_ns=312_000.0, cached_share=0.0,
    gpus=Gpus(2, 0.87, 512.3, 2.46e10, 1.6e11),
)  # fmt: skip


@pytest.mark.parametrize(
    ("server", "lines"),
    [
        (
            SERVED,
            ["server now 5,123/s queue 45.2 us compute 312 us batch 6.3", "2 GPUs use 87% power 512 W memory 24.6"],
        ),
        (replace(SERVED, cached_share=0.98, gpus=None), ["server now 5,123/s queue 45.2 us compute 312 us cached 98%"]),
        (ServerFigures(rate=0.0, gpus=Gpus(1, None, None, 1e9, None)), ["server now 0.00/s", "GPU memory 1.00 GB"]),
        (ServerFigures(note="the server reports none"), ["server no statistics (the server reports none)"]),
        (ServerFigures(note="word " * 60), ["server no statistics (word word"]),
        (ServerFigures(), ["server"]),
    ],
)
@pytest.mark.parametrize("width", [60, 100])
def test_screen_tells_what_the_servers_count(server: ServerFigures, lines: list[str], width: int) -> None:
    plain = draw(Look(SERVER, underway()), width).plain.split("\n")
    shown = draw(Look(SERVER, underway(), server), width).plain.split("\n")
    assert max(map(len, shown)) < width
    more = [" ".join(line.split()) for line in shown if line not in plain]
    assert len(more) == len(lines) == len(shown) - len(plain)
    for line, expected in zip(more, lines, strict=True):
        cut = len("server now 5,123/s queue 45.2 us compute 312 us") if width == 60 else None
        assert line.startswith(expected[:cut])


def test_plain_line_tells_what_the_servers_count() -> None:
    line = plain_line(Look(SERVER, underway(), SERVED))
    assert line == plain_line(Look(SERVER, underway())) + ", server 5,123/s, queue 45.2 us, compute 312 us"
    assert plain_line(Look(SERVER, underway(), ServerFigures(note="gone"))) == plain_line(Look(SERVER, underway()))


def test_plain_lines_become_rarer() -> None:
    assert next_line_s(2.0) == 7.0
    assert next_line_s(122.0) == 152.0


# From here on the view's process.  A run takes less than 3 s, as the first plain line comes after 2.

RUN = """
    import sys
    import numpy as np
    from drumfire.bench.view.dashboard import Dashboard, Display
    from drumfire import Mode, Scenario, Test, TestSettings, run_on_fast_loop
    from drumfire.sut.local.null import NullSystem
    from drumfire.sut.remote.endpoint import Security, parse_url
    from drumfire.sut.remote.kserve.meter import plans
    from drumfire.sut.sampler import Sampler

    class Library:
        name, total_count, performance_count = "none", 16, 16
        def load(self, indices): pass
        def unload(self, indices): pass
        def batch(self, indices): return np.zeros((len(indices), 1), np.float32)

    seconds, plain = float(sys.argv[1]), sys.argv[2] == "plain"
    settings = TestSettings(Scenario.Server, server_target_qps=200.0, min_duration_ms=int(seconds * 1000))
    test = Test(NullSystem(Mode.PerformanceOnly), Library(), settings)
    security = Security(headers=[("authorization", "a secret")])
    with Sampler(plans([parse_url(url) for url in sys.argv[3:]], security, "m")) as sampler:
        readings = sampler.fd if sampler.plans else None
        with Dashboard(test, "a title", Display("lines" if plain else "screen"), readings=readings) as view:
            print("view", view._process.pid, flush=True)
            run_on_fast_loop(test.run())
    print("end", view._process.returncode, flush=True)
"""


def start(*arguments: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), *arguments], cwd=ROOT, stdout=stdout, stderr=subprocess.STDOUT
    )


def gone(pid: int) -> bool:
    """Wait until a process is no more; a zombie that nobody has waited for is none."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow  # like those below, of servers, whose lines are longer
def test_plain_view_of_a_real_run() -> None:
    process = start("2.7", "plain", stdout=subprocess.PIPE)
    output = process.communicate(timeout=60)[0].decode()
    first, *lines, last = output.splitlines()
    assert process.returncode == 0, output
    assert gone(int(first.split()[1]))
    assert re.search(ENDED, f"{last}\n")
    assert "\x1b" not in output
    assert lines, output
    form = r"0:0\d( \(ETA 0:0\d\))?, [\d,.]+/s now of 200\.0/s asked, p50 .+, p99 .+, \d+ in flight, 0 failed"
    assert re.fullmatch(form, lines[0])


def test_screen_of_a_real_run_leaves_nothing_behind() -> None:
    main_end, terminal = open_terminal()
    process = start("1.5", "screen", stdout=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            output += os.read(main_end, 65536)
        except OSError:  # nobody holds the terminal any more: the view neither
            break
    os.close(main_end)
    assert process.wait(60) == 0
    text = output.decode()
    assert "a title" in text
    assert "latency" in text
    assert "━" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert re.search(ENDED, text.replace("\r", ""))
    assert "Traceback" not in text


@pytest.mark.parametrize("mode", ["plain", pytest.param("screen", marks=pytest.mark.slow)])
def test_view_ends_with_its_run(mode: str) -> None:
    process = start("60", mode, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")  # the screen's first frame may come before the run's own line
    view = next(int(found[1]) for line in lines if (found := re.search(rb"view (\d+)$", line.rstrip())))
    os.kill(view, signal.SIGINT)  # Ctrl-C is for the run
    process.kill()
    process.wait(60)
    assert gone(view)
    process.stdout.close()


def test_view_that_died_does_not_hurt_the_run() -> None:
    process = start("0.5", "plain", stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.kill(int(process.stdout.readline().split()[1]), signal.SIGKILL)
    assert process.stdout.read().decode() == f"end {-signal.SIGKILL}\n"
    process.stdout.close()
    assert process.wait(60) == 0


@pytest.fixture
def statistics() -> Iterator[tuple[str, list[str | None]]]:
    """A server that counts 10 requests more whenever it is asked: its URL, and the tokens that it was shown."""
    tokens: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            tokens.append(self.headers["authorization"])
            count = len(tokens) * 10
            total = {"count": count, "ns": count * 1_000_000}
            names = ("success", "queue", "compute_input", "compute_infer", "compute_output")
            stats = {"name": "m", "inference_stats": dict.fromkeys(names, total)}
            body = json.dumps({"model_stats": [stats]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", tokens
        server.shutdown()


@pytest.mark.slow
@pytest.mark.serial  # the view takes idle time only, and draws nothing while other tests take all
def test_the_view_shows_the_servers_figures_and_tokens_to_nobody_else(
    statistics: tuple[str, list[str | None]],
) -> None:
    url, tokens = statistics
    process = start("2.7", "plain", url, stdout=subprocess.PIPE)
    assert process.stdout is not None
    view = int(process.stdout.readline().split()[1])
    arguments = Path(f"/proc/{view}/cmdline").read_bytes()
    assert b"drumfire.bench.view.dashboard" in arguments
    assert b"secret" not in arguments
    output = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(60) == 0, output
    assert len(tokens) >= 2
    assert set(tokens) == {"a secret"}
    assert "\x1b" not in output
    assert re.search(r"^0:0\d( \(ETA 0:0\d\))?, [\d,.]+/s now of 200\.0/s asked, p50 ", output, re.MULTILINE), output
    assert re.search(r", server [\d.]+/s, queue 1\.00 ms, compute 3\.00 ms\n", output), output
    assert re.search(ENDED, output)
    assert gone(view)


@pytest.mark.parametrize("mode", ["plain", pytest.param("screen", marks=pytest.mark.slow)])
def test_a_server_that_is_not_there_does_not_hurt_the_view(mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # takes connections and never says a word
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = start("2.7", mode, address, stdout=subprocess.PIPE)
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0, output
    assert re.search(ENDED, output)
    assert "Traceback" not in output


# The probes of a search.


def hand_made_snapshot(plan: ViewPlan) -> Snapshot:
    return Watch(HandMade(plan.rows).record, plan).look(0)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_probes_are_drawn_by_their_ratios(width: int) -> None:
    lines = draw(Look(SEARCHING, hand_made_snapshot(SEARCHING)), width).plain.split("\n")
    line = next(line for line in lines if line.startswith("probes"))
    assert len(line) < width
    places = {mark: [at for at, letter in enumerate(line) if letter == mark] for mark in "✓●✗"}
    (low, next_up), (current,), (high,) = places["✓"], places["●"], places["✗"]
    assert (next_up - low) * 4 == pytest.approx(high - low, abs=4)
    assert (current - low) * 2 == pytest.approx(high - low, abs=2)
    ends = lines[lines.index(line) + 1]
    assert ends.split() == ["100", "1,600"]


def test_a_run_without_probes_shows_none() -> None:
    assert "probes" not in draw(Look(SERVER, hand_made_snapshot(SERVER)), 80).plain


def test_one_load_alone_is_drawn_too() -> None:
    plan = replace(SERVER, load=100.0, probes=((100.0, True),))
    assert "●" in draw(Look(plan, hand_made_snapshot(plan)), 80).plain


def test_the_view_of_a_remote_system_shows_how_late_requests_were_sent() -> None:
    made = HandMade(100, sent=np.int64)
    made.start()
    made.issue(100)
    made.record.columns["sent"][:] = made.record.scheduled + 40 * MS
    made.answer(list(range(50)), 41 * MS)
    s = Watch(made.record, SERVER).look(2 * S)
    assert s.sent is not None
    assert (s.sent.count, s.sent.maximum) == (50, 40 * MS)
    assert re.search("sent late +p50 40.0 ms .*p99 40.0 ms", draw(Look(SERVER, s), 80).plain)
    assert "sent late p99 40.0 ms" in plain_line(Look(SERVER, s))
    assert Watch(made.record, OFFLINE).look(2 * S).sent is None  # there all is due at once


def test_the_view_of_queries_of_several_samples_shows_their_latency() -> None:
    plan = replace(SINGLE, scenario="MultiStream", samples_per_query=4, rows=100)
    made = HandMade(100)
    watch = Watch(made.record, plan)
    made.start()
    made.issue(12)
    made.record.scheduled[:] = np.arange(100) // 4 * MS
    made.answer([0, 1, 3, 2], MS)
    made.answer([4, 5, 6, 7], 2 * MS)
    made.record.completed[6] += 7 * MS  # the query waits for the last of its samples
    made.answer([8, 9, 10], MS)
    first = watch.look(2 * S).query_latency
    assert first is not None
    assert (first.count, first.maximum) == (2, 9 * MS)
    made.answer([11], 3 * MS)
    s = watch.look(3 * S)
    assert s.query_latency is not None
    assert s.query_latency.count == 3
    assert "per query   p50" in draw(Look(plan, s), 80).plain
    assert Watch(made.record, SINGLE).look(3 * S).query_latency is None


def test_only_server_has_a_rate_that_was_asked_for() -> None:
    for scenario in Scenario:
        test = Test(
            NullSystem(Mode.PerformanceOnly), null_library(), TestSettings(scenario=scenario, min_query_count=5)
        )
        asked = ViewPlan.of(test.plan, "null").asked_qps
        test.record.close()
        assert (asked is not None) == (scenario == Scenario.Server)


def test_a_long_figure_moves_only_those_that_it_leaves_no_room() -> None:
    shown = Text()
    _figures(shown, {"now": ("123,456,789/s", ""), "mean": ("9/s", ""), "done": ("12", "")}, 80)
    assert shown.plain == "now 123,456,789/s mean 9/s      done 12\n"
