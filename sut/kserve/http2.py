"""HTTP/2, seen from a client: bytes in, events out; what must be written gathers in ``out``.

Knows frames, flow control and header blocks (RFC 9113, RFC 7541); must not know sockets, or what the streams carry.

Made for many small requests: a request that fits the windows is one piece of bytes.  As we allow the peer no header
table (SETTINGS_HEADER_TABLE_SIZE 0), a header block means the same wherever it comes: it is decoded once, and a whole
reply that is like one before but for its stream and tensors is found by one regular expression.
What bounds what: a header block ``_MOST_HEADER_BYTES``, decoded or not; a frame our SETTINGS_MAX_FRAME_SIZE; frames
that only ask for an answer ``_MOST_IDLE_FRAMES`` in a row.  Stream windows are as wide as the protocol allows: the
reader of the streams bounds what it gathers.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import hpack

from sut.kserve.errors import ProtocolError, one_line
from sut.kserve.known_replies import KnownReplies

Buffer = bytes | memoryview
Headers = tuple[tuple[str, str], ...]
T = TypeVar("T")


class Kind(enum.IntEnum):
    """Kinds of events."""

    HEADERS = 0
    """Headers or trailers; the value is what the reader of headers made of them."""
    DATA = 1
    """A piece of the body; the value is the bytes."""
    RESET = 2
    """The peer ended a stream; the value is the error code."""
    GOAWAY = 3
    """The peer takes no streams above this one; the value is a phrase with code and text."""
    REPLY = 4
    """Headers, body and trailers at once, such as ``know`` told; the value is the body."""


HEADERS, DATA, RESET, GOAWAY, REPLY = Kind

Event = tuple[Kind, int, object, bool]
"""Kind, stream, value, and whether the stream's last was said."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_STREAM = 2**31 - 1
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME = 16_384
_OUR_LARGEST_FRAME = 1 << 20
_CREDIT_STEP = 1 << 24
"""The connection's window is topped up when so many bytes have come."""
_MOST_HEADER_BYTES = 1 << 16
_MOST_IDLE_FRAMES = 10_000
_MOST_MEMOISED = 256
_MOST_ENVELOPES = 4096
_SMALL = 4096
"""Bodies below are copied out of what was read; larger ones are views of it."""

_F_DATA, _F_HEADERS, _F_PRIORITY, _F_RESET, _F_SETTINGS = 0, 1, 2, 3, 4
_F_PUSH_PROMISE, _F_PING, _F_GOAWAY, _F_WINDOW_UPDATE, _F_CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_S_HEADER_TABLE_SIZE, _S_ENABLE_PUSH, _S_MAX_STREAMS, _S_WINDOW, _S_MAX_FRAME, _S_HEADER_LIST = 1, 2, 3, 4, 5, 6

_UNUSUAL = _PADDED | _PRIORITY
_NOT_HTTP2 = "the server does not speak HTTP/2: its first frame is not SETTINGS"

_FRAME = struct.Struct(">HBBBI")
"""Length (high 16 bits, low 8), type, flags, stream."""


class Code(enum.IntEnum):
    """Why a stream or a connection ended (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    """The server has not begun to work on the stream."""
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def code_name(code: int) -> str:
    return Code(code).name if code in Code._value2member_map_ else f"error code {code}"


def frame(kind: int, flags: int, stream: int, payload: Buffer = b"") -> bytes:
    length = len(payload)
    return _FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


@dataclass
class _Sending:
    """A body that the windows hold back."""

    rest: memoryview
    window: int


class Connection(Generic[T]):
    """One connection.  ``read_headers`` turns a decoded header list into the value of ``HEADERS`` events."""

    def __init__(self, read_headers: Callable[[Headers], T]) -> None:
        self.out: list[Buffer] = []
        """What must be written, in this order; whoever writes it empties the list."""
        self.max_streams = _LARGEST_WINDOW
        """How many streams the peer lets us have open."""
        self.next_stream = 1
        self._read_headers = read_headers
        self._rest = bytearray()
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder(_MOST_HEADER_BYTES)
        self._blocks: dict[Headers, bytes] = {}
        self._envelopes: dict[tuple[int, int], tuple[bytes, bytes, Headers]] = {}
        self._known = KnownReplies()
        self._memo: dict[bytes, T] = {}
        self._settings_acknowledged = False
        self._settings_seen = False
        self._gathering: tuple[int, int, bytearray] | None = None
        self._plain = False
        """The settings have come and no header block is open: any frame may follow."""
        self._idle_frames = 0
        self._consumed = 0
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._largest_frame = _DEFAULT_FRAME
        self._sending: dict[int, _Sending] = {}
        ours = {
            _S_HEADER_TABLE_SIZE: 0,
            _S_ENABLE_PUSH: 0,
            _S_WINDOW: _LARGEST_WINDOW,
            _S_MAX_FRAME: _OUR_LARGEST_FRAME,
            _S_HEADER_LIST: _MOST_HEADER_BYTES,
        }
        payload = b"".join(struct.pack(">HI", *setting) for setting in ours.items())
        self.out += (PREFACE, frame(_F_SETTINGS, 0, 0, payload), _credit(0, _LARGEST_WINDOW - _DEFAULT_WINDOW))

    # What the user of a connection does.

    def request(self, headers: Headers, body: Buffer) -> int:
        """Open a stream with ``headers`` and all of its body, which must not be empty; returns the stream.

        The caller sees to ``max_streams`` and to ``LARGEST_STREAM``, and keeps the very ``headers`` for the next time.
        """
        stream = self.next_stream
        self.next_stream = stream + 2
        size = len(body)
        if size <= self._largest_frame and size <= self._window and size <= self._initial_window and not self._sending:
            # The identity of the fields is enough to know them by: hashing them would cost as much as all the rest.
            envelope = self._envelopes.get((id(headers), size)) or self._envelop(headers, size)
            if envelope is not None:
                self._window -= size
                number = stream.to_bytes(4, "big")
                if size <= _SMALL:
                    self.out.append(b"".join((envelope[0], number, envelope[1], number, body)))
                else:
                    self.out += (b"".join((envelope[0], number, envelope[1], number)), body)
                return stream
        block = self._blocks.get(headers) or self._encode(headers)
        self._put_headers(stream, block)
        self._sending[stream] = _Sending(memoryview(body), self._initial_window)
        self._send()
        return stream

    def cancel(self, stream: int) -> None:
        """End a stream whose answer nobody waits for any more."""
        self._sending.pop(stream, None)
        self.out.append(frame(_F_RESET, 0, stream, Code.CANCEL.to_bytes(4, "big")))

    def close(self) -> None:
        """Tell the peer that we go."""
        self.out.append(frame(_F_GOAWAY, 0, 0, struct.pack(">II", 0, Code.NO_ERROR)))

    def know(self, head: T, body: re.Pattern[bytes], size: int, trailers: T) -> None:
        """A reply of these headers, such a body of ``size`` bytes in one frame and these trailers may come again."""
        blocks = {id(value): block for block, value in self._memo.items()}
        if id(head) not in blocks or id(trailers) not in blocks:
            return
        self._known.add(blocks[id(head)], body, size, blocks[id(trailers)])

    @property
    def settled(self) -> bool:
        """Whether the peer has told its settings."""
        return self._settings_seen

    @property
    def stalled(self) -> bool:
        """Whether the connection's window lets nothing through: what is sent now would only wait."""
        return self._window <= 0

    @property
    def buffered(self) -> int:
        """Bytes held of frames and header blocks that are not whole yet."""
        return len(self._rest) + (len(self._gathering[2]) if self._gathering else 0)

    def receive(self, data: bytes) -> list[Event]:
        """Take what was read.  Raises ``ProtocolError`` when the peer broke the protocol, with a GOAWAY in ``out``."""
        events: list[Event] = []
        try:
            at = self._complete_rest(data, events) if self._rest else 0
            self._take_frames(data, at, events)
        except ProtocolError as error:
            code = error.code if isinstance(error, _Broken) else Code.PROTOCOL_ERROR
            self.out.append(frame(_F_GOAWAY, 0, 0, struct.pack(">II", 0, code) + str(error).encode()[:200]))
            raise
        if self._consumed >= _CREDIT_STEP:
            self.out.append(_credit(0, self._consumed))
            self._consumed = 0
        if self._sending:
            for _, stream, _, ended in events:
                if ended and stream in self._sending:  # answered before it was asked: the rest is of no use
                    self.cancel(stream)
        return events

    # Reading.

    def _complete_rest(self, data: bytes, events: list[Event]) -> int:
        """Finish the frame that the last read broke off in; returns where the next one starts in ``data``."""
        rest = self._rest
        at = 0
        if len(rest) < 9:
            at = min(9 - len(rest), len(data))
            rest += data[:at]
            if len(rest) < 9:
                return at
        length = int.from_bytes(rest[:3], "big")
        self._check_length(length)
        missing = 9 + length - len(rest)
        rest += data[at : at + missing]
        at += min(missing, len(data) - at)
        if len(rest) == 9 + length:
            whole, self._rest = bytes(rest), bytearray()
            self._take_frames(whole, 0, events)
        return at

    def _take_frames(self, data: bytes, at: int, events: list[Event]) -> None:
        """All whole frames of ``data`` from ``at`` on; what is left is kept."""
        unpack, memo, end = _FRAME.unpack_from, self._memo, len(data)
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
            if self._plain and kind <= _F_HEADERS and 0 < stream <= LARGEST_STREAM and not flags & _UNUSUAL:
                # The usual frames, without what they rarely have.
                if kind == _F_DATA:
                    if length:
                        if length <= _SMALL:
                            body = data[first:at]
                        else:
                            self._check_length(length)
                            body = memoryview(data)[first:at]
                        self._consumed += length
                        self._idle_frames = 0
                        events.append((DATA, stream, body, bool(flags & _END_STREAM)))
                        continue
                elif flags & _END_HEADERS:
                    block = data[first:at]
                    value = memo.get(block)
                    if value is not None:
                        self._idle_frames = 0
                        events.append((HEADERS, stream, value, bool(flags & _END_STREAM)))
                        continue
            self._check_length(length)
            self._take(kind, flags, stream & LARGEST_STREAM, data[first:at], events)
            known = self._known.find if self._gathering is None else None
        if at < end:
            self._rest += data[at:]

    def _check_length(self, length: int) -> None:
        if length > _OUR_LARGEST_FRAME:
            if not self._settings_seen:
                raise _Broken(_NOT_HTTP2)
            raise _Broken(
                f"a frame of {length} bytes where at most {_OUR_LARGEST_FRAME} are allowed", Code.FRAME_SIZE_ERROR
            )

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        """Any frame."""
        if not self._settings_seen and kind != _F_SETTINGS:
            raise _Broken(_NOT_HTTP2)
        if self._gathering is not None and (kind != _F_CONTINUATION or stream != self._gathering[0]):
            raise _Broken("a header block was interrupted by another frame")
        self._idle_frames += 1
        if self._idle_frames > _MOST_IDLE_FRAMES:
            raise _Broken("a flood of frames that carry nothing", Code.ENHANCE_YOUR_CALM)
        if kind == _F_DATA:
            self._consumed += len(payload)
            _need(stream, "DATA")
            body = _unpadded(payload, flags)
            if body or flags & _END_STREAM:
                self._idle_frames = 0
                events.append((DATA, stream, body, bool(flags & _END_STREAM)))
        elif kind == _F_HEADERS:
            _need(stream, "HEADERS")
            block = _unpadded(payload, flags)
            if flags & _PRIORITY:
                if len(block) < 5:
                    raise _Broken("a HEADERS frame ends within its priority", Code.FRAME_SIZE_ERROR)
                block = block[5:]
            self._gather(stream, flags, bytearray(block), flags, events)
        elif kind == _F_CONTINUATION:
            if self._gathering is None:
                raise _Broken("a CONTINUATION frame follows no HEADERS")
            _, first_flags, gathered = self._gathering
            gathered += payload
            self._gather(stream, first_flags, gathered, flags, events)
        elif kind == _F_SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == _F_PING:
            _need_none(stream, "PING")
            if len(payload) != 8:
                raise _Broken("a PING frame has 8 bytes", Code.FRAME_SIZE_ERROR)
            if not flags & _ACK:
                self.out.append(frame(_F_PING, _ACK, 0, payload))
        elif kind == _F_WINDOW_UPDATE:
            self._take_window_update(stream, payload)
        elif kind == _F_RESET:
            _need(stream, "RST_STREAM")
            if len(payload) != 4:
                raise _Broken("an RST_STREAM frame has 4 bytes", Code.FRAME_SIZE_ERROR)
            self._sending.pop(stream, None)
            self._idle_frames = 0
            events.append((RESET, stream, int.from_bytes(payload, "big"), True))
        elif kind == _F_GOAWAY:
            _need_none(stream, "GOAWAY")
            if len(payload) < 8:
                raise _Broken("a GOAWAY frame has 8 bytes or more", Code.FRAME_SIZE_ERROR)
            last, code = struct.unpack_from(">II", payload)
            text = one_line(payload[8:].decode("utf-8", "replace"))
            events.append((GOAWAY, last & LARGEST_STREAM, f"{code_name(code)} {text}".strip(), False))
        elif kind == _F_PUSH_PROMISE:
            raise _Broken("a PUSH_PROMISE although push is off")
        elif kind == _F_PRIORITY:  # it means nothing to us
            _need(stream, "PRIORITY")
            if len(payload) != 5:
                raise _Broken("a PRIORITY frame has 5 bytes", Code.FRAME_SIZE_ERROR)
        # So do unknown types, whatever their form.

    def _gather(self, stream: int, first_flags: int, block: bytearray, flags: int, events: list[Event]) -> None:
        """A header block, or the next part of one."""
        if len(block) > _MOST_HEADER_BYTES:
            raise _Broken(f"a header block of more than {_MOST_HEADER_BYTES} bytes", Code.ENHANCE_YOUR_CALM)
        if not flags & _END_HEADERS:
            self._gathering, self._plain = (stream, first_flags, block), False
            return
        self._gathering, self._plain = None, True
        self._idle_frames = 0
        events.append((HEADERS, stream, self._decode(bytes(block)), bool(first_flags & _END_STREAM)))

    def _decode(self, block: bytes) -> T:
        try:
            headers: Headers = tuple((str(name), str(value)) for name, value in self._decoder.decode(block))
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            text = one_line(str(error), 100)
            raise _Broken(f"a header block that can not be decoded: {text}", Code.COMPRESSION_ERROR) from None
        value = self._read_headers(headers)
        # With a table the same bytes may mean something else the next time.
        if self._settings_acknowledged:
            if len(self._memo) >= _MOST_MEMOISED:  # blocks with a date or the like, of no more use
                self._memo.clear()
            self._memo[block] = value
        return value

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        _need_none(stream, "SETTINGS")
        if len(payload) % 6 or (flags & _ACK and payload):
            raise _Broken("a SETTINGS frame of a wrong size", Code.FRAME_SIZE_ERROR)
        if not self._settings_seen:
            if flags & _ACK:
                raise _Broken(_NOT_HTTP2)
            self._settings_seen = self._plain = True
        if flags & _ACK:
            self._settings_acknowledged = True
            # Strictly, a block that tells so comes first; servers that never use the table leave it out.
            self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
            return
        for at in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == _S_HEADER_TABLE_SIZE:
                self._resize_table(min(value, 4096))
            elif name == _S_ENABLE_PUSH:
                if value:
                    raise _Broken(f"a server's SETTINGS_ENABLE_PUSH {value}")
            elif name == _S_MAX_STREAMS:
                self.max_streams = value
            elif name == _S_MAX_FRAME:
                if not _DEFAULT_FRAME <= value < 1 << 24:
                    raise _Broken(f"SETTINGS_MAX_FRAME_SIZE {value}")
                self._largest_frame = value
            elif name == _S_WINDOW:
                if value > _LARGEST_WINDOW:
                    raise _Broken(f"SETTINGS_INITIAL_WINDOW_SIZE {value}", Code.FLOW_CONTROL_ERROR)
                for sending in self._sending.values():
                    sending.window += value - self._initial_window
                    if sending.window > _LARGEST_WINDOW:
                        raise _Broken("a window above 2^31-1", Code.FLOW_CONTROL_ERROR)
                self._initial_window = value
        self.out.append(frame(_F_SETTINGS, _ACK, 0))
        self._send()

    def _take_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _Broken("a WINDOW_UPDATE frame has 4 bytes", Code.FRAME_SIZE_ERROR)
        credit = int.from_bytes(payload, "big") & _LARGEST_WINDOW
        if not credit:
            raise _Broken("a WINDOW_UPDATE of 0")
        if stream == 0:
            self._window += credit
            grown = self._window
        else:
            sending = self._sending.get(stream)
            if sending is None:
                if stream >= self.next_stream or not stream & 1:
                    raise _Broken(f"a WINDOW_UPDATE on stream {stream}, which was never opened")
                return
            sending.window += credit
            grown = sending.window
        if grown > _LARGEST_WINDOW:
            raise _Broken("a window above 2^31-1", Code.FLOW_CONTROL_ERROR)
        self._send()

    # Writing.

    def _resize_table(self, size: int) -> None:
        if size == self._encoder.header_table_size:
            return  # hpack would forget a change that is still to be told
        self._encoder.header_table_size = size
        told = self._encoder.table_size_changes
        told[:] = [min(told), size]  # all that need be told: RFC 7541, 4.2
        self._blocks.clear()
        self._envelopes.clear()

    def _encode(self, headers: Headers) -> bytes:
        """The header block; kept as long as sending it again changes nothing in the peer's table."""
        before = tuple(self._encoder.header_table.dynamic_entries)
        block = bytes(self._encoder.encode(headers))
        if tuple(self._encoder.header_table.dynamic_entries) == before:
            self._blocks[headers] = block
        else:
            self._blocks.clear()
            self._envelopes.clear()
        return block

    def _envelop(self, headers: Headers, size: int) -> tuple[bytes, bytes, Headers] | None:
        """What stands before the stream's number and between its two places in a request whose body is one frame.

        Kept while the header block stays the same, with the fields themselves: their identity must remain theirs.
        None where the block is too long for one frame.
        """
        block = self._blocks.get(headers)
        is_lasting = block is not None
        if block is None:
            block = self._encode(headers)
        if len(block) > _DEFAULT_FRAME:
            return None
        first = len(block).to_bytes(3, "big") + bytes((_F_HEADERS, _END_HEADERS))
        envelope = (first, block + size.to_bytes(3, "big") + bytes((_F_DATA, _END_STREAM)), headers)
        if is_lasting and len(self._envelopes) < _MOST_ENVELOPES:
            self._envelopes[id(headers), size] = envelope
        return envelope

    def _put_headers(self, stream: int, block: bytes) -> None:
        parts = [block[at : at + _DEFAULT_FRAME] for at in range(0, len(block), _DEFAULT_FRAME)]
        for number, part in enumerate(parts):
            flags = _END_HEADERS if number == len(parts) - 1 else 0
            self.out.append(frame(_F_CONTINUATION if number else _F_HEADERS, flags, stream, part))

    def _send(self) -> None:
        """As much of the held back bodies as the windows let through, the oldest first."""
        done = []
        for stream, sending in self._sending.items():
            rest = sending.rest
            while rest and self._window > 0 and sending.window > 0:
                size = min(len(rest), self._largest_frame, self._window, sending.window)
                self._window -= size
                sending.window -= size
                last = size == len(rest)
                head = _FRAME.pack(size >> 8, size & 0xFF, _F_DATA, _END_STREAM if last else 0, stream)
                self.out += (head, rest[:size])
                rest = rest[size:]
            sending.rest = rest
            if not rest:
                done.append(stream)
            if self._window <= 0:
                break
        for stream in done:
            del self._sending[stream]


class _Broken(ProtocolError):
    def __init__(self, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def _need(stream: int, what: str) -> None:
    if not stream:
        raise _Broken(f"a {what} frame without a stream")


def _need_none(stream: int, what: str) -> None:
    if stream:
        raise _Broken(f"a {what} frame on a stream")


def _unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _Broken("padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _credit(stream: int, size: int) -> bytes:
    return frame(_F_WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))
