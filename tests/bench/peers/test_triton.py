"""The comparison on a local Triton: what each side is asked, how its words become figures, and whose CPU is counted.

Without a server: a scripted one counts, and the other tools' words are samples of their real ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import without_errors
from drumfire.bench.peers.server import Running, cpu_seconds, parent_and_ticks, statistics_counts, watched
from drumfire.bench.peers.triton import client_worker, ours, perf_analyzer, searches
from drumfire.bench.peers.triton.case import Case
from drumfire.bench.peers.triton.measures import CASES, NAMES, TOOLS, Tools, measures
from tests.support.command import options

CLOSED = Case("identity_cached", "grpc", 16, concurrency=64)
OPEN = Case("identity_cached", "http", 16, rate=5000)

# perf_analyzer 2.51.0, as it wrote them (-f).
CLOSED_REPORT = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Server Cache Hit,Server Cache Miss,Client Recv,p50 latency,p90 latency,"
    "p95 latency,p99 latency\n"
    "16,8382.47,1,0,53,29,7871,138,3,111,1,1576,2579,3165,8703\n"
)
OPEN_REPORT = (
    "Request Rate,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Server Cache Hit,Server Cache Miss,Client Recv,p50 latency,p90 latency,"
    "p95 latency,p99 latency\n"
    "1000,968.216,4,764,2,0,0,0,5,0,1,343,1269,2209,5501\n"
)
OPEN_OUTPUT = """
Request Rate: 1000 inference requests per seconds
  Client:
    Request count: 3494
    Avg send request rate: 968.49 infer/sec
    [WARNING] Perf Analyzer was not able to keep up with the desired request rate. 5.35% of the requests were delayed.
    Throughput: 968.22 infer/sec
"""


# perf_analyzer.


def test_its_report_becomes_figures() -> None:
    told = perf_analyzer.read_report(CLOSED_REPORT)
    assert told == {"rate_per_s": 8382.47, "p50_latency_ns": 1_576_000, "p99_latency_ns": 8_703_000}
    assert perf_analyzer.read_report(OPEN_REPORT)["rate_per_s"] == 968.216


@pytest.mark.parametrize(
    "text",
    [
        "",
        CLOSED_REPORT.partition("\n")[0],
        CLOSED_REPORT.replace("p99 latency", "p99"),
        CLOSED_REPORT.replace("8382.47", "-"),
        CLOSED_REPORT.replace(",8703", ""),
        CLOSED_REPORT + CLOSED_REPORT.splitlines()[1],  # of two loads
    ],
)
def test_a_report_without_one_load_is_refused(text: str) -> None:
    with pytest.raises(MeasurementError, match="perf_analyzer's report"):
        perf_analyzer.read_report(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(MeasurementError):
        perf_analyzer.read_report(text)
    assert perf_analyzer.read_delayed(text) == 0


def test_what_it_calls_delayed_is_read_from_the_terminal() -> None:
    assert perf_analyzer.read_delayed(OPEN_OUTPUT) == 0.0535
    assert perf_analyzer.read_delayed(OPEN_OUTPUT.replace("[WARNING]", "").replace("delayed", "sent")) == 0


def test_it_is_asked_for_three_windows_in_the_time() -> None:
    words = perf_analyzer.command(Path("pa"), "h:1", CLOSED, 4.5, Path("r.csv"))
    assert words[words.index("-p") + 1] == "1500"
    assert words[words.index("-r") + 1] == "3"
    assert words[words.index("--shape") + 1] == "INPUT0:16"
    assert words[words.index("--concurrency-range") + 1] == "64"
    assert "--async" not in words
    words = perf_analyzer.command(Path("pa"), "h:1", OPEN, 4.5, Path("r.csv"))
    assert words[words.index("--request-rate-range") + 1] == "5000"
    assert words[words.index("--request-distribution") + 1] == "poisson"


PERF_ANALYZER = """#!{python}
import http.client, sys, time
for _ in range(5):
    http.client.HTTPConnection(sys.argv[sys.argv.index("-u") + 1]).request("POST", "/infer")
while time.process_time() < 0.2:
    pass
open(sys.argv[sys.argv.index("-f") + 1], "w").write({report!r})
print({output!r})
"""


def test_its_cpu_is_shared_out_over_what_the_server_counted(tmp_path: Path) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text(PERF_ANALYZER.format(python=sys.executable, report=OPEN_REPORT, output=OPEN_OUTPUT))
    program.chmod(0o755)
    with counting_server() as server:
        told = perf_analyzer.measure(program, os.environ, server.running, OPEN, 3)
    assert told["served"] == 5
    assert told["cpu_ns_per_request"] >= 0.2e9 / 5
    assert told["delayed_share"] == 0.0535
    assert told["p50_latency_ns"] == 343_000


# The server's view.


class CountingServer(HTTPServer):
    """Counts POSTs and tells the count as Triton does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.good = self.bad = 0
        address = f"127.0.0.1:{self.server_address[1]}"
        self.running = Running(address, address, os.getpid(), partial(statistics_counts, address))


class _Handler(BaseHTTPRequestHandler):
    server: CountingServer

    def do_POST(self) -> None:
        self.server.good += 1
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        assert self.path == "/v2/models/identity_cached/stats"
        counted = {"success": {"count": self.server.good, "ns": 1}, "fail": {"count": self.server.bad, "ns": 0}}
        body = json.dumps({"model_stats": [{"name": "identity_cached", "inference_stats": counted}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def counting_server() -> Iterator[CountingServer]:
    with CountingServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_server_is_watched_for_what_happens_meanwhile() -> None:
    with counting_server() as server:
        server.good, server.bad = 100, 3
        with watched(server.running, "identity_cached") as served:
            server.good += 7
            began = time.process_time()
            while time.process_time() - began < 0.1:
                pass
    assert served.requests == 7
    assert served.cpu_ns_per_request >= 0.08e9 / 7  # to a tick of 10 ms at either end


@pytest.mark.parametrize(("good", "bad", "why"), [(5, 1, "failed 1 requests"), (0, 0, "counted no request")])
def test_failed_requests_and_none_at_all_are_told(good: int, bad: int, why: str) -> None:
    with (
        counting_server() as server,
        pytest.raises(MeasurementError, match=why),
        watched(server.running, "identity_cached"),
    ):
        server.good, server.bad = good, bad


@given(name=st.text(max_size=15), parent=st.integers(0, 2**22), user=st.integers(0), system=st.integers(0))
def test_a_process_may_have_any_name(name: str, parent: int, user: int, system: int) -> None:
    # The example of proc_pid_stat(5)'s first fields; the name stands in brackets.
    line = f"4711 ({name}) S {parent} 4711 4711 0 -1 4194560 1 2 3 4 {user} {system} 5 6 20 0 9 0 123 456 789\n"
    assert parent_and_ticks(line) == (parent, user + system)


FAMILY = """
import subprocess, sys, time
burn = "import sys, time\\nwhile time.process_time() < 0.1: pass\\nprint(flush=True)\\nsys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
while time.process_time() < 0.1:
    pass
child.stdout.readline()
print(flush=True)
sys.stdin.read()
"""


def test_the_cpu_of_a_process_has_that_of_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert cpu_seconds(parent.pid) >= 0.18  # each is rounded down to ticks of 10 ms


# tritonclient.


class FakeClient:
    """tritonclient's aio client, as far as the worker uses it; ``spoil`` changes a reply, by its number."""

    def __init__(self, address: str, **options: object) -> None:
        self.address, self.options, self.asked = address, options, 0
        made.append(self)

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def infer(self, model: str, inputs: list[Any], outputs: list[str], **options: object) -> Any:
        await asyncio.sleep(0.001)
        self.asked += 1
        data, self.asked_with = inputs[0].data, options
        found = spoil(self.asked, data)
        return types.SimpleNamespace(as_numpy=lambda name: {outputs[0]: found}[name])


class FakeInput:
    def __init__(self, name: str, shape: list[int], datatype: str) -> None:
        assert (name, shape, datatype) == ("INPUT0", [1, 16], "FP32")

    def set_data_from_numpy(self, data: Any) -> None:
        self.data = data


made: list[FakeClient] = []


def spoil(number: int, data: Any) -> Any:
    return data


def work(monkeypatch: pytest.MonkeyPatch, protocol: str) -> dict[str, float]:
    fake = types.ModuleType("fake")
    fake.InferenceServerClient, fake.InferInput, fake.InferRequestedOutput = FakeClient, FakeInput, str  # type: ignore[attr-defined]
    for name in ("tritonclient", f"tritonclient.{protocol}", f"tritonclient.{protocol}.aio"):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(client_worker, "_WARM_S", 0.01)
    made.clear()
    case = {"protocol": protocol, "address": "h:1", "elements": 16, "concurrency": 4, "model": "m", "seconds": 0.05}
    return asyncio.run(client_worker.measure(case | {"input": "INPUT0", "output": "OUTPUT0"}))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_worker_counts_every_reply(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    told = work(monkeypatch, protocol)
    (client,) = made
    assert told["sent"] == client.asked
    assert 0 < told["requests"] < told["sent"]
    assert 1e6 <= told["p50_latency_ns"] <= told["p99_latency_ns"]
    assert told["cpu_ns_per_request"] > 0
    over_http = protocol == "http"
    assert client.asked_with == ({"headers": {"Accept-Encoding": "identity"}} if over_http else {})
    assert client.options == ({"conn_limit": 4} if over_http else {})


@pytest.mark.parametrize(
    ("number", "change"), [(1, lambda data: data + 1), (20, lambda data: data[0]), (20, lambda data: data.astype(int))]
)
def test_the_worker_refuses_a_wrong_reply(monkeypatch: pytest.MonkeyPatch, number: int, change: Any) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "spoil", lambda at, data: change(data) if at == number else data, raising=True
    )
    with pytest.raises(ValueError, match="a reply"):
        work(monkeypatch, "grpc")


# Drumfire.

RESULT: dict[str, Any] = {
    "scenario": "Server",
    "asked": {"generated_queries": 5},
    "delivered": {"queries": 4, "samples": 4, "samples_per_second": 400.0},
    "lateness_ns": {"p50": 40, "p99": 90, "share_over_1ms": 0.25},
    "errors": {"failed": 0, "unanswered": 0, "refused": 0, "messages": {}},
    "overhead": {"process_cpu_s": 0.001},
    "system": {"server": {"reconciliation": {"requests": {"client": 4, "server": 4, "equal": True}}}},
}
COLUMNS = {
    "scheduled": np.array([0, 1000, 2000, 3000, 4000]),
    "sent": np.array([10, 1020, 2030, 3040, 0]),
    "completed": np.array([110, 1220, 2330, 3440, 0]),
}


def test_a_run_becomes_figures() -> None:
    told = ours.read_result(RESULT, COLUMNS)
    assert told["cpu_ns_per_request"] == 0.001 / 4 * 1e9
    assert (told["p50_latency_ns"], told["p99_latency_ns"]) == (200, 400)
    assert (told["p50_scheduled_latency_ns"], told["p99_scheduled_latency_ns"]) == (220, 440)
    assert (told["undelivered"], told["late_share"], told["p50_lateness_ns"]) == (1, 0.25, 40)
    closed = ours.read_result(RESULT | {"scenario": "Offline"}, COLUMNS)
    assert "undelivered" not in closed
    assert closed["rate_per_s"] == 400


def test_a_run_with_errors_or_another_count_than_the_servers_has_no_figures() -> None:
    errors = RESULT["errors"] | {"failed": 1, "messages": {"reset by peer": 1}}
    with pytest.raises(MeasurementError, match="reset by peer"):
        without_errors(RESULT | {"errors": errors})
    for told in (None, {"reconciliation": None}, {"reconciliation": {"requests": {"server": 5, "equal": False}}}):
        with pytest.raises(MeasurementError, match="count differently"):
            ours.read_result(RESULT | {"system": {"server": told}}, COLUMNS)


@pytest.mark.parametrize("case", CASES.values())
def test_our_command_is_one_that_the_command_line_takes(case: Case) -> None:
    run = options(*ours.words("grpc://h:1", case, 2.5))
    target = run.system.target
    assert (run.backend, run.model, target.url, run.traffic.time) == ("triton", case.model, ("grpc://h:1",), 2.5)
    assert target.input == (f"INPUT0:{case.elements}",)
    assert (target.concurrency, run.traffic.qps) == (case.concurrency, case.rate)


def test_both_search_the_same_range_for_the_same_bound() -> None:
    case = Case("identity_cached", "grpc", 16)
    sweep = options(*searches.words("grpc://h:1", case, 3))
    assert (sweep.over, sweep.bound, sweep.run.traffic.time) == (("qps=1000:16000:log9",), ("p99<10ms",), 3)
    command = searches.command(Path("pa"), "h:1", case, 3, Path("r.csv"))
    for words in (
        ["--request-rate-range", "1000:16000:1000", "--binary-search", "-l", "10"], ["--percentile", "99"],
        ["-p", "1000"], ["-r", "3"],
    ):  # fmt: skip
        at = command.index(words[0])
        assert command[at : at + len(words)] == words


def test_the_best_of_a_search_is_what_was_delivered_below_the_bound() -> None:
    head, row = OPEN_REPORT.splitlines()
    rows = [row, row.replace(",968.216,", ",3020.5,").replace("5501", "9999"), row.replace(",968.216,", ",8000,") + "9"]
    assert searches.best_of_report("\n".join([head, *rows])) == {"best_per_s": 3020.5}
    for text in ("", head, "\n".join([head, rows[2]])):
        with pytest.raises(MeasurementError, match="found no rate"):
            searches.best_of_report(text)
    with pytest.raises(MeasurementError, match="cannot be read"):
        searches.best_of_report("a,b\n1,2\n")
    document = {"points": [{"rate": 5.0}, {"rate": 7.0}], "named": {"best": 1}}
    assert searches.best_of_sweep(document) == {"best_per_s": 7.0}
    with pytest.raises(MeasurementError, match="found no rate"):
        searches.best_of_sweep(document | {"named": {"best": None}})


# All together.


def test_the_goals_are_set() -> None:
    with counting_server() as server:
        made = {m.name: m for m in measures(server, Tools((Path("pa"), {}), Path("python")))}
    assert tuple(made) == NAMES
    goals = {name: [f.goal_ratio for f in m.figures if f.goal_ratio is not None] for name, m in made.items()}
    for protocol in ("grpc", "http"):
        assert goals[f"{protocol}@16"] == [4]
        assert goals[f"{protocol}@64"] == [4, 1.8]
        assert goals[f"{protocol}-large"] == [pytest.approx(1 / 0.6)]
        for rate in (1000, 5000):
            assert [f.goal for f in made[f"{protocol}-poisson@{rate}"].figures if f.goal is not None] == [0, 50]
    assert tuple(made["grpc@16"].theirs) == TOOLS
    assert tuple(made["grpc-poisson@1000"].theirs) == TOOLS[:1]
