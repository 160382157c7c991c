"""HTTP/2 from byte strings: frames made by hand, and h2 as a server that nobody here wrote."""

import gc
import random
import re
import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.http2.client import ClientConnection
from drumfire.sut.kserve.http2.frames import DATA, GOAWAY, HEADERS, PREFACE, REPLY, RESET, Code, frame
from tests.support.frames import frames, literal, said

(
    F_DATA,
    F_HEADERS,
    F_PRIORITY,
    F_RESET,
    F_SETTINGS,
    F_PUSH_PROMISE,
    F_PING,
    F_GOAWAY,
    F_WINDOW_UPDATE,
    F_CONTINUATION,
) = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, WINDOW, MAX_FRAME, HEADER_LIST = 1, 2, 3, 4, 5, 6

ASK = ((":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "h:1"), ("te", "trailers"))
NO_TABLE = b"\x20"
"""A header block's first byte by which its writer gives up its table."""


def settings_frame(*pairs: tuple[int, int]) -> bytes:
    return frame(F_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, size: int) -> bytes:
    return frame(F_WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


ACKNOWLEDGED = frame(F_SETTINGS, ACK, 0)
GREETING = settings_frame() + ACKNOWLEDGED


def new(*pairs: tuple[int, int], opened: int = 0) -> ClientConnection[Any]:
    """A connection whose server has told its settings and taken ours; streams up to ``opened`` were opened."""
    connection: ClientConnection[Any] = ClientConnection(lambda headers: headers)
    connection.receive(settings_frame(*pairs) + ACKNOWLEDGED)
    for _ in range(1, opened + 1, 2):
        connection.request(ASK, b"x")
    connection.out.clear()
    return connection


GOOD, LAST = (("a", "1"),), (("z", "0"),)
FIRST_BLOCK, LAST_BLOCK = NO_TABLE + literal(*GOOD), literal(*LAST)


def plain(events: Iterable[Any]) -> list[tuple[Any, int, Any, bool]]:
    return [
        (kind, stream, bytes(value) if kind in (DATA, REPLY) else value, ended) for kind, stream, value, ended in events
    ]


def outcome(connection: ClientConnection[Any], pieces: Iterable[bytes]) -> tuple[list[Any], str, bytes]:
    """All events of the pieces, the error that ended them, and what was said."""
    events: list[Any] = []
    for piece in pieces:
        try:
            events += plain(connection.receive(piece))
        except ProtocolError as error:
            return events, str(error), said(connection)
    return events, "", said(connection)


def split(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[first:last] for first, last in zip([0, *ends], ends, strict=False)]


class TestGreeting:
    def test_preface_settings_and_window(self) -> None:
        data = said(ClientConnection(lambda headers: headers))
        assert data.startswith(PREFACE)
        (kind, flags, stream, payload), update = frames(data[len(PREFACE) :])
        assert (kind, flags, stream) == (F_SETTINGS, 0, 0)
        assert dict(struct.iter_unpack(">HI", payload)) == {
            TABLE_SIZE: 0,
            ENABLE_PUSH: 0,
            WINDOW: 256 << 10,
            MAX_FRAME: 1 << 20,
            HEADER_LIST: 1 << 14,
        }
        assert update == (F_WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big"))

    def test_settings_are_taken_and_acknowledged(self) -> None:
        connection: ClientConnection[Any] = ClientConnection(lambda headers: headers)
        assert not connection.settled
        said(connection)
        assert connection.receive(settings_frame((MAX_STREAMS, 7), (HEADER_LIST, 9), (0x99, 5))) == []
        assert connection.settled
        assert connection.max_streams == 7
        assert said(connection) == ACKNOWLEDGED

    @pytest.mark.parametrize(
        "data",
        [
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            frame(F_PING, 0, 0, b"12345678"),
            frame(F_DATA, 0, 1, b"x"),
            frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK),
            ACKNOWLEDGED,
        ],
    )
    def test_a_server_that_speaks_something_else_is_named(self, data: bytes) -> None:
        with pytest.raises(ProtocolError, match="does not speak HTTP/2"):
            ClientConnection(lambda headers: headers).receive(data)


class TestRequests:
    def test_a_small_request_is_two_frames_in_one_piece(self) -> None:
        connection, peer = new(), hpack.Decoder()
        blocks = []
        for stream in (1, 3, 5, 7):
            assert connection.request(ASK, b"body!") == stream
            assert len(connection.out) == 1
            headers, data = frames(said(connection))
            assert headers[:3] == (F_HEADERS, END_HEADERS, stream)
            assert data == (F_DATA, END_STREAM, stream, b"body!")
            blocks.append(headers[3])
            assert tuple(peer.decode(headers[3])) == ASK
        assert len(blocks[0]) > len(ASK)
        assert blocks[1] == blocks[2] == blocks[3]
        assert len(blocks[1]) == len(ASK)  # one byte each, of the table
        assert all(byte & 0x80 for byte in blocks[1])

    def test_a_large_body_is_not_copied(self) -> None:
        connection = new()
        body = bytes(10_000)
        connection.request(ASK, body)
        assert connection.out[-1] is body
        assert frames(said(connection))[1] == (F_DATA, END_STREAM, 1, body)

    def test_headers_longer_than_a_frame_are_continued(self) -> None:
        connection, peer = new(), hpack.Decoder(1 << 20)
        ask = (*ASK, ("x", "~" * 50_000))
        for _ in range(3):
            stream = connection.request(ask, b"body")
            first, *more, data = frames(said(connection))
            assert first[:3] == (F_HEADERS, 0, stream)
            assert [one[:3] for one in more[:-1]] == [(F_CONTINUATION, 0, stream)] * (len(more) - 1)
            assert more[-1][:3] == (F_CONTINUATION, END_HEADERS, stream)
            assert max(len(one[3]) for one in (first, *more)) <= 16_384
            assert tuple(peer.decode(first[3] + b"".join(one[3] for one in more))) == ask
            assert data == (F_DATA, END_STREAM, stream, b"body")

    @given(
        st.lists(
            st.tuples(st.sampled_from([-1, 0, 50, 100, 4096, 65_536]), st.integers(0, 9), st.integers(1, 2)),
            max_size=30,
        )
    )
    def test_any_headers_are_read_right_whatever_table_the_peer_allows(self, steps: list[tuple[int, int, int]]) -> None:
        """Each step: a new table size (or none), then so many times the same of ten header lists."""
        connection, peer = new(), hpack.Decoder()
        lists = [(*ASK, (f"name{at % 4}", f"value{at}"), ("same", "value")) for at in range(10)]
        for size, which, times in steps:
            if size >= 0:
                connection.receive(settings_frame((TABLE_SIZE, size)))
                peer.max_allowed_table_size = size
            said(connection)
            for _ in range(times):
                connection.request(lists[which], b"x")
                assert tuple(peer.decode(frames(said(connection))[0][3])) == lists[which]

    def test_the_smallest_and_the_last_table_size_are_told(self) -> None:
        connection, peer = new(), hpack.Decoder()
        for _ in range(3):
            connection.request(ASK, b"x")
            peer.decode(frames(said(connection))[0][3])
        connection.receive(settings_frame(*[(TABLE_SIZE, size) for size in (4096, 0, 0, 300, 300) * 10]))
        said(connection)
        connection.request(ASK, b"x")
        block = frames(said(connection))[0][3]
        assert block.startswith(b"\x20\x3f\x8d\x02")
        peer.max_allowed_table_size = 300
        assert tuple(peer.decode(block)) == ASK

    def test_headers_are_known_by_what_they_say_though_their_place_in_memory_comes_again(self) -> None:
        connection, peer = new(), hpack.Decoder()
        for at in range(200):
            ask = (*ASK, ("x", str(at % 3)))
            connection.request(ask, b"body")
            assert tuple(peer.decode(frames(said(connection))[0][3])) == ask
            del ask
            gc.collect(0)


class TestReplies:
    def test_a_reply_in_its_parts(self) -> None:
        connection = new(opened=1)
        data = (
            frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK)
            + frame(F_DATA, 0, 1, b"small")
            + frame(F_DATA, 0, 1, bytes(5000))
            + frame(F_HEADERS, END_HEADERS | END_STREAM, 1, LAST_BLOCK)
        )
        events = connection.receive(data)
        assert plain(events) == [
            (HEADERS, 1, GOOD, False),
            (DATA, 1, b"small", False),
            (DATA, 1, bytes(5000), False),
            (HEADERS, 1, LAST, True),
        ]
        assert isinstance(events[1][2], bytes)
        assert isinstance(events[2][2], memoryview)

    def test_padding_and_priority_are_taken_off(self) -> None:
        connection = new(opened=1)
        padded = bytes((3,)) + b"body" + bytes(3)
        head = bytes((2,)) + b"\x80\x00\x00\x03\xff" + FIRST_BLOCK + bytes(2)
        data = (
            frame(F_HEADERS, END_HEADERS | PADDED | PRIORITY, 1, head)
            + frame(F_DATA, PADDED, 1, padded)
            + frame(F_DATA, PADDED | END_STREAM, 1, bytes((0,)))
        )
        assert plain(connection.receive(data)) == [
            (HEADERS, 1, GOOD, False),
            (DATA, 1, b"body", False),
            (DATA, 1, b"", True),
        ]

    def test_a_header_block_in_many_frames(self) -> None:
        connection = new(opened=1)
        block = NO_TABLE + literal(*[(f"n{at}", "v" * 100) for at in range(100)])
        parts = [block[at : at + 7] for at in range(0, len(block), 7)]
        data = frame(F_HEADERS, END_STREAM, 1, parts[0])
        data += b"".join(frame(F_CONTINUATION, 0, 1, part) for part in parts[1:])
        assert connection.receive(data) == []
        assert connection.buffered == len(block)
        assert connection.receive(frame(F_CONTINUATION, END_HEADERS, 1)) == [
            (HEADERS, 1, tuple((f"n{at}", "v" * 100) for at in range(100)), True)
        ]
        assert connection.buffered == 0

    def test_the_bit_before_the_stream_means_nothing(self) -> None:
        connection = new(opened=1)
        data = frame(F_HEADERS, END_HEADERS, 1 << 31 | 1, FIRST_BLOCK) + frame(F_DATA, END_STREAM, 1 << 31 | 1, b"x")
        assert [event[1] for event in connection.receive(data)] == [1, 1]

    def test_before_our_settings_are_acknowledged_the_same_bytes_may_mean_something_else(self) -> None:
        connection: ClientConnection[Any] = ClientConnection(lambda headers: headers)
        connection.receive(settings_frame())
        for _ in range(4):
            connection.request(ASK, b"x")
        said(connection)
        for stream, value in ((1, "one"), (3, "two")):
            add = b"\x40\x01k" + bytes((len(value),)) + value.encode()
            data = frame(F_HEADERS, END_HEADERS, stream, add) + frame(F_HEADERS, END_HEADERS, stream, b"\xbe")
            assert [event[2] for event in connection.receive(data)] == [(("k", value),)] * 2
        connection.receive(ACKNOWLEDGED)
        with pytest.raises(ProtocolError, match="cannot be decoded"):
            connection.receive(frame(F_HEADERS, END_HEADERS, 5, b"\xbe"))
        assert frames(said(connection))[-1][3][4:8] == bytes((0, 0, 0, Code.COMPRESSION_ERROR))

    def test_after_that_a_block_is_read_once(self) -> None:
        reads: list[Any] = []

        def read(headers: Any) -> int:
            reads.append(headers)
            return len(reads)

        connection = ClientConnection(read)
        connection.receive(settings_frame())
        for _ in range(10):
            connection.request(ASK, b"x")
        block = frame(F_HEADERS, END_HEADERS, 1, literal(*GOOD))
        connection.receive(block * 3)
        assert len(reads) == 3
        connection.receive(ACKNOWLEDGED + frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK))
        assert [event[2] for event in connection.receive(block * 3)] == [5, 5, 5]

    def test_blocks_that_never_come_again_do_not_push_out_those_that_do_for_good(self) -> None:
        reads = 0

        def read(headers: Any) -> int:
            nonlocal reads
            reads += 1
            return reads

        connection = ClientConnection(read)
        connection.receive(GREETING)
        connection.request(ASK, b"x")
        connection.receive(frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK))
        for at in range(1000):
            connection.receive(frame(F_HEADERS, END_HEADERS, 1, literal(("date", str(at)))))
            connection.receive(frame(F_HEADERS, END_HEADERS, 1, LAST_BLOCK))
        assert 1001 < reads < 1020

    def test_reset_and_going_away(self) -> None:
        connection = new(opened=3)
        data = frame(F_RESET, 0, 3, (7).to_bytes(4, "big")) + frame(
            F_GOAWAY, 0, 0, struct.pack(">II", 1 << 31 | 1, 11) + b"too\nmany \x1b[31mpings"
        )
        assert connection.receive(data) == [
            (RESET, 3, Code.REFUSED_STREAM, True),
            (GOAWAY, 1, "ENHANCE_YOUR_CALM too many [31mpings", False),
        ]
        assert connection.receive(frame(F_GOAWAY, 0, 0, struct.pack(">II", 1, 99)))[0][2] == "error code 99"

    def test_a_ping_is_answered_and_an_answer_is_not(self) -> None:
        connection = new()
        connection.receive(frame(F_PING, 0, 0, b"12345678") + frame(F_PING, ACK, 0, b"abcdefgh"))
        assert said(connection) == frame(F_PING, ACK, 0, b"12345678")

    def test_what_nobody_knows_is_passed_over(self) -> None:
        connection = new(opened=1)
        assert connection.receive(frame(0x77, 0xFF, 1, b"?" * 50) + frame(F_PRIORITY, 0, 1, bytes(5))) == []
        assert said(connection) == b""

    def test_the_connections_window_is_given_back_with_padding(self) -> None:
        connection = new(opened=1)
        piece = frame(F_DATA, PADDED, 1, bytes((255,)) + bytes((1 << 20) - 1))
        plain_piece = frame(F_DATA, 0, 1, bytes(1 << 20))
        for _ in range(8):
            connection.receive(piece)
        for _ in range(7):
            connection.receive(plain_piece)
        assert said(connection) == 8 * window_update(1, 256)  # a stream's window: of the padding, which nobody keeps
        connection.receive(plain_piece)
        assert said(connection) == window_update(0, 1 << 24)

    def test_close_and_cancel(self) -> None:
        connection = new(opened=1)
        connection.cancel(1)
        connection.close()
        assert said(connection) == frame(F_RESET, 0, 1, (8).to_bytes(4, "big")) + frame(F_GOAWAY, 0, 0, bytes(8))


class TestFlowControl:
    def sent(self, connection: ClientConnection[Any]) -> dict[int, bytes]:
        """By stream, the data that was said; an ended one's has b"." behind."""
        bodies: dict[int, bytes] = defaultdict(bytes)
        for kind, flags, stream, payload in frames(said(connection)):
            if kind == F_DATA:
                bodies[stream] += payload + (b"." if flags & END_STREAM else b"")
        return dict(bodies)

    def test_the_streams_window_and_the_connections(self) -> None:
        connection = new()
        body = random.Random(1).randbytes(100_000)
        connection.request(ASK, body)
        assert self.sent(connection) == {1: body[:65_535]}
        connection.receive(window_update(1, 10))
        assert self.sent(connection) == {}
        connection.receive(window_update(0, 5))
        assert self.sent(connection) == {1: body[65_535:65_540]}
        connection.receive(window_update(0, 1 << 20))
        assert self.sent(connection) == {1: body[65_540:65_545]}
        connection.receive(window_update(1, 1 << 20))
        assert self.sent(connection) == {1: body[65_545:] + b"."}

    def test_frames_are_no_larger_than_the_peer_allows(self) -> None:
        connection = new((WINDOW, 1 << 20))
        connection.receive(window_update(0, 1 << 20))
        body = bytes(100_000)

        def sizes() -> list[int]:
            connection.request(ASK, body)
            return [len(payload) for kind, _, _, payload in frames(said(connection)) if kind == F_DATA]

        assert sizes() == [16_384] * 6 + [1696]
        connection.receive(settings_frame((MAX_FRAME, 50_000)))
        assert sizes() == [50_000, 50_000]
        connection.receive(settings_frame((MAX_FRAME, 16_384)))
        assert sizes()[0] == 16_384

    def test_a_window_may_become_negative(self) -> None:
        connection = new()
        body = random.Random(2).randbytes(70_000)
        connection.request(ASK, body)
        assert len(self.sent(connection)[1]) == 65_535
        connection.receive(settings_frame((WINDOW, 0)) + window_update(0, 1 << 20))
        assert self.sent(connection) == {}
        connection.receive(window_update(1, 65_535))
        assert self.sent(connection) == {}
        connection.receive(window_update(1, 10))
        assert self.sent(connection) == {1: body[65_535:65_545]}
        connection.receive(settings_frame((WINDOW, 20)))
        assert self.sent(connection) == {1: body[65_545:65_565]}
        connection.request(ASK, b"y" * 21)
        assert self.sent(connection) == {3: b"y" * 20}
        connection.receive(settings_frame((WINDOW, 65_535)))
        assert self.sent(connection) == {1: body[65_565:] + b".", 3: b"y."}

    def test_a_small_request_waits_behind_bodies_that_wait(self) -> None:
        connection = new()
        connection.request(ASK, bytes(65_536))
        self.sent(connection)
        connection.request(ASK, b"small")
        assert self.sent(connection) == {}
        connection.receive(window_update(0, 1))
        assert self.sent(connection) == {3: b"s"}  # the first has still no window of its own
        connection.receive(window_update(1, 1) + window_update(0, 100))
        assert self.sent(connection) == {1: b"\0.", 3: b"mall."}
        connection.request(ASK, b"small")
        assert len(connection.out) == 1

    @pytest.mark.parametrize("how", ["cancelled", "reset", "answered"])
    def test_of_a_body_that_nobody_reads_no_more_is_sent(self, how: str) -> None:
        connection = new()
        connection.request(ASK, bytes(70_000))
        said(connection)
        if how == "cancelled":
            connection.cancel(1)
        elif how == "reset":
            connection.receive(frame(F_RESET, 0, 1, bytes(4)))
        else:
            connection.receive(frame(F_HEADERS, END_HEADERS | END_STREAM, 1, FIRST_BLOCK))
        assert frames(said(connection)) == ([] if how == "reset" else [(F_RESET, 0, 1, (8).to_bytes(4, "big"))])
        connection.receive(window_update(0, 1 << 20) + window_update(1, 1 << 20))
        assert said(connection) == b""
        connection.request(ASK, b"next")
        assert len(connection.out) == 1

    @pytest.mark.parametrize(
        "data",
        [
            window_update(0, 2**31 - 1) + window_update(0, 1),
            window_update(1, 2**31 - 1) + window_update(1, 1),
            window_update(1, 2**31 - 1) + settings_frame((WINDOW, 65_536)),
        ],
    )
    def test_windows_may_not_overflow(self, data: bytes) -> None:
        connection = new()
        connection.request(ASK, bytes(65_536))  # all but its last byte goes: both windows are 0
        connection.receive(data[:13])
        said(connection)
        with pytest.raises(ProtocolError, match="window above"):
            connection.receive(data[13:])
        assert frames(said(connection))[-1][3][:8] == struct.pack(">II", 0, Code.FLOW_CONTROL_ERROR)


BROKEN: dict[str, tuple[bytes, Code]] = {
    "a frame over our limit": (b"\x10\x00\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
    "a whole DATA frame over our limit": (frame(F_DATA, 0, 1, bytes((1 << 20) + 1)), Code.FRAME_SIZE_ERROR),
    "DATA without a stream": (frame(F_DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "DATA with more padding than bytes": (frame(F_DATA, PADDED, 1, b"\x04abc"), Code.PROTOCOL_ERROR),
    "DATA with padding and no bytes": (frame(F_DATA, PADDED, 1), Code.PROTOCOL_ERROR),
    "HEADERS without a stream": (frame(F_HEADERS, END_HEADERS, 0, FIRST_BLOCK), Code.PROTOCOL_ERROR),
    "HEADERS within padding": (frame(F_HEADERS, END_HEADERS | PADDED, 1, b"\x09abc"), Code.PROTOCOL_ERROR),
    "HEADERS within priority": (frame(F_HEADERS, END_HEADERS | PRIORITY, 1, b"abcd"), Code.FRAME_SIZE_ERROR),
    "HEADERS that mean nothing": (frame(F_HEADERS, END_HEADERS, 1, NO_TABLE + b"\xff"), Code.COMPRESSION_ERROR),
    "HEADERS of index 0": (frame(F_HEADERS, END_HEADERS, 1, NO_TABLE + b"\x80"), Code.COMPRESSION_ERROR),
    "HEADERS with a table we do not allow": (frame(F_HEADERS, END_HEADERS, 1, b"\x3f\x01\x88"), Code.COMPRESSION_ERROR),
    "HEADERS out of the table given up": (frame(F_HEADERS, END_HEADERS, 1, b"\xbe"), Code.COMPRESSION_ERROR),
    "HEADERS of no text": (frame(F_HEADERS, END_HEADERS, 1, NO_TABLE + b"\x00\x01a\x01\xff"), Code.COMPRESSION_ERROR),
    "HEADERS that unpack to too much": (
        frame(F_HEADERS, END_HEADERS, 1, NO_TABLE + literal(("a", "b")) * 3000),
        Code.COMPRESSION_ERROR,
    ),
    "HEADERS over the limit": (frame(F_HEADERS, END_HEADERS, 1, bytes(70_000)), Code.ENHANCE_YOUR_CALM),
    "HEADERS within HEADERS": (
        frame(F_HEADERS, 0, 1, NO_TABLE) + frame(F_HEADERS, END_HEADERS, 1, LAST_BLOCK),
        Code.PROTOCOL_ERROR,
    ),
    "DATA within HEADERS": (frame(F_HEADERS, 0, 1, NO_TABLE) + frame(F_DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    "an unknown frame within HEADERS": (frame(F_HEADERS, 0, 1, NO_TABLE) + frame(0x77, 0, 1), Code.PROTOCOL_ERROR),
    "PING within HEADERS": (frame(F_HEADERS, 0, 1, NO_TABLE) + frame(F_PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (
        frame(F_HEADERS, 0, 1, NO_TABLE) + frame(F_CONTINUATION, END_HEADERS, 3, LAST_BLOCK),
        Code.PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (frame(F_CONTINUATION, END_HEADERS, 1, LAST_BLOCK), Code.PROTOCOL_ERROR),
    "PRIORITY without a stream": (frame(F_PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "PRIORITY of a wrong size": (frame(F_PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "RST_STREAM without a stream": (frame(F_RESET, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "RST_STREAM of a wrong size": (frame(F_RESET, 0, 1, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (frame(F_SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS of a wrong size": (frame(F_SETTINGS, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with content": (frame(F_SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "SETTINGS that allow us to push": (settings_frame((ENABLE_PUSH, 1)), Code.PROTOCOL_ERROR),
    "SETTINGS of too small frames": (settings_frame((MAX_FRAME, 16_383)), Code.PROTOCOL_ERROR),
    "SETTINGS of too large frames": (settings_frame((MAX_FRAME, 1 << 24)), Code.PROTOCOL_ERROR),
    "SETTINGS of too large a window": (settings_frame((WINDOW, 1 << 31)), Code.FLOW_CONTROL_ERROR),
    "PUSH_PROMISE": (frame(F_PUSH_PROMISE, END_HEADERS, 1, bytes(4) + LAST_BLOCK), Code.PROTOCOL_ERROR),
    "PING on a stream": (frame(F_PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of a wrong size": (frame(F_PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(F_GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY of a wrong size": (frame(F_GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of a wrong size": (frame(F_WINDOW_UPDATE, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (window_update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of nothing on a stream": (window_update(1, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on a stream that is not open yet": (window_update(5, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE on a stream that is the server's": (window_update(2, 1), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("is_split", [False, True])
def test_what_the_protocol_forbids_is_refused(case: str, is_split: bool) -> None:
    data, code = BROKEN[case]
    connection = new(opened=3)
    step = max(len(data) // 50, 1) if is_split else len(data)
    _, error, rest = outcome(connection, [data[at : at + step] for at in range(0, len(data), step)])
    assert error
    assert "\n" not in error
    assert len(error) < 200
    last = frames(rest)[-1]
    assert last[:3] == (F_GOAWAY, 0, 0)
    assert last[3][:8] == struct.pack(">II", 0, code)


class TestFloods:
    @pytest.mark.parametrize(
        "one",
        [
            frame(F_PING, 0, 0, bytes(8)),
            settings_frame((MAX_STREAMS, 5)),
            window_update(1, 1),
            frame(F_DATA, 0, 1),
            frame(F_DATA, PADDED, 1, b"\x00"),
            frame(F_PRIORITY, 0, 1, bytes(5)),
            frame(0x77, 0, 1),
        ],
        ids=["PING", "SETTINGS", "WINDOW_UPDATE", "DATA", "padded DATA", "PRIORITY", "unknown"],
    )
    @pytest.mark.parametrize("at_once", [1, 100, 20_000])
    def test_frames_that_carry_nothing(self, one: bytes, at_once: int) -> None:
        connection = new(opened=1)
        events, error, data = outcome(connection, [one * at_once] * (20_000 // at_once))
        assert events == []
        assert "flood" in error
        assert len(data) < 10_002 * 17 + 200

    @pytest.mark.parametrize("at_once", [1, 7, 20_000])
    @pytest.mark.parametrize("carrier", ["DATA", "HEADERS", "REPLY", "RST_STREAM"])
    def test_as_many_with_something_between_are_none(self, at_once: int, carrier: str) -> None:
        connection = new(opened=1)
        connection.receive(frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK))
        between = {
            "DATA": frame(F_DATA, 0, 1, b"x"),
            "HEADERS": frame(F_HEADERS, END_HEADERS, 1, LAST_BLOCK),
            "REPLY": reply(1),
            "RST_STREAM": frame(F_RESET, 0, 1, bytes(4)),
        }[carrier]
        known(connection).receive(between)
        one = window_update(1, 1) + between
        count = sum(len(connection.receive(one * at_once)) for _ in range(20_000 // at_once))
        assert count == 20_000 // at_once * at_once

    @pytest.mark.parametrize("part", [b"", b"\x00", bytes(1000)])
    def test_a_header_block_without_an_end(self, part: bytes) -> None:
        connection = new(opened=1)
        connection.receive(frame(F_HEADERS, 0, 1, NO_TABLE))
        _, error, _ = outcome(connection, [frame(F_CONTINUATION, 0, 1, part)] * 20_000)
        assert ("more than 16384 bytes" if len(part) > 1 else "flood") in error
        assert connection.buffered <= (1 << 14) + len(part)


def known(connection: ClientConnection[Any]) -> ClientConnection[Any]:
    """After a first reply the connection knows its form: headers, a body of 6 bytes "ab..ef", trailers."""
    connection.receive(frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK))  # with the table's end: not the usual one
    (head,) = connection.receive(frame(F_HEADERS, END_HEADERS, 1, literal(*GOOD)))
    (last,) = connection.receive(frame(F_HEADERS, END_HEADERS | END_STREAM, 1, LAST_BLOCK))
    connection.know(head[2], re.compile(rb"ab.{2}ef", re.DOTALL), 6, last[2])
    return connection


def reply(stream: int, body: bytes = b"ab\n\xffef") -> bytes:
    return (
        frame(F_HEADERS, END_HEADERS, stream, literal(*GOOD))
        + frame(F_DATA, 0, stream, body)
        + frame(F_HEADERS, END_HEADERS | END_STREAM, stream, LAST_BLOCK)
    )


def in_parts(events: list[Any]) -> list[Any]:
    """``REPLY`` events as what they stand for."""
    found = []
    for kind, stream, value, ended in events:
        if kind is REPLY:
            found += [(HEADERS, stream, GOOD, False), (DATA, stream, value, False), (HEADERS, stream, LAST, True)]
        else:
            found.append((kind, stream, value, ended))
    return found


class TestKnownReplies:
    def test_they_are_one_event(self) -> None:
        connection = known(new(opened=9))
        assert connection.receive(reply(3) + reply(9, b"ab12ef") + frame(F_PING, ACK, 0, bytes(8)) + reply(5)) == [
            (REPLY, 3, b"ab\n\xffef", True),
            (REPLY, 9, b"ab12ef", True),
            (REPLY, 5, b"ab\n\xffef", True),
        ]

    def test_what_is_not_quite_one_comes_in_its_parts(self) -> None:
        connection = known(new(opened=9))
        first, second = frame(F_HEADERS, END_HEADERS, 3, literal(*GOOD)), reply(3)[: -9 - len(LAST_BLOCK)]
        other_body = first + frame(F_DATA, 0, 5, b"ab12ef") + frame(F_HEADERS, 5, 3, LAST_BLOCK)
        other_trailers = second + frame(F_HEADERS, 5, 5, LAST_BLOCK)
        for data in (reply(3, b"ab12eF"), reply(3, b"ab12ef!"), other_body, other_trailers):
            assert [event[0] for event in connection.receive(data)] == [HEADERS, DATA, HEADERS]

    @given(
        st.lists(
            st.one_of(
                st.builds(reply, st.sampled_from([1, 3, 5, 2**31 - 1]), st.sampled_from([b"ab12ef", b"ab123f", b"a"])),
                st.sampled_from(
                    [
                        frame(F_HEADERS, 0, 3, literal(*GOOD)),
                        frame(F_CONTINUATION, END_HEADERS, 3, LAST_BLOCK),
                        frame(F_PING, 0, 0, bytes(8)),
                    ]
                ),
            ),
            max_size=5,
        ),
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=2),
        st.lists(st.integers(0, 10**6), max_size=5),
    )
    def test_they_change_nothing_but_the_form_of_events(
        self, pieces: list[bytes], changes: list[tuple[int, int]], places: list[int]
    ) -> None:
        data = bytearray(b"".join(pieces))
        for place, change in changes:
            if data:
                data[place % len(data)] ^= change
        ignorant = new(opened=9)
        ignorant.receive(frame(F_HEADERS, END_HEADERS, 1, FIRST_BLOCK))
        right = outcome(ignorant, [bytes(data)])
        whole = outcome(known(new(opened=9)), [bytes(data)])
        pieced = outcome(known(new(opened=9)), split(bytes(data), places))
        assert (in_parts(whole[0]), *whole[1:]) == right
        assert pieced[1:] == right[1:]
        if not right[1]:
            assert in_parts(pieced[0]) == right[0]


any_frame = st.builds(
    frame,
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 99, 1 << 31, 1 << 31 | 1]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([FIRST_BLOCK, LAST_BLOCK, bytes(8), b"\x00\x00\x00\x01", b"", bytes((2, 1, 0, 0))]),
        st.binary(max_size=8).map(lambda raw: NO_TABLE + raw),
        st.tuples(st.integers(0, 8), st.integers(0, 2**32 - 1)).map(lambda pair: struct.pack(">HI", *pair)),
    ),
)


@given(
    st.one_of(
        st.lists(any_frame, max_size=8).map(lambda parts: GREETING + b"".join(parts)),
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda raw: GREETING + raw),
    ),
    st.lists(st.integers(0, 10**6), max_size=12),
    st.booleans(),
)
@settings(max_examples=500)
def test_any_bytes_in_any_pieces_give_the_same(data: bytes, places: list[int], is_held_back: bool) -> None:
    def begun() -> ClientConnection[Any]:
        connection: ClientConnection[Any] = ClientConnection(lambda headers: headers)
        connection.request(ASK, bytes(70_000) if is_held_back else b"x")
        connection.request(ASK, b"x")
        said(connection)
        return connection

    whole_connection, connection = begun(), begun()
    whole, pieced = outcome(whole_connection, [data]), outcome(connection, split(data, places))
    assert pieced[1] == whole[1]
    if not is_held_back:  # how much of a body goes before its early answer is seen depends on the pieces
        assert pieced[2] == whole[2]
    assert connection.buffered <= 9 + (1 << 20) + (1 << 16)
    if not whole[1]:
        assert pieced[0] == whole[0]
        assert connection.buffered == whole_connection.buffered


class Server:
    """h2's own idea of a server, which answers each request with its body, backwards, in pieces of any size."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.connection.initiate_connection()
        self.is_settled = False
        """All settings that were told are acknowledged: h2 can not tell which ones are where several are under way."""
        self.arrived, self.greeted = bytearray(), False
        self.asked: dict[int, Any] = {}
        self.bodies: dict[int, bytes] = defaultdict(bytes)
        self.owed: list[tuple[int, int]] = []
        self.answers: dict[int, bytes] = {}

    def receive(self, data: bytes) -> None:
        """Hands h2 one frame at a time: it takes new settings into account only with the next piece that it gets."""
        self.arrived += data
        while True:
            size = 9 + int.from_bytes(self.arrived[:3], "big") if self.greeted else len(PREFACE)
            if len(self.arrived) < max(size, 9):
                return
            self.greeted = True
            self.receive_frame(bytes(self.arrived[:size]))
            del self.arrived[:size]

    def receive_frame(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked[event.stream_id] = tuple((str(name), str(value)) for name, value in event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.owed.append((event.stream_id, event.flow_controlled_length))
            elif isinstance(event, h2.events.StreamEnded):
                stream = event.stream_id
                self.answers[stream] = self.bodies[stream][::-1]
                self.connection.send_headers(stream, [(":status", "200"), ("x-first", str(stream % 5))])
            elif isinstance(event, h2.events.SettingsAcknowledged):
                self.is_settled = True
            assert not isinstance(event, h2.events.ConnectionTerminated), event

    def step(self) -> None:
        """One thing of many, at random."""
        draw, connection = self.draw, self.connection
        what = draw.random()
        if what < 0.4 and self.owed:
            stream, size = self.owed.pop(draw.randrange(len(self.owed)))
            if size:
                connection.acknowledge_received_data(size, stream)
        elif what < 0.8 and self.answers:
            stream = draw.choice(list(self.answers))
            rest = self.answers[stream]
            size = min(draw.choice([0, 1, 10, 5000, 1 << 20]), len(rest), connection.max_outbound_frame_size - 256)
            room = connection.local_flow_control_window(stream) - 256
            if room < 0:
                return
            size = min(size, room)
            pad = draw.choice([None, 0, 255])
            connection.send_data(stream, rest[:size], pad_length=pad)
            self.answers[stream] = rest[size:]
            if size == len(rest):
                del self.answers[stream]
                connection.send_headers(stream, [("x-last", "0")], end_stream=True)
        elif what < 0.85:
            connection.ping(draw.randbytes(8))
        elif what < 0.9 and self.is_settled:
            self.is_settled = False
            connection.update_settings(
                {
                    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: draw.choice([0, 10, 65_535, 200_000]),
                    h2.settings.SettingCodes.MAX_FRAME_SIZE: draw.choice([16_384, 16_385, 1 << 20]),
                    h2.settings.SettingCodes.HEADER_TABLE_SIZE: draw.choice([0, 60, 4096, 10_000]),
                }
            )
        elif what < 0.95 and self.bodies:
            open_streams = [stream for stream in self.bodies if stream not in self.answers]
            stream = draw.choice(open_streams) if open_streams else 0
            if connection.streams.get(stream) is not None and not connection.streams[stream].closed:
                connection.increment_flow_control_window(draw.choice([1, 1000, 100_000]), stream)
        else:
            connection.increment_flow_control_window(draw.choice([1, 1000, 100_000]))


@pytest.mark.parametrize("seed", range(40))
def test_bodies_arrive_byte_by_byte_whatever_the_server_does(seed: int) -> None:
    draw = random.Random(seed)
    server = Server(draw)
    client: ClientConnection[Any] = ClientConnection(lambda headers: headers)
    lists = [(*ASK, ("x", str(at))) for at in range(3)]
    to_server, to_client = bytearray(), bytearray()
    bodies: dict[int, bytes] = {}
    wanted: dict[int, Any] = {}
    got: dict[int, list[Any]] = defaultdict(list)
    done: set[int] = set()
    for turn in range(100_000):
        if client.settled and len(bodies) < 30 and draw.random() < 0.2:
            body = draw.randbytes(draw.choice([1, 50, 4096, 4097, 16_385, 70_000, 300_000]))
            headers = draw.choice(lists)
            stream = client.request(headers, body)
            bodies[stream], wanted[stream] = body, headers
        to_server += said(client)
        if draw.random() < 0.7:
            size = draw.choice([1, 9, 100, 10_000, 1 << 20])
            server.receive(bytes(to_server[:size]))
            del to_server[:size]
        if draw.random() < 0.7 or turn > 5000:
            server.step()
        to_client += server.connection.data_to_send()
        size = draw.choice([1, 5, 100, 10_000, 1 << 20])
        for kind, stream, value, ended in client.receive(bytes(to_client[:size])):
            assert kind in (HEADERS, DATA)
            got[stream].append(bytes(value) if kind is DATA else value)
            if ended:
                done.add(stream)
            elif kind is DATA:
                client.pass_over(stream, len(value))
        del to_client[:size]
        if len(bodies) == 30 == len(done):
            break
    assert len(done) == 30
    for stream, body in bodies.items():
        first, *pieces, last = got[stream]
        assert server.asked[stream] == wanted[stream]
        assert server.bodies[stream] == body
        assert first == ((":status", "200"), ("x-first", str(stream % 5)))
        assert b"".join(pieces) == body[::-1]
        assert last == (("x-last", "0"),)
