"""Header blocks as a server writes them: without a header table, so that a block fits any connection.

Source: RFC 7541.
"""

from __future__ import annotations

from functools import lru_cache

import hpack

from drumfire.sut.kserve.http2.frames import DEFAULT_FRAME, END_HEADERS, END_STREAM, F_HEADERS, Headers

_END_HEADERS_FRAME = bytes((F_HEADERS, END_HEADERS))
_END_STREAM_FRAME = bytes((F_HEADERS, END_HEADERS | END_STREAM))

_encoder = hpack.Encoder()
_encoder.header_table_size = 0
NO_TABLE = bytes(_encoder.encode(()))
"""Starts the first header block on a connection: tells the client that we use no header table."""


@lru_cache(256)
def header_block(headers: Headers) -> bytes:
    """Encode headers for any connection.  Raises ``ValueError`` if they are too long for one frame."""
    block = bytes(_encoder.encode(headers))
    if len(block) > DEFAULT_FRAME - len(NO_TABLE):
        raise ValueError(f"headers of {len(block)} bytes")
    return block


class Envelope:
    """Headers and trailers of answers that differ only in their bodies."""

    __slots__ = ("before", "behind", "head", "tail")

    def __init__(self, headers: Headers, trailers: Headers) -> None:
        self.head, self.tail = header_block(headers), header_block(trailers)
        self.before = len(self.head).to_bytes(3, "big") + _END_HEADERS_FRAME
        self.behind = len(self.tail).to_bytes(3, "big") + _END_STREAM_FRAME
