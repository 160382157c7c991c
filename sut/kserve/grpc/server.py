"""gRPC calls on one HTTP/2 connection, seen from their server: bytes in, calls out, and answers back.

Knows gRPC's framing, metadata, status and deadlines; must not know sockets, nor what messages mean.
Source: "gRPC over HTTP2" of the gRPC documentation.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, cast

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, Status, prefix
from drumfire.sut.kserve.http2.frames import DATA, HEADERS, REQUEST, RESET, Headers
from drumfire.sut.kserve.http2.server import Envelope, ServerConnection, header_block
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Buffer
from drumfire.sut.kserve.messages.operations import MODEL_STREAM_INFER, OPERATIONS


@dataclass(frozen=True)
class CallLimits:
    """What one connection may take.  Of requests that are not whole it holds at most ``max_message`` bytes and
    256 KiB for each of ``max_streams``."""

    max_message: int = MAX_MESSAGE_BYTES
    """Bytes of one request."""
    max_streams: int = 256
    """Calls at a time."""
    max_waiting: int = 64 << 20
    """While more bytes than these of answers wait for a client that does not read, its further calls are refused."""


class Call(NamedTuple):
    """A message to be answered: a unary call's, or one of a stream's."""

    stream: int
    """Names the call, on this connection."""
    method: str
    """As in ``operations.BY_METHOD``: "ModelInfer", say."""
    message: Buffer
    metadata: Mapping[str, str]
    """By lower-case name; the values of a repeated one are joined by ","."""
    timeout_s: float | None
    """What the client allows, counted from when it sent the call."""
    streaming: bool
    """Answer with ``send``, and ``finish`` after the ``EndOfStream``; otherwise with ``respond``."""


class Cancelled(NamedTuple):
    """The client gave the call up: what is said to it now is dropped.  It may be one of which nothing was told."""

    stream: int


class EndOfStream(NamedTuple):
    """The client will send no more messages on this stream; it awaits answers and ``finish``."""

    stream: int


CallEvent: TypeAlias = Call | Cancelled | EndOfStream


class ServedCalls:
    """The calls of one connection.

    A call ends with ``respond``, ``finish`` or ``fail``; after that, or after ``Cancelled``, whatever is said to it
    is dropped, so that nobody need ask whether it is still there.
    """

    def __init__(self, limits: CallLimits | None = None) -> None:
        self._limits = limits or CallLimits()
        self._connection = ServerConnection(
            _read_headers,
            max_streams=self._limits.max_streams,
            largest_body=self._limits.max_message + PREFIX_BYTES,
        )
        self.out = self._connection.out
        """What must be written, in this order; whoever writes it empties the list (and keeps the list itself)."""
        self._open: dict[int, _Open] = {}
        """The streams whose calls are known to the user, or have not come whole; but no call that came whole at once:
        there are too many of those."""

    @property
    def open_calls(self) -> int:
        """Calls that have not ended, those included that have not come whole, or whose answers wait."""
        return self._connection.streams

    @property
    def buffered_out(self) -> int:
        """Bytes of answers that wait in here: in ``out``, and for the client to read on."""
        return self._connection.waiting + sum(map(len, self.out))

    @property
    def buffered_in(self) -> int:
        """Bytes held of requests that are not whole."""
        return self._connection.buffered + self._connection.held

    @property
    def drained(self) -> bool:
        """After ``drain``: the client knows, all calls have ended, and the connection may be closed."""
        return self._connection.closed and not self._connection.streams

    def receive(self, data: bytes) -> list[CallEvent]:
        """Take what was read.  Raises ``ProtocolError``: write ``out`` and close the connection."""
        happenings: list[CallEvent] = []
        max_message, connection = self._limits.max_message, self._connection
        for kind, stream, value, ended in connection.receive(data):
            if kind is REQUEST:
                asked, body = cast(tuple[_Asked, Buffer], value)
                size = len(body) - PREFIX_BYTES
                if (
                    asked.is_unary
                    and 0 <= size <= max_message
                    and int.from_bytes(body[:PREFIX_BYTES], "big") == size  # the byte before: not compressed
                    and connection.waiting <= self._limits.max_waiting
                ):
                    message = body[PREFIX_BYTES:]
                    happenings.append(Call(stream, asked.method, message, asked.metadata, asked.timeout_s, False))
                elif self._begin(stream, asked):
                    self._take(stream, body, True, happenings)
            elif kind is HEADERS:
                if self._begin(stream, cast(_Asked, value)) and ended:
                    self._take(stream, b"", True, happenings)
            elif kind is DATA:
                self._take(stream, cast(Buffer, value), ended, happenings)
            elif kind is RESET:
                known = self._open.pop(stream, None)
                if known is None or known.told:
                    happenings.append(Cancelled(stream))
        return happenings

    def respond(self, stream: int, message: Buffer) -> None:
        """The answer of a unary call; it ends."""
        if stream in self._open:
            del self._open[stream]
        self._connection.respond(stream, _WELL, prefix(len(message)), message)

    def send(self, stream: int, message: Buffer) -> None:
        """One message on a stream."""
        known = self._open.get(stream)
        if known is not None:
            if not known.begun:
                known.begun = True
                self._connection.begin(stream, _WELL.head)
            self._connection.send(stream, prefix(len(message)), message)

    def finish(self, stream: int, status: int = 0, text: str = "") -> None:
        """End a call, after what was sent on it."""
        known = self._open.pop(stream, None)
        if known is not None and known.begun:
            self._connection.end(stream, _WELL.tail if not status else header_block(_status(status, text)))
        else:
            self._connection.end(stream, header_block(_GOOD_HEAD + _status(status, text)))

    def fail(self, stream: int, status: int, text: str) -> None:
        """End any call with a status of ``grpc_framing.Status`` and one line that the client reads."""
        self.finish(stream, status, text)

    def drain(self) -> None:
        """Tell the client to send no more calls; those that it sends before it hears that are still taken."""
        self._connection.drain()

    def close(self) -> None:
        """Tell the client that calls after those known are not taken, without waiting for it to hear."""
        self._connection.close()

    def _begin(self, stream: int, asked: _Asked) -> bool:
        """A call of which more than headers is looked at; False where it is refused at once."""
        if asked.refusal is not None:
            self._connection.end(stream, header_block(asked.refusal))
            return False
        if self._connection.waiting > self._limits.max_waiting:
            self.fail(stream, Status.RESOURCE_EXHAUSTED, "the answers on this connection are not read: read them first")
            return False
        self._open[stream] = _Open(asked)
        return True

    def _take(self, stream: int, piece: Buffer, ended: bool, happenings: list[CallEvent]) -> None:
        """What came of a call's messages."""
        known = self._open.get(stream)
        if known is None:  # it has failed
            return
        pending = known.pending
        if pending:
            pending += piece
        source: Buffer | bytearray = pending or piece
        at, size = 0, len(source)
        while size - at >= PREFIX_BYTES:
            first = at + PREFIX_BYTES
            length = int.from_bytes(source[at + 1 : first], "big")
            if not self._accepts(stream, known, source[at], length):
                return
            last = first + length
            if last > size:
                self._connection.expect(stream, last - size)
                break
            if not pending:
                message = piece[first:last]
            elif last < size:
                message = bytes(memoryview(pending)[first:last])
            else:  # it is nobody else's any more
                message = memoryview(pending)[first:].toreadonly()
            self._give(stream, known, message, happenings)
            at = last
        if at == size:
            known.pending = bytearray()
        elif at or not pending:
            known.pending = bytearray(memoryview(source)[at:])
        if ended:
            self._end(stream, known, happenings)

    def _accepts(self, stream: int, known: _Open, compressed: int, length: int) -> bool:
        """Whether a message that begins so is taken; the call fails if not."""
        if compressed:
            self.fail(stream, Status.UNIMPLEMENTED, "compressed messages are not taken: send them as they are")
        elif length > self._limits.max_message:
            most = self._limits.max_message
            self.fail(stream, Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes where at most {most} are taken")
        elif known.message is not None:
            self.fail(stream, Status.INTERNAL, f"more than one message in a call of {known.asked.method}")
        else:
            return True
        return False

    def _give(self, stream: int, known: _Open, message: Buffer, happenings: list[CallEvent]) -> None:
        asked = known.asked
        if asked.is_unary:
            known.message = message  # until the client has ended the call
        else:
            known.told = True
            self._connection.release(stream, PREFIX_BYTES + len(message))
            happenings.append(Call(stream, asked.method, message, asked.metadata, asked.timeout_s, True))

    def _end(self, stream: int, known: _Open, happenings: list[CallEvent]) -> None:
        """The client has said all."""
        asked = known.asked
        if known.pending:
            self.fail(stream, Status.INTERNAL, "the call ends within a message")
        elif not asked.is_unary:
            known.told = True
            happenings.append(EndOfStream(stream))
        elif known.message is None:
            self.fail(stream, Status.INTERNAL, f"a call of {asked.method} without a message")
        else:
            del self._open[stream]
            self._connection.release(stream, PREFIX_BYTES + len(known.message))
            happenings.append(Call(stream, asked.method, known.message, asked.metadata, asked.timeout_s, False))


class _Asked(NamedTuple):
    """What the headers of a call tell."""

    method: str
    metadata: Mapping[str, str]
    timeout_s: float | None
    is_unary: bool
    """A call that is taken, and has one message."""
    refusal: Headers | None
    """What is answered at once."""


class _Open:
    """A call that did not come whole at once."""

    __slots__ = ("asked", "begun", "message", "pending", "told")

    def __init__(self, asked: _Asked) -> None:
        self.asked = asked
        self.pending = bytearray()
        """Of a message that is not whole."""
        self.message: Buffer | None = None
        """Of a unary call, until it has ended."""
        self.told = False
        """The user knows of it."""
        self.begun = False
        """Something was sent."""


_GOOD_HEAD: Headers = ((":status", "200"), ("content-type", "application/grpc"))
_WELL = Envelope(_GOOD_HEAD, (("grpc-status", "0"),))

_METHODS = {operation.service + operation.method: operation.method for operation in OPERATIONS}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_TEXT = 1000


def _status(status: int, text: str) -> Headers:
    """Trailers.  The text is percent-encoded, as gRPC wants it."""
    told: Headers = (("grpc-status", str(int(status))),)
    if text:
        told += (("grpc-message", urllib.parse.quote(one_line(text, _MOST_TEXT), safe=_PLAIN)),)
    return told


_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def _read_headers(headers: Headers) -> _Asked:
    fields: dict[str, str] = {}
    for name, value in headers:
        fields[name] = f"{fields[name]},{value}" if name in fields else value
    path, verb = fields.get(":path"), fields.get(":method")
    metadata = MappingProxyType({name: value for name, value in fields.items() if name[:1] != ":"})
    refusal: Headers | None = None
    method, timeout_s = "", None
    media_type = fields.get("content-type", "")
    timeout = fields.get("grpc-timeout")
    matched = _TIMEOUT.fullmatch(timeout) if timeout is not None else None
    if path is None or verb is None:
        refusal = ((":status", "400"),)
    elif verb != "POST":
        refusal = ((":status", "405"),)
    elif not media_type.startswith("application/grpc") or media_type[16:17] not in ("", "+", ";"):
        refusal = ((":status", "415"),)
    elif path not in _METHODS:
        refusal = _GOOD_HEAD + _status(Status.UNIMPLEMENTED, f"{one_line(path, 100)}: there is no such method")
    elif timeout is not None and matched is None:
        refusal = _GOOD_HEAD + _status(Status.INTERNAL, f"grpc-timeout {one_line(timeout, 20)!r} is no time")
    else:
        method = _METHODS[path]
        timeout_s = int(matched[1]) * _UNIT_S[matched[2]] if matched is not None else None
    is_unary = refusal is None and method != MODEL_STREAM_INFER.method
    return _Asked(method, metadata, timeout_s, is_unary, refusal)
