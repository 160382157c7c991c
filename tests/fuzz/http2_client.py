"""A server's bytes over HTTP/2, up to the replies of a gRPC client's calls."""

from __future__ import annotations

from collections.abc import Iterator

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.framing import framed
from drumfire.sut.kserve.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    F_CONTINUATION,
    F_DATA,
    F_GOAWAY,
    F_HEADERS,
    F_PING,
    F_RESET,
    F_WINDOW_UPDATE,
    PADDED,
    PRIORITY,
    frame,
    settings,
)
from drumfire.sut.kserve.messages.exchange import Failure, Part
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.protobuf import bytes_field, numbers_field, text_field
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from tests.fuzz.harness import check_cuts
from tests.support.frames import literal

_CALLS = 6
_TENSOR = TensorSpec("x", "FP32", (2,))
INTERFACE = ModelInterface("m", "", "", (_TENSOR,), (_TENSOR,), 0)
REPLY = (
    text_field(1, "m")
    + bytes_field(5, text_field(1, "x") + text_field(2, "FP32") + numbers_field(3, [2]))
    + bytes_field(6, b"\0\0\x80?\0\0\0@")
)
_HEAD = literal((":status", "200"), ("content-type", "application/grpc"))
_TRAILERS = literal(("grpc-status", "0"))
_GREETING = settings({3: 100, 4: 65_535}) + frame(4, ACK, 0)


def _reply(stream: int, message: bytes = REPLY) -> bytes:
    return (
        frame(F_HEADERS, END_HEADERS, stream, _HEAD)
        + frame(F_DATA, 0, stream, framed(message))
        + frame(F_HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS)
    )


SEEDS = [
    _GREETING + _reply(1) + _reply(3) + _reply(5) + _reply(7) + _reply(9),
    _GREETING
    + frame(F_HEADERS, END_HEADERS | PADDED | PRIORITY, 1, b"\2\0\0\0\0\1" + _HEAD + b"\0\0")
    + frame(F_DATA, PADDED, 1, b"\1" + framed(REPLY)[:9] + b"\0")
    + frame(F_DATA, 0, 1)
    + frame(F_DATA, 0, 1, framed(REPLY)[9:])
    + frame(F_HEADERS, END_STREAM, 1, _TRAILERS[:5])
    + frame(F_CONTINUATION, END_HEADERS, 1, _TRAILERS[5:])
    + _reply(3),
    _GREETING
    + frame(F_HEADERS, END_HEADERS | END_STREAM, 1, literal((":status", "200"), ("grpc-status", "13")))
    + frame(F_RESET, 0, 3, b"\0\0\0\7")
    + frame(F_PING, 0, 0, b"12345678")
    + frame(F_WINDOW_UPDATE, 0, 0, b"\0\0\1\0"),
    _GREETING
    + _reply(1)
    + frame(F_GOAWAY, 0, 0, b"\0\0\0\3\0\0\0\0bye")
    + _reply(3)
    + settings({1: 0, 4: 0, 5: 20_000}),
    _GREETING
    + frame(F_HEADERS, END_HEADERS, 1, literal((":status", "103")))
    + _reply(1, REPLY + bytes_field(99, bytes(5000))),
    _GREETING
    + b"".join(
        frame(F_HEADERS, END_HEADERS, at, _HEAD) + frame(F_DATA, 0, at, framed(bytes(3000))[:1000])
        for at in (1, 3, 5, 7)
    ),
]
TOKENS = [
    _reply(5),
    _reply(11),
    _GREETING,
    frame(F_DATA, END_STREAM, 1),
    frame(F_PING, ACK, 0, b"12345678"),
    frame(0xFA, 0, 0, b"x"),
    _HEAD,
    frame(F_RESET, 0, 1, bytes(4)),
    frame(F_GOAWAY, 0, 0, bytes(8)),
    frame(F_WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
    frame(F_DATA, 0, 1, b"\1\0\0\0\1x"),
    frame(F_DATA, 0, 1, b"\0\x7f\xff\xff\xff"),
    frame(5, END_HEADERS, 1, bytes(4)),
    b"\x3f\xe1\x1f",
    _TRAILERS,
]


def read(data: bytes) -> None:
    check_cuts(_replies, data)


def _replies(pieces: Iterator[bytes]) -> tuple[list[object], bool]:
    messages = GrpcMessages(INTERFACE)
    messages.wanted = True
    channel = GrpcChannel(messages, "x", max_message_bytes=1 << 20)
    request = messages.request([Part((2,), bytes(8))])
    for ticket in range(_CALLS):
        channel.send(ticket, request)
    answered: list[object] = []
    tickets = []
    refused = False
    try:
        for piece in pieces:
            for ticket, reply in channel.receive(piece):
                tickets.append(ticket)
                answered.append(
                    (ticket, reply if isinstance(reply, Failure) else [one.tobytes() for one in reply or ()])
                )
            channel.out.clear()
            assert channel.free >= 0
        rest = channel.eof() + channel.lost("the end")
    except ProtocolError as error:
        refused, rest = True, channel.lost(str(error))
    tickets += [ticket for ticket, _ in rest]
    assert sorted(tickets) == list(range(_CALLS)), f"not one reply to each call: {tickets}"
    assert channel.oldest is None
    assert not channel.under_way
    return answered, refused
