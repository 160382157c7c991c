"""The local Triton: its models answer, it listens on loopback alone, and it leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from drumfire.bench.commands import triton_local
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.sut.models import digits
from drumfire.sut.remote.triton_local import environment as local_environment
from drumfire.sut.remote.triton_local import server as local
from drumfire.sut.remote.triton_local.server import MODELS, LocalTriton, LocalTritonError

SHARED = Path("/dev/shm")
# Started by a test that kills it: says what it has, then waits.
LAUNCHER = """
import sys
from drumfire.sut.remote.triton_local.server import LocalTriton
with LocalTriton() as running:
    print(running.pid, running._keeper.pid, running._mark, running._folder, flush=True)
    running.wait()
"""


def ask(address: str, path: str, body: object = None) -> Any:
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET" if body is None else "POST", path, body and json.dumps(body), {"Connection": "close"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    return json.loads(text) if text.startswith("{") else text


def infer(address: str, model: str, name: str, datatype: str, shape: list[int], data: list[Any]) -> list[Any]:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    (output,) = ask(address, f"/v2/models/{model}/infer", {"inputs": [tensor]})["outputs"]
    return output["data"]


def statistics(address: str, model: str) -> dict[str, Any]:
    (found,) = ask(address, f"/v2/models/{model}/stats")["model_stats"]
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.02)


def group(pid: int) -> list[int]:
    """The living processes of the session that the server leads: itself and its backends."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def regions(mark: str) -> list[Path]:
    return list(SHARED.glob(f"{mark}*"))


@pytest.fixture
def own(triton: LocalTriton) -> Iterator[LocalTriton]:
    """A server of the test's own, to be ended in its own way."""
    with LocalTriton() as running:
        yield running


@pytest.fixture
def launcher(triton: LocalTriton) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True, env=environment)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def command(triton: LocalTriton) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "drumfire", "triton-local", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    yield process
    process.terminate()
    process.communicate()


def test_it_is_ready_and_is_what_it_says(triton: LocalTriton) -> None:
    ask(triton.http, "/v2/health/ready")
    assert ask(triton.http, "/v2")["version"] == "2.51.0"
    assert "nv_inference_request_success" in ask(triton.metrics, "/metrics")
    assert Path(f"/proc/{triton.pid}/comm").read_text().strip() == "tritonserver"
    host, port = triton.grpc.split(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    for model in MODELS:
        ask(triton.http, f"/v2/models/{model}/ready")


def test_digits_are_read(triton: LocalTriton) -> None:
    data = digits.read()
    logits = infer(triton.http, "digits", "input", "FP32", [64, 1, 8, 8], data.inputs[:64].ravel().tolist())
    correct = np.argmax(np.reshape(logits, (64, 10)), 1) == data.labels[:64]
    assert correct.mean() >= digits.Digits.quality_target


@pytest.mark.parametrize("model", ["identity", "identity_cached"])
def test_numbers_come_back(triton: LocalTriton, model: str) -> None:
    sent = [1.5, -2.0, 0.0, 3e38, 1e-30, 7.0]
    for shape in ([1, 6], [2, 3], [6, 1]):
        back = infer(triton.http, model, "INPUT0", "FP32", shape, sent)
        assert np.array_equal(np.float32(back), np.float32(sent))


def test_strings_come_back(triton: LocalTriton) -> None:
    sent = ["", "a", "grüße", "x" * 10_000]
    assert infer(triton.http, "identity_bytes", "INPUT0", "BYTES", [2, 2], sent) == sent


def test_16_megabytes_come_back(triton: LocalTriton) -> None:
    values = np.random.default_rng(0).random(4 << 20, np.float32)
    head = json.dumps({
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, values.size],
                    "parameters": {"binary_data_size": values.nbytes}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    connection = http.client.HTTPConnection(triton.http, timeout=60)
    headers = {"Inference-Header-Content-Length": str(len(head)), "Connection": "close"}
    connection.request("POST", "/v2/models/identity/infer", head + values.tobytes(), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body[:300]
    assert body[int(answer.headers["Inference-Header-Content-Length"]) :] == values.tobytes()


def test_an_input_that_was_seen_comes_from_the_cache(triton: LocalTriton) -> None:
    before = statistics(triton.http, "identity_cached")
    for _ in range(3):
        assert infer(triton.http, "identity_cached", "INPUT0", "FP32", [1, 3], [11.0, 12.0, 13.0]) == [11, 12, 13]
    after = statistics(triton.http, "identity_cached")
    assert after["execution_count"] - before["execution_count"] == 1
    hits = [each["inference_stats"]["cache_hit"]["count"] for each in (before, after)]
    assert hits[1] - hits[0] == 2


def test_requests_that_come_together_are_one_batch(triton: LocalTriton) -> None:
    def requests_and_executions() -> tuple[int, int]:
        found = statistics(triton.http, "digits")
        return found["inference_stats"]["success"]["count"], found["execution_count"]

    image = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
    body = json.dumps({"inputs": [image]}).encode()
    request = (
        b"POST /v2/models/digits/infer HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    host, port = triton.http.split(":")
    requests, executions = requests_and_executions()
    for _ in range(50):  # one is enough where the server gets no time between the requests
        with contextlib.ExitStack() as opened:
            connections = [opened.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(32)]
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
        requests, executions_before = requests + 32, executions
        found, executions = requests_and_executions()
        assert found == requests
        if executions - executions_before < 32:
            return
    pytest.fail("50 times 32 requests, and no two of them were executed together")


def test_it_listens_on_loopback_alone(triton: LocalTriton) -> None:
    inodes = set()
    for pid in group(triton.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    listening, mapped = [], "0000000000000000FFFF0000"  # ::ffff:, an IPv4 address on an IPv6 socket
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{triton.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].removeprefix(mapped))
    ports = [int(address.split(":")[1]) for address in (triton.grpc, triton.http, triton.metrics)]
    assert sorted(set(listening)) == sorted(f"0100007F:{port:04X}" for port in ports)


@pytest.mark.parametrize("connected", [False, True], ids=["idle", "with an open connection"])
def test_stop_leaves_nothing(triton: LocalTriton, own: LocalTriton, connected: bool) -> None:
    assert {own.grpc, own.http, own.metrics}.isdisjoint({triton.grpc, triton.http, triton.metrics})
    connection = http.client.HTTPConnection(own.http, timeout=5)
    if connected:  # which keeps the server from ending by itself
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
    assert len(group(own.pid)) == 1 + len(MODELS)
    assert len(regions(own._mark)) == len(MODELS)
    assert own._folder.is_dir()
    own.stop()
    assert group(own.pid) == []
    assert regions(own._mark) == []
    assert not own._folder.exists()
    connection.close()
    own.stop()  # once more does no harm
    ask(triton.http, "/v2/health/ready")


@pytest.mark.parametrize("victim", ["launcher", "keeper"])
def test_a_kill_takes_the_server_with_it(launcher: subprocess.Popen[str], victim: str) -> None:
    assert launcher.stdout is not None
    words = launcher.stdout.readline().split()
    server, keeper, mark, folder = int(words[0]), int(words[1]), words[2], Path(words[3])
    assert len(group(server)) == 1 + len(MODELS)
    assert regions(mark)
    os.kill(launcher.pid if victim == "launcher" else keeper, signal.SIGKILL)
    until(lambda: not group(server), "the server and its backends end")
    until(lambda: not regions(mark), "their shared memory is deleted")
    until(lambda: not folder.exists(), "the temporary folder is deleted")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command(command: subprocess.Popen[str], end: signal.Signals) -> None:
    assert command.stdout is not None
    ready = json.loads(command.stdout.readline())
    assert ready["models"] == list(MODELS)
    assert ready["grpc"].startswith("grpc://127.0.0.1:")
    for url, path in (("http", "/v2/health/ready"), ("metrics", "/metrics")):
        ask(ready[url].removeprefix("http://").removesuffix("/metrics"), path)
    command.send_signal(end)
    out, err = command.communicate(timeout=30)
    assert (command.returncode, out, err) == (0, "", "")
    assert group(ready["pid"]) == []


def test_the_command_tells_that_the_server_ended(command: subprocess.Popen[str]) -> None:
    assert command.stdout is not None
    os.kill(json.loads(command.stdout.readline())["pid"], signal.SIGKILL)
    out, err = command.communicate(timeout=30)
    assert command.returncode == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "Triton ended by itself" in err


def test_ports_that_were_taken_meanwhile(triton: LocalTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    free, asked = local._free_ports, []
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def ports(wanted: Sequence[int]) -> list[int]:
            """At the first three starts one port each is another's."""
            found = list(free(wanted))
            if len(asked) < len(wanted):
                found[len(asked)] = other.getsockname()[1]
            asked.append(found)
            return found

        monkeypatch.setattr(local, "_free_ports", ports)
        with LocalTriton() as running:
            ask(running.http, "/v2/health/ready")
            assert running.metrics.endswith(f":{asked[3][2]}")
            running.stop()
            monkeypatch.undo()
            running.start()  # the same one once more
            ask(running.http, "/v2/health/ready")
    assert len(asked) == 4


def test_ports_are_the_wanted_ones_where_they_are_free() -> None:
    with socket.socket() as other, socket.socket() as one:
        other.bind(("127.0.0.1", 0))
        other.listen()
        one.bind(("127.0.0.1", 0))
        taken, free = other.getsockname()[1], one.getsockname()[1]
        one.close()
        found = list(local._free_ports((free, taken, 0)))
    assert found[0] == free
    assert taken not in found
    assert len(set(found)) == 3


@pytest.mark.parametrize(("metrics", "told"), [(8002, False), (4711, True)])
def test_the_command_says_which_of_the_usual_ports_it_has_not(metrics: int, told: bool) -> None:
    server = LocalTriton()
    server.grpc, server.http, server.metrics = "127.0.0.1:8001", "127.0.0.1:8000", f"127.0.0.1:{metrics}"
    console = Console(file=io.StringIO(), width=200)
    triton_local._announce(server, console, as_json=False)
    said = console.file.getvalue()
    assert "grpc://127.0.0.1:8001 --scenario Server" in said
    assert ("on other ports, because another program uses 8002" in said) == told


def test_a_server_that_does_not_start_says_why(
    triton: LocalTriton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = []

    def broken(folder: Path) -> Path:
        made.append(folder)
        (folder / "models" / "digits" / "1").mkdir(parents=True)
        (folder / "models" / "digits" / "config.pbtxt").write_text('backend: "nothing"')
        return folder / "models"

    monkeypatch.setattr(local, "_repository", broken)
    log = tmp_path / "server.log"
    with pytest.raises(LocalTritonError, match=r"Triton ended during its start: .+") as caught:
        LocalTriton(log=log).start()
    assert "\n" not in str(caught.value)
    assert not made[0].exists()
    assert "nothing" in log.read_text()


def test_pip_that_fails_is_one_line(triton: LocalTriton, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    cache, said = tmp_path / "cache", []
    with pytest.raises(UserError, match=r"pip cannot install nvidia-pytriton.*: .*nvidia-pytriton==0\.7\.0") as caught:
        LocalTriton(cache=cache, say=said.append).start()
    assert "\n" not in str(caught.value)
    assert "WARNING" not in str(caught.value)
    assert said
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("machine", lambda: "aarch64"), "not on Linux aarch64"),
        (("system", lambda: "Darwin"), "not on Darwin"),
        (("libc_ver", lambda: ("glibc", "2.31")), "not glibc 2.31"),
        (("libc_ver", lambda: ("", "")), "not another C library"),
    ],
)
def test_another_platform_is_told(monkeypatch: pytest.MonkeyPatch, change: tuple[str, Any], told: str) -> None:
    for name, value in [("system", lambda: "Linux"), ("machine", lambda: "x86_64"), change]:
        monkeypatch.setattr(local_environment.platform, name, value)
    with pytest.raises(LocalTritonError, match=told):
        local_environment.check_platform()


def test_a_python_without_shared_library_takes_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_environment.sysconfig, "get_config_var", lambda _: "/nowhere")
    monkeypatch.setattr(local_environment.ctypes.util, "find_library", lambda _: None)
    with pytest.raises(LocalTritonError, match=r"apt install libpython3\.1"):
        local_environment.check_platform()
