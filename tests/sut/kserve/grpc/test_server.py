"""Calls seen from their server: against frames made by hand, against our own client, and against h2."""

import random
import urllib.parse
from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.client import Calls
from drumfire.sut.kserve.grpc.framing import SERVICE, Status, framed
from drumfire.sut.kserve.grpc.server import Call, CallLimits, Cancelled, EndOfStream, ServedCalls
from drumfire.sut.kserve.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    F_DATA,
    F_GOAWAY,
    F_HEADERS,
    F_PING,
    F_RESET,
    F_SETTINGS,
    F_WINDOW_UPDATE,
    PREFACE,
    S_WINDOW,
    credit,
    frame,
    settings,
)
from drumfire.sut.kserve.http2.intake import STREAM_WINDOW
from drumfire.sut.kserve.messages.exchange import Failure, Part
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.grpc_server import GrpcInference
from drumfire.sut.kserve.messages.inference import AnswerOutput, InferAnswer
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec

INFER, STREAM = "ModelInfer", "ModelStreamInfer"
HEALTH = "/grpc.health.v1.Health/Check"


def block(path: str = SERVICE + INFER, *more: tuple[str, str], without: Sequence[str] = ()) -> bytes:
    """The headers of a call, touching no table."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, "te": "trailers", "content-type": "application/grpc"}
    changed = {name for name, _ in more} | set(without)
    parts = []
    for name, value in [*((name, value) for name, value in fields.items() if name not in changed), *more]:
        parts += (b"\x00", bytes((len(name),)), name.encode(), bytes((len(value),)), value.encode())
    return b"".join(parts)


BLOCK = block()
STREAM_BLOCK = block(SERVICE + STREAM)


def begun(stream: int, head: bytes = BLOCK) -> bytes:
    return frame(F_HEADERS, END_HEADERS, stream, head)


def whole(stream: int, message: bytes, head: bytes = BLOCK) -> bytes:
    return begun(stream, head) + frame(F_DATA, END_STREAM, stream, framed(message))


def new(limits: CallLimits | None = None, window: int = 65_535) -> ServedCalls:
    """Calls whose client has told its settings and taken ours, and has had an answer on stream 1."""
    calls = ServedCalls(limits)
    calls.receive(PREFACE + settings({S_WINDOW: window}) + frame(F_SETTINGS, ACK, 0) + whole(1, b"", b"\x20" + BLOCK))
    calls.fail(1, 0, "")
    calls.out.clear()
    return calls


class Said:
    """What the server said, by stream, as a client reads it."""

    def __init__(self, calls: ServedCalls) -> None:
        self.heads: dict[int, list[dict[str, str]]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.others: list[tuple[int, int, bytes]] = []
        data, at = b"".join(calls.out), 0
        calls.out.clear()
        decoder = hpack.Decoder()
        while at < len(data):
            length, kind, flags = int.from_bytes(data[at : at + 3], "big"), data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            payload = data[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == F_HEADERS:
                fields = {str(name): str(value) for name, value in decoder.decode(payload)}
                self.heads.setdefault(stream, []).append(fields)
            elif kind == F_DATA:
                self.bodies[stream] = self.bodies.get(stream, b"") + payload
            else:
                self.others.append((kind, stream, payload))
            if kind in (F_HEADERS, F_DATA) and flags & END_STREAM:
                self.ended.add(stream)

    def status(self, stream: int) -> tuple[int, str]:
        """gRPC's, of a call that has ended."""
        assert stream in self.ended
        last = self.heads[stream][-1]
        return int(last["grpc-status"]), urllib.parse.unquote(last.get("grpc-message", ""))


class TestUnary:
    def test_a_call_and_its_answer(self) -> None:
        calls = new()
        (call,) = calls.receive(whole(3, b"question"))
        assert isinstance(call, Call)
        assert (call.stream, call.method, call.message) == (3, INFER, b"question")
        assert (call.timeout_s, call.streaming) == (None, False)
        assert calls.open_calls == 1
        calls.respond(3, b"answer")
        assert len(calls.out) == 1
        said = Said(calls)
        assert said.heads[3] == [{":status": "200", "content-type": "application/grpc"}, {"grpc-status": "0"}]
        assert said.bodies[3] == framed(b"answer")
        assert said.status(3) == (0, "")
        assert calls.open_calls == 0

    @pytest.mark.parametrize("size", [0, 1, 5000, 40_000, 300_000])
    def test_byte_by_byte_or_in_frames_it_comes_whole(self, size: int) -> None:
        message = random.Random(size).randbytes(size)
        body = framed(message)
        step = max(size // 50, 1)
        wire = begun(3) + b"".join(frame(F_DATA, 0, 3, body[at : at + 16_384]) for at in range(0, len(body), 16_384))
        wire += frame(F_DATA, END_STREAM, 3, b"")
        calls = new(window=1 << 20)
        found = [one for at in range(0, len(wire), step) for one in calls.receive(wire[at : at + step])]
        assert [bytes(one.message) for one in found if isinstance(one, Call)] == [message]
        assert len(found) == 1
        assert calls.buffered_in == 0
        calls.respond(3, message)
        assert Said(calls).bodies[3][:60_000] == body[:60_000]

    def test_metadata_and_the_deadline(self) -> None:
        head = block(
            SERVICE + "ServerLive", ("authorization", "Bearer x"), ("a", "1"), ("a", "2"), ("grpc-timeout", "250m")
        )
        (call,) = new().receive(whole(3, b"", head))
        assert isinstance(call, Call)
        assert call.method == "ServerLive"
        assert call.timeout_s == 0.25
        assert call.metadata["authorization"] == "Bearer x"
        assert call.metadata["a"] == "1,2"
        assert ":path" not in call.metadata

    @pytest.mark.parametrize(
        ("told", "timeout_s"),
        [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 4e-3), ("5u", 5e-6), ("99999999n", 0.099999999)],
    )
    def test_deadlines(self, told: str, timeout_s: float) -> None:
        (call,) = new().receive(whole(3, b"", block(SERVICE + INFER, ("grpc-timeout", told))))
        assert isinstance(call, Call)
        assert call.timeout_s == pytest.approx(timeout_s)

    def test_the_health_service(self) -> None:
        (call,) = new().receive(whole(3, b"", block(HEALTH)))
        assert isinstance(call, Call)
        assert call.method == "Check"

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (block(SERVICE + "Nothing"), Status.UNIMPLEMENTED),
            (block("/other.Service/ModelInfer"), Status.UNIMPLEMENTED),
            (block(SERVICE + INFER, ("grpc-timeout", "1")), Status.INTERNAL),
            (block(SERVICE + INFER, ("grpc-timeout", "123456789m")), Status.INTERNAL),
            (block(SERVICE + INFER, ("grpc-timeout", "-1m")), Status.INTERNAL),
        ],
    )
    def test_headers_that_are_refused(self, head: bytes, status: Status) -> None:
        calls = new()
        for stream in (3, 5):  # the second time by their bytes
            assert calls.receive(whole(stream, b"x", head)) == []
            said = Said(calls)
            assert said.status(stream)[0] == status
            assert said.status(stream)[1]
            assert len(said.heads[stream]) == 1
        assert calls.open_calls == 0

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (block(without=["content-type"]), "415"),
            (block(SERVICE + INFER, ("content-type", "application/json")), "415"),
            (block(SERVICE + INFER, (":method", "GET")), "405"),
            (block(without=[":path"]), "400"),
            (block(without=[":method"]), "400"),
        ],
    )
    def test_what_is_no_grpc_gets_a_status_of_http(self, head: bytes, status: str) -> None:
        calls = new()
        assert calls.receive(whole(3, b"x", head)) == []
        said = Said(calls)
        assert said.heads[3] == [{":status": status}]
        assert 3 in said.ended

    def test_a_missing_te_is_let_pass(self) -> None:
        assert len(new().receive(whole(3, b"x", block(without=["te"])))) == 1

    @pytest.mark.parametrize(
        ("body", "status", "text"),
        [
            (b"\1\0\0\0\1x", Status.UNIMPLEMENTED, "compressed"),
            (framed(bytes(1001)), Status.RESOURCE_EXHAUSTED, "1001 bytes; at most 1000"),
            (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED, "at most 1000"),
            (b"", Status.INTERNAL, "without a message"),
            (b"\0\0", Status.INTERNAL, "within a message"),
            (framed(b"abc")[:-1], Status.INTERNAL, "within a message"),
            (framed(b"abc") + b"d", Status.INTERNAL, "within a message"),
            (framed(b"abc") + framed(b"def"), Status.INTERNAL, "more than one message"),
        ],
    )
    @pytest.mark.parametrize("is_split", [False, True])
    def test_messages_that_are_refused(self, body: bytes, status: Status, text: str, is_split: bool) -> None:
        calls = new(CallLimits(max_message=1000))
        if is_split:
            wire = begun(3) + b"".join(frame(F_DATA, 0, 3, body[at : at + 7]) for at in range(0, len(body), 7))
            wire += frame(F_DATA, END_STREAM, 3)
        else:
            wire = begun(3) + frame(F_DATA, END_STREAM, 3, body)
        assert calls.receive(wire) == []
        said = Said(calls)
        assert said.status(3)[0] == status
        assert text in said.status(3)[1]
        (call,) = calls.receive(whole(5, b"next"))
        assert isinstance(call, Call)
        assert (calls.open_calls, calls.buffered_in) == (1, 0)

    def test_one_that_is_refused_early_is_stopped(self) -> None:
        calls = new(CallLimits(max_message=1000))
        assert calls.receive(begun(3) + frame(F_DATA, 0, 3, b"\0\0\1\0\0")) == []
        assert (F_RESET, 3, bytes(4)) in Said(calls).others
        assert calls.receive(frame(F_DATA, END_STREAM, 3, bytes(100))) == []

    def test_a_call_that_is_cancelled(self) -> None:
        calls = new()
        calls.receive(whole(3, b"x"))
        assert calls.receive(frame(F_RESET, 0, 3, bytes((0, 0, 0, 8)))) == [Cancelled(3)]
        calls.respond(3, b"late")
        calls.fail(3, Status.INTERNAL, "late")
        assert calls.out == []
        calls.receive(begun(5) + frame(F_DATA, 0, 5, b"\0\0\0"))
        assert calls.receive(frame(F_RESET, 0, 5, bytes(4))) == []  # nobody knew of it
        assert calls.open_calls == calls.buffered_in == 0

    @given(st.text(max_size=300))
    def test_any_text_is_told(self, text: str) -> None:
        calls = new()
        calls.receive(whole(3, b"x"))
        calls.fail(3, Status.NOT_FOUND, text)
        status, told = Said(calls).status(3)
        assert status == Status.NOT_FOUND
        assert told.split() == "".join(one if one.isprintable() else " " for one in text).split()


class TestStreams:
    def test_a_call_for_each_message(self) -> None:
        calls = new()
        found = calls.receive(begun(3, STREAM_BLOCK) + frame(F_DATA, 0, 3, framed(b"one") + framed(b"two") + b"\0\0"))
        assert [(one.message, one.streaming) for one in found if isinstance(one, Call)] == [
            (b"one", True),
            (b"two", True),
        ]
        calls.send(3, b"first")
        rest = framed(b"three")[2:]
        assert [one.message for one in calls.receive(frame(F_DATA, 0, 3, rest)) if isinstance(one, Call)] == [b"three"]
        assert calls.receive(frame(F_DATA, END_STREAM, 3)) == [EndOfStream(3)]
        calls.send(3, b"second")
        said = Said(calls)
        assert said.bodies[3] == framed(b"first") + framed(b"second")
        assert len(said.heads[3]) == 1
        calls.finish(3)
        assert Said(calls).status(3) == (0, "")
        assert calls.open_calls == 0

    @given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 400), max_size=6), st.booleans())
    def test_messages_arrive_whatever_the_frames_are(
        self, messages: list[bytes], places: list[int], apart: bool
    ) -> None:
        body = b"".join(map(framed, messages))
        ends = sorted({place % (len(body) + 1) for place in places} | {len(body)})
        parts = [frame(F_DATA, 0, 3, body[first:last]) for first, last in zip([0, *ends], ends, strict=False)]
        parts = [begun(3, STREAM_BLOCK), *parts, frame(F_DATA, END_STREAM, 3)]
        calls = new()
        pieces = [bytes((byte,)) for byte in b"".join(parts)] if apart else [b"".join(parts)]
        found = [one for piece in pieces for one in calls.receive(piece)]
        assert found[-1] == EndOfStream(3)
        assert [bytes(one.message) for one in found[:-1] if isinstance(one, Call)] == messages
        assert calls.buffered_in == 0

    def test_large_messages_one_after_the_other(self) -> None:
        """Each is larger than what may be sent without asking, all together than the connection may hold."""
        calls = new(CallLimits(max_message=1 << 20, max_streams=2))
        calls.receive(begun(3, STREAM_BLOCK))
        window, connection_window, got = STREAM_WINDOW, 2 * STREAM_WINDOW + (2 << 20), 0
        rest = memoryview(b"".join(framed(bytes(900_000)) for _ in range(10)))
        while rest:
            size = min(len(rest), 16_384, window, connection_window)
            assert size, "it waits for ever"
            window -= size
            connection_window -= size
            for one in calls.receive(frame(F_DATA, 0, 3, rest[:size])):
                assert isinstance(one, Call)
                assert len(one.message) == 900_000
                got += 1
            rest = rest[size:]
            for kind, stream, payload in Said(calls).others:
                assert kind == F_WINDOW_UPDATE
                if stream:
                    window += int.from_bytes(payload, "big")
                else:
                    connection_window += int.from_bytes(payload, "big")
        assert got == 10

    def test_many_messages_in_one_piece_come_a_few_at_a_time(self) -> None:
        calls = new(CallLimits(max_message=100, max_streams=4))
        messages = b"".join(framed(b"%d" % number) for number in range(200))
        piece = frame(F_DATA, END_STREAM, 9, messages)
        got: list[bytes] = []
        events = calls.receive(whole(7, b"a") + begun(9, STREAM_BLOCK) + piece)
        assert events[0].stream == 7
        while calls.was_long:
            assert len(events) <= 64
            got += [bytes(event.message) for event in events if isinstance(event, Call) and event.streaming]
            assert EndOfStream(9) not in events
            events = calls.receive(b"")
        got += [bytes(event.message) for event in events if isinstance(event, Call)]
        assert got == [b"%d" % number for number in range(200)]
        assert events[-1] == EndOfStream(9)

    def test_messages_are_refused_while_answers_are_not_read(self) -> None:
        calls = new(CallLimits(max_waiting=1000), window=0)
        calls.receive(begun(3, STREAM_BLOCK))
        for _ in range(10):
            for event in calls.receive(frame(F_DATA, 0, 3, framed(b"x") * 10)):
                calls.send(event.stream, bytes(30))
        assert 1000 < calls.buffered_out < 2000
        assert len(calls._connection._streams[3].pieces) == 1
        calls.receive(credit(3, 5000))
        status, text = Said(calls).status(3)
        assert (status, text) == (
            Status.RESOURCE_EXHAUSTED,
            "too many unread answers on this connection: read them first",
        )

    def test_a_stream_may_fail_between_messages(self) -> None:
        calls = new()
        calls.receive(begun(3, STREAM_BLOCK) + frame(F_DATA, 0, 3, framed(b"one")))
        calls.send(3, b"first")
        calls.finish(3, Status.UNAVAILABLE, "we go")
        said = Said(calls)
        assert said.status(3) == (Status.UNAVAILABLE, "we go")
        assert len(said.heads[3]) == 2
        assert (F_RESET, 3, bytes(4)) in said.others
        assert calls.receive(frame(F_DATA, 0, 3, framed(b"late"))) == []

    def test_a_compressed_message_fails_the_stream(self) -> None:
        calls = new()
        found = calls.receive(begun(3, STREAM_BLOCK) + frame(F_DATA, 0, 3, framed(b"one") + b"\1\0\0\0\1x"))
        assert [type(one) for one in found] == [Call]
        assert Said(calls).status(3)[0] == Status.UNIMPLEMENTED

    def test_cancelled(self) -> None:
        calls = new()
        calls.receive(begun(3, STREAM_BLOCK) + frame(F_DATA, 0, 3, framed(b"one")))
        assert calls.receive(frame(F_RESET, 0, 3, bytes(4))) == [Cancelled(3)]
        calls.send(3, b"late")
        calls.finish(3)
        assert calls.out == []

    def test_a_stream_of_one_message_that_comes_whole(self) -> None:
        calls = new()
        calls.receive(whole(3, b"a", STREAM_BLOCK))
        found = calls.receive(whole(5, b"b", STREAM_BLOCK))
        assert [type(one) for one in found] == [Call, EndOfStream]

    def test_headers_alone_end_an_empty_stream(self) -> None:
        found = new().receive(frame(F_HEADERS, END_HEADERS | END_STREAM, 3, STREAM_BLOCK))
        assert found == [EndOfStream(3)]


class TestSlowReaders:
    def test_answers_wait_in_bounds_and_further_calls_are_refused(self) -> None:
        calls = new(CallLimits(max_waiting=10_000), window=0)
        for stream in (3, 5):
            calls.receive(whole(stream, b"x"))
            calls.respond(stream, bytes(6000))
        assert 12_000 < calls.buffered_out < 12_500
        calls.out.clear()
        assert calls.buffered_out == 12_010
        assert calls.receive(whole(7, b"x")) == []
        assert Said(calls).status(7)[0] == Status.RESOURCE_EXHAUSTED
        calls.receive(credit(3, 10_000) + credit(5, 10_000))
        assert Said(calls).status(5) == (0, "")
        assert calls.buffered_out == 0
        assert len(calls.receive(whole(9, b"x"))) == 1

    def test_what_waits_is_dropped_with_its_stream(self) -> None:
        calls = new(window=0)
        calls.receive(begun(3, STREAM_BLOCK) + frame(F_DATA, 0, 3, framed(b"x")))
        calls.send(3, bytes(1000))
        calls.finish(3)
        calls.out.clear()
        assert (calls.buffered_out, calls.open_calls) == (1005, 1)
        calls.receive(frame(F_RESET, 0, 3, bytes(4)))
        assert (calls.buffered_out, calls.open_calls) == (0, 0)


class TestDraining:
    def test_what_was_taken_is_answered(self) -> None:
        calls = new()
        calls.receive(whole(3, b"x"))
        calls.drain()
        assert not calls.drained
        (ping,) = [payload for kind, _, payload in Said(calls).others if kind == F_PING]
        calls.receive(whole(5, b"x") + frame(F_PING, ACK, 0, ping) + whole(7, b"x"))
        assert [payload[:4] for kind, _, payload in Said(calls).others if kind == F_GOAWAY] == [bytes((0, 0, 0, 5))]
        for stream in (3, 5):
            assert not calls.drained
            calls.respond(stream, b"y")
        assert calls.drained

    def test_our_own_client_is_told_which_calls_were_not_seen(self) -> None:
        client, server = channel(), ServedCalls()
        exchange(client, server)
        request = MESSAGES.request([Part((1, 2), bytes(8))])
        client.send(0, request)
        exchange(client, server)
        server.close()
        client.send(1, request)
        (reply,) = exchange(client, server)
        assert reply[0] == 1
        assert isinstance(reply[1], Failure)
        assert reply[1].unseen
        assert client.draining


MODEL = ModelInterface("m", "1", "", (TensorSpec("IN", "FP32", (-1,)),), (TensorSpec("OUT", "FP32", (-1,)),), 8)
MESSAGES = GrpcMessages(MODEL)
MESSAGES.wanted = True


def channel() -> GrpcChannel:
    return GrpcChannel(MESSAGES, "h:1")


def exchange(client: GrpcChannel | Calls, server: ServedCalls, answer: Any = None) -> list[Any]:
    """Carry what both say to the other until they have no more to say; what the client hears."""
    heard: list[Any] = []
    while client.out or server.out:
        to_server, to_client = b"".join(client.out), b"".join(server.out)
        client.out.clear()
        server.out.clear()
        for one in server.receive(to_server) if to_server else ():
            if answer is not None:
                answer(one)
        heard += client.receive(to_client) if to_client else []
    return heard


@pytest.mark.parametrize("size", [1, 16, 5000, 200_000, 3_000_000])
def test_our_own_client_infers(size: int) -> None:
    client, server, inference = channel(), ServedCalls(), GrpcInference()
    draw = np.random.default_rng(size)

    def answer(call: Any) -> None:
        request = inference.parse_request(call.message)
        (given,) = request.inputs
        outputs = [AnswerOutput("OUT", given.datatype, given.shape, given.data)]
        server.respond(call.stream, inference.build_answer(InferAnswer("m", "1", request.id, outputs)))

    assert exchange(client, server, answer) == []
    arrays = [draw.random((1 + at % 3, size), np.float32) for at in range(20)]
    for ticket, array in enumerate(arrays):
        client.send(ticket, MESSAGES.request([Part(array.shape, array.tobytes())]))
        if ticket % 5 == 4:  # several at a time
            for known, reply in exchange(client, server, answer):
                assert reply[0].tobytes() == arrays[known].tobytes()
                arrays[known] = arrays[known][:0]
    assert all(len(array) == 0 for array in arrays)
    assert (server.open_calls, server.buffered_in, server.buffered_out) == (0, 0, 0)


def test_our_own_client_hears_why_not() -> None:
    client, server = Calls("h:1"), ServedCalls()
    client.call(7, client.headers("ModelConfig"), framed(b""))
    (answer,) = exchange(
        client, server, lambda call: server.fail(call.stream, Status.NOT_FOUND, "model 'ä' is\nnot here")
    )
    assert (answer.ticket, answer.status) == (7, Status.NOT_FOUND)
    assert answer.failure.reason == "NOT_FOUND: model 'ä' is not here"


def test_h2_as_a_client() -> None:
    """With its table, before it has taken our settings and after."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    server = ServedCalls()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", SERVICE + INFER), (":authority", "h")]
    fields += [("content-type", "application/grpc+proto"), ("te", "trailers")]
    statuses, bodies = {}, {}
    for turn in range(6):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, [*fields, ("x-turn", str(turn // 2))])
        client.send_data(stream, framed(b"question %d" % turn), end_stream=True)
        for call in server.receive(client.data_to_send()):
            assert isinstance(call, Call)
            assert call.metadata["x-turn"] == str(turn // 2)
            server.respond(call.stream, bytes(call.message).upper())
        for event in client.receive_data(b"".join(server.out)):
            if isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = event.data
            elif isinstance(event, h2.events.TrailersReceived):
                statuses[event.stream_id] = dict(event.headers)["grpc-status"]
        server.out.clear()
    assert list(bodies.values()) == [framed(b"QUESTION %d" % turn) for turn in range(6)]
    assert set(statuses.values()) == {"0"}


parts = st.lists(
    st.sampled_from(
        [
            whole(3, b"message"),
            whole(5, b"other", block(SERVICE + "ServerReady")),
            begun(7, STREAM_BLOCK) + frame(F_DATA, 0, 7, framed(b"one") + framed(b"two")),
            frame(F_DATA, END_STREAM, 7),
            begun(9) + frame(F_DATA, 0, 9, framed(b"message")[:6]),
            frame(F_DATA, END_STREAM, 9, b"essage"),
            frame(F_RESET, 0, 7, bytes(4)),
            frame(F_RESET, 0, 9, bytes(4)),
            credit(0, 5) + credit(7, 1),
            settings({S_WINDOW: 1}),
            frame(F_PING, 0, 0, bytes(8)),
        ]
    ),
    max_size=10,
)


@given(parts, st.data())
def test_any_bytes_are_taken_or_refused_and_nothing_is_left(wires: list[bytes], data: Any) -> None:
    wire = bytearray(b"".join(wires))
    for place in data.draw(st.lists(st.integers(0, 10**6), max_size=3)):
        if wire:
            wire[place % len(wire)] ^= data.draw(st.integers(1, 255))
    calls = new(CallLimits(max_message=10_000))
    step = data.draw(st.sampled_from([1, 3, 10, 10_000]))
    told: set[int] = set()
    try:
        for at in range(0, len(wire), step):
            for one in calls.receive(bytes(wire[at : at + step])):
                if isinstance(one, Call):
                    told.add(one.stream)
                    assert len(one.message) <= 10_000
                    if not one.streaming:
                        calls.respond(one.stream, one.message)
                    else:
                        calls.send(one.stream, one.message)
                elif isinstance(one, EndOfStream):
                    told.add(one.stream)
                    calls.finish(one.stream)
    except ProtocolError:
        return
    assert calls.buffered_in <= 9 + len(wire)
    assert len(calls._open) <= calls.open_calls
    for stream in told:
        calls.receive(credit(0, 1 << 20)) if stream == min(told) else None
        calls.fail(stream, Status.INTERNAL, "the test ends")
    assert all(not known.reported for known in calls._open.values())
