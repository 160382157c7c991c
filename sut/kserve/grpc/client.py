"""Unary gRPC calls on one HTTP/2 connection, seen from the client: calls and bytes in, results out.

Handles gRPC's framing, metadata, status and trailers.  Does not depend on sockets or on what the messages mean.
Source: "gRPC over HTTP2" of the gRPC documentation.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.grpc.framing import PREFIX_BYTES, SERVICE, Status
from drumfire.sut.kserve.http2.client import ClientConnection
from drumfire.sut.kserve.http2.frames import DATA, GOAWAY, HEADERS, LARGEST_STREAM, Code, Event, Headers, code_name
from drumfire.sut.kserve.http2.intake import Stream
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Buffer, Failure

_SMALL = 1024
"""Bytes below which a piece of a message is copied."""
_NOT_WHOLE = "a reply without a whole message"
_MOST_PIECES, _LEAST_PIECE = 10_000, 64
"""A message in more pieces than this is refused if they are smaller on average: each costs as much as a large one."""


class CallResult(NamedTuple):
    """How a call ended: the reply's message with its prefix, or a failure."""

    ticket: int
    message: Buffer | None
    failure: Failure | None
    status: int | None
    """gRPC's status; None if the call ended without one."""


class UnaryCalls:
    """The unary calls under way on one connection, at most ``limit``.  Each call carries ``metadata``."""

    def __init__(
        self,
        authority: str,
        *,
        tls: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        limit: int = 1 << 30,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.draining = False
        self._limit = limit
        self._connection = ClientConnection(_read_headers, limit)
        self.out = self._connection.out
        self._authority, self._scheme = authority, "https" if tls else "http"
        self._metadata = tuple((name.lower(), value) for name, value in metadata)
        self._max_message_bytes = max_message_bytes
        self._tickets: dict[int, int] = {}
        """By stream, the calls under way; the next three hold what has arrived of their replies."""
        self._messages: dict[int, Buffer] = {}
        self._gathered: dict[int, _Gathered] = {}
        self._failures: dict[int, Failure] = {}
        self._good_head = self._good_trailers = ReplyHead(None, None)
        """Headers and trailers of the last good reply."""

    @property
    def free(self) -> int:
        """How many more calls may be started now; 0 before the server's SETTINGS have arrived."""
        connection = self._connection
        if connection.next_stream > LARGEST_STREAM:
            self.draining = True
        if self.draining or not connection.settled or connection.stalled:
            return 0
        streams_left = (LARGEST_STREAM - connection.next_stream) // 2 + 1
        return max(min(min(self._limit, connection.max_streams) - len(self._tickets), streams_left), 0)

    def headers(self, method: str) -> Headers:
        """The header fields of calls to one method of the service."""
        return (
            (":method", "POST"),
            (":scheme", self._scheme),
            (":path", SERVICE + method),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity"),
            *self._metadata,
        )

    @property
    def under_way(self) -> int:
        return len(self._tickets)

    @property
    def oldest(self) -> int | None:
        return next(iter(self._tickets.values()), None)

    @property
    def buffered(self) -> int:
        """Bytes held of replies that have arrived in part."""
        return self._connection.buffered + sum(map(self._held, {**self._gathered, **self._messages}))

    def _shed(self, most: int) -> list[CallResult]:
        """Cancel the latest calls whose replies have arrived in part, until at most ``most`` bytes are held."""
        results: list[CallResult] = []
        held = self.buffered
        sizes = {stream: self._held(stream) for stream in self._tickets}
        for stream in [stream for stream, size in sizes.items() if size][:0:-1]:  # the oldest stays, of any size
            if held <= most:
                break
            held -= sizes[stream]
            failure = Failure(f"the parts of unfinished replies took over {most >> 20} MiB: use fewer --concurrency")
            results.append(CallResult(self._tickets[stream], None, failure, None))
            self._forget(stream)
            self._connection.cancel(stream)
        return results

    def _held(self, stream: int) -> int:
        gathered = self._gathered.get(stream)
        return len(self._messages.get(stream, b"")) + (gathered.windows.held if gathered is not None else 0)

    def cancel(self, ticket: int) -> bool:
        """Cancel a call; the connection stays usable."""
        for stream, known in self._tickets.items():
            if known == ticket:
                self._forget(stream)
                self._connection.cancel(stream)
                break
        return True

    def close(self) -> None:
        """Put a GOAWAY into ``out``."""
        self._connection.close()

    def _lost(self, reason: str) -> list[CallResult]:
        """Fail all calls under way: the connection has ended."""
        self.draining = True
        results = [CallResult(ticket, None, Failure(reason), None) for ticket in self._tickets.values()]
        for stream in list(self._tickets):
            self._forget(stream)
        return results

    def _take(self, event: Event, results: list[CallResult]) -> None:
        """Process one event; append to ``results`` the call that it ends, if any."""
        kind, stream, value, ended = event
        messages, ticket = self._messages, self._tickets.get(stream)
        if kind is GOAWAY:
            self._go_away(stream, str(value), results)
        elif ticket is None:
            if stream >= self._connection.next_stream or not stream & 1:
                raise ProtocolError(f"a frame on stream {stream}, which was never opened")
        elif kind is DATA:
            assert isinstance(value, bytes | memoryview)
            if not ended and stream not in messages and stream not in self._gathered and self._is_whole(value):
                messages[stream] = value
            else:
                if stream not in self._failures:
                    self._gather(stream, value)
                elif value and not ended:  # the body of a failed reply is not a message
                    self._connection.pass_over(stream, len(value))
                if ended:
                    self._end(stream, ticket, ReplyHead(Failure("a reply without trailers"), None), results)
        elif kind is HEADERS:
            assert isinstance(value, ReplyHead)
            if not ended:
                if value.failure is not None:
                    self._failures[stream] = value.failure
                else:
                    self._good_head = value
            elif value.status == 0 and stream in messages and stream not in self._failures:
                del self._tickets[stream]
                self._good_trailers = value
                results.append(CallResult(ticket, messages.pop(stream), None, 0))
            else:
                self._end(stream, ticket, value, results)
        else:
            assert isinstance(value, int)
            self._forget(stream)
            failure = Failure(f"the server reset the call: {code_name(value)}", value == Code.REFUSED_STREAM)
            results.append(CallResult(ticket, None, failure, None))

    def _take_back(self, tickets: Iterable[int]) -> None:
        """Put calls back that ended earlier in a read which then broke the protocol: they fail with the others."""
        for place, ticket in enumerate(tickets):
            self._tickets[-1 - place] = ticket

    def _is_whole(self, message: Buffer) -> bool:
        size = len(message) - PREFIX_BYTES
        # The length is compared together with the compression flag before it, so compressed messages do not match.
        return 0 <= size <= self._max_message_bytes and int.from_bytes(message[:PREFIX_BYTES], "big") == size

    def _gather(self, stream: int, piece: Buffer) -> None:
        intake = self._connection.intake
        gathered = self._gathered.setdefault(stream, _Gathered(intake.window))
        pieces = [piece]
        if stream in self._messages:  # seemed whole, but more data follows
            pieces.insert(0, self._messages.pop(stream))
        for one in pieces:
            intake.take(stream, gathered.windows, len(one), 0)
            gathered.add(one, self._max_message_bytes)
        if gathered.windows.held <= gathered.declared:
            intake.expect(stream, gathered.windows, gathered.declared - gathered.windows.held)
            return
        self._failures[stream] = Failure(_NOT_WHOLE)
        self._connection.pass_over(stream, gathered.windows.held)
        intake.forget(self._gathered.pop(stream).windows)

    def _end(self, stream: int, ticket: int, trailers: ReplyHead, results: list[CallResult]) -> None:
        """End a call in any way other than status 0 after a message in one frame."""
        message = self._messages.get(stream, b"")
        if stream in self._gathered:
            message = b"".join(self._gathered[stream].pieces)
        # gRPC's own status takes precedence, then the earliest failure.
        failure = (trailers.failure if trailers.status else None) or self._failures.get(stream) or trailers.failure
        if failure is None and trailers.status is None:
            failure = Failure("a reply without grpc-status")
        if failure is None and not self._is_whole(message):
            is_compressed = message[:1] == b"\1"
            failure = Failure("a compressed reply although none was requested" if is_compressed else _NOT_WHOLE)
        self._forget(stream)
        results.append(CallResult(ticket, message if failure is None else None, failure, trailers.status))

    def _begun(self, stream: int) -> Failure | None:
        """Why a whole reply on this stream is wrong: something came before it; None if nothing did."""
        has_begun = stream in self._messages or stream in self._gathered
        return self._failures.get(stream) or (Failure(_NOT_WHOLE) if has_begun else None)

    def _go_away(self, last: int, reason: str, results: list[CallResult]) -> None:
        """Stop opening streams; fail those above ``last``, which the server has not processed."""
        self.draining = True
        for stream in [stream for stream in self._tickets if stream > last]:
            failure = Failure(f"the server closes the connection: {reason}", unseen=True)
            results.append(CallResult(self._tickets[stream], None, failure, None))
            self._forget(stream)
            self._connection.cancel(stream)

    def _forget(self, stream: int) -> None:
        del self._tickets[stream]
        gathered = self._gathered.pop(stream, None)
        if gathered is not None:
            self._connection.intake.forget(gathered.windows)
        self._messages.pop(stream, None)
        self._failures.pop(stream, None)


class Calls(UnaryCalls):
    """Calls to any method, one reply each."""

    def call(self, ticket: int, headers: Headers, message: Buffer) -> None:
        """Start a call; ``message`` is framed.  The caller has checked that ``free`` is not 0."""
        self._tickets[self._connection.request(headers, message)] = ticket

    def receive(self, data: bytes) -> list[CallResult]:
        """Process what was read; returns the calls that ended.  Raises ``ProtocolError``."""
        results: list[CallResult] = []
        try:
            for event in self._connection.receive(data):
                self._take(event, results)
        except ProtocolError:
            self._take_back(result.ticket for result in results)
            raise
        return results

    def eof(self) -> list[CallResult]:
        """The server has closed its side.  The user calls ``lost`` next."""
        self.draining = True
        return []

    def lost(self, reason: str) -> list[CallResult]:
        return self._lost(reason)

    def shed(self, most: int) -> list[CallResult]:
        """See ``exchange.Channel``."""
        return self._shed(most)


class ReplyHead(NamedTuple):
    """The parsed headers or trailers of a reply."""

    failure: Failure | None
    status: int | None
    """gRPC's status; None before the trailers."""


def _read_headers(headers: Headers) -> ReplyHead:
    fields = dict(headers)
    status = fields.get("grpc-status")
    if status is not None:
        if not status.isascii() or not status.isdigit() or len(status) > 9:
            return ReplyHead(Failure("a reply whose grpc-status is not a number"), None)
        code = int(status)
        if code == 0:
            return ReplyHead(None, 0)
        text = one_line(urllib.parse.unquote(fields.get("grpc-message", ""), errors="replace"))
        name = Status(code).name if code in Status._value2member_map_ else f"status {code}"
        return ReplyHead(Failure(f"{name}: {text}"), code)
    http_status = fields.get(":status")
    if http_status is None:
        return ReplyHead(Failure("a reply without grpc-status"), None)
    if http_status[:1] == "1":  # interim; the reply follows
        return ReplyHead(None, None)
    if http_status != "200":
        return ReplyHead(Failure(f"HTTP status {one_line(http_status)} where gRPC answers with 200"), None)
    if not fields.get("content-type", "").startswith("application/grpc"):
        return ReplyHead(Failure(f"a reply of type {fields.get('content-type')!r}: is this a gRPC port?"), None)
    encoding = fields.get("grpc-encoding", "identity")
    if encoding != "identity":
        return ReplyHead(Failure(f"a reply in {one_line(encoding)} although no compression was requested"), None)
    return ReplyHead(None, None)


class _Gathered:
    """The pieces of a message that spans several frames, with the windows of its stream."""

    def __init__(self, window: int) -> None:
        self.windows = Stream(0, receiving=True, allowed=window)
        self.pieces: list[Buffer | bytearray] = []
        self.count = 0
        self.declared = PREFIX_BYTES
        """Bytes of the message with its prefix, as far as they are known."""

    def add(self, piece: Buffer, most_bytes: int) -> None:
        last = self.pieces[-1] if self.pieces else None
        whole_prefix = bool(self.pieces) and len(self.pieces[0]) >= PREFIX_BYTES
        if len(piece) >= _SMALL and (whole_prefix or last is None):
            self.pieces.append(piece)
        elif isinstance(last, bytearray):  # separate small objects would take many times their bytes
            last += piece
        else:
            self.pieces.append(bytearray(piece))
        self.count += 1
        if self.count > _MOST_PIECES and self.windows.held < self.count * _LEAST_PIECE:
            raise ProtocolError(f"a reply in {self.count} pieces of less than {_LEAST_PIECE} bytes on average")
        if len(self.pieces[0]) >= PREFIX_BYTES:
            size = int.from_bytes(self.pieces[0][1:PREFIX_BYTES], "big")
            if size > most_bytes:
                raise ProtocolError(
                    f"a reply of {size} bytes; at most {most_bytes} are accepted: raise --max-message-size"
                )
            self.declared = PREFIX_BYTES + size
