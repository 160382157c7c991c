"""Messages in the DATA frames of a gRPC call and of its reply: those that the prefixes announce come, or a refusal.

The first byte chooses the method; the rest is what the frames hold, in one frame and in several.
"""

from __future__ import annotations

from collections.abc import Iterable

import hpack

from drumfire.sut.kserve.errors import ProtocolError
from drumfire.sut.kserve.grpc.client import Calls
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, Status, framed, prefix
from drumfire.sut.kserve.grpc.server import Call, CallLimits, ServedCalls
from drumfire.sut.kserve.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    F_DATA,
    F_HEADERS,
    PREFACE,
    frame,
    settings,
)
from tests.fuzz.harness import pieces
from tests.support.frames import literal

_MOST = 3000
_SETTLED = settings({}) + frame(4, ACK, 0)
_METHODS = ("ModelInfer", "ModelStreamInfer")
_ASKED = [
    literal(
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/inference.GRPCInferenceService/{method}"),
        ("content-type", "application/grpc"),
    )
    for method in _METHODS
]
_HEAD = literal((":status", "200"), ("content-type", "application/grpc"))
_TRAILERS = literal(("grpc-status", "0"))

SEEDS = [
    b"\0" + framed(b"message"),
    b"\1" + framed(b"message"),
    b"\1" + framed(b"one") + framed(b"") + framed(bytes(900)) + framed(b"four"),
    b"\1" + framed(b"m") * 70,
    b"\0" + framed(bytes(_MOST)),
    b"\1" + framed(bytes(_MOST)) + framed(bytes(_MOST + 1)),
    b"\0" + framed(b"two") * 2,
    b"\0\1\0\0\0\1x",
    b"\1" + framed(b"one") + b"\1\0\0\0\1x",
    b"\0",
    b"\1\0\0\0",
]
TOKENS = [framed(b"m"), framed(b""), prefix(_MOST), prefix(_MOST + 1), b"\1\0\0\0\1x", prefix(2**32 - 1), bytes(1000)]


def read(data: bytes) -> None:
    streams, body = bool(data and data[0] & 1), data[1:]
    for frames in ([body], list(pieces(body))):
        _read_call(streams, body, frames)
        _read_reply(body, frames)


def _read_call(streams: bool, body: bytes, frames: list[bytes]) -> None:
    calls = ServedCalls(CallLimits(max_message=_MOST), lambda method, metadata: True)
    sent = PREFACE + _SETTLED + frame(F_HEADERS, END_HEADERS, 1, _ASKED[streams]) + _data(frames, END_STREAM)
    events = calls.receive(sent)
    while calls._connection.unread is not None or calls._late:
        events += calls.receive(b"")
    came = [bytes(event.message) for event in events if isinstance(event, Call)]
    messages, status = _announced(body, streams)
    assert came == messages, f"{came!r:.300}\nannounced: {messages!r:.300}"
    assert _status(b"".join(calls.out)) == status


def _announced(body: bytes, streams: bool) -> tuple[list[bytes], Status | None]:
    """The messages that a call asks, and the status that refuses it."""
    messages: list[bytes] = []
    at = 0
    while len(body) - at >= PREFIX_BYTES:
        length = int.from_bytes(body[at + 1 : at + PREFIX_BYTES], "big")
        if body[at]:
            return messages if streams else [], Status.UNIMPLEMENTED
        if length > _MOST:
            return messages if streams else [], Status.RESOURCE_EXHAUSTED
        if messages and not streams:
            return [], Status.INTERNAL
        if len(body) - at - PREFIX_BYTES < length:
            break
        at += PREFIX_BYTES + length
        messages.append(body[at - length : at])
    if at < len(body) or not (messages or streams):
        return messages if streams else [], Status.INTERNAL
    return messages, None


def _status(out: bytes) -> Status | None:
    """What the server wrote of it."""
    decoder, at, found = hpack.Decoder(), 0, None
    while at < len(out):
        size, kind = int.from_bytes(out[at : at + 3], "big"), out[at + 3]
        if kind == F_HEADERS:
            assert found is None, "the call is ended twice"
            found = Status(int(dict(decoder.decode(out[at + 9 : at + 9 + size]))["grpc-status"]))
        at += 9 + size
    return found


def _read_reply(body: bytes, frames: list[bytes]) -> None:
    calls = Calls("x", max_message_bytes=_MOST)
    calls.call(7, calls.headers("ModelInfer"), framed(b""))
    reply = frame(F_HEADERS, END_HEADERS, 1, _HEAD) + _data(frames, 0)
    declared = int.from_bytes(body[1:PREFIX_BYTES], "big") if len(body) >= PREFIX_BYTES else 0
    too_large = max(declared + PREFIX_BYTES, len(body)) > _MOST + PREFIX_BYTES
    try:
        ended = calls.receive(_SETTLED + reply + frame(F_HEADERS, END_HEADERS | END_STREAM, 1, _TRAILERS))
    except ProtocolError:
        assert too_large
        ended = calls.lost("it is too large")
    assert [result.ticket for result in ended] == [7]
    (result,) = ended
    if body[:1] == b"\0" and PREFIX_BYTES <= len(body) == PREFIX_BYTES + declared and not too_large:
        assert result.message is not None
        assert bytes(result.message) == body
    else:
        assert result.failure is not None


def _data(frames: Iterable[bytes], last: int) -> bytes:
    *before, end = [*frames] or [b""]
    return b"".join(frame(F_DATA, 0, 1, one) for one in before) + frame(F_DATA, last, 1, end)
