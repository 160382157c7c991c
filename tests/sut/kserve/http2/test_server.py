"""A server's end of HTTP/2 from byte strings: frames made by hand, h2 as its client, and floods."""

import random
import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    F_CONTINUATION,
    F_DATA,
    F_GOAWAY,
    F_HEADERS,
    F_PING,
    F_PRIORITY,
    F_PUSH_PROMISE,
    F_RESET,
    F_SETTINGS,
    F_WINDOW_UPDATE,
    HEADERS,
    LARGEST_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    REQUEST,
    RESET,
    S_ENABLE_PUSH,
    S_HEADER_LIST,
    S_HEADER_TABLE_SIZE,
    S_MAX_FRAME,
    S_MAX_STREAMS,
    S_WINDOW,
    Code,
    credit,
    frame,
    settings,
)
from drumfire.sut.kserve.http2.header_block import Envelope, header_block
from drumfire.sut.kserve.http2.intake import STREAM_WINDOW
from drumfire.sut.kserve.http2.server import ServerConnection
from tests.support.frames import frames, literal, said

GREETING = PREFACE + settings({})
ACKNOWLEDGED = frame(F_SETTINGS, ACK, 0)
NO_TABLE = b"\x20"
HEAD, TAIL = ((":status", "200"), ("x-head", "1")), (("x-tail", "2"),)
AROUND = Envelope(HEAD, TAIL)
MAX_STREAMS, LARGEST_BODY = 8, 1 << 20


ASK = ((":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "h"))
BLOCK = literal(*ASK)
FIRST_BLOCK = NO_TABLE + BLOCK


def fresh(max_streams: int = MAX_STREAMS, **bounds: int) -> ServerConnection[Any]:
    return ServerConnection(lambda headers: headers, max_streams=max_streams, largest_body=LARGEST_BODY, **bounds)


def new(
    window: int | None = None, max_streams: int = MAX_STREAMS, opened: int = 0, **bounds: int
) -> ServerConnection[Any]:
    """A connection whose client has told its settings and taken ours, and has seen a first answer on stream 1.

    Of those ``opened`` after that, bodies are to come.
    """
    connection = fresh(max_streams, **bounds)
    told = {} if window is None else {S_WINDOW: window}
    for start in (PREFACE + settings(told), ACKNOWLEDGED, frame(F_HEADERS, END_HEADERS | END_STREAM, 1, FIRST_BLOCK)):
        connection.receive(start)
    connection.end(1, AROUND.head)
    for number in range(opened):
        connection.receive(frame(F_HEADERS, END_HEADERS, 3 + 2 * number, BLOCK))
    connection.out.clear()
    return connection


def plain(events: Iterable[Any]) -> list[Any]:
    """Events with bytes for views, and a whole request as its two parts: which it is, pieces decide."""
    found: list[Any] = []
    for kind, stream, value, ended in events:
        if kind is REQUEST:
            found += [(HEADERS, stream, value[0], False), (DATA, stream, bytes(value[1]), True)]
        else:
            found.append((kind, stream, bytes(value) if kind is DATA else value, ended))
    return found


def fed(connection: ServerConnection[Any], parts: Iterable[bytes]) -> tuple[int, str]:
    """How many parts it took before it refused one, and why."""
    taken = 0
    for part in parts:
        try:
            connection.receive(part)
        except ProtocolError as error:
            return taken, str(error)
        taken += 1
    return taken, ""


def refused(connection: ServerConnection[Any], data: bytes) -> tuple[Code, str]:
    """With what code and text ``data`` is refused."""
    with pytest.raises(ProtocolError) as refusal:
        connection.receive(data)
    kind, _, stream, payload = frames(said(connection))[-1]
    assert (kind, stream) == (F_GOAWAY, 0)
    assert payload[8:].decode() == str(refusal.value)[:200]
    return Code(int.from_bytes(payload[4:8], "big")), str(refusal.value)


class TestGreeting:
    def test_settings_and_window(self) -> None:
        (kind, flags, stream, payload), update = frames(said(fresh()))
        assert (kind, flags, stream) == (F_SETTINGS, 0, 0)
        assert dict(struct.iter_unpack(">HI", payload)) == {
            S_HEADER_TABLE_SIZE: 0,
            S_MAX_STREAMS: MAX_STREAMS,
            S_WINDOW: STREAM_WINDOW,
            S_MAX_FRAME: STREAM_WINDOW,
            S_HEADER_LIST: 1 << 14,
        }
        most = MAX_STREAMS * STREAM_WINDOW + LARGEST_BODY + (1 << 20)
        assert update == (F_WINDOW_UPDATE, 0, 0, (most - 65_535).to_bytes(4, "big"))

    def test_the_preface_may_come_in_pieces(self) -> None:
        connection = fresh()
        said(connection)
        for byte in GREETING + frame(F_PING, 0, 0, b"12345678"):
            assert connection.receive(bytes((byte,))) == []
        assert connection.settled
        assert frames(said(connection)) == [(F_SETTINGS, ACK, 0, b""), (F_PING, ACK, 0, b"12345678")]

    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1", b"\x16\x03\x01", PREFACE[:-1] + b"x"])
    @pytest.mark.parametrize("step", [1, 1000])
    def test_another_protocol_is_refused_as_soon_as_it_is_seen(self, data: bytes, step: int) -> None:
        connection = fresh()
        _, why = fed(connection, [data[at : at + step] for at in range(0, len(data), step)])
        assert "does not speak HTTP/2" in why

    def test_a_first_frame_other_than_settings_is_refused(self) -> None:
        connection = fresh()
        assert refused(connection, PREFACE + frame(F_PING, 0, 0, bytes(8)))[1].startswith("the client does not speak")


class TestRequests:
    def test_a_whole_request_is_one_event_once_its_headers_are_known(self) -> None:
        connection = new()
        data = frame(F_HEADERS, END_HEADERS, 3, BLOCK) + frame(F_DATA, END_STREAM, 3, b"body")
        assert plain(connection.receive(data)) == [(HEADERS, 3, ASK, False), (DATA, 3, b"body", True)]
        data = frame(F_HEADERS, END_HEADERS, 5, BLOCK) + frame(F_DATA, END_STREAM, 5, b"body")
        assert connection.receive(data) == [(REQUEST, 5, (ASK, b"body"), True)]
        assert connection.streams == 2

    def test_in_two_reads_it_is_two_events(self) -> None:
        connection = new(opened=1)
        assert connection.receive(frame(F_HEADERS, END_HEADERS, 5, BLOCK)) == [(HEADERS, 5, ASK, False)]
        assert connection.receive(frame(F_DATA, END_STREAM, 5, b"body")) == [(DATA, 5, b"body", True)]

    def test_padding_priority_and_unknown_frames_mean_nothing(self) -> None:
        connection = new()
        events = connection.receive(
            frame(F_PRIORITY, 0, 9, bytes(5))
            + frame(0x42, 0xFF, 7, b"?")
            + frame(F_HEADERS, END_HEADERS | PADDED | PRIORITY, 3, b"\x02" + bytes(5) + BLOCK + b"xx")
            + frame(F_DATA, PADDED, 3, b"\x03abcxxx")
            + frame(F_DATA, PADDED | END_STREAM, 3, b"\x00def")
        )
        assert events == [(HEADERS, 3, ASK, False), (DATA, 3, b"abc", False), (DATA, 3, b"def", True)]
        assert connection.held == 6  # what is padding is held by nobody

    def test_trailers_end_a_request_and_say_nothing(self) -> None:
        connection = new(opened=1)
        trailers = frame(F_HEADERS, END_HEADERS | END_STREAM, 3, literal(("x", "y")))
        assert connection.receive(frame(F_DATA, 0, 3, b"a") + trailers) == [
            (DATA, 3, b"a", False),
            (DATA, 3, b"", True),
        ]

    def test_before_it_takes_our_settings_a_client_may_use_a_table(self) -> None:
        encoder = hpack.Encoder()
        connection = fresh()
        connection.receive(GREETING)
        for stream in (1, 3, 5):
            block = encoder.encode([*ASK, ("x-any", "value")])
            events = connection.receive(frame(F_HEADERS, END_HEADERS | END_STREAM, stream, block))
            assert events == [(HEADERS, stream, (*ASK, ("x-any", "value")), True)]
        assert len(block) < 6  # by now out of the table
        encoder.header_table_size = 0
        connection.receive(ACKNOWLEDGED)
        for stream in (7, 9, 11):
            block = encoder.encode([*ASK, ("x-any", str(stream))])
            events = connection.receive(frame(F_HEADERS, END_HEADERS | END_STREAM, stream, block))
            assert events == [(HEADERS, stream, (*ASK, ("x-any", str(stream))), True)]

    def test_the_same_bytes_may_mean_another_header_before_that(self) -> None:
        encoder = hpack.Encoder()
        connection = fresh()
        connection.receive(GREETING)
        blocks = [encoder.encode([("a", value)]) for value in ("1", "1", "2", "2")]
        assert blocks[1] == blocks[3]
        values = []
        for number, block in enumerate(blocks):
            events = connection.receive(frame(F_HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, block))
            values.append(events[0][2])
        assert values == [(("a", "1"),), (("a", "1"),), (("a", "2"),), (("a", "2"),)]

    def test_a_stream_that_is_reset_is_told_and_forgotten(self) -> None:
        connection = new(opened=2)
        connection.receive(frame(F_DATA, 0, 3, b"abc"))
        assert connection.held == 3
        assert connection.receive(frame(F_RESET, 0, 3, bytes((0, 0, 0, 8)))) == [(RESET, 3, 8, True)]
        assert (connection.streams, connection.held) == (1, 0)
        connection.respond(3, AROUND, b"", b"late")
        connection.send(3, b"late")
        connection.end(3, AROUND.tail)
        assert said(connection) == b""
        assert connection.receive(frame(F_RESET, 0, 3, bytes(4)) + frame(F_DATA, 0, 3, b"late")) == []

    def test_beyond_the_most_streams_are_refused_and_the_others_go_on(self) -> None:
        connection = new(opened=MAX_STREAMS)
        late = 3 + 2 * MAX_STREAMS
        data = frame(F_HEADERS, END_HEADERS, late, BLOCK) + frame(F_DATA, END_STREAM, late, b"x")
        assert connection.receive(data) == []
        assert frames(said(connection)) == [(F_RESET, 0, late, Code.REFUSED_STREAM.to_bytes(4, "big"))]
        assert connection.receive(frame(F_DATA, END_STREAM, 3, b"x")) == [(DATA, 3, b"x", True)]
        connection.respond(3, AROUND, b"", b"y")
        data = frame(F_HEADERS, END_HEADERS, late + 2, BLOCK) + frame(F_DATA, END_STREAM, late + 2, b"x")
        assert connection.receive(data) == [(REQUEST, late + 2, (ASK, b"x"), True)]


class TestAnswers:
    def test_one_piece(self) -> None:
        connection = new(opened=1)
        connection.receive(frame(F_DATA, END_STREAM, 3, b"x"))
        connection.respond(3, AROUND, b"start ", b"body")
        (answer,) = connection.out
        assert frames(answer) == [
            (F_HEADERS, END_HEADERS, 3, AROUND.head),
            (F_DATA, 0, 3, b"start body"),
            (F_HEADERS, END_HEADERS | END_STREAM, 3, AROUND.tail),
        ]
        assert tuple(hpack.Decoder().decode(AROUND.head)) == HEAD
        assert connection.streams == 0

    def test_the_first_header_block_gives_up_the_table(self) -> None:
        connection = fresh()
        connection.receive(GREETING + frame(F_HEADERS, END_HEADERS | END_STREAM, 1, BLOCK))
        said(connection)
        connection.respond(1, AROUND, b"", b"x")
        found = frames(said(connection))
        assert [payload for _, _, _, payload in found] == [NO_TABLE + AROUND.head, b"x", AROUND.tail]

    @given(window=st.integers(0, 40), more=st.lists(st.integers(1, 30), max_size=6), sizes=st.lists(st.integers(1, 40)))
    def test_no_more_is_sent_than_the_windows_let_through(self, window: int, more: list[int], sizes: list[int]) -> None:
        connection = new(window=window, opened=1)
        connection.begin(3, AROUND.head)
        for size in sizes:
            connection.send(3, b"s" * size)
        connection.end(3, AROUND.tail)
        sent, allowed, ends = 0, window, 0
        for size in [0, *more]:
            if size and connection.streams:
                connection.receive(credit(3, size))
                allowed += size
            found = frames(said(connection))
            sent += sum(len(payload) for kind, _, _, payload in found if kind == F_DATA)
            ends += sum(bool(kind == F_HEADERS and flags & END_STREAM) for kind, flags, _, _ in found)
            assert sent == min(allowed, sum(sizes))
            assert connection.waiting == sum(sizes) - sent
            is_done = sent == sum(sizes)
            assert (connection.streams == 0) == is_done == (ends == 1)

    def test_the_window_of_the_connection_is_shared(self) -> None:
        connection = new(window=1 << 20, opened=2)
        for stream in (3, 5):
            connection.receive(frame(F_DATA, END_STREAM, stream, b"x"))
            connection.respond(stream, AROUND, b"", bytes(50_000))
        sent: dict[int, int] = defaultdict(int)
        for kind, _, stream, payload in frames(said(connection)):
            sent[stream] += len(payload) if kind == F_DATA else 0
        assert sent == {3: 50_000, 5: 15_535}
        assert connection.waiting == 34_465
        connection.receive(credit(0, 100_000))
        assert connection.waiting == 0
        assert connection.streams == 0
        found = frames(said(connection))
        assert found[-1] == (F_HEADERS, END_HEADERS | END_STREAM, 5, AROUND.tail)
        assert max(len(payload) for _, _, _, payload in found) <= 16_384

    def test_a_new_initial_window_moves_those_that_wait(self) -> None:
        connection = new(window=10, opened=1)
        connection.receive(frame(F_DATA, END_STREAM, 3, b"x"))
        connection.respond(3, AROUND, b"", bytes(100))
        assert connection.waiting == 90
        connection.receive(settings({S_WINDOW: 0}))
        connection.receive(credit(3, 10))
        assert connection.waiting == 90
        connection.receive(settings({S_WINDOW: 90}))
        assert connection.waiting == 0

    def test_credit_that_comes_before_an_answer_counts(self) -> None:
        connection = new(window=0, opened=0)
        connection.receive(frame(F_HEADERS, END_HEADERS, 3, BLOCK) + frame(F_DATA, END_STREAM, 3, b"x") + credit(3, 4))
        connection.respond(3, AROUND, b"", b"body")
        assert connection.streams == 0

    def test_an_answer_before_the_request_has_ended_stops_it(self) -> None:
        connection = new(opened=1)
        connection.end(3, AROUND.head)
        assert frames(said(connection)) == [
            (F_HEADERS, END_HEADERS | END_STREAM, 3, AROUND.head),
            (F_RESET, 0, 3, Code.NO_ERROR.to_bytes(4, "big")),
        ]
        assert connection.receive(frame(F_DATA, END_STREAM, 3, bytes(100))) == []
        trailers = frame(F_HEADERS, END_HEADERS | END_STREAM, 3, BLOCK)
        assert connection.receive(trailers) == []

    def test_headers_too_long_for_a_frame_are_an_error_of_ours(self) -> None:
        with pytest.raises(ValueError, match="headers of"):
            header_block((("x", "\0" * 20_000),))


class TestIntake:
    def test_what_is_released_is_credited(self) -> None:
        connection = new(opened=1)
        for _ in range(20):
            connection.receive(frame(F_DATA, 0, 3, bytes(100_000)))
            connection.release(3, 100_000)
        assert connection.held == 0
        credited: dict[int, int] = defaultdict(int)
        for kind, _, stream, payload in frames(said(connection)):
            if kind == F_WINDOW_UPDATE:
                credited[stream] += int.from_bytes(payload, "big")
        assert 20 * 100_000 - STREAM_WINDOW < credited[3] <= 20 * 100_000
        assert 20 * 100_000 - (1 << 20) <= credited[0] <= 20 * 100_000

    def test_what_is_held_is_not(self) -> None:
        connection = new(opened=1)
        connection.receive(frame(F_DATA, 0, 3, bytes(STREAM_WINDOW)))
        assert said(connection) == b""
        assert refused(connection, frame(F_DATA, 0, 3, b"x"))[0] is Code.FLOW_CONTROL_ERROR

    def test_larger_bodies_get_their_rest_in_turn(self) -> None:
        connection = new(opened=3)
        for stream in (3, 5, 7):
            connection.receive(frame(F_DATA, 0, stream, bytes(1000)))
            connection.expect(stream, 700_000)
        rest = 700_000 - (STREAM_WINDOW - 1000)
        assert frames(said(connection)) == [
            (F_WINDOW_UPDATE, 0, 3, rest.to_bytes(4, "big")),
            (F_WINDOW_UPDATE, 0, 5, rest.to_bytes(4, "big")),
        ]
        for at in range(0, 700_000, 100_000):
            connection.receive(frame(F_DATA, END_STREAM if at == 600_000 else 0, 5, bytes(100_000)))
        said(connection)
        connection.release(5, 701_000)
        assert (F_WINDOW_UPDATE, 0, 7, rest.to_bytes(4, "big")) in frames(said(connection))

    def test_one_that_is_given_up_leaves_its_turn(self) -> None:
        connection = new(opened=3)
        for stream in (3, 5, 7):
            connection.expect(stream, 1_000_000)
        said(connection)
        connection.receive(frame(F_RESET, 0, 5, bytes(4)))  # it waited
        assert said(connection) == b""
        connection.receive(frame(F_RESET, 0, 3, bytes(4)))  # it had
        assert frames(said(connection)) == [(F_WINDOW_UPDATE, 0, 7, (1_000_000 - STREAM_WINDOW).to_bytes(4, "big"))]

    def test_all_streams_together_hold_no_more_than_the_connection_s_window(self) -> None:
        connection = new(opened=MAX_STREAMS)
        connection.receive(b"")
        most = MAX_STREAMS * STREAM_WINDOW + LARGEST_BODY + (1 << 20)
        for stream in range(3, 3 + 2 * MAX_STREAMS, 2):
            connection.receive(frame(F_DATA, 0, stream, bytes(STREAM_WINDOW)))
            connection.expect(stream, 900_000)
        assert connection.held <= most
        assert refused(connection, frame(F_DATA, 0, 7, b"x"))[0] is Code.FLOW_CONTROL_ERROR


BROKEN: dict[str, tuple[bytes, Code]] = {
    "a frame over our limit": (b"\x04\x00\x01\x00\x00\x00\x00\x00\x03", Code.FRAME_SIZE_ERROR),
    "DATA without a stream": (frame(F_DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "DATA on a stream that is not open yet": (frame(F_DATA, 0, 99, b"x"), Code.PROTOCOL_ERROR),
    "DATA behind the end": (frame(F_DATA, END_STREAM, 3, b"x") + frame(F_DATA, 0, 3, b"x"), Code.STREAM_CLOSED),
    "DATA with more padding than bytes": (frame(F_DATA, PADDED, 3, b"\x04abc"), Code.PROTOCOL_ERROR),
    "HEADERS on an even stream": (frame(F_HEADERS, END_HEADERS, 98, BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS on stream 0": (frame(F_HEADERS, END_HEADERS, 0, BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS on an old stream": (frame(F_HEADERS, END_HEADERS, 1, BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS twice": (frame(F_HEADERS, END_HEADERS, 3, BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS behind the end": (
        frame(F_DATA, END_STREAM, 3, b"x") + frame(F_HEADERS, END_HEADERS | END_STREAM, 3, BLOCK),
        Code.STREAM_CLOSED,
    ),
    "HEADERS that mean nothing": (frame(F_HEADERS, END_HEADERS, 99, b"\xff"), Code.COMPRESSION_ERROR),
    "HEADERS out of a table": (frame(F_HEADERS, END_HEADERS, 99, b"\xbe"), Code.COMPRESSION_ERROR),
    "HEADERS that widen the table": (frame(F_HEADERS, END_HEADERS, 99, b"\x3f\x01" + BLOCK), Code.COMPRESSION_ERROR),
    "HEADERS of no text": (frame(F_HEADERS, END_HEADERS, 99, b"\x00\x01a\x01\xff"), Code.COMPRESSION_ERROR),
    "HEADERS that unpack to too much": (
        frame(F_HEADERS, END_HEADERS, 99, literal(("a", "b")) * 3000),
        Code.COMPRESSION_ERROR,
    ),
    "HEADERS over the limit": (frame(F_HEADERS, END_HEADERS, 99, bytes(70_000)), Code.ENHANCE_YOUR_CALM),
    "HEADERS within HEADERS": (
        frame(F_HEADERS, 0, 99, BLOCK) + frame(F_HEADERS, END_HEADERS, 101, BLOCK),
        Code.PROTOCOL_ERROR,
    ),
    "DATA within HEADERS": (frame(F_HEADERS, 0, 99, BLOCK) + frame(F_DATA, 0, 3, b"x"), Code.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (
        frame(F_HEADERS, 0, 99, BLOCK) + frame(F_CONTINUATION, END_HEADERS, 101, BLOCK),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (frame(F_CONTINUATION, END_HEADERS, 3, BLOCK), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(F_PUSH_PROMISE, END_HEADERS, 3, bytes(4) + BLOCK), Code.PROTOCOL_ERROR),
    "RST_STREAM on a stream that is not open yet": (frame(F_RESET, 0, 99, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM of a wrong size": (frame(F_RESET, 0, 3, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS that push strangely": (settings({S_ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "SETTINGS of a wrong size": (frame(F_SETTINGS, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "SETTINGS of too large a window": (settings({S_WINDOW: 1 << 31}), Code.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of nothing": (credit(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on a stream that is not open yet": (credit(99, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of too much": (credit(3, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "PING of a wrong size": (frame(F_PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(F_GOAWAY, 0, 3, bytes(8)), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("is_split", [False, True])
def test_what_the_protocol_forbids_is_refused(case: str, is_split: bool) -> None:
    data, code = BROKEN[case]
    connection = new(opened=1)
    step = max(len(data) // 50, 1) if is_split else len(data)
    assert fed(connection, [data[at : at + step] for at in range(0, len(data), step)])[1]
    kind, _, _, payload = frames(said(connection))[-1]
    assert kind == F_GOAWAY
    assert int.from_bytes(payload[4:8], "big") == code


class TestFloods:
    def test_rapid_resets(self) -> None:
        connection = new()
        opened, why = fed(
            connection,
            (
                frame(F_HEADERS, END_HEADERS, stream, BLOCK) + frame(F_RESET, 0, stream, bytes((0, 0, 0, 8)))
                for stream in range(3, 100_001, 2)
            ),
        )
        assert "end before they are answered" in why
        assert 500 <= opened <= 2000
        assert connection.streams == 0

    def test_resets_among_answers_are_no_flood(self) -> None:
        connection = new()
        for stream in range(3, 20_003, 4):
            connection.receive(frame(F_HEADERS, END_HEADERS, stream, BLOCK) + frame(F_RESET, 0, stream, bytes(4)))
            connection.receive(
                frame(F_HEADERS, END_HEADERS, stream + 2, BLOCK) + frame(F_DATA, END_STREAM, stream + 2, b"x")
            )
            connection.respond(stream + 2, AROUND, b"", b"y")
            connection.out.clear()

    @pytest.mark.parametrize(
        "data",
        [
            frame(F_CONTINUATION, 0, 5, b""),
            frame(F_CONTINUATION, 0, 5, BLOCK),
            frame(F_CONTINUATION, 0, 5, bytes(STREAM_WINDOW)),
        ],
    )
    def test_continuations(self, data: bytes) -> None:
        connection = new(opened=1)
        connection.receive(frame(F_HEADERS, 0, 5, BLOCK))
        _, why = fed(connection, [data] * 20_000)
        assert "flood" in why or "a header block of more than" in why
        assert connection.buffered <= (1 << 16) + len(data)

    @pytest.mark.parametrize(
        "data",
        [
            frame(F_PING, 0, 0, bytes(8)),
            settings({}),
            frame(F_DATA, 0, 3, b""),
            frame(F_DATA, PADDED, 3, b"\x00"),
            frame(F_PRIORITY, 0, 3, bytes(5)),
            frame(0x99, 0, 3, b"x"),
            credit(0, 1),
        ],
    )
    def test_frames_that_carry_nothing(self, data: bytes) -> None:
        connection = new(opened=1)
        assert "flood" in fed(connection, [data] * 20_000)[1]

    def test_the_windows_of_a_slow_reader_are_none(self) -> None:
        connection = new(window=0, opened=1)
        connection.receive(frame(F_DATA, END_STREAM, 3, b"x"))
        connection.respond(3, AROUND, b"", bytes(25_000))
        for _ in range(25_000):
            connection.receive(credit(3, 1))
            connection.out.clear()
        assert connection.streams == 0

    def test_refused_streams(self) -> None:
        connection = new(opened=MAX_STREAMS)
        _, why = fed(connection, (frame(F_HEADERS, END_HEADERS, stream, BLOCK) for stream in range(99, 10_001, 2)))
        assert "end before they are answered" in why


class TestDraining:
    def test_two_steps(self) -> None:
        connection = new()
        connection.drain()
        connection.drain()
        first, ping = frames(said(connection))
        assert first[3] == struct.pack(">II", LARGEST_STREAM, 0)
        data = frame(F_HEADERS, END_HEADERS, 3, BLOCK) + frame(F_DATA, END_STREAM, 3, b"x")
        assert len(plain(connection.receive(data))) == 2  # the client had not heard
        assert not connection.closed
        connection.receive(frame(F_PING, ACK, 0, ping[3]))
        assert connection.closed
        assert frames(said(connection))[-1] == (F_GOAWAY, 0, 0, struct.pack(">II", 3, 0))
        late = frame(F_HEADERS, END_HEADERS, 5, BLOCK) + frame(F_DATA, 0, 5, b"x") + credit(5, 9)
        assert connection.receive(late + frame(F_RESET, 0, 5, bytes(4))) == []
        connection.respond(3, AROUND, b"", b"y")
        assert connection.streams == 0
        assert said(connection)

    def test_at_once(self) -> None:
        connection = new(opened=1)
        connection.close()
        connection.close()
        assert frames(said(connection)) == [(F_GOAWAY, 0, 0, struct.pack(">II", 3, 0))]

    def test_a_pong_that_nobody_asked_for_is_nothing(self) -> None:
        connection = new()
        connection.receive(frame(F_PING, ACK, 0, b"farewell"))
        assert not connection.closed


pieces = st.lists(
    st.sampled_from(
        [
            frame(F_HEADERS, END_HEADERS, 3, BLOCK),
            frame(F_HEADERS, END_HEADERS, 5, FIRST_BLOCK),
            frame(F_HEADERS, END_HEADERS | END_STREAM, 5, BLOCK),
            frame(F_HEADERS, END_HEADERS, 7, BLOCK) + frame(F_DATA, END_STREAM, 7, b"whole"),
            frame(F_HEADERS, 0, 9, BLOCK[:5]),
            frame(F_CONTINUATION, END_HEADERS, 9, BLOCK[5:]),
            frame(F_DATA, 0, 3, b"some"),
            frame(F_DATA, END_STREAM, 3, bytes(5000)),
            frame(F_DATA, PADDED | END_STREAM, 5, b"\x01xy"),
            frame(F_RESET, 0, 3, bytes(4)),
            frame(F_PING, 0, 0, bytes(8)),
            settings({S_WINDOW: 3}),
            credit(0, 5),
            credit(3, 7),
            frame(0x55, 0, 1, b"?"),
        ]
    ),
    max_size=12,
)


def outcome(connection: ServerConnection[Any], parts: Iterable[bytes]) -> tuple[list[Any], str, bytes]:
    """All events, the error that ended them, and what was said, a body being answered as soon as it is whole."""
    events: list[Any] = []
    for part in parts:
        try:
            events += plain(connection.receive(part))
        except ProtocolError as error:
            return events, str(error), said(connection)
    return events, "", said(connection)


@given(pieces, st.lists(st.integers(0, 10**6), max_size=8), st.data())
def test_how_it_comes_in_pieces_makes_no_difference(parts: list[bytes], places: list[int], data: Any) -> None:
    wire = bytearray(b"".join(parts))
    for place in data.draw(st.lists(st.integers(0, 10**6), max_size=2)):
        if wire:
            wire[place % len(wire)] ^= data.draw(st.integers(1, 255))
    whole = outcome(new(), [bytes(wire)])
    ends = sorted({place % (len(wire) + 1) for place in places} | {len(wire)})
    pieced = new()
    found = outcome(pieced, [bytes(wire[first:last]) for first, last in zip([0, *ends], ends, strict=False)])
    assert found[1] == whole[1]
    assert pieced.buffered <= 9 + STREAM_WINDOW + (1 << 17)
    if not whole[1]:
        assert found == whole
    thrifty = new(most_work=1)
    by_turns = outcome(thrifty, [bytes(wire), *[b""] * len(wire)])
    assert by_turns[1] == whole[1]
    if not whole[1]:
        assert (by_turns[0], thrifty.unread) == (whole[0], None)
    single = outcome(new(), [bytes((byte,)) for byte in wire])
    assert single[1] == whole[1]
    if not whole[1]:
        assert single[0] == whole[0]


FLOODS = {
    "pings": frame(F_PING, 0, 0, bytes(8)) * 300,
    "settings": settings({S_WINDOW: 70_000}) * 30,
    "farewells": frame(F_GOAWAY, 0, 0, bytes(1000)) * 300,
    "unknown frames": frame(0x55, 0, 1, b"?" * 1000) * 300,
    "headers": b"".join(
        frame(F_HEADERS, END_HEADERS | END_STREAM, stream, literal(("x", f"{stream:099}")))
        for stream in range(3, 63, 2)
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_read_does_bounded_work_and_the_rest_comes_later(flood: str) -> None:
    """However much is read, each ``receive`` says little; whole requests between the frames are found in the end."""
    connection = new(max_streams=1000, most_work=100)
    last = 1001
    behind = frame(F_HEADERS, END_HEADERS, last, BLOCK) + frame(F_DATA, END_STREAM, last, b"x")
    events = connection.receive(FLOODS[flood] + behind)
    rounds = 1
    while connection.unread is not None:
        assert not any(event[0] is REQUEST for event in events)
        events = connection.receive(b"")
        rounds += 1
    assert rounds >= 2
    assert plain(events)[-2:] == [(HEADERS, last, ASK, False), (DATA, last, b"x", True)]


def test_what_is_read_before_the_rest_is_done_comes_behind_it() -> None:
    connection = new(most_work=1)
    connection.receive(frame(F_PING, 0, 0, b"11111111") + frame(F_PING, 0, 0, b"22222222"))
    connection.receive(frame(F_PING, 0, 0, b"33333333")[:12])
    connection.receive(frame(F_PING, 0, 0, b"33333333")[12:])
    while connection.unread is not None:
        connection.receive(b"")
    pongs = [payload[:1] for kind, flags, _, payload in frames(said(connection)) if kind == F_PING and flags & ACK]
    assert pongs == [b"1", b"2", b"3"]


def test_more_settings_than_there_are_is_a_flood() -> None:
    assert (
        refused(new(), frame(F_SETTINGS, 0, 0, struct.pack(">HI", S_WINDOW, 65_535) * 65))[0] is Code.ENHANCE_YOUR_CALM
    )


class Client:
    """h2's own idea of a client, which sends bodies in pieces of any size and reads answers at its own pace."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.connection.initiate_connection()
        self.rest: dict[int, bytes] = {}
        self.heads: dict[int, Any] = {}
        self.bodies: dict[int, bytes] = defaultdict(bytes)
        self.tails: dict[int, Any] = {}
        self.owed: list[tuple[int, int]] = []

    def receive(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = tuple(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.owed.append((event.stream_id, event.flow_controlled_length))
            elif isinstance(event, h2.events.TrailersReceived):
                self.tails[event.stream_id] = tuple(event.headers)
            assert not isinstance(event, h2.events.ConnectionTerminated | h2.events.StreamReset), event

    def step(self) -> None:
        draw, connection = self.draw, self.connection
        what = draw.random()
        if what < 0.5 and self.rest:
            stream = draw.choice(list(self.rest))
            rest = self.rest[stream]
            room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
            pad = draw.choice([None, 0, 9])
            size = min(len(rest), max(room - (0 if pad is None else pad + 1), 0), draw.choice([0, 1, 500, 1 << 20]))
            if room < size + (0 if pad is None else pad + 1):
                return
            self.rest[stream] = rest[size:]
            if size == len(rest):
                del self.rest[stream]
            connection.send_data(stream, rest[:size], end_stream=size == len(rest), pad_length=pad)
        elif what < 0.9 and self.owed:
            stream, size = self.owed.pop(draw.randrange(len(self.owed)))
            if size:
                connection.acknowledge_received_data(size, stream)
        elif what < 0.95:
            connection.ping(draw.randbytes(8))


@pytest.mark.parametrize("seed", range(30))
def test_bodies_arrive_byte_by_byte_whatever_the_client_does(seed: int) -> None:
    draw = random.Random(seed)
    client = Client(draw)
    server: ServerConnection[Any] = ServerConnection(lambda headers: headers, max_streams=5, largest_body=400_000)
    to_server, to_client = bytearray(), bytearray()
    bodies: dict[int, bytes] = {}
    asked: dict[int, Any] = {}
    got: dict[int, bytes] = defaultdict(bytes)
    owing: list[int] = []
    expected: set[int] = set()
    for turn in range(200_000):
        if len(bodies) < 25 and len(bodies) - len(client.tails) < 5 and draw.random() < 0.2:
            stream = client.connection.get_next_available_stream_id()
            bodies[stream] = client.rest[stream] = draw.randbytes(draw.choice([1, 50, 5000, 70_000, 300_000]))
            client.connection.send_headers(stream, [*ASK, ("x", str(stream % 3))])
        client.step()
        to_server += client.connection.data_to_send()
        size = draw.choice([1, 9, 100, 10_000, 1 << 20]) if turn < 5000 else 1 << 20
        for kind, stream, value, ended in server.receive(bytes(to_server[:size])):
            body = value
            if kind in (HEADERS, REQUEST):
                asked[stream] = value[0] if kind is REQUEST else value
                body = value[1] if kind is REQUEST else b""
            got[stream] += body
            if stream not in expected and kind is not REQUEST:
                expected.add(stream)
                server.expect(stream, len(bodies[stream]) - len(got[stream]))
            if ended:
                owing.append(stream)
                if kind is not REQUEST:
                    server.release(stream, len(bodies[stream]))
        del to_server[:size]
        if owing and draw.random() < 0.3:
            stream = owing.pop(draw.randrange(len(owing)))
            server.respond(stream, AROUND, b"", got[stream][::-1])
        to_client += said(server)
        size = draw.choice([1, 5, 100, 10_000, 1 << 20]) if turn < 5000 else 1 << 20
        client.receive(bytes(to_client[:size]))
        del to_client[:size]
        if len(bodies) == 25 == len(client.tails):
            break
    assert len(client.tails) == 25
    for stream, body in bodies.items():
        assert asked[stream] == (*ASK, ("x", str(stream % 3)))
        assert got[stream] == body
        assert client.heads[stream] == HEAD
        assert client.bodies[stream] == body[::-1]
        assert client.tails[stream] == TAIL
    assert (server.streams, server.held, server.waiting) == (0, 0, 0)
