"""Requests read and answers written over HTTP: against tritonclient's bodies, our own client, and JSON by hand."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.http1.connection import ClientConnection, Response, ServerConnection, build_request
from drumfire.sut.kserve.http1.head import RequestHead, parse_request_head
from drumfire.sut.kserve.messages.exchange import Part, Region
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpMessages
from drumfire.sut.kserve.messages.http_server import MOST_JSON, HttpInference
from drumfire.sut.kserve.messages.inference import (
    AnswerOutput,
    InferAnswer,
    InferRequest,
    RequestedOutput,
    RequestInput,
)
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface, TensorError, TensorSpec, pack_bytes

PATH = "/v2/models/m/infer"
SPEC = TensorSpec("IN", "FP32", (-1,))
MODEL = ModelInterface("m", "3", "", (SPEC,), (TensorSpec("OUT", "FP32", (-1,)),), 8)
FLOATS = np.array([1.5, -2.0], "<f4").tobytes()


def head(json_size: int | None = None, size: int = 0, *more: tuple[str, str]) -> RequestHead:
    fields = list(more)
    if json_size is not None:
        fields.append(("Inference-Header-Content-Length", str(json_size)))
    return parse_request_head(build_request("POST", PATH, "h", fields, size))


def parsed(inference: HttpInference, said: Any, tail: bytes = b"", path: str = PATH) -> InferRequest:
    """A request of JSON with binary tensors behind it."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    body = text + tail
    return plain(inference.parse_request(head(len(text) if tail else None, len(body)), body, path))


def plain(request: InferRequest) -> InferRequest:
    return request._replace(
        inputs=[one if isinstance(one.data, Region) else one._replace(data=bytes(one.data)) for one in request.inputs]
    )


def read(data: bytes) -> Response:
    connection = ClientConnection(max_body=1 << 20)
    connection.request()
    (response,) = connection.receive(data)
    return response


def binary(size: int = 8, **more: Any) -> dict[str, Any]:
    return {"name": "i", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size, **more}}


def listed(data: Any, datatype: str = "FP32", shape: Sequence[int] = (2,)) -> dict[str, Any]:
    return {"name": "i", "datatype": datatype, "shape": list(shape), "data": data}


def answer(*outputs: AnswerOutput, request_id: str = "") -> InferAnswer:
    return InferAnswer("m", "3", request_id, outputs)


class TestRequests:
    @pytest.mark.parametrize("request_id", ["", "7", 'ä \\"', "\n"])
    def test_binary(self, request_id: str) -> None:
        inference = HttpInference()
        for data in (FLOATS, b"12345678", FLOATS):
            said = {
                "id": request_id,
                "inputs": [binary()],
                "outputs": [{"name": "o", "parameters": {"binary_data": True}}],
            }
            found = parsed(inference, said, data)
            assert found == InferRequest(
                "m", "", request_id, {}, [RequestInput("i", "FP32", (2,), data)], [RequestedOutput("o")], False
            )

    @given(st.lists(st.tuples(st.text(max_size=8), st.binary(min_size=8, max_size=8), st.booleans()), max_size=8))
    def test_one_like_another_is_told_from_it(self, requests: list[tuple[str, bytes, bool]]) -> None:
        inference = HttpInference()
        for request_id, data, is_compact in requests:
            said = {"id": request_id, "inputs": [binary()]}
            text = json.dumps(said, separators=(",", ":") if is_compact else None, ensure_ascii=is_compact).encode()
            for path, version in ((PATH, ""), ("/v2/models/m/versions/12/infer", "12")):
                found = parsed(inference, text, data, path)
                assert (found.id, found.version) == (request_id, version)
                assert found.inputs == [RequestInput("i", "FP32", (2,), data)]

    def test_the_model_s_name_is_as_the_path_says(self) -> None:
        found = parsed(HttpInference(), {"inputs": [binary()]}, FLOATS, "/v2/models/gr%C3%B6%2Fa%20b/infer")
        assert found.model == "grö/a b"

    @pytest.mark.parametrize(
        ("datatype", "values", "dtype"),
        [
            ("BOOL", [True, False], "?"),
            ("INT8", [-128, 127], "i1"),
            ("UINT8", [0, 255], "u1"),
            ("INT32", [-(2**31), 2**31 - 1], "<i4"),
            ("INT64", [-(2**63), 2**63 - 1], "<i8"),
            ("UINT64", [0, 2**64 - 1], "<u8"),
            ("FP16", [1.5, 2], "<f2"),
            ("FP32", [1e-3, 3], "<f4"),
            ("FP64", [1e300, 0.1], "<f8"),
        ],
    )
    def test_lists(self, datatype: str, values: list[Any], dtype: str) -> None:
        wanted = np.array(values, dtype).tobytes()
        for data, shape in (
            (values, [2]),
            ([values], [1, 2]),
            ([[values[:1]], [values[1:]]], [2, 1, 1]),
            (values, [1, 2]),
        ):
            found = parsed(HttpInference(), {"inputs": [listed(data, datatype, shape)]})
            assert found.inputs == [RequestInput("i", datatype, tuple(shape), wanted)]

    def test_texts(self) -> None:
        found = parsed(HttpInference(), {"inputs": [listed(["ä", ""], "BYTES")]})
        assert found.inputs[0].data == pack_bytes(["ä", ""])

    def test_regions_and_parameters(self) -> None:
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
        said = {
            "inputs": [{"name": "i", "datatype": "FP32", "shape": [2], "parameters": place}],
            "outputs": [{"name": "o", "parameters": place}, {"name": "p", "parameters": {"binary_data": False}}],
            "parameters": {"priority": 3, "binary_data_output": True, "x": "y"},
        }
        inference = HttpInference()
        for _ in range(2):
            assert parsed(inference, said) == InferRequest(
                "m",
                "",
                "",
                {"priority": 3, "x": "y"},
                [RequestInput("i", "FP32", (2,), Region("r", 4, 8))],
                [RequestedOutput("o", Region("r", 4, 8), True), RequestedOutput("p", None, False)],
                True,
            )

    def test_our_own_client_s_requests(self) -> None:
        messages, inference = HttpMessages(MODEL), HttpInference()
        for batch in (1, 2, 1, 2):
            data = bytes(range(batch * 8))
            size, body = messages.request([Part((batch, 2), data)])
            found = plain(inference.parse_request(head(size, len(body)), body, "/v2/models/m/versions/3/infer"))
            assert found == InferRequest(
                "m", "3", "", {}, [RequestInput("IN", "FP32", (batch, 2), data)], [RequestedOutput("OUT")], False
            )


REFUSED: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b"{", b"", "not JSON"),
    "bytes that are no text": (b'{"a":"\xff"}', b"", "not JSON"),
    "a list": ([], b"", "not a JSON object"),
    "nested too deep": (b"[" * 30_000, b"", "not JSON"),
    "too many lists": (b"[" * 132_000, b"", "JSON of 132000 values; at most 131072 are accepted: send binary"),
    "too many numbers": (b'{"a":[' + b"1," * 132_000 + b"1]}", b"", "JSON of 132003 values; at most 131072"),
    "too much": (b" " * ((1 << 20) + 1), b"", "JSON of 1048577 bytes; at most 1048576 are accepted: send binary"),
    "NaN": (b'{"inputs":[{"name":"i","datatype":"FP32","shape":[1],"data":[NaN]}]}', b"", "not JSON: .*NaN"),
    "no inputs": ({"outputs": []}, b"", "without inputs"),
    "inputs that are none": ({"inputs": {"a": 1}}, b"", "not a list of objects"),
    "an input that is none": ({"inputs": [1]}, b"", "not a list of objects"),
    "an input without a name": ({"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}, b"", "without a name"),
    "an input without a datatype": ({"inputs": [{"name": "i", "shape": [1], "data": [1]}]}, b"", "no datatype"),
    "an input without a shape": ({"inputs": [{"name": "i", "datatype": "FP32", "data": [1]}]}, b"", "no shape"),
    "a shape of fractions": ({"inputs": [listed([1], shape=[1.0])]}, b"", "no shape of integers"),
    "a shape of truth": ({"inputs": [listed([1], shape=[True])]}, b"", "no shape of integers"),
    "a negative size": ({"inputs": [listed([], shape=[-1])]}, b"", "shape \\[-1\\]"),
    "sizes beyond memory": ({"inputs": [listed([], shape=[2**40, 2**40])]}, b"", "more than memory"),
    "sizes beyond anything": ({"inputs": [listed([], shape=[10**4000, 2])]}, b"", "number is infinity"),
    "too many dimensions": ({"inputs": [listed([1], shape=[1] * 100)]}, b"", "100 dimensions"),
    "an unknown datatype": ({"inputs": [listed([1], "FP8", [1])]}, b"", "unknown datatype"),
    "too few values": ({"inputs": [listed([1])]}, b"", "4 bytes; a FP32 tensor of shape \\[2\\] has 8"),
    "values of another kind": ({"inputs": [listed(["a", "b"])]}, b"", "not a number"),
    "null as a value": ({"inputs": [listed([None, 1])]}, b"", "not a number"),
    "objects as values": ({"inputs": [listed([{}, 1])]}, b"", "not a number"),
    "a number that does not fit": ({"inputs": [listed([1, 256], "UINT8")]}, b"", "UINT8"),
    "a number too large for FP32": ({"inputs": [listed([1, 1e300])]}, b"", "too large"),
    "a number too large for anything": ({"inputs": [listed([1, 10**400])]}, b"", "number is infinity"),
    "a fraction": ({"inputs": [listed([1, 0.5], "INT8")]}, b"", "not an integer"),
    "BF16 in JSON": ({"inputs": [listed([1, 2], "BF16")]}, b"", "BF16"),
    "half a surrogate": (
        b'{"inputs":[{"name":"i","datatype":"BYTES","shape":[1],"data":["\\ud800"]}]}',
        b"",
        "surrogate",
    ),
    "no contents": ({"inputs": [{"name": "i", "datatype": "FP32", "shape": [2]}]}, b"", "must have one of"),
    "contents twice": ({"inputs": [{**binary(), "data": [1, 2]}]}, FLOATS, "must have one of"),
    "too few bytes": ({"inputs": [binary(7)]}, FLOATS[:7], "7 bytes; "),
    "more bytes than come": ({"inputs": [binary(9)]}, FLOATS, "runs past the end"),
    "a size that is negative": ({"inputs": [binary(-1)]}, FLOATS, "not a size"),
    "a size that is none": ({"inputs": [binary("8")]}, FLOATS, "not a size"),
    "bytes behind": ({"inputs": [binary()]}, FLOATS + b"x", "1 bytes after"),
    "an id that is a number": ({"id": 5, "inputs": [binary()]}, FLOATS, "id is not a string"),
    "parameters that are none": ({"inputs": [binary()], "parameters": []}, FLOATS, "not an object"),
    "a region without a size": (
        {"inputs": [{"name": "i", "datatype": "FP32", "shape": [2], "parameters": {"shared_memory_region": "r"}}]},
        b"",
        "not a size",
    ),
    "classification": (
        {"inputs": [binary()], "outputs": [{"name": "o", "parameters": {"classification": 2}}]},
        FLOATS,
        "classification is not served",
    ),
    "binary_data that is neither": (
        {"inputs": [binary()], "outputs": [{"name": "o", "parameters": {"binary_data": 1}}]},
        FLOATS,
        "neither true nor false",
    ),
    "a name of megabytes": ({"inputs": [{"name": "n" * 1_000_000}]}, b"", "no datatype"),
    "JSON of megabytes": (b" " * (MOST_JSON + 1), b"", "send binary tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_in_one_line(case: str) -> None:
    said, tail, text = REFUSED[case]
    inference = HttpInference()
    for _ in range(2):
        with pytest.raises(TensorError, match=text) as refusal:
            parsed(inference, said, tail)
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 400


def test_heads_that_promise_what_does_not_come() -> None:
    inference = HttpInference()
    with pytest.raises(TensorError, match="2 bytes with 3 bytes of JSON"):
        inference.parse_request(head(3, 2), b"{}", PATH)
    with pytest.raises(TensorError, match="gzip"):
        inference.parse_request(head(None, 2, ("Content-Encoding", "gzip")), b"{}", PATH)


def test_one_seen_before_with_another_size_is_refused() -> None:
    inference = HttpInference()
    text = json.dumps({"inputs": [binary()]}).encode()
    for tail in (FLOATS, FLOATS):
        assert inference.parse_request(head(len(text), len(text) + len(tail)), text + tail, PATH)
    for tail in (b"", FLOATS[:7], FLOATS + b"x"):
        with pytest.raises(TensorError):
            inference.parse_request(head(len(text), len(text) + len(tail)), text + tail, PATH)


BASE = b'{"id":"12","inputs":[{"name":"i","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}'


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3), st.integers(0, 200))
def test_changed_or_cut_it_is_read_as_it_is_or_refused(changes: list[tuple[int, int]], size: int) -> None:
    """Whether a request like it was seen before makes no difference."""
    inference = HttpInference()
    parsed(inference, BASE, FLOATS)
    wire = bytearray(BASE + FLOATS)
    for place, value in changes:
        wire[place % len(wire)] = value
    body = bytes(wire[: max(size, 1)])
    found = []
    for reader in (inference, HttpInference()):
        try:
            json_size = min(len(BASE), len(body))
            found.append(repr(plain(reader.parse_request(head(json_size, len(body)), body, PATH))))
        except TensorError as error:
            found.append(str(error))
    assert found[0] == found[1] or "id is not text" in found[0]


def test_layouts_that_are_kept_are_bounded() -> None:
    inference = HttpInference()
    for at in range(3000):
        parsed(inference, {"parameters": {"x": at}, "inputs": [binary()]}, FLOATS)
    assert len(inference._layouts) <= 1024


class TestAnswers:
    def test_binary(self) -> None:
        inference = HttpInference()
        for request_id, data in (("", FLOATS), ('a"b', b"12345678"), ("", b"abcdefgh")):
            request = parsed(inference, {"inputs": [binary()], "parameters": {"binary_data_output": True}}, FLOATS)
            given = answer(AnswerOutput("o", "FP32", (2,), data), request_id=request_id)
            response = read(inference.build_answer(given, request))
            size = response.head.inference_header_length
            assert json.loads(bytes(response.body[:size])) == {
                **({"id": request_id} if request_id else {}),
                "model_name": "m",
                "model_version": "3",
                "outputs": [{"name": "o", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}],
            }
            assert bytes(response.body[size:]) == data
            assert response.head.fields["content-type"] == "application/octet-stream"

    def test_each_output_in_its_form(self) -> None:
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 0}
        outputs = [
            {"name": "a", "parameters": {"binary_data": True}},
            {"name": "b", "parameters": {"binary_data": False}},
            {"name": "c"},
            {"name": "d", "parameters": place},
        ]
        inference = HttpInference()
        for default in (False, True):
            said = {"inputs": [binary()], "outputs": outputs, "parameters": {"binary_data_output": default}}
            request = parsed(inference, said, FLOATS)
            given = answer(
                AnswerOutput("c", "INT64", (1, 1), np.array([2**62], "<i8").tobytes()),
                AnswerOutput("a", "FP32", (2,), FLOATS),
                AnswerOutput("d", "FP32", (2,), None, Region("r", 0, 8)),
                AnswerOutput("b", "BYTES", (1,), pack_bytes(["ä"])),
            )
            response = read(inference.build_answer(given, request))
            size = response.head.inference_header_length
            c, a, d, b = json.loads(bytes(response.body[:size]))["outputs"]
            assert a["parameters"] == {"binary_data_size": 8}
            assert b["data"] == ["ä"]
            assert "parameters" not in d  # else perf_analyzer looks for a binary size in them
            if default:
                assert c["parameters"] == {"binary_data_size": 8}
            else:
                assert c["data"] == [2**62]
            assert bytes(response.body[size:]) == (given.outputs[0].data if default else b"") + FLOATS

    def test_json_alone(self) -> None:
        request = parsed(HttpInference(), {"inputs": [listed([1.5, -2])]})
        data = HttpInference().build_answer(answer(AnswerOutput("o", "FP32", (2,), FLOATS)), request, closing=True)
        response = read(data)
        assert response.head.inference_header_length is None
        assert response.head.fields["content-type"] == "application/json"
        assert not response.head.keeps_alive
        assert json.loads(bytes(response.body))["outputs"][0]["data"] == [1.5, -2.0]

    @pytest.mark.parametrize(
        ("datatype", "data", "text"),
        [
            ("FP32", np.array([np.nan, 1], "<f4").tobytes(), "NaN and infinity cannot be sent in JSON"),
            ("FP16", np.array([np.inf, 1], "<f2").tobytes(), "NaN and infinity"),
            ("BF16", bytes(4), "BF16 cannot be sent in JSON"),
            ("BYTES", pack_bytes([b"\xff", b""]), "not text"),
            ("FP32", bytes(7), "7 bytes; "),
            ("FP32", None, "no contents"),
        ],
    )
    def test_what_json_can_not_say_is_refused(self, datatype: str, data: bytes | None, text: str) -> None:
        request = parsed(HttpInference(), {"inputs": [listed([1, 2])]})
        with pytest.raises(TensorError, match=text):
            HttpInference().build_answer(answer(AnswerOutput("o", datatype, (2,), data)), request)

    @given(st.sampled_from([one for one in DATATYPES if one != "BF16"]), st.data())
    def test_what_json_says_is_read_back(self, datatype: str, data: Any) -> None:
        dtype = DATATYPES[datatype]
        raw = data.draw(st.binary(min_size=4 * dtype.itemsize, max_size=4 * dtype.itemsize))
        array = np.frombuffer(raw, dtype)
        if dtype.kind == "b":
            array = np.frombuffer(raw, np.uint8) > 127
        if dtype.kind == "f":
            array = np.where(np.isfinite(array), array, dtype.type(0))
        contents = array.tobytes()
        inference = HttpInference()
        request = parsed(inference, {"inputs": [listed([1, 2])]})
        response = read(inference.build_answer(answer(AnswerOutput("o", datatype, (2, 2), contents)), request))
        (told,) = json.loads(bytes(response.body))["outputs"]
        assert parsed(inference, {"inputs": [{**told, "name": "i"}]}).inputs[0].data == contents


def test_our_own_client_against_our_own_server() -> None:
    """In memory, by pieces of any size, the bodies known and unknown."""
    messages = HttpMessages(MODEL)
    messages.wanted = True
    channel = HttpChannel(messages, "/v2/models/m/versions/3/infer", "h")
    server, inference = ServerConnection(max_body=1 << 20), HttpInference()
    draw = np.random.default_rng(5)
    for turn in range(60):
        array = draw.random((1 + turn % 3, 5), np.float32)
        channel.send(turn, messages.request([Part(array.shape, array.tobytes())]))
        data, step = b"".join(channel.out), (1, 50, 10_000)[turn % 3]
        channel.out.clear()
        heard: list[Any] = []
        for at in range(0, len(data), step):
            for asked in server.receive(data[at : at + step]):
                request = inference.parse_request(asked.head, asked.body, asked.target)
                given = request.inputs[0]
                outputs = [AnswerOutput("OUT", given.datatype, given.shape, given.data)]
                told = inference.build_answer(InferAnswer("m", "3", request.id, outputs), request)
                for first in range(0, len(told), step):
                    heard += channel.receive(told[first : first + step])
        ((ticket, reply),) = heard
        assert ticket == turn
        assert reply[0].tobytes() == array.tobytes()


class TestTritonclient:
    """Its own bodies, written and read."""

    def test_requests_and_answers(self) -> None:
        http = pytest.importorskip("tritonclient.http", exc_type=Exception)
        inference = HttpInference()
        arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([b"x", "ä".encode()], np.object_)}
        for is_binary in (True, False):
            inputs = []
            for name, array in arrays.items():
                one = http.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "FP32")
                one.set_data_from_numpy(array, binary_data=is_binary)
                inputs.append(one)
            outputs = [http.InferRequestedOutput(name, binary_data=is_binary) for name in arrays]
            for request_id in ("", "1", "22"):
                body, size = http.InferenceServerClient.generate_request_body(
                    inputs, outputs=outputs, request_id=request_id, priority=2, timeout=1000
                )
                request = plain(inference.parse_request(head(size, len(body)), bytes(body), PATH))
                assert request.id == request_id
                assert request.parameters == {"priority": 2, "timeout": 1000}
                assert [one.data for one in request.inputs] == [arrays["a"].tobytes(), pack_bytes(arrays["b"])]
                given = [AnswerOutput(one.name, one.datatype, one.shape, one.data) for one in request.inputs]
                told = inference.build_answer(InferAnswer("m", "3", request.id, given), request)
                response = read(told)
                result = http.InferenceServerClient.parse_response_body(
                    bytes(response.body), header_length=response.head.inference_header_length
                )
                assert (result.as_numpy("a") == arrays["a"]).all()
                found = [one if isinstance(one, bytes) else one.encode() for one in result.as_numpy("b")]
                assert found == list(arrays["b"])
                assert result.get_response().get("id", "") == request_id
