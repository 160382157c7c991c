"""Beside NVIDIA's own client, on the same real server: the same traffic, the same answers, the same descriptions; and a
KServe server that is no Triton."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from drumfire.bench import cli, statuses
from drumfire.bench.assemble import probe, remote
from drumfire.bench.assemble.local import Assembly
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Status
from drumfire.loadgen.responses import as_bytes
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.sizes import Chosen
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages.exchange import Part
from drumfire.sut.kserve.messages.operations import (
    MODEL_CONFIG,
    MODEL_METADATA,
    MODEL_STATISTICS,
    SERVER_METADATA,
    SERVER_READY,
    Operation,
)
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec, as_array
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.triton_local.server import LocalTriton
from drumfire.sut.remote.tritonclient import TritonclientMessages, TritonclientSystem
from tests.support.command import options
from tests.support.real_server import REAL_TRITON, RealServer, ServeProcess

grpc_client = pytest.importorskip("tritonclient.grpc.aio", exc_type=Exception)
http_client = pytest.importorskip("tritonclient.http.aio", exc_type=Exception)
pytestmark = pytest.mark.extra

CLIENTS, PROTOCOLS = ("drumfire", "tritonclient"), ("grpc", "http")
TRAFFIC = {
    "SingleStream": [],
    "MultiStream": ["--samples-per-query", "2"],
    "Server": ["--qps", "5000", "--time", "0.2", "--max-latency", "5"],
    "Offline": ["--qps", "100000"],  # its one query must last as long as was asked, on any machine
}
QUERIES = {"SingleStream": 100, "MultiStream": 700}
"""As many as early stopping asks for."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured before each run is not this machine's speed."""
    monkeypatch.setattr(probe, "_PROBE_S", 0.01)


class Run(NamedTuple):
    sample_index: np.ndarray
    scheduled: np.ndarray
    sent: np.ndarray
    test: Test
    successes: int
    """What the server counted of this run."""

    def kept(self) -> dict[int, bytes]:
        """Responses by dataset index."""
        return {
            int(self.sample_index[row]): response
            for batch in self.test.answers.kept
            for row, response in zip(batch.rows.tolist(), as_bytes(batch.responses), strict=True)
        }


def urls(server: RealServer) -> dict[str, str]:
    return {"grpc": f"grpc://{server.grpc}", "http": f"http://{server.http}"}


def assembled(model: str, url: str, client: str, *arguments: object) -> Assembly:
    words = ["run", "triton", model, "--url", url, "--client", client, "--time", "0.01", *map(str, arguments)]
    return remote.assemble(options(*words))


def driven(assembly: Assembly, server: RealServer | None = None) -> Run:
    """Do a run, which has to be VALID."""
    before = successes(server, assembly) if server is not None else 0
    test = Test(assembly.system, assembly.library, assembly.settings, config_errors=assembly.config_errors)
    run_on_fast_loop(test.run())
    after = successes(server, assembly) if server is not None else 0
    results, rows = test.results(), test.record.issued_rows
    assert (test.record.status[:rows] == Status.OK).all(), test.answers.faults
    reasons = test.spoiled() + (results.reasons if results is not None else [])
    assert not reasons, reasons
    return Run(
        test.record.sample_index[:rows].copy(),
        test.record.scheduled[:rows].copy(),
        test.record.columns["sent"][:rows].copy(),
        test,
        after - before,
    )


def successes(server: RealServer, assembly: Assembly) -> int:
    """As counted when the count does not move any more: the server counts a request somewhat after its answer."""

    async def ask() -> int:
        async with http_client.InferenceServerClient(server.http) as client:
            before = -1
            while True:
                found = await client.get_inference_statistics(assembly.description["model"])
                now = int(found["model_stats"][0]["inference_stats"]["success"]["count"])
                if now == before:
                    return now
                before = now
                await asyncio.sleep(0.1)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("scenario", "protocol"),
    [
        pytest.param(*one, marks=() if one in (("Server", "grpc"), ("SingleStream", "http")) else pytest.mark.slow)
        for one in itertools.product(TRAFFIC, PROTOCOLS)
    ],
)
def test_the_same_run_through_both_clients(server: RealServer, scenario: str, protocol: str) -> None:
    runs = []
    for client in CLIENTS:
        assembly = assembled("digits", urls(server)[protocol], client, "--scenario", scenario, *TRAFFIC[scenario])
        if scenario in QUERIES:
            assembly.settings.min_query_count = assembly.settings.max_query_count = QUERIES[scenario]
        runs.append(driven(assembly, server))
    ours, official = runs
    assert ours.sample_index.tobytes() == official.sample_index.tobytes()
    if scenario in ("Server", "Offline"):  # in the others a query is scheduled when the last one is answered
        assert ours.scheduled.tobytes() == official.scheduled.tobytes()
    for run in runs:
        assert run.successes == len(run.sample_index)
        issued = run.test.record.issued[: len(run.sent)]
        completed = run.test.record.completed[: len(run.sent)]
        assert (issued <= run.sent).all()
        assert (run.sent <= completed).all()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scenario", TRAFFIC)
def test_the_same_accuracy(server: RealServer, scenario: str, protocol: str) -> None:
    found = []
    for client in CLIENTS:
        assembly = assembled("digits", urls(server)[protocol], client, "--scenario", scenario, *TRAFFIC[scenario],
                             "--count", 300, "--accuracy")  # fmt: skip
        run = driven(assembly, server)
        kept = run.kept()
        found.append(assembly.accuracy(np.array(list(kept)), list(kept.values())))
        assert run.successes == len(run.sample_index)
        assert sorted(kept) == list(range(300))
    assert found[0] == found[1]
    assert found[0].value > 0.98


OUTPUTS: list[tuple[str, list[object]]] = [
    # One at a time, as what is batched together may round otherwise.
    ("digits", ["--input-data", "random", "--concurrency", 1, "--count", 200]),
    ("identity", ["--input", "INPUT0:16", "--count", 200]),
    ("identity", ["--input", "INPUT0:5", "--max-batchsize", 7, "--count", 200]),
    ("identity", ["--input", "INPUT0:150528", "--count", 20]),
    ("identity_bytes", ["--input", "INPUT0:6", "--count", 200]),
    ("identity_bytes", ["--input", "INPUT0:6", "--max-batchsize", 5, "--count", 200]),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "model", "options"),
    [
        *(("serve", *case) for case in OUTPUTS[:4]),
        *(pytest.param("triton", *case, marks=REAL_TRITON) for case in OUTPUTS),
    ],
    indirect=["server"],
)
def test_outputs_are_those_that_tritonclient_gets(server: RealServer, model: str, options: list[object]) -> None:
    kept = {}
    for protocol, url in urls(server).items():
        for client in CLIENTS:
            assembly = assembled(model, url, client, "--scenario", "Offline", "--qps", 100000, *options)
            assembly.settings.mode = Mode.AccuracyOnly
            kept[protocol, client] = driven(assembly).kept()
    first = kept["grpc", "tritonclient"]
    assert set(first) == set(range(assembly.library.total_count))
    assert len(set(first.values())) > 1
    for found in kept.values():
        assert found == first
    if model != "digits":  # which gives back what it got: what was drawn, not only what both have made of it
        inputs = assembly.library.inputs
        assert first == {index: bytes(inputs.sample(index)[0].data) for index in first}


@pytest.mark.parametrize("datatype", ["BF16", "BOOL", "UINT8", "INT64", "FP16", "FP64", "BYTES"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_and_replies_of_all_datatypes(datatype: str, protocol: str) -> None:
    """Contents go into tritonclient's objects and come out of them bit by bit."""
    spec = TensorSpec("x", datatype, (3, 2))
    echo = ModelInterface("echo", "", "", (spec,), (spec,), 8)
    messages = TritonclientMessages(echo, protocol)
    sample = generated(Chosen(echo), kind="random", count=1).sample(0)[0]
    (sent,) = messages.request([Part((1, 3, 2), sample.data)])
    if protocol == "grpc":
        assert sent._get_content() == sample.data
        response = grpc_client.service_pb2.ModelInferResponse(raw_output_contents=[sample.data])
        response.outputs.add(name="x", datatype=datatype, shape=[1, 3, 2])
        result = messages.module.InferResult(response)
    else:
        assert sent._get_binary_data() == sample.data
        output = {"name": "x", "datatype": datatype, "shape": [1, 3, 2]}
        head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": len(sample.data)}}]}).encode()
        result = messages.module.InferResult.from_response_body(head + sample.data, header_length=len(head))
    (found,) = messages.outputs(result)
    wanted = as_array(datatype, (1, 3, 2), sample.data)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.tolist() == wanted.tolist()


def same(ours: Any, message: Any) -> bool:
    """Whether what we read of a message is what Google's classes read of it."""
    if isinstance(ours, dict):
        return all(
            not message.HasField(name) if value is None else same(value, _named(message, name))
            for name, value in ours.items()
        )
    if isinstance(ours, list):
        return len(ours) == len(message) and all(map(same, ours, message))
    return type(ours)(message) == ours


def _named(message: Any, name: str) -> Any:
    """A field; a number that stands for a name as that name."""
    numbers, value = message.DESCRIPTOR.fields_by_name[name].enum_type, getattr(message, name)
    return value if numbers is None else numbers.values_by_number[value].name


models_of_servers = pytest.mark.parametrize(
    ("server", "model"),
    [
        *(("serve", model) for model in ("digits", "identity")),
        *(
            pytest.param("triton", model, marks=REAL_TRITON)
            for model in ("digits", "identity_bytes", "identity_cached")
        ),
    ],
    indirect=["server"],
)


@models_of_servers
def test_descriptions_over_grpc(server: RealServer, model: str) -> None:
    async def ask() -> None:
        names = {"name": model}
        async with (
            Client(parse_url(urls(server)["grpc"])) as ours,
            grpc_client.InferenceServerClient(server.grpc) as official,
        ):
            pairs = [
                (await ours.ask(SERVER_METADATA), await official.get_server_metadata()),
                (await ours.ask(MODEL_METADATA, **names), await official.get_model_metadata(model)),
                (await ours.ask(MODEL_CONFIG, **names), (await official.get_model_config(model)).config),
                (await ours.ask(MODEL_STATISTICS, **names), await official.get_inference_statistics(model)),
            ]
            assert (await ours.ask(SERVER_READY))["ready"] is await official.is_server_ready()
        for found, message in pairs:
            assert found
            assert same(found, message), (found, message)

    used(server, model)
    asyncio.run(ask())


@models_of_servers
def test_descriptions_over_http(server: RealServer, model: str) -> None:
    async def ask() -> None:
        names = {"name": model}
        async with (
            Client(parse_url(urls(server)["http"])) as ours,
            http_client.InferenceServerClient(server.http) as official,
        ):
            assert await ours.ask(SERVER_METADATA) == await official.get_server_metadata()
            assert await ours.ask(MODEL_METADATA, **names) == await official.get_model_metadata(model)
            assert await ours.ask(MODEL_CONFIG, **names) == await official.get_model_config(model)
            found = await ours.ask(MODEL_STATISTICS, **names)
            assert found == await official.get_inference_statistics(model)
            assert found["model_stats"][0]["inference_stats"]["success"]["count"] > 0

    used(server, model)
    asyncio.run(ask())


def used(server: RealServer, model: str) -> None:
    """Let a model have statistics."""
    options = [] if model == "digits" else ["--input", "INPUT0:4"]
    driven(assembled(model, urls(server)["grpc"], "drumfire", "--scenario", "Offline", "--qps", 100000, *options))


def failure(url: str, interface: ModelInterface, *, headers: Sequence[tuple[str, str]] = (), **options: Any) -> str:
    """Why all rows of a run through tritonclient failed."""
    endpoint = parse_url(url)
    messages = TritonclientMessages(interface, "grpc" if endpoint.is_grpc else "http")
    data = generated(Chosen(interface), kind="random")
    library = RemoteLibrary(data, interface, messages, total_count=8, performance_count=8)
    settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=10, offline_expected_qps=10000)
    options = {"respond": lambda outputs: outputs[0], **options}
    system = TritonclientSystem("official", library, messages, endpoint, Security(headers=headers), **options)
    test = Test(system, library, settings)
    run_on_fast_loop(test.run())
    assert (test.record.status[: test.record.issued_rows] == Status.FAILED).all()
    assert not test.results().valid
    assert system.served == {endpoint: 0}
    ((reason, count),) = test.answers.faults.failed.items()
    assert count == test.record.issued_rows
    return reason


def interface(model: str = "identity", *, version: str = "", name: str = "INPUT0", width: int = 4) -> ModelInterface:
    inputs, outputs = (TensorSpec(name, "FP32", (4,)),), (TensorSpec("OUTPUT0", "FP32", (width,)),)
    return ModelInterface(model, version, "", inputs, outputs, 8)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failure_is_told_in_the_servers_words(triton: LocalTriton, protocol: str) -> None:
    assert "unknown model: 'nowhere'" in failure(urls(triton)[protocol], interface("nowhere"))
    assert "'identity' version 7" in failure(urls(triton)[protocol], interface(version="7"))
    assert "unexpected inference input 'OTHER'" in failure(urls(triton)[protocol], interface(name="OTHER"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_outputs_other_than_declared_fail_the_row(server: RealServer, protocol: str) -> None:
    reason = failure(urls(server)[protocol], interface(width=5))
    assert reason == "ProtocolError: output OUTPUT0 FP32[5] came as FP32[1,4], with the batch"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_that_takes_too_long_fails(server: RealServer, protocol: str) -> None:
    reason = failure(urls(server)[protocol], interface(), deadline_s=1e-5)
    assert reason == "no reply within 1e-05 s (--request-timeout)"


def test_a_reply_that_is_too_large_fails(server: RealServer) -> None:
    assert "larger than max" in failure(urls(server)["grpc"], interface(), max_message_bytes=10)


@pytest.mark.parametrize(
    ("protocol", "options", "told"),
    [
        ("grpc", ["--url", "grpc://127.0.0.1:9"], "more than one --url"),
        ("grpc", ["--balance", "least-in-flight"], "--balance"),
        ("http", ["--shared-memory", "system"], "--shared-memory system"),
        ("http", ["--shared-memory", "cuda"], "--shared-memory cuda"),
        ("grpc", ["--connections", "2"], "--connections over gRPC"),
        ("http", ["--max-message-size", "3"], "--max-message-size over HTTP"),
        ("http", ["--header", "token: 1", "--header", "token: 2"], "--header is named twice"),
    ],
)
def test_what_it_can_not_do_is_refused(
    serve: ServeProcess, capsys: pytest.CaptureFixture[str], protocol: str, options: list[str], told: str
) -> None:
    words = ["run", "triton", "digits", "--url", urls(serve)[protocol], "--client", "tritonclient", *options]
    assert cli.main(words) == statuses.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert "--client tritonclient" in error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_package_that_is_missing_is_named(
    serve: ServeProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setitem(sys.modules, f"tritonclient.{protocol}.aio", None)
    words = ["run", "triton", "digits", "--url", urls(serve)[protocol], "--client", "tritonclient"]
    assert cli.main(words) == statuses.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert installation.command("tritonclient") in error


@contextlib.contextmanager
def plain_server(*certificate: Path) -> Iterator[dict[str, str]]:
    """A server without statistics and configuration: its URLs by protocol."""
    command, tls = [sys.executable, Path(__file__).with_name("plain_kserve.py"), *certificate], "s" * bool(certificate)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        over_grpc, over_http = server.stdout.readline().split()
        yield {"grpc": f"grpc{tls}://127.0.0.1:{over_grpc}", "http": f"http{tls}://127.0.0.1:{over_http}"}
        server.terminate()


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, str]]:
    with plain_server() as addresses:
        yield addresses


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_plain_server_lacks_what_is_said(plain: dict[str, str], protocol: str) -> None:
    async def ask(operation: Operation) -> None:
        async with Client(parse_url(plain[protocol])) as client:
            with pytest.raises(Unsupported):
                await client.ask(operation, name="double")

    for operation in (MODEL_CONFIG, MODEL_STATISTICS):
        asyncio.run(ask(operation))


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_plain_server_is_benchmarked_with_a_note(
    plain: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, client: str
) -> None:
    traffic = ["--scenario", "Offline", "--time", "0.01", "--qps", "100000"]
    shown = ["--json", "--no-dashboard", "--output", str(tmp_path / "run")]
    words = ["run", "triton", "double", "--url", plain[protocol], "--client", client, *traffic, *shown]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["validity"] == "VALID"
    assert result["errors"]["failed"] == 0
    remote_side = result["system"]["remote"]
    assert (remote_side["client"], remote_side["dynamic_batching"]) == (client, None)
    (server,) = result["system"]["server"]["servers"]
    assert server["note"] == "the server does not report statistics"
    assert "note: the server gives no model configuration" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_plain_server_answers_is_compared(
    plain: dict[str, str], tmp_path: Path, protocol: str, client: str
) -> None:
    """As a user sees it: the command refuses to measure a server that answers wrong."""
    rows = np.random.default_rng(3).standard_normal((20, 4)).astype(np.float32)
    wanted = 2 * rows
    wanted[-1, 2] += 1
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", wanted)
    options = ["--scenario", "Offline", "--qps", 100000, "--input-data", tmp_path]
    driven(assembled("double", plain[protocol], client, *options, "--max-batchsize", 3, "--count", 19))
    with pytest.raises(UserError, match=r"sample 19: output y has .* at element 2, expected "):
        assembled("double", plain[protocol], client, *options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_headers_are_sent(plain: dict[str, str], protocol: str) -> None:
    spec = TensorSpec("x", "FP32", (4,))
    double = ModelInterface("double", "", "", (spec,), (TensorSpec("y", "FP32", (4,)),), 8)
    reason = failure(plain[protocol], double, headers=[("other", "1"), ("token", "wrong")])
    assert "this token opens nothing" in reason


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls(tmp_path: Path, protocol: str) -> None:
    """A certificate that the user names is trusted, and no other."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with the openssl command")
    files = [tmp_path / "certificate.pem", tmp_path / "key.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=test", "-days", "2"]
    made = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([*make, *made], check=True, capture_output=True)
    with plain_server(*files) as addresses:
        kept = []
        for client in CLIENTS:
            assembly = assembled("double", addresses[protocol], client, "--scenario", "Offline", "--qps", 100000,
                                 "--tls-ca", files[0])  # fmt: skip
            assembly.settings.mode = Mode.AccuracyOnly
            kept.append(driven(assembly).kept())
        assert kept[0] == kept[1]
        spec = TensorSpec("x", "FP32", (4,))
        double = ModelInterface("double", "", "", (spec,), (TensorSpec("y", "FP32", (4,)),), 8)
        with pytest.raises(ServerError, match=rf"{addresses[protocol]}: .+"):
            failure(addresses[protocol], double)
