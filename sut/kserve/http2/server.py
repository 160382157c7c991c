"""HTTP/2, seen from a server: bytes in, requests out; bytes to write collect in ``out``.

Handles the streams that a client opens, their requests and answers.  Does not depend on sockets or on what the streams
carry.

Optimised for many small requests: a request with memoised headers and a body in one frame is one event, and only its
stream number is kept; its answer is one piece of bytes.
Limits: the windows of ``intake`` for the bytes of requests that the user has not released; ``_MOST_RESETS`` streams
more that ended without an answer (reset by the client, or refused) than streams answered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from drumfire.sut.kserve.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    F_DATA,
    F_HEADERS,
    F_PING,
    FRAME,
    HEADERS,
    LARGEST_STREAM,
    PADDED,
    PREFACE,
    REQUEST,
    RESET,
    S_ENABLE_PUSH,
    S_HEADER_LIST,
    S_HEADER_TABLE_SIZE,
    S_MAX_FRAME,
    S_MAX_STREAMS,
    S_WINDOW,
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
from drumfire.sut.kserve.http2.header_block import NO_TABLE, Envelope
from drumfire.sut.kserve.http2.intake import STREAM_WINDOW, Intake, Stream
from drumfire.sut.kserve.http2.outflow import Outflow
from drumfire.sut.kserve.http2.peer import MOST_HEADER_BYTES, SMALL, WORK_OF_REQUEST, Peer

T = TypeVar("T")

_CREDIT_STEP = 1 << 20
_MOST_RESETS = 1000
_LARGEST_JOINED = 16_384
"""Bytes up to which a body is copied, to write it in one piece with the frames around it."""
_FAREWELL = b"farewell"
_DATA_FRAME = bytes((F_DATA, 0))


class ServerConnection(Peer[T]):
    """One connection.  ``read_headers`` converts a decoded header list into the value of ``HEADERS`` and ``REQUEST``.

    Anything sent on a stream that has ended is dropped, so the user need not check whether it is still open.
    """

    def __init__(
        self,
        read_headers: Callable[[Headers], T],
        *,
        max_streams: int,
        largest_body: int,
        most_work: int = sys.maxsize,
    ) -> None:
        super().__init__(
            read_headers,
            largest_frame=STREAM_WINDOW,
            credit_step=_CREDIT_STEP,
            not_http2="the client does not speak HTTP/2: no SETTINGS after the preface",
            most_work=most_work,
        )
        self.partial = False
        """After ``receive``: a frame, a header block or a body may have arrived in part."""
        self.waiting = 0
        """Bytes of answers that wait for the client's windows."""
        self._max_streams = max_streams
        self._streams: dict[int, Stream | None] = {}
        """The open streams; None for a whole request whose answer has not started."""
        self._greeted = False
        self._first = NO_TABLE
        self._intake = Intake(self.out, max_streams=max_streams, largest_body=largest_body, slack=_CREDIT_STEP)
        self._resets = 0
        self._draining = self._closed = False
        ours = {
            S_HEADER_TABLE_SIZE: 0,
            S_MAX_STREAMS: max_streams,
            S_WINDOW: STREAM_WINDOW,
            S_MAX_FRAME: STREAM_WINDOW,
            S_HEADER_LIST: MOST_HEADER_BYTES,
        }
        self.out += (settings(ours), credit(0, self._intake.most - DEFAULT_WINDOW))

    # For the user of a connection.

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    @property
    def held(self) -> int:
        """Bytes of ``DATA`` received and not released."""
        return self._intake.held

    @property
    def closed(self) -> bool:
        """The client has been sent the last stream that is answered."""
        return self._closed

    def receive(self, data: bytes) -> list[Event]:
        if not self._greeted:
            data = bytes(self._rest + data)
            if not data.startswith(PREFACE):
                if not PREFACE.startswith(data):
                    raise Broken("the client does not speak HTTP/2: the connection does not begin with its preface")
                self._rest, self.partial = bytearray(data), bool(data)
                return []
            self._greeted, self._rest = True, bytearray()
            data = data[len(PREFACE) :]
        return super().receive(data)

    def respond(self, stream: int, around: Envelope, start: bytes, body: Buffer) -> None:
        """Send a whole answer, whose body is ``start`` and ``body``."""
        streams = self._streams
        if stream not in streams:
            return
        size = len(start) + len(body)
        known = streams[stream]
        window = self._initial_window if known is None else 0 if known.receiving else known.window
        if (
            size <= window
            and not self._sending
            and size <= self._window
            and size <= self._largest_frame
            and not self._first
        ):
            self._window -= size
            if known is None:
                del streams[stream]
            else:
                self._forget(stream)
            if self._resets:
                self._resets -= 1
            number, length = stream.to_bytes(4, "big"), size.to_bytes(3, "big")
            before = (around.before, number, around.head, length, _DATA_FRAME, number, start)
            behind = (around.behind, number, around.tail)
            if size <= _LARGEST_JOINED:
                self.out.append(b"".join((*before, body, *behind)))
            else:
                self.out += (b"".join(before), body, b"".join(behind))
            return
        self.begin(stream, around.head)
        self.send(stream, start, body)
        self.end(stream, around.tail)

    def begin(self, stream: int, block: bytes) -> None:
        """Send the headers of an answer that comes in parts."""
        if self._known(stream) is not None:
            self._put_headers(stream, block)

    def send(self, stream: int, *pieces: Buffer) -> None:
        """Send the next part of an answer's body."""
        known = self._known(stream)
        if known is None:
            return
        size = sum(map(len, pieces))
        if not self._sending and size <= self._window and size <= known.window and size <= self._largest_frame:
            self._window -= size
            known.window -= size
            head = FRAME.pack(size >> 8, size & 0xFF, F_DATA, 0, stream)
            if size <= _LARGEST_JOINED:
                self.out.append(b"".join((head, *pieces)))
            else:
                self.out += (head, *pieces)
            return
        known.add(pieces, size)
        self.waiting += size
        self._sending[stream] = known
        self._send()

    def end(self, stream: int, block: bytes) -> None:
        """Send the trailers (or headers, without a body); the stream ends when everything before has been sent."""
        known = self._known(stream)
        if known is None or known.tail is not None:
            return
        if known.pieces:
            known.tail = frame(F_HEADERS, END_HEADERS | END_STREAM, stream, block)
        else:
            self._put_headers(stream, block, END_STREAM)
            self._ended(stream)

    def reset(self, stream: int, code: Code) -> None:
        """Reset a stream that cannot be answered."""
        if stream in self._streams:
            self._forget(stream)
            self.out.append(reset(stream, code))
            self._resets += 1

    def expect(self, stream: int, size: int) -> None:
        """Allow the stream ``size`` more bytes, now or when other streams leave room."""
        known = self._streams.get(stream)
        if known is not None:
            self._intake.expect(stream, known, size)

    def release(self, stream: int, size: int) -> None:
        """Release ``size`` bytes of the stream's ``DATA``: the user has a whole message."""
        known = self._streams.get(stream)
        if known is not None:
            self._consumed += size
            self._intake.release(stream, known, size)

    def drain(self) -> None:
        """Ask the client to open no more streams; those that cross this message are processed (RFC 9113, 6.8)."""
        if not self._draining:
            self._draining = True
            self.out += (go_away(LARGEST_STREAM, Code.NO_ERROR), frame(F_PING, 0, 0, _FAREWELL))

    def close(self) -> None:
        """Send the client the number of the last stream that is answered."""
        if not self._closed:
            self._draining = self._closed = True
            self.out.append(go_away(self._last_taken, Code.NO_ERROR))

    # Reading.

    def _take_frames(self, data: bytes, at: int, events: list[Event]) -> None:
        unpack, memo, streams, end = FRAME.unpack_from, self._memo, self._streams, len(data)
        body: Buffer
        while at + 9 <= end and self._work < self._most_work:
            high, low, kind, flags, stream = unpack(data, at)
            length = high << 8 | low
            first = at + 9
            at = first + length
            if at > end:
                self._check_length(length)
                at = first - 9
                break
            if (
                kind == F_HEADERS
                and flags == END_HEADERS
                and self._plain
                and self._last_taken < stream <= LARGEST_STREAM
                and stream & 1
                and len(streams) < self._max_streams
                and not self._closed
            ):
                value = memo.get(data[first:at])
                if value is not None:
                    self._work += WORK_OF_REQUEST
                    self._last_taken = stream
                    self._idle_frames = 0
                    if at + 9 <= end:
                        high, low, kind, flags, again = unpack(data, at)
                        length = high << 8 | low
                        last = at + 9 + length
                        if kind == F_DATA and flags == END_STREAM and again == stream and last <= end:
                            self._check_length(length)
                            body = data[at + 9 : last] if length <= SMALL else memoryview(data)[at + 9 : last]
                            self._consumed += length
                            streams[stream] = None
                            at = last
                            events.append((REQUEST, stream, (value, body), True))
                            continue
                    streams[stream] = Stream(self._initial_window, receiving=True)
                    events.append((HEADERS, stream, value, False))
                    continue
            self._check_length(length)
            if kind == F_DATA and self._plain and stream in streams and not flags & PADDED and (length or flags):
                body = data[first:at] if length <= SMALL else memoryview(data)[first:at]
                self._work += 1
                self._take_data(stream, body, length, bool(flags & END_STREAM), events)
            else:
                self._take(kind, flags, stream & LARGEST_STREAM, data[first:at], events)
        if at < end:
            self._keep(data, at)
        self.partial = True if self._rest or self._gathering is not None or self._intake.held else False  # noqa: SIM210
        if self._consumed + self._intake.held > self._intake.most:
            raise Broken("more bytes than the connection's window", Code.FLOW_CONTROL_ERROR)
        if self._resets > _MOST_RESETS:
            raise Broken("a flood of streams that end before they are answered", Code.ENHANCE_YOUR_CALM)

    def _take_headers(self, stream: int, value: T, ended: bool, events: list[Event]) -> None:
        if stream > self._last_taken:
            if not stream & 1:
                raise Broken(f"stream {stream}, which a client cannot open")
            if self._closed:  # the client was informed by GOAWAY
                return
            self._last_taken = stream
            if len(self._streams) >= self._max_streams:
                self._work += WORK_OF_REQUEST
                self.out.append(reset(stream, Code.REFUSED_STREAM))
                self._resets += 1
                return
            self._idle_frames = 0
            self._work += WORK_OF_REQUEST
            self._streams[stream] = None if ended else Stream(self._initial_window, receiving=True)
            events.append((HEADERS, stream, value, ended))
            return
        if not ended:
            raise Broken(f"headers on stream {stream}, which is not new, that do not end it")
        if stream not in self._streams:  # trailers of a stream that was already answered
            return
        known = self._streams[stream]
        if known is None or not known.receiving:
            raise Broken(f"headers on stream {stream}, which the client has ended", Code.STREAM_CLOSED)
        self._idle_frames = 0
        known.receiving = False
        events.append((DATA, stream, b"", True))  # the trailers' contents are ignored

    def _take_data(self, stream: int, body: Buffer, size: int, ended: bool, events: list[Event]) -> None:
        if stream not in self._streams:
            if stream > self._last_taken and not self._closed:
                raise Broken(f"DATA on stream {stream}, which was never opened")
            self._consumed += size  # the stream was already answered
            return
        known = self._streams[stream]
        if known is None or not known.receiving:
            raise Broken(f"DATA on stream {stream}, which the client has ended", Code.STREAM_CLOSED)
        known.receiving = not ended
        self._intake.take(stream, known, len(body), size - len(body))
        self._consumed += size - len(body)
        if body or ended:
            self._idle_frames = 0
            events.append((DATA, stream, body, ended))

    def _take_reset(self, stream: int, code: int, events: list[Event]) -> None:
        if stream > self._last_taken and not self._closed:
            raise Broken(f"an RST_STREAM on stream {stream}, which was never opened")
        if stream in self._streams:
            self._forget(stream)
            self._resets += 1
            events.append((RESET, stream, code, True))

    def _take_setting(self, name: int, value: int) -> None:
        if name == S_ENABLE_PUSH and value > 1:
            raise Broken(f"SETTINGS_ENABLE_PUSH {value}")

    def _take_pong(self, payload: bytes) -> None:
        if payload == _FAREWELL and self._draining:
            self.close()

    def _outflow(self, stream: int) -> Outflow | None:
        if stream > self._last_taken and not self._closed:
            raise Broken(f"a WINDOW_UPDATE on stream {stream}, which was never opened")
        return self._known(stream)

    def _outflows(self) -> Iterable[Outflow]:
        return filter(None, self._streams.values())

    # Streams.

    def _known(self, stream: int) -> Stream | None:
        """The stream; None if it is not open."""
        known = self._streams.get(stream)
        if known is None and stream in self._streams:
            known = self._streams[stream] = Stream(self._initial_window, receiving=False)
        return known

    def _forget(self, stream: int) -> None:
        known = self._streams.pop(stream)
        if known is not None:
            self._sending.pop(stream, None)
            self.waiting -= sum(map(len, known.pieces))
            self._consumed += known.held
            self._intake.forget(known)

    def _ended(self, stream: int) -> None:
        known = self._streams[stream]
        was_receiving = known is not None and known.receiving
        self._forget(stream)
        if was_receiving:  # the rest of the request is useless
            self.out.append(reset(stream, Code.NO_ERROR))
        if self._resets:
            self._resets -= 1

    # Writing.

    def _put_headers(self, stream: int, block: bytes, flags: int = 0) -> None:
        self.out.append(frame(F_HEADERS, END_HEADERS | flags, stream, self._first + block))
        self._first = b""

    def _send(self) -> None:
        before = self._window
        super()._send()
        self.waiting -= before - self._window
