"""Assembles HTTP/1.1 messages from pieces of any size: finds the end of a head and of its body.

Does not depend on sockets or on which side sent the message.  Source: RFC 9112, 6 and 7.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import Generic, TypeVar

from drumfire.sut.kserve.errors import BodyTooLarge, HeadTooLarge, ProtocolError
from drumfire.sut.kserve.http1.head import VALUE, Head, check_octets, parse_field

Body = bytes | memoryview
"""From ``VIEW_FROM`` bytes on a read-only view, which saves a copy."""

VIEW_FROM = 32 << 10
MAX_CHUNK_LINE = 512
"""Limit in bytes of the line with a chunk's size and its extensions."""
_LINES_AT_ONCE = 4
"""Lines of chunked coding that one call of ``feed`` reads."""

_CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}})(?:[ \t]*;{VALUE.pattern})?")

AnyHead = TypeVar("AnyHead", bound=Head)


class MessageReader(Generic[AnyHead]):
    """Reads one message after another from pieces of any size, in time linear in the bytes.

    Holds at most ``max_head`` bytes of an incomplete head, or ``max_body`` bytes of an incomplete body and one line of
    chunked coding: ``MAX_CHUNK_LINE`` bytes of a size, or ``max_head`` of trailers.  Trailers are checked and dropped
    line by line; together they may have ``max_head`` bytes.
    """

    def __init__(self, parse: Callable[[bytes], AnyHead], noun: str, max_head: int, max_body: int) -> None:
        """``noun`` names a message in error texts."""
        self._parse, self._noun = parse, noun
        self._max_head, self._max_body = max_head, max_body
        self._partial_head = bytearray()
        self._body: _BodyReader | None = None
        self.raw_head = b""
        self.head: AnyHead | None = None
        """None until the head is complete."""

    @property
    def buffered(self) -> int:
        """Bytes held of an incomplete message."""
        return len(self._partial_head) + (self._body.buffered if self._body is not None else 0)

    @property
    def begun(self) -> bool:
        """Whether a message is incomplete, or complete and not taken."""
        return self._body is not None or bool(self._partial_head)

    def feed(self, data: bytes, at: int) -> int:
        """Read ``data[at:]``, at most to the message's end.  Returns where it stopped: a call takes little time, but
        for a large body.

        Raises ``ProtocolError``; the reader cannot be used after that.
        """
        body = self._body
        if body is None:
            at, raw = self._feed_head(data, at)
            if raw is None:
                return at
            body = self._body = self._begin_body(raw)
        return body.feed(data, at)

    def take(self) -> tuple[AnyHead, Body] | None:
        """The message, once, if it is complete."""
        if self._body is None or self._body.content is None or self.head is None:
            return None
        message = self.head, self._body.content
        self.head = self._body = None
        return message

    def drop(self) -> None:
        """Let go of an incomplete message."""
        self.head = self._body = None
        self._partial_head = bytearray()

    def end(self) -> None:
        """The peer has closed.  Raises ``ProtocolError`` if that cuts a message short."""
        if isinstance(self._body, _BodyUntilEnd):
            self._body.end()
        elif self._body is not None:
            raise ProtocolError(f"the connection was closed within a {self._noun}'s body, after {self._body.progress}")
        elif self._partial_head:
            raise ProtocolError(
                f"the connection was closed within a {self._noun}'s head, after {len(self._partial_head)} bytes"
            )

    def _feed_head(self, data: bytes, at: int) -> tuple[int, bytes | None]:
        """Where reading stopped, and the head if it is complete."""
        kept = len(self._partial_head)
        if not kept:
            end = data.find(b"\r\n\r\n", at, at + self._max_head) + 4
            if end >= 4:
                return end, data[at:end]
        self._partial_head += memoryview(data)[at : at + self._max_head - kept]
        end = self._partial_head.find(b"\r\n\r\n", max(0, kept - 3)) + 4
        if end >= 4:
            raw = bytes(self._partial_head[:end])
            self._partial_head.clear()
            return at + end - kept, raw
        # Refuse bad bytes at once: a peer of another protocol may never send an empty line.
        check_octets(self._partial_head, max(0, kept - 1))
        if len(self._partial_head) == self._max_head:
            raise HeadTooLarge(
                f"a {self._noun}'s head is over {self._max_head} bytes (max_head): {kept + len(data) - at} received"
            )
        return len(data), None

    def _begin_body(self, raw: bytes) -> _BodyReader:
        self.raw_head = raw
        self.head = head = self._parse(raw)
        if head.body_length is not None:
            _check_size(self._noun, head.body_length, self._max_body)
            return _SizedBody(head.body_length)
        if head.chunked:
            return _ChunkedBody(self._noun, self._max_body, self._max_head)
        return _BodyUntilEnd(self._noun, self._max_body)


class _BodyReader(ABC):
    content: Body | None
    """The body, once it is complete."""
    _collected: bytearray

    @property
    def buffered(self) -> int:
        return len(self._collected)

    @property
    @abstractmethod
    def progress(self) -> str: ...

    @abstractmethod
    def feed(self, data: bytes, at: int) -> int: ...


class _SizedBody(_BodyReader):
    # A growing bytearray is faster than joining the pieces at the end (each piece's memory is reused for the next while
    # it is still in the processor's cache), and unlike a preallocated one it holds only the bytes that have arrived.

    def __init__(self, size: int) -> None:
        self.content: Body | None = None
        self._size = self._left = size
        self._collected = bytearray()

    @property
    def progress(self) -> str:
        return f"{len(self._collected)} bytes of {self._size}"

    def feed(self, data: bytes, at: int) -> int:
        end, size = at + self._left, len(data)
        if not self._collected and end <= size:
            self.content = data[at:end] if end - at < VIEW_FROM else memoryview(data)[at:end]
            return end
        self._collected += memoryview(data)[at:end]
        if end > size:
            self._left = end - size
            return size
        self.content = _as_body(self._collected)
        return end


class _BodyUntilEnd(_BodyReader):
    def __init__(self, noun: str, max_body: int) -> None:
        self.content: Body | None = None
        self._noun, self._max_body = noun, max_body
        self._collected = bytearray()

    @property
    def progress(self) -> str:
        return f"{len(self._collected)} bytes"

    def feed(self, data: bytes, at: int) -> int:
        _check_size(self._noun, len(self._collected) + len(data) - at, self._max_body)
        self._collected += memoryview(data)[at:]
        return len(data)

    def end(self) -> None:
        self.content = _as_body(self._collected)


class _Line(Enum):
    """The kind of the next line of a chunked body."""

    SIZE = auto()
    CHUNK_END = auto()
    TRAILER = auto()


class _ChunkedBody(_BodyReader):
    def __init__(self, noun: str, max_body: int, max_trailers: int) -> None:
        self.content: Body | None = None
        self._noun, self._max_body = noun, max_body
        self._trailers_left = max_trailers
        self._collected = bytearray()
        self._chunk_left = self._chunks = 0
        self._next = _Line.SIZE
        self._partial_line = bytearray()

    @property
    def buffered(self) -> int:
        return len(self._collected) + len(self._partial_line)

    @property
    def progress(self) -> str:
        return f"{len(self._collected)} bytes without a last chunk"

    def feed(self, data: bytes, at: int) -> int:
        size, lines = len(data), 0
        while at < size and self.content is None and lines < _LINES_AT_ONCE:
            if self._chunk_left:
                end = min(size, at + self._chunk_left)
                self._collected += memoryview(data)[at:end]
                self._chunk_left -= end - at
                at = end
            else:
                at = self._feed_line(data, at)
                lines += 1
        return at

    def _feed_line(self, data: bytes, at: int) -> int:
        longest = {_Line.SIZE: MAX_CHUNK_LINE, _Line.CHUNK_END: 2, _Line.TRAILER: self._trailers_left}[self._next]
        stop = at + longest - len(self._partial_line)
        end = data.find(b"\n", at, stop) + 1
        if not end:
            self._partial_line += memoryview(data)[at:stop]
            if stop <= len(data):
                raise ProtocolError(f"chunked {self._noun}: {_TOO_LONG[self._next]}")
            return len(data)
        line = bytes(self._partial_line) + data[at:end]
        self._partial_line.clear()
        if not line.endswith(b"\r\n"):
            raise ProtocolError(f"chunked {self._noun}: a line ends in LF without CR")
        self._take_line(line[:-2].decode("latin-1"))
        return end

    def _take_line(self, line: str) -> None:
        if self._next is _Line.SIZE:
            matched = _CHUNK_LINE.fullmatch(line)
            if matched is None:
                raise ProtocolError(f"chunked {self._noun}: not a chunk's size: {line[:60]!r}")
            self._chunk_left = int(matched[1], 16)
            size = len(self._collected) + self._chunk_left
            _check_size(self._noun, size, self._max_body)
            self._chunks += self._chunk_left > 0
            if self._chunks > _MOST_CHUNKS and size < self._chunks * _LEAST_CHUNK:
                short = f"{self._chunks} chunks of less than {_LEAST_CHUNK} bytes each"
                raise ProtocolError(f"chunked {self._noun}: {short}")
            self._next = _Line.CHUNK_END if self._chunk_left else _Line.TRAILER
        elif self._next is _Line.CHUNK_END:
            if line:
                raise ProtocolError(f"chunked {self._noun}: {_TOO_LONG[self._next]}")
            self._next = _Line.SIZE
        elif line:
            parse_field(line)
            self._trailers_left -= len(line) + 2
        else:
            self.content = _as_body(self._collected)


_MOST_CHUNKS, _LEAST_CHUNK = 4096, 64
"""Beyond so many chunks they must be this long on average: each costs as much as a large one."""
_TOO_LONG = {
    _Line.SIZE: f"the line of a chunk's size is over {MAX_CHUNK_LINE} bytes",
    _Line.CHUNK_END: "a chunk is longer than its size says",
    _Line.TRAILER: "the trailers are over the limit of a head (max_head)",
}


def _as_body(collected: bytearray) -> Body:
    return bytes(collected) if len(collected) < VIEW_FROM else memoryview(collected).toreadonly()


def _check_size(noun: str, size: int, max_body: int) -> None:
    if size > max_body:
        fix = ": raise --max-message-size" if noun == "reply" else ""
        raise BodyTooLarge(f"a {noun} of {size} bytes or more; at most {max_body} are accepted{fix}")
