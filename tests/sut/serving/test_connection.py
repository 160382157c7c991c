"""Turns of connections that have more to do than one read may, and room for what has arrived in part."""

from __future__ import annotations

from typing import Any

import pytest

from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.grpc.server import CallLimits
from drumfire.sut.kserve.http1.connection import HttpRequest
from drumfire.sut.kserve.http1.head import RequestHead
from drumfire.sut.kserve.http2.frames import END_HEADERS, END_STREAM, PREFACE, frame, settings
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.serving.access import Access
from drumfire.sut.serving.connection import Bounds, Connections, PortConnection
from drumfire.sut.serving.grpc_port import GrpcConnection, KServeOverGrpc
from drumfire.sut.serving.http_port import HttpConnection, Slot
from tests.support.frames import frames, literal
from tests.support.serving_fakes import Loop


class Transport:
    def __init__(self) -> None:
        self.reading, self.is_closed = True, False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.is_closed = True


class Slow(PortConnection):
    """Processes one byte of what it read at a time."""

    unsent, half_sent = 0, False

    def __init__(self, connections: Connections, done: list[str]) -> None:
        super().__init__(connections)
        self.done, self.rest = done, b""
        self.transport: Any = Transport()
        self.connection_made(self.transport)

    def data_received(self, data: bytes) -> None:
        self.rest += data
        self.done.append(self.rest[:1].decode())
        self.rest = self.rest[1:]
        if bool(self.rest) is not self._behind:
            self._behind = bool(self.rest)
            self.regulate()

    def under_way(self, count: int) -> None:
        self._under_way = count
        self.regulate()

    def drain(self) -> None: ...

    def retire(self) -> None: ...

    def flush(self) -> None: ...

    def lost(self) -> None: ...


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def connections(loop: Loop) -> Connections:
    return Connections(Bounds(most_partial_bytes=100, most_message_bytes=40), loop.call_soon)


def test_what_takes_long_is_done_by_turns_one_in_each_iteration_of_the_loop(
    connections: Connections, loop: Loop
) -> None:
    done: list[str] = []
    first, second, other = (Slow(connections, done) for _ in range(3))
    first.data_received(b"abc")
    second.data_received(b"AB")
    assert (done, first.transport.reading, second.transport.reading) == (["a", "A"], False, False)
    loop.turn()
    other.data_received(b"x")  # whoever has little to do does not wait
    loop.turn()
    assert (done, first.transport.reading, second.transport.reading) == ([*"aAbxB"], False, True)
    loop.turn()
    assert (done, first.transport.reading) == ([*"aAbxBc"], True)
    assert not loop.soon


def test_a_connection_with_too_many_requests_under_way_gets_no_turn(connections: Connections, loop: Loop) -> None:
    done: list[str] = []
    busy = Slow(connections, done)
    busy._under_way = 256
    busy.data_received(b"ab")
    assert not loop.soon
    busy.under_way(255)
    loop.turn()
    assert (done, busy.transport.reading, loop.soon) == (["a", "b"], True, [])


def test_a_closed_connection_gets_no_turn(connections: Connections, loop: Loop) -> None:
    done: list[str] = []
    gone = Slow(connections, done)
    gone.data_received(b"ab")
    gone.connection_lost(None)
    loop.turn()
    assert (done, loop.soon) == (["a"], [])


def test_where_parts_of_requests_are_too_many_the_one_without_progress_for_longest_is_closed(
    connections: Connections,
) -> None:
    first, second, third = (Slow(connections, []) for _ in range(3))
    connections.hold(first, 30, progress=False)
    connections.hold(second, 30, progress=False)
    connections.hold(first, 40, progress=True)
    connections.hold(third, 30, progress=False)
    assert not any(one.transport.is_closed for one in (first, second, third))
    connections.hold(first, 41, progress=False)
    assert [one.transport.is_closed for one in (first, second, third)] == [False, True, False]
    second.connection_lost(None)
    connections.hold(first, 0, progress=False)
    connections.hold(third, 70, progress=False)
    connections.hold(first, 31, progress=False)
    assert [one.transport.is_closed for one in (first, second, third)] == [False, True, True]


class Written(Transport):
    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def writelines(self, pieces: list[bytes]) -> None:
        self.data += b"".join(pieces)

    def close(self) -> None:
        self.is_closed = True


class Numbered:
    """Answers with the number of the request, at a cost."""

    draining = False

    def __init__(self, cost: int) -> None:
        self.cost, self.begun = cost, 0

    def begin(self, connection: HttpConnection, slot: Slot, received: HttpRequest) -> int:
        slot.response = b"%d " % self.begun
        self.begun += 1
        return self.cost

    def refusal(self, head: RequestHead) -> None:
        return None


@pytest.mark.parametrize(("cost", "at_once"), [(0, 20), (1, 8), (8, 1)])
def test_requests_that_cost_much_share_turns_and_are_answered_in_order(
    connections: Connections, loop: Loop, cost: int, at_once: int
) -> None:
    answerer, transport = Numbered(cost), Written()
    connection = HttpConnection(connections, answerer)  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    for turn in range(1, -(-20 // at_once)):
        assert (answerer.begun, transport.reading) == (at_once * turn, False)
        loop.turn()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.data.decode().split() == [str(number) for number in range(21)]
    assert transport.reading is (not loop.soon)
    assert not transport.is_closed


def test_calls_that_cost_much_share_turns(connections: Connections, loop: Loop) -> None:
    class Service:
        draining = False
        asked = 0

        def perform(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
            self.asked += 1
            return {"live": True}

    service, transport = Service(), Written()
    limits = CallLimits()
    shared = KServeOverGrpc(service, Access(None), limits, 1000)  # type: ignore[arg-type]
    connection = GrpcConnection(connections, shared)
    connection.connection_made(transport)  # type: ignore[arg-type]
    path = (":path", "/inference.GRPCInferenceService/ServerLive")
    head = literal((":method", "POST"), (":scheme", "http"), path, ("content-type", "application/grpc"))
    connection.data_received(PREFACE + settings({}) + frame(4, 1, 0))
    connection.data_received(
        b"".join(
            frame(1, END_HEADERS, stream, head) + frame(0, END_STREAM, stream, framed(b""))
            for stream in range(1, 41, 2)
        )
    )
    for asked in (8, 16):
        assert (service.asked, transport.reading) == (asked, False)
        loop.turn()
    assert service.asked == 20
    answered = [stream for kind, flags, stream, _ in frames(transport.data) if kind == 1 and flags & END_STREAM]
    assert answered == list(range(1, 41, 2))


REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CALL = PREFACE + settings({}) + frame(4, 1, 0)


def opened(connections: Connections, kind: str) -> tuple[PortConnection, Written]:
    transport = Written()
    connection: PortConnection
    if kind == "http":
        connection = HttpConnection(connections, Numbered(0))  # type: ignore[arg-type]
    else:
        connection = GrpcConnection(connections, KServeOverGrpc(None, Access(None), CallLimits(), 1000))  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, transport


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("http", REQUEST), ("http", b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"), ("grpc", PREFACE)],
)
def test_where_too_many_requests_trickle_in_the_oldest_of_them_are_closed(loop: Loop, kind: str, sent: bytes) -> None:
    connections = Connections(Bounds(), loop.call_soon)
    honest = [opened(connections, kind) for _ in range(300)]
    for number, (connection, _) in enumerate(honest):
        if number % 3 == 1:  # the rest sends nothing
            connection.data_received(REQUEST if kind == "http" else CALL)
        elif number % 3 == 2:  # in part, in two pieces
            connection.data_received(sent[:5])
            connection.data_received(sent[5:9])
    trickling = [opened(connections, kind) for _ in range(300)]
    for at in range(len(sent) - 1):
        for connection, transport in trickling:
            if not transport.is_closed:
                connection.data_received(sent[at : at + 1])
    assert [transport.is_closed for _, transport in trickling] == [True] * 44 + [False] * 256
    assert not any(transport.is_closed for _, transport in honest)
    if kind == "http":
        assert b" 503 " in trickling[0][1].data


def test_requests_that_end_well_or_arrive_in_large_pieces_are_no_trickle(loop: Loop) -> None:
    connections = Connections(Bounds(), loop.call_soon)
    opened_ones = [opened(connections, "http") for _ in range(300)]
    body = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    for connection, _ in opened_ones:
        for at in range(len(REQUEST)):
            connection.data_received(REQUEST[at : at + 1])
        connection.data_received(body)
        for _ in range(20):
            connection.data_received(bytes(100))
    assert not any(transport.is_closed for _, transport in opened_ones)
