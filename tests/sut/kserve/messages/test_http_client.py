"""Requests and replies over HTTP, and one connection that carries them, from byte strings."""

import json
import math
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.messages.exchange import NOT_SENT, Failure, Part, Region
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpExchange, HttpMessages, model_path
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    ModelInterface,
    TensorError,
    TensorSpec,
    from_json_values,
    pack_bytes,
)

ONE = ModelInterface("m", "", "onnx", (TensorSpec("IN", "FP32", (3,)),), (TensorSpec("OUT", "FP32", (2,)),), 8)
TWO = ModelInterface(
    "größer",
    "12",
    "onnx",
    (TensorSpec("A", "INT8", (-1, 2)), TensorSpec("B", "BYTES", ())),
    (TensorSpec("X", "FP32", (-1,)), TensorSpec("Y", "INT64", ())),
    8,
)


def test_paths() -> None:
    assert model_path("m", "") == "/v2/models/m"
    assert model_path("größer/a b", "1") == "/v2/models/gr%C3%B6%C3%9Fer%2Fa%20b/versions/1"


class TestRequests:
    def test_one_input(self) -> None:
        messages = HttpMessages(ONE)
        data = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
        for _ in range(2):
            size, body = messages.request([Part((2, 3), data)])
            assert json.loads(body[:size]) == {
                "inputs": [{"name": "IN", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}],
                "outputs": [{"name": "OUT", "parameters": {"binary_data": True}}],
            }
            assert body[size:] == data

    @given(
        st.lists(
            st.tuples(st.integers(0, 8), st.lists(st.binary(max_size=30), max_size=4), st.booleans()),
            min_size=1,
            max_size=4,
        )
    )
    def test_inputs_of_any_size_or_in_regions(self, requests: list[tuple[int, list[bytes], bool]]) -> None:
        messages = HttpMessages(TWO, identified=True)
        for batch, elements, in_region in requests:
            numbers, strings = bytes(batch * 2), pack_bytes(elements)
            region, outputs = Region("r/1", 0, batch * 2), [Region("o", 64, 8), Region("o", 1 << 40, 2)]
            parts = [Part((batch, 1, 2), region if in_region else memoryview(numbers)), Part((len(elements),), strings)]
            size, body = messages.request(parts, outputs if in_region else ())
            said = json.loads(body[:size])
            assert said["id"] == "0"
            assert [one["shape"] for one in said["inputs"]] == [[batch, 1, 2], [len(elements)]]
            assert said["inputs"][0]["parameters"] == (
                {"shared_memory_region": "r/1", "shared_memory_offset": 0, "shared_memory_byte_size": batch * 2}
                if in_region
                else {"binary_data_size": len(numbers)}
            )
            assert said["inputs"][1]["parameters"] == {"binary_data_size": len(strings)}
            assert body[size:] == (strings if in_region else numbers + strings)
            if in_region:
                assert [one["parameters"]["shared_memory_offset"] for one in said["outputs"]] == [64, 1 << 40]


class TestValues:
    """Requests to servers without the binary extension."""

    def test_tensors_are_lists(self) -> None:
        messages = HttpMessages(TWO, values=True, identified=True)
        samples = [(struct.pack("2b", at, -at), pack_bytes([b"\xc3\xa4", b""])) for at in (1, 2)]
        numbers, texts = (
            messages.joint.join(bytes(messages.encoded(spec.datatype, (2,), sample[place])) for sample in samples)
            for place, spec in enumerate(TWO.inputs)
        )
        size, body = messages.request([Part((2, 1, 2), numbers), Part((2, 2), texts)])
        assert size is None
        assert json.loads(body) == {
            "id": "0",
            "inputs": [
                {"name": "A", "shape": [2, 1, 2], "datatype": "INT8", "data": [1, -1, 2, -2]},
                {"name": "B", "shape": [2, 2], "datatype": "BYTES", "data": ["ä", "", "ä", ""]},
            ],
            "outputs": [{"name": "X"}, {"name": "Y"}],
        }

    @pytest.mark.parametrize("datatype", [*sorted(DATATYPES.keys() - {"BF16"})])
    def test_each_datatype_comes_back(self, datatype: str) -> None:
        """As a server reads it, with the numbers that JSON has no words for."""
        dtype = DATATYPES[datatype]
        limits = [math.nan, math.inf, -math.inf, 0.1] if dtype.kind == "f" else [0, 1]
        if dtype.kind in "iu":
            limits = [np.iinfo(dtype).min, np.iinfo(dtype).max]
        right = np.array(limits, dtype)
        spec = TensorSpec("IN", datatype, (len(right),))
        messages = HttpMessages(ModelInterface("m", "", "", (spec,), ONE.outputs, 0), values=True)
        text = messages.encoded(datatype, right.shape, right.tobytes())
        (sent,) = json.loads(messages.request([Part(right.shape, text)]).body, parse_constant=pytest.fail)["inputs"]
        assert from_json_values(sent["data"], datatype) == right.tobytes()

    @pytest.mark.parametrize(("datatype", "data"), [("BF16", bytes(2)), ("BYTES", pack_bytes([b"\xff"]))])
    def test_what_json_cannot_hold(self, datatype: str, data: bytes) -> None:
        with pytest.raises(TensorError, match="cannot be sent in JSON"):
            HttpMessages(ONE, values=True).encoded(datatype, (1,), data)

    def test_the_head_is_that_of_json(self) -> None:
        messages = HttpMessages(ONE, values=True)
        made = HttpChannel(messages, "/x", "h:1")
        made.send(1, messages.request([Part((1, 3), b"1,2,3")]))
        head = b"".join(made.out).partition(b"\r\n\r\n")[0]
        assert b"\r\nContent-Type: application/json" in head
        assert b"Inference-Header" not in head


@pytest.mark.parametrize("values", [False, True])
def test_an_input_that_is_left_out_is_not_in_the_request(values: bool) -> None:
    messages = HttpMessages(TWO, values=values)
    size, body = messages.request([NOT_SENT, Part((1,), b'"x"' if values else pack_bytes([b"x"]))])
    assert [one["name"] for one in json.loads(body[:size])["inputs"]] == ["B"]


def reply_body(outputs: Sequence[tuple[Any, Any, Any, bytes | list[Any] | None]]) -> tuple[bytes, int]:
    """A reply's body and the size of its JSON.  Contents as bytes are binary, as a list JSON, None a region."""
    described: list[dict[str, Any]] = []
    for name, datatype, shape, raw in outputs:
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if raw is None:
            one["parameters"] = {"shared_memory_region": "o", "shared_memory_offset": 0, "shared_memory_byte_size": 8}
        elif isinstance(raw, bytes):
            one["parameters"] = {"binary_data_size": len(raw)}
        else:
            one["data"] = raw
        described.append(one)
    text = json.dumps({"model_name": "m", "model_version": "1", "outputs": described}).encode()
    return text + b"".join(raw for *_, raw in outputs if isinstance(raw, bytes)), len(text)


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
        st.lists(st.integers(1, 30), max_size=2),
        st.integers(0, 99),
    )
    def test_a_known_layout_gives_what_parsing_gives(
        self, datatypes: list[str], batch: int, shape: list[int], seed: int
    ) -> None:
        draw = random.Random(seed)  # Hypothesis's own generator takes long for many bytes
        specs = tuple(TensorSpec(f"O{at}", datatype, tuple(shape)) for at, datatype in enumerate(datatypes))
        messages = HttpMessages(ModelInterface("m", "", "", ONE.inputs, specs, 8))
        messages.wanted = True
        for _ in range(3):
            contents = [draw.randbytes(batch * int(np.prod(shape)) * DATATYPES[one].itemsize) for one in datatypes]
            outputs = [
                (spec.name, spec.datatype, [batch, *shape], raw) for spec, raw in zip(specs, contents, strict=True)
            ]
            draw.shuffle(outputs)
            body, size = reply_body(outputs)
            right = [
                np.frombuffer(raw, DATATYPES[one]).reshape(batch, *shape)
                for raw, one in zip(contents, datatypes, strict=True)
            ]
            assert same(messages.read(body, size), right)
            assert same(messages.read(memoryview(body), size), right)

    def test_values_in_the_json(self) -> None:
        messages = HttpMessages(TWO)
        messages.wanted = True
        for values in ([1, 2.5], [[3], [4]]):
            body, size = reply_body([("Y", "INT64", [2], struct.pack("<2q", 5, 6)), ("X", "FP32", [2, 1], values)])
            found = messages.read(body, size)
            assert same(found, [np.array(values, np.float32).reshape(2, 1), np.array([5, 6])])
        body, size = reply_body([("X", "FP32", [1, 1], [1.5]), ("Y", "INT64", [1], [7])])
        assert same(messages.read(body, None), [np.array([[1.5]], np.float32), np.array([7])])

    def test_values_that_are_not_finite(self) -> None:
        """As Python and Triton write them, as protobuf's JSON does, and null, as which many writers lose them."""
        messages = HttpMessages(ModelInterface("m", "", "", ONE.inputs, (TensorSpec("OUT", "FP16", (7,)),), 0))
        messages.wanted = True
        values = '[NaN, Infinity, -Infinity, null, "NaN", "Infinity", "-Infinity"]'
        body = f'{{"outputs": [{{"name": "OUT", "datatype": "FP16", "shape": [7], "data": {values}}}]}}'.encode()
        (found,) = messages.read(body, None) or ()
        assert str(found.tolist()) == "[nan, inf, -inf, nan, nan, inf, -inf]"

    def test_an_output_that_is_not_the_models_is_not_read(self) -> None:
        messages = HttpMessages(ONE)
        messages.wanted = True
        body, size = reply_body([("OUT", "FP32", [1, 2], [1, 2]), ("debug", "BF16", [1], [{}])])
        assert same(messages.read(body, size), [np.float32([[1, 2]])])

    def test_bytes_of_any_length(self) -> None:
        messages = HttpMessages(ModelInterface("m", "", "", ONE.inputs, (TensorSpec("S", "BYTES", ()),), 8))
        messages.wanted = True
        for elements in ([b"abc", b""], [b"", b"abc"], [b"ab", b"c"]):
            found = messages.read(*reply_body([("S", "BYTES", [2], pack_bytes(elements))]))
            assert found is not None
            assert found[0].tolist() == elements
        found = messages.read(*reply_body([("S", "BYTES", [2], ["ä", ""])]))
        assert found is not None
        assert found[0].tolist() == ["ä".encode(), b""]

    def test_outputs_in_shared_memory(self) -> None:
        messages = HttpMessages(TWO)
        for _ in range(2):
            body, size = reply_body([("X", "FP32", [1, 2], None), ("Y", "INT64", [1], bytes(8))])
            assert messages.read(body, size) is None

    @pytest.mark.parametrize("is_known", [False, True])
    @pytest.mark.parametrize(
        ("outputs", "text"),
        [
            ([("OUT", "FP64", [1, 2], bytes(8))], "came as FP64"),
            ([("OUT", "FP32", [2, 1], bytes(8))], r"came as FP32\[2,1\]"),
            ([("OUT", "FP32", [2], bytes(8))], r"came as FP32\[2\]"),
            ([("OUT", "FP32", [-1, 2], bytes(8))], r"came as FP32\[-1,2\]"),
            ([("OUT", "FP32", [2, 2], bytes(8))], "8 bytes; "),
            ([("OUT", "FP32", [1, 2], bytes(9))], "9 bytes; "),
            ([("TUO", "FP32", [1, 2], bytes(8))], "lacks the output OUT"),
            ([], "lacks the output OUT"),
            ([("OUT", "FP32", [1, 2], [1, 2, 3])], "12 bytes; "),
            ([("OUT", "FP32", [1, 2], ["1", "2"])], "not a number"),
            ([("OUT", "FP32", [1, 2.0], bytes(8))], "cannot be read: TypeError"),
            ([("OUT", "FP32", [1, "2"], bytes(8))], "cannot be read: TypeError"),
            ([("OUT", "FP32", [1, float("inf")], bytes(8))], "cannot be read: TypeError"),
            ([("OUT", "FP32", None, bytes(8))], "cannot be read: TypeError"),
            ([({}, "FP32", [1, 2], bytes(8))], "lacks the output OUT"),
            ([("OUT", [], [1, 2], bytes(8))], "came as"),
        ],
    )
    def test_what_was_not_asked_for_is_refused(self, outputs: Any, text: str, is_known: bool) -> None:
        messages = HttpMessages(ONE)
        if is_known:
            messages.read(*reply_body([("OUT", "FP32", [1, 2], bytes(8))]))
        with pytest.raises(ProtocolError, match=text):
            messages.read(*reply_body(outputs))

    @pytest.mark.parametrize(
        ("text", "datatype"),
        [("[1.5, 2]", "INT32"), ("[300, 2]", "UINT8"), ("[1, 2]", "BF16"), ("[NaN, 1]", "INT64"), ("[1, 2]", "BYTES")],
    )
    def test_values_that_the_datatype_does_not_hold_are_refused(self, text: str, datatype: str) -> None:
        messages = HttpMessages(ModelInterface("m", "", "", ONE.inputs, (TensorSpec("OUT", datatype, ()),), 8))
        body = f'{{"outputs": [{{"name": "OUT", "datatype": "{datatype}", "shape": [2], "data": {text}}}]}}'.encode()
        with pytest.raises(ProtocolError, match=datatype):
            messages.read(body, None)

    @pytest.mark.parametrize(
        ("body", "size", "text"),
        [
            (b"", 0, "cannot be read"),
            (b"{}", 3, "2 bytes with 3 bytes of JSON"),
            (b"[]", 2, "has no outputs"),
            (b'{"outputs": 1}', 14, "has no outputs"),
            (b'{"outputs": [{"name": "OUT"}]}', 30, "an output of the reply lacks 'shape'"),
            (b'{"error": "model crashed\\nbadly"}', None, "^the server says model crashed badly$"),
            (b'{"outputs": ["x"]}', 18, "cannot be read"),
            (b"[" * 100_000, None, "cannot be read: RecursionError"),
            (b'{"outputs": ' + b"9" * 5000 + b"}", None, "cannot be read"),
            (b"\xff\xff", 2, "cannot be read"),
            (b'{"outputs":[]}x', 14, "1 bytes after the reply's last tensor"),
        ],
    )
    def test_what_is_no_reply_is_refused(self, body: bytes, size: int | None, text: str) -> None:
        with pytest.raises(ProtocolError, match=text) as caught:
            HttpMessages(ONE).read(body, size)
        assert len(str(caught.value)) < 600

    @pytest.mark.parametrize("length", [-1, 9, 1 << 70, 8.0, "8"])
    def test_contents_that_the_body_does_not_hold_are_refused(self, length: Any) -> None:
        text = json.dumps(
            {
                "outputs": [
                    {"name": "OUT", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": length}}
                ]
            }
        ).encode()
        with pytest.raises(ProtocolError, match=r"past the end|cannot be read"):
            HttpMessages(ONE).read(text + bytes(8), len(text))

    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_changed_byte_is_noticed(self, is_known: bool) -> None:
        """But in the contents, and where the meaning stays the same."""
        body, size = reply_body([("X", "FP32", [1, 3], b"\xaa" * 12), ("Y", "INT64", [1], b"\xbb" * 8)])
        messages = HttpMessages(TWO)
        messages.wanted = True
        right = messages.read(body, size)
        assert right is not None
        for place in range(size):
            for change in (1, 2, 4, 8, 16, 32, 64, 128, 3, 0x1B, 0xFF):
                changed = bytearray(body)
                changed[place] ^= change
                reader = messages if is_known else HttpMessages(TWO)
                reader.wanted = True
                try:
                    found = reader.read(bytes(changed), size)
                except ProtocolError:
                    continue
                assert same(found, right), (place, change)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["OUT", "FP32"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["outputs", "name", "datatype", "shape", "parameters", "binary_data_size", "data"]),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        ),
        st.binary(max_size=8),
    )
    def test_any_json_is_read_or_refused(self, said: Any, rest: bytes) -> None:
        text = json.dumps(said).encode()
        with pytest.raises(ProtocolError):
            HttpMessages(ONE).read(text + rest, len(text))
        described = json.dumps({"outputs": [said]}).encode()
        with pytest.raises(ProtocolError):
            HttpMessages(ONE).read(described + rest, len(described))


RIGHT = [np.array([[1, 2]], np.float32)]
GOOD, GOOD_SIZE = reply_body([("OUT", "FP32", [1, 2], RIGHT[0].tobytes())])


def response(
    body: bytes, size: int | None = None, status: str = "200 OK", more: Mapping[str, str] | None = None
) -> bytes:
    fields = {"Content-Length": str(len(body)), **(more or {})}
    if size is not None:
        fields["Inference-Header-Content-Length"] = str(size)
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def channel(*, wanted: bool = True, **how: Any) -> HttpChannel:
    messages = HttpMessages(ONE)
    messages.wanted = wanted
    return HttpChannel(messages, "/v2/models/m/infer", "host:1", **how)


def sent(made: HttpChannel, ticket: int = 1) -> bytes:
    made.send(ticket, made._read.__self__.request([Part((1, 3), bytes(12))]))  # type: ignore[attr-defined]
    data = b"".join(made.out)
    made.out.clear()
    return data


class TestChannel:
    def test_a_request_with_its_head(self) -> None:
        made = channel(headers=[("Authorization", "Bearer x")])
        for _ in range(2):
            head, body = sent(made).split(b"\r\n\r\n", 1)
            first, *fields = head.decode().split("\r\n")
            size = len(body) - 12
            assert first == "POST /v2/models/m/infer HTTP/1.1"
            assert dict(field.split(": ") for field in fields) == {
                "Host": "host:1",
                "Accept-Encoding": "identity",
                "Content-Length": str(len(body)),
                "Inference-Header-Content-Length": str(size),
                "Content-Type": "application/octet-stream",
                "Authorization": "Bearer x",
            }
            assert json.loads(body[:size])["inputs"][0]["name"] == "IN"
            made.receive(response(GOOD, GOOD_SIZE))

    @pytest.mark.parametrize("wanted", [False, True])
    def test_one_after_the_other(self, wanted: bool) -> None:
        made = channel(wanted=wanted)
        for ticket in range(4):
            assert made.free == 1
            assert made.oldest is None
            sent(made, ticket)
            assert made.free == 0
            assert made.under_way == 1
            assert made.oldest == ticket
            ((found, reply),) = made.receive(response(GOOD, GOOD_SIZE))
            assert found == ticket
            assert reply is None if not wanted else same(reply, RIGHT)
        assert not made.draining

    @given(st.lists(st.integers(0, 10**6), max_size=6), st.booleans())
    def test_in_any_pieces(self, places: list[int], is_known: bool) -> None:
        made = channel()
        if is_known:
            sent(made)
            made.receive(response(GOOD, GOOD_SIZE))
        sent(made, 5)
        data = response(GOOD, GOOD_SIZE)
        ends = sorted({place % len(data) for place in places} | {len(data)})
        found = [made.receive(data[first:last]) for first, last in zip([0, *ends], ends, strict=False)]
        assert not any(found[:-1])
        ((ticket, reply),) = found[-1]
        assert ticket == 5
        assert same(reply, RIGHT)

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (response(b'{"error":"no such\\nmodel"}', status="404 Not Found"), "HTTP 404: no such model"),
            (response(b'{"error":{"code":5}}', status="400 Bad Request"), "HTTP 400: {'code': 5}"),
            (response(b"<html>\n<b>\x1b[1m", status="503 Service Unavailable"), "HTTP 503: <html> <b> [1m"),
            (response(b"", status="502 Bad Gateway"), "HTTP 502: Bad Gateway"),
            (response(b'{"error":""}', status="500 Oops"), 'HTTP 500: {"error":""}'),
            (response(b"[" * 100_000, status="500 Oops"), "HTTP 500: [[["),
            (response(b"\xff", status="500 Oops"), "HTTP 500: \ufffd"),
            (response(b"{}", status="204 No Content")[:-2], "HTTP 204"),
            (response(b"{}", 2), "has no outputs"),
            (response(GOOD, len(GOOD) + 1), "bytes of JSON"),
            (response(GOOD), "cannot be read"),
        ],
    )
    def test_a_reply_that_is_not_good_fails_alone(self, data: bytes, text: str) -> None:
        made = channel()
        sent(made, 3)
        ((ticket, reply),) = made.receive(data)
        assert ticket == 3
        assert isinstance(reply, Failure)
        assert text in reply.reason
        assert "\n" not in reply.reason
        assert len(reply.reason) < 600
        sent(made, 4)
        ((ticket, reply),) = made.receive(response(GOOD, GOOD_SIZE))
        assert ticket == 4
        assert same(reply, RIGHT)

    def test_a_server_that_closes_after_its_reply(self) -> None:
        made = channel()
        sent(made, 3)
        ((ticket, reply),) = made.receive(response(GOOD, GOOD_SIZE, more={"Connection": "close"}))
        assert ticket == 3
        assert same(reply, RIGHT)
        assert made.draining
        assert made.free == 0
        assert made.lost("gone") == []

    def test_a_body_until_the_end(self) -> None:
        made = channel()
        sent(made, 3)
        head = f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {GOOD_SIZE}\r\n\r\n".encode()
        assert made.receive(head + GOOD) == []
        ((ticket, reply),) = made.eof()
        assert ticket == 3
        assert same(reply, RIGHT)
        assert made.lost("gone") == []

    def test_a_request_under_way_is_lost_with_its_connection(self) -> None:
        made = channel()
        assert made.lost("gone") == []
        made = channel()
        sent(made, 3)
        made.receive(response(GOOD, GOOD_SIZE)[:-1])
        with pytest.raises(ProtocolError, match="closed within"):
            made.eof()
        assert made.draining
        assert made.lost("gone") == [(3, Failure("gone"))]
        assert made.lost("gone") == []
        assert made.under_way == 0

    def test_what_nobody_asked_for_is_refused(self) -> None:
        made = channel()
        with pytest.raises(ProtocolError, match="belong to no request"):
            made.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert made.draining
        made = channel()
        sent(made, 3)
        with pytest.raises(ProtocolError, match="belong to no request"):
            made.receive(response(GOOD, GOOD_SIZE) * 2)
        assert made.lost("gone") == [(3, Failure("gone"))]

    def test_a_body_above_the_limit_is_refused(self) -> None:
        made = channel(max_message_bytes=len(GOOD) - 1)
        sent(made, 3)
        with pytest.raises(ProtocolError, match=r"limit|most|over"):
            made.receive(response(GOOD, GOOD_SIZE))
        assert made.lost("gone") == [(3, Failure("gone"))]

    def test_a_request_can_not_be_given_up_without_its_connection(self) -> None:
        made = channel()
        sent(made, 3)
        assert not made.cancel(3)
        made.close()
        assert made.out == []

    @given(st.binary(max_size=100), st.integers(0, 200))
    @settings(max_examples=200)
    def test_any_bytes_are_answered_lost_or_refused_once(self, data: bytes, keep: int) -> None:
        made = channel()
        sent(made, 3)
        try:
            found = made.receive(response(GOOD, GOOD_SIZE)[:keep] + data)
            found += made.eof()
        except ProtocolError:
            found = []
        found += made.lost("gone")
        assert [ticket for ticket, _ in found] == [3]
        assert made.draining


def test_an_exchange_hands_on_what_its_reader_makes() -> None:
    made = HttpExchange(lambda response: (response.status, bytes(response.body)))
    made.put(9, b"GET / HTTP/1.1\r\n\r\n", b"")
    assert b"".join(made.out) == b"GET / HTTP/1.1\r\n\r\n"
    assert made.receive(response(b"{}")) == [(9, (200, b"{}"))]
