"""KServe servers as people have them: behind a path, without the binary extension, with metadata that no model has."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drumfire.bench.assemble import probe, remote
from drumfire.bench.assemble.local import Assembly
from drumfire.loadgen.errors import UserError
from drumfire.sut.remote import target
from drumfire.sut.remote.kserve import discovery
from tests.support.command import here, options, result_of

X, Y = ({"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in "xy")


class Stub:
    """A server whose model ``id`` gives its first input ``x`` back as ``y``, in JSON."""

    def __init__(self) -> None:
        self.prefix = ""
        self.extensions: Any = []
        self.metadata: Any = {"name": "id", "platform": "stub", "inputs": [X], "outputs": [Y]}
        self.configuration: Any = None
        self.takes_binary = True
        self.answer: Callable[[dict[str, Any]], tuple[int, Any]] = lambda reply: (200, reply)
        """From the good reply to the one that is given: its status and its document."""
        self.asked: list[dict[str, Any]] = []
        """The JSON of the inference requests."""
        self.paths: set[str] = set()
        self.hosts: set[str | None] = set()

    def get(self, path: str) -> tuple[int, Any]:
        found = {
            "/v2": {"name": "stub", "version": "1", "extensions": self.extensions},
            "/v2/models/id": self.metadata,
            "/v2/models/id/config": self.configuration,
        }.get(path)
        return (404, {"error": f"nothing at {path}"}) if found is None else (200, found)

    def infer(self, body: bytes, json_size: int | None) -> tuple[int, Any]:
        if json_size is not None and not self.takes_binary:
            return 422, {"detail": "JSON decode error"}
        request = json.loads(body[:json_size])
        self.asked.append(request)
        first = request["inputs"][0]
        values = first.get("data")
        if values is None:
            values = list(struct.unpack_from(f"<{first['parameters']['binary_data_size'] // 4}f", body, json_size or 0))
        output = {"name": "y", "datatype": "FP32", "shape": first["shape"], "data": values}
        return self.answer({"model_name": "id", "id": request.get("id"), "outputs": [output]})


@pytest.fixture
def stub() -> Iterator[tuple[Stub, str]]:
    """The server and its URL."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(lambda path: stub.get(path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            size = self.headers.get("Inference-Header-Content-Length")
            self._answer(lambda path: stub.infer(body, None if size is None else int(size)))

        def _answer(self, find: Callable[[str], tuple[int, Any]]) -> None:
            stub.paths.add(self.path)
            stub.hosts.add(self.headers["Host"])
            status, document = (404, "<html>nginx</html>")
            if self.path.startswith(stub.prefix):
                status, document = find(self.path.removeprefix(stub.prefix))
            body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self._headers_buffer.append(b"\r\n" + body)  # type: ignore[attr-defined]
            self.flush_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # connections made at once: those that the usual 5 leave out try again after seconds

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield stub, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured before each run is not this machine's speed."""
    monkeypatch.setattr(probe, "_PROBE_S", 0.01)


def assembled(url: str, *words: object) -> Assembly:
    traffic = ["--scenario", "Offline", "--time", "0.01", "--qps", "2000", "--count", "4"]
    return remote.assemble(options("run", "triton", "id", "--url", url, *traffic, *words))


def form(url: str, *words: object) -> str:
    """How inputs go to the server."""
    return str(assembled(url, *words).description["remote"]["tensors"])


def refusal(url: str, *words: object) -> str:
    """Why there is no run: one line."""
    with pytest.raises(UserError) as caught:
        assembled(url, *words)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.mark.slow
def test_every_request_goes_below_the_urls_path(stub: tuple[Stub, str], tmp_path: Path) -> None:
    server, url = stub
    server.prefix = "/serving/triton"
    traffic = ["--scenario", "Offline", "--time", 0.01, "--qps", 2000, "--output", tmp_path / "run"]
    words = ["run", "triton", "id", "--url", f"{url}/serving/triton/", "--header", ":authority: model.example.com"]
    assert result_of(here(*words, *traffic, "--json", "--no-dashboard"), 0)["validity"] == "VALID"
    below = {path.removeprefix("/serving/triton/v2") for path in server.paths}
    assert below >= {"", "/models/id", "/models/id/config", "/models/id/stats", "/models/id/infer"}
    assert server.hosts == {"model.example.com"}
    assert refusal(url) == f"{url}: ServerMetadata: HTTP 404: <html>nginx</html>"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_server_without_binary_tensors_is_sent_json(stub: tuple[Stub, str], tmp_path: Path, batch: int) -> None:
    """Found by a first request; what is not finite comes back as null, as which many servers write it."""
    server, url = stub
    server.takes_binary = False
    server.answer = lambda reply: (200, json.loads(json.dumps(reply).replace('"NaN"', "null")))
    samples = tmp_path / "inputs.json"
    data = [{"x": [at, 1.5, float("nan"), -0.0]} for at in range(4)]
    expected = [{"y": sample["x"]} for sample in data]
    samples.write_text(json.dumps({"data": data, "validation_data": expected}))
    made = assembled(url, "--input-data", samples, "--max-batchsize", batch)
    assert made.description["remote"]["tensors"] == "values"
    (note,) = [note for note in made.notes if "JSON" in note]
    assert f"{url} refuses binary contents (HTTP 422: JSON decode error) and is sent JSON contents: " in note
    assert " times the bytes" in note
    assert {tuple(request["inputs"][0]["data"][1:4]) for request in server.asked} == {(1.5, "NaN", -0.0)}


@pytest.fixture
def typed() -> Iterator[tuple[dict[str, Any], str]]:
    """A gRPC server that gives typed contents, and takes only such if ``refuses_raw`` is in the dictionary."""
    grpc = pytest.importorskip("grpc", exc_type=Exception)
    pb = pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=Exception)
    rpc = pytest.importorskip("tritonclient.grpc.service_pb2_grpc", exc_type=Exception)
    said: dict[str, Any] = {}

    class Servicer(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc, name-defined]
        def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            return pb.ServerMetadataResponse(name="typed", version="1")

        def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            x, y = (pb.ModelMetadataResponse.TensorMetadata(**one) for one in (X, Y))
            return pb.ModelMetadataResponse(name="id", inputs=[x], outputs=[y])

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            values = list(request.inputs[0].contents.fp32_contents)
            if request.raw_input_contents:
                if "refuses_raw" in said:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "raw contents are not read")
                values = list(struct.unpack("<4f", request.raw_input_contents[0]))
            reply = pb.ModelInferResponse(model_name="id")
            output = reply.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
            output.contents.fp32_contents.extend(values)
            return reply

    server = grpc.server(ThreadPoolExecutor(4))
    rpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield said, f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.extra
@pytest.mark.parametrize("refuses_raw", [False, True])
def test_a_server_of_typed_contents(typed: tuple[dict[str, Any], str], tmp_path: Path, refuses_raw: bool) -> None:
    said, url = typed
    said.update({"refuses_raw": True} if refuses_raw else {})
    samples = tmp_path / "inputs.json"
    data = [{"x": [at, 1.5, float("inf"), -0.0]} for at in range(4)]
    samples.write_text(json.dumps({"data": data, "validation_data": [{"y": one["x"]} for one in data]}))
    made = assembled(url, "--input-data", samples)
    assert made.description["remote"]["tensors"] == ("values" if refuses_raw else "binary")
    note = "refuses raw contents (INVALID_ARGUMENT: raw contents are not read)" if refuses_raw else "answers with typed"
    assert any(one.startswith(f"{url} {note}") for one in made.notes)


def test_a_server_that_says_what_it_takes_is_not_asked(stub: tuple[Stub, str]) -> None:
    server, url = stub
    server.extensions = ["binary_tensor_data"]
    assert form(url) == "binary"
    assert all("data" not in request["inputs"][0] for request in server.asked)
    assert form(url, "--tensors", "values") == "values"
    assert "data" in server.asked[-1]["inputs"][0]
    assert "--tensors values" in refusal(url, "--tensors", "values", "--shared-memory", "system")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, {"error": "model crashed"}), "the server says model crashed"),
        ((401, ""), "HTTP 401: Unauthorized; does the server want a --header 'authorization: …'?"),
        ((503, "upstream connect error"), "HTTP 503: upstream connect error"),
        ((200, {"outputs": [Y | {"datatype": "FP64", "shape": [1, 4], "data": [1, 2, 3, 4]}]}), "came as FP64[1,4]"),
        ((200, {"outputs": [Y | {"shape": [1, 4], "data": ["a"]}]}), "an element that is not a number"),
        ((200, {"outputs": [X | {"shape": [1, 4], "data": [1, 2, 3, 4]}]}), "lacks the output y"),
        ((200, "no JSON"), "the reply cannot be read: JSONDecodeError"),
    ],
)
def test_what_fails_before_the_run_is_said(stub: tuple[Stub, str], answer: tuple[int, Any], why: str) -> None:
    server, url = stub
    server.answer = lambda _: answer
    text = refusal(url)
    assert text.startswith(f"the check before the run failed: {url}")
    assert why in text


def test_an_output_that_is_not_the_expected_one_is_said(stub: tuple[Stub, str], tmp_path: Path) -> None:
    samples = tmp_path / "inputs.json"
    samples.write_text(json.dumps({"data": [{"x": [1, 2, 3, 4]}], "validation_data": [{"y": [1, 2, 3, 5]}]}))
    text = refusal(stub[1], "--input-data", samples)
    assert text.startswith("the check before the run failed: ")
    assert text.endswith(f": {samples}: data[0]: output y has 4.0 at element 3, expected 5.0")


def test_samples_that_a_server_takes_one_by_one_only_are_refused_before_the_run(
    stub: tuple[Stub, str], tmp_path: Path
) -> None:
    server, url = stub
    takes_all = server.answer
    samples = tmp_path / "inputs.json"
    samples.write_text(json.dumps({"data": [{"x": [1, 2, 3, at // 2]} for at in range(4)]}))
    together = ("--input-data", samples, "--max-batchsize", 4)
    assembled(url, *together)
    assert [2, 4] in [request["inputs"][0]["shape"] for request in server.asked]

    def one_by_one(reply: dict[str, Any]) -> tuple[int, Any]:
        return takes_all(reply) if reply["outputs"][0]["shape"] == [1, 4] else (400, {"error": "x is one a request"})

    server.answer = one_by_one
    assembled(url, "--input-data", samples)
    assert refusal(url, *together) == (
        f"{url} takes samples 0, 2 one by one, but not in one request: HTTP 400: x is one a request: leave out "
        "--max-batchsize"
    )
    server.answer = lambda reply: (400, {"error": "no"})
    assert refusal(url, *together).startswith("the check before the run failed: ")


@pytest.mark.slow
def test_what_fails_together_is_told(stub: tuple[Stub, str], tmp_path: Path) -> None:
    """The check before a run, which draws other samples first, has not met the bad one."""
    server, url = stub
    samples = tmp_path / "inputs.jsonl"
    samples.write_text("\n".join(json.dumps({"x": [at, 0, 0, 0]}) for at in range(200)))

    def refuses(reply: dict[str, Any]) -> tuple[int, Any]:
        values = reply["outputs"][0]["data"]
        return (400, {"error": "bad"}) if len(values) > 4 and 7 in values[::4] else (200, reply)

    server.answer = refuses
    words = ["--input-data", samples, "--scenario", "Offline", "--qps", 200, "--time", 1, "--json"]
    for batch, events in ((4, 1), (1, 0)):
        output = tmp_path / f"run{batch}"
        done = here(
            "run", "triton", "id", "--url", url, *words, "--max-batchsize", batch, "--no-dashboard", "--output", output
        )
        result = json.loads(done.stdout)
        told = [count for text, count in result["system"]["server"]["events"].items() if "all of its samples" in text]
        assert len(told) == events
        assert result["errors"]["failed"] == 4 * sum(told)


def test_sizes_are_drawn_by_shape_and_sent_one_by_one(stub: tuple[Stub, str]) -> None:
    server, url = stub
    server.metadata["inputs"] = [X | {"shape": [-1, -1]}]
    server.metadata["outputs"] = [{**one, "shape": [-1, -1]} for one in server.metadata["outputs"]]
    server.configuration = {"max_batch_size": 4}
    assert "--shape x=128" in refusal(url)
    assert "use --shape, such as --shape x=128" in refusal(url, "--dim", "s=8")
    drawn = ["--shape", "x=2..9", "--range", "x=3..3"]
    assert assembled(url, *drawn).description["remote"]["input_data"] == "128 random samples, seed 1: x 3..3, x 2..9"


def test_an_optional_input_is_sent_where_it_is_given(stub: tuple[Stub, str], tmp_path: Path) -> None:
    server, url = stub
    server.metadata["inputs"] = [X, X | {"name": "b"}]
    config = [{"name": "x"}, {"name": "b", "optional": True}]
    server.configuration = {"max_batch_size": 4, "input": config}

    def sent() -> set[str]:
        names = {"".join(one["name"] for one in request["inputs"]) for request in server.asked}
        server.asked.clear()
        return names

    assert "left out, as the model calls it optional: b; --shape NAME=SHAPE sends it" in assembled(url).notes
    assert sent() == {"x"}
    assembled(url, "--input", "b:4")
    assert sent() == {"xb"}
    samples = tmp_path / "inputs.json"
    samples.write_text(json.dumps({"data": [{"x": [1, 2, 3, 4]}, {"x": [1, 2, 3, 4], "b": [5, 6, 7, 8]}]}))
    assembled(url, "--input-data", samples)
    assert sent() == {"x", "xb"}


def tensor(**other: Any) -> dict[str, Any]:
    return X | other


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([tensor(shape=[1] * 200)], "input 'x' has 200 dimensions; at most 32"),
        ([tensor(name=f"x{at}") for at in range(20_000)], "it names 20000 inputs; at most 4096"),
        ([tensor(shape=[-1, -2])], "input 'x' has the size -2"),
        ([tensor(shape=[-1, "many"])], "input 'x' has a size that is not a number"),
        ([tensor(shape=[-1, 1 << 62])], "input x"),
        ([tensor(), tensor()], "it names the input 'x' twice"),
        ([tensor(name="")], "an input has no name"),
        ([tensor(name=["x"])], "an input has no name"),
        ([tensor(name="x\n\x1b[31m", shape=None)], "input 'x [31m' has no datatype or no shape"),
        ([tensor(datatype="FP8")], "unknown datatype 'FP8'"),
        ([3], "an input has no name"),
        ([], "it names no inputs"),
        ({"x": 1}, "it names no inputs"),
        (None, "it names no inputs"),
    ],
)
def test_metadata_that_no_model_has(stub: tuple[Stub, str], inputs: Any, why: str) -> None:
    server, url = stub
    server.metadata["inputs"] = inputs
    assert why in refusal(url)


@pytest.mark.parametrize("configuration", [{"input": [3]}, {"model_transaction_policy": 1}, {"max_batch_size": "x"}])
def test_a_configuration_that_no_model_has(stub: tuple[Stub, str], configuration: Any) -> None:
    server, url = stub
    server.configuration = configuration
    assert "the metadata of 'id' is not usable" in refusal(url)


@pytest.mark.slow
def test_as_many_inputs_as_are_possible(stub: tuple[Stub, str]) -> None:
    server, url = stub
    server.metadata["inputs"] = [X, *(tensor(name=f"x{at}") for at in range(discovery._MOST_TENSORS - 1))]
    assembled(url)
    assert f"x18 FP32[4] and {discovery._MOST_TENSORS - 20} more" in refusal(url, "--input", "z:4")


def test_all_that_is_asked_before_a_run_has_one_deadline(
    stub: tuple[Stub, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers each question in time, and never comes to an end."""
    server, url = stub
    monkeypatch.setattr(target, "ANSWER_PATIENCE_S", 0.5)
    good = server.get

    def slow(path: str) -> tuple[int, Any]:
        time.sleep(0.2)
        return good(path)

    server.get = slow  # type: ignore[method-assign]
    text = refusal(url)
    assert "took more than 0.5 s, the last of it for the answer to Model" in text
    assert f" of {url}: is the server overloaded" in text
