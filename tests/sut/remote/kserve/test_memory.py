"""Shared memory: what is sent comes back whole, and however a run ends neither a server nor this machine keeps any.

Real runs against the real Triton.  A run's memory is known by the run's process id, so that others may go on beside it.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from drumfire.bench import cli, statuses
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.data.inputs import InputError, Inputs
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.sizes import Chosen, choose
from drumfire.sut.kserve.errors import ProtocolError, ServerError
from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Channel, Outputs, Part, Region
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpMessages, model_path
from drumfire.sut.kserve.messages.protobuf import bytes_field, numbers_field, text_field
from drumfire.sut.kserve.messages.tensors import ModelInterface, Tensor, TensorSpec
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.kserve import cuda, memory
from drumfire.sut.remote.kserve.memory import FOLDER, SPARE_SLOTS, SharedMemory, SharedMemoryError
from drumfire.sut.remote.kserve.memory_system import SharedLibrary, SharedMemorySystem
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import RemoteSystem
from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.real_server import REAL_TRITON, RealServer

PROTOCOLS = ("grpc", "http")
over_both = pytest.mark.parametrize("protocol", PROTOCOLS)
only_triton = pytest.mark.parametrize("server", [pytest.param("triton", marks=REAL_TRITON)], indirect=True)
IDENTITY = ModelInterface(
    "identity", "", "", (TensorSpec("INPUT0", "FP32", (-1,)),), (TensorSpec("OUTPUT0", "FP32", (-1,)),), 64
)
MB = 1 << 20


def url(server: RealServer, protocol: str) -> str:
    return f"{protocol}://{getattr(server, protocol)}"


def registered(server: RealServer, pid: int) -> list[str]:
    """The names of a run's regions that the server knows."""
    with urllib.request.urlopen(f"http://{server.http}/v2/systemsharedmemory/status") as answer:
        return [one["name"] for one in json.load(answer) if one["name"].startswith(f"drumfire-{pid}-")]


def files(pid: int) -> list[str]:
    return [path.name for path in FOLDER.glob(f"drumfire-{pid}-*")]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def nothing_left(server: RealServer) -> Iterator[None]:
    yield
    # A server that is busy with requests which nobody waits for answers late, to the guardian.
    until(lambda: not registered(server, os.getpid()), "the server lets go")
    assert files(os.getpid()) == []


class Payloads(Inputs):
    """Samples of so many bytes, all different, each expected back."""

    name = description = "payloads"

    def __init__(self, size: int, total_count: int) -> None:
        self.size, self.total_count = size, total_count

    def sample(self, index: int) -> tuple[Tensor, ...]:
        return (Tensor((self.size // 4,), np.random.default_rng(index).bytes(self.size)),)

    def expected(self, index: int) -> Mapping[str, Tensor]:
        return {"OUTPUT0": self.sample(index)[0]}


class Run:
    """A run of the load generator; ``drive`` does it."""

    def __init__(
        self,
        where: str,
        size: int,
        *,
        shared: bool = True,
        samples: int = 6,
        at_a_time: int = 3,
        slots: int = 3,
        mode: Mode = Mode.AccuracyOnly,
        count: int = 50,
        deadline_s: float | None = None,
        output_bytes: int | None = None,
        patience_s: float = 60.0,
    ) -> None:
        endpoint, security, self.inputs = parse_url(where), Security(), Payloads(size, samples)
        interface = choose(IDENTITY, InputOptions(input=(f"INPUT0:{size // 4}",))).interface
        messages = (GrpcMessages if endpoint.is_grpc else HttpMessages)(interface, shared=shared)

        def new_channel(endpoint: Endpoint) -> Channel:
            if isinstance(messages, GrpcMessages):
                return GrpcChannel(messages, endpoint.authority)
            return HttpChannel(messages, model_path("identity", "") + "/infer", endpoint.authority)

        counts = {"total_count": samples, "performance_count": at_a_time}
        options: dict[str, Any] = {
            "respond": lambda outputs: outputs[0],
            "connections": 1 if endpoint.is_grpc else slots,
            "expects": True,
            "deadline_s": deadline_s,
        }
        self.system: RemoteSystem
        if shared:
            self.memory = SharedMemory(
                "system", [endpoint], security,
                input_bytes=memory.input_bytes(self.inputs, interface, samples, at_a_time),
                output_bytes=[output_bytes or size], slots=slots,
            )  # fmt: skip
            library: RemoteLibrary = SharedLibrary(self.inputs, interface, messages, self.memory, **counts)
            self.system = SharedMemorySystem(
                "remote", library, messages, new_channel, [endpoint], security, memory=self.memory, **options
            )
        else:
            library = RemoteLibrary(self.inputs, interface, messages, **counts)
            self.system = RemoteSystem("remote", library, messages, new_channel, [endpoint], security, **options)
        settings = TestSettings(scenario=Scenario.Offline, mode=mode, min_duration_ms=1, min_query_count=count)
        settings.offline_expected_qps = count * 1000
        self.test = Test(self.system, library, settings, patience_s=patience_s)

    def drive(self) -> Run:
        run_on_fast_loop(self.test.run())
        return self

    @property
    def failed(self) -> Mapping[str, int]:
        return self.test.answers.faults.failed

    @property
    def status(self) -> np.ndarray:
        return np.array(self.test.record.status[: self.test.answers.issued])


# All is well.


@pytest.mark.slow
@over_both
@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("size", [4, 1024, 602_112, 16 * MB])
def test_payloads_come_back_equal(
    server: RealServer, nothing_left: None, size: int, shared: bool, protocol: str
) -> None:
    """Sets of samples that follow each other in one region, in slots that are used again and again."""
    run = Run(url(server, protocol), size, shared=shared).drive()
    assert not run.failed, run.failed
    assert (run.status == Status.OK).all()
    assert len(run.test.reports) == 2  # two loaded sets
    answered = {}
    for kept in run.test.answers.kept:
        for row, response in zip(kept.rows, kept.responses, strict=True):
            answered[int(run.test.record.sample_index[row])] = np.asarray(response).tobytes()
    assert sorted(answered) == list(range(6))
    for index, contents in answered.items():
        assert contents == run.inputs.sample(index)[0].data


@over_both
def test_more_requests_than_slots(server: RealServer, nothing_left: None, protocol: str) -> None:
    run = Run(url(server, protocol), 1024, mode=Mode.PerformanceOnly, count=500, slots=2).drive()
    assert not run.failed
    assert run.test.answers.answered == run.test.record.rows >= 500
    assert sum(run.system.served.values()) == run.test.record.rows


def test_regions_are_there_while_a_run_goes_and_can_not_be_found_in_the_folder(
    server: RealServer, nothing_left: None
) -> None:
    endpoint = parse_url(url(server, "grpc"))

    async def look() -> None:
        shared = SharedMemory("system", [endpoint], Security(), input_bytes=10, output_bytes=[10, 20], slots=2)
        await shared.open()
        try:
            assert len(registered(server, os.getpid())) == 2
            assert files(os.getpid()) == []
        finally:
            await shared.close()

    run_on_fast_loop(look())


def test_one_server_under_two_addresses(server: RealServer, nothing_left: None) -> None:
    endpoints = [parse_url(url(server, protocol)) for protocol in PROTOCOLS]

    async def look() -> None:
        shared = SharedMemory("system", endpoints, Security(), input_bytes=10, output_bytes=[10], slots=2)
        await shared.open()
        await shared.close()

    run_on_fast_loop(look())


# Failures.


@over_both
def test_an_output_that_is_larger_than_its_slot_fails_its_row(
    server: RealServer, nothing_left: None, protocol: str
) -> None:
    run = Run(url(server, protocol), 1024, output_bytes=1020).drive()
    (reason,) = run.failed
    assert "1020 bytes" in reason
    assert run.failed[reason] == 6


@only_triton
@over_both
def test_slots_of_abandoned_requests_are_replaced(server: RealServer, nothing_left: None, protocol: str) -> None:
    """16 MB take the server longer than the deadline allows; each row is answered or fails, and none waits forever."""
    run = Run(url(server, protocol), 16 * MB, mode=Mode.PerformanceOnly, count=20, slots=2, deadline_s=0.002).drive()
    given_up = run.system.happened["slots of shared memory given up"]
    assert given_up > 0
    assert run.test.answers.answered == run.test.record.rows
    assert not run.test.answers.faults.refused
    assert not run.test.answers.faults.unanswered
    # Over HTTP a request is given up with its connection, and a server that answered none is given up in the end.
    assert all("no reply within" in reason or "drops every" in reason for reason in run.failed), run.failed
    assert sum(run.failed.values()) >= given_up


@only_triton
@over_both
def test_a_run_ends_when_no_slot_is_left(
    server: RealServer, nothing_left: None, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setattr(memory, "SPARE_SLOTS", 1)
    run = Run(url(server, protocol), 16 * MB, mode=Mode.PerformanceOnly, count=200, slots=2, deadline_s=0.0005).drive()
    assert run.test.answers.aborted is not None
    assert "too many requests were abandoned" in run.test.answers.aborted
    assert run.test.answers.answered == run.test.answers.issued


@over_both
def test_a_server_that_ignores_shared_memory_is_told(protocol: str) -> None:
    if protocol == "grpc":
        messages: Any = GrpcMessages(IDENTITY, shared=True)
        tensor = text_field(1, "OUTPUT0") + text_field(2, "FP32") + numbers_field(3, (1, 1))
        reply = (framed(bytes_field(5, tensor) + bytes_field(6, bytes(4))),)
    else:
        messages = HttpMessages(IDENTITY, shared=True)
        output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
        text = json.dumps({"outputs": [output]}).encode()
        reply = (text + bytes(4), len(text))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="does the server support"):
            messages.read(*reply)


@over_both
def test_a_reply_of_any_shape_does_no_harm(protocol: str) -> None:
    shape = (1, 1 << 62)
    shared = SharedMemory("system", [], Security(), input_bytes=1, output_bytes=[4], slots=1)
    if protocol == "grpc":
        messages: Any = GrpcMessages(IDENTITY, shared=True)
        tensor = text_field(1, "OUTPUT0") + text_field(2, "FP32") + numbers_field(3, shape)
        reply = (framed(bytes_field(5, tensor)),)
    else:
        messages = HttpMessages(IDENTITY, shared=True)
        text = json.dumps({"outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": shape}]}).encode()
        reply = (text, len(text))
    messages.wanted = True
    with pytest.raises((ProtocolError, ValueError), match=r"OUTPUT0|room for 4"):
        shared.outputs(0, messages.read(*reply))


# How a run ends.


def start(server: RealServer, tmp_path: Path, *words: str, protocol: str = "grpc", name: str = "o") -> Any:
    command = [
        sys.executable, "-m", "drumfire", "run", "triton", "identity", "--url", url(server, protocol),
        "--shared-memory", "system", "--input", "INPUT0:256", "--json", "--no-dashboard",
        "--output", str(tmp_path / name), *words,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_under_way(server: RealServer, run: Any, folder: Path) -> None:
    """Short runs that measure the server come first; the settings are written when they are over."""
    until(
        lambda: (folder / "settings.json").exists() or run.poll() is not None,
        "the measurements before the run are over",
    )
    until(lambda: len(registered(server, run.pid)) == 2 or run.poll() is not None, "the run registers")
    time.sleep(0.3)
    assert len(registered(server, run.pid)) == 2, run.communicate()


LONG = ("--scenario", "Server", "--qps", "100", "--time", "120")


@over_both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_an_ended_run_leaves_nothing(server: RealServer, tmp_path: Path, number: signal.Signals, protocol: str) -> None:
    run = start(server, tmp_path, *LONG, protocol=protocol)
    try:
        until_under_way(server, run, tmp_path / "o")
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == (-9 if number == signal.SIGKILL else statuses.INTERRUPTED), err
    until(lambda: not registered(server, run.pid), "the server lets go")
    assert files(run.pid) == []
    if number == signal.SIGINT:
        assert json.loads(out)["validity"] == "INVALID"


OPENS = """
import sys
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.kserve.memory import SharedMemory
shared = SharedMemory("system", [parse_url(sys.argv[1])], Security(), input_bytes=9, output_bytes=[9], slots=2)
run_on_fast_loop(shared.open())
"""


def test_a_run_killed_before_a_server_has_the_regions_leaves_none() -> None:
    """The server is one that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = subprocess.Popen([sys.executable, "-c", OPENS, where], cwd=ROOT)
        try:
            until(lambda: len(files(run.pid)) == 2, "the regions are made")
        finally:
            run.kill()
            run.wait()
        until(lambda: not files(run.pid), "the guardian unlinks")


def test_a_server_that_is_killed_costs_rows_and_leaves_nothing(tmp_path: Path, triton: LocalTriton) -> None:
    del triton  # it tells whether a Triton can be had here
    with LocalTriton() as server:
        run = start(server, tmp_path, *LONG)
        try:
            until_under_way(server, run, tmp_path / "o")
            os.kill(server.pid, signal.SIGKILL)
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 1, err
    assert json.loads(out)["validity"] == "INVALID"
    assert files(run.pid) == []


@pytest.mark.slow
def test_two_runs_at_once(server: RealServer, tmp_path: Path) -> None:
    words = ("--scenario", "Offline", "--count", "2000", "--qps", "1000", "--time", "0.1", "--concurrency", "4")
    runs = [start(server, tmp_path, *words, protocol=protocol, name=f"{at}") for at, protocol in enumerate(PROTOCOLS)]
    results = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert all(result["delivered"]["samples"] == 2000 for result in results)
    assert all(result["system"]["remote"]["shared_memory"] == "system" for result in results)
    assert [registered(server, run.pid) + files(run.pid) for run in runs] == [[], []]


# What is refused.


def refusal(server: RealServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str, **more: str) -> str:
    """The one line of a run that is not begun."""
    asked = {"model": "identity", "protocol": "grpc", "kind": "system", **more}
    command = ["run", "triton", asked["model"], "--url", url(server, asked["protocol"]), "--no-dashboard"]
    shared = ["--shared-memory", asked["kind"], "--output", str(tmp_path / "o"), "--time", "0.1"]
    assert cli.main([*command, *shared, *words]) == statuses.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_memory_that_is_too_small(
    server: RealServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    nothing_left: None,
) -> None:  # fmt: skip
    small = SimpleNamespace(f_bavail=16, f_frsize=4096)
    monkeypatch.setattr(memory.os, "statvfs", lambda _: small)
    error = refusal(server, capsys, tmp_path, "--input", "INPUT0:1000", "--qps", "100")
    assert "/dev/shm has 0.1 MB free" in error
    assert "--performance-sample-count" in error
    assert "--shm-size" in error


def test_memory_that_runs_out_although_there_seemed_to_be_enough(
    server: RealServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    nothing_left: None,
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(memory.os, "posix_fallocate", refuse)
    assert "No space left" in refusal(server, capsys, tmp_path, "--input", "INPUT0:1000", "--qps", "100")


@over_both
def test_a_server_that_does_not_see_the_memory(
    server: RealServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    nothing_left: None, protocol: str,
) -> None:  # fmt: skip
    elsewhere = {"key": "/drumfire-on-another-host", "offset": 0, "byte_size": 4096}
    monkeypatch.setattr(memory.PosixSpace, "registration", lambda _: elsewhere)
    error = refusal(server, capsys, tmp_path, "--input", "INPUT0:16", "--qps", "100", protocol=protocol)
    assert "needs a server on this host" in error
    if isinstance(server, LocalTriton):  # in its own words
        assert "Unable to open shared memory region" in error


def test_batches_and_outputs_without_a_size(
    triton: LocalTriton, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    batch = refusal(triton, capsys, tmp_path, "--input", "INPUT0:16", "--max-batchsize", "2")
    assert "--max-batchsize" in batch
    strings = refusal(triton, capsys, tmp_path, "--input", "INPUT0:16", model="identity_bytes")
    assert "OUTPUT0 BYTES" in strings
    assert "leave out --shared-memory" in strings


def test_samples_that_do_not_fit_are_told() -> None:
    async def fill() -> None:
        shared = SharedMemory("system", [], Security(), input_bytes=100, output_bytes=[4], slots=1)
        await shared.open()
        try:
            part = Part((1, 512), bytes(2048))
            assert shared.put([part, part]) == [
                Part((1, 512), Region(f"{shared._name}-in", offset, 2048)) for offset in (0, 2048)
            ]
            with pytest.raises(InputError, match="--performance-sample-count"):
                shared.put([Part((1, 1), bytes(4))])
            shared.forget()
            shared.put([part])
        finally:
            await shared.close()

    asyncio.run(fill())
    assert files(os.getpid()) == []


def test_room_for_the_samples() -> None:
    fixed = choose(IDENTITY, InputOptions(input=("INPUT0:17",))).interface
    assert memory.input_bytes(generated(Chosen(fixed), kind="zero", count=9), fixed, 9, 5) == 5 * 128

    class Growing(Payloads):
        def sample(self, index: int) -> tuple[Tensor, ...]:
            return (Tensor((16 * index,), bytes(64 * index)),)

    assert memory.input_bytes(Growing(0, 5), IDENTITY, 5, 2) == 64 * (4 + 3)
    assert memory.output_bytes(IDENTITY) is None
    assert memory.output_bytes(ModelInterface("m", "", "", (), (TensorSpec("O", "FP16", (3, 5)),), 0)) == [30]


def test_slots_do_not_overlap() -> None:
    shared = SharedMemory("system", [], Security(), input_bytes=1, output_bytes=[1, 100, 64], slots=3)
    spans = sorted(
        (region.offset, region.offset + region.size)
        for slot in range(3 + SPARE_SLOTS)
        for region in shared.regions(slot)
    )
    assert all(one[1] <= other[0] and other[0] % 64 == 0 for one, other in itertools.pairwise(spans))
    assert {last - first for first, last in spans} == {1, 100, 64}


def test_there_is_an_end_to_spare_slots() -> None:
    async def grow() -> None:
        shared = SharedMemory("system", [], Security(), input_bytes=1, output_bytes=[4096], slots=2)
        await shared.open()
        try:
            assert all(shared.add_slot(slot) for slot in range(2, 2 + SPARE_SLOTS))
            assert not shared.add_slot(2 + SPARE_SLOTS)
            last: Outputs = shared.outputs(1 + SPARE_SLOTS, [np.zeros((1, 1024), np.float32)])
            assert last[0].shape == (1, 1024)
            with pytest.raises(ValueError, match="room for 4096"):
                shared.outputs(0, [np.zeros(1025, np.float32)])
        finally:
            await shared.close()

    asyncio.run(grow())


# CUDA.


def test_cuda_is_refused_where_it_is_not(
    server: RealServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    error = refusal(server, capsys, tmp_path, "--input", "INPUT0:16", kind="cuda")
    assert "libcudart" in error
    assert "--shared-memory system" in error

    class NoDevice:
        cudaGetErrorString = staticmethod(lambda _: b"no CUDA-capable device is detected")
        cudaGetDeviceCount = staticmethod(lambda _: 100)

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: SimpleNamespace(**_functions(NoDevice)))
    error = refusal(server, capsys, tmp_path, "--input", "INPUT0:16", kind="cuda")
    assert "no NVIDIA GPU is found (no CUDA-capable device is detected)" in error


def _functions(holder: type) -> dict[str, Any]:
    """As ``ctypes`` gives them: with attributes that can be set."""

    def wrapped(function: Callable[..., Any]) -> Any:
        return lambda *arguments: function(*arguments)

    return {name: wrapped(getattr(holder, name)) for name in vars(holder) if name.startswith("cuda")}


class HostAsDevice:
    """The part of the CUDA runtime that is used, over plain memory."""

    buffers: ClassVar[dict[int, Any]] = {}

    @staticmethod
    def cudaGetErrorString(_: int) -> bytes:  # noqa: N802
        return b"out of memory"

    @staticmethod
    def cudaGetDeviceCount(count: Any) -> int:  # noqa: N802
        count._obj.value = 1
        return 0

    @staticmethod
    def cudaSetDevice(_: Any) -> int:  # noqa: N802
        return 0

    @staticmethod
    def cudaMalloc(start: Any, size: Any) -> int:  # noqa: N802
        if size.value > MB:
            return 2
        buffer = ctypes.create_string_buffer(size.value)
        start._obj.value = ctypes.addressof(buffer)
        HostAsDevice.buffers[start._obj.value] = buffer
        return 0

    @staticmethod
    def cudaFree(start: Any) -> int:  # noqa: N802
        del HostAsDevice.buffers[start.value]
        return 0

    @staticmethod
    def cudaIpcGetMemHandle(handle: Any, start: Any) -> int:  # noqa: N802
        ctypes.memmove(handle, ctypes.byref(start), 8)
        return 0

    @staticmethod
    def cudaMemcpy(to: Any, source: Any, size: Any, _: Any) -> int:  # noqa: N802
        ctypes.memmove(to, source, size.value)
        return 0


def use(space: cuda.CudaSpace) -> None:
    try:
        contents = np.random.default_rng(1).bytes(1000)
        space.write(64, contents)
        space.write(2048, memoryview(b"abc"))
        assert bytes(space.read(64, 1000)) == contents
        assert bytes(space.read(2048, 3)) == b"abc"
        told = space.registration()
        assert told["device_id"] == 0
        assert told["byte_size"] == 4096
        assert isinstance(told["raw_handle"], bytes)
        assert len(told["raw_handle"]) == 64
        assert any(told["raw_handle"])
    finally:
        space.close()


def test_cuda_with_plain_memory_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: SimpleNamespace(**_functions(HostAsDevice)))
    use(cuda.CudaSpace(4096))
    assert not HostAsDevice.buffers
    with pytest.raises(ServerError, match="cudaMalloc failed: out of memory"):
        cuda.CudaSpace(MB + 1)


@pytest.mark.gpu
def test_cuda_on_a_gpu() -> None:
    try:
        memory.check("cuda")
    except ServerError as error:
        pytest.skip(str(error))
    use(cuda.CudaSpace(4096))


def test_cuda_memory_is_told_in_both_protocols() -> None:
    arguments = {"name": "r", "raw_handle": b"\x00\xff" * 32, "device_id": 0, "byte_size": 4096}
    register = operations.REGISTER_CUDA_MEMORY
    assert register.target(arguments) == "/v2/cudasharedmemory/region/r/register"
    said = json.loads(register.body(arguments))
    handle = said.pop("raw_handle")
    assert handle.keys() == {"b64"}
    assert base64.b64decode(handle["b64"]) == arguments["raw_handle"]
    assert said == {"device_id": 0, "byte_size": 4096}
    assert register.message(arguments) == text_field(1, "r") + bytes_field(2, b"\x00\xff" * 32) + b"\x20\x80\x20"


def test_a_machine_without_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "FOLDER", tmp_path / "none")
    with pytest.raises(SharedMemoryError, match="leave it out"):
        memory.check("system")
