"""The part of HTTP/2 that both ends of a connection share: bytes in, events out; bytes to write collect in ``out``.

Handles the order of frames, settings, flow control and header blocks (RFC 9113, RFC 7541).  Does not depend on the
role (``client`` and ``server`` add it), on sockets or on what the streams carry.

We allow the peer no header table (SETTINGS_HEADER_TABLE_SIZE 0), so once it has acknowledged our settings, equal
header blocks mean the same and each is decoded only once.  Limits: ``MOST_HEADER_BYTES`` of a header block, encoded
and decoded; our SETTINGS_MAX_FRAME_SIZE of a frame; ``MOST_IDLE_FRAMES`` frames without content in a row.

What one read costs is bounded too, where the user wants it: frames count by what they cost, and those beyond
``most_work`` stay ``unread`` until the next call of ``receive``.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import hpack

from drumfire.sut.kserve.errors import ProtocolError, one_line
from drumfire.sut.kserve.http2.frames import (
    ACK,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    F_CONTINUATION,
    F_DATA,
    F_GOAWAY,
    F_HEADERS,
    F_PING,
    F_PRIORITY,
    F_PUSH_PROMISE,
    F_RESET,
    F_SETTINGS,
    F_WINDOW_UPDATE,
    FRAME,
    GOAWAY,
    LARGEST_WINDOW,
    PRIORITY,
    S_MAX_FRAME,
    S_WINDOW,
    Broken,
    Buffer,
    Code,
    Event,
    Headers,
    credit,
    frame,
    go_away,
    need_connection,
    need_size,
    need_stream,
    read_go_away,
    read_increment,
    read_settings,
    unpadded,
)
from drumfire.sut.kserve.http2.outflow import Outflow

T = TypeVar("T")

MOST_HEADER_BYTES = 1 << 14
"""Each byte may be a header, which takes 2 us to decode."""
MOST_IDLE_FRAMES = 10_000
SMALL = 4096
"""Bytes up to which a body is copied from the data read; larger bodies are views of it."""
_MOST_MEMOISED = 256
_LARGEST_MEMOISED = 4096
# What frames cost, in units of about 4 us.
WORK_OF_REQUEST = 6
_WORK_OF_RESET = 4
_WORK_OF_GOAWAY = 4
_WORK_OF_SETTINGS = 16
_BYTES_OF_BLOCK = 2
"""Bytes of a header block that cost one unit to decode."""


class Peer(ABC, Generic[T]):
    """One end.  ``read_headers`` converts a decoded header list into the value of ``HEADERS`` events."""

    def __init__(
        self,
        read_headers: Callable[[Headers], T],
        *,
        largest_frame: int,
        credit_step: int,
        not_http2: str,
        most_work: int = sys.maxsize,
    ) -> None:
        """``largest_frame``: the frame size that we announce, in bytes; ``credit_step``: bytes after which the
        connection's window is topped up; ``not_http2``: the error's text if the first frame is not SETTINGS;
        ``most_work``: the work of one ``receive``, in units of about 4 us."""
        self.out: list[Buffer] = []
        """Bytes to write, in order; the writer empties the list."""
        self._read_headers = read_headers
        self.unread: tuple[bytes, int] | None = None
        """What was read and not processed, for the lack of time: the bytes, and how many of them are done."""
        self.was_long = False
        """The last ``receive`` took a fifth of the time that it may take, or all of it."""
        self._our_largest_frame, self._credit_step, self._not_http2 = largest_frame, credit_step, not_http2
        self._most_work = most_work
        self._work = 0
        """Of the last ``receive``, in units of about 4 us."""
        self._rest = bytearray()
        self._decoder = hpack.Decoder(MOST_HEADER_BYTES)
        self._memo: dict[bytes, T] = {}
        self._settings_acknowledged = False
        self._settings_seen = False
        self._gathering: tuple[int, int, bytearray] | None = None
        self._plain = False
        """The peer's SETTINGS have arrived and no header block is open: any frame may follow."""
        self._idle_frames = 0
        self._consumed = 0
        """Bytes received and released that the peer has not been credited with yet."""
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._largest_frame = DEFAULT_FRAME
        self._sending: dict[int, Outflow] = {}
        """By stream, the bodies that wait to be sent."""
        self._wider = False
        """A window has grown since the last send."""
        self._last_taken = 0
        """The highest stream that the peer opened."""

    @property
    def settled(self) -> bool:
        """Whether the peer's SETTINGS have arrived."""
        return self._settings_seen

    @property
    def stalled(self) -> bool:
        """Whether the connection's window is used up: a new request would only wait."""
        return self._window <= 0

    @property
    def buffered(self) -> int:
        """Bytes held of incomplete frames and header blocks."""
        return len(self._rest) + (len(self._gathering[2]) if self._gathering else 0)

    def receive(self, data: bytes) -> list[Event]:
        """Process what was read, after what is ``unread``.  Raises ``ProtocolError`` if the peer broke the protocol,
        with a GOAWAY in ``out``."""
        events: list[Event] = []
        self._work = 0
        try:
            if self.unread is not None:
                (earlier, at), self.unread = self.unread, None
                if data:
                    data, at = earlier[at:] + data, 0
                else:
                    data = earlier
            else:
                at = self._complete_rest(data, events) if self._rest else 0
            self._take_frames(data, at, events)
        except ProtocolError as error:
            code = error.code if isinstance(error, Broken) else Code.PROTOCOL_ERROR
            self.out.append(go_away(self._last_taken, code, str(error)))
            raise
        self.was_long = self._work * 5 >= self._most_work
        if self._wider:  # once per read, so that a peer that widens by single bytes costs no more
            self._wider = False
            self._send()
        if self._consumed >= self._credit_step:
            self.out.append(credit(0, self._consumed))
            self._consumed = 0
        return events

    # For each end to implement.

    @abstractmethod
    def _take_frames(self, data: bytes, at: int, events: list[Event]) -> None:
        """Process the whole frames of ``data`` from ``at`` on; keep the rest, with ``_keep``."""

    @abstractmethod
    def _take_headers(self, stream: int, value: T, ended: bool, events: list[Event]) -> None: ...

    @abstractmethod
    def _take_data(self, stream: int, body: Buffer, size: int, ended: bool, events: list[Event]) -> None:
        """``size``: bytes with padding, as flow control counts them."""

    @abstractmethod
    def _take_reset(self, stream: int, code: int, events: list[Event]) -> None: ...

    @abstractmethod
    def _outflow(self, stream: int) -> Outflow | None:
        """The outflow of a stream whose window the peer widens; None if the stream has ended.  Raises ``Broken``."""

    @abstractmethod
    def _outflows(self) -> Iterable[Outflow]:
        """The outflows of all streams."""

    def _take_setting(self, name: int, value: int) -> None:
        """Process a setting that concerns only one end; ignore unknown ones."""

    def _take_pong(self, payload: bytes) -> None:
        """Process the answer to a PING."""

    def _ended(self, stream: int) -> None:
        """Everything on this stream was sent."""

    # Reading.

    def _complete_rest(self, data: bytes, events: list[Event]) -> int:
        """Complete the frame that the last read cut off; returns the start of the next frame in ``data``."""
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

    def _keep(self, data: bytes, at: int) -> None:
        """Keep ``data[at:]``: the start of a frame, or what there was no time for."""
        if self._work >= self._most_work:
            self.unread = (data, at)
        else:
            self._rest += data[at:]

    def _check_length(self, length: int) -> None:
        if length > self._our_largest_frame:
            if not self._settings_seen:
                raise Broken(self._not_http2)
            raise Broken(
                f"a frame of {length} bytes; at most {self._our_largest_frame} are allowed", Code.FRAME_SIZE_ERROR
            )

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        """Process any frame."""
        if not self._settings_seen and kind != F_SETTINGS:
            raise Broken(self._not_http2)
        if self._gathering is not None and (kind != F_CONTINUATION or stream != self._gathering[0]):
            raise Broken("a header block was interrupted by another frame")
        self._work += 1
        self._idle_frames += 1
        if self._idle_frames > MOST_IDLE_FRAMES:
            raise Broken("a flood of frames without content", Code.ENHANCE_YOUR_CALM)
        if kind == F_DATA:
            need_stream(stream, "DATA")
            self._take_data(stream, unpadded(payload, flags), len(payload), bool(flags & END_STREAM), events)
        elif kind == F_HEADERS:
            need_stream(stream, "HEADERS")
            block = unpadded(payload, flags)
            if flags & PRIORITY:
                if len(block) < 5:
                    raise Broken("a HEADERS frame ends within its priority", Code.FRAME_SIZE_ERROR)
                block = block[5:]
            self._gather(stream, flags, bytearray(block), flags, events)
        elif kind == F_CONTINUATION:
            if self._gathering is None:
                raise Broken("a CONTINUATION frame follows no HEADERS")
            _, first_flags, gathered = self._gathering
            gathered += payload
            self._gather(stream, first_flags, gathered, flags, events)
        elif kind == F_SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == F_PING:
            need_connection(stream, "PING")
            need_size(payload, 8, "a PING")
            if flags & ACK:
                self._take_pong(payload)
            else:
                self.out.append(frame(F_PING, ACK, 0, payload))
        elif kind == F_WINDOW_UPDATE:
            self._take_window_update(stream, payload)
        elif kind == F_RESET:
            need_stream(stream, "RST_STREAM")
            need_size(payload, 4, "an RST_STREAM")
            self._work += _WORK_OF_RESET
            self._take_reset(stream, int.from_bytes(payload, "big"), events)
        elif kind == F_GOAWAY:
            need_connection(stream, "GOAWAY")
            self._work += _WORK_OF_GOAWAY
            events.append((GOAWAY, *read_go_away(payload), False))
        elif kind == F_PUSH_PROMISE:
            raise Broken("a PUSH_PROMISE although push is off")
        elif kind == F_PRIORITY:  # checked and ignored
            need_stream(stream, "PRIORITY")
            need_size(payload, 5, "a PRIORITY")
        # Unknown types are ignored.

    def _gather(self, stream: int, first_flags: int, block: bytearray, flags: int, events: list[Event]) -> None:
        """Process a header block, or the next part of one."""
        if len(block) > MOST_HEADER_BYTES:
            raise Broken(f"a header block of more than {MOST_HEADER_BYTES} bytes", Code.ENHANCE_YOUR_CALM)
        if not flags & END_HEADERS:
            self._gathering, self._plain = (stream, first_flags, block), False
            return
        self._gathering, self._plain = None, True
        self._take_headers(stream, self._decode(bytes(block)), bool(first_flags & END_STREAM), events)

    def _decode(self, block: bytes) -> T:
        known = self._memo.get(block)
        if known is not None:
            return known
        self._work += len(block) // _BYTES_OF_BLOCK
        try:
            headers: Headers = tuple((str(name), str(value)) for name, value in self._decoder.decode(block))
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            text = one_line(str(error), 100)
            raise Broken(f"a header block that cannot be decoded: {text}", Code.COMPRESSION_ERROR) from None
        value = self._read_headers(headers)
        # While the peer may use a table, the same bytes may mean something else the next time.
        if self._settings_acknowledged and len(block) <= _LARGEST_MEMOISED:
            if len(self._memo) >= _MOST_MEMOISED:  # filled by blocks with dates or the like, which never recur
                self._memo.clear()
            self._memo[block] = value
        return value

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        need_connection(stream, "SETTINGS")
        if flags & ACK:
            need_size(payload, 0, "an acknowledging SETTINGS")
        if not self._settings_seen:
            if flags & ACK:
                raise Broken(self._not_http2)
            self._settings_seen = self._plain = True
        if flags & ACK:
            self._settings_acknowledged = True
            # Strictly, the peer announces the new size in its next block; peers that never use the table do not.
            self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
            return
        self._work += _WORK_OF_SETTINGS
        initial_window = self._initial_window
        for name, value in read_settings(payload):
            if name == S_MAX_FRAME:
                self._largest_frame = value
            elif name == S_WINDOW:
                initial_window = value
            else:
                self._take_setting(name, value)
        if initial_window != self._initial_window:
            for outflow in self._outflows():
                outflow.window += initial_window - self._initial_window
                if outflow.window > LARGEST_WINDOW:
                    raise Broken("a window above 2^31-1", Code.FLOW_CONTROL_ERROR)
            self._initial_window = initial_window
        self.out.append(frame(F_SETTINGS, ACK, 0))
        self._wider = True

    def _take_window_update(self, stream: int, payload: bytes) -> None:
        size = read_increment(payload)
        if stream == 0:
            self._window += size
            grown = self._window
        else:
            outflow = self._outflow(stream)
            if outflow is None:
                return
            outflow.window += size
            grown = outflow.window
        if grown > LARGEST_WINDOW:
            raise Broken("a window above 2^31-1", Code.FLOW_CONTROL_ERROR)
        self._wider = True

    # Writing.

    def _send(self) -> None:
        """Send as much of the waiting bodies as the windows allow, the oldest first."""
        done, window = [], self._window
        for stream, outflow in self._sending.items():
            pieces, is_last = outflow.pieces, outflow.tail == b""
            while pieces and self._window > 0 and outflow.window > 0:
                rest = pieces[0]
                size = min(len(rest), self._largest_frame, self._window, outflow.window)
                self._window -= size
                outflow.window -= size
                if size == len(rest):
                    pieces.popleft()
                else:
                    pieces[0] = rest[size:]
                flags = END_STREAM if is_last and not pieces else 0
                self.out += (FRAME.pack(size >> 8, size & 0xFF, F_DATA, flags, stream), rest[:size])
            if not pieces:
                done.append(stream)
            if self._window <= 0:
                break
        if self._window < window:  # WINDOW_UPDATE frames that let us send are not a flood
            self._idle_frames = 0
        for stream in done:
            tail = self._sending.pop(stream).tail
            if tail:
                self.out.append(tail)
            if tail is not None:
                self._ended(stream)
