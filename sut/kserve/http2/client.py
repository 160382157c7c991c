"""HTTP/2, seen from a client: bytes in, events out; bytes to write collect in ``out``.

Handles requests and their replies on streams.  Does not depend on sockets or on what the streams carry.

Optimised for many small requests: a request that fits the windows is one piece of bytes, and a whole reply that
differs from an earlier one only in its stream and tensors is recognised by one regular expression.
A stream may send a window of a body's bytes; more where the user, who collects it, counts it with ``intake``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import hpack

from drumfire.sut.kserve.http2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    F_CONTINUATION,
    F_DATA,
    F_HEADERS,
    FRAME,
    HEADERS,
    LARGEST_STREAM,
    LARGEST_WINDOW,
    PREFACE,
    REPLY,
    RESET,
    S_ENABLE_PUSH,
    S_HEADER_LIST,
    S_HEADER_TABLE_SIZE,
    S_MAX_FRAME,
    S_MAX_STREAMS,
    S_WINDOW,
    UNUSUAL,
    Broken,
    Buffer,
    Code,
    Event,
    Headers,
    credit,
    frame,
    go_away,
    reset,
    settings,
)
from drumfire.sut.kserve.http2.intake import STREAM_WINDOW, Intake
from drumfire.sut.kserve.http2.known_replies import KnownReplies
from drumfire.sut.kserve.http2.outflow import Outflow
from drumfire.sut.kserve.http2.peer import MOST_HEADER_BYTES, SMALL, Peer

T = TypeVar("T")

_OUR_LARGEST_FRAME = 1 << 20
_CREDIT_STEP = 1 << 24
_GRANTED = 32 << 20
"""Bytes that replies may send at a time, and as many that large ones are granted; one may always be larger."""
_MOST_ENVELOPES = 4096


class ClientConnection(Peer[T]):
    """One connection.  ``read_headers`` turns a decoded header list into the value of ``HEADERS`` events."""

    def __init__(self, read_headers: Callable[[Headers], T], most_streams: int = LARGEST_WINDOW) -> None:
        """``most_streams``: that its user opens at a time; fewer have larger windows, which save large replies a turn
        to the server and back."""
        super().__init__(
            read_headers,
            largest_frame=_OUR_LARGEST_FRAME,
            credit_step=_CREDIT_STEP,
            not_http2="the server does not speak HTTP/2: its first frame is not SETTINGS",
        )
        self.max_streams = LARGEST_WINDOW
        """The number of streams that the peer lets us have open."""
        self.next_stream = 1
        window = max(_GRANTED // most_streams, STREAM_WINDOW)
        self.intake = Intake(self.out, largest_body=_GRANTED, window=window)
        self._encoder = hpack.Encoder()
        self._blocks: dict[Headers, bytes] = {}
        self._envelopes: dict[tuple[int, int], tuple[bytes, bytes, Headers]] = {}
        self._known = KnownReplies()
        ours = {
            S_HEADER_TABLE_SIZE: 0,
            S_ENABLE_PUSH: 0,
            S_WINDOW: window,
            S_MAX_FRAME: _OUR_LARGEST_FRAME,
            S_HEADER_LIST: MOST_HEADER_BYTES,
        }
        self.out += (PREFACE, settings(ours), credit(0, LARGEST_WINDOW - DEFAULT_WINDOW))

    # For the user of a connection.

    def request(self, headers: Headers, body: Buffer) -> int:
        """Open a stream with ``headers`` and its whole body, which must not be empty; returns the stream.

        The caller respects ``max_streams`` and ``LARGEST_STREAM``, and passes the same ``headers`` object every time.
        """
        stream = self.next_stream
        self.next_stream = stream + 2
        size = len(body)
        if size <= self._largest_frame and size <= self._window and size <= self._initial_window and not self._sending:
            # The key is the object's id: hashing the fields would cost as much as the rest of this method.
            envelope = self._envelopes.get((id(headers), size)) or self._envelop(headers, size)
            if envelope is not None:
                self._window -= size
                number = stream.to_bytes(4, "big")
                if size <= SMALL:
                    self.out.append(b"".join((envelope[0], number, envelope[1], number, body)))
                else:
                    self.out += (b"".join((envelope[0], number, envelope[1], number)), body)
                return stream
        block = self._blocks.get(headers) or self._encode(headers)
        self._put_headers(stream, block)
        waiting = self._sending[stream] = Outflow(self._initial_window, tail=b"")
        waiting.pieces.append(memoryview(body))
        self._send()
        return stream

    def cancel(self, stream: int) -> None:
        """Reset a stream whose reply is no longer wanted."""
        self._sending.pop(stream, None)
        self.out.append(reset(stream, Code.CANCEL))

    def pass_over(self, stream: int, size: int) -> None:
        """Let the peer send ``size`` bytes more, as nobody keeps what it sent."""
        self.out.append(credit(stream, size))

    def close(self) -> None:
        """Put a GOAWAY into ``out``."""
        self.out.append(go_away(0, Code.NO_ERROR))

    def know(self, head: T, body: re.Pattern[bytes], size: int, trailers: T) -> None:
        """Report later replies with these headers, such a body of ``size`` bytes and these trailers as ``REPLY``."""
        blocks = {id(value): block for block, value in self._memo.items()}
        if id(head) not in blocks or id(trailers) not in blocks:
            return
        self._known.add(blocks[id(head)], body, size, blocks[id(trailers)])

    # Reading.

    def _take_frames(self, data: bytes, at: int, events: list[Event]) -> None:
        unpack, memo, end = FRAME.unpack_from, self._memo, len(data)
        known = self._known.find if self._gathering is None else None
        body: Buffer
        while at + 9 <= end:
            if known is not None and (match := known(data, at)) is not None:
                at = match.end()
                self._idle_frames = 0
                last = cast(int, match.lastindex)
                body = match[last]
                self._consumed += len(body)
                events.append((REPLY, int.from_bytes(match[last - 1], "big"), body, True))
                continue
            high, low, kind, flags, stream = unpack(data, at)
            length = high << 8 | low
            first = at + 9
            at = first + length
            if at > end:
                self._check_length(length)
                at = first - 9
                break
            if self._plain and kind <= F_HEADERS and 0 < stream <= LARGEST_STREAM and not flags & UNUSUAL:
                # The fast path: frames without padding or priority.
                if kind == F_DATA:
                    if length:
                        if length <= SMALL:
                            body = data[first:at]
                        else:
                            self._check_length(length)
                            body = memoryview(data)[first:at]
                        self._consumed += length
                        self._idle_frames = 0
                        events.append((DATA, stream, body, bool(flags & END_STREAM)))
                        continue
                elif flags & END_HEADERS:
                    block = data[first:at]
                    value = memo.get(block)
                    if value is not None:
                        self._idle_frames = 0
                        events.append((HEADERS, stream, value, bool(flags & END_STREAM)))
                        continue
            self._check_length(length)
            self._take(kind, flags, stream & LARGEST_STREAM, data[first:at], events)
            known = self._known.find if self._gathering is None else None
        if at < end:
            self._keep(data, at)
        if self._sending:
            for _, stream, _, ended in events:
                if ended and stream in self._sending:  # answered before its request was sent: drop the rest
                    self.cancel(stream)

    def _take_headers(self, stream: int, value: T, ended: bool, events: list[Event]) -> None:
        self._idle_frames = 0
        events.append((HEADERS, stream, value, ended))

    def _take_data(self, stream: int, body: Buffer, size: int, ended: bool, events: list[Event]) -> None:
        self._consumed += size
        if size > len(body) and not ended:
            self.pass_over(stream, size - len(body))
        if body or ended:
            self._idle_frames = 0
            events.append((DATA, stream, body, ended))

    def _take_reset(self, stream: int, code: int, events: list[Event]) -> None:
        self._sending.pop(stream, None)
        self._idle_frames = 0
        events.append((RESET, stream, code, True))

    def _take_setting(self, name: int, value: int) -> None:
        if name == S_HEADER_TABLE_SIZE:
            self._resize_table(min(value, 4096))
        elif name == S_MAX_STREAMS:
            self.max_streams = value
        elif name == S_ENABLE_PUSH and value:
            raise Broken(f"a server's SETTINGS_ENABLE_PUSH {value}")

    def _outflow(self, stream: int) -> Outflow | None:
        outflow = self._sending.get(stream)
        if outflow is None and (stream >= self.next_stream or not stream & 1):
            raise Broken(f"a WINDOW_UPDATE on stream {stream}, which was never opened")
        return outflow

    def _outflows(self) -> Iterable[Outflow]:
        return self._sending.values()

    # Writing.

    def _resize_table(self, size: int) -> None:
        if size == self._encoder.header_table_size:
            return  # hpack would forget a change that is not announced yet
        self._encoder.header_table_size = size
        changes = self._encoder.table_size_changes
        changes[:] = [min(changes), size]  # only these two must be announced: RFC 7541, 4.2
        self._blocks.clear()
        self._envelopes.clear()

    def _encode(self, headers: Headers) -> bytes:
        """The header block; cached as long as sending it again leaves the peer's table unchanged."""
        before = tuple(self._encoder.header_table.dynamic_entries)
        block = bytes(self._encoder.encode(headers))
        if tuple(self._encoder.header_table.dynamic_entries) == before:
            self._blocks[headers] = block
        else:
            self._blocks.clear()
            self._envelopes.clear()
        return block

    def _envelop(self, headers: Headers, size: int) -> tuple[bytes, bytes, Headers] | None:
        """The bytes before and between the two stream numbers of a request whose body is one frame, and ``headers``.

        Cached while the header block stays the same, together with ``headers``, which keeps their id unique.
        None if the block is too long for one frame.
        """
        block = self._blocks.get(headers)
        is_lasting = block is not None
        if block is None:
            block = self._encode(headers)
        if len(block) > DEFAULT_FRAME:
            return None
        first = len(block).to_bytes(3, "big") + bytes((F_HEADERS, END_HEADERS))
        envelope = (first, block + size.to_bytes(3, "big") + bytes((F_DATA, END_STREAM)), headers)
        if is_lasting and len(self._envelopes) < _MOST_ENVELOPES:
            self._envelopes[id(headers), size] = envelope
        return envelope

    def _put_headers(self, stream: int, block: bytes) -> None:
        parts = [block[at : at + DEFAULT_FRAME] for at in range(0, len(block), DEFAULT_FRAME)]
        for number, part in enumerate(parts):
            flags = END_HEADERS if number == len(parts) - 1 else 0
            self.out.append(frame(F_CONTINUATION if number else F_HEADERS, flags, stream, part))
