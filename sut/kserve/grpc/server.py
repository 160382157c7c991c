"""gRPC calls on one HTTP/2 connection, seen from the server: bytes in, calls out, and answers back.

Handles gRPC's framing, metadata, status and deadlines.  Does not depend on sockets or on what the messages mean.
Source: "gRPC over HTTP2" of the gRPC documentation.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, cast

from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, Status, prefix
from drumfire.sut.kserve.http2.frames import DATA, HEADERS, REQUEST, RESET, Headers
from drumfire.sut.kserve.http2.header_block import Envelope, header_block
from drumfire.sut.kserve.http2.server import ServerConnection
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Buffer
from drumfire.sut.kserve.messages.operations import MODEL_STREAM_INFER, OPERATIONS


@dataclass(frozen=True)
class CallLimits:
    """Limits of one connection.  It holds at most ``max_message`` bytes of incomplete requests, plus 256 KiB for each
    of ``max_streams``."""

    max_message: int = MAX_MESSAGE_BYTES
    """Bytes of one request."""
    max_streams: int = 256
    """Concurrent calls."""
    max_waiting: int = 64 << 20
    """Bytes of answers that a slow client may leave unread before its further calls and messages are refused."""
    max_work: int = 500
    """The work of one ``ServedCalls.receive``, in units of about 4 us."""


class Call(NamedTuple):
    """A message to answer: the only message of a unary call, or one message of a stream."""

    stream: int
    """Identifies the call on this connection."""
    method: str
    """As in ``operations.BY_METHOD``, for example "ModelInfer"."""
    message: Buffer
    metadata: Mapping[str, str]
    """By lower-case name; the values of a repeated name are joined by ","."""
    timeout_s: float | None
    """The client's timeout, counted from when it sent the call."""
    streaming: bool
    """True: answer with ``send``, and ``finish`` after ``EndOfStream``.  False: answer with ``respond``."""


class Cancelled(NamedTuple):
    """The client cancelled the call: its answers are dropped.  The call may never have been reported."""

    stream: int


class EndOfStream(NamedTuple):
    """The client will send no more messages on this stream; it still expects answers and ``finish``."""

    stream: int


CallEvent: TypeAlias = Call | Cancelled | EndOfStream
Admission: TypeAlias = Callable[[str, Mapping[str, str]], bool]


class ServedCalls:
    """The calls of one connection.

    A call ends with ``respond``, ``finish``, ``fail`` or ``Cancelled``; anything sent to it after that is dropped, so
    the user need not check whether it is still open.
    """

    def __init__(self, limits: CallLimits | None = None, admits: Admission = lambda *_: True) -> None:
        """``admits``: whether a call may be made, by its method and metadata; asked before its messages arrive."""
        self._limits, self._admits = limits or CallLimits(), admits
        self._connection = ServerConnection(
            _read_headers,
            max_streams=self._limits.max_streams,
            largest_body=self._limits.max_message + PREFIX_BYTES,
            most_work=self._limits.max_work,
        )
        self.out = self._connection.out
        """Bytes to write, in order; the writer empties the list (and keeps the list itself)."""
        self.was_long = False
        """The last ``receive`` took long, and may not have processed all: others come first, then call it again."""
        self.partial = False
        """A message or a frame has arrived in part."""
        self._late: dict[int, None] = {}
        """Streams with messages that have arrived and wait for the next ``receive``."""
        self._messages_left = 0
        """Messages that this ``receive`` may still take out of pieces."""
        self._open: dict[int, _Open] = {}
        """Streams and incomplete unary calls.  Unary calls that arrived whole are too many to be kept here."""

    @property
    def open_calls(self) -> int:
        """Calls that have not ended, including incomplete ones and those whose answers wait to be sent."""
        return self._connection.streams

    @property
    def buffered_out(self) -> int:
        """Bytes of answers held here: in ``out``, and behind the client's windows."""
        return self._connection.waiting + sum(map(len, self.out))

    @property
    def buffered_in(self) -> int:
        """Bytes held of incomplete requests."""
        return self._connection.buffered + self._connection.held

    @property
    def drained(self) -> bool:
        """After ``drain``: the client knows, all calls have ended, and the connection may be closed."""
        return self._connection.closed and not self._connection.streams

    def receive(self, data: bytes) -> list[CallEvent]:
        """Process what was read, and what was read before.  Raises ``ProtocolError``: write ``out`` and close the
        connection."""
        events: list[CallEvent] = []
        max_message, connection = self._limits.max_message, self._connection
        self._messages_left = _MOST_MESSAGES
        if self._late:
            late, self._late = self._late, {}
            for stream in late:
                self._take(stream, b"", False, events)
        for kind, stream, value, ended in connection.receive(data):
            if kind is REQUEST:
                head, body = cast(tuple[_CallHead, Buffer], value)
                size = len(body) - PREFIX_BYTES
                if (
                    head.is_unary
                    and 0 <= size <= max_message
                    and int.from_bytes(body[:PREFIX_BYTES], "big") == size  # with the compression flag: must be 0
                    and connection.waiting <= self._limits.max_waiting
                    and self._admits(head.method, head.metadata)
                ):
                    message = body[PREFIX_BYTES:]
                    events.append(Call(stream, head.method, message, head.metadata, head.timeout_s, False))
                elif self._begin(stream, head):
                    self._take(stream, body, True, events)
            elif kind is HEADERS:
                if self._begin(stream, cast(_CallHead, value)) and ended:
                    self._take(stream, b"", True, events)
            elif kind is DATA:
                self._take(stream, cast(Buffer, value), ended, events)
            elif kind is RESET:
                known = self._open.pop(stream, None)
                if known is None or known.reported:
                    events.append(Cancelled(stream))
        self.was_long = connection.was_long or (True if self._late else False)  # noqa: SIM210 -- a call less per read
        self.partial = connection.partial and self.buffered_in > 0
        return events

    def respond(self, stream: int, message: Buffer) -> None:
        """Answer a unary call, which ends it."""
        if stream in self._open:
            del self._open[stream]
        self._connection.respond(stream, _GOOD, prefix(len(message)), message)

    def send(self, stream: int, message: Buffer) -> None:
        """Send one message on a stream."""
        known = self._open.get(stream)
        if known is not None:
            if not known.begun:
                known.begun = True
                self._connection.begin(stream, _GOOD.head)
            self._connection.send(stream, prefix(len(message)), message)

    def finish(self, stream: int, status: int = 0, text: str = "") -> None:
        """End a call, after the messages sent on it."""
        known = self._open.pop(stream, None)
        if known is not None and known.begun:
            self._connection.end(stream, _GOOD.tail if not status else header_block(_status(status, text)))
        else:
            self._connection.end(stream, header_block(_GOOD_HEAD + _status(status, text)))

    def fail(self, stream: int, status: int, text: str) -> None:
        """End any call with a ``Status`` and one line of text for the client."""
        self.finish(stream, status, text)

    def drain(self) -> None:
        """Tell the client to send no more calls; those that cross this message are still accepted."""
        self._connection.drain()

    def close(self) -> None:
        """Tell the client that later calls are not processed, without waiting for its confirmation."""
        self._connection.close()

    def _begin(self, stream: int, head: _CallHead) -> bool:
        """Open a call; False if it is refused at once."""
        if head.refusal is not None:
            self._connection.end(stream, header_block(head.refusal))
            return False
        if self._connection.waiting > self._limits.max_waiting:
            self.fail(stream, Status.RESOURCE_EXHAUSTED, _UNREAD)
            return False
        if not self._admits(head.method, head.metadata):
            self.fail(stream, Status.UNAUTHENTICATED, "a bearer token is required: authorization: Bearer TOKEN")
            return False
        self._open[stream] = _Open(head)
        return True

    def _take(self, stream: int, piece: Buffer, ended: bool, events: list[CallEvent]) -> None:
        """Process the next piece of a call's messages."""
        known = self._open.get(stream)
        if known is None:  # it has failed
            return
        known.ended = known.ended or ended
        pending = known.pending
        if pending:
            pending += piece
        source: Buffer | bytearray = pending or piece
        at, size = 0, len(source)
        while size - at >= PREFIX_BYTES:
            if not self._messages_left:
                self._late[stream] = None
                break
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
            else:  # ``pending`` is replaced below, so the view is safe
                message = memoryview(pending)[first:].toreadonly()
            self._messages_left -= 1
            self._give(stream, known, message, events)
            at = last
        if at == size:
            known.pending = bytearray()
        elif at or not pending:
            known.pending = bytearray(memoryview(source)[at:])
        if known.ended and stream not in self._late:
            self._end(stream, known, events)

    def _accepts(self, stream: int, known: _Open, compressed: int, length: int) -> bool:
        """Check the prefix of a message; fail the call if it is not acceptable."""
        if compressed:
            self.fail(stream, Status.UNIMPLEMENTED, "compressed messages are not supported: send them uncompressed")
        elif length > self._limits.max_message:
            most = self._limits.max_message
            self.fail(stream, Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes; at most {most} are accepted")
        elif self._connection.waiting > self._limits.max_waiting:
            self.fail(stream, Status.RESOURCE_EXHAUSTED, _UNREAD)
        elif known.message is not None:
            self.fail(stream, Status.INTERNAL, f"more than one message in a call of {known.head.method}")
        else:
            return True
        return False

    def _give(self, stream: int, known: _Open, message: Buffer, events: list[CallEvent]) -> None:
        head = known.head
        if head.is_unary:
            known.message = message  # until the client has ended the call
        else:
            known.reported = True
            self._connection.release(stream, PREFIX_BYTES + len(message))
            events.append(Call(stream, head.method, message, head.metadata, head.timeout_s, True))

    def _end(self, stream: int, known: _Open, events: list[CallEvent]) -> None:
        """Process the end of the client's messages."""
        head = known.head
        if known.pending:
            self.fail(stream, Status.INTERNAL, "the call ends within a message")
        elif not head.is_unary:
            known.reported = True
            events.append(EndOfStream(stream))
        elif known.message is None:
            self.fail(stream, Status.INTERNAL, f"a call of {head.method} without a message")
        else:
            del self._open[stream]
            self._connection.release(stream, PREFIX_BYTES + len(known.message))
            events.append(Call(stream, head.method, known.message, head.metadata, head.timeout_s, False))


class _CallHead(NamedTuple):
    """The parsed headers of a call."""

    method: str
    metadata: Mapping[str, str]
    timeout_s: float | None
    is_unary: bool
    """The call is accepted and has one message."""
    refusal: Headers | None
    """The immediate answer to a call that is refused."""


class _Open:
    """A call that did not arrive whole in one read."""

    __slots__ = ("begun", "ended", "head", "message", "pending", "reported")

    def __init__(self, head: _CallHead) -> None:
        self.head = head
        self.pending = bytearray()
        """The bytes of an incomplete message."""
        self.message: Buffer | None = None
        """The message of a unary call, until the client ends the call."""
        self.ended = False
        """The client has ended its side."""
        self.reported = False
        """The user has seen an event of this call."""
        self.begun = False
        """The answer's headers were sent."""


_GOOD_HEAD: Headers = ((":status", "200"), ("content-type", "application/grpc"))
_GOOD = Envelope(_GOOD_HEAD, (("grpc-status", "0"),))

_METHODS = {operation.service + operation.method: operation.method for operation in OPERATIONS}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_TEXT = 1000
_UNREAD = "too many unread answers on this connection: read them first"
_MOST_MESSAGES = 64
"""Messages of calls in pieces, and of streams, that one ``receive`` reports: a piece may hold 50,000."""


def _status(status: int, text: str) -> Headers:
    """Trailers.  The text is percent-encoded, as gRPC requires."""
    trailers: Headers = (("grpc-status", str(int(status))),)
    if text:
        trailers += (("grpc-message", urllib.parse.quote(one_line(text, _MOST_TEXT), safe=_PLAIN)),)
    return trailers


_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def _read_headers(headers: Headers) -> _CallHead:
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
        refusal = _GOOD_HEAD + _status(Status.UNIMPLEMENTED, f"{one_line(path, 100)}: unknown method")
    elif timeout is not None and matched is None:
        refusal = _GOOD_HEAD + _status(Status.INTERNAL, f"grpc-timeout {one_line(timeout, 20)!r} is not a time")
    else:
        method = _METHODS[path]
        timeout_s = int(matched[1]) * _UNIT_S[matched[2]] if matched is not None else None
    is_unary = refusal is None and method != MODEL_STREAM_INFER.method
    return _CallHead(method, metadata, timeout_s, is_unary, refusal)
