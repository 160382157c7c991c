"""Requests and replies over gRPC against messages of Google's package, and calls against a server played by hand."""

import contextlib
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import hpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.client import CallResult, Calls
from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.http2.frames import LARGEST_STREAM, PREFACE, frame
from drumfire.sut.kserve.messages.exchange import NOT_SENT, Failure, Part, Region
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface, TensorError, TensorSpec, pack_bytes
from tests.support.frames import frames, said

TABLE = {
    "InferParameter": {
        "bool_param": (1, "oneof bool"),
        "int64_param": (2, "oneof int64"),
        "string_param": (3, "oneof string"),
    },
    "Parameter": {"key": (1, "string"), "value": (2, "InferParameter")},
    "Contents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint64"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "Tensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "repeated int64"),
        "parameters": (4, "repeated Parameter"),
        "contents": (5, "Contents"),
    },
    "WantedOutput": {"name": (1, "string"), "parameters": (2, "repeated Parameter")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "repeated Parameter"),
        "inputs": (5, "repeated Tensor"),
        "outputs": (6, "repeated WantedOutput"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "repeated Parameter"),
        "outputs": (5, "repeated Tensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
}

TYPED: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127, 0]),
    "INT16": ("int_contents", [-2, 300]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1, 1 << 35]),
    "UINT8": ("uint_contents", [0, 127, 128, 255]),
    "UINT16": ("uint_contents", [0, 65_535]),
    "UINT32": ("uint_contents", [1, 2**32 - 1]),
    "UINT64": ("uint64_contents", [2**64 - 1, 127, 128]),
    "FP32": ("fp32_contents", [1.5, -0.0, math.inf]),
    "FP64": ("fp64_contents", [1e300, -1.0]),
    "BYTES": ("bytes_contents", [b"abc", b"\xff", b""]),
}
"""Of each datatype that has typed contents: their field, and values."""

ONE = ModelInterface("m", "", "onnx", (TensorSpec("IN", "FP32", (3,)),), (TensorSpec("OUT", "FP32", (2,)),), 8)
TWO = ModelInterface(
    "größer",
    "12",
    "onnx",
    (TensorSpec("A", "INT8", (-1, 2)), TensorSpec("B", "BYTES", ())),
    (TensorSpec("X", "FP32", (-1,)), TensorSpec("Y", "INT64", ())),
    8,
)


@pytest.fixture(scope="module")
def pb(google: Any) -> Any:
    return google.messages(TABLE)


def region_parameters(pb: Any, region: Region) -> list[Any]:
    return [
        pb.Parameter(key="shared_memory_region", value=pb.InferParameter(string_param=region.name)),
        pb.Parameter(key="shared_memory_byte_size", value=pb.InferParameter(int64_param=region.size)),
        pb.Parameter(key="shared_memory_offset", value=pb.InferParameter(int64_param=region.offset)),
    ]


def unframed(message: bytes) -> bytes:
    assert message[0] == 0
    assert int.from_bytes(message[1:5], "big") == len(message) - 5
    return message[5:]


class TestRequests:
    def test_one_input(self, pb: Any) -> None:
        data = np.arange(6, dtype="<f4").tobytes()
        wanted = pb.ModelInferRequest(
            model_name="m",
            inputs=[pb.Tensor(name="IN", datatype="FP32", shape=[2, 3])],
            outputs=[pb.WantedOutput(name="OUT")],
            raw_input_contents=[data],
        )
        messages = GrpcMessages(ONE)
        for _ in range(2):
            assert unframed(messages.request([Part((2, 3), data)])) == wanted.SerializeToString()

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 8), st.integers(0, 3), st.lists(st.binary(max_size=300), max_size=4), st.booleans()
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_inputs_of_any_size_or_in_regions(
        self, pb: Any, requests: list[tuple[int, int, list[bytes], bool]]
    ) -> None:
        messages = GrpcMessages(TWO)
        for batch, length, elements, in_region in requests:
            region, outputs = Region("r/1", 0, batch * length * 2), [Region("o", 64, 8), Region("o", 1 << 40, 2)]
            numbers, strings = bytes(batch * length * 2), pack_bytes(elements)
            parts = [
                Part((batch, length, 2), region if in_region else memoryview(numbers)),
                Part((len(elements),), strings),
            ]
            wanted = pb.ModelInferRequest(
                model_name="größer",
                model_version="12",
                inputs=[
                    pb.Tensor(
                        name="A",
                        datatype="INT8",
                        shape=[batch, length, 2],
                        parameters=region_parameters(pb, region) if in_region else [],
                    ),
                    pb.Tensor(name="B", datatype="BYTES", shape=[len(elements)]),
                ],
                outputs=[
                    pb.WantedOutput(name=name, parameters=region_parameters(pb, place) if in_region else [])
                    for name, place in zip("XY", outputs, strict=True)
                ],
                raw_input_contents=[strings] if in_region else [numbers, strings],
            )
            found = messages.request(parts, outputs if in_region else ())
            assert unframed(found) == wanted.SerializeToString()

    def test_as_tritonclient_writes_it(self) -> None:
        # From tritonclient.grpc's get_inference_request for these inputs and outputs, FP32 1.0 2.0 3.0.
        stored = bytes.fromhex("0a016d2a0e0a02494e1204465033321a02010332050a034f55543a0c0000803f0000004000004040")
        messages = GrpcMessages(ONE)
        assert unframed(messages.request([Part((1, 3), struct.pack("<3f", 1, 2, 3))])) == stored


class TestValues:
    """Requests to servers that read only typed contents."""

    @pytest.mark.parametrize("datatype", TYPED)
    def test_typed_contents(self, pb: Any, datatype: str) -> None:
        field, values = TYPED[datatype]
        array = np.array(values, DATATYPES.get(datatype, np.dtype(object)))
        data = pack_bytes(values) if datatype == "BYTES" else array.tobytes()
        spec = TensorSpec("IN", datatype, array.shape)
        messages = GrpcMessages(ModelInterface("m", "", "", (spec,), ONE.outputs, 8), values=True)
        joined = messages.joint.join([bytes(messages.encoded(datatype, array.shape, data))] * 2)
        tensor = pb.Tensor(name="IN", datatype=datatype, shape=[2, len(values)])
        getattr(tensor.contents, field).extend(values * 2)
        wanted = pb.ModelInferRequest(model_name="m", inputs=[tensor], outputs=[pb.WantedOutput(name="OUT")])
        assert unframed(messages.request([Part((2, len(values)), joined)])) == wanted.SerializeToString()

    @pytest.mark.parametrize("datatype", ["FP16", "BF16"])
    def test_a_datatype_without_a_list(self, datatype: str) -> None:
        with pytest.raises(TensorError, match=f"{datatype} has no typed contents"):
            GrpcMessages(ONE, values=True).encoded(datatype, (1,), bytes(2))


@pytest.mark.parametrize("values", [False, True])
def test_an_input_that_is_left_out_is_not_in_the_request(pb: Any, values: bool) -> None:
    scalars = ModelInterface("m", "", "", (TensorSpec("A", "INT8", ()), TensorSpec("B", "INT8", ())), ONE.outputs, 0)
    messages = GrpcMessages(scalars, values=values)
    for parts, names in (([NOT_SENT, Part((), b"\1")], "B"), ([Part((), b"\1"), Part((), b"\2")], "AB")):
        message = pb.ModelInferRequest.FromString(unframed(messages.request(parts)))
        assert [tensor.name for tensor in message.inputs] == list(names)
        assert len(message.raw_input_contents) == (0 if values else len(names))


def reply_message(pb: Any, outputs: Sequence[tuple[str, str, Sequence[int], bytes | None]], **more: Any) -> bytes:
    """A framed ModelInferResponse; outputs without contents lie in shared memory."""
    return framed(
        pb.ModelInferResponse(
            model_name="m",
            model_version="1",
            outputs=[
                pb.Tensor(
                    name=name,
                    datatype=datatype,
                    shape=shape,
                    parameters=[] if raw is not None else region_parameters(pb, Region("o", 0, 8)),
                )
                for name, datatype, shape, raw in outputs
            ],
            raw_output_contents=[raw for *_, raw in outputs if raw is not None],
            **more,
        ).SerializeToString()
    )


def same(found: Any, right: Sequence[np.ndarray]) -> bool:
    """Bit by bit: a changed byte may make a number that is not itself."""
    return len(found) == len(right) and all(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in zip(found, right, strict=True)
    )


class TestReplies:
    @given(
        st.lists(st.sampled_from(sorted(DATATYPES)), min_size=1, max_size=3),
        st.integers(1, 5),
        st.lists(st.integers(1, 300), max_size=2),
        st.integers(0, 99),
    )
    def test_a_known_layout_gives_what_parsing_gives(
        self, pb: Any, datatypes: list[str], batch: int, shape: list[int], seed: int
    ) -> None:
        draw = random.Random(seed)  # Hypothesis's own generator takes long for many bytes
        specs = tuple(TensorSpec(f"O{at}", datatype, tuple(shape)) for at, datatype in enumerate(datatypes))
        messages = GrpcMessages(ModelInterface("m", "", "", ONE.inputs, specs, 8))
        messages.wanted = True
        for _ in range(3):
            contents = [draw.randbytes(batch * int(np.prod(shape)) * DATATYPES[one].itemsize) for one in datatypes]
            outputs = [
                (spec.name, spec.datatype, (batch, *shape), raw) for spec, raw in zip(specs, contents, strict=True)
            ]
            draw.shuffle(outputs)
            message = reply_message(pb, outputs)
            right = [
                np.frombuffer(raw, DATATYPES[one]).reshape(batch, *shape)
                for raw, one in zip(contents, datatypes, strict=True)
            ]
            found = messages.read(message)
            assert found is not None
            assert same(found, right)
            again = messages.read(memoryview(message))
            assert again is not None
            assert same(again, right)

    def test_bytes_of_any_length(self, pb: Any) -> None:
        interface = ModelInterface("m", "", "", ONE.inputs, (TensorSpec("S", "BYTES", ()),), 8)
        messages = GrpcMessages(interface)
        messages.wanted = True
        for elements in ([b"abc", b""], [b"", b"abc"], [b"ab", b"c"]):
            found = messages.read(reply_message(pb, [("S", "BYTES", (2,), pack_bytes(elements))]))
            assert found is not None
            assert found[0].tolist() == elements
        messages.wanted = False
        with pytest.raises(ProtocolError, match="S: a BYTES tensor ends within"):
            messages.read(reply_message(pb, [("S", "BYTES", (2,), pack_bytes([b"abc", b""])[:-1])]))

    def test_unwanted_contents_are_not_made(self, pb: Any) -> None:
        messages = GrpcMessages(ONE)
        for _ in range(2):
            assert messages.read(reply_message(pb, [("OUT", "FP32", (1, 2), bytes(8))])) is None

    @pytest.mark.parametrize("is_known", [False, True])
    @pytest.mark.parametrize(
        ("outputs", "text"),
        [
            ([("OUT", "FP64", (1, 2), bytes(8))], "came as FP64"),
            ([("OUT", "INT32", (1, 2), bytes(8))], "came as INT32"),
            ([("OUT", "FP32", (2, 1), bytes(8))], r"came as FP32\[2,1\]"),
            ([("OUT", "FP32", (2,), bytes(8))], r"came as FP32\[2\]"),
            ([("OUT", "FP32", (), bytes(8))], r"came as FP32\[\]"),
            ([("OUT", "FP32", (-1, 2), bytes(8))], r"came as FP32\[-1,2\]"),
            ([("OUT", "FP32", (2, 2), bytes(8))], "8 bytes; "),
            ([("OUT", "FP32", (1, 2), bytes(9))], "9 bytes; "),
            ([("TUO", "FP32", (1, 2), bytes(8))], "lacks the output OUT"),
            ([], "lacks the output OUT"),
        ],
    )
    def test_what_was_not_asked_for_is_refused(self, pb: Any, outputs: Any, text: str, is_known: bool) -> None:
        messages = GrpcMessages(ONE)
        if is_known:
            messages.read(reply_message(pb, [("OUT", "FP32", (1, 2), bytes(8))]))
        with pytest.raises(ProtocolError, match=text):
            messages.read(reply_message(pb, outputs))

    def test_a_batch_of_outputs_without_a_dimension_needs_one(self, pb: Any) -> None:
        messages = GrpcMessages(ModelInterface("m", "", "", ONE.inputs, (TensorSpec("Y", "INT64", ()),), 8))
        assert messages.read(reply_message(pb, [("Y", "INT64", (1,), bytes(8))])) is None
        with pytest.raises(ProtocolError, match="came as"):
            messages.read(reply_message(pb, [("Y", "INT64", (), bytes(8))]))

    @pytest.mark.parametrize("datatype", TYPED)
    def test_typed_contents(self, pb: Any, datatype: str) -> None:
        field, values = TYPED[datatype]
        spec = TensorSpec("OUT", datatype, (len(values),))
        messages = GrpcMessages(ModelInterface("m", "", "", ONE.inputs, (spec,), 0))
        messages.wanted = True
        for _ in range(2):
            tensor = pb.Tensor(name="OUT", datatype=datatype, shape=[len(values)])
            getattr(tensor.contents, field).extend(values)
            other = pb.Tensor(name="debug", datatype="FP16", shape=[1])  # not the model's: nobody reads it
            other.contents.fp32_contents.append(1)
            reply = pb.ModelInferResponse(outputs=[other, tensor])
            (found,) = messages.read(framed(reply.SerializeToString())) or ()
            assert found.tolist() == values
            values = values[::-1]

    def test_contents_that_are_missing_or_double_are_refused(self, pb: Any) -> None:
        messages = GrpcMessages(ONE)
        tensor = pb.Tensor(name="OUT", datatype="FP32", shape=[1, 2])
        with pytest.raises(ProtocolError, match="1 outputs with the contents of 0"):
            messages.read(framed(pb.ModelInferResponse(outputs=[tensor]).SerializeToString()))
        tensor.contents.fp32_contents.append(1)
        with pytest.raises(ProtocolError, match=r"output OUT: 1 elements where a tensor of shape \[1, 2\] has 2"):
            messages.read(framed(pb.ModelInferResponse(outputs=[tensor]).SerializeToString()))
        tensor.contents.fp32_contents.append(2)
        with pytest.raises(ProtocolError, match="both typed and raw"):
            messages.read(
                framed(pb.ModelInferResponse(outputs=[tensor], raw_output_contents=[bytes(8)]).SerializeToString())
            )

    def test_outputs_in_shared_memory_have_no_contents_or_empty_ones(self, pb: Any) -> None:
        messages = GrpcMessages(TWO)
        assert messages.read(reply_message(pb, [("X", "FP32", (1, 2), None), ("Y", "INT64", (1,), bytes(8))])) is None
        message = pb.ModelInferResponse.FromString(
            reply_message(pb, [("X", "FP32", (1, 2), None), ("Y", "INT64", (1,), bytes(8))])[5:]
        )
        message.raw_output_contents.insert(0, b"")
        assert messages.read(framed(message.SerializeToString())) is None

    def test_a_changed_byte_is_noticed(self, pb: Any) -> None:
        """But in the contents, and where the meaning stays the same; whether or not the layout is known."""
        outputs = [("X", "FP32", (1, 3), b"\xaa" * 12), ("Y", "INT64", (1,), b"\xbb" * 8)]
        message = reply_message(pb, outputs, id="i")

        def read(reader: GrpcMessages, message: bytes) -> Any:
            reader.wanted = True
            try:
                return reader.read(message)
            except ProtocolError:
                return None

        right = read(GrpcMessages(TWO), message)
        silent = 0
        for place in range(5, len(message)):
            if message[place] in b"\xaa\xbb":
                continue
            for change in range(1, 256):
                changed = bytearray(message)
                changed[place] ^= change
                knowing = GrpcMessages(TWO)
                assert same(read(knowing, message), right)
                found, found_by_layout = read(GrpcMessages(TWO), bytes(changed)), read(knowing, bytes(changed))
                assert (found is None) == (found_by_layout is None), (place, change)
                if found is not None:
                    assert same(found, right), (place, change)
                    assert same(found_by_layout, right), (place, change)
                    silent += 1
        assert 255 * len("m1i") <= silent < 255 * 20  # names of no interest, unknown fields

    @given(st.binary(max_size=80))
    def test_any_bytes_are_read_or_refused(self, raw: bytes) -> None:
        messages = GrpcMessages(ONE)
        messages.wanted = True
        with contextlib.suppress(ProtocolError):
            messages.read(raw)


F_DATA, F_HEADERS, F_RESET, F_SETTINGS, F_GOAWAY, F_WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS = 1, 4


def block(*fields: tuple[str, str]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields))


HEAD = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"), ("grpc-message", ""))


def headers(stream: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    return frame(F_HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(*fields))


def data(stream: int, body: bytes, *, end: bool = False) -> bytes:
    return frame(F_DATA, END_STREAM if end else 0, stream, body)


def answer(stream: int, message: bytes) -> bytes:
    """A whole reply as servers send it."""
    return headers(stream, *HEAD) + data(stream, message) + headers(stream, *TRAILERS, end=True)


def granted(made: Calls) -> list[tuple[int, int]]:
    """The streams that may send more, and how many bytes."""
    return [
        (stream, int.from_bytes(payload, "big"))
        for kind, _, stream, payload in frames(said(made))
        if kind == F_WINDOW_UPDATE and stream
    ]


def settings_frame(*pairs: tuple[int, int]) -> bytes:
    return frame(F_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


GREETING = settings_frame() + frame(F_SETTINGS, 1, 0)
MESSAGE = framed(b"twelve bytes")


def calls(count: int = 0, **how: Any) -> Calls:
    """Calls on a connection that is settled, ``count`` of them begun: ticket 10 on stream 1, 11 on 3, ..."""
    made = Calls("host:1", **how)
    made.receive(GREETING)
    for at in range(count):
        made.call(10 + at, made.headers("ModelInfer"), MESSAGE)
    made.out.clear()
    return made


def failure(found: CallResult) -> Failure:
    assert found.message is None
    assert found.failure is not None
    assert "\n" not in found.failure.reason
    return found.failure


class TestCalls:
    def test_none_is_begun_before_the_server_has_told_its_settings(self) -> None:
        made = Calls("host:1")
        assert made.free == 0
        made.receive(settings_frame((3, 5)))
        assert made.free == 5

    def test_the_headers_of_a_call(self) -> None:
        made = calls(tls=True, metadata=[("Authorization", "Bearer x")])
        made.call(7, made.headers("ModelInfer"), MESSAGE)
        raw = b"".join(made.out)
        length = int.from_bytes(raw[:3], "big")
        assert hpack.Decoder().decode(raw[9 : 9 + length]) == [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/inference.GRPCInferenceService/ModelInfer"),
            (":authority", "host:1"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity"),
            ("authorization", "Bearer x"),
        ]
        assert raw[9 + length :] == frame(F_DATA, END_STREAM, 1, MESSAGE)

    def test_different_methods_of_one_length_one_after_the_other(self) -> None:
        made, peer = calls(), hpack.Decoder()
        for at in range(60):
            method = f"Method{at % 3}"
            made.call(at, made.headers(method), MESSAGE)
            raw = b"".join(made.out)
            made.out.clear()
            fields = dict(peer.decode(raw[9 : 9 + int.from_bytes(raw[:3], "big")]))
            assert fields[":path"].endswith(method)

    def test_answers_come_with_their_tickets(self) -> None:
        made = calls(3)
        found = made.receive(answer(5, MESSAGE) + answer(1, framed(b"")))
        assert found == [CallResult(12, MESSAGE, None, 0), CallResult(10, framed(b""), None, 0)]
        assert made.under_way == 1
        assert made.oldest == 11

    @pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
    def test_a_message_in_many_frames(self, step: int) -> None:
        made = calls(2)
        message = framed(bytes(range(256)) * 20)
        pieces = b"".join(
            data(1, message[at : at + step]) + data(3, MESSAGE[at : at + step] if at < len(MESSAGE) else b"")
            for at in range(0, len(message), step)
        )
        last = headers(3, *TRAILERS, end=True) + headers(1, *TRAILERS, end=True)
        found = made.receive(headers(1, *HEAD) + headers(3, *HEAD) + pieces + last)
        assert [(one.ticket, bytes(one.message or b"")) for one in found] == [(11, MESSAGE), (10, message)]

    @pytest.mark.parametrize("first", [1, 2, 3, 4, 5, 6])
    def test_the_prefix_may_be_cut_before_a_large_frame(self, first: int) -> None:
        message = framed(bytes(range(256)) * 20)
        cuts = data(1, message[:first]) + data(1, message[first:3000]) + data(1, message[3000:])
        (one,) = calls(1).receive(headers(1, *HEAD) + cuts + headers(1, *TRAILERS, end=True))
        assert bytes(one.message or b"") == message

    def test_many_large_messages_come_in_turn_and_hold_little(self) -> None:
        """A server with 64 replies of 20 MB goes round: what each may send, 64 KB at a time."""
        made = calls(64)
        message, piece = framed(bytes(20 << 20)), 64 << 10
        windows, at = dict.fromkeys(range(1, 128, 2), 256 << 10), dict.fromkeys(range(1, 128, 2), 0)
        done, most = [], 0
        made.receive(b"".join(headers(stream, *HEAD) for stream in at))
        while at:
            came = b""
            for stream in list(at):
                size = min(piece, windows[stream], len(message) - at[stream])
                if size:
                    came += data(stream, message[at[stream] : at[stream] + size])
                at[stream] += size
                windows[stream] -= size
                if at[stream] == len(message):
                    del at[stream]
                    came += headers(stream, *TRAILERS, end=True)
            assert came, "nobody may send"
            done += [result for result in made.receive(came) if result.failure is None]
            most = max(most, made.buffered)
            for stream, size in granted(made):
                windows[stream] += size
        assert sorted(result.ticket for result in done) == list(range(10, 74))
        assert all(len(result.message or b"") == len(message) for result in done)
        assert most < 64 << 20

    def test_a_call_given_up_leaves_its_turn_to_the_next(self) -> None:
        made = calls(2)
        start = framed(bytes(30 << 20))[: 64 << 10]
        made.receive(b"".join(headers(stream, *HEAD) + data(stream, start) for stream in (1, 3)))
        rest = (30 << 20) + 5 - (256 << 10)
        assert granted(made) == [(1, rest)]
        made.cancel(10)
        assert granted(made) == [(3, rest)]

    def test_more_than_a_stream_may_send_breaks_the_protocol(self) -> None:
        made = calls(1)
        start = framed(bytes(40 << 20))[: 200 << 10]
        made.receive(headers(1, *HEAD))
        made.receive(data(1, start))  # all of it may come
        made.receive(data(1, start))
        made = calls(1)
        made.receive(headers(1, *HEAD) + data(1, MESSAGE[:-1] + bytes(1)))
        with pytest.raises(ProtocolError, match="more bytes than the window of stream 1"):
            made.receive(data(1, bytes(256 << 10)))

    def test_what_comes_after_a_message_or_a_failure_is_not_kept(self) -> None:
        for begin in (headers(1, *HEAD) + data(1, MESSAGE), headers(1, (":status", "500"))):
            made = calls(1)
            made.receive(begin)
            for _ in range(100):
                made.receive(data(1, bytes(100_000)))
            assert made.buffered == 0
            assert sum(size for _, size in granted(made)) >= 10_000_000
            (result,) = made.receive(headers(1, *TRAILERS, end=True))
            assert failure(result).reason.startswith(("a reply without a whole message", "HTTP status 500"))

    def test_a_message_in_ten_thousand_tiny_pieces_is_refused(self) -> None:
        made = calls(1)
        message = framed(bytes(600_000))
        made.receive(headers(1, *HEAD) + b"".join(data(1, message[at : at + 60]) for at in range(0, 600_000, 60)))
        with pytest.raises(ProtocolError, match="a reply in 10001 pieces of less than 64 bytes on average"):
            made.receive(data(1, b"?"))

    @pytest.mark.parametrize(
        ("reply", "text", "status"),
        [
            (headers(1, *HEAD) + data(1, MESSAGE, end=True), "a reply without trailers", None),
            (headers(1, *HEAD) + data(1, MESSAGE) + headers(1, ("x", "y"), end=True), "without grpc-status", None),
            (headers(1, *HEAD, end=True), "without grpc-status", None),
            (headers(1, *HEAD) + headers(1, *TRAILERS, end=True), "without a whole message", 0),
            (headers(1, *HEAD, *TRAILERS, end=True), "without a whole message", 0),
            (headers(1, *HEAD) + data(1, MESSAGE[:-1]) + headers(1, *TRAILERS, end=True), "without a whole", 0),
            (headers(1, *HEAD) + data(1, MESSAGE[:4]) + headers(1, *TRAILERS, end=True), "without a whole", 0),
            (headers(1, *HEAD) + data(1, MESSAGE) * 2 + headers(1, *TRAILERS, end=True), "without a whole", 0),
            (headers(1, *HEAD) + data(1, MESSAGE * 2) + headers(1, *TRAILERS, end=True), "without a whole", 0),
            (headers(1, *HEAD) + data(1, b"\1" + MESSAGE[1:]) + headers(1, *TRAILERS, end=True), "compressed", 0),
            (headers(1, *HEAD) + data(1, b"\7" + MESSAGE[1:]) + headers(1, *TRAILERS, end=True), "without a whole", 0),
            (
                headers(1, *HEAD, ("grpc-encoding", "gzip")) + data(1, MESSAGE) + headers(1, *TRAILERS, end=True),
                "a reply in gzip although",
                0,
            ),
            (
                headers(1, *HEAD, ("grpc-status", "5"), ("grpc-message", "no%20model%0A%C3%A4%25%zz%ff"), end=True),
                "NOT_FOUND: no model ä%%zz\ufffd",
                5,
            ),
            (headers(1, *HEAD) + data(1, MESSAGE) + headers(1, ("grpc-status", "13"), end=True), "INTERNAL: ", 13),
            (headers(1, *HEAD, ("grpc-status", "77"), end=True), "status 77: ", 77),
            (headers(1, *HEAD, ("grpc-status", "x"), end=True), "grpc-status is not a number", None),
            (headers(1, *HEAD, ("grpc-status", "9" * 5000), end=True), "grpc-status is not a number", None),
            (headers(1, *HEAD, ("grpc-status", "²"), end=True), "grpc-status is not a number", None),
            (headers(1, (":status", "503"), end=True), "HTTP status 503", None),
            (
                headers(1, (":status", "404"), ("content-type", "text/html")) + data(1, b"<html>", end=True),
                "HTTP status 404",
                None,
            ),
            (
                headers(1, (":status", "503")) + headers(1, ("grpc-status", "14"), ("grpc-message", "down"), end=True),
                "UNAVAILABLE: down",
                14,
            ),
            (
                headers(1, (":status", "200"), ("content-type", "text/html")) + data(1, MESSAGE, end=True),
                "of type 'text/html': is this a gRPC port",
                None,
            ),
            (
                headers(1, (":status", "200"), ("content-type", "text/html"))
                + data(1, MESSAGE)
                + headers(1, *TRAILERS, end=True),
                "of type 'text/html': is this a gRPC port",
                0,
            ),
            (frame(F_RESET, 0, 1, (2).to_bytes(4, "big")), "reset the call: INTERNAL_ERROR", None),
        ],
    )
    @pytest.mark.parametrize("is_whole", [True, False])
    def test_what_is_no_good_reply(self, reply: bytes, text: str, status: int | None, is_whole: bool) -> None:
        made = calls(2)
        found = []
        for piece in [reply] if is_whole else [reply[at : at + 1] for at in range(len(reply))]:
            found += made.receive(piece)
        (one,) = found
        assert one.ticket == 10
        assert text in failure(one).reason
        assert not failure(one).unseen
        assert one.status == status
        assert made.receive(answer(3, MESSAGE)) == [CallResult(11, MESSAGE, None, 0)]
        assert made.under_way == 0

    def test_headers_before_the_headers(self) -> None:
        made = calls(1)
        reply = headers(1, (":status", "103"), ("link", "x")) + answer(1, MESSAGE)
        assert made.receive(reply) == [CallResult(10, MESSAGE, None, 0)]

    def test_a_refused_stream_was_not_seen(self) -> None:
        made = calls(2)
        (one,) = made.receive(frame(F_RESET, 0, 1, (7).to_bytes(4, "big")))
        assert one.ticket == 10
        assert failure(one).unseen
        assert not made.draining

    def test_going_away_in_two_steps(self) -> None:
        made = calls(4)
        assert made.receive(frame(F_GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0))) == []
        assert made.draining
        assert made.free == 0
        found = made.receive(frame(F_GOAWAY, 0, 0, struct.pack(">II", 3, 0) + b"bye"))
        assert [one.ticket for one in found] == [12, 13]
        assert all(failure(one) == Failure("the server closes the connection: NO_ERROR bye", True) for one in found)
        assert [one.ticket for one in made.receive(answer(3, MESSAGE) + answer(5, MESSAGE) + answer(1, MESSAGE))] == [
            11,
            10,
        ]
        assert made.under_way == 0

    def test_fewer_streams_than_are_open(self) -> None:
        made = calls(3)
        made.receive(settings_frame((3, 2)))
        assert made.free == 0
        made.receive(answer(1, MESSAGE) + answer(3, MESSAGE))
        assert made.free == 1
        made.receive(settings_frame((3, 0)))
        assert made.free == 0
        assert calls(2, limit=5).free == 3

    def test_when_streams_run_out_it_drains(self) -> None:
        made = calls()
        made._connection.next_stream = LARGEST_STREAM - 2
        assert made.free == 2
        for ticket in (1, 2):
            made.call(ticket, made.headers("ModelInfer"), MESSAGE)
        assert made.free == 0
        assert made.draining
        found = made.receive(answer(LARGEST_STREAM, MESSAGE) + answer(LARGEST_STREAM - 2, MESSAGE))
        assert [one.ticket for one in found] == [2, 1]

    def test_what_comes_for_a_call_given_up_is_passed_over(self) -> None:
        made = calls(2)
        made.receive(headers(1, *HEAD) + data(1, MESSAGE[:5]))
        assert made.cancel(10)
        assert b"".join(made.out) == frame(F_RESET, 0, 1, (8).to_bytes(4, "big"))
        assert made.under_way == 1
        rest = data(1, MESSAGE[5:]) + headers(1, *TRAILERS, end=True) + frame(F_RESET, 0, 1, bytes(4))
        assert made.receive(rest + answer(3, MESSAGE)) == [CallResult(11, MESSAGE, None, 0)]
        assert made.cancel(99)

    @pytest.mark.parametrize("stream", [2, 5, 4, 2**31 - 1])
    @pytest.mark.parametrize("make", [answer, lambda stream, _: frame(F_RESET, 0, stream, bytes(4))])
    def test_streams_that_were_never_opened_are_refused(self, stream: int, make: Any) -> None:
        with pytest.raises(ProtocolError, match="never opened"):
            calls(2).receive(make(stream, MESSAGE))

    def test_messages_up_to_the_limit(self) -> None:
        made = calls(1, max_message_bytes=1000)
        message = framed(bytes(1000))
        assert made.receive(answer(1, message)) == [CallResult(10, message, None, 0)]
        made = calls(1, max_message_bytes=1000)
        pieces = data(1, message[:3]) + data(1, message[3:500]) + data(1, message[500:])
        (one,) = made.receive(headers(1, *HEAD) + pieces + headers(1, *TRAILERS, end=True))
        assert one.message == message

    @pytest.mark.parametrize("cut", [3, 5, 6, 1006])
    def test_messages_over_the_limit_are_refused_as_soon_as_they_are_told(self, cut: int) -> None:
        made = calls(1, max_message_bytes=1000)
        message = framed(bytes(1001))
        with pytest.raises(ProtocolError, match="at most 1000 are accepted: raise --max-message-size"):
            made.receive(headers(1, *HEAD) + data(1, message[:cut]) + data(1, message[cut:]))

    def test_a_lost_connection_ends_all_calls(self) -> None:
        made = calls(2)
        made.receive(headers(1, *HEAD) + data(1, MESSAGE))
        assert made.eof() == []
        assert made.draining
        assert made.lost("gone") == [
            CallResult(10, None, Failure("gone"), None),
            CallResult(11, None, Failure("gone"), None),
        ]
        assert made.under_way == 0
        assert made.lost("gone") == []

    def test_first_bytes(self) -> None:
        assert b"".join(Calls("host:1").out).startswith(PREFACE)


RIGHT = [np.array([[1, 2]], np.float32)]


def channel(count: int = 0, *, wanted: bool = True, **how: Any) -> GrpcChannel:
    messages = GrpcMessages(ONE)
    messages.wanted = wanted
    made = GrpcChannel(messages, "host:1", **how)
    made.receive(GREETING)
    for at in range(count):
        made.send(10 + at, messages.request([Part((1, 3), bytes(12))]))
    made.out.clear()
    return made


class TestChannel:
    @pytest.fixture
    def good(self, pb: Any) -> bytes:
        return reply_message(pb, [("OUT", "FP32", (1, 2), RIGHT[0].tobytes())])

    @pytest.mark.parametrize("wanted", [False, True])
    def test_replies(self, good: bytes, wanted: bool) -> None:
        made = channel(6, wanted=wanted)
        for stream in (1, 3, 5):
            ((ticket, reply),) = made.receive(answer(stream, good))
            assert ticket == 10 + stream // 2
            assert reply is None if not wanted else same(reply, RIGHT)
        found = made.receive(answer(11, good) + answer(7, good))
        assert [ticket for ticket, _ in found] == [15, 13]
        assert made.under_way == 1
        assert made.oldest == 14

    def test_a_wrong_reply_fails_alone(self, good: bytes, pb: Any) -> None:
        made = channel(3)
        wrong = reply_message(pb, [("OUT", "FP32", (2, 1), RIGHT[0].tobytes())])
        found = made.receive(answer(1, wrong) + answer(3, good) + answer(5, wrong))
        assert [type(reply) for _, reply in found] == [Failure, list, Failure]

    def test_parts_of_replies_are_counted_and_the_latest_given_up(self, good: bytes) -> None:
        made = channel(5)
        for stream in (1, 5, 7, 9):
            made.receive(headers(stream, *HEAD) + data(stream, good[:3000]))
        sizes = {stream: len(good) for stream in (1, 5, 7, 9)}
        made.receive(data(7, b"") + headers(3, *HEAD) + answer(3, good)[:-1])
        rest = made._connection.buffered
        assert made.buffered == sum(sizes.values()) + len(good) + rest
        assert made.shed(made.buffered) == []
        given_up = made.shed(2 * len(good) + rest)
        assert [ticket for ticket, _ in given_up] == [14, 13, 12]
        assert all("use fewer --concurrency" in reply.reason for _, reply in given_up)
        assert made.buffered == 2 * len(good) + rest
        assert b"".join(made.out).count(b"\x00\x00\x04\x03") == 3
        assert [ticket for ticket, _ in made.shed(0)] == [11]
        assert made.under_way == 1  # the oldest may be of any size
        ((ticket, reply),) = made.receive(answer(3, good)[-1:] + headers(1, *TRAILERS, end=True))
        assert (ticket, same(reply, RIGHT)) == (10, True)

    def test_the_outputs_are_wanted_from_one_reply_to_the_next(self, good: bytes) -> None:
        made = channel(8, wanted=False)
        for stream in (1, 3, 5):
            assert made.receive(answer(stream, good)) == [(10 + stream // 2, None)]
        made._reader.wanted = True
        ((_, reply),) = made.receive(answer(7, good))
        assert same(reply, RIGHT)

    @pytest.mark.parametrize(("deadline_s", "told"), [(None, None), (1.5, "1500m"), (0.0001, "1m"), (1e9, "99999999m")])
    def test_the_deadline(self, deadline_s: float | None, told: str | None) -> None:
        made = channel(deadline_s=deadline_s)
        made.send(1, MESSAGE)
        raw = b"".join(made.out)
        fields = dict(hpack.Decoder().decode(raw[9 : 9 + int.from_bytes(raw[:3], "big")]))
        assert fields.get("grpc-timeout") == told

    def test_known_replies_on_streams_given_up_or_never_opened(self, good: bytes) -> None:
        made = channel(4)
        for stream in (1, 3):
            made.receive(answer(stream, good))
        made.cancel(12)
        assert made.receive(answer(5, good)) == []
        for stream in (9, 2):
            with pytest.raises(ProtocolError, match="never opened"):
                made.receive(answer(stream, good))

    @pytest.mark.parametrize("cut", [False, True])
    @pytest.mark.parametrize(
        ("begin", "why"),
        [
            (lambda good: headers(5, *HEAD) + data(5, good), "a reply without a whole message"),
            (lambda good: headers(5, *HEAD) + data(5, good[:9]), "a reply without a whole message"),
            (lambda good: headers(5, (":status", "503")), "HTTP status 503"),
        ],
    )
    def test_a_known_reply_after_another_on_its_stream_fails_the_call(
        self, good: bytes, begin: Callable[[bytes], bytes], why: str, cut: bool
    ) -> None:
        """However the bytes come."""
        made = channel(3)
        for stream in (1, 3):
            made.receive(answer(stream, good))
        replies = [] if cut else made.receive(begin(good) + answer(5, good))
        if cut:
            assert made.receive(begin(good)) == []
            replies = made.receive(answer(5, good))
        ((ticket, reply),) = replies
        assert ticket == 12
        assert isinstance(reply, Failure)
        assert reply.reason.startswith(why)
        assert (made.under_way, made.buffered) == (0, 0)

    def test_a_reply_before_a_frame_that_breaks_the_protocol_is_lost_but_not_forgotten(self, good: bytes) -> None:
        made = channel(4)
        with pytest.raises(ProtocolError, match="never opened"):
            made.receive(answer(3, good) + answer(1, good) + answer(99, good))
        assert sorted(made.lost("gone")) == [(ticket, Failure("gone")) for ticket in (10, 11, 12, 13)]
        plain = calls(2)
        with pytest.raises(ProtocolError, match="never opened"):
            plain.receive(answer(3, MESSAGE) + answer(99, MESSAGE))
        assert sorted(one.ticket for one in plain.lost("gone")) == [10, 11]

    def test_eof_and_loss(self) -> None:
        made = channel(2)
        assert made.eof() == []
        assert made.free == 0
        assert made.lost("gone") == [(10, Failure("gone")), (11, Failure("gone"))]

    @given(
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=2),
        st.lists(st.integers(0, 10**6), max_size=4),
        st.booleans(),
    )
    @settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_reply_that_was_changed_on_the_way_is_right_or_noticed(
        self, good: bytes, changes: list[tuple[int, int]], places: list[int], is_known: bool
    ) -> None:
        made = channel(4)
        if is_known:
            for stream in (1, 3):
                made.receive(answer(stream, good))
        reply = bytearray(answer(5, good) + answer(7, good))
        contents = [at for at in range(len(reply)) if reply[at : at + 8] == RIGHT[0].tobytes()]
        assert len(contents) == 2
        for place, change in changes:
            place %= len(reply)
            if not any(first <= place < first + 8 for first in contents):
                reply[place] ^= change
        ends = sorted({place % len(reply) for place in places} | {len(reply)})
        tickets: list[int] = []
        for first, last in zip([0, *ends], ends, strict=False):
            try:
                found = made.receive(bytes(reply[first:last]))
            except ProtocolError:
                tickets += [ticket for ticket, _ in made.lost("gone")]
                assert sorted(tickets) == ([12, 13] if is_known else [10, 11, 12, 13])
                break
            for ticket, got in found:
                tickets.append(ticket)
                assert isinstance(got, Failure) or same(got, RIGHT)
        assert len(tickets) == len(set(tickets))
        assert made.under_way == (2 if is_known else 4) - len(tickets)


class TestKnownReplies:
    def test_forms_that_alternate_are_all_found_whole(self, pb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replies of two lengths in turns: after each was read once, neither is read frame by frame again."""
        interface = ModelInterface("m", "", "", (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),), 0)
        made = GrpcChannel(GrpcMessages(interface), "host:1")
        made.receive(GREETING)
        sizes = [2, 3, 2, 3, 3, 2]
        for ticket in range(len(sizes)):
            made.send(ticket, b"\0\0\0\0\0")
        replies = [
            answer(2 * ticket + 1, reply_message(pb, [("y", "FP32", (size,), bytes(4 * size))]))
            for ticket, size in enumerate(sizes)
        ]
        assert made.receive(replies[0]) + made.receive(replies[1]) == [(0, None), (1, None)]
        monkeypatch.setattr(made, "_take", lambda *_: pytest.fail("read frame by frame"))
        assert made.receive(b"".join(replies[2:])) == [(ticket, None) for ticket in range(2, 6)]


@pytest.mark.parametrize(("first", "second", "fails"), [(1, 1, False), (2, 2, True), (0, 0, True), (1, 2, True)])
def test_outputs_for_more_samples_than_were_sent_are_refused(pb: Any, first: int, second: int, fails: bool) -> None:
    outputs = (TensorSpec("y", "FP32", (2,)), TensorSpec("z", "FP32", (1,)))
    messages = GrpcMessages(ModelInterface("m", "", "", (TensorSpec("x", "FP32", (2,)),), outputs, 8), batch_size=1)
    raw = reply_message(
        pb, [("y", "FP32", (first, 2), bytes(8 * first)), ("z", "FP32", (second, 1), bytes(4 * second))]
    )
    if not fails:
        assert messages.read(raw) is None
        return
    with pytest.raises(ProtocolError, match=r"samples to a request of at most 1|for 1 and 2 samples"):
        messages.read(raw)


def test_contents_of_a_wrong_size_are_refused_every_time(pb: Any) -> None:
    messages = GrpcMessages(
        ModelInterface("m", "", "", (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),), 0)
    )
    wrong = reply_message(pb, [("y", "FP32", (2,), bytes(7))])
    for _ in range(2):
        with pytest.raises(ProtocolError, match="7 bytes; "):
            messages.read(wrong)


def test_a_first_reply_that_says_nothing_of_the_table_is_read() -> None:
    """Triton's, where a deadline has passed: headers and trailers in one block, all of it literal."""
    made = calls(1)
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([(":status", "200")])  # tells of the size, and is not sent
    raw = encoder.encode([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "4")])
    (found,) = made.receive(frame(1, 0x5, 1, raw))
    assert failure(found).reason.startswith("DEADLINE_EXCEEDED")
