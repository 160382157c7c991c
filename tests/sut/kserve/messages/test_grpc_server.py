"""Requests read and answers written over gRPC, with tritonclient's own messages on the other side."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.exchange import Part, Region
from drumfire.sut.kserve.messages.grpc_client import GrpcMessages
from drumfire.sut.kserve.messages.grpc_server import GrpcInference, stream_answer, stream_error
from drumfire.sut.kserve.messages.inference import (
    AnswerOutput,
    InferAnswer,
    InferRequest,
    RequestedOutput,
    RequestInput,
)
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface, TensorError, TensorSpec, pack_bytes

pb = pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=Exception)

names = st.text(max_size=6)
sizes = st.lists(st.integers(0, 3), max_size=3)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9) | st.floats(allow_nan=False)
parameters = st.dictionaries(
    names.filter(lambda name: not name.startswith("shared_memory") and name != "classification"), scalars, max_size=3
)
regions = st.builds(Region, st.text(min_size=1, max_size=6), st.integers(0, 2**62), st.integers(0, 2**62))


def parameter(value: Any) -> Any:
    for kind, name in ((bool, "bool_param"), (int, "int64_param"), (str, "string_param"), (float, "double_param")):
        if isinstance(value, kind):
            return pb.InferParameter(**{name: value})
    raise AssertionError(value)


def told(values: dict[str, Any]) -> dict[str, Any]:
    return {key: parameter(value) for key, value in values.items()}


def in_region(region: Region) -> dict[str, Any]:
    return told(
        {
            "shared_memory_region": region.name,
            "shared_memory_byte_size": region.size,
            "shared_memory_offset": region.offset,
        }
    )


@st.composite
def contents(draw: st.DrawFn) -> tuple[str, tuple[int, ...], bytes]:
    """Datatype, shape and contents."""
    datatype = draw(st.sampled_from([*DATATYPES, "BYTES"]))
    shape = tuple(draw(sizes))
    count = int(np.prod(shape, dtype=int))
    if datatype == "BYTES":
        return datatype, shape, pack_bytes(draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count)))
    size = count * DATATYPES[datatype].itemsize
    return datatype, shape, draw(st.binary(min_size=size, max_size=size))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, InferRequest]:
    """A message of tritonclient's, and what it says."""
    inputs, given, raw = [], [], []
    empty_entries = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        datatype, shape, data = draw(contents())
        name, region = draw(names), draw(st.none() | regions)
        tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
        if region is not None:
            for key, value in in_region(region).items():
                tensor.parameters[key].CopyFrom(value)
            if empty_entries:
                raw.append(b"")
        else:
            raw.append(data)
        inputs.append(tensor)
        given.append(RequestInput(name, datatype, shape, data if region is None else region))
    outputs, asked = [], []
    for _ in range(draw(st.integers(0, 2))):
        name, region = draw(names), draw(st.none() | regions)
        found = {} if region is None else in_region(region)
        outputs.append(pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=found))
        asked.append(RequestedOutput(name, region))
    model, version, request_id, values = draw(names), draw(names), draw(names), draw(parameters)
    message = pb.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=request_id,
        parameters=told(values),
        inputs=inputs,
        outputs=outputs,
        raw_input_contents=raw,
    )
    return message, InferRequest(model, version, request_id, values, given, asked)


def plain(request: InferRequest) -> InferRequest:
    """With bytes for views."""
    return request._replace(
        inputs=[one if isinstance(one.data, Region) else one._replace(data=bytes(one.data)) for one in request.inputs]
    )


class TestRequests:
    @given(st.lists(requests(), min_size=1, max_size=3))
    def test_what_tritonclient_writes_is_read(self, written: list[tuple[Any, InferRequest]]) -> None:
        inference = GrpcInference()
        for _ in range(2):  # the second time it may be known
            for message, wanted in written:
                for wire in (message.SerializeToString(), memoryview(message.SerializeToString())):
                    found = plain(inference.parse_request(wire))
                    assert found == wanted
                    assert [type(value) for value in found.parameters.values()] == [
                        type(wanted.parameters[key]) for key in found.parameters
                    ]

    @given(st.lists(st.tuples(names, st.binary(min_size=8, max_size=8), st.sampled_from(["m", "n"])), max_size=8))
    def test_one_like_another_is_told_from_it(self, written: list[tuple[str, bytes, str]]) -> None:
        inference = GrpcInference()
        for request_id, data, model in written:
            message = pb.ModelInferRequest(
                model_name=model,
                id=request_id,
                inputs=[pb.ModelInferRequest.InferInputTensor(name="i", datatype="FP32", shape=[1, 2])],
                raw_input_contents=[data],
            )
            found = plain(inference.parse_request(message.SerializeToString()))
            assert found == InferRequest(model, "", request_id, {}, [RequestInput("i", "FP32", (1, 2), data)], [])

    def test_our_own_client_s_requests(self) -> None:
        spec = TensorSpec("IN", "FP32", (-1,))
        messages, inference = GrpcMessages(ModelInterface("m", "2", "", (spec,), (spec,), 8)), GrpcInference()
        for batch in (1, 2, 1, 2):
            data = random.Random(batch).randbytes(batch * 12)
            found = plain(inference.parse_request(messages.request([Part((batch, 3), data)])[5:]))
            assert found == InferRequest(
                "m", "2", "", {}, [RequestInput("IN", "FP32", (batch, 3), data)], [RequestedOutput("IN")]
            )

    @pytest.mark.parametrize(
        ("datatype", "field", "values", "dtype"),
        [
            ("BOOL", "bool_contents", [True, False], "?"),
            ("INT8", "int_contents", [-128, 127], "i1"),
            ("INT16", "int_contents", [-2, 300], "<i2"),
            ("INT32", "int_contents", [-(2**31), 2**31 - 1], "<i4"),
            ("INT64", "int64_contents", [-(2**63), 2**63 - 1], "<i8"),
            ("UINT8", "uint_contents", [0, 255], "u1"),
            ("UINT16", "uint_contents", [0, 65_535], "<u2"),
            ("UINT32", "uint_contents", [1, 2**32 - 1], "<u4"),
            ("UINT64", "uint64_contents", [2**64 - 1, 127, 128], "<u8"),
            ("FP32", "fp32_contents", [1.5, -0.0, float("inf")], "<f4"),
            ("FP64", "fp64_contents", [1e300, -1.0], "<f8"),
        ],
    )
    def test_typed_contents(self, datatype: str, field: str, values: list[Any], dtype: str) -> None:
        tensor = pb.ModelInferRequest.InferInputTensor(name="i", datatype=datatype, shape=[len(values)])
        getattr(tensor.contents, field).extend(values)
        inference = GrpcInference()
        for _ in range(2):
            request = inference.parse_request(pb.ModelInferRequest(inputs=[tensor]).SerializeToString())
            assert request.inputs[0].data == np.array(values, dtype).tobytes()

    @given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
    def test_typed_numbers_of_any_length(self, values: list[int]) -> None:
        tensor = pb.ModelInferRequest.InferInputTensor(name="i", datatype="INT32", shape=[len(values)])
        tensor.contents.int_contents.extend(values)
        if not values:  # then nothing at all is told
            tensor.contents.SetInParent()
        wire = pb.ModelInferRequest(inputs=[tensor]).SerializeToString()
        if values:
            assert GrpcInference().parse_request(wire).inputs[0].data == np.array(values, "<i4").tobytes()

    def test_typed_bytes_and_numbers_one_by_one(self) -> None:
        tensor = pb.ModelInferRequest.InferInputTensor(name="i", datatype="BYTES", shape=[2])
        tensor.contents.bytes_contents.extend([b"a", b""])
        request = GrpcInference().parse_request(pb.ModelInferRequest(inputs=[tensor]).SerializeToString())
        assert request.inputs[0].data == pack_bytes([b"a", b""])
        wire = b"\x2a\x14\x0a\x01i\x12\x05INT32\x1a\x01\x02\x2a\x05\x10\x07\x12\x01\x08"  # 7 apart, 8 packed
        wire = wire[:1] + bytes((len(wire) - 2,)) + wire[2:]
        assert GrpcInference().parse_request(wire).inputs[0].data == np.array([7, 8], "<i4").tobytes()


def tensor(datatype: str = "FP32", shape: Any = (2,), **more: Any) -> Any:
    return pb.ModelInferRequest.InferInputTensor(name="i", datatype=datatype, shape=shape, **more)


def typed(field: str, values: list[Any], datatype: str = "FP32", shape: Any = (2,)) -> Any:
    found = tensor(datatype, shape)
    getattr(found.contents, field).extend(values)
    return pb.ModelInferRequest(inputs=[found])


def with_raw(*raw: bytes, **more: Any) -> Any:
    return pb.ModelInferRequest(inputs=[tensor(**more)], raw_input_contents=raw)


REFUSED: dict[str, tuple[Any, str]] = {
    "too few bytes": (with_raw(bytes(7)), "7 bytes; a FP32 tensor of shape \\[2\\] has 8"),
    "no contents": (with_raw(), "1 inputs with the raw contents of 0"),
    "too many contents": (with_raw(bytes(8), bytes(8)), "1 inputs with the raw contents of 2"),
    "a negative size": (with_raw(b"", shape=[-1]), "shape \\[-1\\]"),
    "sizes whose product is beyond memory": (with_raw(b"", shape=[2**62, 2**62]), "more than memory"),
    "sizes whose product is beyond 64 bits": (with_raw(b"", shape=[2**32, 2**32]), "more than memory"),
    "too many dimensions": (with_raw(b"", shape=[1] * 100), "100 dimensions"),
    "an unknown datatype": (with_raw(bytes(8), datatype="FP8"), "unknown datatype 'FP8'"),
    "elements missing of BYTES": (with_raw(pack_bytes([b"a"]), datatype="BYTES"), "1 elements; a BYTES"),
    "BYTES within a length": (with_raw(b"\1\0", datatype="BYTES"), "within a length"),
    "raw and typed": (
        pb.ModelInferRequest(inputs=typed("fp32_contents", [1, 2]).inputs, raw_input_contents=[b""]),
        "both raw and typed",
    ),
    "typed of another datatype": (typed("fp64_contents", [1, 2]), "another datatype than FP32"),
    "typed too few": (typed("fp32_contents", [1]), "1 elements"),
    "typed that do not fit": (typed("int_contents", [1, 128], "INT8"), "does not fit in INT8"),
    "typed of FP16": (typed("fp32_contents", [1, 2], "FP16"), "FP16 has no typed contents"),
    "typed of an impossible shape": (typed("fp32_contents", [1], shape=[-1]), "shape"),
    "a region and contents": (
        pb.ModelInferRequest(inputs=[tensor(parameters=in_region(Region("r", 0, 8)))], raw_input_contents=[bytes(8)]),
        "names shared memory",
    ),
    "a region without a size": (with_raw(parameters=told({"shared_memory_region": "r"})), "not a size in bytes"),
    "a region before its start": (with_raw(parameters=in_region(Region("r", -1, 8))), "not an offset"),
    "a region whose name is a number": (
        with_raw(parameters=told({"shared_memory_region": 5, "shared_memory_byte_size": 5})),
        "not a name",
    ),
    "classification": (
        pb.ModelInferRequest(
            outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="o", parameters=told({"classification": 3}))]
        ),
        "classification is not served",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_in_one_line(case: str) -> None:
    message, text = REFUSED[case]
    inference = GrpcInference()
    for _ in range(2):
        with pytest.raises(TensorError, match=text) as refusal:
            inference.parse_request(message.SerializeToString())
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 400


def test_what_takes_long_to_read_is_refused() -> None:
    for wire in (
        b"\x32\x00" * 10_000,  # outputs
        b"\x2a" + b"\xff\xff\x03" + b"\x30\x01" * 32_767 + b"\0",  # one input of many fields
        pb.ModelInferRequest(inputs=[tensor(shape=[1] * 200_000)]).SerializeToString(),
        pb.ModelInferRequest(model_name="m", inputs=[tensor(parameters=told({"x" * 30_000: 1}))]).SerializeToString(),
    ):
        with pytest.raises((ProtocolError, TensorError)):
            GrpcInference().parse_request(wire)


@given(requests(), st.data())
def test_cut_or_changed_it_is_read_as_it_is_or_refused(written: tuple[Any, InferRequest], data: Any) -> None:
    """Whether a request like it was seen before makes no difference."""
    message, _ = written
    wire = bytearray(message.SerializeToString())
    inference = GrpcInference()
    inference.parse_request(bytes(wire))
    for place in data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3)):
        if wire:
            wire[place % len(wire)] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))]) if data.draw(st.booleans()) else bytes(wire)
    found = []
    for reader in (inference, GrpcInference()):
        try:
            found.append(repr(plain(reader.parse_request(cut))))
        except (ProtocolError, TensorError) as error:
            found.append(type(error).__name__)
    assert found[0] == found[1]


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_bytes_are_read_or_refused(wires: list[bytes]) -> None:
    inference = GrpcInference()
    for wire in wires:
        try:
            assert isinstance(inference.parse_request(wire), InferRequest)
        except (ProtocolError, TensorError):
            continue


def test_layouts_that_are_kept_are_bounded() -> None:
    inference = GrpcInference()
    for at in range(5000):
        message = with_raw(bytes(8))
        message.model_name = "m" * (1 + at % 700) + str(at)
        inference.parse_request(message.SerializeToString())
    assert sum(map(len, inference._layouts.values())) == inference._kept <= 600


class TestAnswers:
    @given(st.lists(st.tuples(names, contents(), st.none() | regions), max_size=3), names, names, names, parameters)
    def test_tritonclient_reads_what_is_written(
        self, written: list[Any], model: str, version: str, request_id: str, values: dict[str, Any]
    ) -> None:
        outputs, described, raw = [], [], []
        for name, (datatype, shape, data), region in written:
            outputs.append(AnswerOutput(name, datatype, shape, data if region is None else None, region))
            found = {} if region is None else in_region(region)
            described.append(
                pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape, parameters=found)
            )
            raw.append(data if region is None else b"")
        wanted = pb.ModelInferResponse(
            model_name=model,
            model_version=version,
            id=request_id,
            parameters=told(values),
            outputs=described,
            raw_output_contents=raw,
        )
        inference = GrpcInference()
        for _ in range(2):
            message = inference.build_answer(InferAnswer(model, version, request_id, outputs, values))
            assert pb.ModelInferResponse.FromString(message) == wanted

    def test_byte_for_byte(self) -> None:
        inference = GrpcInference()
        for request_id, data in (("7", bytes(8)), ("", b"12345678"), ("88", b"abcdefgh")):
            wanted = pb.ModelInferResponse(
                model_name="m",
                model_version="1",
                id=request_id,
                outputs=[pb.ModelInferResponse.InferOutputTensor(name="o", datatype="FP32", shape=[1, 2])],
                raw_output_contents=[data],
            )
            outputs = [AnswerOutput("o", "FP32", (1, 2), data)]
            found = inference.build_answer(InferAnswer("m", "1", request_id, outputs))
            assert found == wanted.SerializeToString()

    def test_one_in_shared_memory_has_an_empty_entry(self) -> None:
        answer = InferAnswer("m", "1", "", [AnswerOutput("o", "FP32", (1,), None, Region("r", 0, 4))])
        found = pb.ModelInferResponse.FromString(GrpcInference().build_answer(answer))
        assert list(found.raw_output_contents) == [b""]

    def test_parameters_of_equal_values_and_other_kinds_are_not_mixed_up(self) -> None:
        inference = GrpcInference()
        for value, field in ((True, "bool_param"), (1, "int64_param"), (1.0, "double_param"), ("1", "string_param")):
            message = inference.build_answer(InferAnswer("m", "1", "", [], {"x": value}))
            found = pb.ModelInferResponse.FromString(message).parameters["x"]
            assert found.WhichOneof("parameter_choice") == field
            assert getattr(found, field) == value

    @pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), None])
    def test_contents_of_another_size_are_refused(self, data: bytes | None) -> None:
        inference = GrpcInference()
        inference.build_answer(InferAnswer("m", "", "", [AnswerOutput("o", "FP32", (2,), bytes(8))]))
        with pytest.raises(TensorError, match="output 'o'"):
            inference.build_answer(InferAnswer("m", "", "", [AnswerOutput("o", "FP32", (2,), data)]))

    def test_in_a_stream(self) -> None:
        message = GrpcInference().build_answer(InferAnswer("m", "1", "5", []))
        found = pb.ModelStreamInferResponse.FromString(stream_answer(message))
        assert found == pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse.FromString(message))
        found = pb.ModelStreamInferResponse.FromString(stream_error("why not", "5"))
        assert found.error_message == "why not"
        assert found.infer_response.id == "5"
        found = pb.ModelStreamInferResponse.FromString(stream_error("why not"))
        assert found.error_message == "why not"

    def test_our_own_client_reads_it(self) -> None:
        specs = (TensorSpec("A", "FP32", (2,)), TensorSpec("B", "BYTES", ()))
        messages, inference = GrpcMessages(ModelInterface("m", "", "", specs, specs, 8)), GrpcInference()
        messages.wanted = True
        for batch in (1, 3, 1):
            floats = np.arange(batch * 2, dtype="<f4").tobytes()
            outputs = [
                AnswerOutput("B", "BYTES", (batch,), pack_bytes(["x"] * batch)),
                AnswerOutput("A", "FP32", (batch, 2), floats),
            ]
            message = inference.build_answer(InferAnswer("m", "1", "", outputs))
            found = messages.read(b"\0" + len(message).to_bytes(4, "big") + message)
            assert found is not None
            assert found[0].tobytes() == floats
            assert found[1].tolist() == [b"x"] * batch
