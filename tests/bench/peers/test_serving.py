"""The comparison of servers: how each is started and counted, how words become figures; perf_analyzer against ours.

Scripted servers stand for the others, whose environments are large; ours is the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import Done, without_errors
from drumfire.bench.peers.server import Running, watched
from drumfire.bench.peers.serving import __main__ as command
from drumfire.bench.peers.serving import client, measures, perf_analyzer, same_schedule, servers, soak
from drumfire.bench.peers.serving.client import Load, closed_loop
from drumfire.bench.peers.serving.environments import KSERVE, MLSERVER
from drumfire.bench.peers.serving.same_schedule import IN_PROCESS, SERVED, SameSchedule
from drumfire.bench.peers.serving.servers import read_counter
from drumfire.bench.peers.serving.soak import Held, grew, held
from tests.support.triton import made_perf_analyzer

# Our own server.


@pytest.fixture(scope="module")
def identity() -> Iterator[Running]:
    with servers.drumfire("null", "identity") as running:
        yield running


def test_it_is_started_asked_and_ended() -> None:
    pid = 0

    @contextmanager
    def noted() -> Iterator[Running]:
        nonlocal pid
        with servers.drumfire("null", "identity") as running:
            pid = running.pid
            yield running

    told = closed_loop(noted, Load("identity", "grpc", 16), 0.1)
    assert told["served"] >= told["requests"] > 0
    assert told["rate_per_s"] > 0
    assert told["all_cpu_ns_per_request"] > told["server_cpu_ns_per_request"] > 0
    assert told["p50_latency_ns"] <= told["p99_latency_ns"]
    assert not Path("/proc", str(pid)).exists()


def test_in_process_the_cpu_of_a_model_in_a_process_of_its_own_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "delivered": {"samples_per_second": 50.0, "samples": 100},
        "overhead": {"process_cpu_s": 0.5},
        "system": {"processes": [{"cpu_s": 1.0}, {"cpu_s": 0.5}]},
    }
    monkeypatch.setattr(client, "carry_out", lambda words: Done(result, {}, 9.0))
    assert client.in_process(["onnxruntime", "digits"], 1) == {
        "rate_per_s": 50.0, "all_cpu_ns_per_request": 2e7, "requests": 100,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "json"])
def test_each_protocol_is_asked(identity: Running, protocol: str) -> None:
    @contextmanager
    def started() -> Iterator[Running]:
        yield identity

    told = closed_loop(started, Load("identity", protocol, 4), 0.1)
    assert told["served"] >= told["requests"] > 0


def test_a_server_that_can_not_start_is_told() -> None:
    with (
        pytest.raises(MeasurementError, match=r"ended while it started.*nothing-of-this-name"),
        servers.drumfire("onnxruntime", "nothing-of-this-name"),
    ):
        pass


def test_a_server_that_never_becomes_ready_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_START_S", 0.2)
    script = "print('here I am', flush=True); import time; time.sleep(60)"
    with servers._started([sys.executable, "-c", script]) as made:
        time.sleep(0.1)
        with pytest.raises(MeasurementError, match=r"not ready after 0\.2 s: here I am"):
            made.wait_for(made.json_line)
    # The keeper has ended it, and was waited for.
    assert not Path("/proc", str(made.pid)).exists()


@pytest.mark.slow
def test_what_the_server_counts_must_cover_what_the_client_counts(identity: Running) -> None:
    forgetful = Running(identity.grpc, identity.http, identity.pid, lambda model: (next(counts), 0))
    counts = iter((5, 6))

    @contextmanager
    def started() -> Iterator[Running]:
        yield forgetful

    with pytest.raises(MeasurementError, match=r"the client counts \d+ replies, the server 1"):
        closed_loop(started, Load("identity", "json", 4), 0.05)


def test_a_server_that_counts_nothing_is_refused(identity: Running) -> None:
    with (
        pytest.raises(MeasurementError, match="counted no request"),
        watched(Running(identity.grpc, identity.http, identity.pid, lambda model: (7, 0)), "identity"),
    ):
        pass


# What the others count.

PROMETHEUS = """# HELP model_infer_request_success Model infer request success count
# TYPE model_infer_request_success counter
model_infer_request_success_total{model="identity",version="None"} 1.0
model_infer_request_success_total{model="identity",version=""} 7534.0
model_infer_request_success_total{model="another",version=""} 3.0
model_infer_request_success_created{model="identity",version=""} 1.7955302677482018e+09
# HELP request_predict_seconds predict request latency
# TYPE request_predict_seconds histogram
request_predict_seconds_bucket{le="+Inf",model_name="identity"} 10347.0
request_predict_seconds_count{model_name="identity"} 10347.0
request_predict_seconds_sum{model_name="identity"} 0.5
"""


def test_counters_are_read_by_name_and_labels() -> None:
    success = "model_infer_request_success_total"
    assert read_counter(PROMETHEUS, success, {"model": "identity"}) == 7535
    assert read_counter(PROMETHEUS, success, {"model": "no such"}) == 0
    assert read_counter(PROMETHEUS, "request_predict_seconds_count", {"model_name": "identity"}) == 10347
    assert read_counter("", success, {"model": "identity"}) == 0


OTHER = """
    import json, signal, sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from pathlib import Path
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answered = 0

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (tensor,) = asked["inputs"]
            Handler.answered += 1
            self.reply({"id": asked["id"], "outputs": [tensor | {"name": "OUTPUT0"}]})

        def do_GET(self):
            if self.path == "/metrics":
                self.reply(None, COUNTER % Handler.answered)
            else:
                self.reply({"ready": self.path == "/v2/health/ready"})

        def reply(self, document, text=""):
            body = text.encode() if document is None else json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def serve(*ports):
        listening = [ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in ports]
        for one in listening:
            Thread(target=one.serve_forever).start()
        signal.signal(signal.SIGTERM, lambda *_: [Thread(target=one.shutdown).start() for one in listening])
"""
KSERVE_PROGRAM = """
    COUNTER = 'request_predict_seconds_count{model_name="identity"} %d\\n'
    words = sys.argv[1:]
    assert words[0] == "-I" and words[1].endswith("kserve_identity.py") and Path(words[1]).exists()
    serve(*(int(words[words.index(name) + 1]) for name in ("--http_port", "--grpc_port")))
"""
MLSERVER_PROGRAM = """
    COUNTER = 'model_infer_request_success_total{model="identity",version=""} %d\\n'
    folder = Path(sys.argv[-1])
    settings = json.loads((folder / "settings.json").read_text())
    about = json.loads((folder / "model-settings.json").read_text())
    module, _, name = about["implementation"].partition(".")
    assert settings["host"] == "127.0.0.1" and f"class {name}" in (folder / f"{module}.py").read_text()
    assert (about["inputs"][0]["name"], about["outputs"][0]["name"]) == ("INPUT0", "OUTPUT0")
    serve(*(settings[f"{which}_port"] for which in ("http", "grpc", "metrics")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "program"),
    [(servers.kserve, KSERVE_PROGRAM), (servers.mlserver, MLSERVER_PROGRAM)],
    ids=("kserve", "mlserver"),
)
def test_the_others_are_started_on_loopback_and_counted(tmp_path: Path, start: Any, program: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{textwrap.dedent(OTHER)}{textwrap.dedent(program)}")
    python.chmod(0o755)
    told = closed_loop(lambda: start(python), Load("identity", "json", 2), 0.1)
    assert told["served"] >= told["requests"] > 0
    assert told["server_cpu_ns_per_request"] >= 0  # in ticks of 10 ms


# JSON.


@contextmanager
def http_server(reply: Any) -> Iterator[str]:
    """``reply`` gets the asked document and the number of the request, and gives status and document."""
    number = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal number
            number += 1
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, document = reply(asked, number)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def echo(asked: dict[str, Any], number: int) -> tuple[int, Any]:
    (tensor,) = asked["inputs"]
    return 200, {"outputs": [tensor | {"name": "OUTPUT0"}]}


def spoiled(asked: dict[str, Any], number: int) -> tuple[int, Any]:
    status, document = echo(asked, number)
    if number == 5:
        document["outputs"][0]["data"][0] += 1
    return status, document


def refused(asked: dict[str, Any], number: int) -> tuple[int, Any]:
    return (503, {"error": "busy"}) if number == 5 else echo(asked, number)


@pytest.mark.parametrize(("reply", "why"), [(spoiled, "expected"), (refused, "busy")])
def test_a_wrong_reply_to_json_fails_the_measurement(reply: Any, why: str) -> None:
    @contextmanager
    def started() -> Iterator[Running]:
        counts = iter((0, 10**6))
        with http_server(reply) as address:
            yield Running("", address, os.getpid(), lambda model: (next(counts), 0))

    with pytest.raises(MeasurementError, match=why):
        closed_loop(started, Load("identity", "json", 2), 0.05)


# The same schedule.


def columns(latency: list[int], first: int = 0) -> dict[str, Any]:
    scheduled = np.arange(first, first + len(latency)) * 1000
    return {"scheduled": scheduled, "sample_index": np.arange(len(latency)), "completed": scheduled + latency}


def test_what_serving_adds_is_the_difference_of_percentiles() -> None:
    told = same_schedule.compare(columns([10] * 99 + [100]), columns([1] * 99 + [50]))
    served, alone = told[SERVED], told[IN_PROCESS]
    assert (served["p50_ns"], served["p99_ns"], served["p99.9_ns"]) == (10, 10, 100)
    assert (alone["p50_ns"], alone["p99.9_ns"]) == (1, 50)
    assert (served["added_p50_ns"], served["added_p90_ns"], served["added_p99.9_ns"]) == (9, 9, 50)
    assert not any(name.startswith("added") for name in alone)


@pytest.mark.parametrize("name", ["scheduled", "sample_index"])
def test_runs_of_different_traffic_are_not_compared(name: str) -> None:
    other = columns([1, 2, 3])
    other[name] = other[name] + 1
    with pytest.raises(MeasurementError, match=f"differ in {name}"):
        same_schedule.compare(columns([1, 2, 3]), other)


def test_whoever_is_asked_first_goes_first_and_both_are_of_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def carried_out(words: list[str]) -> Done:
        ran.append(words[1])
        assert words[-6:] == ["--scenario", "Server", "--qps", "500", "--time", "4"]
        return Done({}, columns([5] if words[1] == "triton" else [2]), 0.0)

    @contextmanager
    def started() -> Iterator[Running]:
        yield Running("h:1", "h:2", 0, lambda model: (0, 0))

    monkeypatch.setattr(same_schedule, "carry_out", carried_out)
    both = SameSchedule("digits", 500, started, ("onnxruntime", "digits"), times_longer=2)
    served, alone = both.side(SERVED), both.side(IN_PROCESS)
    assert (alone(2)["p50_ns"], served(2)["added_p50_ns"], ran) == (2, 3, ["onnxruntime", "triton"])
    assert (served(2)["p50_ns"], alone(2)["p50_ns"], ran[2:]) == (5, 2, ["triton", "onnxruntime"])


def test_a_run_with_failed_requests_has_no_figures() -> None:
    result = {"errors": {"failed": 2, "unanswered": 0, "refused": 0, "messages": {"queue full": 2}}}
    with pytest.raises(MeasurementError, match="queue full"):
        without_errors(result)


# The soak.

MB = 1 << 20


def test_a_process_is_looked_at() -> None:
    before = held(os.getpid())
    files = [open(os.devnull) for _ in range(3)]  # noqa: SIM115
    release = threading.Event()
    threads = [threading.Thread(target=release.wait) for _ in range(2)]
    for one in threads:
        one.start()
    after = held(os.getpid())
    release.set()
    for each in (*files, *threads):
        each.close() if hasattr(each, "close") else each.join()
    assert (after.files - before.files, after.threads - before.threads) == (3, 2)
    assert after.memory > 10 * MB


@given(st.lists(st.integers(0, MB), min_size=4, max_size=40))
def test_memory_that_goes_up_and_down_within_the_slack_has_not_grown(noise: list[int]) -> None:
    assert grew([Held(50 * MB + one, 16, 6) for one in noise]) == []


@given(st.integers(4, 40), st.integers(0, 100 * MB))
def test_a_step_after_the_first_slice_is_no_growth(slices: int, warmed: int) -> None:
    assert grew([Held(50 * MB, 16, 3), *[Held(50 * MB + warmed, 17, 9)] * (slices - 1)]) == []


@given(st.integers(6, 40))
def test_what_goes_on_growing_is_told(slices: int) -> None:
    found = grew([Held((50 + at) * MB, 16 + at, 6) for at in range(slices)])
    assert [line.split(" grew")[0] for line in found] == ["memory", "file descriptors"]
    assert len(grew([Held(50 * MB, 16, 6 + at) for at in range(slices)])) == 1


@pytest.mark.slow
def test_a_short_soak(capsys: pytest.CaptureFixture[str]) -> None:
    # The first slices of a fresh server warm it up, so that its memory is none to judge by here.
    assert soak.main(["--requests", "2001", "--slices", "2"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[1].strip() for row in rows] == ["grpc", "http"]
    assert all(int(row[2].replace(",", "")) >= 1000 for row in rows)
    assert rows[0][5] == rows[1][5]


def test_a_soak_whose_server_ends_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @contextmanager
    def started(*_: str) -> Iterator[Running]:
        with servers_drumfire("null", "identity") as running:
            os.kill(running.pid, signal.SIGKILL)
            while Path("/proc", str(running.pid), "fd").exists() and running_listens(running):
                time.sleep(0.01)
            yield running

    servers_drumfire = servers.drumfire
    monkeypatch.setattr(servers, "drumfire", started)
    monkeypatch.setattr(soak, "held", lambda pid: Held(0, 0, 0))
    assert soak.main(["--requests", "100", "--slices", "1"]) == 2
    assert "the server's statistics cannot be read" in capsys.readouterr().err


def running_listens(running: Running) -> bool:
    try:
        running.counts(servers.IDENTITY)
    except MeasurementError:
        return False
    return True


# All together.


def test_the_goals_are_set() -> None:
    def never() -> Any:
        raise AssertionError

    made = {m.name: m for m in measures.measures(dict.fromkeys(("triton", KSERVE, MLSERVER), never), print)}
    assert tuple(made) == measures.NAMES
    goals = {name: [f.goal_ratio for f in m.figures if f.goal_ratio is not None] for name, m in made.items()}
    for protocol in ("grpc", "json"):
        assert goals[f"identity-{protocol}@triton"] == [1.5]
        assert goals[f"identity-{protocol}@kserve"] == goals[f"identity-{protocol}@mlserver"] == [5]
    assert goals["identity-http@kserve"] == [5]
    assert "identity-http@mlserver" not in goals
    for count in (8, 32):
        assert goals[f"efficientnet-lite0-{count}@process"] == [0.95]
        assert goals[f"efficientnet-lite0-{count}@triton"] == goals[f"digits-{count}@triton"] == [1]
    assert all(tuple(m.theirs) == (measures.ANOTHER,) for m in made.values())


def test_a_server_that_can_not_be_had_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def python(name: str, say: Any) -> Path:
        if name == KSERVE:
            raise MeasurementError("pip can not install it")
        return Path(sys.executable)

    monkeypatch.setattr(measures.environments, "python", python)
    monkeypatch.setattr(command, "check_platform", lambda: None)
    carried: list[Any] = []
    monkeypatch.setattr(
        command.Comparison, "carry_out", lambda self, options, found: carried.append((self.method, found))
    )
    assert command.main(["--rounds", "1", "--output", str(tmp_path / "R.md")]) == 0
    ((method, found),) = carried
    assert "kserve is left out: pip can not install it." in method
    names = [m.name for m in found]
    assert names == [name for name in measures.NAMES if not name.endswith("@kserve")]


def test_only_servers_that_are_asked_for_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(measures.environments, "python", lambda name, say: asked.append(name) or Path(sys.executable))
    for only, needed in (
        (["digits-8"], []),
        (["identity-grpc@triton"], []),
        (["identity-http"], [KSERVE]),
        (["identity-json@mlserver", "added"], [MLSERVER]),
        (None, [KSERVE, MLSERVER]),
    ):
        asked.clear()
        names = measures.chosen(only)
        found, missing = measures.others(names, print)
        assert (asked, list(found)[1:], missing) == (needed, needed, [])
        assert all(only is None or {name, name.partition("@")[0]} & set(only) for name in names)


# perf_analyzer.

WARNED = """*** Measurement Settings ***
  Batch size: 1
Request concurrency: 4
    Throughput: 100.5 infer/sec
    [WARNING] Perf Analyzer was not able to keep up with the desired request rate. 5.35% of the requests were delayed.
Unable to unregister all shared memory regions
"""


def test_its_warnings_are_found_but_for_those_about_itself() -> None:
    assert perf_analyzer.warnings(WARNED) == ["Unable to unregister all shared memory regions"]


@pytest.fixture(scope="module")
def program() -> tuple[Path, Any]:
    return made_perf_analyzer()


@pytest.fixture(scope="module")
def digits() -> Iterator[Running]:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx-cpu")
    with servers.drumfire("onnxruntime", "digits", "--threads", "1") as running:
        yield running


@pytest.mark.slow  # installs it with the real Triton
@pytest.mark.serial
@pytest.mark.extra
@pytest.mark.parametrize("way", perf_analyzer.WAYS)
@pytest.mark.parametrize(("model", "options"), [("identity", ("--shape", "INPUT0:4")), ("digits", ())])
def test_perf_analyzer_drives_our_server(
    request: pytest.FixtureRequest, program: tuple[Path, Any], model: str, options: tuple[str, ...], way: str
) -> None:
    server: Running = request.getfixturevalue(model)
    answered = server.counts(model)[0]
    before = set(Path("/dev/shm").iterdir())
    rate = perf_analyzer.check(*program, way, model=model, grpc=server.grpc, http=server.http, options=options)
    assert rate > 0
    assert server.counts(model)[0] > answered
    assert {
        one.name for one in set(Path("/dev/shm").iterdir()) - before if one.name.startswith(("INPUT", "OUT"))
    } == set()
