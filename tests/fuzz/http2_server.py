"""A client's bytes over HTTP/2, up to the calls that a gRPC server is asked."""

from __future__ import annotations

from collections.abc import Iterator

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.grpc.server import Call, CallLimits, Cancelled, ServedCalls
from drumfire.sut.kserve.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    F_CONTINUATION,
    F_DATA,
    F_HEADERS,
    F_PING,
    F_RESET,
    F_WINDOW_UPDATE,
    PADDED,
    PREFACE,
    PRIORITY,
    frame,
    settings,
)
from tests.fuzz.harness import check_cuts
from tests.support.frames import literal

_MOST_MESSAGE, _MOST_STREAMS = 100_000, 20
_GREETING = PREFACE + settings({4: 65_535}) + frame(4, ACK, 0)


def _head(method: str = "ModelInfer", *more: tuple[str, str]) -> bytes:
    path = (":path", f"/inference.GRPCInferenceService/{method}")
    return literal((":method", "POST"), (":scheme", "http"), path, ("content-type", "application/grpc"), *more)


def _call(stream: int, message: bytes = b"message", method: str = "ModelInfer") -> bytes:
    return frame(F_HEADERS, END_HEADERS, stream, _head(method)) + frame(F_DATA, END_STREAM, stream, framed(message))


SEEDS = [
    _GREETING + b"".join(_call(stream) for stream in range(1, 30, 2)),
    _GREETING
    + frame(F_HEADERS, END_HEADERS, 1, _head("ModelStreamInfer"))
    + frame(F_DATA, 0, 1, framed(b"one") + framed(b"two")[:6])
    + _call(3)
    + frame(F_DATA, 0, 1, framed(b"two")[6:])
    + frame(F_DATA, END_STREAM, 1),
    _GREETING
    + frame(F_HEADERS, PADDED | PRIORITY, 1, b"\1\0\0\0\0\1" + _head()[:20] + b"\0")
    + frame(F_CONTINUATION, END_HEADERS, 1, _head()[20:])
    + frame(F_DATA, PADDED, 1, b"\2" + framed(bytes(900))[:500] + b"\0\0")
    + frame(F_DATA, 0, 1, framed(bytes(900))[500:])
    + frame(F_HEADERS, END_HEADERS | END_STREAM, 1, literal(("x", "y"))),
    _GREETING
    + _call(1)
    + frame(F_RESET, 0, 1, b"\0\0\0\x08")
    + frame(F_PING, 0, 0, b"12345678")
    + _call(3, bytes(5000)),
    _GREETING
    + frame(F_HEADERS, END_HEADERS, 1, _head("ModelInfer", ("grpc-timeout", "5S"), ("authorization", "x")))
    + frame(F_DATA, END_STREAM, 1, framed(b""))
    + settings({4: 0, 5: 20_000})
    + frame(F_WINDOW_UPDATE, 0, 0, b"\0\0\1\0"),
    # A call that fails for itself and goes on after its end: refused, where its answer has not left yet.
    _GREETING + frame(F_HEADERS, END_HEADERS, 1, _head()) + frame(F_DATA, END_STREAM, 1) + frame(F_DATA, 0, 1, b"x"),
    _GREETING
    + b"".join(
        frame(F_HEADERS, END_HEADERS, at, _head()) + frame(F_DATA, 0, at, framed(bytes(50_000))[:9000])
        for at in (1, 3, 5)
    ),
]
TOKENS = [
    _call(31),
    _call(1),
    _GREETING,
    frame(F_DATA, END_STREAM, 1),
    frame(F_PING, ACK, 0, b"12345678"),
    frame(0xFA, 0, 0, b"x"),
    _head(),
    frame(F_RESET, 0, 1, bytes(4)),
    frame(7, 0, 0, bytes(8)),
    frame(F_WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
    b"\x3f\xe1\x1f",
    frame(F_DATA, 0, 1, b"\1\0\0\0\1x"),
    frame(F_DATA, 0, 1, b"\0\x7f\xff\xff\xff"),
    frame(2, 0, 1, bytes(5)),
    literal(("content-type", "x")),
]


def read(data: bytes) -> None:
    check_cuts(lambda pieces: _calls(pieces, answered=False), data)
    _calls(iter((data,)), answered=True)


def _calls(pieces: Iterator[bytes], *, answered: bool) -> tuple[list[object], bool]:
    limits = CallLimits(max_message=_MOST_MESSAGE, max_streams=_MOST_STREAMS, max_work=100)
    calls = ServedCalls(limits, lambda method, metadata: metadata.get("authorization") != "no")
    connection = calls._connection
    if not answered:
        # A call that fails for itself is answered after the read, and its stream forgotten: what the client sends on it
        # in the same read can be a fault, and in a later one is dropped.
        connection.end = lambda *_: None  # type: ignore[method-assign]
    events: list[object] = []
    reported = set()
    try:
        for piece in pieces:
            found = calls.receive(piece)
            while True:
                for event in found:
                    is_call = isinstance(event, Call)
                    if isinstance(event, Cancelled) and event.stream not in reported:
                        continue  # whether a call that was never reported is said to be cancelled depends on the cuts
                    reported.add(event.stream)
                    events.append(event._replace(message=bytes(event.message)) if is_call else event)
                    if answered and is_call:
                        calls.send(event.stream, event.message) if event.streaming else calls.respond(
                            event.stream, bytes(300)
                        )
                calls.out.clear()
                assert 0 <= calls.buffered_in <= _MOST_MESSAGE + (_MOST_STREAMS + 1) * (256 << 10) + 100
                assert calls.open_calls <= _MOST_STREAMS
                if connection.unread is None and not calls._late:
                    break
                found = calls.receive(b"")
    except ProtocolError:
        return events, True
    assert calls.buffered_out >= 0
    return events, False
